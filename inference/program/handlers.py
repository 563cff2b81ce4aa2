"""Effect handlers, and runs of a model under them: the only place that traces a model.

A run gives a trace; `factors` scores it. Handlers change what the sites of a run are: which are
latent, what values they take, what their density counts for.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Self, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor, nn
from torch.distributions import biject_to

from ..core.problem import Problem
from .sampling import QuickBernoulli, Sampling
from .sites import Bounds, Message, Tensors, Trace, Values, is_deterministic, support_within
from .supports import shape_before, support_of, within


def run(model: Callable, tensors: Tensors, *handlers: Any, validate: bool = False) -> Trace:
    """One traced run of a model, which draws what no handler gives a value.

    Args:
        model: Pyro function.
        tensors: its data, by keyword.
        handlers: effect handlers, the first innermost.
        validate: whether Pyro holds values against supports and shapes.
    """
    for handler in (*handlers, Sampling()):
        model = handler(model)
    with pyro.validation_enabled(validate):
        # In Pyro's own type each key of a message may be absent.
        return cast(Trace, poutine.trace(model).get_trace(**tensors))


# Site to its message, scored.
Factors = dict[str, dict[str, Any]]


def graphless(function: Callable, *args: Any) -> Any:
    """What a function gives, without gradients: a graph of all rows may not fit the memory."""
    try:
        with torch.no_grad():
            return function(*args)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        return function(*args)  # the model differentiates something itself


def factors(trace: Trace) -> Factors:
    """The sample sites of a trace by name, terms that are no quantity too, each scored.

    Under its key `log_prob` a site has its log density (nats) in its batch shape, scaled and
    masked as the run's handlers say.
    """
    with pyro.validation_enabled(False), QuickBernoulli():
        trace.compute_log_prob()
    nodes = trace.nodes.items()
    return {k: n for k, n in nodes if "log_prob" in n and not isinstance(n["fn"], _Subsample)}


class Batch(NamedTuple):
    """Some rows of the data, that stand for all of them.

    Attributes:
        tensors: the data keys, those of the rows cut to the batch.
        plate: the row plate; empty where there is none.
        weight: N / B, by which the density of what lies in the plate is multiplied.
    """

    tensors: Tensors
    plate: str = ""
    weight: float = 1.0

    @classmethod
    def of(cls, problem: Problem, tensors: Tensors) -> Self:
        """A problem's data of which the row keys may be those of some rows."""
        if problem.rows is None or problem.n is None:
            return cls(tensors)
        plate, keys = problem.rows
        return cls(tensors, plate, problem.n / len(tensors[keys[0]]))

    def weigh(self, node: Message) -> float:
        """The factor of a site's log density."""
        inside = any(frame.name == self.plate for frame in node["cond_indep_stack"])
        return self.weight if inside else 1.0


def sum_of_factors(trace: Trace, batch: Batch) -> Tensor:
    """Log density of all sites of a run (nats), those of the row plate weighed as the batch is."""
    scored = factors(trace).values()
    terms = (node["log_prob"].sum() * batch.weigh(node) for node in scored)
    return sum(terms, torch.zeros(()))


class OnSites(Messenger):
    """Changes the messages of some sites before their values are drawn.

    Args:
        names: of the sites; None takes all.
        change: gives what is to be other in a site's message, and nothing where it is none of its
            matter.
    """

    def __init__(self, names: Collection[str] | None, change: Callable[[Message], dict[str, Any]]):
        super().__init__()
        self.names, self.change = names, change

    def _pyro_sample(self, msg: dict) -> None:
        if self.names is None or msg["name"] in self.names:
            msg.update(self.change(msg))


def condition(values: Values) -> Messenger:
    """The handler that gives sites these values, and with them a density."""
    return poutine.condition(data=dict(values))


class Weighted(OnSites):
    """Multiplies the log density of what lies in the row plate by the weight of the batch."""

    def __init__(self, batch: Batch):
        super().__init__(None, lambda msg: {"scale": msg["scale"] * batch.weigh(msg)})


