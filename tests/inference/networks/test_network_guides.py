"""The guides of a network's weights, beside what `test_weights` and `test_layers` have of each."""

from __future__ import annotations

import pytest
from conftest import NETWORK_GUIDES, problem_of

from inference.methods.guides import resolve
from inference.program.program import Program
from models.contract import Refused


@pytest.mark.parametrize("name", ["coin", "linear"])
@pytest.mark.parametrize("guide", NETWORK_GUIDES)
def test_guides_of_networks_refuse_what_is_bounded(name, guide):
    with pytest.raises(Refused, match=r"for the weights of a network.*use the guide normal"):
        resolve(guide, Program(problem_of(name)))
