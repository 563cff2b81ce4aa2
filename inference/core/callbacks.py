"""Callbacks: what a run reports to a tracker, a log or a screen while it goes on."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from .zoo_warnings import ZooWarning


class Callback:
    """Called as a run goes on; derive from it and write the methods that you need.

    An exception that it raises becomes a warning, and it is not called again: the run goes on.
    """

    def on_start(self, record: Mapping[str, Any]) -> None:
        """The run begins.

        Args:
            record: model, method, guide, seed, options, settings, data, versions.
        """

    def on_step(self, step: Mapping[str, Any]) -> None:
        """The run goes on: some ten times a second for nuts, after each window for svi.

        Args:
            step: `step` steps are done `of` so many; of svi also `elbo` (mean of the window,
                nats) and `lr`, of nuts `chains`, the steps of each.
        """

    def on_end(self, run: Any) -> None:
        """The run has ended: done, interrupted or failed (`run.record["status"]`).

        Args:
            run: the `zoo.Run`, its folder written if it has one; None where there is no result.
        """


class Callbacks(Callback):
    """Several callbacks as one, of which none can end the run."""

    def __init__(self, callbacks: Sequence[Callback] = ()):
        self.callbacks = list(callbacks)

    def _call(self, event: str, argument: Any) -> None:
        for callback in list(self.callbacks):
            try:
                getattr(callback, event)(argument)
            except Exception as error:
                self.callbacks.remove(callback)
                name = type(callback).__name__
                problem = f"{event} of {name} raised {type(error).__name__} ({error})"
                warnings.warn(
                    f"{problem}; it is not called again, the run goes on", ZooWarning, stacklevel=3
                )

    def on_start(self, record: Mapping[str, Any]) -> None:
        self._call("on_start", record)

    def on_step(self, step: Mapping[str, Any]) -> None:
        self._call("on_step", step)

    def on_end(self, run: Any) -> None:
        self._call("on_end", run)
