"""The plots of a set can be read, however many labels it has."""

from __future__ import annotations

from itertools import pairwise

import pytest

from data_prep.checking.stats import NUMBERS, draw_plots


@pytest.mark.parametrize("count", [0, 1, 30, 60, 61, 700])
def test_names_of_labels_do_not_lie_on_one_another(count: int) -> None:
    labels = {f"label $ with a long name {number}": 10_000 - number for number in range(count)}
    nothing: dict[str, object] = {name: {} for name in NUMBERS}
    figure = draw_plots({"samples": 5, "bytes": 5, "hours": None, "label": labels, **nothing})
    figure.draw_without_rendering()
    names = [text for text in figure.axes[-1].get_yticklabels() if text.get_text()]
    assert len(names) == (count if count <= 60 else 51)
    boxes = [name.get_window_extent() for name in names]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes)), "the most frequent lies on top"
    assert all(box.x0 >= 0 for box in boxes)
    if count > 60:
        assert names[25].get_text() == f"… {count - 50:,} labels more …"
        assert figure.axes[-2].get_title() == f"{count} labels"
