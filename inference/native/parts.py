"""A graph whose operations are compiled where they have a form in C; torch does the others.

The operations in C are fused to as few functions as can be: to one, where torch has none in
between. Random draws are torch's, in their order, so that they are those of the function.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, fx

from .aten import address, is_random, tensors
from .formulas import Unknown
from .library import library
from .native import Native, sampled
from .writer import Writer, changed, changes, is_view, run_once


@dataclass
class Part:
    """Operations that become one function in C.

    Attributes:
        nodes: the operations, in their order.
        given: the nodes that it takes.
        constants: those that it takes after these, and that never change.
        results: the nodes that it gives.
    """

    nodes: list[fx.Node] = field(default_factory=list)
    given: list[fx.Node] = field(default_factory=list)
    constants: list[fx.Node] = field(default_factory=list)
    results: list[fx.Node] = field(default_factory=list)


class _Partition:
    """Who does each operation of a graph, and when.

    The stages take turns: the function in C of a stage, then torch's operations of that stage.

    Args:
        graph: as it was recorded.
        inputs: examples of its arguments.

    Attributes:
        nodes: of the graph, but for its output.
        outputs: the nodes that it gives.
        values: what torch gives at each node, for an example.
        unknown: the nodes that have no form in C, and why.
        by_torch: the names of these operations, but for random draws.
        stage: node to the stage in which it is done.
        whole: whether all is one function in C.
        parts: stage to its function.

    Raises:
        Unknown: memory that is changed in place would be changed at another time.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]):
        *self.nodes, last = graph.graph.nodes
        self.outputs = list(last.args[0])
        self.values, self.unknown = run_once(graph, inputs)
        self.by_torch = sorted({str(n.target) for n in self.unknown if not is_random(n.target)})
        self._leave_memory_to_torch()
        self.whole = not self.unknown
        self.stage: dict[fx.Node, int] = {}
        self._stages()
        self._check_changes()
        self.parts: dict[int, Part] = {}
        for node in self.nodes:
            if self.in_c(node) and not is_view(node, self.values):
                self.parts.setdefault(self.stage[node], Part()).nodes.append(node)
        for number, part in self.parts.items():
            self._connect(number, part)

    def _leave_memory_to_torch(self) -> None:
        """What torch fills in place, torch makes."""
        for node in self.nodes:
            if node in self.unknown and changes(node):
                first = self.root(node.args[0])
                if not first.all_input_nodes and self.in_c(first):
                    self.unknown[first] = self.unknown[node]

    def root(self, node: fx.Node) -> fx.Node:
        """The node whose memory a node merely sees in another way; of others itself."""
        while is_view(node, self.values):
            own = {address(tensor) for tensor in tensors(self.values[node])}
            node = next(
                base
                for base in node.all_input_nodes
                if own & {address(tensor) for tensor in tensors(self.values[base])}
            )
        return node

    def in_c(self, node: fx.Node) -> bool:
        """Whether a node is done in C."""
        node = self.root(node)
        while node.target is operator.getitem:
            node = node.args[0]
        return node.op == "call_function" and node not in self.unknown

    def is_of(self, number: int, node: fx.Node) -> bool:
        """Whether a node is done by the part of that number."""
        return self.in_c(node) and self.stage[node] == number

    def _stages(self) -> None:
        last_draw = 0
        for node in self.nodes:
            before = [(self.stage[base], self.in_c(base)) for base in node.all_input_nodes]
            latest = max((stage for stage, _ in before), default=0)
            if is_random(node.target):
                latest = last_draw = max(latest, last_draw)
            elif self.in_c(node) and self.root(node) is node:
                latest = max([1, *(stage + (not in_c) for stage, in_c in before)])
            if node.target is operator.getitem:
                latest = self.stage[node.args[0]]
            self.stage[node] = latest

    def _check_changes(self) -> None:
        """Refuse a change in place that would come before or after another use of that memory.

        Raises:
            Unknown: with the operation.
        """
        last: dict[int, int] = {}
        written = changed(self.values)
        for node in self.nodes:
            time = 2 * self.stage[node] + (not self.in_c(node))
            for base in (node, *node.all_input_nodes):
                for own in {address(tensor) for tensor in tensors(self.values[base])} & written:
                    if last.setdefault(own, time) > time:
                        raise Unknown(f"{node.target} of what is changed in place")
                    last[own] = time

    def _connect(self, number: int, part: Part) -> None:
        """What a part takes, and what it gives."""
        outputs = [out for out in self.outputs if self.whole or self.is_of(number, out)]
        taken = {self.root(base) for node in part.nodes for base in node.all_input_nodes}
        if self.whole:
            taken |= {self.root(out) for out in outputs}
            taken |= {node for node in self.nodes if node.op == "placeholder"}
        outside = [node for node in self.nodes if node in taken and not self.is_of(number, node)]
        part.constants = [node for node in outside if node.op == "get_attr"]
        part.given = [node for node in outside if node.op != "get_attr"]
        leaving = [node for node in part.nodes if self._leaves(number, node)]
        # Of the whole graph one node may be several outputs.
        part.results = outputs if self.whole else list(dict.fromkeys([*outputs, *leaving]))

    def _leaves(self, number: int, node: fx.Node) -> bool:
        """Whether another part, or torch, uses what a node gives."""
        if not isinstance(self.values[node], Tensor):
            return False
        return any(not self.is_of(number, user) for user in self._users(node))

    def _users(self, node: fx.Node) -> Iterator[fx.Node]:
        """The operations that use what a node gives, or a view of it."""
        for user in node.users:
            if is_view(user, self.values):
                yield from self._users(user)
            elif user.op != "output":
                yield user

    def compiled(self) -> dict[int, Native]:
        """The functions of all parts, in one library.

        Raises:
            NoCompiler: there is none. Refused: the cache is not the user's alone.
        """
        written = [self._written(i, part) for i, part in enumerate(self.parts.values())]
        texts = [text for text, _ in written]
        if self.whole:
            part = next(iter(self.parts.values()))
            texts.append(sampled(len(part.given) + len(part.constants)))
        path = library("\n".join(texts))
        return {
            number: Native(path, f"run{i}", scratch, *self._examples(part))
            for i, ((number, part), (_, scratch)) in enumerate(zip(self.parts.items(), written))
        }

    def _written(self, i: int, part: Part) -> tuple[str, int]:
        """The C of a part, and the bytes of memory that it needs."""
        writer = Writer(self.values)
        given, constants, results = self._examples(part)
        for tensor in (*given, *constants):
            writer.give(tensor)
        for node in part.nodes:
            writer.write(node)
        return writer.function(f"run{i}", [*given, *constants], results)

    def _examples(self, part: Part) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """What a part is given, its constants and its results."""
        return tuple(
            [self.values[node].detach() for node in nodes]
            for nodes in (part.given, part.constants, part.results)
        )


