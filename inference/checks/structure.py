"""What can be told from how a model is written: shapes, plates, priors, what is observed.

Each function finds what is wrong, a line for each; nothing where all is well.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from models.contract import Refused

from ..core import user_code
from ..core.seeds import PRIOR, seeded
from ..program import discrete as summed
from ..program.handlers import run
from ..program.prepare import check_support, clash
from ..program.sites import Site
from .model_view import (
    DRAWS,
    Case,
    Check,
    Proper,
    Watch,
    cross,
    expected_shape,
    from_error,
    listed,
    note,
)

# -- does it run, and always in the same way ---------------------------------------------------


def runs(case: Case) -> Iterator[Check]:
    """Whether the model can be run on the data at all, and drawn from."""
    try:
        attempts = case.attempts
    except Exception as fault:
        cause = fault.__cause__ or fault
        data = ", ".join(_shapes_of(case.raw.tensors))
        first = _invalid_before(case)
        mend = clash(cause) or f"correct that line, or the data: {data}"
        yield first or from_error("the model cannot run", cause, mend)
        return
    failed = [d for d in attempts if d.error is not None and d.watch.invalid is None]
    if failed:
        what = f"the model fails at {len(failed)} of {DRAWS} draws from the prior"
        yield from_error(what, failed[0].error)


def _invalid_before(case: Case) -> Check | None:
    """The parameter that kept the model from running, if it was one."""
    for _ in range(DRAWS):
        watch = Watch()
        with suppress(Exception):
            run(case.raw.model, case.raw.tensors, watch, Proper())
        if watch.invalid:
            name, parameter, value = watch.invalid
            what = f"the model cannot run, {parameter} is {value}"
            mend = "give what it is made of a prior inside that range, or transform it"
            return cross(what, watch.lines[name], mend)
    return None


def _shapes_of(tensors: Mapping[str, Any]) -> list[str]:
    return [f"{k} {tuple(v.shape) if isinstance(v, Tensor) else v}" for k, v in tensors.items()]


def structure(case: Case) -> Iterator[Check]:
    """Sites that come and go, or change their shape, from draw to draw."""
    sites = Counter(name for draw in case.draws for name in draw.nodes)
    for name, count in sites.items():
        shapes = {tuple(d.nodes[name]["value"].shape) for d in case.draws if name in d.nodes}
        if count < len(case.draws):
            what = f"the site {name} is there in {count} of {len(case.draws)} draws from the prior"
            yield cross(what, case.line(name), "sample it always, and use it where it applies")
        elif len(shapes) > 1:
            said = " or ".join(map(str, sorted(shapes)))
            what = f"{name} has shape {said}, as other latents will"
            yield cross(what, case.line(name), "give it the largest shape always, and mask")


# -- shapes, plates, counting ------------------------------------------------------------------


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*shapes)  # torch's own imports sympy, half a second
    except ValueError:
        return None


def _fault_of(site: Site) -> str | None:
    """Which check an observed value fails whose shape is not that of its distribution."""
    value, expected = site.shape, expected_shape(site)
    if value == expected:
        return None
    together = _broadcast(value, expected)
    if together == value and math.prod(value) > math.prod(expected):
        return "plates"
    if together == expected and not _is_column(site):
        return "once"
    return "shapes"


def _is_column(site: Site) -> bool:
    """Whether the rows stand below each other, (n, 1), where the plate wants them in its own
    dimension."""
    dims = {p.dim - site.event_dim: p.size for p in site.plates}
    return any(
        size > 1 and site.shape[dim] == 1 and size in site.shape
        for dim, size in dims.items()
        if -dim <= len(site.shape)
    )


def shapes(case: Case) -> Iterator[Check]:
    """Observed values whose shape is not that of their distribution."""
    for site in case.observed:
        if _fault_of(site) != "shapes":
            continue
        key, expected = case.keys[site.name], expected_shape(site)
        together = _broadcast(site.shape, expected)
        wanted = tuple(p.size for p in reversed(site.plates)) + site.shape[len(site.shape) :]
        wanted = expected if not _is_column(site) or site.event_dim else wanted
        what = f"{key} has shape {site.shape}, its distribution {_name(site)} has {expected}"
        what += f": together they broadcast to {together}" if together else ""
        made = ", and what its distribution is made of," if wanted != expected else ""
        mend = f"give {key}{made} the shape {wanted}"
        mend += "" if together else f", or its plate and distribution that of {key}"
        yield cross(what, case.line(site.name), mend)


def plates(case: Case) -> Iterator[Check]:
    """Batch dimensions that lie in no plate of their size."""
    for site in case.program.of("latent", "discrete", "observed"):
        if _fault_of(site) in (None, "plates"):
            yield from _outside_plates(case, site)
    for name, fn in _subsampled(case).items():
        what = f"the plate {name} takes {fn.subsample_size} of {fn.size} rows at random"
        mend = "leave subsample_size out, svi has --set batch_size"
        yield cross(f"{what}, so no two densities agree", case.line(name), mend)


def _subsampled(case: Case) -> dict[str, _Subsample]:
    """Plates that take some of their rows at random."""
    nodes = case.draws[0].trace.nodes.items()
    plates = {k: n["fn"] for k, n in nodes if isinstance(n.get("fn"), _Subsample)}
    return {k: fn for k, fn in plates.items() if fn.subsample_size not in (None, fn.size)}


def _outside_plates(case: Case, site: Site) -> Iterator[Check]:
    found = outside_plates(site)
    if found is not None:
        yield cross(found[0], case.line(site.name), found[1])


def outside_plates(site: Site) -> tuple[str, str] | None:
    """What lies in no plate, and what to do; None where all does."""
    whole = _broadcast(site.shape, expected_shape(site))
    batch = whole[: len(whole) - site.event_dim]
    dims = {plate.dim for plate in site.plates}
    sizes = [n for i, n in enumerate(reversed(batch), 1) if n > 1 and -i not in dims]
    if not sizes:
        return None
    n = sizes[0]
    what = f"the {n} values of {site.name} lie in no plate"
    if site.plates:
        what = f"{site.name} has {n} values side by side that lie in no plate"
    mend = f'write it inside `with pyro.plate("row", {n}):`'
    event = n in site.fn.batch_shape
    mend += ", or add .to_event(1) if these are one value of several numbers" if event else ""
    return what, mend


def once(case: Case) -> Iterator[Check]:
    """Observations that are counted several times."""
    for site in case.observed:
        if _fault_of(site) == "once":
            yield _repeated(case, site)
    yield from _expanded(case)
    yield from _weighted(case)
    yield from _observed_twice(case)


def _repeated(case: Case, site: Site) -> Check:
    """A value that its plates hold more often than the data do."""
    value, expected = site.shape, expected_shape(site)
    padded = (1,) * (len(expected) - len(value)) + value
    times = math.prod(expected) // max(math.prod(value), 1)
    missing = [p for p in site.plates if padded[p.dim - site.event_dim] != p.size]
    names = " and ".join(f"'{p.name}'" for p in missing)
    key, line = case.keys[site.name], case.line(site.name)
    told = f"each row of {key} is counted {times} times"
    if any(p.size in expected[len(expected) - site.event_dim :] for p in missing):
        event = f".to_event({site.event_dim})"
        less = (
            f"write .to_event({site.event_dim - 1})"
            if site.event_dim > 1
            else f"leave {event} out"
        )
        what = f"{told}: {event} makes the rows one value, which the plate {names} repeats"
        return cross(what, line, less)
    return cross(
        f"{told}: it lies in the plate {names}, for which {key} has no values of its own",
        line,
        f"leave the plate {names} out",
    )


def _weighted(case: Case) -> Iterator[Check]:
    """Sites whose density counts more or less than once, as someone has asked for."""
    for site in case.observed:
        node = case.draws[0].nodes[site.name]
        scale = torch.as_tensor(node["scale"])
        at_random = any(frame.name in _subsampled(case) for frame in node["cond_indep_stack"])
        if bool((scale != 1).any()) and not at_random:
            yield note(f"{site.name} counts {scale.flatten()[0]:g} times, by poutine.scale")


def _expanded(case: Case) -> Iterator[Check]:
    """Observed values that are a data key repeated."""
    for site in case.observed:
        for key, data in case.program.problem.tensors.items():
            same = isinstance(data, Tensor) and _storage(data) == _storage(site.value)
            if same and 1 < data.numel() < site.value.numel():
                what = f"the {data.numel()} values of {key} are observed as {site.value.numel()}"
                yield cross(what, case.line(site.name), "observe them once, without expand")


def _observed_twice(case: Case) -> Iterator[Check]:
    """Two sites that observe the same values, none of them under a mask."""
    (draw, *_) = case.draws
    plain = [s for s in case.observed if draw.nodes[s.name].get("mask") is None]
    seen: dict[Any, str] = {}
    for site in plain:
        memory = (site.value.data_ptr(), site.shape, site.value.stride())
        first = seen.setdefault(memory, site.name)
        if first != site.name and site.value.numel():
            key = case.keys[site.name]
            what = f"{key} is observed by two sites, {first} and {site.name}, and so counts twice"
            yield cross(what, case.line(site.name), "leave one of them out")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _name(site: Site) -> str:
    return type(site.base).__name__


# -- parameters, supports ----------------------------------------------------------------------


def parameters(case: Case) -> Iterator[Check]:
    """Parameters of distributions outside their range, in draws from the prior."""
    invalid = [draw.watch.invalid for draw in case.attempts if draw.watch.invalid]
    for (name, parameter), group in groupby(sorted(invalid, key=_of), key=_of):
        values = [value for _, _, value in group]
        what = f"{parameter} is {values[0]}, in {len(values)} of {DRAWS} draws from the prior"
        how = " (exp, softplus)" if values[0].endswith("> 0") else ""
        mend = f"give what it is made of a prior inside that range, or transform it{how}"
        yield cross(what, case.line(name), mend)
    if not invalid:
        yield from _fails_validation(case)


def _of(invalid: tuple[str, str, str]) -> tuple[str, str]:
    """The site and the parameter, without the value."""
    return invalid[:2]


def _fails_validation(case: Case) -> Iterator[Check]:
    """What torch and Pyro object to that belongs to no site of its own."""
    with seeded(case.seed, PRIOR), torch.no_grad():
        again = [case.attempt(validate=True) for _ in range(DRAWS)]
    failed = [d.error for d, first in zip(again, case.attempts) if d.error and not first.error]
    if failed:
        yield from_error("torch's or Pyro's validation fails", failed[0])


def support(case: Case) -> Iterator[Check]:
    """Observed values outside the support of their distribution, where no latent moves it."""
    for site in case.observed:
        if site.shape == expected_shape(site) and not site.moves:
            try:
                check_support(site, case.keys[site.name])
            except Refused as refusal:
                what, _, mend = str(refusal).rpartition("; ")
                yield cross(what, case.line(site.name), mend)
    if not case.observed:
        yield note("no values are observed")


# -- latents -----------------------------------------------------------------------------------


def priors(case: Case) -> Iterator[Check]:
    """Parameters, of the model or of a module in it, that have no prior.

    A model that comes with guides of its own states by them how it is fitted.
    """
    unfitted, hidden = case.program.unfitted, _hidden(case)
    if unfitted and case.raw.guides:
        yield note(f"{listed(unfitted)} without priors, fitted by svi with the model's own guides")
    elif unfitted:
        kinds = {_kind_of_parameter(case, name) for name in unfitted}
        what = f"no prior for {listed(unfitted)} ({' and '.join(sorted(kinds))})"
        how = f'pyro.sample("{unfitted[0]}", ...)'
        how = "PyroSample" if kinds == {"nn.Parameter"} else how
        line = case.line(unfitted[0])
        yield cross(f"{what}: only svi can fit it", line, f"give it a prior ({how})")
    if hidden:
        what = f"no prior for {listed(hidden)} (nn.Parameter), and no method fits it"
        line = user_code.of_function(case.raw.model)
        mend = "give it a prior (PyroSample in a PyroModule), or say .requires_grad_(False)"
        yield cross(what, line, mend)
    if not case.program.of("latent", "discrete"):
        yield note("the model has no latents")


def _kind_of_parameter(case: Case, name: str) -> str:
    value = case.draws[0].trace.nodes.get(name, {}).get("value")
    return "nn.Parameter" if isinstance(value, torch.nn.Parameter) else "pyro.param"


def _hidden(case: Case) -> list[str]:
    """Tensors that the density depends on and would have a gradient in, unknown to Pyro."""
    program = case.program
    try:
        value = program.log_joint(program.continuous(case.draws[0].values(program)))
    except Exception:
        return []  # for other checks to tell
    known = {id(p) for p in pyro.get_param_store().values()}
    known |= {id(leaf) for _, leaf in pyro.get_param_store().named_parameters()}
    names = _names_of_tensors(case.raw.model)
    hidden = [leaf for leaf in _leaves(value) if id(leaf) not in known]
    return [names.get(id(leaf), f"a tensor of shape {tuple(leaf.shape)}") for leaf in hidden]


def _leaves(value: Tensor) -> list[Tensor]:
    """The tensors in which a value has a gradient."""
    found, seen, waiting = [], set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += [node.variable] if hasattr(node, "variable") else []
        waiting += [following for following, _ in node.next_functions]
    return found


def _names_of_tensors(model: Callable) -> dict[int, str]:
    """Names of the tensors in the modules that a model can see."""
    function = inspect.unwrap(getattr(model, "func", model))
    scope = dict(getattr(function, "__globals__", {}))
    cells = getattr(function, "__closure__", None) or ()
    scope |= dict(zip(getattr(function, "__code__", function).co_freevars, cells)) if cells else {}
    names = {}
    for name, value in [("model", function), *scope.items()]:
        value = getattr(value, "cell_contents", value)
        if isinstance(value, torch.nn.Module):
            names |= {id(p): f"{name}.{part}" for part, p in value.named_parameters()}
        elif isinstance(value, Tensor):
            names[id(value)] = name
    return names


def discrete(case: Case) -> Iterator[Check]:
    """Discrete latents that cannot be summed out, or for which no way to do so is right."""
    latents = case.program.of("discrete")
    for site in latents:
        try:
            summed.check(site)
        except Refused as refusal:
            what, _, mend = str(refusal).rpartition("; ")
            yield cross(what, case.line(site.name), mend)
            return
    if not latents:
        yield note("no discrete latents")
        return
    try:
        _ = case.program.summed  # proved when it is made
    except Refused as refusal:
        what, _, mend = str(refusal).rpartition("; ")
        yield cross(what, case.line(latents[0].name), mend)


def observed(case: Case) -> Iterator[Check]:
    """Whether anything is observed, and not by a factor alone."""
    program = case.program
    trace = case.draws[0].trace
    factors = [name for name, n in trace.nodes.items() if isinstance(n.get("fn"), dist.Unit)]
    if program.of("observed"):
        if factors:
            yield note(f"the factor {listed(factors)} is in the density, not in log_likelihood")
        return
    if factors:
        what = f"a factor ({listed(factors)}) with no observed site: no log-likelihood, "
        mend = "write the likelihood as pyro.sample(..., obs=...)"
        yield cross(f"{what}no predictive", case.line(factors[0]), mend)
    elif program.problem.latent_keys:
        yield note(f"nothing is observed: {listed(program.problem.latent_keys)} is inferred")
    else:
        line = user_code.of_function(case.raw.model)
        yield cross("the model observes nothing", line, "give a sample statement obs=...")
