"""Checks of a model's numbers: density, gradient, recorded graph, guide and predictions.

Each function gives a line for each problem that it finds, or that is worth a note, and none where
all is well.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pyro
import torch
from pyro import poutine
from torch import Tensor

from models.contract import Refused

from ..core import user_code
from ..core.machine import tolerance
from ..core.problem import Guide
from ..core.seeds import PRIOR, seeded
from ..methods.draws import check_sites
from ..methods.guides import resolve
from ..program.handlers import Batch, factors, run
from ..program.kinks import difference
from ..program.program import Program
from ..program.record import Unrecordable
from ..program.sampling import base_of, over_draws
from ..program.sites import Site
from ..program.supports import is_inside
from .checked import Check, failure, listed, note, raised, refused
from .model_view import DRAWS, POINTS, ModelView, Watch, expected_shape

# Data sets from the prior: what none of them reaches has a probability below 1e-3. Of large data
# there are fewer, some seconds' worth, but so many that their central 95 % are known.
_REPLICATES, _FEWEST, _DRAWN = 1000, 200, 20_000_000
# Coordinates of the gradient that are compared with differences, at a point.
_COORDINATES = 10


# -- density -----------------------------------------------------------------------------------


def density(view: ModelView) -> Iterator[Check]:
    """A log density or gradient that is not finite at draws or random points."""
    program = view.program
    points = [draw.unconstrained(program) for draw in view.draws]
    points += [torch.rand(program.size) * 4 - 2 for _ in range(DRAWS)]
    pairs = [_value_and_gradient(program, u) for u in points]
    values, slopes = (torch.stack(part) for part in zip(*pairs))  # (points,), (points, d)
    where = f"of {len(points)} points (draws from the prior, and random ones)"
    if not values.isfinite().all():
        yield _not_finite(view, points, values, where)
    elif not slopes.isfinite().all():
        yield _no_slope(view, slopes, where)
    elif not torch.equal(program.log_density(points[0]).detach(), values[0]):
        problem = "the log density is another each time at the same values of the latents"
        fix = "draw random numbers by pyro.sample, or give them as data"
        yield failure(problem, user_code.of_function(view.raw.model), fix)


def _no_slope(view: ModelView, slopes: Tensor, where: str) -> Check:
    """A gradient (points, d) that is not finite at some points."""
    flawed = ~slopes.isfinite()
    name = _latent(view.program, int(flawed.any(0).nonzero()[0]))
    problem = f"the gradient of the log density in {name} is {slopes[flawed][0]} at "
    problem += f"{int(flawed.any(1).sum())} {where}, the density is finite"
    return failure(problem, view.line(name), "look for a root, abs or where of what may be zero")


def _not_finite(view: ModelView, points: Sequence[Tensor], values: Tensor, where: str) -> Check:
    """A failed check; a mere note where the data exclude some values of the latents."""
    wrong = (~values.isfinite()).nonzero().flatten().tolist()
    value, site = values[wrong[0]].item(), view.program.barred(points[wrong[0]])
    problem = f"the log density is {value} at {len(wrong)} {where}"
    problem += f", by the site {site}" if site else ""
    line = view.line(site) if site else user_code.of_function(view.raw.model)
    if not (values[wrong] == -math.inf).all():
        return failure(problem, line, "look for a logarithm, root or quotient of what may be zero")
    if len(wrong) == len(points):
        view.program.start()  # refuses, naming the observation, where there is no other point
    return note(f"{problem}: the data exclude such values, nuts has an edge to step back from")


def _value_and_gradient(program: Program, u: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and gradient (d,) at a point (d,), also without continuous latents."""
    if program.size:
        return program.density_and_gradient(u)
    return program.log_density(u).detach(), u


def _latent(program: Program, coordinate: int) -> str:
    """The latent that a coordinate of the unconstrained vector belongs to."""
    return next(n for n, (part, _) in program.layout.items() if coordinate < part.stop)


