"""From what was asked to a run."""

from __future__ import annotations

import pytest
import torch

import zoo


def test_no_method_takes_the_first_and_says_so(command):
    done = command("run", "gaussian", "--set", "draws=200", "warmup=100")
    assert "no --method given: nuts" in done.stderr


@pytest.mark.parametrize(
    ("method", "device", "code", "message"),
    [
        ("nuts", "cdua", 2, "did you mean 'cuda'"),
        ("map", "cuda", 2, "runs on the processor alone"),
        pytest.param(
            *("svi", "cuda", 78, "no CUDA device"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_a_device_that_cannot_be_had_is_told(method, device, code, message):
    with pytest.raises(Exception, match=message) as caught:
        zoo.run("coin", method=method, device=device)
    assert caught.value.exit_code == code


def test_an_automatic_device_is_the_processor_where_there_is_no_other():
    run = zoo.run("coin", method="map", device="auto", data="HHT")
    assert run.record["device"] == "cpu"
    assert {"load_s", "fit_s", "judge_s", "total_s"} <= run.record["timing"].keys()
