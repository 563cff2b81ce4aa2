"""What a model, its data and its numbers may be: each kind against its right value."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import HERE, check_mean, run_case
from conftest import HOUSE
from pyro import poutine
from pyro.infer.reparam import TransformReparam
from pyro.nn import PyroModule, PyroSample
from scipy import integrate, special, stats
from torch import nn

import zoo
from models.contract import BadInput

# -- cases -------------------------------------------------------------------------------------


def ridge(design, y, prior_sd, sd=1.0):
    """Posterior means and sds of a linear model with independent normal priors around zero."""
    precision = design.T @ design / sd**2 + np.eye(design.shape[1]) / prior_sd**2
    mean = np.linalg.solve(precision, design.T @ np.asarray(y) / sd**2)
    return mean, np.sqrt(np.diag(np.linalg.inv(precision)))


def data_of(case):
    return json.loads((HERE / case / "d.json").read_text())


def test_a_module_of_pyro_is_a_model():
    data = data_of("pyromodule_bnn")
    design = np.column_stack([data["x"], np.ones(len(data["y"]))])
    mean, sd = ridge(design, data["y"], 3.0)
    names = ["linear.weight[0, 0]", "linear.weight[0, 1]", "linear.bias[0]"]
    for method in ("nuts", "laplace"):
        run = run_case("pyromodule_bnn", method)
        for name, *truth in zip(names, mean, sd):
            check_mean(run, name, *truth)


def test_a_model_under_a_reparameterising_decorator():
    run = run_case("reparam")
    check_mean(run, "mu", 4.397, 3.318)
    assert abs(run.summary().loc["tau", "mean"] - 3.598) < 0.3
    posterior = run.idata["posterior"]
    made = posterior["mu"] + posterior["tau"] * posterior["theta_decentered"]
    np.testing.assert_allclose(posterior["theta"], made.transpose(*posterior["theta"].dims))
    assert set(run.idata["log_likelihood"].data_vars) == {"y"}


def test_a_model_under_a_scaling_decorator():
    for method in ("nuts", "laplace"):
        check_mean(run_case("handler_decorator", method), "mu", 3.5 / 1.505, 1.505**-0.5)


def test_an_observed_distribution_without_support_or_sample():
    gamma = stats.gamma(4, scale=1 / 30.5)
    run = run_case("custom_dist")
    check_mean(run, "rate", gamma.mean(), gamma.std())
    assert "posterior_predictive" not in run.idata.groups()
    assert any("time has no sample()" in reason for reason in run.verdict.reasons)
    with pytest.raises(zoo.Refused, match=r"time has no sample\(\)"):
        run.predict(data_of("custom_dist"))
    prior = run_case("custom_dist", "prior")
    assert "prior_predictive" not in prior.idata.groups()
    assert abs(prior.summary().loc["rate", "mean"] - 1) < 0.1
    model = HERE / "custom_dist" / "model.py"
    checked = zoo.check(model, data=str(model.parent / "d.json"))
    assert checked.ok and "time has no sample()" in str(checked.checks[-1])
    with pytest.raises(zoo.Refused, match="no data can be simulated"):
        zoo.calibrate(model, 20, data=str(model.parent / "d.json"))


def test_a_constant_made_at_import_is_of_the_run():
    design = np.column_stack([np.ones(5), [0.2, 1.1, 1.9, 3.2, 4.1]])
    mean, sd = ridge(design, data_of("float32_constant")["y"], 3.0)
    for method in ("nuts", "laplace"):
        for i in range(2):
            check_mean(run_case("float32_constant", method), f"w[{i}]", mean[i], sd[i])
    assert torch.get_default_dtype() == torch.float64  # that of these tests


def binomial_truth(admitted, applications):
    """Mean and sd of the logit, by quadrature under a normal(0, 1.5)."""
    grid = np.linspace(-4, 4, 20001)
    log = stats.norm.logpdf(grid, 0, 1.5)
    log += stats.binom.logpmf(admitted[:, None], applications[:, None], special.expit(grid)).sum(0)
    weight = np.exp(log - log.max())
    total = integrate.simpson(weight, x=grid)
    mean = integrate.simpson(weight * grid, x=grid) / total
    return mean, np.sqrt(integrate.simpson(weight * (grid - mean) ** 2, x=grid) / total)


def test_rows_that_have_a_name_and_nothing_that_torch_warns_of():
    admitted, applications = np.array([20, 25, 12, 9]), np.array([50, 40, 40, 30])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = run_case("row_names")
    check_mean(run, "a", *binomial_truth(admitted, applications))
    assert "the first field of each row is its name, and left out" in run.record["data"]["notes"]
    predicted = run.idata["posterior_predictive"]["admit"].mean(("chain", "draw"))
    expected = applications * special.expit(run.idata["posterior"]["a"]).mean().item()
    np.testing.assert_allclose(predicted, expected, rtol=0.02)


# -- models of other kinds, by file ------------------------------------------------------------

X, Y = np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0]), np.array([-1.2, 0.4, 1.6, 2.2, 4.1, 6.2])
LINE = ridge(np.column_stack([np.ones(6), X]), Y, 3.0)

HEAD = """
import functools
import numpy as np
import torch
import pyro, pyro.distributions as dist
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.nn import PyroModule, PyroSample
from torch import nn

