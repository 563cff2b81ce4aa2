"""Logistic regression: a class from a line, under normal, Laplace or flat priors.

Lecture B's classifier. The normal prior of the weights is the L2 penalty theta^2 / (2 scale^2)
(the slides drop the 2), the Laplace prior the L1 penalty |theta| / scale; the flat prior leaves
maximum likelihood, which does not exist when a plane separates the classes. The objective is
minus the sum of y log sigma + (1 - y) log(1 - sigma) (one slide drops logs and sign).

    w_j ~ Normal(0, prior_scale), Laplace(0, prior_scale) or flat,  j = 1..k
    b   ~ Normal(0, intercept_scale); flat with flat weights
    y_i ~ Bernoulli(sigmoid(x_i w + b)),  i = 1..n

Data:   x, shape (n, k), standardised (`--set standardise=no` for the user's units), and y, shape
        (n,), 0 or 1; default `breast_cancer` (569 tumours, 30 features, 1 = benign), `simulate`,
        or a file of columns with `--target` and `--features`; `--set split=0.2` holds rows out.
Priors: a weight of 2.5 per sd is a strong effect; the intercept's own scale is wider.
Exact:  by quadrature on a grid, for two coefficients or fewer (intercept included) and proper
        priors.
Known failure: separable classes (the full breast-cancer table) have no MLE, and their posterior
        is improper under the flat prior: refused. Laplace priors have no Hessian at zero.

References: Bishop (2006), Pattern Recognition and Machine Learning, section 4.3; Albert and
Anderson (1984), On the existence of maximum likelihood estimates in logistic regression,
Biometrika 71; Wolberg, Street and Mangasarian (1995) (the data).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyro
import pyro.distributions as dist
import scipy
from pyro.distributions import constraints

from .contract import Data, Entry, Exact, Inference, Results, View
from .contract.figures import BLUE, GREY, ORANGE, RED, SKY, captioned, panels
from .data import shipped
from .data.tabular import Builtin, coefficients, regression, simulated_features
from .parts.distributions import Gridded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LogJoint = Callable[[np.ndarray], np.ndarray]
# What is measured of the cells of a tumour: the mean, its error and the worst of each.
_OF_CELLS = ("radius", "texture", "perimeter", "area", "smoothness", "compactness")
_OF_CELLS += ("concavity", "concave points", "symmetry", "fractal dimension")


def model(
    x,
    y,
    *,
    prior: Literal["normal", "laplace", "flat"] = "normal",
    prior_scale: Annotated[float, "> 0"] = 2.5,
    intercept: bool = True,
    intercept_scale: Annotated[float, "> 0"] = 10.0,
):
    k = x.shape[-1]
    priors = {
        "normal": dist.Normal(0.0, prior_scale).expand([k]).to_event(1),
        "laplace": dist.Laplace(0.0, prior_scale).expand([k]).to_event(1),
        "flat": dist.ImproperUniform(constraints.real, (), (k,)),
    }
    logits = x @ pyro.sample("w", priors[prior])  # the weights act together: one event
    if intercept:
        flat = dist.ImproperUniform(constraints.real, (), ())
        normal = dist.Normal(0.0, intercept_scale)
        logits = logits + pyro.sample("b", flat if prior == "flat" else normal)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)  # (n,)


def _simulated(n: int, k: int, data_seed: int) -> Builtin:
    """A table whose weights are 3/2 and -1 in turn, and its intercept -1/2."""
    rng, x = simulated_features(n, k, data_seed)
    chance = scipy.special.expit(x @ np.resize([1.5, -1.0], k) - 0.5)
    y = (rng.random(n) < chance).astype(int)
    source = f"simulate n={n} k={k} data_seed={data_seed} (w = 1.5, -1, ..., b = -0.5)"
    return Builtin(columns={"x": x, "y": y}, target="y", source=source)


def _breast_cancer() -> Builtin:
    """Whether each of 569 tumours is benign, by 30 features."""
    x, benign = shipped.features_and_target("breast_cancer")
    forms = ("mean {}", "{} error", "worst {}")
    names = [form.format(name) for form in forms for name in _OF_CELLS]
    columns = {**dict(zip(names, x.T)), "benign": benign}
    return Builtin(columns=columns, target="benign", source="breast_cancer")


data = regression({"breast_cancer": _breast_cancer}, _simulated, classes=True)


def separable(x: np.ndarray, y: np.ndarray, *, intercept: bool) -> bool:
    """Whether some plane puts no row on the wrong side, and not all rows on the plane.

    Then the likelihood has no finite maximiser (Albert and Anderson 1984); the largest total
    margin within a box is found by a linear program, and is zero exactly if the classes overlap.

    Args:
        x: features, shape (n, k).
        y: classes 0 or 1, shape (n,).
        intercept: whether the plane may have an offset.
    """
    design = np.column_stack([x, np.ones(len(x))]) if intercept else x
    signed = design * (2 * y - 1)[:, None]
    best = scipy.optimize.linprog(
        -signed.sum(0), A_ub=-signed, b_ub=np.zeros(len(y)), bounds=(-1, 1), method="highs"
    )
    return bool(-best.fun > 1e-7 * np.abs(signed).sum())


def refuses(method: str, options: Mapping[str, Any], data: Data) -> str | None:
    """No answer without a finite maximiser, or, under flat priors, without a proper posterior."""
    flat = options["prior"] == "flat"
    if method == "laplace" and options["prior"] == "laplace":
        return "a Laplace prior has no second derivative at zero; use prior=normal, map or nuts"
    if method == "prior" and flat:
        return "the flat prior is improper and cannot be sampled; use prior=normal or laplace"
    if method == "exact":
        coefficients = data.tensors["x"].shape[1] + options["intercept"]
        if flat or coefficients > 2:
            return (
                f"the quadrature takes two coefficients and proper priors, these are "
                f"{coefficients}{', flat' if flat else ''}; use nuts, or --features"
            )
    if method == "mle" or flat:
        return _no_maximiser(data, options)
    return None


def _no_maximiser(data: Data, options: Mapping[str, Any]) -> str | None:
    x, y = (np.asarray(data.tensors[key]) for key in ("x", "y"))
    if len(set(y)) < 2:
        return "there is one class only, so no finite maximiser (improper posterior); get both"
    if separable(x, y, intercept=options["intercept"]):
        return (
            "a plane separates the classes, so there is no finite maximiser (improper posterior); "
            "use a proper prior (prior=normal), or fewer --features"
        )
    design = np.column_stack([x, np.ones(len(x))]) if options["intercept"] else x
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return "the columns are collinear, so the maximiser is not unique; drop some of them"
    return None


def exact(
    data: Data, *, prior: str, prior_scale: float, intercept: bool, intercept_scale: float
) -> Exact | None:
    """Quadrature on a grid around the mode, for one or two coefficients and proper priors."""
    x, y = (np.asarray(data.tensors[key], dtype=float) for key in ("x", "y"))
    design = np.column_stack([x, np.ones(len(x))]) if intercept else x
    if design.shape[1] > 2 or prior == "flat":
        return None
    family = {"normal": scipy.stats.norm, "laplace": scipy.stats.laplace}[prior]
    priors = [family(0, prior_scale)] * x.shape[1]
    priors += [scipy.stats.norm(0, intercept_scale)] * intercept
    names = [*(f"w[{name}]" for name in data.coords["feature"]), *["b"] * intercept]

    def log_joint(theta: np.ndarray) -> np.ndarray:
        """Log density of y and the coefficients (m, d), at each of them (m,)."""
        signed = theta @ (design * (2 * y - 1)[:, None]).T  # (m, n)
        return scipy.special.log_expit(signed).sum(1) + sum(
            p.logpdf(theta[:, j]) for j, p in enumerate(priors)
        )

    return _by_quadrature(log_joint, names, x.shape[1])


def _by_quadrature(log_joint: LogJoint, names: list[str], k: int) -> Exact | None:
    """Marginals, evidence and draws of one or two coefficients from a grid of 401 to a side.

    Args:
        log_joint: gives the log density (m,) of the data and of coefficients (m, d).
        names: of the d coefficients, as in a summary.
        k: how many of them are weights.
    """
    axes = _axes(log_joint, len(names))
    if axes is None:
        return None
    mesh = _mesh(axes)
    values = np.concatenate([log_joint(part) for part in np.array_split(mesh, 100)])
    density = np.exp(values - values.max())
    steps = np.array([axis[1] - axis[0] for axis in axes])
    grid = density.reshape([len(axis) for axis in axes])
    others = [tuple(i for i in range(grid.ndim) if i != j) for j in range(grid.ndim)]
    sides = zip(names, axes, others)

    def sample(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        chosen = rng.choice(density.size, size=n, p=density / density.sum())
        theta = mesh[chosen] + steps * (rng.random((n, len(axes))) - 0.5)
        return {"w": theta[:, :k]} | ({"b": theta[:, -1]} if len(names) > k else {})

    return Exact(
        sample=sample,
        marginals={name: Gridded(axis, grid.sum(rest)) for name, axis, rest in sides},
        log_evidence=float(values.max() + np.log(grid.sum() * np.prod(steps))),
    )


def _mesh(axes: Sequence[np.ndarray]) -> np.ndarray:
    """The points (m, d) of a grid, the last of d coefficients fastest."""
    return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)


def _axes(log_joint: LogJoint, d: int) -> list[np.ndarray] | None:
    """A range of each coefficient outside which the density is below 1e-13 of its peak.

    None where such a box is mostly empty (coefficients that depend closely on each other, as
    those of features far from zero do): a grid would miss the density.
    """
    best = scipy.optimize.minimize(
        lambda t: -log_joint(t[None])[0], np.zeros(d), method="Nelder-Mead"
    )
    ranges = np.stack([best.x - 1, best.x + 1], axis=1)
    for _ in range(40):
        axes = [np.linspace(low, high, 41) for low, high in ranges]
        inside = (log_joint(_mesh(axes)) > -best.fun - 30).reshape([41] * d)
        wide = _grown(ranges, inside)
        if (wide != ranges).any():
            ranges = wide
            continue
        narrow = _shrunk(ranges, inside)
        if np.allclose(narrow, ranges, rtol=0.2, atol=0):
            full = inside.mean() > 0.02
            return [np.linspace(low, high, 401) for low, high in ranges] if full else None
        ranges = narrow
    return None


def _grown(ranges: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The box, half as wide again beyond each side that cells inside touch."""
    wide = ranges.copy()
    for j in range(len(ranges)):
        edge = np.moveaxis(inside, j, 0)
        for end, direction in ((0, -1), (-1, 1)):
            if edge[end].any():
                wide[j, end] += direction * (ranges[j, 1] - ranges[j, 0]) / 2
    return wide


