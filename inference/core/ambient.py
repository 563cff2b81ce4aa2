"""What surrounds a computation in the caller's process: kept out while it computes.

Random numbers, number types and Pyro's handlers belong to the whole process, so that two runs in
two threads would draw from one stream, and a caller's `no_grad` or `condition` would change what
a run finds. One computation at a time, and none of these: a run gives the same numbers wherever
it is called from.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .zoo_warnings import ours_alone

# A callback of a run may begin another run: that is the same thread.
_LOCK = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Compute as if nothing else were in the process; other threads that compute wait."""
    import numpy as np
    import pyro
    import torch

    with _LOCK, ours_alone(), _without_handlers(), ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(pyro.validation_enabled(True))
        stack.enter_context(np.errstate(all="warn", under="ignore"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # saying so costs each operation
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _without_handlers() -> Iterator[None]:
    """The caller's Pyro handlers taken off: `condition`, `block`, a plate around the call."""
    from pyro.poutine import runtime

    stacks: list[list] = [runtime._PYRO_STACK, runtime._DIM_ALLOCATOR._stack]
    before = [stack[:] for stack in stacks]
    for stack in stacks:
        stack.clear()
    try:
        yield
    finally:
        for stack, handlers in zip(stacks, before):
            stack[:] = handlers
