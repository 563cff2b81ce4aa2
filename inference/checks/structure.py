"""Checks of how a model is written: shapes, plates, priors, what is observed.

Each function gives a line for each problem that it finds in the model, and none where all is well.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import groupby
from operator import itemgetter

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
from .checked import Check, failure, listed, note, raised, refused
from .model_view import DRAWS, ModelView, Proper, Watch, expected_shape

# -- does it run, and always in the same way ---------------------------------------------------


def runs(view: ModelView) -> Iterator[Check]:
    """Whether the model can be run on the data at all, and drawn from."""
    try:
        attempts = view.attempts
    except Exception as error:
        cause = error.__cause__ or error
        tensors = view.raw.tensors.items()
        data = (f"{k} {tuple(v.shape) if isinstance(v, Tensor) else v}" for k, v in tensors)
        fix = clash(cause) or f"correct that line, or the data: {', '.join(data)}"
        yield _invalid_parameter(view) or raised("the model cannot run", cause, fix)
        return
    failed = [d for d in attempts if d.error is not None and d.watch.invalid is None]
    if failed:
        problem = f"the model fails at {len(failed)} of {DRAWS} draws from the prior"
        yield raised(problem, failed[0].error)


def _invalid_parameter(view: ModelView) -> Check | None:
    """The parameter of a distribution that kept the model from running, if it was one."""
    for _ in range(DRAWS):
        watch = Watch()
        with suppress(Exception):
            run(view.raw.model, view.raw.tensors, watch, Proper())
        if watch.invalid:
            name, parameter, value = watch.invalid
            problem = f"the model cannot run, {parameter} is {value}"
            return failure(problem, watch.lines[name], _VALID)
    return None


_VALID = "give what it is made of a prior inside that range, or transform it"


def structure(view: ModelView) -> Iterator[Check]:
    """Sites that come and go, or change their shape, from draw to draw."""
    sites = Counter(name for draw in view.draws for name in draw.nodes)
    for name, count in sites.items():
        shapes = {tuple(d.nodes[name]["value"].shape) for d in view.draws if name in d.nodes}
        if count < len(view.draws):
            problem = f"the site {name} is there in {count} of {len(view.draws)} draws "
            fix = "sample it always, and use it where it applies"
            yield failure(f"{problem}from the prior", view.line(name), fix)
        elif len(shapes) > 1:
            either = " or ".join(map(str, sorted(shapes)))
            problem = f"{name} has shape {either}, as other latents will"
            yield failure(problem, view.line(name), "give it the largest shape always, and mask")


# -- shapes, plates, counting ------------------------------------------------------------------


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that these broadcast to; None where they do not."""
    try:
        return np.broadcast_shapes(*shapes)  # torch's own imports sympy, half a second
    except ValueError:
        return None


def _shape_check(site: Site) -> str | None:
    """The check that an observed value fails whose shape is not that of its distribution."""
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
    """Whether the rows lie below each other, (n, 1), and not in the dimension of their plate."""
    dims = {p.dim - site.event_dim: p.size for p in site.plates}
    return any(
        size > 1 and site.shape[dim] == 1 and size in site.shape
        for dim, size in dims.items()
        if -dim <= len(site.shape)
    )


def shapes(view: ModelView) -> Iterator[Check]:
    """Observed values whose shape is not that of their distribution."""
    for site in view.observed:
        if _shape_check(site) != "shapes":
            continue
        key, expected = view.keys[site.name], expected_shape(site)
        together = _broadcast(site.shape, expected)
        wanted = expected
        if _is_column(site) and not site.event_dim:
            wanted = tuple(p.size for p in reversed(site.plates))
        kind = type(site.base).__name__
        problem = f"{key} has shape {site.shape}, its distribution {kind} has {expected}"
        problem += f": together they broadcast to {together}" if together else ""
        made = ", and what its distribution is made of," if wanted != expected else ""
        fix = f"give {key}{made} the shape {wanted}"
        fix += "" if together else f", or its plate and distribution that of {key}"
        yield failure(problem, view.line(site.name), fix)


def plates(view: ModelView) -> Iterator[Check]:
    """Batch dimensions that lie in no plate of their size."""
    for site in view.program.of("latent", "discrete", "observed"):
        if _shape_check(site) in (None, "plates"):
            for problem, fix in outside_plates(site):
                yield failure(problem, view.line(site.name), fix)
    for name, fn in _subsampled(view).items():
        problem = f"the plate {name} takes {fn.subsample_size} of {fn.size} rows at random, "
        fix = "leave subsample_size out, svi has --set batch_size"
        yield failure(f"{problem}so no two densities agree", view.line(name), fix)


def _subsampled(view: ModelView) -> dict[str, _Subsample]:
    """Plates that take some of their rows at random."""
    nodes = view.draws[0].trace.nodes.items()
    plates = {k: n["fn"] for k, n in nodes if isinstance(n.get("fn"), _Subsample)}
    return {k: fn for k, fn in plates.items() if fn.subsample_size not in (None, fn.size)}


