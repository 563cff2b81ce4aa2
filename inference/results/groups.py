"""Fit -> InferenceData: every method's result with the same groups, labels and meaning."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.problem import Fit, Problem
from ..methods.prior import sample as prior_sample
from ..program.program import Program
from ..program.row_latents import is_of_rows
from ..program.sampling import over_draws
from ..program.sites import Site
from .inference_data import InferenceData, add_group, cells, from_groups
from .predictive import GROUP_ELEMENTS, every, predictions, replicate, row_tensors, thinned

# Group to variable to array.
Groups = dict[str, dict[str, np.ndarray]]

# Elements of the pointwise log likelihood, from which leave-one-out is computed; of more rows
# fewer draws are kept.
LIKELIHOOD_ELEMENTS = 10_000_000
# Draws of a network's weights that are kept, and products up to which its training rows are
# predicted too, and prior draws made; data of more elements are known by their hash alone.
_KEPT_WEIGHTS, _MOST_PRODUCTS, _MOST_DATA = 100, 2e10, 1_000_000
# Rows on which products are counted.
_COUNTED = 100


def to_inference_data(
    program: Program, fit: Fit, *, seed: int, prior_draws: int = 1000, **attrs: Any
) -> InferenceData:
    """All groups that the fit and the model give.

    posterior, sample_stats (with log_p and log_q where they exist), log_likelihood (discrete
    latents summed out), posterior_predictive, prior and prior_predictive (proper priors only),
    observed_data, constant_data; for the method `prior` the two prior groups alone. Of a network
    100 draws of the latents, and `predictions`, by which it is judged; where it is large, nothing
    of its training rows.

    Args:
        program: what was inferred.
        fit: what a method returned.
        seed: seed of predictive and prior draws.
        prior_draws: prior draws to lay beside the posterior; 0 for none, fewer of many latents.
        attrs: recorded as attributes of the posterior; JSON-encoded where not plain.
    """
    identified = program.problem.identified
    groups: Groups = {}
    if fit.kind == "prior":
        groups |= _prior_groups(program, {k: v[0] for k, v in fit.draws.items()})
    else:
        groups |= _draw_groups(program, fit)
        products = 0.0 if identified else _products(program)
        if products * _count(fit) <= _MOST_PRODUCTS:
            groups |= _row_groups(program, fit, seed)
            groups |= _prior_beside(program, seed, prior_draws, products)
    groups |= _data_groups(program)
    plain = {k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in attrs.items()}
    idata = _labelled(program, groups, attrs=plain)
    if not identified and fit.kind != "prior" and program.of("observed"):
        add_group(idata, "predictions", predictions(program, fit))
    if fit.trace is not None:
        steps = {"value": ("step", fit.trace.numpy())}
        add_group(idata, "objective", steps, attrs={"outlook": fit.outlook})
    return idata


def draws_alone(program: Program, fit: Fit) -> InferenceData:
    """The groups posterior and sample_stats alone, which is all that a verdict looks at."""
    return _labelled(program, _draw_groups(program, fit))


# -- the groups --------------------------------------------------------------------------------


def _count(fit: Fit) -> int:
    """Draws of all chains; 0 where nothing is drawn."""
    return next((value.shape[:2].numel() for value in fit.draws.values()), 0)


def _products(program: Program) -> float:
    """About how many products it takes to predict all rows at one draw: counted on the first."""
    from torch.utils.flop_counter import FlopCounterMode

    first = program.first(_COUNTED)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        first.log_density(torch.zeros(first.size))
    return counter.get_total_flops() / 2 * max(1.0, (program.problem.n or 1) / _COUNTED)


def _draw_groups(program: Program, fit: Fit) -> Groups:
    """posterior and sample_stats; of a network's weights every so many draws."""
    densities = {"log_p": fit.log_p, "log_q": fit.log_q}
    stats = fit.stats | {name: value for name, value in densities.items() if value is not None}
    whole = {site.name for site in program.of("discrete")}
    step = 1 if program.problem.identified else every(_count(fit), 1, _KEPT_WEIGHTS)
    some = {name: value[:, ::step] for name, value in fit.draws.items()}
    posterior = {name: v.long() if name in whole else v for name, v in some.items()}
    return {"posterior": _arrays(posterior), "sample_stats": _arrays(stats)}


