"""What a guide draws, its log density, whether it fits its model; densities that torch lacks.

A guide's sites are the model's continuous latents, and it draws nothing that the model excludes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from models.contract import Refused

from ..core import user_code
from ..core.problem import Guide
from ..core.seeds import DISCRETE, FIT, seeded
from ..program.handlers import Batch, run, sum_of_factors
from ..program.program import Program
from ..program.sampling import base_of, over_draws

# Stream of the draws that are looked at for what is outside of supports.
_LOOK = 2
# Draws by which it is seen whether a guide stays inside of the model's supports, and if not.
_LOOKED_AT = 200
_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
_MINUS_INFINITY = "its ELBO is minus infinity; use nuts, or a guide that draws no such values"


def one_chain(program: Program, values: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Draws as a `Fit` holds them, (1, S, *shape): discrete latents and deterministics added.

    Args:
        program: the model.
        values: continuous latent to draws (S, *shape).
        seed: of the discrete latents.
    """
    with seeded(seed, DISCRETE):
        draws = program.complete(values)
    return {name: value[None] for name, value in draws.items()}


def draw_one(program: Program, guide: Callable, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """One draw of the latents from a guide, and its log density, nats.

    Args:
        program: the model.
        guide: a Pyro function of the data keys.
        batch: rows that stand for all, by whose weight the density is multiplied.
    """
    trace = run(guide, batch.tensors)
    values = {name: trace.nodes[name]["value"] for name in program.layout}
    return values, sum_of_factors(trace, batch)


def draw(program: Program, guide: Callable, draws: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws (S, *shape) from a guide of all rows, and their log density (S,), nats."""

    def draw_with_density(_: Mapping) -> dict[str, Tensor]:
        values, log_q = draw_one(program, guide, Batch(program.problem.tensors))
        return {**values, "log q": log_q}

    values = over_draws(draw_with_density, {"draw": torch.arange(draws)}, program.elements)
    return values, values.pop("log q")


def all_draws(program: Program, chosen: Guide, seed: int) -> dict[str, Tensor] | None:
    """All that a guide draws (S, *shape), where its draws are finitely many; else None.

    They are one where it gives the same value of each latent each time.
    """
    if chosen.all is not None:
        values = chosen.all()
        return None if values is None else {k: value.detach() for k, value in values.items()}
    with seeded(seed, FIT):
        first, second = (run(chosen.guide, program.problem.tensors).nodes for _ in range(2))
    for name in program.layout:
        fixed = isinstance(base_of(first[name]["fn"]), dist.Delta)
        if not (fixed and torch.equal(first[name]["value"], second[name]["value"])):
            return None
    return {name: first[name]["value"][None].detach() for name in program.layout}


def draws_labels(program: Program, chosen: Guide, seed: int) -> bool:
    """Whether a guide is a mixture over labels of its own, whose log q is not a draw's."""
    with seeded(seed, FIT):
        nodes = run(chosen.guide, program.problem.tensors).nodes.values()
    auxiliary = [node["fn"] for node in nodes if node.get("infer", {}).get("is_auxiliary")]
    return any(fn.support.is_discrete for fn in auxiliary)


# -- whether the sites of a guide are the model's ----------------------------------------------


def check_sites(program: Program, trace: poutine.Trace, batch: Batch) -> None:
    """Refuse a guide whose sites are not the model's continuous latents.

    Args:
        program: the model.
        trace: a run of the guide on the rows of the batch.
        batch: the rows.

    Raises:
        Refused: a latent without a site, a site of another shape, or one that is no latent.
    """
    for name in program.layout:
        _check_latent(program, name, trace, batch)
    for name, node in trace.nodes.items():
        _check_site(program, name, node)


def _check_latent(program: Program, name: str, trace: poutine.Trace, batch: Batch) -> None:
    """Refuse a guide without a site of a latent's name and shape."""
    if name not in trace.nodes:
        raise Refused(
            f"the guide has no site '{name}', the model's latents are "
            f'{", ".join(program.layout)}; add pyro.sample("{name}", ...)'
        )
    shape, given = _shape(program, name, batch), tuple(trace.nodes[name]["value"].shape)
    if shape == given:
        return
    if batch.weight != 1:
        raise Refused(
            f"'{name}' is a latent of each row, and the guide has shape {given} for a "
            f"batch of {shape}; leave batch_size out, or give a guide with an encoder"
        )
    raise Refused(
        f"the guide's site '{name}' has shape {given}, the model's {shape}; "
        "give it that of the model"
    )


def _check_site(program: Program, name: str, node: Mapping[str, Any]) -> None:
    """Refuse a site of the guide that is no continuous latent of the model."""
    auxiliary = node.get("infer", {}).get("is_auxiliary")
    if node["type"] != "sample" or auxiliary or isinstance(node["fn"], _Subsample):
        return
    if name not in program.sites:
        raise Refused(
            f"the guide's site '{name}' is not in the model, whose latents are "
            f"{', '.join(program.layout)}; rename it, or leave it out"
        )
    if program.sites[name].role == "discrete":
        raise Refused(f"'{name}' is discrete and summed out; leave it out of the guide")


def _shape(program: Program, name: str, batch: Batch) -> tuple[int, ...]:
    """The shape of a latent on the rows of a batch."""
    site, n = program.sites[name], program.problem.n
    shape = list(site.shape)
    for plate in site.plates:
        if plate.name == batch.plate:
            shape[plate.dim - site.event_dim] = round(n / batch.weight)
    return tuple(shape)


# -- whether the model excludes what it draws --------------------------------------------------


def check_draws(program: Program, chosen: Guide, seed: int) -> None:
    """Refuse a guide that draws what the priors or the data exclude.

    Outside of a support torch's densities may be finite, and the fit that of another model.

    Args:
        program: the model.
        chosen: a guide; one without a density is let be.
        seed: of the draws.

    Raises:
        Refused: with the latent or the observation, its line, and what to do.
    """
    if not chosen.density or not (program.bounded or program.edges):
        return
    with seeded(seed, FIT, _LOOK), pyro.validation_enabled(False):
        values, _ = draw(program, chosen.guide, _LOOKED_AT)
    check_values(program, chosen.guide, values)


def check_values(program: Program, guide: Callable, values: Mapping[str, Tensor]) -> None:
    """Refuse a guide of whose draws the priors or the data exclude some.

    Args:
        program: the model.
        guide: which drew them.
        values: site to draws (S, *shape).

    Raises:
        Refused: with the latent or the observation, its line, and what to do.
    """
    inside = over_draws(program.inside, values, program.elements) if program.bounded else {}
    for name, within in inside.items():
        if not within.all():
            raise Refused(
                f"the guide draws {name} outside the support of its prior, "
                f"{_line(program, guide, name)}; give it the support of "
                f"{type(base_of(program.sites[name].fn)).__name__} (LogNormal, Beta, ...), or "
                "use a shared guide such as normal"
            )
    if not program.edges:
        return
    for i in range(min(_LOOKED_AT, len(next(iter(values.values()))))):
        _check_excluded(program, {name: value[i] for name, value in values.items()})


def _check_excluded(program: Program, values: Mapping[str, Tensor]) -> None:
    excluded = program.excluded(values)
    if excluded is not None:
        raise Refused(f"{excluded} at values that the guide reaches: {_MINUS_INFINITY}")


def check_edges(program: Program, chosen: Guide, seed: int) -> None:
    """Refuse, after an objective that is not finite, where the density is zero near the guide.

    Args:
        program: the model.
        chosen: the guide.
        seed: of the points that are looked at.

    Raises:
        Refused: with the site that is to blame, its line, and what to do.
    """
    if not chosen.density or not program.problem.identified:
        return
    check_draws(program, chosen, seed)
    with seeded(seed, FIT, _LOOK):
        u = {"u": 2 * torch.randn(_LOOKED_AT, program.size)}
        density = over_draws(lambda point: program.log_density(point["u"]), u, program.elements)
    zero = u["u"][density == -torch.inf]
    if not len(zero):
        return
    _check_excluded(program, program.constrain(zero[0]))
    site = program.barred(zero[0])
    if site is not None:
        raise Refused(
            f"the site {site} gives a density of zero to values that the guide reaches, "
            f"{program.line(site)}: {_MINUS_INFINITY}"
        )


def _line(program: Program, guide: Callable, name: str) -> str:
    """Where in the user's file a site of a guide is written."""
    lines = user_code.Lines()
    run(guide, program.problem.tensors, lines)
    return lines.lines.get(name) or user_code.of_function(guide) or "in the guide"


# -- densities that torch lacks ----------------------------------------------------------------


class _Vector(dist.TorchDistribution):
    """A density of vectors (d,) that knows how to draw one."""

    support = dist.constraints.real_vector
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own name and type)
    has_rsample = True

    def __init__(self, loc: Tensor):
        self.loc = loc
        super().__init__(event_shape=loc.shape, validate_args=False)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)


