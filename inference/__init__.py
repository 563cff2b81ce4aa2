"""The catalogue: what each inference method and each shared guide is, said once.

Functions are given by dotted name and imported when they are asked for.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from .core import caches

caches.ensure()


@dataclass(frozen=True, kw_only=True)
class Method:
    """An inference method: `function(program, *, seed, context, **settings) -> Fit`.

    Attributes:
        function: `module:name`, in this package.
        result: Markov `chains`, `draws` of an approximation, those of the `exact` posterior, a
            `point`, or the `prior`.
        network: who does its work for a network's weights, which are not identified; None where
            that is the method itself.
        takes_guide: whether it fits a guide, and parameters of the model's own with it.
        uses_density: whether it needs the log density and its gradient, which are then proved.
        single: whether single precision is enough for it.
        on_gpu: whether it runs on a GPU.
        states_evidence: whether its log evidence may be compared with another model's.
        mode_of: the density that its `point` is the mode of: in the model's own space
            (`constrained`) or the `unconstrained` one; None: of none.
        label: its estimate in words, where that has a name of its own.
        longer: the settings by which it runs longer, first those of what is thrown away.
    """

    function: str
    result: Literal["chains", "draws", "exact", "point", "prior"] = "draws"
    network: str | None = None
    takes_guide: bool = False
    uses_density: bool = True
    single: bool = False
    on_gpu: bool = False
    states_evidence: bool = False
    mode_of: Literal["constrained", "unconstrained"] | None = None
    label: str = ""
    longer: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GuideKind:
    """A shared guide: `function(program, init, *, argument) -> Guide`.

    Attributes:
        function: `module:name`, in this package.
        of_networks: whether it is of a network's weights alone; other models refuse it.
        rich: whether it knows all correlations of the latents: only chains are beyond it.
    """

    function: str
    of_networks: bool = False
    rich: bool = False


METHODS = {
    "nuts": Method(
        function="methods.nuts:nuts",
        result="chains",
        single=True,
        on_gpu=True,
        longer=("warmup", "draws"),
    ),
    "svi": Method(function="methods.svi:svi", takes_guide=True, single=True, on_gpu=True),
    "laplace": Method(
        function="methods.laplace:laplace",
        network="networks.gauss_newton:network",
        states_evidence=True,
        mode_of="unconstrained",
    ),
    "map": Method(
        function="methods.point:map_",
        result="point",
        network="networks.gauss_newton:estimate",
        mode_of="constrained",
        label="MAP",
    ),
    "mle": Method(
        function="methods.point:mle",
        result="point",
        network="networks.gauss_newton:estimate",
        label="maximum likelihood",
    ),
    "exact": Method(
        function="methods.exact:exact",
        result="exact",
        uses_density=False,
        single=True,
        states_evidence=True,
    ),
    "prior": Method(
        function="methods.prior:prior", result="prior", uses_density=False, single=True
    ),
}

GUIDES = {
    "normal": GuideKind(function="methods.guides:normal"),
    "mvn": GuideKind(function="methods.guides:mvn", rich=True),
    "lowrank": GuideKind(function="methods.guides:lowrank"),
    "structured": GuideKind(function="methods.guides:structured"),
    "maf": GuideKind(function="methods.guides:maf", rich=True),
    "nsf": GuideKind(function="methods.guides:nsf", rich=True),
    "local": GuideKind(function="networks.weights:local", of_networks=True),
    "lastlayer": GuideKind(function="networks.weights:lastlayer", of_networks=True),
    "dropout": GuideKind(function="networks.dropout:dropout", of_networks=True),
    "dropconnect": GuideKind(function="networks.dropout:dropconnect", of_networks=True),
    "sparse": GuideKind(function="networks.dropout:sparse", of_networks=True),
    "ensemble": GuideKind(function="networks.weights:ensemble", of_networks=True),
}


def _first(**field: object) -> str:
    """The name of the first method whose record has that field."""
    ((key, value),) = field.items()
    return next(name for name, method in METHODS.items() if getattr(method, key) == value)


# The method of whoever names a guide and no method; the sampler; the closed form.
OF_GUIDES, SAMPLER = _first(takes_guide=True), _first(result="chains")
EXACT = _first(result="exact")
# What `compare` runs where no methods are named, from one point to the truth.
COMPARED = ("mle", "map", "laplace", "svi:normal", "svi:mvn", "nuts", "exact")
POINTS = tuple(m for m in COMPARED if m in METHODS and METHODS[m].result == "point")


def load(function: str) -> Callable:
    """The function of a dotted name `module:name`; its module is imported now.

    Raises:
        LookupError: there is none of that name.
    """
    module, _, name = function.partition(":")
    if not hasattr(import_module(f".{module}", __package__), name):
        raise LookupError(f"inference/{module.replace('.', '/')}.py has no function {name}")
    return getattr(import_module(f".{module}", __package__), name)


def about(method: str) -> Method:
    """What a recorded method is; of one that there is no more, what holds of any."""
    return METHODS.get(method, Method(function=""))


def about_guide(guide: str) -> GuideKind:
    """What a recorded guide (`lowrank:5`) is; of a model's own what holds of any."""
    return GUIDES.get(guide.partition(":")[0], GuideKind(function=""))


def method(name: str) -> Callable:
    """The function of a method."""
    return load(METHODS[name].function)


def guide(name: str) -> Callable:
    """The function of a shared guide."""
    return load(GUIDES[name].function)


def title(name: str) -> str:
    """First line of the docstring of a method or a shared guide, read from the source."""
    written = ast.get_docstring(_written((METHODS | GUIDES)[name].function))
    return (written or "").partition("\n")[0]


def guide_forms() -> dict[str, str]:
    """Shared guide to how it is written, `lowrank[:rank]`, read from the source."""
    forms = {}
    for name, kind in GUIDES.items():
        arguments = _written(kind.function).args.kwonlyargs
        forms[name] = name + "".join(f"[:{argument.arg}]" for argument in arguments)
    return forms


def _written(function: str) -> ast.FunctionDef:
    """The syntax of the function of a dotted name."""
    module, _, name = function.partition(":")
    path = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"{path} has no function {name}")
