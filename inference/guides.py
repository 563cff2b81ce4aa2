"""The shared guides: name to a function of the program that gives a `Guide`.

They cover the continuous latents; discrete ones are summed out of the model, never guided.
"""

from __future__ import annotations

from collections.abc import Callable

from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoMultivariateNormal, AutoNormal

from ._problem import Guide, Refused
from .program import Program, start_value


def normal(program: Program) -> Guide:
    """Mean field: independent normals in the unconstrained space; too narrow under correlation."""
    return Guide(_auto(AutoNormal, program))


def mvn(program: Program) -> Guide:
    """One normal with a full covariance in the unconstrained space; d(d+3)/2 parameters."""
    return Guide(_auto(AutoMultivariateNormal, program))


GUIDES = {"normal": normal, "mvn": mvn}


def _auto(kind: Callable[..., AutoGuide], program: Program) -> AutoGuide:
    if not program.size:
        raise Refused("the model has no continuous latent for a guide to cover; use exact")
    hidden = [site.name for site in program.of("discrete")]
    model = poutine.block(program.model, hide=hidden) if hidden else program.model
    # Starting points come from the supports: improper priors cannot be sampled.
    return kind(model, init_loc_fn=start_value, init_scale=0.1)
