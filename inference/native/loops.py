"""Loops in C over arrays of fixed shapes, and the memory that they need.

Operations are written down as steps: an elementwise formula, a reduction, or a few lines of C.
Consecutive steps over the same elements become one loop over blocks, in each of which every step
has a plain loop of its own: the block stays in the processor's cache, and compilers vectorise
plain loops, `exp` and `log` among them. Memory is shared by arrays that are never in use at once.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

# Elements of a block: some ten arrays of it lie in the first cache.
BLOCK = 512
# Bytes to which every array is aligned, a line of the cache.
LINE = 64

TYPES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.int64: "i64",
    torch.int32: "int",
    torch.bool: "_Bool",
    torch.uint8: "unsigned char",
}


class Array(NamedTuple):
    """A tensor as C sees it: memory, and how it is walked.

    Attributes:
        memory: name of the C pointer.
        dtype: type of its elements.
        shape: its sizes.
        strides: elements from one index to the next, of each dimension.
        offset: element of the memory with which it begins.
    """

    memory: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def type(self) -> str:
        """The C type of an element."""
        return TYPES[self.dtype]

    def expanded(self, shape: Sequence[int]) -> "Array":
        """The array broadcast to a shape."""
        missing = len(shape) - len(self.shape)
        strides = [0] * missing + [
            0 if own != size else stride
            for own, size, stride in zip(self.shape, shape[missing:], self.strides)
        ]
        return self._replace(shape=tuple(shape), strides=tuple(strides))

    def part(self, dim: int, start: int, length: int, step: int = 1) -> "Array":
        """Every `step`-th of the elements of one dimension, from `start` on."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[dim]
        shape[dim], strides[dim] = length, strides[dim] * step
        return self._replace(shape=tuple(shape), strides=tuple(strides), offset=offset)

    def without(self, dim: int) -> "Array":
        """The array at index 0 of a dimension."""
        shape = self.shape[:dim] + self.shape[dim + 1 :]
        return self._replace(shape=shape, strides=self.strides[:dim] + self.strides[dim + 1 :])

    def moved(self, order: Sequence[int]) -> "Array":
        """The array with its dimensions in another order."""
        shape = tuple(self.shape[dim] for dim in order)
        return self._replace(shape=shape, strides=tuple(self.strides[dim] for dim in order))

    def at(self, indices: Sequence[str]) -> str:
        """The C expression of an element."""
        terms = [f"{i}*{s}" if s != 1 else i for i, s in zip(indices, self.strides) if s]
        terms += [str(self.offset)] if self.offset or not terms else []
        return f"{self.memory}[{' + '.join(terms)}]"

    def read(self, indices: Sequence[str], dtype: torch.dtype) -> str:
        """The C expression of an element, in another type where that is wanted."""
        cast = "" if dtype == self.dtype or dtype == torch.bool else f"({TYPES[dtype]})"
        return cast + self.at(indices)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of an array whose elements lie one after another."""
    return tuple(math.prod(max(size, 1) for size in shape[d + 1 :]) for d in range(len(shape)))


def merged(arrays: Sequence[Array]) -> list[Array]:
    """Arrays of one shape with as few dimensions as can be, the innermost the densest."""
    shape = arrays[0].shape
    dims = [d for d in range(len(shape)) if shape[d] != 1]
    dims.sort(key=lambda d: [-a.strides[d] for a in arrays])
    arrays = [a.moved(dims) for a in arrays]
    for d in reversed(range(len(dims) - 1)):
        inner = arrays[0].shape[d + 1]
        if all(a.strides[d] == a.strides[d + 1] * inner for a in arrays):
            arrays = [_joined(a, d) for a in arrays]
    return arrays


def _joined(array: Array, dim: int) -> Array:
    """The array with a dimension and the next as one."""
    shape, strides = array.shape, array.strides
    size = (shape[dim] * shape[dim + 1],)
    return array._replace(
        shape=shape[:dim] + size + shape[dim + 2 :],
        strides=strides[:dim] + strides[dim + 1 :],
    )


@dataclass
class Step:
    """A formula for every element of some arrays of one shape.

    Attributes:
        target: what is written; of a sum an array of one element.
        text: the formula, with `{0}`, `{1}` in the place of the operands.
        operands: what is read, broadcast to one shape.
        dtype: the type in which it is computed.
        adds: whether the target is the sum over all elements.
    """

    target: Array
    text: str
    operands: tuple[Array, ...]
    dtype: torch.dtype
    adds: bool = False

    def __post_init__(self) -> None:
        walked = self.operands if self.adds else (self.target, *self.operands)
        flat = merged(walked)
        if not self.adds:
            self.target, *flat = flat
        self.operands = tuple(flat)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the loops."""
        return self.operands[0].shape if self.adds else self.target.shape

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All that it reads and writes."""
        return (self.target, *self.operands)

    def body(self, indices: Callable[[Array], Sequence[str]]) -> str:
        """The statement for one element, at the indices that each array has there."""
        values = [array.read(indices(array), self.dtype) for array in self.operands]
        value = self.text.format(*values)
        if self.adds:
            return f"{_sum_of(self.target)} += {value};"
        cast = "" if self.target.dtype == self.dtype else f"({self.target.type})"
        return f"{self.target.at(indices(self.target))} = {cast}({value});"


@dataclass
class Lines:
    """Some lines of C.

    Attributes:
        text: the lines.
        arrays: what they read and write.
    """

    text: str
    arrays: tuple[Array, ...]


def _sum_of(target: Array) -> str:
    return f"sum_{target.memory}"


@dataclass
class Steps:
    """The steps of a function, as they are written down.

    Attributes:
        steps: in their order.
        sizes: name of each array that the function makes to its type and number of elements.
        results: those of them that are results, to their number.
        inside: those that lie in another one, to its name and the element with which they begin.
        changed: those that are changed in place.
    """

    steps: list[Step | Lines] = field(default_factory=list)
    sizes: dict[str, tuple[torch.dtype, int]] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)
    inside: dict[str, tuple[str, int]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def is_whole(self, array: Array) -> bool:
        """Whether an array is all of some memory that is made here and lies nowhere yet."""
        name = array.memory
        if name not in self.sizes or name in self.results or name in self.inside:
            return False
        dense = array.strides == contiguous(array.shape) and not array.offset
        return dense and self.sizes[name] == (array.dtype, array.size)

    def lay_into(self, part: Array, whole: Array) -> bool:
        """Make a part in the memory of the whole, where that can be; it is complete then.

        Args:
            part: an array of its own.
            whole: the elements of another one that are to be the same.
        """
        names = {part.memory, whole.memory}
        dense = whole.strides == contiguous(whole.shape) and whole.memory in self.sizes
        if not dense or names & self.changed or part.dtype != whole.dtype:
            return False
        if not self.is_whole(part) or whole.memory in self.inside or part.memory in self.roots:
            return False
        self.inside[part.memory] = (whole.memory, whole.offset)
        self.lines("", part, whole)  # what reads the whole comes after it
        return True

    @property
    def roots(self) -> set[str]:
        """The arrays that others lie in."""
        return {name for name, _ in self.inside.values()}

    def new(self, dtype: torch.dtype, shape: Sequence[int], elements: int | None = None) -> Array:
        """An array of its own, not filled yet."""
        name = f"t{len(self.sizes)}"
        self.sizes[name] = (dtype, math.prod(shape) if elements is None else elements)
        return Array(name, dtype, tuple(shape), contiguous(shape))

    def write(
        self,
        target: Array,
        text: str,
        *operands: Array,
        dtype: torch.dtype | None = None,
        adds: bool = False,
    ) -> None:
        """A formula for each element of the target.

        Args:
            target: what is written.
            text: the formula; `@@` after the name of a function stands for the suffix of its type.
            operands: what is read, broadcast to the target.
            dtype: type of the formula; default the target's.
            adds: whether the target is the sum of the formula over all elements of the operands.
        """
        dtype = dtype or target.dtype
        text = text.replace("@@", "f" if dtype == torch.float32 else "")
        if not adds:
            operands = tuple(operand.expanded(target.shape) for operand in operands)
        if target.size if not adds else operands[0].size:
            self.steps.append(Step(target, text, operands, dtype, adds))
        elif adds:
            self.write(target, "0")

    def lines(self, text: str, *arrays: Array) -> None:
        """Lines of C that read and write these arrays."""
        self.steps.append(Lines(text, arrays))


# -- from steps to C ------------------------------------------------------------------------------


def source(steps: Steps) -> tuple[str, int]:
    """The steps as the body of a C function, and the bytes of memory `scratch` that it needs."""
    groups = list(_groups(steps.steps))
    elsewhere = {*steps.results, *steps.inside}
    local = _local(groups, set(steps.sizes) - elsewhere - steps.roots)
    places, most = _placed(groups, steps, local)
    lies = {name: f"scratch + {place}" for name, place in places.items()}
    lies |= {name: f"results[{i}]" for name, i in steps.results.items()}
    lies |= {name: f"{root} + {start}" for name, (root, start) in steps.inside.items()}
    declared = [
        f"{(kind := TYPES[steps.sizes[name][0]])} *const {name} = ({kind} *)({where});"
        for name, where in lies.items()
    ]
    written = [_group(group, local) for group in groups]
    return "\n".join([*declared, *written]), most


def _groups(steps: Sequence[Step | Lines]) -> Iterator[list[Step | Lines]]:
    """Runs of steps that one loop over blocks can do; other steps alone."""
    group: list[Step | Lines] = []
    for step in steps:
        if group and not _joins(step, group):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def _joins(step: Step | Lines, group: Sequence[Step | Lines]) -> bool:
    """Whether a step can be done block by block with those of a group."""
    steps = [earlier for earlier in group if isinstance(earlier, Step)]
    if isinstance(step, Lines) or not steps or len(step.shape) > 1:
        return False
    if step.shape != steps[0].shape:
        return False
    return not any(
        _meets(step, earlier.operands) or _meets(earlier, step.arrays) for earlier in steps
    )


def _meets(writes: Step, others: Sequence[Array]) -> bool:
    """Whether others have the memory of what is written, but not its elements in its order.

    A sum is known when all blocks are done.
    """
    target = writes.target
    ways = [(o.strides, o.offset, o.shape) for o in others if o.memory == target.memory]
    way = (target.strides, target.offset, target.shape)
    return bool(ways) and (writes.adds or any(other != way for other in ways))


def _local(groups: Sequence[Sequence[Step | Lines]], made: set[str]) -> set[str]:
    """The arrays of which no more than a block is needed at once."""
    users: dict[str, set[int]] = {}
    whole: set[str] = set()
    for i, group in enumerate(groups):
        for step in group:
            for array in step.arrays:
                users.setdefault(array.memory, set()).add(i)
                single = isinstance(step, Lines) or (step.adds and array is step.target)
                if single or array.strides != (1,) or array.offset:
                    whole.add(array.memory)
    return {name for name in made - whole if len(users.get(name, ())) == 1}


def _placed(
    groups: Sequence[Sequence[Step | Lines]], steps: Steps, local: set[str]
) -> tuple[dict[str, int], int]:
    """Where each array lies in the scratch memory, first fit, and how much there is."""
    spans: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        for step in group:
            for array in step.arrays:
                name, _ = steps.inside.get(array.memory, (array.memory, 0))
                if name in steps.sizes and name not in steps.results:
                    spans.setdefault(name, [i, i])[1] = i
    places: dict[str, int] = {}
    ends: dict[str, int] = {}
    for name in sorted(spans, key=lambda name: spans[name][0]):
        alive = [other for other in places if spans[other][1] >= spans[name][0]]
        need = _bytes(steps.sizes[name], name in local)
        places[name] = _first_gap(sorted((places[o], ends[o]) for o in alive), need)
        ends[name] = places[name] + need
    return places, max(ends.values(), default=0)


def _bytes(size: tuple[torch.dtype, int], is_local: bool) -> int:
    dtype, count = size
    count = min(count, BLOCK) if is_local else count
    return -(-max(count, 1) * dtype.itemsize // LINE) * LINE


def _first_gap(taken: Sequence[tuple[int, int]], need: int) -> int:
    """The first place with so many free bytes."""
    at = 0
    for start, end in taken:
        if start - at >= need:
            break
        at = max(at, end)
    return at


def _group(group: Sequence[Step | Lines], local: set[str]) -> str:
    """A group as C."""
    first = group[0]
    if isinstance(first, Lines):
        return f"{{\n{first.text}\n}}"
    steps = [step for step in group if isinstance(step, Step)]
    sums = [step.target for step in steps if step.adds]
    size = math.prod(first.shape)
    blocked = len(first.shape) == 1 and size > BLOCK
    lines = [f"{t.type} {_sum_of(t)} = 0;" for t in sums]
    if blocked:
        lines += [f"for (i64 b = 0; b < {size}; b += {BLOCK}) {{"]
        lines += [f"const i64 m = {size} - b < {BLOCK} ? {size} - b : {BLOCK};"]
        lines += [*(_block(step, local) for step in steps), "}"]
    else:
        lines += [_nest(step) for step in steps]
    lines += [f"{t.at(['0'] * len(t.shape))} = {_sum_of(t)};" for t in sums]
    return "\n".join(["{", *lines, "}"])


def _block(step: Step, local: set[str]) -> str:
    """A step over a block of m elements, the first of which is the b-th."""
    index = {name: ["i"] for name in local}
    body = step.body(lambda array: index.get(array.memory, ["(b + i)"]))
    # Of a sum each block has a part: so many small numbers are not added to a large one.
    total = _sum_of(step.target)
    part = f"{{ const {step.target.type} before = {total}; {total} = 0;" if step.adds else ""
    whole = f"{total} += before; }}" if step.adds else ""
    return f"{part}\n{_simd(step)}for (i64 i = 0; i < m; i++) {body}\n{whole}"


def _nest(step: Step) -> str:
    """A step as a nest of loops."""
    names = [f"i{d}" for d in range(len(step.shape))]
    loops = [f"for (i64 {i} = 0; {i} < {n}; {i}++)" for i, n in zip(names, step.shape)]
    if loops:
        loops[-1] = f"{_simd(step)}{loops[-1]}"
    return "\n".join([*loops, step.body(lambda _: names)])


def _simd(step: Step) -> str:
    """Says that elements do not depend on one another, and that a sum may be in any order."""
    adds = f" reduction(+:{_sum_of(step.target)})" if step.adds else ""
    return f"#pragma omp simd{adds}\n"
