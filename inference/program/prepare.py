"""A problem made of a model and its data: in the run's dtype, its rows known, and checked."""

import copy
import inspect
import re
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from models.contract import Fault, Refused, Rows

from ..core import user_code
from ..core.problem import Problem
from ..core.settings import bound, declared
from . import discrete, row_keys
from .program import Program
from .sampling import shape_of
from .sites import Site, Tensors
from .supports import outside

# Option of a model to its value.
Options = Mapping[str, Any]


def ready(problem: Problem, *, dtype: torch.dtype, checked: bool = True) -> Program:
    """The program of a problem, its data in the run's dtype and its rows known.

    Integer arrays stay integers, unless the model cannot run on them or an observed site's
    distribution wants floats.

    Args:
        problem: with its data as they came in.
        dtype: of all floating-point data.
        checked: whether the observed values are held against shapes and supports, and the
            discrete latents against what can be summed out.

    Raises:
        Refused: the model cannot run on the data, shapes do not match the plates, or a value lies
            outside the support of its distribution.
    """
    problem = _in_dtype(problem, dtype)
    try:
        program = _program(problem)
    except Refused as refusal:
        program = _with_floats(problem, dtype, refusal)
    program = _observed_floats(program, dtype)
    if problem.rows is None:
        program = program.changed(rows=row_keys.find(program))
    if checked:
        _check(program)
    return program


def _in_dtype(problem: Problem, dtype: torch.dtype) -> Problem:
    """The problem with all its floats of one type, and what is held out of floats alone."""

    def floats(rows: Mapping[str, Any], integers: bool = False) -> dict[str, Any]:
        return {key: _float(value, dtype, integers=integers) for key, value in rows.items()}

    redrawn = problem.redrawn
    return replace(
        problem,
        tensors=floats(problem.tensors),
        test=problem.test and floats(problem.test, integers=True),
        redrawn=redrawn and redrawn._replace(tensors=floats(redrawn.tensors)),
        beside={name: floats(rows) for name, rows in problem.beside.items()},
        plane=problem.plane and floats(problem.plane),
    )


def _observed_floats(program: Program, dtype: torch.dtype) -> Program:
    """What is observed made floats, but for classes."""
    tensors = program.problem.tensors
    floats = {
        key: _float(tensors[key], dtype, integers=True)
        for name, key in observed_keys(program.sites, tensors).items()
        if not isinstance(program.sites[name].base, dist.Categorical)
    }
    if all(value is tensors[key] for key, value in floats.items()):
        return program
    return _program(replace(program.problem, tensors={**tensors, **floats}))


def _check(program: Program) -> None:
    """Hold what is observed against its distributions, and latents against what can be inferred.

    Raises:
        Refused: a shape or a value does not fit, or a discrete latent cannot be summed out.
    """
    keys = observed_keys(program.sites, program.problem.tensors)
    for site in program.sites.values():
        if site.role == "observed":
            _check_shape(site, keys.get(site.name, site.name))
            check_support(site, keys.get(site.name, site.name))
        if site.role == "discrete":
            discrete.check(site)
        if site.moves == "labels" and site.role == "latent":
            raise Refused(
                f"the support of {site.name} depends on a discrete latent, which is summed out; "
                f"scale a latent of fixed support instead ({site.name} = top * share)"
            )


def program_of(entry: Any, options: Options, data: Any, *, checked: bool = True) -> Program:
    """The program that a run infers from.

    Args:
        entry: the model's `Entry`.
        options: its options by name.
        data: its `Data`.
        checked: see `ready`.

    Raises:
        Refused: see `ready`; a class of a model that cannot be made of data and options.
    """
    problem = unprepared(entry, options, data)
    return ready(problem, dtype=torch.get_default_dtype(), checked=checked)


def unprepared(entry: Any, options: Options, data: Any) -> Problem:
    """The problem as it came in: what was not given, or has no rows, is latent."""
    tensors, free = dict(data.tensors), [k for k in entry.free if k not in data.tensors]
    tensors |= {key: torch.zeros(()) for key in free}
    own = entry.inference.guides
    if data.n == 0:
        free = [*free, *data.rows.keys]
        tensors |= {key: torch.zeros(1, *tensors[key].shape[1:]) for key in data.rows.keys}
    return Problem.of(
        data,
        tensors=tensors,
        rows=data.rows and Rows(data.rows.plate, tuple(data.rows.keys)),
        latent_keys=tuple(free),
        model=instance(entry.model, data, options),
        guides=_Made({k: partial(_own, v.function, data, options) for k, v in own.items()}),
        objectives={k: _own(v.objective, data, options) for k, v in own.items() if v.objective},
        exact=partial(truth, entry, data, options) if entry.exact else None,
        identified=entry.identified,
        start=entry.inference.start,
    )


def truth(entry: Any, data: Any, options: Options, tensors: Tensors | None = None) -> Any:
    """What the model states of the truth of its data; of `tensors` in their place, where given."""
    if tensors:
        data = replace(data, tensors={**data.tensors, **tensors}, test=None)
    return entry.exact(data, **options)


