"""The layers of a network: which latents are weights, and noise put in where they are used.

A latent is the weight of a layer where the model passes it to `torch.nn.functional.linear`, a
convolution or a product `x @ w`. Nothing of the model is read: it is watched while it runs.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.contract import Refused

from ..program.handlers import condition, run
from ..program.program import Program

_WITH_BIAS = (F.linear, F.conv1d, F.conv2d)
_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)


class Layer(NamedTuple):
    """A layer by the names of its latents, in the order of the network.

    Attributes:
        weight: site of its weights.
        bias: site of its biases; None without.
        inputs: dimension of the weights that is indexed by the layer's inputs.
    """

    weight: str
    bias: str | None
    inputs: int

    @property
    def sites(self) -> list[str]:
        """Its latents."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class Call(NamedTuple):
    """The use of a layer's weights: `function(x, weight, bias, *rest)`."""

    function: Callable[..., Tensor]
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    rest: tuple[Any, ...]
    named: Mapping[str, Any]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same layer with other inputs, weights and biases."""
        if self.function in _PRODUCTS:
            return self.function(x, weight)
        return self.function(x, weight, bias, *self.rest, **self.named)


class Layers(TorchFunctionMode):
    """Hands each use of the given weights to a function, which gives the layer's output.

    Args:
        weights: the weights, as the very tensors that the model will use.
        use: weights' name and call to the output.
    """

    def __init__(self, weights: Mapping[str, Tensor], use: Callable[[str, Call], Tensor]):
        super().__init__()
        self._names = {id(tensor): name for name, tensor in weights.items()}
        self._use = use

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        named = dict(kwargs or {})
        if (function in _WITH_BIAS or function in _PRODUCTS) and len(args) > 1:
            name = self._names.get(id(args[1]))
            if name is not None:
                bias = args[2] if len(args) > 2 else named.pop("bias", None)
                return self._use(name, Call(function, args[0], args[1], bias, args[3:], named))
        return function(*args, **named)


def layers(program: Program) -> list[Layer]:
    """The layers of a model's network, in the order in which they are computed.

    Args:
        program: the network and its data, on which it runs once.

    Raises:
        Refused: the model has none, or uses a weight in two places.
    """
    values = {site.name: site.value.clone() for site in program.of("latent")}
    names, used = {id(value): name for name, value in values.items()}, []

    def note(name: str, call: Call) -> Tensor:
        inputs = 0 if call.function in _PRODUCTS else 1
        used.append(Layer(name, names.get(id(call.bias)), inputs))
        return call(call.x, call.weight, call.bias)

    with Layers(values, note), torch.no_grad():
        run(program.model, program.tensors, condition(values))
    if not used:
        raise Refused(
            "this guide is for the weights of a network, and the model passes no latent to a "
            "linear layer, a convolution or a product x @ w; use another guide"
        )
    weights = [layer.weight for layer in used]
    twice = {name for name in weights if weights.count(name) > 1}
    if twice:
        raise Refused(f"{', '.join(twice)} is used by several layers; use the guide normal")
    return used


# -- a network of which little is left ---------------------------------------------------------

# Share of a layer's weights below which it is worth while to leave the rest out.
_FEW = 0.5

# Site of a linear layer's weights to the units and the inputs that are in use, indices each.
InUse = Mapping[str, tuple[Tensor, Tensor]]


def in_use(program: Program, draws: Mapping[str, Tensor]) -> InUse:
    """The units and inputs that are in use, of the layers whose weights are mostly zero.

    Args:
        program: the network.
        draws: its weights (S, *shape).

    Returns:
        Site of a linear layer's weights to the units and the inputs with a weight in any draw.
    """
    units = {}
    for name, value in draws.items():
        if value.ndim != 3:  # no matrix for each draw
            continue
        used = (value != 0).any(0)
        if used.float().mean() < _FEW:
            units[name] = used.any(1).nonzero()[:, 0], used.any(0).nonzero()[:, 0]
    linear = {layer.weight for layer in layers(program) if layer.inputs == 1} if units else ()
    return {name: some for name, some in units.items() if name in linear}


def without_idle(values: Mapping[str, Tensor], in_use: InUse) -> Layers:
    """Runs layers on the units and inputs that are in use alone; to be entered as a context.

    Args:
        values: the weights of one draw, as the very tensors that the model will use.
        in_use: of the layers that are mostly zero.
    """

    def use(name: str, call: Call) -> Tensor:
        units, inputs = in_use[name]
        weight = call.weight.index_select(0, units).index_select(1, inputs)
        part = F.linear(call.x.index_select(-1, inputs), weight)
        idle = part.new_zeros((*part.shape[:-1], call.weight.shape[0]))
        whole = idle.index_copy(-1, units, part)
        return whole if call.bias is None else whole + call.bias

    return Layers({name: values[name] for name in in_use}, use)
