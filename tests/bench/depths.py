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
from models._depths import Trained
from models._residual import Rule, leave

# Eight blocks of two 3 x 3 convolutions of 16 channels, 14 x 14; ten passes over 60,000 images.
FASHION = {"data": "fashion-mnist", "layers": 8, "width": 16, "steps": 6000, "batch_size": 100}
FASHION |= {"lr": 3e-3, "progress": False}
RATIOS = (0.9, 0.7, 0.5, 0.3, 0.1)
SCORES = ("accuracy", "log_score", "ece", "layers", "work")
BATCH, ROUNDS = 1000, 7  # test images at once, and how often a time is taken
TENT = {"data": "tent", "progress": False}


def early(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Early exits of five priors beside networks of 1 to 8 blocks, with times of test images."""
    asked = FASHION | more
    for seed in seeds:
        for ratio in RATIOS:
            run = zoo.run("resnet", seed=seed, ratio=ratio, **asked)
            yield from _exits(run, {"ratio": ratio, "seed": seed})
        for layers in range(asked["layers"], 0, -1):
            fixed = {"layers": layers, "depth": "all"}
            run = zoo.run("resnet", method="map", seed=seed, **asked | fixed)
            kept = {name: run.metrics[name] for name in ("accuracy", "log_score", "ece")}
            yield {"fixed": layers, "seed": seed, **kept, "verdict": run.verdict.status}


def _exits(run: zoo.Run, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A line for each rule: its scores, and milliseconds an image, of test images."""
    found = resnet.of_run(run)
    x, _ = found.rows(found.data.test)
    whole = _time(lambda part: found.net(part), x)
    for rule in ("average", "average_q", "sample", "quantile", "mode", "joint_mode"):
        scores = {name: run.metrics[f"{name}[{rule}]"] for name in SCORES}
        left = whole if rule.startswith("average") else _time(_leaving(found, rule), x)
        yield {**about, "rule": rule, **scores, "ms": left, "verdict": run.verdict.status}


def _leaving(found: Trained, rule: Rule) -> Callable[[torch.Tensor], Any]:
    prior = found.depths.log()
    return lambda part: leave(found.net, part, rule, log_prior=prior, stop=found.stop)


@torch.no_grad()
def _time(function: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
    """Milliseconds an image, the median of several batches."""
    taken = []
    for part in (x[:BATCH], *x.split(BATCH)[:ROUNDS]):
        begun = time.perf_counter()
        function(part)
        taken.append((time.perf_counter() - begun) / len(part) * 1e3)
    return median(taken[1:])  # the first warms up


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