def line(x, y, scale=3.0):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), scale).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(w[0] + w[1] * x, 1.0), obs=y)
"""
FILES = {
    "a class": """
        class model(PyroModule):
            def __init__(self, *, scale=3.0):
                super().__init__()
                self.w = PyroSample(dist.Normal(torch.zeros(2), scale).to_event(1))

            def forward(self, x, y):
                w = self.w
                with pyro.plate("row", len(x)):
                    pyro.sample("y", dist.Normal(w[0] + w[1] * x, 1.0), obs=y)
        """,
    "a plain module": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.part = PyroModule[nn.Module]()
                self.part.w = PyroSample(dist.Normal(torch.zeros(2), 3.0).to_event(1))

            def forward(self, x, y):
                w = pyro.deterministic("w", self.part.w)
                with pyro.plate("row", len(x)):
                    pyro.sample("y", dist.Normal(w[0] + w[1] * x, 1.0), obs=y)

        model = Net()
        """,
    "a partial": """
        model = functools.partial(line, scale=3.0)
        """,
    "a stack of handlers": """
        @config_enumerate
        @poutine.mask(mask=True)
        @poutine.scale(scale=1.0)
        def model(x, y):
            return line(x, y)
        """,
    "an object": """
        class Line:
            def __init__(self, scale):
                self.scale = scale

            def __call__(self, x, *, y):
                return line(x, y, self.scale)

        model = Line(3.0)
        """,
    "a method under a handler": """
        class Line:
            scale = 3.0

            @poutine.infer_config(config_fn=lambda site: {})
            def run(self, x, y=None):
                return line(x, y, self.scale)

        model = Line().run
        """,
    "any keywords": """
        def checked(function):
            return lambda *args, **data: function(*args, **data)

        model = checked(line)
        """,
    "a lambda with a default": """
        model = lambda x, y, scale=3.0: line(x, y, scale)
        """,
}


@pytest.fixture
def write(tmp_path):
    def file(text, name="m.py"):
        path = tmp_path / name
        path.write_text(HEAD + textwrap.dedent(text))
        return path

    return file


@pytest.mark.parametrize("kind", FILES)
def test_models_of_other_kinds_run_from_a_file(kind, write):
    path = write(FILES[kind])
    run = zoo.run(path, method="laplace", data={"x": X, "y": Y})
    mode = np.ravel(next(iter(run.record["point"].values())))
    np.testing.assert_allclose(mode, LINE[0], rtol=1e-6)
    predicted = run.predict({"x": X[:2]})["mean"]
    np.testing.assert_allclose(predicted, LINE[0][0] + LINE[0][1] * X[:2], atol=0.1)