def _shrunk(ranges: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The box around the cells inside, one cell wider on each side."""
    narrow = ranges.copy()
    for j, (low, high) in enumerate(ranges):
        others = tuple(i for i in range(inside.ndim) if i != j)
        cells, step = np.flatnonzero(inside.any(axis=others)), (high - low) / 40
        narrow[j] = low + (cells[0] - 1) * step, low + (cells[-1] + 1) * step
    return narrow


def boundary(view: View) -> Figure:
    """P(y = 1) of this run along its two strongest features (or its one), and how sure it is.

    The probability is the mean over the draws, its uncertainty their sd; the other features are
    held at their means.
    """
    data, draws = view.data, view.draws
    x, y = (np.asarray(data.tensors[key], dtype=float) for key in ("x", "y"))
    strongest = np.argsort(-np.abs(draws["w"].mean(0)) * x.std(0))[:2]
    units, names = data.scaling, [data.coords["feature"][j] for j in strongest]
    spans = [np.linspace(v.min() - 0.1, v.max() + 0.1, 70) for v in x[:, strongest].T]
    chances = _chances(draws, x.mean(0), strongest, spans)
    rows = [units.x_loc[j] + units.x_scale[j] * x[:, j] for j in strongest]
    spans = [units.x_loc[j] + units.x_scale[j] * s for j, s in zip(strongest, spans)]
    draw = _curve if len(strongest) == 1 else _maps
    return draw(spans, chances, rows, y, names)


def _chances(
    draws: Mapping[str, np.ndarray], means: np.ndarray, features: np.ndarray, spans: list
) -> np.ndarray:
    """P(y = 1) of at most 300 draws on the grid of the spans, (draws, *grid)."""
    some = slice(None, None, max(1, -(-len(draws["w"]) // 300)))
    w, b = draws["w"][some], draws.get("b", np.zeros(len(draws["w"])))[some]
    fixed = means.copy()
    fixed[features] = 0
    mesh = np.stack(np.meshgrid(*spans), axis=-1)  # (*grid, 1 or 2)
    logits = np.tensordot(w[:, features], mesh, axes=(1, -1))  # (draws, *grid)
    return scipy.special.expit(logits + (b + w @ fixed).reshape(-1, *[1] * len(spans)))


def _curve(spans: list, chances: np.ndarray, rows: list, y: np.ndarray, names: list) -> Figure:
    """This run's probability of class 1 along the feature.

    The decision turns where it is 0.5; the wider the band, the less sure.
    """
    figure, (ax,) = panels()
    if len(chances) > 1:
        low, high = np.percentile(chances, [3, 97], axis=0)
        ax.fill_between(spans[0], low, high, color=SKY, alpha=0.4, lw=0, label="94 % of draws")
    ax.plot(spans[0], chances.mean(0), color=BLUE, label="mean")
    ax.axhline(0.5, color=GREY, lw=0.8)
    ax.plot(rows[0], y, "|", color=RED, alpha=0.6, label="data")
    ax.set(xlabel=names[0], ylabel="P(y = 1)")
    return captioned(figure, _curve.__doc__, ax)


def _maps(spans: list, chances: np.ndarray, rows: list, y: np.ndarray, names: list) -> Figure:
    mean = chances.mean(0)
    maps = [("P(y = 1)", mean, np.linspace(0, 1, 11), "cividis")]
    caption = "This run's probability of class 1 along its two strongest features, the others at "
    caption += "their means; red: the decision boundary, 0.5."
    if len(chances) > 1:
        maps.append(("sd of P(y = 1) over draws", chances.std(0), 8, "Greys"))
        caption += " Right: how unsure the probability is."
    figure, axes = panels(len(maps), above=0.3, sharey=True)
    for ax, (title, values, levels, colours) in zip(axes, maps):
        shades = ax.contourf(*spans, values, levels=levels, cmap=colours)
        if mean.min() < 0.5 < mean.max():
            ax.contour(*spans, mean, levels=[0.5], colors=RED, linewidths=1.8)
        for label, colour, mark in ((0, SKY, "o"), (1, ORANGE, "^")):
            at = [row[y == label] for row in rows]
            ax.scatter(*at, s=9, c=colour, marker=mark, ec="k", lw=0.3, label=f"y = {label}")
        bar = figure.colorbar(shades, ax=ax, pad=0.03, aspect=30)
        bar.ax.tick_params(labelsize=7.5)
        ax.set_title(title, fontsize=8.5)
        ax.set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    return captioned(figure, caption, axes[0])


ENTRY = Entry(
    model=model,
    data=data,
    exact=exact,
    inference=Inference(
        refuses=refuses,
        refused={
            "mle": "a plane separates the classes; choose --features",
            "exact": "quadrature takes two coefficients or fewer; choose one of the --features",
        },
    ),
    results=Results(original=coefficients, figures={"boundary": boundary}),
)
