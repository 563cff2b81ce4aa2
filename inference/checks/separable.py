"""Classes that the features separate: the likelihood has no maximum, the prior sets the size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..core.problem import Finding
from ..program.program import Program
from ..results.predictive import is_classes

if TYPE_CHECKING:
    import xarray as xr

# Share of the draws that must classify every row rightly.
_MANY = 0.1


def findings(program: Program, idata: Mapping[str, xr.Dataset]) -> list[Finding]:
    """A note where many draws classify every row rightly.

    Scaling what separates the classes then raises the likelihood for ever (Albert and Anderson
    1984, Biometrika 71): how large the coefficients are is the prior's choice. A label is the
    likeliest of its row where its probability is above one half.

    Args:
        program: what was inferred; networks, whose weights nobody reads, are left out.
        idata: its result, with the log likelihood of each row at each draw.
    """
    problem = program.problem
    if not problem.identified or problem.rows is None or "log_likelihood" not in idata:
        return []
    features = [key for key in problem.rows[1] if problem.tensors[key].is_floating_point()]
    if not is_classes(program) or set(features) <= {program.of("observed")[0].name}:
        return []
    (rows,) = idata["log_likelihood"].data_vars.values()
    all_right = (rows.values > -math.log(2)).all(axis=tuple(range(2, rows.ndim)))
    if np.mean(all_right) < _MANY:
        return []
    what = "the features separate the classes: the prior alone keeps the coefficients finite"
    return [Finding("note", what, "see how they move with it (compare --vary prior_scale=...)")]
