"""What a network of latent depth is used for: scores of exits, work, pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from models import resnet
from models.contract.figures import grid
from models.data.classified import Steps
from models.parts import depths
from models.parts.depths import Trained
from models.parts.residual import RULES, Residual, geometric


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
    for line, rule in zip(right.lines[1:], (*RULES, "average"), strict=True):
        at = run.metrics[f"work[{rule}]"], run.metrics[f"log_score[{rule}]"]
        np.testing.assert_allclose(line.get_xydata(), [at])
    found = resnet.of_run(run)
    depths, labels = np.arange(3) @ found.posterior.numpy(), run.data.tensors["y"].numpy()
    (image,) = run.plot("depths").axes[0].images
    means = [found.posterior.numpy()[:, labels == k].mean(1) for k in range(10)]
    np.testing.assert_allclose(image.get_array(), means, rtol=1e-6)
    (image,) = run.plot("extremes").axes[0].images
    order = np.argsort(depths, kind="stable")
    chosen = np.concatenate([order[:12], order[-12:]])
    images = run.data.tensors["x"].numpy()[chosen].reshape(-1, 8, 8)
    np.testing.assert_allclose(image.get_array(), grid(images, 12))
    tent = zoo.run("resnet", data="tent", n=100, layers=2, width=4, steps=20)
    assert tent.plot("depths").axes[0].get_ylabel() == "steps needed"


def test_few_rows_have_their_pictures(tmp_path):
    run = zoo.run("resnet", n=5, layers=2, width=4, steps=20)
    there = len(set(run.data.tensors["y"].tolist()))
    assert len(run.plot("depths").axes[0].get_yticks()) == there < 10
    assert run.plot("extremes") is not None


def planted(of_rows, steps=None):
    """A network whose rows have these depths, (L + 1, n)."""
    data = type("Rows", (), {"scaling": None if steps is None else Steps(np.array(steps))})
    found = Trained(None, None, None, data)
    vars(found)["posterior"] = torch.as_tensor(of_rows)
    return found


def test_depths_of_rows_are_told_as_they_are():
    of_rows = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.1], [0.1, 0.3, 0.8]])
    told = depths._depths(planted(of_rows, [0, 2, 1]))
    assert told["depth_train"] == pytest.approx((0.4 + 1.1 + 1.7) / 3)
    shares = of_rows.mean(1)
    assert told["depth_used"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert told["depth_rank"] == pytest.approx(0.5)  # 1 - 6 (0 + 1 + 1) / (3 * 8)
    assert "depth_rank" not in depths._depths(planted(of_rows, [1, 1, 1]))
    assert "depth_rank" not in depths._depths(planted(of_rows))


def test_scores_of_chances_by_hand():
    chances = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55], [0.0, 1.0]])
    told = depths._scored("p", chances, torch.tensor([0, 1, 1, 0]))
    assert told["accuracy[p]"] == 0.5
    bins = [abs(1 - 0.9 + 0 - 0.9), 1 - 0.55, 1.0]  # under and over its rate
    assert told["ece[p]"] == pytest.approx(sum(bins) / 4)
    truth = np.log([0.9, 0.1, 0.55, 1e-45])
    assert told["log_score[p]"] == pytest.approx(truth.mean(), rel=1e-3)


def test_averages_and_samples():
    run = zoo.run("resnet", data="moons", n=40, layers=3, width=4, steps=30)
    found = resnet.of_run(run)
    x, y = found.rows(run.data.test)
    chances, q = found.chances(x)
    truth = (q[..., None] * chances).sum(0)[torch.arange(len(y)), y].log().mean()
    assert run.metrics["log_score[average_q]"] == pytest.approx(float(truth), rel=1e-6)
    assert depths.scores(found) == depths.scores(found)  # one seed of `sample`


def test_scores_of_a_rule_are_those_of_its_rows():
    run = zoo.run("resnet", data="moons", n=40, layers=3, width=4, steps=30)
    chances = run.idata["held_out"]["probability"].values
    y = run.data.test["y"].numpy()
    right, sure = chances.argmax(1) == y, chances.max(1)
    bins = np.minimum((sure * 15).astype(int), 14)
    apart = [abs((right[bins == k] - sure[bins == k]).sum()) for k in range(15)]
    assert run.metrics["ece[average]"] == pytest.approx(sum(apart) / len(y), abs=1e-6)
    assert run.metrics["log_score[average]"] == pytest.approx(run.metrics["log_score"])
