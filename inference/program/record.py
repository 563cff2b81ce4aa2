"""A tensor function recorded once as a flat graph of operations.

Pyro's effect handlers cost a millisecond an evaluation, the arithmetic of a small model tens of
microseconds; so they are paid once. Recording watches torch's dispatcher below autograd, so a
function may itself call `torch.autograd.grad` or `vmap`. What no input reaches is computed there
and then (folded), what does nothing is left out; random draws stay random. How a graph runs is
decided in `graphs.py`.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ..core import user_code
from ..native.aten import address, is_random, plain, tensors
from ..native.native import Native

Function = Callable[..., tuple[Tensor, ...]]
# Arguments of a function.
Inputs = Sequence[Tensor]

aten = torch.ops.aten


class Unrecordable(RuntimeError):
    """The function does what a graph cannot repeat.

    Attributes:
        place: the user's line where it does, if it is known.
    """

    def __init__(self, reason: str, place: str | None = None):
        super().__init__(f"{reason}, {place}" if place else reason)
        self.place = place


class _Call(NamedTuple):
    """One operation as it was dispatched; its tensors are kept alive, so that ids are unique.

    Attributes:
        function: the operation, an overload of torch's.
        args: its positional arguments, trees of tensors and plain values.
        kwargs: the others.
        out: what it gave: a tensor, several, or a plain value.
        place: the user's line, of an operation that reads values.
    """

    function: Any
    args: tuple
    kwargs: dict
    out: Any
    place: str | None = None

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors among its arguments."""
        return tensors((self.args, self.kwargs))

    @property
    def written(self) -> list[Tensor]:
        """The arguments that the operation changes in place."""
        schema = self.function._schema
        if not schema.is_mutable:
            return []
        named = {a.name: a for a in schema.arguments}
        given = {**dict(zip(named, self.args)), **self.kwargs}
        changed = [v for k, v in given.items() if (i := named[k].alias_info) and i.is_write]
        return tensors(changed)


class _Recorder(TorchDispatchMode):
    """Writes down every operation that reaches the dispatcher.

    Attributes:
        calls: the operations in their order.
        values: id of a parameter to the memory that it had: it may be lent other values for the
            time of a call.
    """

    def __init__(self):
        super().__init__()
        self.calls: list[_Call] = []
        self.values: dict[int, Tensor] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler (1.3 s) to keep it away from this class

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        out = function(*args, **(kwargs or {}))
        place = user_code.here() if _READS & set(function.tags) else None
        self.calls.append(_Call(function, args, kwargs or {}, out, place))
        for tensor in self.calls[-1].inputs:
            if isinstance(tensor, torch.nn.Parameter):
                self.values.setdefault(id(tensor), tensor.detach())
        return out


def record(function: Function, inputs: Inputs, live: Inputs = ()) -> fx.GraphModule:
    """The operations of a function as a graph of the same arguments.

    Args:
        function: gives a tuple of tensors; its control flow must not depend on values.
        inputs: examples of its arguments.
        live: tensors that the function reads and that change between calls (parameters); they
            are further arguments of the graph.

    Returns:
        The graph as a module that gives the function's tensors and then, beyond `meta["wanted"]`
        of them, random draws that nobody uses.

    Raises:
        Unrecordable: it changes in place what it was given, or what it closes over; a branch or a
            shape depends on a value.
    """
    recorder = _Recorder()
    with recorder:
        outputs = function(*inputs)
    return _Builder(recorder.calls, [*inputs, *live], recorder.values).build(outputs)


# Operations that look at the shape of their tensors alone.
_SHAPE_ONLY = {
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
}
# Operations that take the shape of a tensor alone to those that are given it.
_EMPTY = (aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default)
_OF_SHAPE = {
    **dict.fromkeys(_EMPTY, aten.empty.memory_format),
    aten.randn_like.default: aten.randn.default,
    aten.rand_like.default: aten.rand.default,
}
# Operations that return their first argument where the second is this number.
_SUMS_OF_TWO = (aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar)
_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
_NEUTRAL = dict.fromkeys(_SUMS_OF_TWO, 0) | dict.fromkeys([*_PRODUCTS, aten.pow.Tensor_Scalar], 1)
# Of operations that read values, or whose result has a shape that depends on them.
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_COMMUTES = {aten.add.Tensor, aten.mul.Tensor}
_SUMS = {aten.sum.default, aten.sum.dim_IntList}


