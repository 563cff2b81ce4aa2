"""Where a run computes: number type and threads put back, devices told apart."""

import pytest
import torch

from inference.core import machine
from models.contract import BadSetting, UsageError


def test_numbers_are_put_back_after_a_failure_too():
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), machine.numbers():
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 2


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.device("auto", "svi") == machine.device("cuda", "nuts") == "cuda"
    assert machine.device("auto", "laplace") == machine.device("cpu", "svi") == "cpu"
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        machine.device("cudda", "svi")
    with pytest.raises(UsageError, match="laplace runs on the processor alone"):
        machine.device("cuda", "laplace")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.device("auto", "svi") == "cpu"
    with pytest.raises(BadSetting, match="no CUDA device"):
        machine.device("cuda", "svi")


def test_versions_name_what_determines_the_numbers():
    assert {"python", "torch", "pyro-ppl", "arviz", "numpy", "nutpie"} <= machine.versions().keys()
