"""Pyro models and data of the user's own: what a file may hold, and that the numbers are right."""

from __future__ import annotations

import json
from functools import partial

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
from conftest import HOUSE
from scipy import special, stats

import zoo

USER = HOUSE / "tests" / "user"


@pytest.fixture
def data_file(tmp_path):
    def write(**values):
        path = tmp_path / "d.json"
        path.write_text(json.dumps(values))
        return str(path)

    return write


def test_eight_schools(data_file):
    y, sigma = [28, 8, -3, 7, -1, 1, 18, 12], [15, 10, 16, 11, 9, 11, 10, 18]
    run = zoo.run(
        USER / "eight_schools.py",
        data=data_file(y=y, sigma=sigma),
        draws=500,
    )
    assert run.verdict.status == "pass", run.verdict.reasons
    theta = run.idata["posterior"]["theta"].values
    assert run.idata["posterior"]["theta"].dims == ("chain", "draw", "school")
    expected = stats.norm.logpdf(y, theta, sigma)
    np.testing.assert_allclose(run.idata["log_likelihood"]["y"], expected, rtol=1e-10)
    posterior = run.idata["posterior"]
    recomputed = posterior["mu"] + posterior["tau"] * posterior["eta"]
    np.testing.assert_allclose(theta, recomputed, rtol=1e-10)
    # Gelman et al. (2013), table 5.3: posterior means of the effects lie between 6 and 11 under a
    # flat prior of mu; ours, normal(0, 5), pulls them to about 4.4.
    row = run.summary().loc["mu"]
    assert abs(row["mean"] - 4.4) < 5 * row["mcse_mean"] + 0.1


def test_a_mixture_with_its_labels_summed_out(data_file):
    rng = np.random.default_rng(1)
    y = np.where(rng.random(40) < 0.4, rng.normal(3, 1, 40), rng.normal(-1, 1, 40))
    run = zoo.run(USER / "mixture.py", data=data_file(y=y.tolist()), draws=500)
    assert run.verdict.status == "pass", run.verdict.reasons
    posterior = run.idata["posterior"]
    weight, low = posterior["weight"].values[..., None], posterior["low"].values[..., None]
    high = low + posterior["gap"].values[..., None]
    parts = [
        np.log1p(-weight) + stats.norm.logpdf(y, low, 1),
        np.log(weight) + stats.norm.logpdf(y, high, 1),
    ]
    by_hand = special.logsumexp(parts, axis=0)
    np.testing.assert_allclose(run.idata["log_likelihood"]["y"], by_hand, rtol=1e-9)
    loo = az.loo(az.from_dict(posterior={"w": weight[..., 0]}, log_likelihood={"y": by_hand}))
    assert run.metrics["elpd_loo"] == pytest.approx(loo.elpd_loo, abs=0.05)
    assert run.metrics["elpd_loo_se"] == pytest.approx(loo.se, rel=0.01)
    assert run.metrics["p_loo"] == pytest.approx(loo.p_loo, abs=0.05)
    share = special.softmax(parts, axis=0)[1].mean(axis=(0, 1))
    labels = posterior["label"].values
    assert labels.dtype == np.int64
    error = 5 * np.sqrt(share * (1 - share) / labels[..., 0].size) + 1e-3
    assert (np.abs(labels.mean(axis=(0, 1)) - share) < error).all()


def test_flat_priors_two_observed_sites_and_a_whole_number(data_file):
    rng = np.random.default_rng(2)
    x = rng.normal(size=30)
    y, count = 1 + 2 * x + 0.5 * rng.normal(size=30), rng.poisson(4, 30)
    data = data_file(x=x.tolist(), y=y.tolist(), count=count.tolist(), offset=1)
    run = zoo.run(USER / "flat_regression.py", data=data, draws=500)
    assert run.verdict.status == "pass", run.verdict.reasons
    design = np.column_stack([np.ones(30), x])
    mean = np.linalg.lstsq(design, y - 1, rcond=None)[0]
    sds = 0.5 * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    table = run.summary()
    for i in range(2):
        row = table.loc[f"b[{i}]"]
        assert abs(row["mean"] - mean[i]) < 5 * row["mcse_mean"]
        assert abs(row["sd"] - sds[i]) < 5 * row["mcse_sd"]
    assert set(run.idata["log_likelihood"].data_vars) == {"y", "count"}
    assert "prior" not in run.idata.groups()
    predicted = run.predict({"x": [0.0, 10.0]})
    line = mean @ [[1, 1], [0, 10]] + 1
    at = predicted.loc[["y[0]", "y[1]"], "mean"].to_numpy()
    assert at == pytest.approx(line, abs=0.3)


@pytest.mark.parametrize("method", ["svi", "laplace", "map"])
def test_other_methods_on_the_mixture(data_file, method):
    rng = np.random.default_rng(1)
    y = np.where(rng.random(40) < 0.4, rng.normal(3, 1, 40), rng.normal(-1, 1, 40))
    run = zoo.run(USER / "mixture.py", data=data_file(y=y.tolist()), method=method)
    assert run.verdict.status == "pass", run.verdict.reasons
    assert run.summary().loc["low", "mean"] == pytest.approx(-0.69, abs=0.1)
    if method == "svi":
        assert run.idata["posterior"]["label"].shape == (1, 4000, 40)


