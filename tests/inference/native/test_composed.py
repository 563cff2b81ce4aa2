"""Operations are written as what torch composes them of."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from compared import ODD, agree, gradient, matrix

from inference.native.formulas import Unknown
from inference.native.operations import operation

aten = torch.ops.aten

ALONE = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "silu": F.silu,
    "mish": F.mish,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 2.0),
    "gelu_by_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "nan_to_num": lambda x: torch.nan_to_num(x, 0.5),
    "logit": lambda x: torch.logit(x, 1e-3),
    "sinc": torch.sinc,
    "frac": torch.frac,
    "entr": lambda x: torch.special.entr(x),
    "isinf": lambda x: torch.where(x.isinf(), 0.0, x),
    "heaviside": lambda x: torch.heaviside(x.detach(), x.new_tensor(0.5)) * x,
}
LOSSES = {
    "mse": lambda x: F.mse_loss(x, x[:1].expand_as(x)),
    "mse_sum": lambda x: F.mse_loss(x, torch.ones(3, 4), reduction="sum"),
    "l1": lambda x: F.l1_loss(x, torch.ones(3, 4)),
    "huber": lambda x: F.huber_loss(x, torch.ones(3, 4), delta=0.5),
    "smooth_l1": lambda x: F.smooth_l1_loss(x, torch.ones(3, 4)),
    "nll": lambda x: F.nll_loss(x.log_softmax(-1), torch.tensor([2, 0, 1])),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.tensor([2, -100, 1]), reduction="sum"),
    "cross_entropies": lambda x: F.cross_entropy(x, torch.tensor([2, 0, 1]), reduction="none"),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), torch.eye(3, 4)),
    "weighted": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.eye(3, 4), weight=torch.tensor(0.5), pos_weight=torch.tensor(2.0)
    ),
    "poisson": lambda x: F.poisson_nll_loss(x, torch.eye(3, 4)),
    "divergence": lambda x: F.kl_div(x.log_softmax(-1), torch.ones(3, 4) / 4, reduction="sum"),
}
LAYERS = {
    "layer_norm": lambda x: F.layer_norm(x, (4,), x[0], x[1]),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "group_norm": lambda x: F.group_norm(x, 2),
    "glu": lambda x: F.glu(x, -1),
    "embedding": lambda x: F.embedding(torch.tensor([[2, 0], [2, 2]]), x),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None] + 1, x[None]),
    "cosine": lambda x: F.cosine_similarity(x, x + 1, dim=-1),
    "normalized": lambda x: F.normalize(x, dim=-1),
    "max_pool": lambda x: F.max_pool1d(x[None], 2),
    "lerp": lambda x: torch.lerp(x, 2 * x, x.sigmoid()),
    "addcmul": lambda x: torch.addcmul(x, x, x + 1, value=2),
    "clamped": lambda x: torch.clamp_min(x, x[0]),
    "nansum": lambda x: x.log().nansum(0),
    "kron": lambda x: torch.kron(x, x[:2]),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 1:]),
    "block_diag": lambda x: torch.block_diag(x, x[:1]),
    "repeat": lambda x: x.repeat(2, 3),
    "unfold": lambda x: x.unfold(1, 2, 1),
    "take": lambda x: x.take(torch.tensor([0, 5, 7])),
    "index_copy": lambda x: torch.zeros(3, 4).index_copy(0, torch.tensor([2, 0, 1]), x),
    "quadratic": lambda x: torch.einsum("ij,ik,il->jkl", x, x + 1, x - 1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_functions_of_one_number(dtype):
    torch.manual_seed(0)
    x = torch.cat([torch.tensor(ODD), 3 * torch.randn(1000)]).to(dtype)
    near = {} if dtype == torch.float64 else {"gelu_by_tanh", "silu", "mish", "hardswish"}
    functions = {k: f for k, f in ALONE.items() if k not in near}
    agree(functions, x, within=1e-12 if dtype == torch.float64 else 2e-5)
    slopes = {k: gradient(f) for k, f in functions.items() if k != "sinc"}
    agree(slopes, x[len(ODD) :], within=1e-11 if dtype == torch.float64 else 2e-4)


@pytest.mark.parametrize("laid", ["rows", "columns"])
def test_losses_and_layers(laid):
    functions = LOSSES | LAYERS
    agree(functions, matrix(laid), within=1e-12)
    slopes = {k: gradient(lambda x, f=f: f(x) ** 2) for k, f in functions.items()}
    agree(slopes, matrix(laid), within=1e-10)


def test_what_is_composed_of_something_unknown_is_unknown():
    with pytest.raises(Unknown, match="sort"):
        operation(aten.sort.default)
