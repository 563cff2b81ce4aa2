"""Studies of generative models on MNIST and Fashion-MNIST, for `studies.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import zoo

# A decoder of the size of Burda et al. (2016), in minutes, not hours.
SIZES = {"latent": 50, "hidden": "200,200", "binarise": "dynamic"}
QUICK = {"steps": 60_000, "batch_size": 100, "lr": 2e-3, "draws": 50, "rows": 16}
# How many labels are known; five draws of the fewest, one of the others.
LABELS, DRAWS_OF_LABELS = (100, 1000, None), (5, 1, 1)
SEMI = {"data": "mnist", "latent": 50, "hidden": "200"}
SEMI |= {"steps": 30_000, "draws": 20, "rows": 8, "progress": False}


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
    """What the ELBO lacks under guides of the same decoder, 64 test images."""
    for seed in seeds:
        settings = SIZES | QUICK | {"data": "mnist"} | more
        first = zoo.run("vae", seed=seed, progress=False, **settings)
        for guide in ("own", "full", "flow"):
            own = guide == "own"
            run = first if own else zoo.run("vae", guide=guide, init=first, seed=seed, **settings)
            found = run.evidence(rows=64, gaps=64, annealed=64)
            names = ("log_p", "annealed", "elbo", "elbo_normal", "approximation", "amortisation")
            means = {name: float(found[name].mean()) for name in names}
            gap = found["annealed"] - found["elbo"]
            yield {"guide": guide, "seed": seed, **means, "gap": float(gap.mean())} | {
                "gaps": [round(float(value), 3) for value in gap]
            }
