"""The shared guides, and the one that was asked for: a function of the program gives a `Guide`.

They cover the continuous latents, as a density of the unconstrained vector u (d,) mapped into the
supports; discrete latents are summed out of the model, never guided. A guide may take one
argument after its name: `lowrank:5`.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.infer import autoguide
from pyro.infer.autoguide import AutoContinuous, AutoGuide
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import biject_to

from models.contract import BadSetting, Fault, Refused, UsageError, nearest

from .. import GUIDES
from .. import guide as shared
from ..core import settings
from ..core.problem import Guide
from ..program import memory
from ..program.handlers import OnSites, run, start_value
from ..program.program import Program
from ..program.supports import Supported
from .draws import Flowing, LowRankNormal

# Where the values of a site start: site (a Pyro message) to a value in its support.
Init = Callable[[Any], Tensor]

# Parameters that pull on each other rise slowly: seen over 100 steps, `mvn` ends 0.5 nats early.
_SLOW = {"window": 200}
# The networks of a flow settle at smaller steps than the 0.1 of the others.
_FLOW = {"lr": 0.03, **_SLOW}
# Splines are noisier: of 31 weights the ELBO ends 0.25 nats lower with 8 draws, as soon.
_SPLINES = {**_FLOW, "particles": 32}


def normal(program: Program, init: Init = start_value) -> Guide:
    """Mean field: independent normals in the unconstrained space; too narrow under correlation."""
    return Guide(_auto(autoguide.AutoNormal, program, init))


def mvn(program: Program, init: Init = start_value) -> Guide:
    """One normal with a full covariance in the unconstrained space; d(d+3)/2 parameters."""
    _check_square(program)
    return Guide(_auto(autoguide.AutoMultivariateNormal, program, init), settings=_SLOW)


def lowrank(
    program: Program, init: Init = start_value, *, rank: Annotated[int | None, ">= 1"] = None
) -> Guide:
    """A normal of low rank plus diagonal, default rank sqrt(d); many latents, few directions.

    Covariance S (I + F F^T) S with S diagonal and F (d, rank): Ong, Nott and Smith (2018),
    Gaussian variational approximation with a factor covariance structure, eq. 4, in the scales S.
    It has d (rank + 2) parameters, where `mvn` has d(d+3)/2.

    Args:
        program: the model and its data.
        init: where the location starts.
        rank: number of directions.
    """
    return Guide(_auto(partial(_LowRank, rank=rank), program, init), settings=_SLOW)


def structured(program: Program, init: Init = start_value) -> Guide:
    """A full covariance within each site, none between sites; weights apart from their scales."""
    _check_square(program)
    return Guide(_auto(partial(_Blocks, layout=program.layout), program, init), settings=_SLOW)


def maf(
    program: Program, init: Init = start_value, *, transforms: Annotated[int, ">= 1"] = 2
) -> Guide:
    """A flow of affine autoregressive layers (zuko): curved posteriors, up to some dozen latents.

    Papamakarios, Pavlakou and Murray (2017), Masked autoregressive flow, arXiv:1705.07057. See
    `_Flow` for the direction and the start. In one dimension it is a normal.

    Args:
        program: the model and its data.
        init: where the location starts.
        transforms: number of autoregressive layers, each with a network of its own.
    """
    return Guide(_flow(program, init, "MAF", transforms), settings=_FLOW)


def nsf(
    program: Program, init: Init = start_value, *, transforms: Annotated[int, ">= 1"] = 2
) -> Guide:
    """A flow of spline layers (zuko): skewed and curved posteriors, up to some dozen latents.

    Durkan, Bekasov, Murray and Papamakarios (2019), Neural spline flows, arXiv:1906.04032. See
    `_Flow` for the direction and the start.

    Args:
        program: the model and its data.
        init: where the location starts.
        transforms: number of autoregressive layers, each with a network of its own.
    """
    return Guide(_flow(program, init, "NSF", transforms), settings=_SPLINES)


def parse(text: str, own: Iterable[str] = ()) -> tuple[str, dict[str, Any]]:
    """`lowrank:5` as the guide's name and its argument, `("lowrank", {"rank": 5})`.

    Args:
        text: a name, with an argument after a colon where the guide takes one.
        own: names of the model's own guides, which take none.

    Raises:
        UsageError: no guide has that name; with the nearest.
        BadSetting: an argument out of its range, or of a guide that takes none.
    """
    name, colon, argument = text.partition(":")
    known = [*own, *(kind for kind in GUIDES if kind not in own)]
    if name not in known:
        near = nearest(name, known)
        raise UsageError(f"there is no guide '{name}' here; {near}")
    taken = {} if name in own else settings.declared(shared(name))
    if not colon:
        return name, {}
    if not taken:
        raise BadSetting(f"the guide {name} takes no argument; write {name}")
    (setting,) = taken.values()
    if argument.strip().lower() in ("", "none"):
        raise BadSetting(f"{text} lacks its {setting.name}; write {name}, or {name}:2")
    return name, {setting.name: settings.check(setting, argument)}


def resolve(guide: str | Guide | Callable, program: Program, init: Init | None = None) -> Guide:
    """The `Guide` of that name (or function): the model's own first, then the shared ones.

    One of Pyro's automatic guides is copied, as it was made: what it learns stays with the run.

    Args:
        guide: a name, with an argument after a colon where it takes one; or a function.
        program: the model that it is for.
        init: where the location of a shared guide begins; None takes the problem's own rule.

    Raises:
        UsageError: no guide has that name. BadSetting: its argument is none, or out of range.
    """
    init = program.start_of if init is None else init
    if isinstance(guide, Guide):
        return replace(guide, guide=_anew(guide.guide))
    if isinstance(guide, str) and guide not in program.problem.guides:
        name, argument = parse(guide)
        return shared(name)(program, init, **argument)
    objective = program.problem.objectives.get(guide) if isinstance(guide, str) else None
    return Guide(program.kept(_anew(_function(guide, program))), objective=objective)


def is_laplace(guide: str | Guide | Callable, program: Program) -> bool:
    """Whether a guide is Pyro's `AutoLaplaceApproximation`, which is a point while it trains."""
    return isinstance(module_of(_function(guide, program)), autoguide.AutoLaplaceApproximation)


