"""One problem by one of the zoo's peers, a whole process as a user would have it.

    python tests/bench/sample.py LIBRARY PROBLEM SEED DATA OUT

LIBRARY is numpyro, pymc, nutpie or pyro; DATA is the folder with the rows that are read from
files; the draws go to OUT (.npz), and the last line of standard output is JSON: seconds of
compiling and sampling, and divergences.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from problems import CHAINS, DRAWS, FILES, rows

# Draws (chain, draw, *shape) by site, seconds of compiling and sampling, divergences.
Sampled = tuple[Mapping[str, np.ndarray], float, int]


def by_numpyro(name: str, data: dict[str, np.ndarray], seed: int) -> Sampled:
    """NumPyro with its defaults, a host device for each chain."""
    import numpyro

    numpyro.set_host_device_count(CHAINS)
    numpyro.enable_x64()
    import jax
    import numpyro_models
    from numpyro.infer import MCMC, NUTS

    began = time.perf_counter()
    kernel = NUTS(getattr(numpyro_models, name))
    sampler = MCMC(
        kernel, num_warmup=DRAWS, num_samples=DRAWS, num_chains=CHAINS, progress_bar=False
    )
    sampler.run(jax.random.PRNGKey(seed), **data)
    draws = {k: np.asarray(v) for k, v in sampler.get_samples(group_by_chain=True).items()}
    took = time.perf_counter() - began
    sampler.print_summary()
    return draws, took, int(sampler.get_extra_fields()["diverging"].sum())


def by_pymc(name: str, data: dict[str, np.ndarray], seed: int) -> Sampled:
    """PyMC with its defaults (1000 steps of warm-up), except that nutpie samples."""
    import pymc as pm
    import pymc_models

    with pm.Model():
        getattr(pymc_models, name)(**data)
        began = time.perf_counter()
        how = {"nuts_sampler": "nutpie", "chains": CHAINS, "cores": os.cpu_count()}
        idata = pm.sample(DRAWS, random_seed=seed, progressbar=False, **how)
    return _summarised(idata, time.perf_counter() - began)


def by_nutpie(name: str, data: dict[str, np.ndarray], seed: int) -> Sampled:
    """PyMC's model through nutpie's own interface, with its defaults (a shorter warm-up)."""
    import nutpie
    import pymc as pm
    import pymc_models

    with pm.Model() as model:
        getattr(pymc_models, name)(**data)
    began = time.perf_counter()
    how = {"chains": CHAINS, "cores": os.cpu_count(), "progress_bar": False}
    idata = nutpie.sample(nutpie.compile_pymc_model(model), draws=DRAWS, seed=seed, **how)
    return _summarised(idata, time.perf_counter() - began)


def _summarised(idata: Any, took: float) -> Sampled:
    import arviz as az

    print(az.summary(idata))
    draws = {str(k): v.values for k, v in idata["posterior"].data_vars.items()}
    return draws, took, int(idata["sample_stats"]["diverging"].sum())


def by_pyro(name: str, data: dict[str, np.ndarray], seed: int) -> Sampled:
    """Pyro's own NUTS with its defaults: no jit, chains one after another in this process."""
    import pyro
    import torch
    from pyro.infer import MCMC, NUTS

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    pyro.set_rng_seed(seed)
    model = _pyro_model(name)
    tensors = {key: torch.as_tensor(value) for key, value in data.items()}
    if name == "logistic":
        tensors["y"] = tensors["y"].double()
    began, chains, divergences = time.perf_counter(), [], 0
    for _ in range(CHAINS):
        sampler = MCMC(NUTS(model), DRAWS, warmup_steps=DRAWS, disable_progbar=True)
        sampler.run(**tensors)
        chains.append(sampler.get_samples())
        divergences += len(sampler.diagnostics()["divergences"]["chain 0"])
    draws = {k: np.stack([chain[k].numpy() for chain in chains]) for k in chains[0]}
    took = time.perf_counter() - began
    sampler.summary()
    return draws, took, divergences


def _pyro_model(name: str) -> Any:
    """The model of a user's file, or the zoo's own."""
    import importlib.util

    if name not in FILES:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        import models

        return models.load(name).model
    spec = importlib.util.spec_from_file_location(name, FILES[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.model


LIBRARIES = {"numpyro": by_numpyro, "pymc": by_pymc, "nutpie": by_nutpie, "pyro": by_pyro}

if __name__ == "__main__":
    library, problem, seed, folder, out = sys.argv[1:]
    data = rows(problem, Path(folder))
    draws, took, divergences = LIBRARIES[library](problem, data, int(seed))
    np.savez(out, **draws)
    print(json.dumps({"sampling_s": took, "divergences": divergences}))
