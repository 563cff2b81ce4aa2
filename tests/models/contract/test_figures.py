"""The frame of the models' own figures: lengths in inches hold whatever the caption."""

from __future__ import annotations

import pytest

from models.contract.figures import captioned, panels


@pytest.mark.parametrize("caption", ["short", "a caption of many words " * 12])
def test_panels_keep_their_height_under_any_caption(caption):
    figure, axes = panels(2, height=2.0)
    axes[0].plot([0, 1], label="line")
    captioned(figure, caption, axes[0])
    assert figure.get_figwidth() == 7
    heights = [ax.get_position().height * figure.get_figheight() for ax in axes]
    assert heights == pytest.approx([2, 2], abs=1e-9)
    assert figure.get_suptitle().replace("\n", " ") == caption.strip()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["line"]


def test_words_do_not_overlap():
    figure, axes = panels(1, height=1.5, above=0.3)
    axes[0].set_title("title", fontsize=8.5)
    axes[0].plot([0, 1], label="line")
    captioned(figure, "Draws of two parameters each: narrow ridges. " * 6, axes[0])
    figure.draw_without_rendering()
    caption, key, title = (
        text.get_window_extent() for text in (figure._suptitle, figure.legends[0], axes[0].title)
    )
    assert caption.y0 > key.y1 > key.y0 > title.y1
    assert caption.x1 < figure.bbox.x1
