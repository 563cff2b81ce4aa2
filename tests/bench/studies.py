"""Studies of networks that take minutes to hours: what inference is worth on MNIST, measured.

    ZOO_DATA=... python tests/bench/studies.py few outside labels --seeds 0 1 2

`few`: 1,000 training images, each method against MAP, paired over seeds (which are those of the
subset too). `outside`: MNIST against Fashion-MNIST, and turned, by every method. `labels`: random
labels, a deterministic network and a sparse one. `rows`: the parts of the variance of
`heteroscedastic` as rows grow. `sparse`: sparse variational dropout of 300-100; `pruned`: the same
network by MAP with its smallest weights removed.

Of generative models: `semi`, error against the number of labels; `unlike`, images of another set
told by log p(x); `gaps`, what the ELBO of each guide lacks.

Of networks of latent depth: `early`, exits against networks of fixed depth on Fashion-MNIST;
`tent`, depth against the steps that are needed; `collapse`, ELBO against marginal likelihood.

Results go to a file as they come (JSON lines), tables to stdout; `--table` gives those of a file
that several processes wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

from depths import collapse, early, early_table, tent  # noqa: E402
from images import gaps, semi, unlike  # noqa: E402

import zoo  # noqa: E402

# Chosen on a subset of its own (data_seed=100) among 4, 8, 16 and 32: there dropout scores best of
# all methods (log score -0.339). MAP is at its best at 8 (-0.343, at 16 -0.360).
FEW = {"data": "mnist", "n": 1000, "hidden": "100", "activation": "relu", "prior_scale": 16.0}
METHODS = ("map", "svi:local", "svi:dropout", "svi:ensemble", "laplace")
FEW_METHODS = {method: {} for method in METHODS} | {"map, prior_scale=8": {"prior_scale": 8.0}}
EVERY = ("mle", *METHODS, "svi:lastlayer", "svi:dropconnect", "svi:dropout:learned", "svi:sparse")
SPARSE = {"prior": "log_uniform", "hidden": "300,100", "activation": "relu"}
SCORES = ("accuracy", "log_score", "brier", "ece", "mutual_information")
OTHERWISE = ("log_score_single", "log_score_mean_weights", "accuracy_mean_weights")


def fitted(method: str, seed: int, **settings: Any) -> zoo.Run:
    """A run of `map`, or `svi:guide`; `sparse` under the prior that it needs."""
    name, _, guide = method.partition(":")
    if guide:
        settings["guide"] = guide
    if guide == "sparse":
        settings["prior"] = "log_uniform"
        settings.pop("prior_scale", None)
    return zoo.run("bnn", method=name, seed=seed, progress=False, **settings)


def few(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Scores of every method on few images."""
    for seed in seeds:
        for label, other in FEW_METHODS.items():
            begun = time.perf_counter()
            method = label.partition(",")[0]
            run = fitted(method, seed, data_seed=seed, **FEW | other | more)
            wanted = (*SCORES, *OTHERWISE)
            found = {name: run.metrics[name] for name in wanted if name in run.metrics}
            found |= {"verdict": run.verdict.status, **spread(run)}
            took = round(time.perf_counter() - begun, 1)
            yield {"method": label, "seed": seed, **found, "seconds": took}


def spread(run: zoo.Run) -> dict[str, float]:
    """The median over weights of posterior to prior standard deviation, of mean field."""
    if run.record["guide"] != "local":
        return {}
    scales = {k.removesuffix(".scale"): v for k, v in run.params.items() if k.endswith(".scale")}
    prior = run.record["options"]["prior_scale"]
    of_prior = [
        np.asarray(v).ravel() / (prior / v.shape[1] ** 0.5)
        for k, v in scales.items()
        if v.ndim == 2
    ]
    return {"sd_of_prior_sd": float(np.median(np.concatenate(of_prior)))}


def few_table(lines: list[dict]) -> str:
    """Means over seeds, and the log score's gain on MAP with its interval (t, 95 %)."""
    from scipy import stats

    by = {m: [line for line in lines if line["method"] == m] for m in FEW_METHODS}
    rows = ["| method | accuracy | log score | ECE | gain on MAP | 95 % |", "|---" * 6 + "|"]
    base = {line["seed"]: line["log_score"] for line in by["map"]}
    for method, found in by.items():
        gains = np.array([line["log_score"] - base[line["seed"]] for line in found])
        reach = stats.t.ppf(0.975, max(len(gains) - 1, 1)) * gains.std(ddof=1) / len(gains) ** 0.5
        said = [f"{mean(line[k] for line in found):.4f}" for k in ("accuracy", "log_score", "ece")]
        rows.append(f"| {method} | {' | '.join(said)} | {gains.mean():+.4f} | +- {reach:.4f} |")
    return "\n".join(rows)


