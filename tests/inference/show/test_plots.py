"""Pictures: each kind draws what it says, from every method that can fill it."""

from __future__ import annotations

import arviz as az
import numpy as np
import pictured
import pytest
from matplotlib.figure import Figure

import zoo
from inference.results import inference_data
from inference.show import plots


@pytest.fixture(scope="module")
def runs():
    return {m: pictured.coin(m) for m in ("nuts", "svi", "map", "exact", "prior")}


@pytest.fixture(scope="module")
def schools():
    return pictured.schools()


@pytest.fixture(scope="module")
def classes():
    return zoo.run("logistic", method="laplace", split=0.3, features="mean radius")


CHAINS = {"trace", "rank", "ess", "energy"}
DRAWS = {"marginals", "prior_posterior", "khat"}
BOTH = {"predictive", "updating"}
KINDS = {
    "nuts": CHAINS | DRAWS | BOTH,
    "svi": {"objective"} | DRAWS | BOTH,
    "exact": (DRAWS | BOTH) - {"khat"},  # leave-one-out in closed form has no weights
    "map": BOTH,
    "prior": {"updating"},
}


def look(figure, tmp_path, kind):
    """Every picture: a Figure of one width that can be saved, captioned, its axes labelled."""
    assert isinstance(figure, Figure) and figure.get_figwidth() == 7
    figure.savefig(tmp_path / f"{kind}.png", dpi=60)
    assert len(figure.get_suptitle()) > 30 and "nan" not in figure.get_suptitle()
    words = {ax.get_xlabel() for ax in figure.axes} | {ax.get_ylabel() for ax in figure.axes}
    assert len(words - {""}) >= 1
    assert figure._suptitle.get_window_extent().x1 < figure.bbox.x1


@pytest.mark.parametrize("method", KINDS)
def test_each_method_gets_the_pictures_it_can_fill(runs, method, tmp_path):
    assert set(runs[method].plots()) == KINDS[method]
    for kind in runs[method].plots():
        look(runs[method].plot(kind), tmp_path, kind)


def test_several_parameters_and_held_out_classes_add_theirs(schools, classes, tmp_path):
    assert set(schools.plots()) == CHAINS | DRAWS | {"pair", "predictive"}
    assert set(classes.plots()) == DRAWS | {"pair", "predictive", "reliability", "boundary"}
    for run in (schools, classes):
        for kind in run.plots():
            look(run.plot(kind), tmp_path, kind)


def test_predictive_shares_are_those_of_the_draws(runs):
    axes = runs["exact"].plot("predictive").axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0.4, 0.6], abs=0.03)
    (seen,) = [line for line in axes.lines if line.get_label() == "observed"]
    assert seen.get_ydata() == pytest.approx([1 / 3, 2 / 3])
    upright, *ends = (lines.get_segments() for lines in axes.collections)
    for end, lines in enumerate(ends):
        assert [line[0, 1] for line in lines] == [line[end, 1] for line in upright]
        assert np.ptp(lines[0][:, 0]) == pytest.approx(axes.patches[0].get_width())


def test_all_observed_values_are_in_the_histogram(schools):
    seen = schools.plot("predictive").axes[0].patches[1].get_data()
    assert seen.edges[[0, -1]].tolist() == [-3, 28]
    assert 8 * (seen.values * np.diff(seen.edges)).sum() == pytest.approx(8)


def test_captions_name_the_run(runs):
    assert (
        runs["svi"].plot("objective").get_suptitle().startswith("coin svi own: The ELBO by step")
    )


def climbing(*names):
    """A result whose objective climbs from -1000 to 0 in its first tenth, with noise of sd 1."""
    noise = np.random.default_rng(0).normal(size=5000)
    steps = np.minimum(np.arange(5000) / 500 - 1, 0) * 1000 + noise
    ratios = {name: np.zeros((1, 20)) for name in names}
    idata = az.from_dict(posterior={"a": np.zeros((1, 20))}, sample_stats=ratios or None)
    inference_data.add_group(idata, "objective", {"value": ("step", steps)})
    return idata


def test_objectives_show_their_later_half_and_say_what_is_cut_off():
    figure = plots.objective(climbing())
    low, high = figure.axes[0].get_ylim()
    assert -3 < low < -1.5 and 1.5 < high < 3
    assert "first steps are below the picture" in figure.get_suptitle().replace("\n", " ")
    level = climbing()
    level["objective"]["value"].values[:500] = 0
    assert "below" not in plots.objective(level).get_suptitle()


