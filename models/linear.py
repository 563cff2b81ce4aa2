"""Linear regression: the posterior of a line, known or unknown noise.

Lecture A's Bayesian linear regression and lecture B's least squares: a Gaussian prior of the
weights gives a Gaussian posterior and predictive, sharper with every row; with noise 1 the
log-likelihood is the squared error, so MLE is least squares and MAP is ridge.

    w_j   ~ Normal(0, prior_scale),  j = 1..k        one weight per feature
    b     ~ Normal(0, prior_scale)                   intercept
    sigma ~ HalfNormal(1), or the constant `noise`   noise
    y_i   ~ Normal(x_i w + b, sigma),  i = 1..n

Data:   x, shape (n, k), and y, shape (n,), real, standardised (`--set standardise=no` for the
        user's units); default `diabetes` (442 patients, 10 features), `simulate`, or a file of
        columns with `--target` and `--features`; `--set split=0.2` holds rows out.
Priors: in standardised units a weight beyond 1 is rare; noise above 1 explains nothing.
Exact:  for known noise the Gaussian posterior, predictive and evidence; for unknown noise the
        same mixed over sigma by one-dimensional quadrature.
Known failure: features that depend on each other (diabetes: s1 to s4) make mean field too narrow.

References: Bishop (2006), Pattern Recognition and Machine Learning, sections 3.3 and 3.5; Efron
et al. (2004), Least angle regression, Annals of Statistics 32 (the diabetes data).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyro
import pyro.distributions as dist
import scipy

from .contract import Data, Entry, Exact, Inference, Results, View
from .contract.figures import BLUE, RED, SKY, captioned, panels
from .data.tabular import Builtin, coefficients, diabetes, regression, simulated_features
from .parts.distributions import Gridded, NormalMixture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def model(
    x,
    y,
    *,
    noise: Annotated[float | None, "> 0"] = None,
    prior_scale: Annotated[float, "> 0"] = 1.0,
):
    # The weights of one row act together: one event of k dimensions.
    w = pyro.sample("w", dist.Normal(0.0, prior_scale).expand([x.shape[-1]]).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, prior_scale))
    sigma = noise if noise is not None else pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w + b, sigma), obs=y)  # (n,)


def _simulated(n: int, k: int, data_seed: int) -> Builtin:
    """A table whose weights are 1 and -1/2 in turn, its intercept 1/2 and its noise 0.7."""
    rng, x = simulated_features(n, k, data_seed)
    y = x @ np.resize([1.0, -0.5], k) + 0.5 + 0.7 * rng.normal(size=n)
    truth = "w = 1, -0.5, ..., b = 0.5, noise 0.7"
    source = f"simulate n={n} k={k} data_seed={data_seed} ({truth})"
    return Builtin(columns={"x": x, "y": y}, target="y", source=source)


data = regression({"diabetes": diabetes}, _simulated, classes=False)


class _Posterior:
    """The Gaussian posterior of (w, b) as a function of sigma, from one eigendecomposition.

    Bishop (2006), eq. 3.53, 3.54 and 3.86, with prior precision 1 / prior_scale^2.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, prior_scale: float):
        design = np.column_stack([x, np.ones(len(x))])  # (n, k + 1)
        self.values, self.vectors = np.linalg.eigh(design.T @ design)
        self.values = self.values.clip(min=0)
        self.projected = self.vectors.T @ design.T @ y
        self.y_square, self.n, self.prior_scale = y @ y, len(y), prior_scale

    def precision(self, sigma: np.ndarray) -> np.ndarray:
        """Posterior precisions along the eigenvectors, (m, k + 1), at each sigma (m,)."""
        return self.values / sigma[:, None] ** 2 + 1 / self.prior_scale**2

    def means(self, sigma: np.ndarray) -> np.ndarray:
        """Posterior means of (w, b), (m, k + 1)."""
        along = self.projected / sigma[:, None] ** 2 / self.precision(sigma)
        return along @ self.vectors.T

    def sds(self, sigma: np.ndarray) -> np.ndarray:
        """Posterior standard deviations of (w, b), (m, k + 1)."""
        return np.sqrt(1 / self.precision(sigma) @ self.vectors.T**2)

    def log_evidence(self, sigma: np.ndarray) -> np.ndarray:
        """log p(y | sigma), the weights integrated out, (m,)."""
        precision, k = self.precision(sigma), len(self.values)
        fit = (self.projected**2 / sigma[:, None] ** 4 / precision).sum(1)
        log_det = np.log(precision).sum(1) + 2 * k * np.log(self.prior_scale)
        constant = self.n * np.log(2 * np.pi * sigma**2)
        return -0.5 * (constant + self.y_square / sigma**2 - fit + log_det)

    def sample(self, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One draw of (w, b) at each sigma, (m, k + 1)."""
        noise = rng.normal(size=(len(sigma), len(self.values))) / np.sqrt(self.precision(sigma))
        return self.means(sigma) + noise @ self.vectors.T


class _Noise:
    """The posterior of sigma: a point where sigma is known, else a density on a grid.

    Args:
        posterior: of the weights, given sigma.
        known: sigma, if it is known.

    Attributes:
        grid: values of sigma, (m,).
        density: at these, up to a factor; 1 at the point.
        log_evidence: log p(y), sigma integrated out by the trapezoidal rule.
        marginal: the density as a distribution; None where sigma is known.
    """

    def __init__(self, posterior: _Posterior, known: float | None):
        self.grid = _sigma_grid(posterior) if known is None else np.array([known])
        log_joint = posterior.log_evidence(self.grid)
        if known is None:
            log_joint = log_joint + scipy.stats.halfnorm.logpdf(self.grid)
        self.density = np.exp(log_joint - log_joint.max())
        mass = np.trapezoid(self.density, self.grid) if known is None else 1.0
        self.log_evidence = float(log_joint.max() + np.log(mass))
        self.marginal = Gridded(self.grid, self.density) if known is None else None


def exact(data: Data, *, noise: float | None, prior_scale: float) -> Exact:
    """Closed form for known noise, quadrature over sigma for unknown noise.

    The evidence is that of the target in the user's units: it carries -n log(y_scale).
    """
    x, y = (np.asarray(data.tensors[key], dtype=float) for key in ("x", "y"))
    log_scale = np.log(data.units["y"][1])
    posterior = _Posterior(x, y, prior_scale)
    sigma = _Noise(posterior, noise)
    return Exact(
        sample=lambda n, rng: _sample(posterior, sigma, n, rng),
        marginals=_marginals(posterior, sigma, data.coords["feature"]),
        log_evidence=sigma.log_evidence - len(y) * float(log_scale),
        leave_one_out=lambda: _leave_one_out(posterior, x, y, noise) - log_scale,
    )


def _leave_one_out(
    posterior: _Posterior, x: np.ndarray, y: np.ndarray, noise: float | None
) -> np.ndarray:
    """log p(y_i | the other rows), (n,); for unknown noise by quadrature over log sigma.

    Args:
        posterior: of all rows.
        x: features, (n, k).
        y: target, (n,).
        noise: sigma, if it is known.
    """
    along = np.column_stack([x, np.ones(len(x))]) @ posterior.vectors  # (n, k + 1)
    if noise is not None:
        return _without_row(posterior, along, y, np.array([noise]))[:, 0]

    def log_joint(sigma: np.ndarray) -> np.ndarray:
        """log p(sigma, y), and for each row that of the others, (n + 1, m)."""
        of_all = posterior.log_evidence(sigma) + scipy.stats.halfnorm.logpdf(sigma) + np.log(sigma)
        return np.vstack([of_all, of_all - _without_row(posterior, along, y, sigma)])

    # Without an outlier the noise may be far less: a range that holds the mass of all.
    wide = np.geomspace(1e-4, 1e2, 201)
    values = log_joint(wide)
    inside = np.flatnonzero((values > values.max(1, keepdims=True) - 40).any(0))
    ends = wide[[max(inside[0] - 1, 0), min(inside[-1] + 1, len(wide) - 1)]]
    of_all, *others = scipy.special.logsumexp(log_joint(np.geomspace(*ends, 501)), axis=1)
    return of_all - np.array(others)


def _without_row(
    posterior: _Posterior, along: np.ndarray, y: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """log p(y_i | the other rows, sigma), (n, m), by a row's residual and its leverage h_i.

    It is Normal with mean y_i - e_i / (1 - h_i) and variance sigma^2 / (1 - h_i) (Rasmussen and
    Williams 2006, eq. 5.12, where K^-1 has the diagonal (1 - h_i) / sigma^2).

    Args:
        posterior: of all rows.
        along: the rows' features along its eigenvectors, (n, k + 1).
        y: target, (n,).
        sigma: noise, (m,).
    """
    precision = posterior.precision(sigma)
    slack = 1 - along**2 @ (1 / precision).T / sigma**2  # 1 - h_i, (n, m)
    shift = posterior.projected / sigma[:, None] ** 2 / precision  # (m, k + 1)
    residual = (y[:, None] - along @ shift.T) / slack
    variance = sigma**2 / slack
    return -0.5 * (np.log(2 * np.pi * variance) + residual**2 / variance)


def _sigma_grid(posterior: _Posterior) -> np.ndarray:
    """2001 values of sigma that hold all but 1e-12 of its posterior."""
    wide = np.geomspace(1e-4, 1e2, 4001)
    log_joint = posterior.log_evidence(wide) + scipy.stats.halfnorm.logpdf(wide)
    inside = wide[log_joint > log_joint.max() - 40]
    return np.linspace(inside[0] * 0.99, inside[-1] * 1.01, 2001)


def _sample(
    posterior: _Posterior, sigma: _Noise, n: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draws of w (n, k), b (n,) and, where it is not known, sigma (n,)."""
    known = sigma.marginal is None
    at = np.repeat(sigma.grid, n) if known else sigma.marginal.ppf(rng.random(n))
    weights = posterior.sample(at, rng)
    draws = {"w": weights[:, :-1], "b": weights[:, -1]}
    return draws if known else {**draws, "sigma": at}


def _marginals(posterior: _Posterior, sigma: _Noise, features: tuple[str, ...]) -> dict[str, Any]:
    """Of each weight and of sigma: normal for known noise, else normals mixed over sigma."""
    names = [*(f"w[{name}]" for name in features), "b"]
    # The density is smooth and falls to nothing at both ends: 500 nodes are as exact as 2000.
    means, sds = posterior.means(sigma.grid)[::4], posterior.sds(sigma.grid)[::4]
    if sigma.marginal is None:
        return {name: scipy.stats.norm(means[0, j], sds[0, j]) for j, name in enumerate(names)}
    weights = sigma.density[::4] / sigma.density[::4].sum()
    mixed = {n: NormalMixture(weights, means[:, j], sds[:, j]) for j, n in enumerate(names)}
    return {**mixed, "sigma": sigma.marginal}


def band(view: View) -> Figure:
    """This run's line and new rows along the feature of largest effect, in the user's units.

    The other features are held at their means. The data are drawn with the mean effect of the
    others taken off (a component-plus-residual plot), so that they belong to this line.
    """
    data, units, noise = view.data, view.data.scaling, view.options["noise"]
    x, y = (np.asarray(data.tensors[key], dtype=float) for key in ("x", "y"))
    step = max(1, len(view.draws["b"]) // 1000)
    draws, weights = {k: v[::step] for k, v in view.draws.items()}, view.draws["w"].mean(0)
    j = int(np.argmax(np.abs(weights) * x.std(0)))
    others = np.where(np.arange(x.shape[1]) == j, 0, x - x.mean(0))
    grid = np.linspace(x[:, j].min(), x[:, j].max(), 100)
    line = np.where(np.arange(x.shape[1]) == j, grid[:, None], x.mean(0))  # (100, k)
    mean, sd_line, sd_new = _along(draws, line, noise)
    at, rows = (units.x_loc[j] + units.x_scale[j] * v for v in (grid, x[:, j]))
    mean, adjusted = (units.y_loc + units.y_scale * v for v in (mean, y - others @ weights))
    figure, (ax,) = panels(height=3.6)
    for sd, colour, label in ((sd_new, SKY, "new rows"), (sd_line, BLUE, "line")):
        if sd.any():
            ends = mean - 2 * units.y_scale * sd, mean + 2 * units.y_scale * sd
            ax.fill_between(at, *ends, color=colour, alpha=0.35, lw=0, label=f"{label}, 2 sd")
    ax.plot(at, mean, color=BLUE, label="line, mean")
    size = 4 if len(y) > 60 else 8
    ax.plot(rows, adjusted, ".", color=RED, ms=size, alpha=0.7, label="data, as at those means")
    ax.set(xlabel=data.coords["feature"][j], ylabel="target, user's units")
    known = "the dark band is how surely the line is known"
    sure = known if sd_line.any() else "a point estimate is sure of its line"
    caption = (
        "This run's line along the feature of largest effect, the others at their means: about "
        f"95 % of the data should lie in the light band; {sure}."
    )
    return captioned(figure, caption, ax)


def _along(
    draws: Mapping[str, np.ndarray], x: np.ndarray, noise: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and sd of the line, and sd of a new row, at each of the rows x (m, k), (m,) each."""
    sigma = draws["sigma"] if noise is None else np.array([noise])
    lines = draws["w"] @ x.T + draws["b"][:, None]  # (draws, m)
    return lines.mean(0), lines.std(0), np.sqrt(lines.var(0) + (sigma**2).mean())


def sharpening(view: View) -> Figure:
    """Exact posterior with one feature, on the first rows (lecture A).

    The line (dark, 2 sd) sharpens with every row, new rows (light, 2 sd) keep their noise.
    """
    noise, scale = view.options["noise"], view.options["prior_scale"]
    x, y = (np.asarray(view.data.tensors[key], dtype=float) for key in ("x", "y"))
    spread = np.where(x.std(0) > 0, x.std(0), np.inf)
    chosen = int(np.argmax(np.abs((x - x.mean(0)).T @ (y - y.mean())) / spread))
    x, name = x[:, [chosen]], view.data.coords["feature"][chosen]
    counts = sorted({min(len(y), count) for count in (2, 10, 50, len(y))})
    figure, axes = panels(len(counts), height=1.9, above=0.3, sharey=True)
    grid, margin = np.linspace(x.min(), x.max(), 50), max(y.std(), 0.5)
    for ax, count in zip(axes, counts):
        posterior = _Posterior(x[:count], y[:count], scale)
        draws = _sample(posterior, _Noise(posterior, noise), 2000, np.random.default_rng(0))
        mean, sd_line, sd_new = _along(draws, grid[:, None], noise)
        ax.fill_between(grid, mean - 2 * sd_new, mean + 2 * sd_new, color=SKY, alpha=0.3)
        ax.fill_between(grid, mean - 2 * sd_line, mean + 2 * sd_line, color=BLUE, alpha=0.5)
        ax.plot(grid, mean, color=BLUE)
        ax.plot(x[:count, 0], y[:count], ".", color=RED, ms=3)
        ax.set(xlabel=f"{name}, model's units", ylim=(y.min() - margin, y.max() + margin))
        ax.set_title(f"{count} rows", fontsize=8.5)
    axes[0].set_ylabel("target, model's units")
    return captioned(figure, sharpening.__doc__)


def refuses(method: str, options: dict, data: Data) -> str | None:
    """Least squares needs independent columns, unknown noise a line that misses some row."""
    x, y = np.asarray(data.tensors["x"]), np.asarray(data.tensors["y"])
    design = np.column_stack([x, np.ones(len(x))])
    weights, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    if method == "mle" and rank < design.shape[1]:
        return (
            f"the {design.shape[1]} weights (intercept included) have rank {rank} only, so least "
            "squares is not unique; drop columns, or use map"
        )
    if options["noise"] is not None or method == "prior":
        return None
    through_all = ((y - design @ weights) ** 2).sum() <= 1e-12 * max((y**2).sum(), 1e-12)
    # With fewer rows than weights the prior keeps the posterior proper, though not its mode.
    if through_all and (len(x) > rank or method in ("mle", "map")):
        return "a line passes through every row, so sigma runs to 0; give noise (--set noise=1)"
    return None


ENTRY = Entry(
    model=model,
    data=data,
    exact=exact,
    inference=Inference(refuses=refuses),
    results=Results(original=coefficients, figures={"band": band, "sharpening": sharpening}),
)