def gradient(view: ModelView) -> Iterator[Check]:
    """A gradient that differs from central differences."""
    if not view.program.size:
        yield note("no continuous latents")
        return
    wrong = next(filter(None, (_wrong_slope(view.program, u) for u in view.points)), None)
    if wrong:
        i, slope, numeric = wrong
        name = _latent(view.program, i)
        problem = f"the gradient of the log density in {name} is {slope:.4g}"
        problem += f", by central differences {numeric:.4g}"
        line = getattr(view.untraced, "place", None) or view.line(name)
        fix = "take no .item(), .detach(), float(), NumPy or torch.tensor([...]) of a latent "
        yield failure(problem, line, f"{fix}(torch.stack keeps its gradient)")


def _wrong_slope(program: Program, u: Tensor) -> tuple[int, float, float] | None:
    """A coordinate, the gradient in it, and the difference that it should equal."""
    value, slopes = program.density_and_gradient(u)
    error = 1e-4 if u.dtype is torch.float64 else 1e-2
    error *= max(1.0, float(slopes.abs().max()), 1e-3 * float(value.abs()))
    for i in torch.randperm(program.size)[:_COORDINATES].tolist():
        slope, e = float(slopes[i]), torch.zeros_like(u)
        e[i] = 1.0
        numeric = difference(program.log_density, u, e, slope, error)
        if not abs(numeric - slope) <= error:
            return i, slope, numeric
    return None


def likelihood(view: ModelView) -> Iterator[Check]:
    """A pointwise log-likelihood that is not log joint minus log prior."""
    program = view.program
    if not view.observed:
        yield note("nothing is observed")
        return
    for draw, u in zip(view.draws[:POINTS], view.points):
        values = draw.values(program) | program.constrain(u)
        with torch.no_grad():
            parts = program.log_likelihood(values)
            pointwise = float(sum(part.sum() for part in parts.values()))
            whole = _without_prior(program, values, u)
        if program.has_factor:
            yield note("the factor is left out, it belongs to no observation")
            return
        small = tolerance(torch.get_default_dtype())
        if not math.isclose(pointwise, whole, rel_tol=small, abs_tol=small):
            problem = f"the log-likelihood of the observations adds up to {pointwise:.6g}"
            problem += f", log joint minus log prior is {whole:.6g}"
            line = view.line(view.observed[0].name)
            yield failure(problem, line, "let each observation be one value of its site")
            return


def _without_prior(program: Program, values: Mapping[str, Tensor], u: Tensor) -> float:
    """Log joint minus log prior: labels of the rows summed out, others at their drawn values."""
    if program.sums_rows or not program.of("discrete"):
        return float(program.log_density(u, jacobian=False, prior=False))
    trace = run(program.model, program.problem.tensors, poutine.condition(data=values))
    scored = factors(trace)
    prior = sum(scored[name]["log_prob"].sum() for name in values)
    return float(sum(node["log_prob"].sum() for node in scored.values()) - prior)


def traced(view: ModelView) -> Iterator[Check]:
    """A traced density that differs from Pyro's, or that cannot be traced."""
    program = view.program
    if not program.size:
        yield note("no continuous latents")
        return
    error = view.untraced
    if error is None:
        return
    problem = "the log density cannot be traced, and runs slowly"
    if isinstance(error, Unrecordable):
        fix = "write it by torch.where(condition, a, b)"
        yield failure(f"{problem}: {error}", None, fix, error)
    else:
        yield raised(problem, error, "it is right without, or use other operations there")


# -- guides, predictions -----------------------------------------------------------------------


def guide(view: ModelView) -> Iterator[Check]:
    """Sites of a guide that are not the model's latents, or lie outside their priors."""
    program = view.program
    guides = {name: name for name in program.problem.guides}
    if view.guide is not None:
        guides = {getattr(view.guide, "__name__", str(view.guide)): view.guide}
    if not guides:
        yield note("the model has no guide of its own")
    for name, guide in guides.items():
        with pyro.get_param_store().scope():
            for fault in _guide_faults(view, guide):
                several = len(guides) > 1
                yield replace(fault, what=f"'{name}': {fault.what}") if several else fault