def test_runs_of_objects_are_kept_loaded_and_resumed(write, tmp_path):
    path, data = write(FILES["a plain module"]), {"x": X, "y": Y}
    run = zoo.run(path, data=data, out=tmp_path, draws=500)
    check_mean(run, "w[1]", LINE[0][1], LINE[1][1])
    again = zoo.load(run.path)
    np.testing.assert_array_equal(again.predict({"x": X}), run.predict({"x": X}))
    record = json.loads((run.path / "run.json").read_text())
    assert zoo.resume(run.path).record["model_sha256"] == record["model_sha256"]
    path.write_text(path.read_text().replace("zeros(2), 3.0", "zeros(2), 4.0"))
    with pytest.raises(BadInput, match="the model changed since the run"):
        zoo.load(run.path).predict({"x": X})


def command(*words):
    """A command of the command line: exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, str(HOUSE / "zoo.py"), *map(str, words)], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_shows_checks_and_runs_an_object_without_a_warning(write, tmp_path):
    path = write(FILES["an object"])
    (tmp_path / "d.json").write_text(json.dumps({"x": X.tolist(), "y": Y.tolist()}))
    code, shown, _ = command("show", path)
    assert code == 0 and "Data keys: x, y" in shown and "m.py, line" in shown
    given = ["--data", tmp_path / "d.json"]
    assert command("check", path, *given)[0] == 0
    code, told, errors = command("run", path, *given, "--method", "map", "--out", tmp_path)
    assert code == 0 and f"{LINE[0][1]:.4g}" in told and errors == ""


# -- models of other kinds, in Python ----------------------------------------------------------


class Line(PyroModule):
    """As in a notebook: made where numbers are single ones."""

    def __init__(self, biased=True):
        super().__init__()
        with torch.device("cpu"):
            self.line = PyroModule[nn.Linear](1, 1)
        self.line.weight = PyroSample(dist.Normal(torch.zeros(1, 1), 3.0).to_event(2))
        if biased:
            self.line.bias = PyroSample(dist.Normal(torch.zeros(1), 3.0).to_event(1))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, x, y=None):
        mean = self.line(x[:, None])[:, 0] + self.shift
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.fixture
def single():
    """Single precision, the default of a notebook."""
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("method", ["nuts", "svi", "map"])
def test_a_module_made_in_a_notebook(single, method):
    run = zoo.run(Line(), method=method, data={"x": X, "y": Y})
    table = run.summary()["mean"]
    found = [table["line.bias[0]"], table["line.weight[0, 0]"]]
    tolerance = {"nuts": 0.05, "svi": 0.1, "map": 1e-6}[method]
    np.testing.assert_allclose(found, LINE[0], atol=tolerance)
    assert run.record["model"] == "Line"
    if method == "nuts":
        check_mean(run, "line.weight[0, 0]", LINE[0][1], LINE[1][1])
        assert run.idata["prior"]["line.weight"].std() == pytest.approx(3, rel=0.1)


def test_a_module_with_parameters_that_have_no_prior_is_told():
    with pytest.raises(zoo.Refused, match=r"parameters of its own \(line.bias\), which nuts"):
        zoo.run(Line(biased=False), data={"x": X, "y": Y})


@pytest.mark.parametrize("layer", [nn.Linear, PyroModule[nn.Linear]])
def test_features_that_are_frozen_are_constants(layer):
    class Features(PyroModule):
        def __init__(self):
            super().__init__()
            self.features = layer(1, 2).requires_grad_(False)
            self.w = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))

        def forward(self, x, y):
            mean = torch.tanh(self.features(x[:, None])) @ self.w
            with pyro.plate("row", len(x)):
                pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    torch.manual_seed(0)
    model = Features()
    weight, bias = model.features.weight.numpy(), model.features.bias.numpy()
    design = np.tanh(X[:, None] @ weight.T + bias)
    run = zoo.run(model, method="map", data={"x": X, "y": Y})
    np.testing.assert_allclose(run.summary()["mean"], ridge(design, Y, 1.0)[0], rtol=1e-6)


def test_a_transformed_and_a_masked_site():
    y = np.array([1.0, 2.0, 4.0, 100.0])

    def model(y):
        prior = dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(0.0, 10.0)
        )
        mu = pyro.sample("mu", prior)
        with pyro.plate("row", len(y)), poutine.mask(mask=y < 50):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    changed = poutine.reparam(model, config={"mu": TransformReparam()})
    run = zoo.run(changed, data={"y": y})
    check_mean(run, "mu", 7 / 3.01, 3.01**-0.5)
    assert len(run.idata["loo"]["elpd"]) == 3


def test_a_bare_distribution_with_a_density_alone():
    class Bare(dist.Distribution):
        def __init__(self, rate):
            self.rate = rate

        def sample(self):
            raise NotImplementedError

        def log_prob(self, value):
            return self.rate.log() - self.rate * value

    def model(t):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(t)):
            pyro.sample("t", Bare(rate), obs=t)

    t = np.array([2.0, 5.0, 1.0])
    gamma = stats.gamma(5, scale=1 / 9.0)
    run = zoo.run(model, data={"t": t})
    check_mean(run, "rate", gamma.mean(), gamma.std())
    assert any("t has no sample()" in reason for reason in run.verdict.reasons)


def test_one_of_two_sites_has_no_sample():
    class Density(dist.TorchDistribution):
        def __init__(self, rate, shape):
            self.rate = rate
            super().__init__(shape, (), validate_args=False)

        def log_prob(self, value):
            return self.rate.log() - self.rate * value

    def model(t, count):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(t)):
            pyro.sample("t", Density(rate, t.shape), obs=t)
            pyro.sample("count", dist.Poisson(rate), obs=count)

    data = {"t": np.array([2.0, 5.0, 1.0]), "count": np.array([1, 0, 2])}
    run = zoo.run(model, method="nuts", data=data)
    gamma = stats.gamma(8, scale=1 / 12.0)
    check_mean(run, "rate", gamma.mean(), gamma.std())
    assert set(run.idata["posterior_predictive"].data_vars) == {"count"}


# -- number types ------------------------------------------------------------------------------

CLASHING = """
DESIGN = torch.from_numpy(np.array([[1, -1], [1, 0], [1, 0.5], [1, 1], [1, 2], [1, 3]], "float32"))

