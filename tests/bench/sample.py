"""One problem by one library in one process: `sample.py LIBRARY PROBLEM SEED` prints JSON.

LIBRARY is `zoo` (the default, traced), `zoo-aot` (compiled), `pyro` or `numpyro`.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import numpy as np  # noqa: E402
from problems import CHAINS, DRAWS, rows, verdict  # noqa: E402


def by_zoo(name: str, seed: int, compile: str = "traced") -> tuple[dict, float]:
    """Through `zoo.run`, to its verdict; draws and seconds of compiling and sampling."""
    import zoo

    model = str(HERE / "network.py") if name == "network" else name
    data = rows(name) if name == "network" else None
    run = zoo.run(model, method="nuts", seed=seed, data=data, compile=compile)
    draws = {str(k): v.values for k, v in run.idata["posterior"].data_vars.items()}
    return draws, run.record["timing"]["fit_s"]


def by_pyro(name: str, seed: int) -> tuple[dict, float]:
    """Pyro's own NUTS with its defaults: no jit, chains one after another in this process."""
    import importlib.util

    import pyro
    import torch
    from pyro.infer import MCMC, NUTS

    import models

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    if name == "network":
        spec = importlib.util.spec_from_file_location("network", HERE / "network.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.model
    else:
        model = models.load(name).model
    tensors = {key: torch.as_tensor(value) for key, value in rows(name).items()}
    if name == "logistic":
        tensors["y"] = tensors["y"].double()
    began, kept = time.perf_counter(), []
    for _ in range(CHAINS):
        kernel = NUTS(model)
        sampler = MCMC(kernel, DRAWS, warmup_steps=DRAWS, disable_progbar=True)
        sampler.run(**tensors)
        kept.append(sampler.get_samples())
    draws = {k: np.stack([chain[k].numpy() for chain in kept]) for k in kept[0]}
    return draws, time.perf_counter() - began


def by_numpyro(name: str, seed: int) -> tuple[dict, float]:
    """NumPyro with its defaults, a host device for each chain."""
    import numpyro

    numpyro.set_host_device_count(CHAINS)
    numpyro.enable_x64()
    import jax
    import numpyro_models
    from numpyro.infer import MCMC, NUTS

    data, began = rows(name), time.perf_counter()
    kernel = NUTS(getattr(numpyro_models, name))
    sampler = MCMC(
        kernel, num_warmup=DRAWS, num_samples=DRAWS, num_chains=CHAINS, progress_bar=False
    )
    sampler.run(jax.random.PRNGKey(seed), **data)
    draws = {k: np.asarray(v) for k, v in sampler.get_samples(group_by_chain=True).items()}
    return draws, time.perf_counter() - began


LIBRARIES = {
    "zoo": by_zoo,
    "zoo-aot": lambda name, seed: by_zoo(name, seed, "aot"),
    "pyro": by_pyro,
    "numpyro": by_numpyro,
}

if __name__ == "__main__":
    library, problem, seed = sys.argv[1:]
    found, sampling = LIBRARIES[library](problem, int(seed))
    result = {"sampling_s": sampling, **verdict(problem, found)}
    print(json.dumps({**result, "total_s": time.perf_counter() - STARTED}))