def instance(model: Any, data: Any, options: Options) -> Any:
    """The model with its options; an object of it, made for the data, where it is a class.

    A model that is an object is copied: a run may change what it holds.

    Raises:
        Refused: a class that cannot be made of data and options.
    """
    if not inspect.isclass(model):
        return partial(copy.deepcopy(model), **options)
    parameters = inspect.signature(model).parameters.values()
    needs_data = any(p.default is p.empty and p.kind in _POSITIONAL for p in parameters)
    with torch.random.fork_rng(devices=[]):  # torch's layers draw their weights when they are made
        torch.manual_seed(0)
        try:
            return model(*([data] if needs_data else []), **options)
        except TypeError as error:
            name, where = model.__name__, user_code.of_error(error) or user_code.of_function(model)
            raise Refused(
                f"{name} cannot be made ({error}), {where}; give an object, model = {name}(...), "
                "or let __init__ take keyword-only options alone"
            ) from error


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Made(UserDict):
    """Name to a part that is made when it is first asked for: it may want a library of its own.

    Args:
        makers: name to what makes the part.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Callable]]):
        self.made: dict[str, Callable] = {}
        super().__init__(makers)

    def __getitem__(self, name: str) -> Callable:
        if name not in self.made:
            self.made[name] = self.data[name]()
        return self.made[name]


def _own(part: Callable, data: Any, options: Options) -> Callable:
    """A guide or objective of the model's own with its options; an object, if it is a class."""
    if not inspect.isclass(part):
        return bound(part, options)
    return instance(part, data, {k: v for k, v in options.items() if k in declared(part)})


def place(problem: Problem, device: str) -> Problem:
    """The problem with its data on a device; itself on `cpu`."""
    if device == "cpu":
        return problem

    def moved(tensors: Tensors) -> dict[str, Any]:
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in tensors.items()}

    redrawn = problem.redrawn and problem.redrawn._replace(tensors=moved(problem.redrawn.tensors))
    tensors, params = moved(problem.tensors), moved(problem.params)
    return replace(problem, tensors=tensors, params=params, redrawn=redrawn)


def _with_floats(problem: Problem, dtype: torch.dtype, refusal: Refused) -> Program:
    """The program with as few whole numbers made floats as the model needs to run.

    Raises:
        Refused: the first refusal, if no choice helps.
    """
    whole = [
        key
        for key, value in problem.tensors.items()
        if isinstance(value, int) or (isinstance(value, Tensor) and not value.is_floating_point())
    ]
    matrices = [k for k in whole if getattr(problem.tensors[k], "ndim", 0) > 1]
    for keys in [*([key] for key in whole), matrices, whole]:
        floats = {k: _float(problem.tensors[k], dtype, integers=True) for k in keys}
        try:
            return _program(replace(problem, tensors={**problem.tensors, **floats}))
        except Refused:
            continue
    raise refusal


def _float(value: Any, dtype: torch.dtype, *, integers: bool = False) -> Any:
    if isinstance(value, float) or (isinstance(value, int) and integers):
        return torch.tensor(value, dtype=dtype)
    if not isinstance(value, Tensor):
        return value
    return value.to(dtype) if value.is_floating_point() or integers else value


def _program(problem: Problem) -> Program:
    """The program of a problem, what its model raises told as a refusal.

    Raises:
        Refused: with the line, and what to do about it.
    """
    try:
        return Program(problem)
    except Fault:
        raise
    except Exception as error:
        message = str(error).partition("\n")[0]
        if message.startswith("Cannot transform _"):  # `biject_to` of torch
            kind = message.removeprefix("Cannot transform _").removesuffix(" constraints")
            raise Refused(
                f"no method can move in the support of a latent ({kind}), {where(error)}; compute "
                "it from latents on the line (a direction: z / z.norm() of a Normal z)"
            ) from error
        shapes = ", ".join(
            f"{k} {tuple(v.shape) if isinstance(v, Tensor) else v}"
            for k, v in problem.tensors.items()
        )
        raise Refused(
            f"the model cannot run on these data ({type(error).__name__}: {message}), "
            f"{where(error)}; {clash(error) or f'data: {shapes}'}"
        ) from error


def where(error: BaseException) -> str:
    """File and line of the user's own code in which an error arose."""
    return user_code.of_error(error) or "in Pyro"


def clash(error: BaseException) -> str:
    """What to do about an error of torch's for two number types in one line; else nothing."""
    if not all(re.search(rf"\b{kind}\b", str(error), re.IGNORECASE) for kind in _KINDS):
        return ""
    here = str(torch.get_default_dtype()).removeprefix("torch.")
    other = "float32" if here == "float64" else "float64"
    return (
        f"the run is in {here}, and this line has {other} too: write .to(x.dtype) there, or "
        f'--set dtype={other} (in Python dtype="{other}")'
    )


_KINDS = ("double", "float")


def observed_keys(sites: Mapping[str, Site], tensors: Tensors) -> dict[str, str]:
    """Observed site to the data key it observes: that of its name, or of the same tensor."""
    keys = {}
    for site in sites.values():
        if site.role == "observed":
            same = [k for k, v in tensors.items() if v is site.value]
            key = site.name if site.name in tensors else next(iter(same), None)
            keys |= {site.name: key} if key and isinstance(tensors[key], Tensor) else {}
    return keys


def _check_shape(site: Site, key: str) -> None:
    expected = shape_of(site.fn, site.value)
    if site.shape == expected:
        return
    fix = f"give {key} that shape (broadcasting would be silently wrong)"
    if site.shape[1:] == expected:  # one value for each row, and no rows
        fix = f'write it inside `with pyro.plate("row", {site.shape[0]}):`'
    raise Refused(
        f"{key} has shape {site.shape}, its distribution {type(site.base).__name__} has "
        f"{expected}; {fix}"
    )


def _missing(site: Site) -> Tensor:
    """Which values of a site, as many as its support judges, are NaN: the model's own matter."""
    gaps = site.value.isnan()
    return gaps.flatten(-site.event_dim).any(-1) if site.event_dim else gaps


def check_support(site: Site, key: str) -> None:
    """Refuse an observed value that its distribution cannot give, naming the row.

    Where the support depends on latents, the density judges.

    Raises:
        Refused: with the first such value.
    """
    said = None if site.moves else outside(site.fn, site.value, key, missing=_missing(site))
    if said is not None:
        raise Refused(f"{said}; correct the data or the model")
