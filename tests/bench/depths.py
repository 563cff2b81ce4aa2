"""Studies of networks of latent depth, for `studies.py`: Fashion-MNIST and the tent map."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

import zoo
from models import resnet
from models.parts.depths import Trained
from models.parts.residual import RULES, leave

# Eight blocks of two 3 x 3 convolutions of 16 channels, 7 x 7; ten passes over 60,000 images.
FASHION = {"data": "fashion-mnist", "layers": 8, "width": 16, "steps": 6000, "batch_size": 100}
FASHION |= {"lr": 3e-3, "heads": "each", "prior_scale": 4.0, "progress": False}
RATIOS = (0.995, 0.99, 0.98, 0.95, 0.9)
SCORES = ("accuracy", "log_score", "ece")
BATCH = 1000  # test images at once
TENT = {"data": "tent", "width": 24, "ratio": 0.3, "prior_scale": 4.0, "steps": 40_000}
TENT |= {"progress": False}


def early(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Early exits of five priors beside networks of 1 to 8 blocks, with times of test images."""
    asked = FASHION | more
    for seed in seeds:
        for layers in range(asked["layers"], 0, -1):
            fixed = {"layers": layers, "depth": "all"}
            run = zoo.run("resnet", method="map", seed=seed, **asked | fixed)
            kept = {name: run.metrics[name] for name in SCORES} | {"work": _work(run, asked)}
            yield {"fixed": layers, "seed": seed, **kept, "verdict": run.verdict.status}
        for guide, ratios in (("enumerated", RATIOS), ("ponder", RATIOS[-1:])):
            for ratio in ratios:
                run = zoo.run("resnet", guide=guide, seed=seed, ratio=ratio, **asked)
                yield from _exits(run, {"guide": guide, "ratio": ratio, "seed": seed})


def _work(run: zoo.Run, asked: dict[str, Any]) -> float:
    """Multiply-adds of a row, of those of a network of all the layers."""
    options = run.record["options"]
    net = resnet.network(run.data, *(options[k] for k in ("layers", "width", "heads")))
    stem, block, head = net.multiply_adds(run.data.test["x"])
    return (stem + block * net.layers + head) / (stem + block * asked["layers"] + head)


def _exits(run: zoo.Run, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each rule: its scores, and milliseconds an image, of test images."""
    found = resnet.of_run(run)
    x, _ = found.rows(found.data.test)
    for rule in ("average", "average_q", *RULES):
        if f"work[{rule}]" not in run.metrics:
            continue  # it needs q
        scores = {name: run.metrics[f"{name}[{rule}]"] for name in (*SCORES, "layers", "work")}
        of_all, left = _times(lambda part: found.net(part), _leaving(found, rule), x)
        times = {"ms": left, "ms_of_all": of_all}
        yield {**about, "rule": rule, **scores, **times, "verdict": run.verdict.status}


def _leaving(found: Trained, rule: str) -> Callable[[torch.Tensor], Any]:
    if rule.startswith("average"):
        return lambda part: found.net(part)
    prior = found.log_prior
    return lambda part: leave(found.net, part, rule, log_prior=prior, stop=found.stop)


@torch.no_grad()
def _times(one: Callable, other: Callable, x: torch.Tensor) -> list[float]:
    """Milliseconds an image of two functions in turns, medians of the batches."""
    taken = {one: [], other: []}
    for part in (x[:BATCH], *x.split(BATCH)):
        for function in taken:
            begun = time.perf_counter()
            function(part)
            taken[function].append((time.perf_counter() - begun) / len(part) * 1e3)
    return [median(times[1:]) for times in taken.values()]  # the first warms up


def early_table(lines: list[dict]) -> str:
    """Each rule against the best network of fixed depth at its mean work, means over seeds."""
    about = "| training | ratio | rule | work | accuracy | gain | log score | gain | time |"
    rows, seeds = [about, "|---" * 9 + "|"], sorted({line["seed"] for line in lines})
    fixed = {
        seed: sorted((k for k in lines if "fixed" in k and k["seed"] == seed), key=_by_work)
        for seed in seeds
    }
    exits = [line for line in lines if "rule" in line]
    for key in dict.fromkeys((k["guide"], k["ratio"], k["rule"]) for k in exits):
        same = [k for k in exits if (k["guide"], k["ratio"], k["rule"]) == key]
        told = [f"{np.mean([k['work'] for k in same]):.3f}"]
        for name in ("accuracy", "log_score"):
            gains = np.array([k[name] - _best(fixed[k["seed"]], name, k["work"]) for k in same])
            error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.nan
            told += [
                f"{np.mean([k[name] for k in same]):.4f}",
                f"{gains.mean():+.4f} +- {error:.4f}",
            ]
        told.append(f"{np.mean([k['ms'] / k['ms_of_all'] for k in same]):.2f}")
        rows.append("| " + " | ".join([*map(str, key), *told]) + " |")
    for layers in sorted({k["fixed"] for k in lines if "fixed" in k}):
        same = [k for k in lines if k.get("fixed") == layers]
        means = {name: np.mean([k[name] for k in same]) for name in ("work", *SCORES)}
        told = f"{means['work']:.3f} | {means['accuracy']:.4f} | | {means['log_score']:.4f}"
        rows.append(f"| fixed | | {layers} | {told} | | |")
    return "\n".join(rows)


def _by_work(line: dict[str, Any]) -> float:
    return line["work"]


def _best(fixed: list[dict[str, Any]], name: str, work: float) -> float:
    """The best score for this work: networks of fixed depth, and mixtures of two in turns."""
    best = np.maximum.accumulate([line[name] for line in fixed])
    return float(np.interp(work, [line["work"] for line in fixed], best))


def tent(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Does the posterior depth grow with the steps that a row needs?"""
    for seed in seeds:
        run = zoo.run("resnet", seed=seed, data_seed=seed, **TENT | more)
        of_rows, steps = resnet.of_run(run).posterior.numpy(), run.data.scaling.train
        depths = np.arange(len(of_rows)) @ of_rows
        means = [round(float(depths[steps == k].mean()), 2) for k in range(steps.max() + 1)]
        wanted = ("depth_rank", "depth_used", "accuracy[average]", "accuracy[quantile]")
        yield {"seed": seed, "depth_by_steps": means, "verdict": run.verdict.status} | {
            name: round(run.metrics[name], 4) for name in wanted
        }


def collapse(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The ELBO beside the marginal likelihood: over how many depths rows are spread."""
    for seed in seeds:
        for guide in ("enumerated", "marginal", "same", "same_marginal"):
            run = zoo.run("resnet", guide=guide, seed=seed, progress=False, **more)
            with torch.no_grad():
                found = resnet.of_run(run)
                x, y = found.rows(found.data.test)
                chances, _ = found.chances(x)
            right = (chances.argmax(-1) == y).double().mean(1)
            wanted = ("depth_used", "depth_train", "accuracy[average]", "log_score[average]")
            yield {"guide": guide, "seed": seed, "verdict": run.verdict.status} | {
                **{name: round(run.metrics[name], 4) for name in wanted},
                "accuracy_by_depth": [round(float(value), 3) for value in right],
            }