def test_a_function_given_in_python():
    import pyro
    import pyro.distributions as dist

    def model(y, k):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", k):
            pyro.sample("seen", dist.Normal(mu, 1.0), obs=y)

    run = zoo.run(model, method="laplace", data={"y": np.array([1.0, 2.0, 3.0]), "k": 3})
    assert run.record["point"]["mu"] == pytest.approx(6 / 4)
    assert "seen" in run.idata["observed_data"]
    assert len(run.predict({"k": 2})) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def model(y:\n    pass\n", "syntax error.*line 1"),
        ("import nowhere_at_all\n", "ModuleNotFoundError.*line 1"),
        ("x = 1\n", "no function `model`"),
        ("def model(z):\n    pass\n", "takes no 'y'.*did you mean|known: z"),
        ("def model(y, n):\n    pass\n", "the model needs n"),
        (
            "import pyro, pyro.distributions as d\n\n\ndef model(y):\n"
            "    pyro.sample('a', d.Normal(0., 1.))\n",
            "observes nothing",
        ),
        ("def model(y):\n    raise KeyError('lost')\n", "KeyError.*line 2"),
    ],
)
def test_files_that_are_no_model(tmp_path, data_file, content, message):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(zoo.Fault, match=message) as caught:
        zoo.run(path, data=data_file(y=[1.0, 2.0]), method="map")
    assert caught.value.exit_code == 65


REGRESSION = """
import pyro, pyro.distributions as dist

def model(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 10.0).expand([x.shape[1]]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, 0.1), obs=y)
"""


def test_new_rows_of_a_csv_are_read_as_the_old_ones_were(tmp_path):
    (tmp_path / "m.py").write_text(REGRESSION)
    (tmp_path / "d.csv").write_text("a,b,out\n1,0,1\n0,1,5\n1,1,6\n2,1,7\n")
    run = zoo.run(tmp_path / "m.py", method="laplace", data=tmp_path / "d.csv", target="out")
    (tmp_path / "new.csv").write_text("b,a\n0,1\n1,0\n")
    assert run.predict(tmp_path / "new.csv")["mean"].to_numpy() == pytest.approx([1, 5], abs=0.1)
    with pytest.raises(zoo.Refused, match="predicting needs x"):
        run.predict({"y": [1.0]})


def test_data_that_changed_since_the_run_are_noticed(tmp_path):
    (tmp_path / "d.csv").write_text("x,y\n1,1\n2,5\n3,2\n4,7\n")
    run = zoo.run("linear", method="map", data=tmp_path / "d.csv", out=tmp_path / "runs")
    assert len(zoo.load(run.path).predict({"x": [1.0]})) == 1
    (tmp_path / "d.csv").write_text("x,y\n1,1000\n2,5000\n3,2000\n4,7000\n")
    with pytest.raises(zoo.models.BadInput, match=r"the data .* changed since the run"):
        zoo.load(run.path).predict({"x": [1.0]})


def test_runs_of_data_given_in_python_are_read_again(tmp_path):
    given = {"x": [1, 0, 1]}
    run = zoo.run("coin", method="exact", data=given, out=tmp_path)
    again = zoo.load(run.path)
    assert again.summary().equals(run.summary())
    assert again.predict(rows=1).equals(run.predict(rows=1))
    assert again.plot("updating").axes and again.exact.log_evidence == run.exact.log_evidence
    y = zoo.run("gaussian", method="exact", data={"y": 1.5})
    assert y.summary().loc["x", "mean"] == pytest.approx(1.35)


SCALES, n = [1.0], 1


def enclosing(scale):
    def model(y):
        n = len(y)
        pyro.sample("m", dist.Normal(0.0, scale + n))

    return model


def naming(y):
    pyro.sample("m", dist.Normal(0.0, SCALES[0]))


def test_a_model_is_known_by_all_that_it_encloses_and_names(monkeypatch):
    known = zoo.models.fingerprint
    assert known(enclosing(1.0)) == known(enclosing(1.0)) != known(enclosing(100.0))
    bound = partial(naming, y=1)
    assert known(bound) == known(partial(naming, y=1)) != known(partial(naming, y=2))
    before, local = known(naming), known(enclosing(1.0))
    monkeypatch.setitem(globals(), "n", 2)
    assert known(enclosing(1.0)) == local, "a local name is not the global one"
    monkeypatch.setitem(globals(), "SCALES", [5.0])
    assert known(naming) != before


def test_a_model_without_a_source_is_known_by_its_code():
    def made(number):
        scope = {}
        exec(f"def model(y):\n    return y + {number}", scope)
        return scope["model"]

    known = zoo.models.fingerprint
    assert known(made(1)) == known(made(1)) != known(made(2))