class _Builder:
    """From dispatched operations to a graph without the superfluous ones.

    A tensor is *varying* when it has a node, and a constant otherwise. A constant is folded
    through, except where its storage is written to: it would drift from call to call.

    Args:
        calls: the operations in their order.
        inputs: the tensors that are the arguments of the graph.
        values: id of a parameter to its memory (see `_Recorder`).

    Attributes:
        nodes: id of a varying tensor to its node.
        constants: id of a constant that is used to its node.
        checks: ids of what tells whether a distribution's value is valid.
        written: the memory that some operation changes in place.

    Raises:
        Unrecordable: memory is written to that no operation made.
    """

    def __init__(self, calls: Sequence[_Call], inputs: Inputs, values: Mapping[int, Tensor]):
        self.calls, self.values = calls, values
        self.module, self.graph = torch.nn.Module(), fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.constants: dict[int, fx.Node] = {}
        self.checks: set[int] = set()
        self.written = {address(t) for call in calls for t in call.written}
        for i, tensor in enumerate(inputs):
            self.nodes[id(tensor)] = self.graph.placeholder(f"input_{i}")
        made = {address(out) for call in calls for out in self._fresh(call)}
        if self.written - made:
            raise Unrecordable("it changes data in place")

    def _fresh(self, call: _Call) -> list[Tensor]:
        """The outputs of a call that lie in memory of their own."""
        given = {address(t) for t in call.inputs}
        return [out for out in tensors(call.out) if address(out) not in given]

    def _varies(self, value: Any) -> bool:
        """Whether a value is a tensor that depends on the inputs."""
        return isinstance(value, Tensor) and id(value) in self.nodes

    def _is_written(self, *some: Tensor) -> bool:
        """Whether an operation changes one of the tensors in place."""
        return any(address(tensor) in self.written for tensor in some)

    def build(self, outputs: tuple[Tensor, ...]) -> fx.GraphModule:
        """The graph of the recorded calls that the outputs need."""
        for call in self.calls:
            self._refuse_values(call)
            if self._folds(call):
                continue
            same = self._same_as(call)
            if same is not None:
                self.nodes[id(call.out)] = self.nodes[id(same)]
            else:
                self._emit(call)
        wanted = tuple(self._reference(out) for out in outputs)
        last = self.graph.output(wanted)
        self.graph.eliminate_dead_code(_stays)
        # Draws that nobody uses are outputs too: compilers would leave them out, and the draws
        # that follow would be others than the function's.
        unused = [n for n in self.graph.nodes if is_random(n.target) and not n.users]
        last.args = ((*wanted, *unused),)
        graph = fx.GraphModule(self.module, self.graph)
        graph.meta["wanted"] = len(wanted)
        return graph

    def _refuse_values(self, call: _Call) -> None:
        """A graph cannot repeat what reads a varying value, or whose shape depends on one.

        Raises:
            Unrecordable: with the operation.
        """
        varying = [t for t in call.inputs if self._varies(t)]
        if call.function is aten._is_all_true.default:
            self.checks.add(id(call.out))
        if any(id(t) in self.checks for t in varying):
            return  # a distribution checks its value, and goes on
        if call.function is aten.index.Tensor:  # of whole numbers it has a shape of its own
            reads = any(t.dtype in (torch.bool, torch.uint8) for t in varying)
        else:
            reads = bool(_READS & set(call.function.tags))
        if varying and reads:
            raise Unrecordable("a branch or a shape depends on a value", call.place)

    def _folds(self, call: _Call) -> bool:
        """Whether the result is the same in every call of the graph."""
        if is_random(call.function) or self._is_written(*tensors(call.out)):
            return False
        return call.function in _SHAPE_ONLY or not any(map(self._varies, call.inputs))

    def _same_as(self, call: _Call) -> Tensor | None:
        """The varying tensor that the call merely repeats, if it does."""
        out = call.out
        if not isinstance(out, Tensor) or call.written or is_random(call.function):
            return None
        for tensor in call.inputs:
            if self._varies(tensor) and _alias(tensor, out):
                return tensor
        if self._is_written(out):
            return None
        return self._neutral(call)

    def _neutral(self, call: _Call) -> Tensor | None:
        """The argument that an operation with a neutral second one returns."""
        args = call.args
        if call.function in _SUMS:
            return args[0] if self._stands_for(args[0], call.out) else None
        if call.function not in _NEUTRAL or len(args) < 2 or call.kwargs:
            return None
        pairs = [args[:2], args[1::-1]] if call.function in _COMMUTES else [args[:2]]
        for first, second in pairs:
            neutral = self._stands_for(first, call.out)
            if neutral and self._is(second, _NEUTRAL[call.function]):
                return first
        return None

    def _stands_for(self, value: Any, out: Tensor) -> bool:
        """Whether a varying tensor can take the place of an equal one for good."""
        if not self._varies(value) or self._is_written(value):
            return False
        return _alike(value, out)

    def _is(self, value: Any, number: int) -> bool:
        """Whether a value is a constant, all of whose elements are this number."""
        if not isinstance(value, Tensor):
            return value == number
        if self._varies(value) or self._is_written(value):
            return False
        return bool((self.values.get(id(value), value) == number).all())

    def _emit(self, call: _Call) -> None:
        """Put a call into the graph, and give its outputs nodes."""
        args, kwargs = tree_map(self._reference, (tuple(call.args), call.kwargs))
        function = call.function
        if function in _OF_SHAPE and call.out.is_contiguous():
            function, args = _OF_SHAPE[function], (list(call.out.shape),)
            kwargs = {"dtype": call.out.dtype, "device": call.out.device}
        if torch.Tag.inplace_view in function.tags:
            function = plain(function)
        node = self.graph.call_function(function, args, kwargs)
        if isinstance(call.out, Tensor):
            self.nodes[id(call.out)] = node
        elif isinstance(call.out, list | tuple):
            for i, out in enumerate(call.out):
                self.nodes[id(out)] = self.graph.call_function(operator.getitem, (node, i))

    def _reference(self, value: Any) -> Any:
        """What stands for an argument in the graph: a node; of what is no tensor, itself."""
        if not isinstance(value, Tensor):
            return value
        if self._varies(value):
            return self.nodes[id(value)]
        if id(value) not in self.constants:
            self.constants[id(value)] = self._attribute(value)
        return self.constants[id(value)]

    def _attribute(self, tensor: Tensor) -> fx.Node:
        """The node of a constant, kept in the graph's module."""
        name = f"constant_{len(list(self.module.buffers()))}"
        self.module.register_buffer(name, self.values.get(id(tensor), tensor.detach()))
        return self.graph.get_attr(name)


def _stays(node: fx.Node) -> bool:
    """Whether a node has an effect though nobody uses it: it writes to memory, or is random."""
    if node.op in ("placeholder", "output") or is_random(node.target):
        return True
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape, strides and number type."""
    return a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _alias(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same memory, seen in the same way."""
    same_place = a.storage_offset() == b.storage_offset() and address(a) == address(b)
    return same_place and _alike(a, b)


class Recorded:
    """A graph that can be called like its function; its outputs carry no gradient.

    Args:
        run: the graph in a form that runs.
        live: what it takes beside its arguments.
        wanted: so many of the graph's outputs are the function's.
        by_torch: names of the operations that are not compiled though others are.
    """

    def __init__(
        self,
        run: Callable[..., Sequence[Tensor]],
        live: Sequence[Any],
        wanted: int,
        by_torch: Sequence[str] = (),
    ):
        self.run, self.live, self.wanted, self.by_torch = run, live, wanted, by_torch

    @property
    def is_native(self) -> bool:
        """Whether some of it is compiled code."""
        return any(isinstance(part, Native) for part in (self.run, *self.live))

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.run(*arguments, *self.live)[: self.wanted])
