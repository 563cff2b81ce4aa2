"""Functions of each element: over all of their range, broadcast, and their gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from compared import ODD, agree, gradient

# Of one number.
UNARY = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "sgn": torch.sgn,
    "lgamma": torch.lgamma,
    "digamma": torch.digamma,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softplus_steep": partial(F.softplus, beta=3.0, threshold=5.0),
    "logsigmoid": F.logsigmoid,
    "gelu": F.gelu,
    "clamp": lambda x: x.clamp(-1.0, 2.0),
    "clamp_min": lambda x: x.clamp_min(0.5),
    "clamp_max": lambda x: x.clamp_max(0.5),
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "root": lambda x: x**0.5,
    "power": lambda x: x.abs() ** 1.7,
    "base": lambda x: 2.0**x,
    "isnan": lambda x: x.isnan().double(),
    "not": lambda x: (~(x > 0)).double(),
    "between": lambda x: ((x > -1) & (x <= 1)).double(),
    "either": lambda x: ((x < -1) | (x == 1) | (x != x)).double(),
    "rsub": lambda x: 1 - x,
    "scaled": lambda x: torch.add(x, x, alpha=2),
    "filled": lambda x: x.masked_fill(x < 0, 3.0),
    "remainder": lambda x: x % 0.7,
    "remainder_of_less": lambda x: x % -0.7,
    "fmod": lambda x: x.fmod(0.7),
    "quotient_down": lambda x: x.div(0.3, rounding_mode="floor"),
    "quotient_to_zero": lambda x: x.div(0.3, rounding_mode="trunc"),
    "signbit": lambda x: x.signbit().double(),
    "as_float": lambda x: x.float().double(),
}

# Of two.
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": lambda a, b: a.abs().pow(b),
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "copysign": torch.copysign,
    "xlogy": torch.special.xlogy,
    "xlog1py": torch.special.xlog1py,
    "logaddexp": torch.logaddexp,
    "where": lambda a, b: torch.where(a > b, a, b + 1),
    "equal": lambda a, b: (a == b).double(),
    "cross_entropy": lambda a, b: F.binary_cross_entropy_with_logits(
        a, b.expand(a.shape), reduction="none"
    ),
}

# Of two, of which torch's own vary with the processor where numbers are not normal.
DIVISIONS = {
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "quotient_down": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "quotient_to_zero": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("laid", ["one after another", "apart"])
def test_functions_of_one_number(dtype, laid):
    torch.manual_seed(0)
    x = torch.cat([torch.tensor(ODD), 3 * torch.randn(1000), torch.logspace(-20, 20, 41)])
    x = x.to(dtype)
    x = x if laid == "one after another" else torch.stack([x, x], 1)[:, 1]
    # Torch's own gelu of infinity is NaN in single precision.
    left_out = () if dtype == torch.float64 else ("as_float", "gelu")
    functions = {name: op for name, op in UNARY.items() if name not in left_out}
    agree(functions, x, within=1e-12 if dtype == torch.float64 else 2e-5)


def test_functions_of_two_numbers():
    torch.manual_seed(0)
    a = torch.tensor(ODD)[:, None].expand(len(ODD), len(ODD))
    agree(BINARY, a, torch.tensor(ODD)[None], within=1e-12)
    agree(BINARY | DIVISIONS, torch.randn(700, 3), torch.randn(3), within=1e-12)
    small = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.5, -0.25, float("inf"), float("nan")])
    agree(DIVISIONS, small[:, None].expand(8, 8), small[None], within=0)


def test_gradients():
    torch.manual_seed(0)
    alone = {name: gradient(op) for name, op in UNARY.items()}
    beside = {name: gradient(lambda x, op=op: op(x, x + 1)) for name, op in BINARY.items()}
    agree(alone | beside, torch.rand(700) * 0.9 + 0.05, within=1e-10)


def test_whole_numbers_and_answers_stay_what_they_are():
    count, flag = torch.arange(6), torch.tensor([True, False, True])
    functions = {
        "sum": lambda i, yes: i + 2,
        "mixed": lambda i, yes: i * 0.5,
        "answer": lambda i, yes: (i > 2) & (i != 4),
        "chosen": lambda i, yes: torch.where(yes, i[:3], -i[3:]),
        "negated": lambda i, yes: ~yes,
        "counted": lambda i, yes: yes.sum(),
        "remainder": lambda i, yes: (i - 3) % -4,
        "fmod": lambda i, yes: (i - 3).fmod(2),
        "quotient_down": lambda i, yes: (i - 3) // 2,
        "quotient_to_zero": lambda i, yes: (i - 3).div(2, rounding_mode="trunc"),
        "differ": lambda i, yes: yes ^ (i[:3] > 0),
        "shifted": lambda i, yes: (i << 2) >> 1,
        "largest": lambda i, yes: i.view(2, 3).amax(0),
        "folded": lambda i, yes: i.view(2, 3).cumprod(1).prod(0),
    }
    agree(functions, count, flag, within=0)
