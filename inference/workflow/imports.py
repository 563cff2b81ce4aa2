"""What a run imports once its draws are there, to be imported before: while chains run."""

from __future__ import annotations


def beforehand() -> None:
    """Import what judging, saving, showing and drawing a result takes: most of a second.

    In the thread that calls it, with Python's lock held most of the time: for a moment in which
    this process waits for compiled code. Not while others fork: they would find halves of modules.
    """
    import h5netcdf  # noqa: F401

    from ..results import inference_data  # noqa: F401
    from ..show import drawing, plots, terminal  # noqa: F401