def _guide_faults(view: ModelView, guide: str | Guide | Callable) -> Iterator[Check]:
    """The problems of one guide: it cannot run, has other sites, or draws outside a support."""
    program, watch = view.program, Watch()
    try:
        guide = resolve(guide, program).guide
    except Exception as error:
        yield note(f"not checked, it cannot be made: {error}")
        return
    tensors = program.problem.tensors
    try:
        trace = run(guide, tensors, watch)
    except Exception as error:
        yield raised("the guide cannot run", error)
        return
    try:
        check_sites(program, trace, Batch(tensors))
    except Refused as refusal:
        named = [name for name in watch.lines if f"site '{name}'" in str(refusal)]
        line = watch.lines[named[0]] if named else user_code.of_function(guide)
        yield refused(refusal, line)
        return
    values = {name: trace.nodes[name]["value"] for name in program.layout}
    model = run(program.model, tensors, poutine.condition(data=values))
    for name, value in values.items():
        fn = model.nodes[name]["fn"]
        if not is_inside(fn, value):
            problem = f"the guide draws {name} outside the support of its prior"
            fix = f"give it the support of {type(base_of(fn)).__name__} (LogNormal, Beta, ...)"
            yield failure(problem, watch.lines[name], fix)


def predictive(view: ModelView) -> Iterator[Check]:
    """What the prior predicts, beside the data."""
    program = view.program
    if not view.observed:
        yield note("nothing is observed")
        return
    if program.undrawn:
        yield note(f"{listed(program.undrawn)} has no sample(): the prior predicts nothing there")
    drawn = [site for site in view.observed if site.name not in program.undrawn]
    if not drawn:
        return
    if program.improper():
        yield note(f"the prior of {listed(program.improper())} is improper and predicts nothing")
        return
    for site in drawn:
        if site.shape != expected_shape(site):
            shape = expected_shape(site)
            yield note(f"not compared, the prior draws {site.name} of shape {shape}")
            return
    elements = program.elements
    replicates = min(_REPLICATES, max(_FEWEST, _DRAWN // max(elements, 1)))
    with seeded(view.seed, PRIOR):
        each = torch.arange(replicates)
        predicted = over_draws(lambda _: _statistics(program.prior(), drawn), each, elements)
    data = _statistics({s.name: s.data[~s.data.isnan()] for s in drawn}, drawn)
    for site in drawn:
        yield _compared(site.name, data[site.name].tolist(), predicted[site.name])


def _statistics(values: Mapping[str, Tensor], sites: Sequence[Site]) -> dict[str, Tensor]:
    """Mean, sd, least and greatest of each site, (4,)."""
    statistics = {}
    for site in sites:
        flat = values[site.name].flatten().to(torch.get_default_dtype())
        sd = ((flat - flat.mean()) ** 2).mean().sqrt()
        statistics[site.name] = torch.stack([flat.mean(), sd, flat.min(), flat.max()])
    return statistics


def _compared(name: str, data: Sequence[float], drawn: Tensor) -> Check:
    """The statistics of the data, and a note where the prior predicts none so far out.

    Args:
        name: of the observed site.
        data: mean, sd, least and greatest.
        drawn: the same of each data set that the prior predicts (replicates, 4).
    """
    (mean, sd, least, most), (low, high) = data, drawn.nanquantile(_CENTRAL.to(drawn), 0)
    mean = 0.0 if abs(mean) < 1e-9 * sd else mean  # of standardised data, but for rounding
    text = f"{name}: mean {mean:.4g} (prior 95 %: {low[0]:.4g} to {high[0]:.4g}), "
    text += f"sd {sd:.4g} ({low[1]:.4g} to {high[1]:.4g}), "
    text += f"range {least:.4g} to {most:.4g} ({low[2]:.4g} to {high[3]:.4g})"
    columns = enumerate(("mean", "sd"))
    far = [statistic for i, statistic in columns if not _reached(data[i], drawn[:, i])]
    if not far:
        return Check("", True, text)
    return note(
        f"{text}: in none of {len(drawn)} draws is the {' or the '.join(far)} so far out; "
        "rescale the data, or widen the prior"
    )


def _reached(value: float, drawn: Tensor) -> bool:
    """Whether the finite ones of what the prior predicts reach so far."""
    finite = drawn[drawn.isfinite()]
    return not len(finite) or bool(finite.min() <= value <= finite.max())


_CENTRAL = torch.tensor([0.025, 0.975], dtype=torch.float64)
