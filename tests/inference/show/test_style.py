"""What the pictures share: frames, captions that fit, densities, which parameters are shown."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from inference.show import style


def a_posterior():
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=(2, 50)), "w": rng.normal(size=(2, 50, 2)),
              "label": np.ones((2, 50), dtype=int)}  # fmt: skip
    return az.from_dict(posterior=values, coords={"f": ["x", "y"]}, dims={"w": ["f"]})


def test_figures_show_themselves_in_a_notebook():
    for figure in (style.grid(1)[0], style.shown(Figure(figsize=(7, 2)))):
        png = figure._repr_png_()
        assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20]) == 700  # pixels wide


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_panels_have_the_height_asked_for_under_any_caption(count):
    for caption in ("short", "a caption of many words " * 15):
        figure, axes = style.grid(count, height=1.3)
        axes[0].plot([0, 1], label="line")
        style.captioned(figure, caption, shared=axes[0])
        assert len(axes) == len(figure.axes) == count and figure.get_figwidth() == 7
        heights = [ax.get_position().height * figure.get_figheight() for ax in axes]
        assert heights == pytest.approx([1.3] * count, abs=1e-9)


@pytest.mark.parametrize("top", [1, 1_500_000])
def test_numbers_and_label_of_an_axis_fit_into_the_margin(top):
    figure, axes = style.grid(2, left=0.6)
    axes[0].set(ylim=(-top, top), ylabel="ELBO (nats)")
    style.captioned(figure, "caption")
    assert (figure.subplotpars.left * 7 > 0.601) == (top > 1)
    figure.draw_without_rendering()
    assert axes[0].yaxis.get_tightbbox().x0 >= 0.02 * figure.dpi


def test_captions_name_the_run_and_fit_above_legend_and_panels():
    idata = a_posterior()
    idata.attrs = {"model": "/home/me/schools.py", "method": "svi", "guide": "mvn"}
    figure, axes = style.grid(3)
    axes[0].plot([0, 1], label="line")
    style.captioned(
        figure, "Draws of two parameters each: narrow ridges. " * 6, idata, shared=axes[0]
    )
    assert figure.get_suptitle().startswith("schools svi mvn: Draws of")
    figure.draw_without_rendering()
    caption, key = figure._suptitle.get_window_extent(), figure.legends[0].get_window_extent()
    assert caption.x1 < figure.bbox.x1 and caption.y1 < figure.bbox.y1
    assert caption.y0 > key.y1 > key.y0 > axes[0].get_window_extent().y1


def test_scalars_have_the_names_of_the_summary_and_no_whole_numbers():
    idata = a_posterior()
    panels = style.scalars(idata["posterior"])
    assert list(panels) == ["a", "w[x]", "w[y]"]
    np.testing.assert_array_equal(panels["w[y]"], idata["posterior"]["w"].values[..., 1])


def test_what_is_left_out_is_said():
    panels = dict.fromkeys("abcd", 0)
    assert style.chosen(panels, None, 4, "the first") == (panels, "")
    assert style.chosen(panels, None, 2, "the first")[1] == " Shown: the first 2 of 4 parameters."
    score = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.0}
    kept, words = style.chosen(panels, score, 2, "the worst")
    assert list(kept) == ["b", "c"] and words == " Shown: the worst 2 of 4 parameters."


def test_long_names_lose_their_middle():
    assert style.short("w[mean radius]") == "w[mean radius]"
    cut = style.short("w[" + "x" * 80 + "]", 20)
    assert len(cut) <= 20 and cut.startswith("w[") and cut.endswith("]") and "…" in cut


def test_densities_have_area_one_or_what_lies_in_the_span():
    values = np.random.default_rng(0).normal(size=4000)
    ax = Figure().subplots()
    style.density(ax, values, style.BLUE, "all")
    style.density(ax, values, style.BLUE, "half", span=(0.0, 10.0))
    areas = [(p.get_data().values * np.diff(p.get_data().edges)).sum() for p in ax.patches]
    assert areas == pytest.approx([1.0, 0.5], abs=0.02)
    style.density(ax, np.full(10, 3.0), style.RED, "constant")
    assert ax.lines[0].get_xdata() == [3.0, 3.0]


@pytest.mark.parametrize("count", [8, 5000])
def test_data_keep_their_ends_and_draws_lose_a_thousandth(count):
    values = np.random.default_rng(0).standard_t(3, size=count)
    ax = Figure().subplots()
    style.density(ax, values, style.RED, "data", whole=True)
    style.density(ax, values, style.BLUE, "draws")
    data, draws = (patch.get_data() for patch in ax.patches)
    assert data.edges[[0, -1]].tolist() == [values.min(), values.max()]
    assert (data.values * np.diff(data.edges)).sum() == pytest.approx(1, abs=1e-12)
    assert (draws.values * np.diff(draws.edges)).sum() < 1


def test_ranges_stay_in_the_support():
    across = style.value_range(np.array([0.5, 0.9]), stats.beta(3, 1))
    assert 0 <= across[0] < 0.2 and across[-1] == 1
    assert np.isfinite(style.value_range(np.zeros(3), stats.cauchy())).all()
