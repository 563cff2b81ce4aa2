"""A tensor function recorded once as a flat graph of operations.

Pyro's effect handlers cost a millisecond an evaluation, the arithmetic of a small model tens of
microseconds; so they are paid once. Recording watches torch's dispatcher below autograd, so a
function may itself call `torch.autograd.grad` or `vmap`. What no input reaches is computed there
and then (folded), what does nothing is left out; random draws stay random. How a graph runs is
decided in `graphs.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..core import user_code

Function = Callable[..., tuple[Tensor, ...]]

aten = torch.ops.aten


class Unrecordable(RuntimeError):
    """The function does what a graph cannot repeat; `place` is the user's line, if it is known."""

    def __init__(self, what: str, place: str | None = None):
        super().__init__(f"{what}, {place}" if place else what)
        self.place = place


class _Call(NamedTuple):
    """One operation as it was dispatched; its tensors are kept alive, so that ids are unique."""

    function: Any
    args: tuple
    kwargs: dict
    out: Any
    place: str | None = None  # the user's line, of an operation that reads values

    @property
    def inputs(self) -> list[Tensor]:
        return _tensors((self.args, self.kwargs))

    @property
    def written(self) -> list[Tensor]:
        """The arguments that the operation changes in place."""
        schema = self.function._schema
        if not schema.is_mutable:
            return []
        named = {a.name: a for a in schema.arguments}
        given = {**dict(zip(named, self.args)), **self.kwargs}
        changed = [v for k, v in given.items() if (i := named[k].alias_info) and i.is_write]
        return _tensors(changed)

    @property
    def random(self) -> bool:
        return torch.Tag.nondeterministic_seeded in self.function.tags


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class _Recorder(TorchDispatchMode):
    """Writes down every operation that reaches the dispatcher."""

    def __init__(self):
        super().__init__()
        self.calls: list[_Call] = []
        # The memory of parameters: they may be lent other values for the time of a call.
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


