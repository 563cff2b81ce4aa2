"""What torch tells of its operations, and of the memory of tensors."""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves


def tensors(tree: Any) -> list[Tensor]:
    """The tensors among what an operation takes or gives."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def address(tensor: Tensor) -> int:
    """What identifies a tensor's memory, which views share."""
    return tensor.untyped_storage()._cdata


def is_random(function: Any) -> bool:
    """Whether an operation takes from the stream of random numbers."""
    seeded = torch.Tag.nondeterministic_seeded
    return isinstance(function, OpOverload) and seeded in function.tags


def plain(function: OpOverload) -> OpOverload:
    """The operation that gives what another makes of its argument: `squeeze` of `squeeze_`.

    Returns:
        The operation itself, where there is no other.
    """
    name = function._schema.name.partition("::")[2].removesuffix("_")
    return getattr(getattr(torch.ops.aten, name, None), function._overloadname, function)