def outside_plates(site: Site) -> Iterator[tuple[str, str]]:
    """The values of a site that lie in no plate, and a fix; nothing where all lie in one."""
    whole = _broadcast(site.shape, expected_shape(site))
    batch = whole[: len(whole) - site.event_dim]
    dims = {plate.dim for plate in site.plates}
    sizes = [n for i, n in enumerate(reversed(batch), 1) if n > 1 and -i not in dims]
    for n in sizes[:1]:
        problem = f"the {n} values of {site.name} lie in no plate"
        if site.plates:
            problem = f"{site.name} has {n} values side by side that lie in no plate"
        fix = f'write it inside `with pyro.plate("row", {n}):`'
        event = n in site.fn.batch_shape
        fix += ", or add .to_event(1) if these are one value of several numbers" if event else ""
        yield problem, fix


def once(view: ModelView) -> Iterator[Check]:
    """Observations that are counted several times."""
    for site in view.observed:
        if _shape_check(site) == "once":
            yield _repeated(view, site)
    yield from _expanded(view)
    yield from _weighted(view)
    yield from _observed_twice(view)


def _repeated(view: ModelView, site: Site) -> Check:
    """A value that its plates hold more often than the data do."""
    value, expected = site.shape, expected_shape(site)
    padded = (1,) * (len(expected) - len(value)) + value
    times = math.prod(expected) // max(math.prod(value), 1)
    missing = [p for p in site.plates if padded[p.dim - site.event_dim] != p.size]
    names = " and ".join(f"'{p.name}'" for p in missing)
    key, line, event = view.keys[site.name], view.line(site.name), site.event_dim
    problem = f"each row of {key} is counted {times} times"
    if not any(p.size in expected[len(expected) - event :] for p in missing):
        problem += f": it lies in the plate {names}, for which {key} has no values of its own"
        return failure(problem, line, f"leave the plate {names} out")
    problem += f": .to_event({event}) makes the rows one value, which the plate {names} repeats"
    fix = f"write .to_event({event - 1})" if event > 1 else "leave .to_event(1) out"
    return failure(problem, line, fix)


def _weighted(view: ModelView) -> Iterator[Check]:
    """Sites whose density counts more or less than once, because someone asked for it."""
    for site in view.observed:
        node = view.draws[0].nodes[site.name]
        scale = torch.as_tensor(node["scale"])
        at_random = any(frame.name in _subsampled(view) for frame in node["cond_indep_stack"])
        if bool((scale != 1).any()) and not at_random:
            yield note(f"{site.name} counts {scale.flatten()[0]:g} times, by poutine.scale")


def _expanded(view: ModelView) -> Iterator[Check]:
    """Observed values that are a data key repeated."""
    for site in view.observed:
        for key, data in view.program.problem.tensors.items():
            same = isinstance(data, Tensor) and _storage(data) == _storage(site.value)
            if same and 1 < data.numel() < site.value.numel():
                problem = f"the {data.numel()} values of {key} are observed as "
                problem += f"{site.value.numel()}"
                yield failure(problem, view.line(site.name), "observe them once, without expand")


def _observed_twice(view: ModelView) -> Iterator[Check]:
    """Two sites that observe the same values, none of them under a mask."""
    nodes, seen = view.draws[0].nodes, {}
    for site in (s for s in view.observed if nodes[s.name].get("mask") is None):
        memory = (site.value.data_ptr(), site.shape, site.value.stride())
        first = seen.setdefault(memory, site.name)
        if first != site.name and site.value.numel():
            key = view.keys[site.name]
            problem = f"{key} is observed by two sites, {first} and {site.name}, "
            fix = "leave one of them out"
            yield failure(f"{problem}and so counts twice", view.line(site.name), fix)


def _storage(tensor: Tensor) -> int:
    """Where a tensor's numbers lie in memory; views of it lie there too."""
    return tensor.untyped_storage().data_ptr()


# -- parameters, supports ----------------------------------------------------------------------


def parameters(view: ModelView) -> Iterator[Check]:
    """Parameters of distributions outside their range, in draws from the prior."""
    invalid = [draw.watch.invalid for draw in view.attempts if draw.watch.invalid]
    site_and_parameter = itemgetter(0, 1)
    invalid.sort(key=site_and_parameter)
    for (name, parameter), group in groupby(invalid, site_and_parameter):
        values = [value for _, _, value in group]
        problem = f"{parameter} is {values[0]}, in {len(values)} of {DRAWS} draws from the prior"
        how = " (exp, softplus)" if values[0].endswith("> 0") else ""
        yield failure(problem, view.line(name), f"{_VALID}{how}")
    if not invalid:
        yield from _fails_validation(view)


def _fails_validation(view: ModelView) -> Iterator[Check]:
    """An objection of torch's or Pyro's own validation that belongs to no parameter."""
    with seeded(view.seed, PRIOR), torch.no_grad():
        again = [view.attempt(validate=True) for _ in range(DRAWS)]
    failed = [d.error for d, first in zip(again, view.attempts) if d.error and not first.error]
    if failed:
        yield raised("torch's or Pyro's validation fails", failed[0])


