"""Sites: what one run says of each, held against the model as it is written."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from conftest import problem_from

from inference.program.program import Program
from inference.program.sites import Plate, batch_shape

Y = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
SEEN = torch.tensor([True, False])


def grouped(y, seen):
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    pyro.deterministic("double", 2 * scale)
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Bernoulli(0.5))
        loc = label[:, None].expand(-1, 3)
        pyro.sample("y", dist.Normal(loc, scale).to_event(1).mask(seen), obs=y)


def sites():
    return Program(problem_from(grouped, {"y": Y, "seen": SEEN})).sites


def test_roles_plates_and_shapes_are_those_of_the_model():
    roles = {name: site.role for name, site in sites().items()}
    expected = {"scale": "latent", "double": "deterministic", "label": "discrete", "y": "observed"}
    assert roles == expected
    y = sites()["y"]
    assert y.plates == (Plate("row", -1, 2),) and sites()["scale"].plates == ()
    assert (y.shape, y.event_dim, batch_shape(y)) == ((2, 3), 1, (2,))
    assert type(y.base) is dist.Normal


def test_what_a_mask_takes_away_is_no_data():
    data = sites()["y"].data
    assert torch.equal(data[0], Y[0]) and data[1].isnan().all()
