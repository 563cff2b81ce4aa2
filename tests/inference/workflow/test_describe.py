"""A model in words."""

from __future__ import annotations

from conftest import HOUSE

import inference
import zoo


def test_show_teaches(capsys):
    assert zoo.main(["show", "coin"]) == 0
    text = capsys.readouterr().out
    for word in ("pi  ~ Beta(alpha, beta)", "default 1.0", "> 0", "Data keys: x", "Bernoulli"):
        assert word in text
    for method in inference.METHODS:
        assert f"  {method} " in text
    assert "target_accept=0.9" in text
    assert str(HOUSE / "models" / "coin.py") in text