def outside(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How well doubt tells other images, and how accuracy and entropy go with an angle."""
    for seed in seeds:
        for method in EVERY:
            for data, other in (("mnist", "fashion-mnist"), ("fashion-mnist", "mnist")):
                settings = FEW | {"data": data, "outside": f"{other},rotate"} | more
                run = fitted(method, seed, **settings)
                found = {k: v for k, v in run.metrics.items() if k in SCORES or "auroc" in k}
                yield {"method": method, "seed": seed, "data": data, **found} | {
                    "turned": turned(run)
                }


def turned(run: zoo.Run) -> dict[str, list[float]]:
    """Angle to accuracy and mean entropy."""
    found = {}
    for name in run.idata.groups():
        if name.startswith("beside_rotate"):
            group = run.idata[name]
            found[name.removeprefix("beside_rotate")] = [
                round(float(group[k].mean()), 4) for k in ("right", "entropy")
            ]
    return found


def labels(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Random labels: what is left of a network's accuracy on the very rows it was trained on."""
    settings = FEW | {"labels": "random", "n": 5000, "hidden": "300,100", "steps": 20_000}
    settings |= {"lr": 1e-3} | more
    for seed in seeds:
        for method in ("mle", "svi:sparse"):
            run = fitted(method, seed, **settings)
            x, y = (np.asarray(run.data.tensors[key]) for key in ("x", "y"))
            table = run.predict({"x": x})
            chances = table.filter(like="p[")
            yield {
                "method": method,
                "seed": seed,
                "training_accuracy": float((table["label"].to_numpy() == y).mean()),
                "spread_of_probabilities": float(chances.std().max()),
                "entropy": float(table["entropy"].mean()),
                "compression": run.metrics.get("compression", 1.0),
                "weights_kept": run.metrics.get("weights_kept"),
                "verdict": run.verdict.status,
            }


def rows(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of the variance of `heteroscedastic` as rows grow."""
    for seed in seeds:
        for n in (250, 500, 1000, 2000, 4000):
            run = zoo.run("heteroscedastic", n=n, seed=seed, data_seed=seed, **more)
            kept = ("coverage_90", "sigma_error", "aleatoric", "epistemic")
            yield {"n": n, "seed": seed, **{k: run.metrics[k] for k in kept}} | {
                "verdict": run.verdict.status
            }


def sparse(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Error and compression of sparse variational dropout, and sizes of files."""
    settings = {"data": "mnist", **SPARSE, "steps": 300_000, "lr": 5e-4, "compile": "aot"} | more
    for seed in seeds:
        begun = time.perf_counter()
        run = zoo.run("bnn", guide="sparse", seed=seed, progress=False, out="runs", **settings)
        kept = ("compression", "weights_kept", "weights", "log_score", "accuracy_mean_weights")
        yield {"method": "sparse", "seed": seed, "error": 1 - run.metrics["accuracy"]} | {
            **{k: run.metrics[k] for k in kept if k in run.metrics},
            "verdict": str(run.verdict),
            "parameters_bytes": (run.path / "params.safetensors").stat().st_size,
            "seconds": round(time.perf_counter() - begun),
        }


def pruned(seeds: Sequence[int], more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same network by MAP, the weights smallest for their layer's spread set to zero."""
    settings = {"data": "mnist", "hidden": "300,100", "activation": "relu", "steps": 30_000}
    for seed in seeds:
        run = zoo.run("bnn", method="map", seed=seed, progress=False, **settings | more)
        for compression in (1, 5, 10, 20, 40, 68, 100):
            yield {"method": "map", "seed": seed, "compression": compression} | {
                "error": _error(run, compression)
            }


def _error(run: zoo.Run, compression: float) -> float:
    """Error on the test set with the largest weights alone, by magnitude over all layers."""
    draws = {name: np.asarray(v)[0, 0] for name, v in run.idata["posterior"].data_vars.items()}
    weights = {name: value for name, value in draws.items() if value.ndim == 2}
    sizes = np.concatenate([np.abs(value).ravel() for value in weights.values()])
    least = np.quantile(sizes, 1 - 1 / compression) if compression > 1 else 0.0
    x, y = (np.asarray(run.data.test[key]) for key in ("x", "y"))
    layers = sorted({int(name.split(".")[1]) for name in draws})
    for layer in layers:
        w, b = draws[f"net.{layer}.weight"], draws[f"net.{layer}.bias"]
        x = x if layer == layers[0] else np.maximum(x, 0.0)
        x = x @ np.where(np.abs(w) >= least, w, 0.0).T + b
    return float((x.argmax(1) != y).mean())


OF_NETWORKS, OF_IMAGES = (few, outside, labels, rows, sparse, pruned), (semi, unlike, gaps)
OF_DEPTHS = (early, tent, collapse)
STUDIES = {f.__name__: f for f in (*OF_NETWORKS, *OF_IMAGES, *OF_DEPTHS)}
TABLES = {"few": few_table, "early": early_table}


def setting(word: str) -> tuple[str, Any]:
    """`steps=2000` as a name and a number, where it is one."""
    name, _, value = word.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--out", type=Path, default=Path("studies.jsonl"))
    parser.add_argument("--table", action="store_true", help="only the tables of --out")
    given = parser.parse_args()
    more = dict(map(setting, given.set))
    for study in given.studies:
        lines = _kept(given.out, study) if given.table else []
        for line in () if given.table else STUDIES[study](given.seeds, more):
            lines.append(line)
            with given.out.open("a") as file:
                print(json.dumps({"study": study, **more, **line}), file=file)
            print(json.dumps(line), flush=True)
        if study in TABLES:
            print(TABLES[study](lines))


def _kept(file: Path, study: str) -> list[dict[str, Any]]:
    """The lines of a study in a file of results."""
    lines = map(json.loads, file.read_text().splitlines())
    return [line for line in lines if line["study"] == study]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