class _Composer:
    """The graph in which functions in C stand for the operations of the parts.

    Args:
        graph: as it was recorded.
        partition: who does what.
    """

    def __init__(self, graph: fx.GraphModule, partition: _Partition):
        self.partition, self.graph = partition, fx.Graph()
        self.nodes: dict[fx.Node, fx.Node] = {}
        for node in partition.nodes:
            if node.op == "placeholder":
                self.nodes[node] = self.graph.placeholder(node.name)
        self.functions = {n: self.graph.placeholder(f"part_{n}") for n in partition.parts}
        for number in range(max(partition.stage.values(), default=0) + 1):
            if number in partition.parts:
                self._call(number, partition.parts[number])
            for node in partition.nodes:
                if partition.stage[node] == number and self._is_torchs(node):
                    self._of(node)
        outputs = tuple(map(self._of, partition.outputs))
        self.graph.output(outputs)
        self.module = fx.GraphModule(graph, self.graph)
        self.module.meta.update(graph.meta)

    def _is_torchs(self, node: fx.Node) -> bool:
        if node.op != "call_function" or self.partition.in_c(node):
            return False
        return not is_view(node, self.partition.values)

    def _call(self, number: int, part: Part) -> None:
        """Call a function in C, and take its results apart."""
        given = [self._of(node) for node in part.given]
        call = self.graph.call_function(operator.call, (self.functions[number], *given))
        for i, node in enumerate(part.results):
            self.nodes[node] = self.graph.call_function(operator.getitem, (call, i))

    def _of(self, node: fx.Node) -> fx.Node:
        """What stands for a node; views are made where they are asked for."""
        if node not in self.nodes:
            self.nodes[node] = self.graph.node_copy(node, self._of)
        return self.nodes[node]


class InC(NamedTuple):
    """A graph whose operations are compiled where they have a form in C.

    Attributes:
        whole: the function in C, if it is all of the graph; else None.
        graph: of which `functions` are further arguments.
        functions: the functions in C.
        by_torch: names of the operations that have no form in C, but for random draws.
        single: whether some of it is in single precision.
    """

    whole: Native | None
    graph: fx.GraphModule
    functions: list[Native]
    by_torch: list[str]
    single: bool


def in_c(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> InC:
    """Compile a graph as far as that can be.

    Args:
        graph: as it was recorded.
        inputs: examples of its arguments.

    Raises:
        Unknown: nothing of it can be compiled.
        NoCompiler: there is no C compiler. Refused: the cache is not the user's alone.
    """
    partition = _Partition(graph, inputs)
    if not partition.parts:
        raise Unknown("the graph")
    functions = partition.compiled()
    values = [tensor for value in partition.values.values() for tensor in tensors(value)]
    single = any(tensor.dtype == torch.float32 for tensor in values)
    if partition.whole:
        return InC(functions[1], graph, [], [], single)
    composed = _Composer(graph, partition).module
    return InC(None, composed, list(functions.values()), partition.by_torch, single)
