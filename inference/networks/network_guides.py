"""The shared guides of a network's weights: functions of the program that give a `Guide`.

What each is, as a distribution and as an objective, is in `weights.py` and `dropout.py`. Each
takes the program of a network, and where its weights start: a function of a site's Pyro message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from ..core.problem import Guide
from ..methods.guides import Init
from ..program.handlers import start_value
from ..program.program import Program
from ..program.supports import support_of
from . import dropout as dropouts
from . import weights

# The share of a network's units that is off: by whether classes are predicted. A few dozen units
# that give a number show the noise of each (Gal and Ghahramani 2016 took 0.05 for such tables).
_RATES = {True: 0.2, False: 0.05}
# Networks are trained by small steps that end.
_NETWORK = {"lr": 1e-3, "schedule": "linear"}


def local(program: Program, init: Init = start_value) -> Guide:
    """Mean field over a network's weights, by noise at the layers' outputs: less variance.

    See `weights.MeanField`; the family is that of `normal`, the gradient's variance is not.
    """
    return weights.MeanField(program, init).guide(**_NETWORK)


def lastlayer(program: Program, init: Init = start_value) -> Guide:
    """A full covariance over a network's last layer, mean field over the rest."""
    return weights.LastLayer(program, init).guide(**_NETWORK)


def dropout(
    program: Program,
    init: Init = start_value,
    *,
    rate: Annotated[float | Literal["learned"] | None, "> 0", "< 1"] = None,
) -> Guide:
    """Hidden units of a network on or off at random: point masses, a surrogate objective.

    See `dropout.Dropout`, and `dropout.GaussianDropout` for a rate that is learned.

    Args:
        program: the model and its data.
        init: where the weights start.
        rate: probability of a unit to be off; `learned` begins at 0.2; None takes 0.2, or 0.05
            where numbers are predicted.
    """
    return _dropped(program, init, rate, "unit")


def dropconnect(
    program: Program,
    init: Init = start_value,
    *,
    rate: Annotated[float | Literal["learned"] | None, "> 0", "< 1"] = None,
) -> Guide:
    """Weights of a network on or off at random: point masses, a surrogate objective.

    As `dropout`, of single weights.
    """
    return _dropped(program, init, rate, "weight")


def sparse(program: Program, init: Init = start_value) -> Guide:
    """Sparse variational dropout: a network whose needless weights are removed."""
    return dropouts.Sparse(program, init).guide(**_NETWORK)


def ensemble(
    program: Program, init: Init = start_value, *, members: Annotated[int, ">= 2"] = 5
) -> Guide:
    """Several modes, from several starts: no posterior, for comparison.

    Args:
        program: the model and its data.
        init: where the members start.
        members: their number.
    """
    return weights.Ensemble(program, init, members).guide(**_NETWORK)


def _dropped(
    program: Program, init: Init, rate: float | str | None, by: Literal["unit", "weight"]
) -> Guide:
    """A guide that drops units or weights, by a rate that is given or learned."""
    kind = dropouts.GaussianDropout if rate == "learned" else dropouts.Dropout
    rate = _RATES[_predicts_classes(program)] if rate is None else rate
    return kind(program, init, 0.2 if rate == "learned" else rate, by).guide(**_NETWORK)


def _predicts_classes(program: Program) -> bool:
    """Whether all that is observed is discrete."""
    supports = [support_of(site.fn) for site in program.of("observed")]
    return all(support is not None and support.is_discrete for support in supports)