def record(
    function: Function, inputs: Sequence[Tensor], live: Sequence[Tensor] = ()
) -> fx.GraphModule:
    """The operations of a function as a graph of the same arguments.

    Args:
        function: gives a tuple of tensors; its control flow must not depend on values.
        inputs: examples of its arguments.
        live: tensors that the function reads and that change between calls (parameters); they
            are further arguments of the graph.

    Raises:
        Unrecordable: it changes in place what it was given, or what it closes over.
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
# Operations that return their first argument where the second is this number.
_NEUTRAL = {
    aten.add.Tensor: 0,
    aten.add.Scalar: 0,
    aten.sub.Tensor: 0,
    aten.sub.Scalar: 0,
    aten.mul.Tensor: 1,
    aten.mul.Scalar: 1,
    aten.div.Tensor: 1,
    aten.div.Scalar: 1,
    aten.pow.Tensor_Scalar: 1,
}
_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_COMMUTES = {aten.add.Tensor, aten.mul.Tensor}
_SUMS = {aten.sum.default, aten.sum.dim_IntList}


class _Builder:
    """From dispatched operations to a graph without the superfluous ones.

    A tensor is *varying* when it has a node, and a constant otherwise. A constant is folded
    through, except where its storage is written to: it would drift from call to call.
    """

    def __init__(
        self, calls: Sequence[_Call], inputs: Sequence[Tensor], values: Mapping[int, Tensor]
    ):
        self.calls, self.values = calls, values
        self.module, self.graph = torch.nn.Module(), fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.constants: dict[int, fx.Node] = {}
        self.seen: dict[Any, _Call] = {}
        self.checks: set[int] = set()
        self.written = {_storage(t) for call in calls for t in call.written}
        for i, tensor in enumerate(inputs):
            self.nodes[id(tensor)] = self.graph.placeholder(f"input_{i}")
        made = {_storage(out) for call in calls for out in self._fresh(call)}
        if self.written - made:
            raise Unrecordable("it changes data in place")

    def _fresh(self, call: _Call) -> list[Tensor]:
        """The outputs of a call that lie in memory of their own."""
        given = {_storage(t) for t in call.inputs}
        return [out for out in _tensors(call.out) if _storage(out) not in given]

    def build(self, outputs: tuple[Tensor, ...]) -> fx.GraphModule:
        """The graph of the recorded calls that the outputs need, each thing computed once."""
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
        self._drop_unused()
        # Draws that nobody uses are outputs too: compilers would leave them out, and the draws
        # that follow would be others than the function's.
        last.args = ((*wanted, *(n for n in self.graph.nodes if _is_random(n) and not n.users)),)
        made = fx.GraphModule(self.module, self.graph)
        made.wanted = len(wanted)
        return made

    def _refuse_values(self, call: _Call) -> None:
        """A graph cannot repeat what reads a varying value, or whose shape depends on one.

        Raises:
            Unrecordable: with the operation.
        """
        varying = [t for t in call.inputs if id(t) in self.nodes]
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
        if call.random or any(_storage(out) in self.written for out in _tensors(call.out)):
            return False
        varying = any(id(t) in self.nodes for t in call.inputs)
        return not varying or call.function in _SHAPE_ONLY

    def _same_as(self, call: _Call) -> Tensor | None:
        """The varying tensor that the call merely repeats, if it does."""
        out = call.out
        if not isinstance(out, Tensor) or call.written or call.random:
            return None
        for tensor in call.inputs:
            if id(tensor) in self.nodes and _alias(tensor, out):
                return tensor
        if _storage(out) in self.written:
            return None
        same = self._neutral(call)
        return self._repeated(call) if same is None else same

    def _neutral(self, call: _Call) -> Tensor | None:
        """The argument that an operation with a neutral second one returns."""
        args = call.args
        if call.function in _SUMS:
            return args[0] if self._stands_for(args[0], call.out) else None
        if call.function not in _NEUTRAL or len(args) < 2 or call.kwargs:
            return None
        pairs = [args[:2], args[1::-1]] if call.function in _COMMUTES else [args[:2]]
        for kept, other in pairs:
            neutral = self._stands_for(kept, call.out)
            if neutral and self._is(other, _NEUTRAL[call.function]):
                return kept
        return None

    def _stands_for(self, kept: Any, out: Tensor) -> bool:
        """Whether a varying tensor can take the place of an equal one for good."""
        if not isinstance(kept, Tensor) or id(kept) not in self.nodes:
            return False
        return _alike(kept, out) and kept.stride() == out.stride() and not self._changes(kept)

    def _changes(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self.written

    def _is(self, value: Any, number: int) -> bool:
        if isinstance(value, Tensor):
            constant = id(value) not in self.nodes and _storage(value) not in self.written
            return constant and bool((self.values.get(id(value), value) == number).all())
        return value == number

    def _repeated(self, call: _Call) -> Tensor | None:
        """The result of an earlier call with the same arguments."""
        varying = [t for t in call.inputs if id(t) in self.nodes]
        if not varying or any(_storage(t) in self.written for t in call.inputs):
            return None
        arguments = tree_map(self._key, (call.args, call.kwargs))
        first = self.seen.setdefault((call.function, repr(arguments)), call)
        return None if first is call or not isinstance(first.out, Tensor) else first.out

    def _key(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return self.nodes[id(value)].name if id(value) in self.nodes else id(value)

    def _emit(self, call: _Call) -> None:
        args, kwargs = tree_map(self._reference, (tuple(call.args), call.kwargs))
        node = self.graph.call_function(call.function, args, kwargs)
        if isinstance(call.out, Tensor):
            self.nodes[id(call.out)] = node
        elif isinstance(call.out, list | tuple):
            for i, out in enumerate(call.out):
                self.nodes[id(out)] = self.graph.call_function(operator.getitem, (node, i))

    def _reference(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in self.nodes:
            return self.nodes[id(value)]
        if id(value) not in self.constants:
            self.constants[id(value)] = self._attribute(value)
        return self.constants[id(value)]

    def _attribute(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{len(list(self.module.buffers()))}"
        self.module.register_buffer(name, self.values.get(id(tensor), tensor.detach()))
        return self.graph.get_attr(name)

    def _drop_unused(self) -> None:
        for node in reversed(list(self.graph.nodes)):
            stays = node.op in ("placeholder", "output") or _has_effect(node)
            if not node.users and not stays:
                self.graph.erase_node(node)


def _has_effect(node: fx.Node) -> bool:
    """Whether a node writes to memory, or takes from the stream of random numbers."""
    called = isinstance(node.target, torch._ops.OpOverload)
    return called and (node.target._schema.is_mutable or _is_random(node))


def _is_random(node: fx.Node) -> bool:
    called = isinstance(node.target, torch._ops.OpOverload)
    return called and torch.Tag.nondeterministic_seeded in node.target.tags


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _alike(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.shape == b.shape and a.dtype == b.dtype


def _alias(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same memory, seen in the same way."""
    where = a.storage_offset() == b.storage_offset() and a.stride() == b.stride()
    return _alike(a, b) and where and _storage(a) == _storage(b)