def _row_groups(program: Program, fit: Fit, seed: int) -> Groups:
    """What the draws say of the rows they were learned from."""
    observed = program.of("observed")
    if not observed or not fit.draws:
        return {}
    chains = len(next(iter(fit.draws.values())))
    draws = {name: value.flatten(0, 1) for name, value in fit.draws.items()}
    groups = {}
    # Given a row's own latents its density is no prediction: nothing for leave-one-out.
    if not is_of_rows(program):
        elements = sum(site.value.numel() for site in observed)
        some = thinned(draws, elements, LIKELIHOOD_ELEMENTS, chains)
        likelihood = over_draws(program.log_likelihood, some, elements)
        by_chain = {name: value.unflatten(0, (chains, -1)) for name, value in likelihood.items()}
        groups["log_likelihood"] = _arrays(by_chain)
    if len(program.undrawn) < len(observed):
        groups["posterior_predictive"] = _arrays(replicate(program, draws, chains, seed))
    return groups


def _prior_beside(program: Program, seed: int, draws: int, products: float) -> Groups:
    """The prior groups beside a posterior; none of an improper prior, or where it takes long.

    Args:
        program: the model.
        seed: of the draws.
        draws: how many there shall be; fewer of many latents, and of a network.
        products: that it takes to predict the rows at one draw of a network.
    """
    if not draws or program.improper():
        return {}
    size = max(program.elements, 1)
    most = max(_KEPT_WEIGHTS, GROUP_ELEMENTS // size)
    draws = min(draws, most if program.problem.identified else _KEPT_WEIGHTS)
    if draws * products > _MOST_PRODUCTS:
        return {}
    with_rows = -(-GROUP_ELEMENTS // size)
    return _prior_groups(program, prior_sample(program, seed, draws, with_rows))


def _prior_groups(program: Program, draws: Mapping[str, Tensor]) -> Groups:
    """prior and prior_predictive, as one chain, of draws (S, *shape) of every site."""
    observed = {site.name for site in program.of("observed")}
    named = _arrays({name: value[None] for name, value in draws.items()})
    return {
        "prior": {name: value for name, value in named.items() if name not in observed},
        "prior_predictive": {name: value for name, value in named.items() if name in observed},
    }


def _data_groups(program: Program) -> Groups:
    """observed_data by site, and constant_data: the other data keys that are not latent."""
    problem, sites = program.problem, program.of("observed")
    observed = {site.name: site.data for site in sites}
    constant = {}
    for key, value in problem.tensors.items():
        value = torch.as_tensor(value)
        infer = key in observed or key in problem.latent_keys
        shown = infer or any(value is site.value for site in sites)
        if not shown and (problem.identified or value.numel() <= _MOST_DATA):
            constant[key] = value
    return {"observed_data": _arrays(observed), "constant_data": _arrays(constant)}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


# -- labels ------------------------------------------------------------------------------------


def _labelled(program: Program, groups: Groups, **more: Any) -> InferenceData:
    """The groups with the data's names of dimensions and entries."""
    problem = program.problem
    coords = {dim: list(values) for dim, values in problem.coords.items()}
    dims = {**_site_dims(program), **_key_dims(problem)}
    return from_groups(groups, coords=coords, dims=dims, **more)


def _site_dims(program: Program) -> dict[str, list[str]]:
    """Site to dimension names: plates by their own name, event dimensions by the data's."""
    dims = {name: _dims_of(program, site) for name, site in program.sites.items()}
    observed = [site.name for site in program.of("observed")]
    if len(observed) > 1:
        dims["+".join(observed)] = [p.name for p in program.sites[observed[0]].plates]
    return {name: named for name, named in dims.items() if named}


def _dims_of(program: Program, site: Site) -> list[str]:
    """A name for each dimension of a site: `w_dim_0` where nobody names it."""
    plates = {plate.dim: plate.name for plate in site.plates}
    batch = len(site.batch_shape)
    names = [plates.get(i - batch, f"{site.name}_dim_{i}") for i in range(batch)]
    events = list(program.problem.dims.get(site.name, ()))
    unnamed = [f"{site.name}_dim_{batch + i}" for i in range(site.event_dim)]
    return names + (events if len(events) == site.event_dim else unnamed)


def _key_dims(problem: Problem) -> dict[str, list[str]]:
    """Data key to dimension names, for keys of the rows: (row, ...)."""
    dims, plate = {}, problem.rows.plate if problem.rows else ""
    for key, value in row_tensors(problem).items():
        events = list(problem.dims.get(key, ()))
        extra = value.ndim - 1
        names = events if len(events) == extra else [f"{key}_dim_{i + 1}" for i in range(extra)]
        dims[key] = [plate, *names]
    return dims


def cell_names(program: Program, name: str) -> list[str]:
    """The scalars of a site as a summary names them (`w[bmi]`), the last index fastest."""
    site, coords = program.sites[name], program.problem.coords
    dims = zip(_dims_of(program, site), site.shape)
    return list(cells(name, [coords.get(dim, range(size)) for dim, size in dims]))