def module_of(guide: Any) -> nn.Module | None:
    """The module that a guide is, under its options and handlers; None where it is a function."""
    guide = inspect.unwrap(guide)
    if isinstance(guide, partial):
        return module_of(guide.func)
    return guide if isinstance(guide, nn.Module) else None


def _function(guide: str | Guide | Callable, program: Program) -> Any:
    """The function behind the name of one of the model's own guides; others as they are."""
    if isinstance(guide, str):
        name, _ = parse(guide, program.problem.guides)
        return program.problem.guides.get(name)
    return guide.guide if isinstance(guide, Guide) else guide


def _anew(guide: Any) -> Any:
    """A copy of one of Pyro's automatic guides as if it had never been called; others themselves.

    These take their shapes from the data of their first call, and learn ever further.
    """
    if isinstance(guide, partial):
        return partial(_anew(guide.func), *guide.args, **guide.keywords)
    if not isinstance(guide, AutoGuide):
        return guide
    parts = [part for part in guide.modules() if isinstance(part, AutoGuide)]
    known = [(part._model, part.master) for part in parts]
    # What a first call makes is not copied.
    made = [vars(part).get(name) for part in parts for name in ("prototype_trace", "plates")]
    flows = [part for part in parts if isinstance(part, autoguide.AutoNormalizingFlow)]
    made += [flow.transform for flow in flows]
    instead = {id(part): None for part in made if part is not None}
    instead |= {id(flow._prototype_tensor): torch.zeros(()) for flow in flows}
    copied = deepcopy(guide, instead)
    twins = [part for part in copied.modules() if isinstance(part, AutoGuide)]
    for part, twin, (model, master) in zip(parts, twins, known):  # a copy takes these off
        part._model, part.master = model, master
        twin._model = model
    return copied


# -- how they are made -------------------------------------------------------------------------


def _check_square(program: Program) -> None:
    """Refuse a matrix of all latents that would not fit into memory, before it is made."""
    memory.refuse_square(program.size, "covariance", "use --guide lowrank or normal")


def _auto(kind: Callable[..., AutoGuide], program: Program, init: Init) -> AutoGuide:
    if not program.size:
        raise Refused("the model has no continuous latent for a guide to cover; use exact")
    hidden = [site.name for site in program.of("discrete")]
    model = poutine.block(program.model, hide=hidden) if hidden else program.model
    latents = program.of("latent")
    if any(site.support is not site.fn.support for site in latents):
        # Pyro's guides ask for the supports, which are not always what torch declares.
        support = program.support
        model = OnSites(program.layout, lambda m: {"fn": Supported(m["fn"], support(m))})(model)
    if any(site.moves for site in latents):
        kind = _moving(kind, program)
    # Starting points come from the supports: improper priors cannot be sampled.
    # The noise of a network's weights adds up over a layer.
    scale = 0.1 if program.problem.identified else 0.01
    return kind(model, init_loc_fn=init, init_scale=scale)


def _moving(kind: Callable[..., AutoGuide], program: Program) -> Callable[..., AutoGuide]:
    """The kind of guide, whose draws are carried into supports that depend on other latents."""
    if isinstance(kind, partial):
        return partial(_moving(kind.func, program), **kind.keywords)
    # Of the same name: parameters bear it.
    return type(kind.__name__, (_Moving, kind), {"program": program})


