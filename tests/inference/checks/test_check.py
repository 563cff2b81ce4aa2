"""The checks of a model as a whole, and what is proved of its density before a run."""

from __future__ import annotations

import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import run_case
from conftest import HOUSE, problem_from, problem_of

import models
import zoo
from inference.checks import check as checking
from inference.core import machine
from inference.core.problem import Context
from inference.methods import nuts
from inference.program.program import Program
from models.contract import Fault, Refused

HEAD = "import pyro\nimport pyro.distributions as dist\nimport torch\n\n\n"
SOUND = """def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)
"""
ROWS = {"y": [0.5, -1.0, 2.0]}
COLUMN = {"y": [[0.5], [-1.0], [2.0]]}
# The mistake, its file, the data, the check that is crossed, and its line.
MISTAKES = {
    "a parameter without a prior": (
        SOUND.replace(
            'pyro.sample("sigma", dist.HalfNormal(1.0))', 'pyro.param("sigma", torch.tensor(1.0))'
        ),
        ROWS,
        "priors",
        "no prior for sigma (pyro.param): only svi can fit it, mine.py, line 8; "
        'give it a prior (pyro.sample("sigma", ...))',
    ),
    "a target of shape (n, 1)": (
        SOUND,
        COLUMN,
        "shapes",
        "y has shape (3, 1), its distribution Normal has (3,): together they broadcast to (3, 3), "
        "mine.py, line 10; give y the shape (3,)",
    ),
    "no plate": (
        SOUND.replace('with pyro.plate("row", len(y)):', "if True:"),
        ROWS,
        "plates",
        "the 3 values of y lie in no plate, mine.py, line 10; "
        'write it inside `with pyro.plate("row", 3):`',
    ),
    "a second plate of the same rows": (
        SOUND.replace(
            'with pyro.plate("row", len(y)):',
            'with pyro.plate("row", len(y)), pyro.plate("again", len(y)):',
        ),
        ROWS,
        "once",
        "each row of y is counted 3 times: it lies in the plate 'again', for which y has no "
        "values of its own, mine.py, line 10; leave the plate 'again' out",
    ),
    "rows made one event inside their plate": (
        SOUND.replace("dist.Normal(mu, sigma)", "dist.Normal(mu + 0 * y, sigma).to_event(1)"),
        ROWS,
        "once",
        "each row of y is counted 3 times: .to_event(1) makes the rows one value, which the plate "
        "'row' repeats, mine.py, line 10; leave .to_event(1) out",
    ),
    "a guide without a site": (
        SOUND + '\n\ndef guide(y):\n    loc = pyro.param("loc", torch.tensor(0.0))\n'
        '    pyro.sample("mu", dist.Normal(loc, 1.0))\n',
        ROWS,
        "guide",
        "the guide has no site 'sigma', the model's latents are mu, sigma, mine.py, line 13; "
        'add pyro.sample("sigma", ...)',
    ),
    "a negative scale": (
        SOUND.replace("dist.HalfNormal(1.0)", "dist.Normal(0.0, 1.0)"),
        ROWS,
        "parameters",
        "scale of y ~ Normal is -1.167, not > 0, in 10 of 20 draws from the prior, "
        "mine.py, line 10; give what it is made of a prior inside that range, or transform it "
        "(exp, softplus)",
    ),
    "a factor and no observed site": (
        'def model(y):\n    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))\n'
        '    pyro.factor("fit", -((y - mu) ** 2).sum())\n',
        ROWS,
        "observed",
        "a factor (fit) with no observed site: no log-likelihood, no predictive, mine.py, line 8; "
        "write the likelihood as pyro.sample(..., obs=...)",
    ),
    "a branch on a random value": (
        SOUND.replace("    sigma", "    if mu > 0:\n        mu = 2 * mu\n    sigma"),
        ROWS,
        "traced",
        "the log density cannot be traced, and runs slowly: a branch or a shape depends on a "
        "value, mine.py, line 8; write it by torch.where(condition, a, b)",
    ),
}


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes `mine.py` and `mine.json`, and works beside them."""

    def write(text, data=ROWS):
        (tmp_path / "mine.py").write_text(HEAD + text)
        (tmp_path / "mine.json").write_text(json.dumps(data))
        monkeypatch.chdir(tmp_path)
        return ["check", "mine.py", "--data", "mine.json"]

    return write


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_in_one_line(mistake, file, capsys):
    text, data, name, line = MISTAKES[mistake]
    assert zoo.main(file(text, data)) == 65
    said = capsys.readouterr()
    crossed = [one for one in said.out.splitlines() if one.startswith("✗")]
    assert crossed == [f"✗ {name:10}  {line}"]
    assert said.err.splitlines()[-1].startswith("error: 1 of ")
    assert said.err.endswith(f" checks failed: {line}\n")
    assert len(said.err.splitlines()) == 1


def test_a_sound_file_is_ticked_all_over(file, capsys):
    assert zoo.main(file(SOUND)) == 0
    said = capsys.readouterr()
    marks = [line.split()[:2] for line in said.out.splitlines()[1:]]
    assert [name for mark, name in marks if mark == "✓"] == [
        *["runs", "structure", "shapes", "plates", "once", "parameters", "support", "priors"],
        *["observed", "density", "gradient", "likelihood", "traced", "predictive"],
    ]
    assert [name for mark, name in marks if mark == "-"] == ["discrete", "guide"]
    assert said.err == ""


SCHOOLS = {"y": [28, 8, -3, 7, -1, 1, 18, 12], "sigma": [15, 10, 16, 11, 9, 11, 10, 18]}
OWN = {
    "eight_schools": SCHOOLS,
    "mixture": {"y": [1.5, 2.0, -1.0]},
    "flat_regression": {"x": [0, 1, 2.5], "y": [1, 2, 4.5], "count": [1, 4, 2], "offset": 1},
}


@pytest.mark.parametrize("name", models.names())
def test_the_models_of_the_zoo_are_sound(name):
    found = zoo.check(name)
    assert found.ok and found.failure == "", found
    assert len({check.name for check in found.checks}) == 16


@pytest.mark.parametrize("name", OWN)
def test_the_users_models_of_the_tests_are_sound(name):
    found = zoo.check(HOUSE / "tests" / "user" / f"{name}.py", data=OWN[name])
    assert found.ok, found


def test_options_of_the_model_and_of_the_data_reach_the_check(capsys):
    words = ["check", "linear", "--data", "simulate", "--set", "n=7", "noise=0.5", "--json"]
    assert zoo.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"].startswith("simulate n=7")
    assert set(found) == {"model", "data", "checks"}
    assert set(found["checks"][0]) == {"name", "ok", "what", "mend"}
    assert zoo.main(["check", "linear", "--set", "draws=7"]) == 78
    assert "there is no setting 'draws' here" in capsys.readouterr().err
    assert zoo.main(["check", "coin", "--set", "seed=3"]) == 2


def test_json_has_the_cross_and_its_mend(file, capsys):
    text, data, name, line = MISTAKES["no plate"]
    assert zoo.main([*file(text, data), "--json"]) == 65
    found = json.loads(capsys.readouterr().out)
    (cross,) = [check for check in found["checks"] if check["ok"] is False]
    assert cross["name"] == name and f"{cross['what']}; {cross['mend']}" == line


def test_a_guide_that_is_asked_for_takes_the_place_of_the_models_own():
    own, shared = zoo.check("coin", guide="own"), zoo.check("coin", guide="mvn")
    assert own.ok and shared.ok

    def guide(x):
        import pyro
        import pyro.distributions as dist

        pyro.sample("rho", dist.Beta(1.0, 1.0))

    found = zoo.check("coin", guide=guide)
    assert [check.name for check in found.failed] == ["guide"]
    assert "the guide has no site 'pi', the model's latents are pi" in found.failure


def test_a_model_that_does_not_run_leaves_the_rest_unchecked(file, capsys):
    words = file(SOUND.replace("Normal(mu,", "Normal(mu + torch.zeros(4),"))
    assert zoo.main(words) == 65
    said = capsys.readouterr()
    assert said.out.count("not checked, the model does not run") == 15
    assert said.err.startswith("error: 1 of 1 checks failed: the model cannot run (ValueError: ")
    assert "mine.py, line 10; correct that line, or the data: y (3,)\n" in said.err
    assert zoo.main([*words, "-v"]) == 65
    assert "Traceback" in capsys.readouterr().err


def test_what_follows_from_a_cross_is_said_to_do_so(file):
    file(*MISTAKES["a negative scale"][:2])
    found = zoo.check("mine.py", data="mine.json")
    follow = [c.name for c in found.checks if "follows from parameters" in c.what]
    assert "density" in follow
    assert {c.ok for c in found.checks if c.name in follow} == {None}


def test_a_report_reads_well_in_a_notebook(file):
    file(*MISTAKES["no plate"][:2])
    found = zoo.check("mine.py", data="mine.json")
    assert "✗ plates      the 3 values of y lie in no plate" in repr(found)
    assert "<td>✗</td><td>plates</td>" in found._repr_html_()
    assert "`with pyro.plate(&#34;row&#34;, 3):`" in found._repr_html_()


def test_a_check_leaves_nothing_behind(file):
    import pyro
    import torch

    file(*MISTAKES["a parameter without a prior"][:2])
    pyro.clear_param_store()
    state = torch.get_rng_state()
    first, second = (repr(zoo.check("mine.py", data="mine.json")) for _ in range(2))
    assert first == second
    assert len(pyro.get_param_store()) == 0
    assert torch.equal(state, torch.get_rng_state())


Y = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def jittered(y):
    """Of a random number that is no sample site."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu + 0.1 * torch.randn(()), 1.0), obs=y)