def model(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(DESIGN @ w, 1.0), obs=y)
"""


def test_numbers_that_clash_are_told_with_their_line_and_what_to_do(write):
    path = write(CLASHING)
    with pytest.raises(zoo.Refused) as caught:
        zoo.run(path, data={"y": Y})
    line = 1 + path.read_text().splitlines().index(CLASHING.splitlines()[-1])
    told = str(caught.value)
    assert f"m.py, line {line}; the run is in float64, and this line has float32 too" in told
    assert "write .to(x.dtype) there, or --set dtype=float32" in told and "\n" not in told
    assert "the run is in float64" in str(zoo.check(path, data={"y": Y}).failed[0])


def test_a_run_in_single_precision_is_asked_for_by_name(write):
    path = write(CLASHING)
    for method in ("nuts", "svi"):
        run = zoo.run(path, method=method, guide="mvn" if method == "svi" else None,
                      data={"y": Y}, dtype="float32")  # fmt: skip
        assert run.record["data"]["dtype"] == "float32"
        assert run.idata["posterior"]["w"].dtype == np.float32
        np.testing.assert_allclose(run.summary()["mean"], LINE[0], atol=0.06)
        assert len(run.predict(rows=6)) == 6
    for method in ("map", "laplace", "mle"):
        with pytest.raises(zoo.Refused, match=f"{method} needs float64"):
            zoo.run(path, method=method, data={"y": Y}, dtype="float32")
    assert zoo.check(path, data={"y": Y}, dtype="float32").ok


def test_a_file_makes_the_same_random_numbers_each_time(write):
    path = write("model = lambda y: line(torch.from_numpy(np.random.rand(6)) + torch.rand(6), y)\n"
                 "NOISE = torch.rand(3), np.random.rand(3)\n")  # fmt: skip
    state = torch.get_rng_state()
    zoo.check(path, data={"y": Y})
    assert torch.equal(state, torch.get_rng_state())


# -- what is missing ---------------------------------------------------------------------------

MASKED = """
def model(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("row", len(x)), poutine.mask(mask=~torch.isnan(y)):
        pyro.sample("y", dist.Normal(w[0] + w[1] * x, 1.0), obs=y.nan_to_num())
"""
GAPS = {
    "d.csv": "x,y\n-1,-1.2\n0,0.4\n0.5,NA\n1,2.2\n2,\n3,6.2\n",
    "d.json": '{"x": [-1, 0, 0.5, 1, 2, 3], "y": [-1.2, 0.4, null, 2.2, NaN, 6.2]}',
}
SEEN = np.array([True, True, False, True, False, True])


@pytest.mark.parametrize("name", GAPS)
def test_missing_values_that_the_model_deals_with(name, write, tmp_path):
    path, data = write(MASKED), tmp_path / name
    data.write_text(GAPS[name])
    with pytest.raises(
        BadInput, match=r"y is not finite in row 3 .*--set missing=model if the model"
    ):
        zoo.run(path, data=data)
    run = zoo.run(path, data=data, missing="model")
    mean, sd = ridge(np.column_stack([np.ones(4), X[SEEN]]), Y[SEEN], 3.0)
    check_mean(run, "w[0]", mean[0], sd[0])
    check_mean(run, "w[1]", mean[1], sd[1])
    assert "2 of 6 values of y are NaN" in run.record["data"]["notes"][0]
    assert np.isnan(run.idata["observed_data"]["y"].values).tolist() == (~SEEN).tolist()
    seen = zoo.run(path, data={"x": X[SEEN], "y": Y[SEEN]})
    for metric in ("elpd_loo", "p_loo"):
        assert run.metrics[metric] == pytest.approx(seen.metrics[metric], abs=1e-6)
    assert run.plot("predictive").axes
    assert run.save(tmp_path).is_dir() and len(zoo.load(run.path).predict({"x": X[:2]})) == 2


def test_what_is_missing_and_counts_is_refused(write):
    path = write("model = lambda x, y: line(x, y)\n")
    gaps = {"x": X, "y": np.where(SEEN, Y, np.nan)}
    with pytest.raises(zoo.Refused, match=r"the density is NaN, as values of y are, .*mask them"):
        zoo.run(path, data=gaps, missing="model")
    with pytest.raises(BadInput, match="y is not finite in row 1"):
        zoo.run(path, data={"x": X, "y": [np.inf, *Y[1:]]}, missing="model")
    with pytest.raises(BadInput, match="y holds 'a' in row 2"):
        zoo.run(path, data={"x": X, "y": [None, "a", *Y[2:]]}, missing="model")


# -- guides ------------------------------------------------------------------------------------


def test_a_guide_file_under_a_handler_is_made_in_the_number_type_of_the_run(write):
    guide = """
    START = torch.zeros(2), torch.eye(2)

    @poutine.scale(scale=1.0)
    def guide(x, y):
        loc = pyro.param("loc", START[0])
        tril = pyro.param("tril", START[1], dist.constraints.lower_cholesky)
        pyro.sample("w", dist.MultivariateNormal(loc, scale_tril=tril))
    """
    model, guide = write("model = lambda x, y: line(x, y)\n"), write(guide, "g.py")
    for dtype in ("float64", "float32"):
        run = zoo.run(model, guide=guide, data={"x": X, "y": Y}, dtype=dtype)
        np.testing.assert_allclose(run.params["loc"], LINE[0], atol=0.05)
        assert run.params["loc"].dtype == getattr(torch, dtype)
