"""The commands of which `same.py` holds the output of two checkouts side by side.

README's commands on the models of the zoo, with fewer steps where its own take minutes, further
ones for every verb, method, kind of data and guide, and faults. Each runs in a folder of its own,
which bears its name, beside the folder `given` of the files below. `@NAME` stands for the folder
of the run that an earlier command has made.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# -- files of a user --------------------------------------------------------------------------

_SCHOOLS = '''"""Eight schools: effects that share a mean and a spread."""

import pyro
import pyro.distributions as dist


def model(y, sigma):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(y)):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)
'''

_GUIDE = '''"""Independent normals for the mean and the effects, a log-normal for the spread."""

import pyro
import pyro.distributions as dist
import torch


def guide(y, sigma):
    at = pyro.param("at", torch.zeros(2))
    log_sd = pyro.param("log_sd", torch.zeros(2))
    pyro.sample("mu", dist.Normal(at[0], log_sd[0].exp()))
    pyro.sample("tau", dist.LogNormal(at[1], log_sd[1].exp()))
    eta = pyro.param("eta_at", torch.zeros(len(y)))
    with pyro.plate("school", len(y)):
        pyro.sample("eta", dist.Normal(eta, 1.0))
'''

_SIDES = '''"""Rows on either side of zero: a mixture of two normals with one centre."""

import pyro
import pyro.distributions as dist
import torch


def model(y, *, spread: float = 1.0):
    centre = pyro.sample("centre", dist.Gamma(4.0, 1.0))
    with pyro.plate("row", len(y)):
        right = pyro.sample("right", dist.Bernoulli(0.4))
        mean = torch.where(right > 0, centre, -centre)
        pyro.sample("y", dist.Normal(mean, spread), obs=y)
'''

_DICE = '''"""Which of three dice was thrown: a model whose only latent is discrete."""

import pyro
import pyro.distributions as dist
import torch


def model(y):
    die = pyro.sample("die", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
    with pyro.plate("throw", len(y)):
        pyro.sample("y", dist.Poisson(torch.tensor([2.0, 4.0, 7.0])[die]), obs=y)
'''

_ANGLES = '''"""A direction, seen with noise: a latent on the circle, near its seam."""

import pyro
import pyro.distributions as dist


def model(y):
    way = pyro.sample("way", dist.VonMises(3.0, 0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.VonMises(way, 4.0), obs=y)
'''

_LOOSE = '''"""A model with a mistake: its rows lie in no plate."""

import pyro
import pyro.distributions as dist


def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    pyro.sample("y", dist.Normal(mu, 1.0), obs=y)
'''

# Price by rooms and city; what is left is of a size that no column explains.
_HOMES = [
    f"{1 + 7 * i % 5},{('Ulm', 'Bonn', 'Kiel')[i % 3]},{40 + 12 * (7 * i % 5) + 9 * (i % 3)}."
    f"{37 * i % 100:02}"
    for i in range(30)
]
_HEADER = "rooms,city,price"


def write_files(folder: Path) -> None:
    """Lay out the files that the commands name, the same ones each time."""
    folder.mkdir()
    schools = {"y": [28, 8, -3, 7, -1, 1, 18, 12], "sigma": [15, 10, 16, 11, 9, 11, 10, 18]}
    texts = {
        "schools.py": _SCHOOLS,
        "guide.py": _GUIDE,
        "sides.py": _SIDES,
        "dice.py": _DICE,
        "angles.py": _ANGLES,
        "loose.py": _LOOSE,
        "schools.json": json.dumps(schools),
        "dice.json": json.dumps({"y": [3, 6, 4, 5]}),
        "angles.json": json.dumps({"y": [3.1, -2.9, 2.7, -3.0]}),
        "flips.json": json.dumps({"x": [1, 0, 1, 1, 0, 1, 1]}),
        "sides.csv": "\n".join(["y", "2.1", "-1.7", "-2.4", "1.6", "-2.2", "-1.9", "2.6", "-2"]),
        "homes.csv": "\n".join([_HEADER, *_HOMES]),
        "new_homes.csv": "\n".join(["rooms,city", "2,Ulm", "4,Kiel", "1,Bonn"]),
        "gaps.csv": "\n".join([_HEADER, *_HOMES[:5], "3,,80", *_HOMES[5:]]),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    row, column = np.mgrid[:8, :8] / 7
    images = [np.abs(np.sin(k * row) * np.cos(k * column)) for k in range(1, 7)]
    np.savez(folder / "images.npz", x=np.stack(images))


# -- commands ---------------------------------------------------------------------------------

_MODELS = (
    "bnn",
    "coin",
    "gaussian",
    "heteroscedastic",
    "linear",
    "logistic",
    "resnet",
    "ssvae",
    "stochastic_layer",
    "vae",
)

_LOOKING = {
    "models": "list",
    "models-json": "list --json",
    "methods": "list methods",
    "guides": "list guides --json",
    "data": "list data",
    **{f"show-{model}": f"show {model}" for model in _MODELS},
}

_SMALL = {
    "coin-exact": "run coin --data HHTHTT --method exact",
    "coin-map": "run coin --set alpha=10 beta=10 --data HHHHHHTTTT --method map",
    "coin-mle": "run coin --data ../given/flips.json --method mle",
    "coin-prior": "run coin --method prior --data simulate --set n=30 heads=0.7",
    "coin-own": "run coin --guide own",
    "coin-nuts": "run coin --method nuts",
    "coin-show": "show @coin-nuts",
    "coin-predict": "predict @coin-nuts --rows 3 --out rows.csv",
    "coin-sizes": "compare coin --sizes 2,10,100 --set heads=0.7",
    "coin-check": "check coin",
    "coin-sbc": "check coin --set n=10 --method exact --sbc 50",
    "coin-sbc-nuts": "check coin --set n=10 chains=2 draws=100 --method nuts --sbc 10",
    "gaussian-normal": "run gaussian --guide normal",
    "gaussian-mvn": "run gaussian --guide mvn",
    "gaussian-maf": "run gaussian --guide maf --set steps=300",
    "gaussian-plain": "run gaussian --guide structured --set compile=plain steps=200",
    "gaussian-compare": "compare gaussian --methods svi:normal,laplace,exact,nuts",
    "gaussian-runs": "list runs --out ../gaussian-compare/runs",
    "linear": "run linear",
    "linear-batches": "run linear --guide mvn --set batch_size=64 lr=0.02 schedule=linear",
    "linear-vary": "compare linear --methods exact,map,laplace --vary prior_scale=0.1,1",
    "linear-saved": "compare @linear @linear-batches",
    "linear-report": "report @linear @linear-batches --out report.html",
    "homes": "run linear --data ../given/homes.csv --target price --features rooms,city",
    "homes-predict": "predict @homes --data ../given/new_homes.csv",
    "logistic": "run logistic --set split=0.2",
    "logistic-lowrank": "run logistic --guide lowrank:5 --set begin=map",
    "logistic-compare": "compare logistic --methods map,laplace,svi:structured,svi:nsf,exact"
    " --set steps=300",
}

_NETWORKS = {
    "bnn": "run bnn",
    "bnn-nuts": "run bnn --data moons --method nuts --strict"
    " --set hidden=3 chains=2 draws=60 warmup=60",
    "bnn-compare": "compare bnn --data moons --set hidden=8 steps=300 draws=50"
    " --methods mle,map,laplace,svi:local,svi:lastlayer,svi:dropout,svi:dropconnect,svi:ensemble",
    "bnn-sparse": "run bnn --guide sparse"
    " --set prior=log_uniform hidden=30,10 activation=relu steps=500 lr=5e-4",
    "bnn-outside": "run bnn --set outside=rotate,noise steps=300",
    "bnn-gradients": "check bnn --gradients 50 --set steps=200",
    "heteroscedastic": "run heteroscedastic",
    "heteroscedastic-homes": "run heteroscedastic --data ../given/homes.csv --target price"
    " --set steps=500",
    "stochastic_layer": "compare stochastic_layer --methods svi:none,svi:one,svi:many"
    " --set steps=300",
    "resnet": "run resnet --set layers=3 width=8 steps=300",
    "resnet-tent": "run resnet --data tent --set width=8 ratio=0.3 steps=300",
    "resnet-compare": "compare resnet --data moons --set layers=3 width=8 steps=300"
    " --methods map,svi:enumerated,svi:ponder",
    "resnet-gradients": "check resnet --gradients 20 --set layers=3 width=8 steps=100",
}

_IMAGES = {
    "vae": "run vae --set steps=1000",
    "vae-flow": "run vae --guide flow --set objective=iwae particles=5 steps=100",
    "vae-nuts": "run vae --init @vae --method nuts"
    " --set part=test n=4 chains=2 draws=50 warmup=50",
    "vae-compare": "compare vae --init @vae --methods svi:normal,laplace"
    " --set part=test n=8 steps=300",
    "vae-evidence": "evidence @vae -q --rows 16 --particles 100 --gaps 4 --out rows.csv",
    "vae-annealed": "evidence @vae -q --rows 1 --particles 100 --annealed 1",
    "vae-encode": "encode @vae --data ../given/images.npz --out codes.csv",
    "ssvae": "run ssvae --set labels=100 steps=300",
    "ssvae-encode": "encode @ssvae --rows 5",
    "ssvae-supervised": "run ssvae --guide supervised --set steps=300",
}

_OWN = {
    "schools-show": "show ../given/schools.py",
    "schools": "run ../given/schools.py --data ../given/schools.json",
    "schools-guide": "run ../given/schools.py --data ../given/schools.json"
    " --guide ../given/guide.py --set steps=500",
    "schools-check": "check ../given/schools.py --data ../given/schools.json --guide mvn",
    "schools-sbc": "check ../given/schools.py --data ../given/schools.json"
    " --guide normal --set steps=200 --sbc 10 --jobs 2",
    "schools-float32": "run ../given/schools.py --data ../given/schools.json"
    " --guide normal --set dtype=float32 steps=500",
    "dice": "run ../given/dice.py --data ../given/dice.json --method exact",
    "angles": "run ../given/angles.py --data ../given/angles.json",
    "loose": "check ../given/loose.py --data ../given/angles.json",
    "sides": "run ../given/sides.py --data ../given/sides.csv --set spread=0.5",
    "sides-predict": "predict @sides --model ../given/sides.py --rows 2",
    "new": "new my_model.py",
    "new-check": "check ../new/my_model.py",
    "new-exact": "run ../new/my_model.py --method exact",
}

_SAFE = {
    "cut-nuts": "run linear --set workers=1",
    "cut-nuts-resume": "resume @cut-nuts",
    "cut-svi": "run linear --guide mvn --set batch_size=64 lr=0.02 schedule=linear",
    "cut-svi-resume": "resume @cut-svi",
    "failed": "run linear --guide normal --set lr=1e9",
    "failed-runs": "list runs --json --out ../failed/runs",
    "failed-dry": "clean --dry-run --out ../failed/runs",
    "failed-clean": "clean --out ../failed/runs",
}

_FAULTS = {
    "fault-model": "run coyn",
    "fault-guide": "run coin --guide norml",
    "fault-usage": "run",
    "fault-option": "run coin --methdo exact",
    "fault-data": "run linear --data ../given/gaps.csv --target price",
    "fault-refused": "run gaussian --method mle",
    "fault-file": "run linear --data ../given/nothing.csv",
    "fault-run": "predict ../given/nothing",
    "fault-setting": "run coin --set alpha=-1",
    "fault-name": "run coin --set alhpa=1",
}

COMMANDS = _LOOKING | _SMALL | _NETWORKS | _IMAGES | _OWN | _SAFE | _FAULTS

# Of these the start is drawn before the seed is set, so that no two runs have the same numbers.
UNSEEDED = ("bnn-gradients",)

# Commands on images that are no part of the libraries: they run where `ZOO_DATA` names a folder.
DOWNLOADED = {
    "mnist-bnn": "run bnn --data mnist"
    " --set n=1000 hidden=100 outside=fashion-mnist,rotate,noise steps=500",
    "mnist-vae": "run vae --data mnist"
    " --set n=1000 latent=5 hidden=20,20 steps=300 outside=fashion-mnist",
    "mnist-ssvae": "run ssvae --data mnist --set n=1000 latent=5 hidden=20 classifier=conv"
    " dropout=0.5 alpha=50 batch_size=50 lr=1e-3 steps=60",
    "mnist-resnet": "run resnet --data fashion-mnist"
    " --set n=1000 layers=2 width=8 heads=each ratio=0.98 steps=300",
}


@dataclass(frozen=True)
class Cut:
    """How a command is ended on its way.

    Attributes:
        signal: what its processes get.
        once: the file of its run that must be there first.
        whole: the command that does the same and that nobody ends: the resumed draws are its.
    """

    signal: signal.Signals
    once: str
    whole: str


CUTS = {
    "cut-nuts": Cut(signal.SIGKILL, "state/chain-0.safetensors", "linear"),
    "cut-svi": Cut(signal.SIGINT, "state/svi.safetensors", "linear-batches"),
}