def support(view: ModelView) -> Iterator[Check]:
    """Observed values outside the support of their distribution, where no latent moves it."""
    for site in view.observed:
        if site.shape == expected_shape(site) and not site.moves:
            try:
                check_support(site, view.keys[site.name])
            except Refused as refusal:
                yield refused(refusal, view.line(site.name))
    if not view.observed:
        yield note("no values are observed")


# -- latents -----------------------------------------------------------------------------------


def priors(view: ModelView) -> Iterator[Check]:
    """Parameters, of the model or of a module in it, that have no prior.

    A model that comes with guides of its own states by them how it is fitted.
    """
    unfitted, hidden = view.program.unfitted, _hidden(view)
    if unfitted and view.raw.guides:
        yield note(f"{listed(unfitted)} without priors, fitted by svi with the model's own guides")
    elif unfitted:
        kinds = {_kind_of_parameter(view, name) for name in unfitted}
        problem = f"no prior for {listed(unfitted)} ({' and '.join(sorted(kinds))})"
        module = kinds == {"nn.Parameter"}
        how = "PyroSample" if module else f'pyro.sample("{unfitted[0]}", ...)'
        line = view.line(unfitted[0])
        yield failure(f"{problem}: only svi can fit it", line, f"give it a prior ({how})")
    if hidden:
        problem = f"no prior for {listed(hidden)} (nn.Parameter), and no method fits it"
        fix = "give it a prior (PyroSample in a PyroModule), or say .requires_grad_(False)"
        yield failure(problem, user_code.of_function(view.raw.model), fix)
    if not view.program.of("latent", "discrete"):
        yield note("the model has no latents")


def _kind_of_parameter(view: ModelView, name: str) -> str:
    """How a parameter of the model was made: `nn.Parameter` or `pyro.param`."""
    value = view.draws[0].trace.nodes.get(name, {}).get("value")
    return "nn.Parameter" if isinstance(value, torch.nn.Parameter) else "pyro.param"


def _hidden(view: ModelView) -> list[str]:
    """Tensors that the density depends on and would have a gradient in, unknown to Pyro."""
    program = view.program
    try:
        value = program.log_joint(program.continuous(view.draws[0].values(program)))
    except Exception:
        return []  # other checks report it
    known = {id(p) for p in pyro.get_param_store().values()}
    known |= {id(leaf) for _, leaf in pyro.get_param_store().named_parameters()}
    names = _names_of_tensors(view.raw.model)
    hidden = [leaf for leaf in _leaves(value) if id(leaf) not in known]
    return [names.get(id(leaf), f"a tensor of shape {tuple(leaf.shape)}") for leaf in hidden]


def _leaves(value: Tensor) -> list[Tensor]:
    """The tensors in which a value has a gradient."""
    leaves, seen, waiting = [], set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaves += [node.variable] if hasattr(node, "variable") else []
        waiting += [following for following, _ in node.next_functions]
    return leaves


def _names_of_tensors(model: Callable) -> dict[int, str]:
    """Names of the tensors in the modules that a model can see."""
    function = inspect.unwrap(getattr(model, "func", model))
    scope = {"model": function, **getattr(function, "__globals__", {})}
    scope |= inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    names = {}
    for name, value in scope.items():
        if isinstance(value, torch.nn.Module):
            names |= {id(p): f"{name}.{part}" for part, p in value.named_parameters()}
        elif isinstance(value, Tensor):
            names[id(value)] = name
    return names


def discrete(view: ModelView) -> Iterator[Check]:
    """Discrete latents that cannot be summed out, or for which no way to do so is right."""
    latents = view.program.of("discrete")
    for site in latents:
        try:
            summed.check(site)
        except Refused as refusal:
            yield refused(refusal, view.line(site.name))
            return
    if not latents:
        yield note("no discrete latents")
        return
    try:
        _ = view.program.summed  # proved when it is made
    except Refused as refusal:
        yield refused(refusal, view.line(latents[0].name))


def observed(view: ModelView) -> Iterator[Check]:
    """Whether anything is observed, and not by a factor alone."""
    program = view.program
    trace = view.draws[0].trace
    factors = [name for name, n in trace.nodes.items() if isinstance(n.get("fn"), dist.Unit)]
    if program.of("observed"):
        if factors:
            yield note(f"the factor {listed(factors)} is in the density, not in log_likelihood")
        return
    if factors:
        problem = f"a factor ({listed(factors)}) with no observed site: no log-likelihood, "
        fix = "write the likelihood as pyro.sample(..., obs=...)"
        yield failure(f"{problem}no predictive", view.line(factors[0]), fix)
    elif program.problem.latent_keys:
        yield note(f"nothing is observed: {listed(program.problem.latent_keys)} is inferred")
    else:
        line = user_code.of_function(view.raw.model)
        yield failure("the model observes nothing", line, "give a sample statement obs=...")
