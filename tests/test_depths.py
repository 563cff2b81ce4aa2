"""What a network of latent depth is used for: scores of exits, work, pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from models._depths import Trained
from models._residual import Residual, geometric


def test_work_is_in_shares_of_the_whole_network():
    net = Residual(10, 3, layers=4, width=5)
    data = type("Rows", (), {"tensors": {"x": torch.zeros(2, 10), "y": torch.zeros(2)}})
    data.dtype = "float64"
    trained = Trained(net, geometric(4, 1.0), None, data)
    stem, block, head = 10 * 5, 2 * 5 * 5, 5 * 3
    whole = stem + 4 * block + head
    layers = torch.tensor([0, 2, 4])
    np.testing.assert_allclose(trained.work(layers), (stem + block * layers + head) / whole)
    joint = (stem + block * layers + head * (layers + 1)) / whole
    np.testing.assert_allclose(trained.work(layers, "joint_mode"), joint)
    looks = torch.tensor([1, 3, 4])  # after the last layer nothing is asked
    quantile = (stem + block * layers + head * (layers + 1) + (5 + 3) * looks) / whole
    np.testing.assert_allclose(trained.work(layers, "quantile"), quantile)


def test_pictures(tmp_path):
    run = zoo.run("resnet", n=100, layers=2, width=4, steps=20, out=tmp_path)
    kept = {path.stem for path in (run.path / "figures").iterdir()}
    assert {"depths", "extremes", "exits"} <= kept
    (_, right) = run.plot("exits").axes
    assert right.get_ylabel() == "log score" and len(right.lines) == 8
    tent = zoo.run("resnet", data="tent", n=100, layers=2, width=4, steps=20)
    assert -1 <= tent.metrics["depth_rank"] <= 1
    assert tent.plot("depths").axes[0].get_ylabel() == "steps needed"


def test_scores_of_a_rule_are_those_of_its_rows():
    run = zoo.run("resnet", data="moons", n=40, layers=3, width=4, steps=30)
    chances = run.idata["held_out"]["probability"].values
    y = run.data.test["y"].numpy()
    right, sure = chances.argmax(1) == y, chances.max(1)
    bins = np.minimum((sure * 15).astype(int), 14)
    apart = [abs((right[bins == k] - sure[bins == k]).sum()) for k in range(15)]
    assert run.metrics["ece[average]"] == pytest.approx(sum(apart) / len(y), abs=1e-6)
    assert run.metrics["log_score[average]"] == pytest.approx(run.metrics["log_score"])
