"""The log probability of bits from their log odds, in few operations where vmap batches it.

`torch.func.vmap` makes 25 operations of torch's single one; here it is three, in a quarter of
the time (10 x 100 x 784 of them). Elsewhere torch's own is as fast, and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Above it exp overflows in single precision; softplus(x) is x there.
_LARGE = 80.0


class Bits(TorchFunctionMode):
    """While it is on, batched log odds l of bits b cost softplus(l) - l b."""

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.binary_cross_entropy_with_logits and _plain(kwargs) and _batched(*args):
            logits, bits = args
            return F.softplus(logits, threshold=_LARGE) - logits * bits
        return function(*args, **kwargs)


def _plain(kwargs: Mapping[str, Any]) -> bool:
    """Whether each element is wanted, and no weights are given."""
    given = {name for name, value in kwargs.items() if value is not None}
    return given == {"reduction"} and kwargs["reduction"] == "none"


def _batched(*tensors: Tensor) -> bool:
    return any(torch._C._functorch.is_batchedtensor(tensor) for tensor in tensors)
