"""Two correlated Gaussians: marginals, conditionals and the limits of mean field.

Lecture A's two jointly Gaussian variables, each with standard deviation 1. With nothing observed
both are latent: a correlated target whose marginals have sd 1, on which a mean-field guide is
visibly wrong (its sds are those of the *conditionals*). Give one variable and the other is
inferred from it.

    x     ~ Normal(0, 1)
    y | x ~ Normal(rho x, sqrt(1 - rho^2))     so (x, y) ~ Normal(0, [[1, rho], [rho, 1]])

Data:   x or y, a number each; what is left out is inferred. `--data y=1.5`, or a JSON object.
Priors: none beyond the joint; rho is an option.
Exact:  nothing observed: Normal(0, [[1, rho], [rho, 1]]). One observed:
        x | y ~ Normal(rho y, sqrt(1 - rho^2)), and the same with x and y exchanged.
        (In general the mean is mu_x + rho_xy / sigma_y^2 (y - mu_y): the lecture's slide divides
        by sigma_x^2, which is a slip; here both are 1.)
Known failure: mean field is too narrow: sds sqrt(1 - rho^2) = 0.436 for rho = 0.9, not 1, and its
        ELBO stays -log(1 - rho^2) / 2 = 0.83 nats below the evidence.

References: Bishop (2006), Pattern Recognition and Machine Learning, sections 2.3.1 and 10.1.2.
"""

from math import sqrt
from typing import Annotated, Any

import numpy as np
import pyro
import pyro.distributions as dist
import scipy

from .contract import BadInput, Data, Entry, Exact, Inference
from .data.columns import assignments, name_of


def model(x, y, *, rho: Annotated[float, "> -1", "< 1"] = 0.9):
    x = pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
    pyro.sample("y", dist.Normal(rho * x, sqrt(1 - rho**2)), obs=y)


def data(source: Any = None) -> Data:
    """Nothing (both are latent), or one of x and y.

    Args:
        source: `y=1.5`, `x=-0.3`, or a JSON file such as `{"y": 1.5}`; default nothing observed.

    Raises:
        BadInput: another name than x and y, both of them, or something that is no number.
    """
    if source is None:
        return Data(tensors={}, source="nothing observed")
    values = assignments(source, keys=("x", "y"))
    if len(values) == 2:
        raise BadInput(f"x and y are both given ({source}), nothing is left to infer; give one")
    return Data(tensors=values, source=name_of(source))


def exact(data: Data, *, rho: float) -> Exact:
    """The joint, or the conditional of the one that was left out (Bishop 2006, eq. 2.81, 2.82)."""
    latent = [name for name in ("x", "y") if name not in data.tensors]
    if len(latent) == 2:
        covariance = np.array([[1, rho], [rho, 1]])
        return Exact(
            sample=lambda n, rng: _columns(rng.multivariate_normal([0, 0], covariance, size=n)),
            marginals={"x": scipy.stats.norm(0, 1), "y": scipy.stats.norm(0, 1)},
            log_evidence=0.0,
        )
    (given,) = data.tensors.values()
    conditional = scipy.stats.norm(rho * float(given), sqrt(1 - rho**2))
    return Exact(
        sample=lambda n, rng: {latent[0]: conditional.rvs(n, random_state=rng)},
        marginals={latent[0]: conditional},
        log_evidence=float(scipy.stats.norm.logpdf(float(given))),
    )


def _columns(draws: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": draws[:, 0], "y": draws[:, 1]}


def refuses(method: str, options: dict, data: Data) -> str | None:
    """No likelihood, no MLE: with nothing observed, or x given (y only has a prior then)."""
    if method != "mle" or "y" in data.tensors:
        return None
    if not data.tensors:
        return "nothing is observed, so there is no likelihood to maximise; give --data y=1.5"
    return "p(x) does not depend on y, so its likelihood is flat; give y instead of x, or use map"


ENTRY = Entry(
    model=model,
    data=data,
    free=("x", "y"),
    exact=exact,
    inference=Inference(
        refuses=refuses,
        refused={"mle": "nothing is observed by default; give --data y=1.5"},
    ),
)