class LowRankNormal(_Vector):
    """Normal with covariance S (I + F F^T) S, S diagonal, of low rank plus diagonal.

    Args:
        loc: mean (d,).
        scale: the diagonal of S (d,), positive.
        factor: F (d, rank).
    """

    def __init__(self, loc: Tensor, scale: Tensor, factor: Tensor):
        super().__init__(loc)
        self.scale, self.factor = scale, factor

    def rsample(self, sample_shape: torch.Size = ()) -> Tensor:
        d, rank = self.factor.shape
        along = _times(self._noise(*sample_shape, rank), self.factor.T)
        return self.loc + self.scale * (self._noise(*sample_shape, d) + along)

    def log_prob(self, value: Tensor) -> Tensor:
        """By Woodbury's identity and the determinant lemma, in O(d rank^2)."""
        v = (value - self.loc) / self.scale
        inner = self.factor.T @ self.factor
        root = torch.linalg.cholesky(inner + torch.eye(len(inner), dtype=v.dtype, device=v.device))
        along = torch.linalg.solve_triangular(root, _times(v, self.factor)[..., None], upper=False)
        square = (v**2).sum(-1) - (along[..., 0] ** 2).sum(-1)
        log_root = self.scale.log().sum() + root.diagonal().log().sum()
        return -0.5 * square - log_root - v.shape[-1] * _HALF_LOG_2_PI


