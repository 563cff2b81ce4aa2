"""Point estimates: maximum likelihood and the posterior mode, polished by Newton's method.

How an end of the maximisation is judged is in `ends.py`.
"""

from functools import partial, wraps
from typing import Annotated, Any

from models.contract import Refused

from .. import METHODS, load
from ..core.problem import Context, Fit
from ..core.seeds import FIT, seeded
from ..core.settings import OF_NETWORKS
from ..program import memory
from ..program.program import Program
from .ascent import AscentSettings
from .draws import one_chain
from .ends import judged, refuse_steps
from .mode import mode


def _estimate(
    program: Program,
    *,
    prior: bool,
    seed: int,
    context: Context,
    starts: Annotated[int, ">= 1"] = 4,
    steps: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
    lr: Annotated[float | None, "> 0", OF_NETWORKS] = None,
    batch_size: Annotated[int | None, ">= 1", OF_NETWORKS] = None,
) -> Fit:
    """The mode of the posterior density, or of the likelihood.

    The weights of a network are climbed by `svi`'s ascent instead, and end where the steps do.

    Args:
        program: model and data; discrete latents are summed out.
        prior: whether the priors of the continuous latents are part of what is climbed.
        seed: seed of the starting points.
        context: whether to show progress; of networks alone.
        starts: number of random starting points; the best end is taken.
        steps: steps of the ascent; of networks alone, as lr and batch_size.
        lr: its first learning rate.
        batch_size: rows in a step; None takes all.

    Raises:
        Refused: the density is unbounded or jumps, or its maximiser is at infinity or not unique.
        BadSetting: settings of networks for another model.
    """
    how = AscentSettings.of_network(program.problem, steps=steps, lr=lr, batch_size=batch_size)
    if how is not None:
        of_network = load(METHODS["map" if prior else "mle"].network)
        return of_network(program, how, seed, context, prior=prior)
    if not program.size:
        raise Refused("the model has no continuous latent to estimate; use exact")
    program = program.unnarrowed()
    memory.check(program, hessian=True)
    with seeded(seed, FIT):
        points = [program.start() for _ in range(starts)]
    refuse_steps(partial(program.log_density, jacobian=False, prior=prior), points[0])
    end = mode(program, points, prior=prior)
    values, findings = judged(program, end, prior=prior)
    return Fit(
        draws=one_chain(program, {name: value[None] for name, value in values.items()}, seed),
        kind="point",
        metrics={"log_joint" if prior else "log_likelihood": end.value},
        point=values,
        findings=findings,
    )


# Both methods take the arguments of `_estimate`, which their signatures show.


@wraps(_estimate, assigned=(), updated=())
def mle(program: Program, **arguments: Any) -> Fit:
    """Maximum likelihood: the peak of p(data given continuous latents), priors dropped.

    Discrete latents are summed out with their priors.

    Raises:
        Refused: nothing is observed, the likelihood jumps, or its maximiser is not unique or at
            infinity.
        BadSetting: settings of networks for another model.
    """
    if not program.of("observed"):
        raise Refused("mle needs observations, nothing is observed; give data, or use map")
    return _estimate(program, prior=False, **arguments)


@wraps(_estimate, assigned=(), updated=())
def map_(program: Program, **arguments: Any) -> Fit:
    """Posterior mode of the density in the constrained space; equals mle under flat priors.

    Raises:
        Refused: the density is unbounded or jumps, or its maximiser is at infinity or not unique.
        BadSetting: settings of networks for another model.
    """
    return _estimate(program, prior=True, **arguments)
