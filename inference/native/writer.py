"""From operations of torch to C: a run of them becomes the body of one function.

What torch gives for examples tells shapes and strides, and which tensors are views of which.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from .aten import address, is_random, tensors
from .formulas import OF_OUTPUT, UNFORESEEN, Unknown
from .loops import TYPES, Array, Steps, contiguous, source
from .operations import operation

aten = torch.ops.aten

_SIGNATURE = "void {}(void *const *given, void *const *results, char *scratch) {{"

# Memory whose layout the graph itself asks for, and relies on.
_LAID_OUT = (aten.empty_strided.default, aten.new_empty_strided.default)

# Node of a graph to what torch gives there for an example.
Values = Mapping[fx.Node, Any]


def run_once(
    graph: fx.GraphModule, inputs: Sequence[Tensor]
) -> tuple[dict[fx.Node, Any], dict[fx.Node, Unknown]]:
    """What torch gives at each node; all stay alive, so that no two have one address.

    Args:
        graph: as it was recorded.
        inputs: examples of its arguments.

    Returns:
        Node to its value, and those whose operation has no form in C to the reason why.
    """
    values: dict[fx.Node, Any] = {}
    unknown: dict[fx.Node, Unknown] = {}
    arguments = iter(_apart(inputs))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(arguments)
            elif node.op == "get_attr":
                values[node] = getattr(graph, str(node.target))
            elif node.op == "call_function":
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = _value(node, args, kwargs)
                try:
                    _try(node, values)
                except Unknown as reason:
                    unknown[node] = reason
    return values, unknown


def _value(node: fx.Node, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What torch gives at a node; where it is no view any more, of a copy.

    Arrays that C makes may be laid out in another way than when the graph was recorded.
    """
    try:
        return node.target(*args, **kwargs)
    except RuntimeError:
        if node.target is not aten.view.default:
            raise
    node.target = aten.reshape.default
    return node.target(*args, **kwargs)


def _apart(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The inputs, in memory of its own each: what they share now they may not share later."""
    return [tensor.detach().clone(memory_format=torch.preserve_format) for tensor in inputs]


def _try(node: fx.Node, values: dict[fx.Node, Any]) -> None:
    """Write one node's operation, its results laid out one element after another as in C.

    Raises:
        Unknown: it has no form in C.
    """
    if is_view(node, values) or node.target is operator.getitem:
        return
    trial = Writer({base: values[base] for base in (*node.all_input_nodes, node)})
    for base in node.all_input_nodes:
        for tensor in tensors(values[base]):
            trial.give(tensor)
    trial.write(node)
    if not changes(node) and node.target not in _LAID_OUT:
        values[node] = tree_map(_contiguous, values[node])


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


def is_view(node: fx.Node, values: Values) -> bool:
    """Whether a node gives but memory that it takes, unchanged, seen in another way."""
    if node.op != "call_function" or changes(node):
        return False
    if node.target is operator.getitem:
        return is_view(node.args[0], values)
    given = {address(t) for base in node.all_input_nodes for t in tensors(values[base])}
    found = tensors(values[node])
    return bool(found) and all(address(tensor) in given for tensor in found)


def changes(node: fx.Node) -> bool:
    """Whether an operation works in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def changed(values: Values) -> set[int]:
    """Addresses of the memory that some node changes in place."""
    return {address(t) for node in values if changes(node) for t in tensors(values[node])}


class Writer:
    """Writes down what some nodes of a graph do, in C.

    Args:
        values: what torch gives at each node, for an example.

    Attributes:
        steps: what has been written.
        changed: addresses of the memory that some node changes in place.
        given: how many tensors the function is given.
        memory: address of some memory to its name in C, and the element with which it begins.
    """

    def __init__(self, values: Values):
        self.values = values
        self.changed = changed(values)
        self.steps = Steps()
        self.given = 0
        self.memory: dict[int, tuple[str, int]] = {}

    def give(self, tensor: Tensor) -> None:
        """A tensor is the next of those that the function is given.

        Raises:
            Unknown: its numbers are of a type that C has not.
        """
        _check(tensor)
        self.memory.setdefault(address(tensor), (f"given{self.given}", tensor.storage_offset()))
        self.given += 1

    def array(self, tensor: Tensor) -> Array:
        """A tensor in memory that has a name."""
        name, start = self.memory[address(tensor)]
        place = tensor.storage_offset() - start
        return Array(name, tensor.dtype, tuple(tensor.shape), tensor.stride(), place)

    def write(self, node: fx.Node) -> None:
        """The steps of a node's operation, if it does more than see memory in another way.

        Raises:
            Unknown: it has no form in C.
        """
        value = self.values[node]
        if is_view(node, self.values) or node.target is operator.getitem:
            return
        if not tensors(value) or is_random(node.target):
            raise Unknown(str(node.target))
        for tensor in tensors(value):
            if address(tensor) not in self.memory:
                self._make(tensor)
        arrays = [self.array(tensor) for tensor in tensors(value)]
        out = arrays if isinstance(value, list | tuple) else arrays[0]
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self._argument)
        kwargs = {name: value for name, value in kwargs.items() if name not in OF_OUTPUT}
        try:
            operation(node.target)(self.steps, out, *args, **kwargs)
        except Unknown:
            raise
        except UNFORESEEN as error:
            raise Unknown(f"{node.target} with these arguments") from error

    def _argument(self, node: fx.Node) -> Any:
        value = self.values[node]
        return self.array(value) if isinstance(value, Tensor) else value

    def _make(self, tensor: Tensor) -> None:
        """Memory of its own, laid out as torch has it."""
        _check(tensor)
        elements = tensor.untyped_storage().nbytes() // tensor.element_size()
        array = self.steps.new(tensor.dtype, tensor.shape, elements)
        self.memory[address(tensor)] = (array.memory, 0)
        if address(tensor) in self.changed:
            self.steps.changed.add(array.memory)

    def function(
        self, name: str, given: Sequence[Tensor], results: Sequence[Tensor]
    ) -> tuple[str, int]:
        """The C function `name(given, results, scratch)`, and the bytes of `scratch` it needs."""
        declared = [
            f"{TYPES[tensor.dtype]} *const given{i} = given[{i}];"
            for i, tensor in enumerate(given)
        ]
        for i, value in enumerate(results):
            shape, array = tuple(value.shape), self.array(value)
            if self.steps.is_whole(array):
                self.steps.results[array.memory] = i
                continue
            out = Array(f"result{i}", value.dtype, shape, contiguous(shape))
            self.steps.write(out, "{0}", array)
            declared.append(f"{out.type} *const {out.memory} = results[{i}];")
        body, scratch = source(self.steps)
        return "\n".join([_SIGNATURE.format(name), *declared, body, "}"]), scratch


def _check(tensor: Tensor) -> None:
    """Refuse what C has no type for.

    Raises:
        Unknown: with the type, or the device.
    """
    if tensor.dtype not in TYPES:
        raise Unknown(f"numbers of type {tensor.dtype}")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise Unknown(f"a tensor that is {tensor.layout} on {tensor.device.type}")
