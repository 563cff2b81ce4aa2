"""Operations that are composed of others, as torch itself writes them, or as we do here.

Torch has for some five hundred operations a function in terms of simpler ones, which its own
compiler uses. Such a function is run once on tensors that stand for the arrays, and what it does
is written down, operation by operation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .aten import address, tensors
from .compositions import COMPOSITIONS
from .formulas import OF_OUTPUT, UNFORESEEN, Operation, Unknown, apply, literal
from .loops import Array, Steps

aten = torch.ops.aten

# Elements of a constant that such a function may make.
_MOST = 64


def composed(function: Any, form: Callable[[Any], Operation]) -> Operation:
    """An operation by what it is composed of.

    Args:
        function: the operation.
        form: gives the form in C of others.

    Raises:
        Unknown: it is composed of none.
    """
    text = _composition(function)
    if text is None:
        raise Unknown(str(function))

    def write(steps: Steps, out: Any, *args: Any, **kwargs: Any) -> None:
        pen = _Pen(steps, form, function)
        given = pen.stand_ins((args, kwargs))
        with torch.no_grad(), pen:
            results = _call(text, *given)
        outs = [out] if isinstance(out, Array) else out
        for array, result in zip(outs, tensors(results), strict=True):
            apply(steps, array, "{0}", pen.array(result))

    return write


def _composition(function: Any) -> Callable[..., Any] | None:
    """The function in terms of simpler operations, where there is one."""
    known = COMPOSITIONS.get(function) or decomposition_table.get(function)
    if known is None and function._can_decompose():
        return function.decompose
    return known or getattr(function, "impl_aten", None)


def _call(text: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """What a composition gives.

    Raises:
        Unknown: it does not go through, or what it is composed of has no form in C.
    """
    try:
        return text(*args, **kwargs)
    except Unknown:
        raise
    except Exception as error:  # of torch's functions, for arguments that they do not foresee
        raise Unknown(f"a composition ({error})") from error


class _Pen(TorchDispatchMode):
    """Writes down the operations that torch runs, of tensors that stand for arrays.

    Args:
        steps: to which they are added.
        form: gives the form in C of an operation.
        function: what is composed; it must not be composed of itself.

    Attributes:
        memory: address of a tensor's memory to its name in C, and the element with which the
            tensor's memory begins there.
        kept: the tensors, kept alive so that their addresses are unique.
    """

    def __init__(self, steps: Steps, form: Callable[[Any], Operation], function: Any):
        super().__init__()
        self.steps, self.form = steps, form
        self.running = [function]
        self.memory: dict[int, tuple[str, int]] = {}
        self.kept: list[Tensor] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler (1.3 s) to keep it away from this class

    def stand_ins(self, tree: Any) -> Any:
        """Tensors of zeros in the place of arrays; those that share memory do so too."""
        arrays = [a for a in tree_leaves(tree, is_leaf=_is_array) if _is_array(a)]
        spaces = {
            name: self._space([a for a in arrays if a.memory == name])
            for name in {array.memory for array in arrays}
        }

        def stand_in(leaf: Any) -> Any:
            if not _is_array(leaf):
                return leaf
            space, low = spaces[leaf.memory]
            return space.as_strided(leaf.shape, leaf.strides, leaf.offset - low)

        return tree_map(stand_in, tree, is_leaf=_is_array)

    def _space(self, arrays: Sequence[Array]) -> tuple[Tensor, int]:
        """Memory that holds some arrays, and the element with which it begins."""
        low = min(a.offset for a in arrays)
        ends = [a.offset + sum((n - 1) * s for n, s in zip(a.shape, a.strides)) for a in arrays]
        space = torch.zeros(max(max(ends) + 1 - low, 0), dtype=arrays[0].dtype)
        self._name(space, arrays[0].memory, low)
        return space, low

    def _name(self, tensor: Tensor, name: str, low: int = 0) -> None:
        self.kept.append(tensor)
        self.memory[address(tensor)] = (name, low)

    def array(self, tensor: Tensor) -> Array:
        """The array that a tensor stands for; of what no operation made, a constant."""
        if address(tensor) not in self.memory:
            return self._constant(tensor)
        name, low = self.memory[address(tensor)]
        place = tensor.storage_offset() + low
        return Array(name, tensor.dtype, tuple(tensor.shape), tensor.stride(), place)

    def _constant(self, tensor: Tensor) -> Array:
        """A small array of known numbers.

        Raises:
            Unknown: it is not small.
        """
        if tensor.numel() > _MOST:
            raise Unknown("a large constant")
        array = self.steps.new(tensor.dtype, tensor.shape)
        flat = array._replace(shape=(tensor.numel(),), strides=(1,))
        values = enumerate(tensor.flatten().tolist())
        lines = [f"{flat.at([str(i)])} = {literal(v, tensor.dtype)};" for i, v in values]
        self.steps.lines("\n".join(lines), array)
        return array

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        given = {address(tensor) for tensor in tensors((args, kwargs))}
        changes = function._schema.is_mutable
        if not changes and all(address(tensor) in given for tensor in tensors(out)):
            return out
        before = len(self.steps.steps)
        try:
            self._write(function, out, args, kwargs)
        except UNFORESEEN as reason:
            del self.steps.steps[before:]
            text = _composition(function)
            if text is None or function in self.running or changes:
                raise Unknown(str(function)) from reason
            out = self._spell(function, text, args, kwargs)
        return out

    def _write(self, function: Any, out: Any, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """The steps of an operation that has a form in C.

        Raises:
            Unknown: it has none.
        """
        known = self.form(function)
        self.kept += tensors((args, kwargs))
        args, kwargs = tree_map(self._argument, (tuple(args), dict(kwargs)))
        for tensor in tensors(out):
            if address(tensor) not in self.memory:
                count = tensor.untyped_storage().nbytes() // tensor.element_size()
                self._name(tensor, self.steps.new(tensor.dtype, tensor.shape, count).memory)
        outs = [self.array(tensor) for tensor in tensors(out)]
        kwargs = {name: value for name, value in kwargs.items() if name not in OF_OUTPUT}
        known(self.steps, outs if isinstance(out, list | tuple) else outs[0], *args, **kwargs)

    def _argument(self, value: Any) -> Any:
        return self.array(value) if isinstance(value, Tensor) else value

    def _spell(
        self, function: Any, text: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]
    ) -> Any:
        """Run what an operation is composed of."""
        self.running.append(function)
        with self:
            out = _call(text, args, kwargs)
        self.running.pop()
        return out


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, Array)
