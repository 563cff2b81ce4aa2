"""Runs and calibrations that were cut short, carried to their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.contract import Entry

from ..core.ambient import alone
from ..core.arguments import checked
from ..core.callbacks import Callback
from . import calibrate, origin
from .result import Run
from .run import Watch, checked_callbacks, in_place, load, plan_of

if TYPE_CHECKING:
    from ..checks.calibration import Calibration
    from ..storage.run_folder import RunFolder


@checked
@alone()
def resume(
    folder: str | Path,
    *,
    model: str | Path | Callable | Entry | None = None,
    guide: str | Path | Callable | None = None,
    data: Any = None,
    progress: bool = False,
    callbacks: Sequence[Callback] = (),
    jobs: int = 1,
) -> Run | Calibration:
    """Continue a run that was interrupted, killed or failed: to the draws it would have had.

    Chains of nuts that had come to their end are kept, svi goes on from its last window, a
    calibration from its last fit. What is done is loaded.

    Args:
        folder: the run's folder.
        model: the model, where it was given in Python; it must be the same.
        guide: the guide, likewise.
        data: the data, where they were given in Python and are not kept.
        progress, callbacks: as for `run`.
        jobs: fits at once, of a calibration.

    Raises:
        Fault: no run there, or a damaged one; another model, other data or other libraries than
        the run's; it is running. Otherwise as `run`.
    """
    watch = Watch(progress=progress, callbacks=checked_callbacks(callbacks), jobs=jobs)
    return resumed(Path(folder), {"model": model, "guide": guide, "data": data}, watch)


def resumed(folder: Path, given: Mapping[str, Any], watch: Watch) -> Run | Calibration:
    """The run or the calibration of a folder, carried to its end.

    Args:
        folder: the run's folder.
        given: `model`, `guide` and `data` that stand in for those of its record, or None.
        watch: what is shown meanwhile.

    Raises:
        Fault: as `resume`.
    """
    from ..storage import run_folder
    from ..storage.record import DRAWING, read_record

    begun = read_record(folder)
    of_calibration = "calibration" in begun
    if begun["status"] != "done":
        with run_folder.reopen(folder) as place:
            if place.record["status"] == DRAWING:
                return _drawn(place, given, watch)
            if place.record["status"] != "done":  # nor did another process end it meanwhile
                again = calibrate.resumed if of_calibration else _run_resumed
                return again(place, given, watch)
    if of_calibration:
        return calibrate.saved(folder)
    run = load(folder, model=given["model"], guide=given["guide"])
    watch.show(run)
    return run


def _drawn(place: RunFolder, given: Mapping[str, Any], watch: Watch) -> Run:
    """The run of a folder that has all but its pictures, drawn."""
    run = load(place.path, model=given["model"], guide=given["guide"])
    watch.show(run)
    run.record["status"] = "done"
    place.add_figures(run.pictures())
    return run


def _run_resumed(place: RunFolder, given: Mapping[str, Any], watch: Watch) -> Run:
    started = time.perf_counter()
    origin.check_same_libraries(place.record)
    plan = plan_of(origin.request_of(place.record, given))
    fresh = origin.check_same_run(place.record, plan)
    place.record |= {name: fresh[name] for name in origin.OF_FILES}
    return in_place(plan, watch, started, place)
