"""Studies of generative models on MNIST and Fashion-MNIST, for `studies.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import zoo

if TYPE_CHECKING:
    import pandas as pd

# A decoder of the size of Burda et al. (2016), in minutes, not hours.
SIZES = {"latent": 50, "hidden": "200,200", "binarise": "dynamic"}
QUICK = {"steps": 60_000, "batch_size": 100, "lr": 2e-3, "draws": 50, "rows": 16}
GUIDES = {"steps": 20_000, "lr": 1e-3}  # under a decoder that is there
# How many labels are known; five draws of the fewest, one of the others.
LABELS, DRAWS_OF_LABELS = (100, 1000, None), (5, 1, 1)
# Chosen by the error with the labels of draw 100, which is none of these.
SEMI = {"data": "mnist", "latent": 50, "hidden": "200", "classifier": "conv", "dropout": 0.5}
SEMI |= {"alpha": 50, "steps": 30_000, "batch_size": 50, "lr": 1e-3, "compile": "aot"}
SEMI |= {"draws": 20, "rows": 8, "progress": False}


def semi(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Error against the number of labels, of `ssvae` and of its supervised twin."""
    for count, draws in zip(LABELS, DRAWS_OF_LABELS):
        for draw in range(draws):
            for guide in ("own", "supervised"):
                begun = time.perf_counter()
                asked = SEMI | {"labels": count or 60_000, "data_seed": draw} | more
                run = zoo.run("ssvae", guide=guide, seed=seeds[0], **asked)
                error = 1 - run.metrics["accuracy"]
                yield {"labels": count, "draw": draw, "guide": guide, "error": round(error, 4)} | {
                    "log_score": run.metrics["log_score"],
                    "verdict": run.verdict.status,
                    "seconds": round(time.perf_counter() - begun),
                }


def unlike(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """AUROC of images of the other set by log p(x), by the ELBO, and corrected by their length."""
    for seed in seeds:
        for data, other in (("mnist", "fashion-mnist"), ("fashion-mnist", "mnist")):
            settings = SIZES | QUICK | {"data": data, "outside": other} | more
            run = zoo.run("vae", seed=seed, progress=False, **settings)
            wanted = ("nll", f"nll[{other}]")
            wanted += tuple(f"auroc_{k}[{other}]" for k in ("log_p", "elbo", "corrected"))
            yield {"data": data, "seed": seed, **{k: run.metrics[k] for k in wanted}}


def gaps(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the ELBO lacks under guides of the same decoder, and NUTS on it, 64 test images.

    log p(x) is that of annealed importance sampling; `less` is by how much a guide lacks less than
    the decoder's own one, with its standard error over images.
    """
    for seed in seeds:
        settings = SIZES | QUICK | {"data": "mnist"} | more
        own = zoo.run("vae", seed=seed, progress=False, out="runs", **settings)
        found = own.evidence(rows=64, gaps=64, annealed=64)
        means = {name: round(float(found[name].mean()), 3) for name in found}
        yield {"guide": "own", "seed": seed, **means, **_lacks(found, found)}
        for guide in ("full", "flow"):
            fit = QUICK | GUIDES | more
            run = zoo.run("vae", guide=guide, init=own, seed=seed, progress=False, **fit)
            yield {"guide": guide, "seed": seed, **_lacks(run.evidence(rows=64), found)}
        begun = time.perf_counter()
        run = zoo.run("vae", method="nuts", init=own, seed=seed, part="test", n=64)
        yield {"method": "nuts", "seed": seed, "verdict": str(run.verdict)} | {
            "seconds": round(time.perf_counter() - begun)
        }


def _lacks(guide: pd.DataFrame, own: pd.DataFrame) -> dict[str, float]:
    """The mean gap of a guide, and how it stands to the own one's, nats an image."""
    less = guide["elbo"] - own["elbo"]
    means = {"gap": (own["annealed"] - guide["elbo"]).mean(), "less": less.mean()}
    means |= {"less_se": less.std() / len(less) ** 0.5}
    return {name: round(float(value), 3) for name, value in means.items()}
