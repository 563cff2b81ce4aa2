"""Operations in C that treat each element alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .formulas import Operation, Unknown, apply, like
from .loops import Array, Steps

aten = torch.ops.aten


def _formula(text: str) -> Operation:
    """An operation that is one formula of its arguments."""

    def operation(steps: Steps, out: Array, *values: Any) -> None:
        apply(steps, out, text, *values)

    return operation


def _question(text: str) -> Operation:
    """An operation that compares its arguments, in the type that they have in common."""

    def operation(steps: Steps, out: Array, *values: Any) -> None:
        apply(steps, out, text, *values, dtype=_common(values))

    return operation


def _common(values: Sequence[Any]) -> torch.dtype:
    """The type to which arrays and numbers are promoted, as torch does it."""
    examples = [
        torch.empty([1] * bool(v.shape), dtype=v.dtype) if isinstance(v, Array) else v
        for v in values
    ]
    first, *others = examples
    dtype = first.dtype if isinstance(first, torch.Tensor) else None
    for other in others:
        dtype = torch.result_type(first, other)
        first = torch.empty([1], dtype=dtype)
    return dtype or torch.float64


def _sum_with(sign: str) -> Operation:
    def operation(steps: Steps, out: Array, a: Any, b: Any, *, alpha: float = 1) -> None:
        text = f"{{0}} {sign} {{1}}" if alpha == 1 else f"{{0}} {sign} {{1}} * {{2}}"
        apply(steps, out, text, a, b, *([alpha] if alpha != 1 else []))

    return operation


def _rsub(steps: Steps, out: Array, a: Any, b: Any, alpha: float = 1) -> None:
    _sum_with("-")(steps, out, b, a, alpha=alpha)


# Powers that are products, as torch computes them.
_POWERS = {
    2: "{0} * {0}",
    3: "{0} * {0} * {0}",
    0.5: "sqrt@@({0})",
    -0.5: "1 / sqrt@@({0})",
    -1: "1 / {0}",
    -2: "1 / ({0} * {0})",
    1: "{0}",
    0: "1",
}


def _power(steps: Steps, out: Array, base: Any, exponent: Any) -> None:
    if not isinstance(exponent, Array) and exponent in _POWERS:
        values = [base] if exponent else []
        return apply(steps, out, _POWERS[exponent], *values)
    return apply(steps, out, "pow@@({0}, {1})", base, exponent)


def _not(steps: Steps, out: Array, x: Array) -> None:
    apply(steps, out, "!{0}" if x.dtype == torch.bool else "~{0}", x)


def _clamp(steps: Steps, out: Array, x: Array, least: Any = None, most: Any = None) -> None:
    # A NaN is neither below nor above: it stays, as torch has it.
    if least is not None:
        apply(steps, out, "{0} < {1} ? {1} : {0}", x, least)
        x = out
    if most is not None:
        apply(steps, out, "{0} > {1} ? {1} : {0}", x, most)


def _polygamma(steps: Steps, out: Array, order: int, x: Array) -> None:
    if order < 2:
        return apply(steps, out, "trigamma({0})" if order else "digamma({0})", x)
    factor = float(math.factorial(order)) * (1 if order % 2 else -1)
    return apply(steps, out, "{0} * zeta({1}, {2})", factor, order + 1, x)


def _xlogy(steps: Steps, out: Array, x: Any, y: Any) -> None:
    log = like(steps, out)
    apply(steps, log, "log@@({0})", y)
    apply(steps, out, "{0} == 0 && {2} == {2} ? 0 : {0} * {1}", x, log, y)


def _xlog1py(steps: Steps, out: Array, x: Any, y: Any) -> None:
    log = like(steps, out)
    apply(steps, log, "log1p@@({0})", y)
    apply(steps, out, "{0} == 0 && {2} == {2} ? 0 : {0} * {1}", x, log, y)


def _softplus(steps: Steps, out: Array, x: Array, beta: float = 1, threshold: float = 20) -> None:
    log = like(steps, out)
    apply(steps, log, "exp@@({0} * {1})", x, beta)
    apply(steps, log, "log1p@@({0})", log)
    apply(steps, out, "{0} * {2} > {3} ? {0} : {1} / {2}", x, log, beta, threshold)


def _softplus_backward(
    steps: Steps, out: Array, slope: Array, x: Array, beta: float, threshold: float
) -> None:
    power = like(steps, out)
    apply(steps, power, "exp@@({0} * {1})", x, beta)
    text = "{1} * {3} > {4} ? {0} : {0} * {2} / ({2} + 1)"
    apply(steps, out, text, slope, x, power, beta, threshold)


def _sigmoid(steps: Steps, out: Array, x: Array) -> None:
    power = like(steps, out)
    apply(steps, power, "exp@@(-{0})", x)
    apply(steps, out, "1 / (1 + {0})", power)


def _log_sigmoid(steps: Steps, outs: Sequence[Array], x: Array) -> None:
    out, power = outs
    if power.shape != x.shape:
        power = like(steps, out)
    apply(steps, power, "exp@@(-fabs@@({0}))", x)
    log = like(steps, out)
    apply(steps, log, "log1p@@({0})", power)
    apply(steps, out, "({0} < 0 ? {0} : ({0} != {0} ? {0} : 0)) - {1}", x, log)


def _log_sigmoid_backward(steps: Steps, out: Array, slope: Array, x: Array, power: Array) -> None:
    if power.shape != x.shape:
        power = like(steps, out)
        apply(steps, power, "exp@@(-fabs@@({0}))", x)
    share = "{2} / (1 + {2})"
    apply(steps, out, f"{{0}} * ({{1}} < 0 ? 1 - {share} : {share})", slope, x, power)


def _cross_entropy(
    steps: Steps,
    out: Array,
    x: Array,
    target: Array,
    weight: Any = None,
    positive: Any = None,
    reduction: int = 1,
) -> None:
    """Of logits; without weights, and without a mean over all."""
    if weight is not None or positive is not None or reduction == 1:
        raise Unknown("a weighted cross entropy")
    log = steps.new(out.dtype, x.shape)
    apply(steps, log, "exp@@(-fabs@@({0}))", x)
    apply(steps, log, "log1p@@({0})", log)
    # (1 - target) x - log sigmoid(x)
    text = "(1 - {1}) * {0} - (({0} < 0 ? {0} : ({0} != {0} ? {0} : 0)) - {2})"
    apply(steps, out, text, x, target, log, adds=reduction == 2)


def _quotient(
    steps: Steps, out: Array, a: Any, b: Any, *, rounding_mode: str | None = None
) -> None:
    """a / b, rounded down (`floor`), to zero (`trunc`) or not at all."""
    apply(steps, out, _QUOTIENTS[rounding_mode, out.dtype.is_floating_point], a, b)


# By how they round, and whether of floating point; nothing is divided by a whole zero.
_REST = "({1} == 0 ? 0 : {0} % {1})"
_QUOTIENTS = {
    (None, True): "{0} / {1}",
    ("trunc", True): "trunc@@({0} / {1})",
    ("trunc", False): "{1} == 0 ? 0 : {0} / {1}",
    ("floor", True): "floored({0}, {1})",
    ("floor", False): f"{{1}} == 0 ? 0 : {{0}} / {{1}} - ({_REST} && ({{0}} < 0) != ({{1}} < 0))",
}


def _floor_quotient(steps: Steps, out: Array, a: Any, b: Any) -> None:
    _quotient(steps, out, a, b, rounding_mode="floor")


def _remainder(steps: Steps, out: Array, a: Any, b: Any) -> None:
    """What is left of a when b was taken off: of the sign of b."""
    whole = f"{_REST} + ({_REST} && ({{0}} < 0) != ({{1}} < 0) ? {{1}} : 0)"
    apply(steps, out, "rest({0}, {1})" if out.dtype.is_floating_point else whole, a, b)


def _fmod(steps: Steps, out: Array, a: Any, b: Any) -> None:
    """What is left of a when b was taken off: of the sign of a."""
    apply(steps, out, "fmod@@({0}, {1})" if out.dtype.is_floating_point else _REST, a, b)


def _masked_fill(steps: Steps, out: Array, x: Array, mask: Array, value: Any) -> None:
    apply(steps, out, "{1} ? {2} : {0}", x, mask, value)


def _gelu(steps: Steps, out: Array, x: Array, *, approximate: str = "none") -> None:
    if approximate != "none":
        raise Unknown("an approximate gelu")
    error = like(steps, out)
    apply(steps, error, "erf@@({0} * {1})", x, math.sqrt(0.5))
    apply(steps, out, "{1} * {0} * (1 + {2})", x, 0.5, error)


def _gelu_backward(
    steps: Steps, out: Array, slope: Array, x: Array, *, approximate: str = "none"
) -> None:
    if approximate != "none":
        raise Unknown("an approximate gelu")
    error, density = like(steps, out), like(steps, out)
    apply(steps, error, "erf@@({0} * {1})", x, math.sqrt(0.5))
    apply(steps, density, "exp@@({0} * {0} * {1})", x, -0.5)
    text = "{0} * ({4} * (1 + {2}) + {1} * {3} * {5})"
    root = 1 / math.sqrt(2 * math.pi)
    apply(steps, out, text, slope, x, error, density, 0.5, root)


def _log_add_exp(steps: Steps, out: Array, a: Array, b: Array) -> None:
    gap = like(steps, out)
    apply(steps, gap, "{0} == {1} ? 0 : -fabs@@({0} - {1})", a, b)
    apply(steps, gap, "exp@@({0})", gap)
    apply(steps, gap, "log1p@@({0})", gap)
    apply(steps, out, "({0} > {1} || {0} != {0} ? {0} : {1}) + {2}", a, b, gap)


_FORMULAS = {
    "-{0}": [aten.neg.default],
    "exp@@({0})": [aten.exp.default],
    "exp2@@({0})": [aten.exp2.default],
    "expm1@@({0})": [aten.expm1.default],
    "log@@({0})": [aten.log.default],
    "log2@@({0})": [aten.log2.default],
    "log10@@({0})": [aten.log10.default],
    "log1p@@({0})": [aten.log1p.default],
    "sqrt@@({0})": [aten.sqrt.default],
    "1 / sqrt@@({0})": [aten.rsqrt.default],
    "1 / {0}": [aten.reciprocal.default],
    "sin@@({0})": [aten.sin.default],
    "cos@@({0})": [aten.cos.default],
    "tan@@({0})": [aten.tan.default],
    "asin@@({0})": [aten.asin.default],
    "acos@@({0})": [aten.acos.default],
    "atan@@({0})": [aten.atan.default],
    "sinh@@({0})": [aten.sinh.default],
    "cosh@@({0})": [aten.cosh.default],
    "tanh@@({0})": [aten.tanh.default],
    "asinh@@({0})": [aten.asinh.default],
    "acosh@@({0})": [aten.acosh.default],
    "atanh@@({0})": [aten.atanh.default],
    "erf@@({0})": [aten.erf.default],
    "erfc@@({0})": [aten.erfc.default],
    "floor@@({0})": [aten.floor.default],
    "ceil@@({0})": [aten.ceil.default],
    "trunc@@({0})": [aten.trunc.default],
    "rint@@({0})": [aten.round.default],
    "fabs@@({0})": [aten.abs.default],
    "({0} > 0) - ({0} < 0)": [aten.sgn.default, aten.sign.default],
    "log_gamma({0})": [aten.lgamma.default],
    "digamma({0})": [aten.digamma.default],
    "bessel_i0({0})": [aten.i0.default, aten.special_modified_bessel_i0.default],
    "bessel_i0e({0})": [aten.special_i0e.default],
    "bessel_i1({0})": [aten.special_i1.default, aten.special_modified_bessel_i1.default],
    "bessel_i1e({0})": [aten.special_i1e.default],
    "bessel_k0({0})": [aten.special_modified_bessel_k0.default],
    "bessel_k1({0})": [aten.special_modified_bessel_k1.default],
    "erfcx({0})": [aten.special_erfcx.default],
    "erfinv({0})": [aten.erfinv.default],
    "log_ndtr({0})": [aten.special_log_ndtr.default],
    "ndtri({0})": [aten.special_ndtri.default],
    "gammainc({0}, {1})": [aten.igamma.default],
    "gammaincc({0}, {1})": [aten.igammac.default],
    "zeta({0}, {1})": [aten.special_zeta.default],
    "{0} < 0 ? 0 : {0}": [aten.relu.default],
    "{0}": [
        aten.clone.default,
        aten._to_copy.default,
        aten.alias.default,
        aten.lift_fresh_copy.default,
    ],
    "{0} * {1}": [aten.mul.Tensor, aten.mul.Scalar],
    "{0} / {1}": [aten.div.Tensor, aten.div.Scalar],
    "{0} > {1} || {0} != {0} ? {0} : {1}": [aten.maximum.default],
    "{0} < {1} || {0} != {0} ? {0} : {1}": [aten.minimum.default],
    "{0} != {0} || {1} > {0} ? {1} : {0}": [aten.fmax.default],
    "{0} != {0} || {1} < {0} ? {1} : {0}": [aten.fmin.default],
    "__builtin_copysign({0}, {1})": [aten.copysign.Tensor, aten.copysign.Scalar],
    "atan2@@({0}, {1})": [aten.atan2.default],
    "hypot@@({0}, {1})": [aten.hypot.default],
    "{0} ? {1} : {2}": [aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther],
    "{0} * {1} * (1 - {1})": [aten.sigmoid_backward.default],
    "{0} * (1 - {1} * {1})": [aten.tanh_backward.default],
    "{1} <= {2} ? 0 : {0}": [aten.threshold_backward.default],
}

_QUESTIONS = {
    "{0} >= {1}": [aten.ge.Scalar, aten.ge.Tensor],
    "{0} > {1}": [aten.gt.Scalar, aten.gt.Tensor],
    "{0} <= {1}": [aten.le.Scalar, aten.le.Tensor],
    "{0} < {1}": [aten.lt.Scalar, aten.lt.Tensor],
    "{0} == {1}": [aten.eq.Scalar, aten.eq.Tensor],
    "{0} != {1}": [aten.ne.Scalar, aten.ne.Tensor],
    "{0} && {1}": [aten.logical_and.default],
    "{0} || {1}": [aten.logical_or.default],
    "!{0} != !{1}": [aten.logical_xor.default],
    "{0} & {1}": [aten.bitwise_and.Tensor, aten.bitwise_and.Scalar],
    "{0} | {1}": [aten.bitwise_or.Tensor, aten.bitwise_or.Scalar],
    "{0} ^ {1}": [aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar],
    "{0} << {1}": [aten.__lshift__.Scalar, aten.bitwise_left_shift.Tensor],
    "{0} >> {1}": [aten.__rshift__.Scalar, aten.bitwise_right_shift.Tensor],
    "!{0}": [aten.logical_not.default],
    "!!__builtin_signbit((double){0})": [aten.signbit.default],
    "{0} != {0}": [aten.isnan.default],
}


OPERATIONS: Mapping[Any, Operation] = {
    **{op: _formula(text) for text, ops in _FORMULAS.items() for op in ops},
    **{op: _question(text) for text, ops in _QUESTIONS.items() for op in ops},
    **dict.fromkeys([aten.add.Tensor, aten.add.Scalar], _sum_with("+")),
    **dict.fromkeys([aten.sub.Tensor, aten.sub.Scalar], _sum_with("-")),
    **dict.fromkeys([aten.rsub.Scalar, aten.rsub.Tensor], _rsub),
    **dict.fromkeys([aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar], _power),
    aten.bitwise_not.default: _not,
    **dict.fromkeys([aten.clamp.default, aten.clamp.Tensor], _clamp),
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: lambda steps, out, x, most: _clamp(steps, out, x, None, most),
    **dict.fromkeys([aten.xlogy.Tensor, aten.xlogy.Scalar_Other], _xlogy),
    aten.xlogy.Scalar_Self: _xlogy,
    **dict.fromkeys([aten.div.Tensor_mode, aten.div.Scalar_mode], _quotient),
    **dict.fromkeys([aten.floor_divide.default, aten.floor_divide.Scalar], _floor_quotient),
    **dict.fromkeys([aten.remainder.Tensor, aten.remainder.Scalar], _remainder),
    **dict.fromkeys([aten.fmod.Tensor, aten.fmod.Scalar], _fmod),
    aten.special_xlog1py.default: _xlog1py,
    aten.polygamma.default: _polygamma,
    aten.softplus.default: _softplus,
    aten.softplus_backward.default: _softplus_backward,
    aten.sigmoid.default: _sigmoid,
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten.log_sigmoid_backward.default: _log_sigmoid_backward,
    aten.binary_cross_entropy_with_logits.default: _cross_entropy,
    **dict.fromkeys([aten.masked_fill.Scalar, aten.masked_fill.Tensor], _masked_fill),
    aten.gelu.default: _gelu,
    aten.gelu_backward.default: _gelu_backward,
    aten.logaddexp.default: _log_add_exp,
}