class Flowing(_Vector):
    """The law of loc + L T(z) with z standard normal.

    Args:
        loc: location (d,).
        tril: L, lower triangular (d, d).
        transform: T, with `call_and_ladj` (zuko).
    """

    def __init__(self, loc: Tensor, tril: Tensor, transform: Any):
        super().__init__(loc)
        self.tril, self.transform = tril, transform
        self._drawn: tuple[Tensor | None, Tensor | None] = (None, None)

    def rsample(self, sample_shape: torch.Size = ()) -> Tensor:
        z = self._noise(*sample_shape, len(self.loc))
        v, log_slope = self.transform.call_and_ladj(z)
        u = self.loc + _times(v, self.tril.T)
        self._drawn = (u, self._log_q(z, log_slope))
        return u

    def log_prob(self, value: Tensor) -> Tensor:
        """Of the last draw as it was drawn; elsewhere by the inverse, d passes of each network."""
        if value is self._drawn[0]:
            return self._drawn[1]
        away = (value - self.loc)[..., None]
        v = torch.linalg.solve_triangular(self.tril, away, upper=False)[..., 0]
        z = self.transform.inv(v)
        return self._log_q(z, self.transform.log_abs_det_jacobian(z, v))

    def _log_q(self, z: Tensor, log_slope: Tensor) -> Tensor:
        log_base = -0.5 * (z**2).sum(-1) - z.shape[-1] * _HALF_LOG_2_PI
        return log_base - log_slope - self.tril.diagonal().log().sum()


def _times(v: Tensor, matrix: Tensor) -> Tensor:
    """`v @ matrix`, with no squeeze in place inside, which a recorded graph does not survive."""
    return (v[..., None, :] @ matrix)[..., 0, :]
