"""Where a run computes: number type and threads put back, devices told apart."""

import pytest
import torch

from inference import METHODS
from inference.core import machine
from models.contract import BadSetting, Data, Refused, UsageError


def test_numbers_are_put_back_after_a_failure_too():
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), machine.numbers():
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 2


IMAGES, TABLE = (Data(tensors={}, source="x", dtype=kind) for kind in ("float32", "float64"))


def precisions(data, **asked):
    """Method to the number type of its runs on the data, or to the refusal."""
    types = {}
    for name, method in METHODS.items():
        try:
            types[name] = machine.precision(method, data, **asked)
        except Refused as refusal:
            types[name] = str(refusal).partition(",")[0]
    return types


def test_a_run_computes_in_double_precision_but_for_steps_that_are_noisier_than_rounding():
    types = precisions(IMAGES, identified=True, asked=False)
    assert types.pop("svi") == "float32" and set(types.values()) == {"float64"}
    assert set(precisions(IMAGES, identified=False, asked=False).values()) == {"float32"}
    for identified in (True, False):
        for asked in (True, False):
            types = precisions(TABLE, identified=identified, asked=asked)
            assert set(types.values()) == {"float64"}


def test_single_precision_that_is_asked_for_is_refused_where_it_cannot_tell_a_mode():
    types = precisions(IMAGES, identified=True, asked=True)
    for name in ("map", "mle", "laplace"):
        assert types.pop(name) == f"{name} needs float64"
    assert set(types.values()) == {"float32"}
    for identified, asked, expected in ((True, False, "float64"), (True, True, "float32")):
        assert machine.precision(None, IMAGES, identified=identified, asked=asked) == expected


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