def test_an_objective_is_an_elbo_where_draws_have_a_density():
    class Known:
        log_evidence = 50.0

    point = plots.objective(climbing(), Known)
    assert point.axes[0].get_ylabel() == "objective (nats)" and point.axes[0].get_ylim()[1] < 3
    assert "ELBO" not in point.get_suptitle() and "evidence" not in point.get_suptitle()
    bound = plots.objective(climbing("log_p", "log_q"), Known)
    assert bound.axes[0].get_ylabel() == "ELBO (nats)" and bound.axes[0].get_ylim()[1] > 50
    assert "evidence" in bound.get_suptitle()


# -- what approximations and predictions are worth ---------------------------------------------


def test_khat_of_each_row_with_its_bounds(runs):
    axes = runs["nuts"].plot("khat").axes[0]
    low, high, *bounds = axes.lines
    shown = np.concatenate([low.get_ydata(), high.get_ydata()])
    assert len(shown) == 3 and shown.max() == pytest.approx(runs["nuts"].metrics["loo_khat_max"])
    assert [line.get_ydata()[0] for line in bounds] == [0.5, 0.7]


def test_rows_that_carry_the_fit_are_crossed_and_numbered():
    idata = with_khat([0.1, 0.9, 0.3, 2.0])
    figure = plots.khat(idata)
    axes = figure.axes[0]
    assert axes.lines[1].get_xdata().tolist() == [1, 3]
    assert axes.lines[1].get_ydata().tolist() == [0.9, 1.5]
    assert [text.get_text().strip() for text in axes.texts] == ["1", "3"]
    assert "2 of 4 (at the top: 1.5 and more)" in figure.get_suptitle().replace("\n", " ")


def with_khat(values, group="loo"):
    ratios = {name: np.zeros((1, 20)) for name in ("log_p", "log_q") if group == "rows"}
    idata = az.from_dict(posterior={"a": np.zeros((1, 20))}, sample_stats=ratios or None)
    inference_data.add_group(idata, group, {"khat": ("row", values)})
    return idata


def test_rows_that_are_approximated_one_by_one_have_their_own_khat_and_no_joint_weights():
    idata = with_khat([0.2, 0.8, 0.3], "rows")
    assert "khat" in plots.available(idata)
    figure = plots.khat(idata)
    (axes,) = figure.axes
    low, high = axes.lines[:2]
    assert low.get_ydata().tolist() == [0.2, 0.3] and high.get_ydata().tolist() == [0.8]
    words = figure.get_suptitle().replace("\n", " ")
    assert "1 of 3 rows; the median is 0.30" in words


def test_weights_of_a_guide_have_mean_one_and_its_khat_is_told(runs):
    figure = runs["svi"].plot("khat")
    weights = figure.axes[1].lines[0].get_ydata()
    assert weights.mean() == pytest.approx(1) and (np.diff(weights) <= 0).all()
    stats = runs["svi"].idata["sample_stats"]
    ratio = np.exp((stats["log_p"] - stats["log_q"]).values).ravel()
    assert weights[0] == pytest.approx(ratio.max() / ratio.mean())
    words = figure.get_suptitle().replace("\n", " ")
    assert f"k-hat is {runs['svi'].metrics['khat']:.2f}" in words


def test_reliability_points_by_hand(classes):
    group = classes.idata["held_out"]
    p, label = group["probability"].values, group["label"].values
    top, right = p.max(1), p.argmax(1) == label
    expected = []
    for low in np.arange(15) / 15:
        inside = (top >= low) & (top < low + 1 / 15 + (low > 0.93))
        if inside.any():
            expected.append((top[inside].mean(), right[inside].mean(), inside.sum()))
    points, counts = classes.plot("reliability").axes
    (line,) = [line for line in points.lines if line.get_label() == "share that is right"]
    np.testing.assert_allclose(np.column_stack(line.get_data()), np.array(expected)[:, :2])
    assert [int(text.get_text()) for text in counts.texts] == [e[2] for e in expected]
    assert f"(ece) {classes.metrics['ece']:.3f}" in points.figure.get_suptitle()


def test_groups_behind_the_pictures_come_back_from_a_file(classes, tmp_path):
    (tmp_path / "idata.nc").write_bytes(inference_data.netcdf(classes.idata))
    again = inference_data.read(tmp_path / "idata.nc")
    assert plots.available(again) == plots.available(classes.idata)
    for kind in ("khat", "reliability"):
        before, after = (plots.PLOTS[kind](i) for i in (classes.idata, again))
        assert before.get_suptitle() == after.get_suptitle()
        pairs = zip(before.axes[0].lines, after.axes[0].lines)
        assert all(np.array_equal(a.get_ydata(), b.get_ydata()) for a, b in pairs)