class _Moving(AutoGuide):
    """A guide that transforms by the supports that the model gives at each of its draws.

    Pyro's guides transform by the supports of their first run.
    """

    program: Program

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        drawn = self._draw(plates)
        with poutine.block():
            trace = run(self.program.model, kwargs, self.program.assign(drawn))
        return {name: self._carried(trace.nodes[name], u, plates) for name, u in drawn.items()}

    def _draw(self, plates: Mapping[str, Any]) -> dict[str, Tensor]:
        """The unconstrained values of all latents."""
        if isinstance(self, AutoContinuous):
            return {site["name"]: u for site, u in self._unpack_latent(self.sample_latent())}
        drawn = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            normal = dist.Normal(*self._get_loc_and_scale(name)).to_event(self._event_dims[name])
            with _inside(site, plates):
                own = {"is_auxiliary": True}
                drawn[name] = pyro.sample(f"{name}_unconstrained", normal, infer=own)
        return drawn

    def _carried(self, site: Mapping[str, Any], u: Tensor, plates: Mapping[str, Any]) -> Tensor:
        """The site of a latent, at the value that the model gave it, with its density."""
        value, event_dim = site["value"], site["fn"].event_dim
        log_slope = biject_to(self.program.support(site)).log_abs_det_jacobian(u, value)
        log_slope = sum_rightmost(log_slope, log_slope.dim() - value.dim() + event_dim)
        with _inside(site, plates):
            delta = dist.Delta(value, log_density=-log_slope, event_dim=event_dim)
            return pyro.sample(site["name"], delta)


@contextmanager
def _inside(site: Mapping[str, Any], plates: Mapping[str, Any]) -> Iterator[None]:
    """Inside the plates of a site."""
    with ExitStack() as stack:
        for frame in site["cond_indep_stack"]:
            stack.enter_context(plates[frame.name])
        yield


def _flow(program: Program, init: Init, kind: str, transforms: int) -> AutoGuide:
    try:
        from zuko import flows
    except ImportError:
        raise Fault('the flow guides need zuko; pip install "bayeszoo[flows]"') from None
    _check_square(program)
    return _auto(partial(_Flow, flow=getattr(flows, kind), transforms=transforms), program, init)


class _Located(AutoContinuous):
    """A guide of the whole unconstrained vector with a location (d,) and scales (d,).

    Args:
        model: the model, its discrete latents hidden.
        init_loc_fn: where the location starts.
        init_scale: where the scales start.
        given: what a kind of guide wants to know besides.
    """

    def __init__(self, model: Callable, *, init_loc_fn: Init, init_scale: float, **given: Any):
        self._init_scale, self._given = init_scale, given
        super().__init__(model, init_loc_fn=init_loc_fn)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.loc = nn.Parameter(self._init_loc())
        scale = torch.full_like(self.loc, self._init_scale)
        self.scale = PyroParam(scale, dist.constraints.softplus_positive)
        self._add_parameters(**self._given)

    def _add_parameters(self) -> None:
        """Make the parameters that a kind of guide has besides."""


class _LowRank(_Located):
    """Low rank plus diagonal; Pyro's own can be neither vectorised nor traced."""

    def _add_parameters(self, rank: int | None) -> None:
        # Not zero, where the gradient is zero too.
        start = torch.randn(self.latent_dim, rank or round(self.latent_dim**0.5))
        self.factor = nn.Parameter(0.1 * start)

    def get_posterior(self, *args: Any, **kwargs: Any) -> LowRankNormal:
        return LowRankNormal(self.loc, self.scale, self.factor)


class _Blocks(_Located):
    """A normal whose covariance is block diagonal, a block for each site."""

    def _add_parameters(self, layout: Mapping[str, tuple[slice, Any]]) -> None:
        self._trils = [f"tril_{i}" for i in range(len(layout))]
        for name, (part, _) in zip(self._trils, layout.values()):
            start = torch.eye(part.stop - part.start)
            setattr(self, name, PyroParam(start, dist.constraints.unit_lower_cholesky))

    def get_posterior(self, *args: Any, **kwargs: Any) -> torch.distributions.Distribution:
        tril = torch.block_diag(*(getattr(self, name) for name in self._trils))
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale[:, None] * tril)


class _Flow(_Located):
    """u = loc + S L T(z): z standard normal, T the flow, L unit lower triangular, S the scales.

    The autoregressive networks read z, not u (Kingma et al. 2016, Improving variational inference
    with inverse autoregressive flow, arXiv:1606.04934): a draw and its log density take one pass,
    where the other direction takes d, and an ELBO needs draws. T starts as the identity, so that
    the flow starts as `mvn` does; its family holds that of `mvn`, but its fit is noisier.
    """

    def _add_parameters(self, flow: Callable, transforms: int) -> None:
        self.tril = PyroParam(torch.eye(self.latent_dim), dist.constraints.unit_lower_cholesky)
        made = flow(self.latent_dim, transforms=transforms, hidden_features=(32, 32))
        self.flow = made.transform.to(self.loc)
        with torch.no_grad():
            for layer in self.flow.modules():
                last = layer.hyper[-1].parameters() if hasattr(layer, "hyper") else []
                for parameter in last:
                    parameter.zero_()

    def get_posterior(self, *args: Any, **kwargs: Any) -> Flowing:
        return Flowing(self.loc, self.scale[:, None] * self.tril, self.flow())