def freed(names: Collection[str]) -> Messenger:
    """Turns the named observed sites into latent ones."""

    def change(msg: Message) -> dict[str, Any]:
        if not msg["is_observed"] or is_deterministic(msg):
            return {}
        return {"is_observed": False, "value": None, "done": False}

    return OnSites(names, change)


def without_density(names: Collection[str]) -> Messenger:
    """Drops the log density of the named sites, and keeps that of all others."""
    return OnSites(names, lambda _: {"mask": False})


def excluding(names: Collection[str]) -> Messenger:
    """Makes the density of the named sites zero where it is: outside of their supports."""
    return OnSites(names, lambda msg: {"fn": within(msg["fn"])})


class Assign(Messenger):
    """Gives each latent the value of its part of the unconstrained vector `u` (d,).

    Args:
        parts: latent to its part of `u`, in its unconstrained shape.
        bounds: latent to the least and greatest values that the observations leave it.

    Attributes:
        log_jacobian: log |dT/du| of all latents in the last run, nats.
    """

    def __init__(self, parts: Values, bounds: Bounds):
        super().__init__()
        self.parts, self.bounds = parts, bounds

    def __enter__(self) -> Any:
        self.log_jacobian = torch.zeros(())
        return super().__enter__()

    def _pyro_sample(self, msg: dict) -> None:
        if msg["name"] not in self.parts:
            return
        u = self.parts[msg["name"]]
        transform = biject_to(support_within(msg, self.bounds))
        msg["value"], msg["done"] = transform(u), True
        log_slopes = transform.log_abs_det_jacobian(u, msg["value"])
        self.log_jacobian = self.log_jacobian + log_slopes.sum()


class Fitted(Messenger):
    """Gives the model's own parameters the values that were fitted, while the model runs.

    Modules look at their own tensors alone: these hold the values as long, and then their own.
    """

    def __init__(self, params: Values):
        super().__init__()
        self.params = params
        self.before: list[tuple[nn.Parameter, Tensor]] = []

    def _pyro_param(self, msg: dict) -> None:
        if msg["name"] not in self.params:
            return
        msg["value"], msg["done"] = self.params[msg["name"]], True
        own = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(own, nn.Parameter):
            self.before.append((own, own.data))
            own.data = msg["value"].detach().to(own)

    def __exit__(self, *error: Any) -> None:
        while self.before:
            own, data = self.before.pop()
            own.data = data
        super().__exit__(*error)


# Gives a starting value of a latent by its name and shape.
StartRule = Callable[[str, tuple[int, ...]], Tensor]


class Start(Messenger):
    """Starts continuous latents by a function of their site; discrete ones at one of their values.

    Args:
        start: gives the value of a continuous latent.
        label: which of their values discrete latents take, 0 the first, -1 the last, others in
            turn; None draws.
    """

    def __init__(self, start: Callable[[Message], Tensor], label: int | None = None):
        super().__init__()
        self.start, self.label = start, label

    def _pyro_sample(self, msg: dict) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or msg["value"] is not None or isinstance(fn, _Subsample):
            return
        if not fn.support.is_discrete and not isinstance(fn, dist.Delta):
            msg["value"], msg["done"] = self.start(msg), True
        elif self.label is not None and fn.has_enumerate_support:
            values = fn.enumerate_support(expand=False)
            value = values[self.label % len(values)]
            msg["value"], msg["done"] = value.expand(fn.shape()), True


def start_value(site: Message, width: float = 1.0, rule: StartRule | None = None) -> Tensor:
    """A random value of a latent to start from.

    Args:
        site: the latent, a Pyro message.
        width: how many times as wide as usual it is drawn.
        rule: gives the value by name and shape; None draws it inside of the support, uniform in
            (-2, 2) unconstrained, as Stan starts.
    """
    if rule is not None:
        return rule(site["name"], tuple(site["fn"].shape()))
    transform = biject_to(support_of(site["fn"]))
    shape = shape_before(transform, site["fn"].shape())
    return transform((torch.rand(shape) * 4 - 2) * width)