def cut(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma.detach()), obs=y)


def in_numpy(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    loc = torch.as_tensor(2 * mu.detach().numpy()) + 0 * mu
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (jittered, r"the log density is another each time"),
        (cut, r"the gradient of the log density in sigma is"),
        (in_numpy, r"the gradient of the log density in mu is"),
    ],
)
def test_what_no_sampler_can_see_is_refused(model, message):
    with pytest.raises(Refused, match=message):
        checking.prove(Program(problem_from(model, {"y": Y})))


@pytest.mark.parametrize("name", ["coin", "gaussian", "linear", "logistic", "heteroscedastic"])
def test_the_models_of_the_zoo_are_proved(name):
    checking.prove(Program(problem_of(name)))


def test_poles_and_kinks_are_no_wrong_gradient():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4000]).to_event(1))
        pyro.factor("pole", -w.abs().log().sum())
        pyro.sample("y", dist.Normal(w.relu().mean(), 1.0).expand([3]).to_event(1), obs=y)

    with machine.numbers("float32"):
        program = Program(problem_from(model, {"y": Y.float()}))
        for seed in range(20):
            torch.manual_seed(seed)
            assert checking._has_right_slope(program, torch.randn(4000)), seed


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("subsample", r"the plate n takes 10 of 100 rows at random.*line 7; leave subsample_size"),
        ("lost_gradient", r"gradient of the log density in a is .*line 7; take no .*torch.tensor"),
    ],
)
@pytest.mark.parametrize("method", ["nuts", "map", "svi"])
def test_cases(case, message, method):
    with pytest.raises(Refused, match=message):
        run_case(case, method)


def test_a_sampler_whose_steps_vanish_stops_and_says_so():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("n", len(y), subsample_size=10) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])

    problem = problem_from(model, {"y": torch.linspace(-3, 5, 100)})
    with pytest.raises(Fault, match="the sampler's steps vanish"):
        nuts.nuts(Program(problem), seed=0, context=Context(), chains=1, max_tree_depth=7)
