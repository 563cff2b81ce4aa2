"""The nouns of a method: rows of a problem, findings in words."""

import torch

from inference.core.problem import Finding, Problem
from models.contract import Fault, Refused, Rows


def test_rows_of_a_problem():
    tensors = {"y": torch.zeros(4), "k": 2}
    assert Problem(model=print, tensors=tensors, rows=Rows("row", ("y",))).n == 4
    assert Problem(model=print, tensors=tensors).n is None


def test_findings_say_what_and_what_to_do():
    assert str(Finding("warn", "it is odd", "look")) == "it is odd; look"
    assert str(Finding("note", "it is odd")) == "it is odd"


def test_faults_carry_their_exit_code():
    assert (Fault.exit_code, Refused.exit_code) == (70, 65)
