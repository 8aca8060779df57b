"""The curves of several runs over each other. Figures are made by `pictures.figure_of`, the door to matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from umt_ds.report.comparison import ComparedRun, Measured
from umt_ds.report.pictures import TITLES, WRONG, figure_of, is_drawable, png_of, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Axis = Literal["optimiser step", "clips drawn"]

# Colours that people of any colour vision tell apart (Okabe and Ito 2008), again in dashes where there are more runs.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_DASHES = ("solid", "dashed", "dotted", "dashdot")


def style_of(letter: str) -> tuple[str, str]:
    """Colour and line style of a run."""
    again, number = divmod(ord(letter) - ord("A"), len(_COLOURS))
    return _COLOURS[number], _DASHES[again]


def axis_of(runs: Sequence[ComparedRun]) -> Axis:
    """Runs of one batch size are compared step by step, others by the clips that they have drawn."""
    return "optimiser step" if len({run.config.batch.global_ for run in runs}) == 1 else "clips drawn"


def draw_curves(runs: Sequence[ComparedRun], names: Sequence[str]) -> bytes:
    """A panel for each logged number, over steps or clips (`axis_of`), as PNG."""
    axis = axis_of(runs)
    x_name = "step" if axis == "optimiser step" else "draws"
    panels: list[Callable[[Axes], None]] = [partial(_lines, runs=runs, x_name=x_name, name=name) for name in names]
    return _draw(panels, [TITLES.get(name, name) for name in names], runs, axis)


def draw_measured(groups: Sequence[Measured], runs: Sequence[ComparedRun]) -> bytes:
    """A panel for each metric of each group over the steps, as PNG; what is partial has a hollow mark."""
    panels: list[Callable[[Axes], None]] = []
    labels = []
    for group in groups:
        others = sum(one.evaluation == group.evaluation for one in groups) > 1
        which = f"\n({', '.join(run.letter for run in group.runs)})" if others else ""
        for metric in group.metrics:
            panels.append(partial(_scores, group=group, metric=metric))
            labels.append(f"{group.evaluation}/{metric}{which}")
    return _draw(panels, labels, runs, "optimiser step")


def _draw(
    panels: Sequence[Callable[[Axes], None]],
    labels: Sequence[str],
    runs: Sequence[ComparedRun],
    x_label: str,
) -> bytes:
    figure = figure_of(width=9.0, height=0.8 + 1.75 * len(panels), title="")  # the legend stands there
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel, label in zip(axes, panels, labels, strict=True):
        panel(axis)
        axis.set_ylabel(label)
        axis.ticklabel_format(axis="y", scilimits=(-3, 5))
        tidy(axis)
    axes[-1].set_xlabel(x_label)
    for run in runs:  # one legend for all panels, also of runs that a panel lacks
        axes[0].plot([], [], **_style(run), label=f"{run.letter}  {run.label}")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=min(3, len(runs)), frameon=False, fontsize=9)
    figure.align_ylabels()
    return png_of(figure)


def _lines(panel: Axes, runs: Sequence[ComparedRun], x_name: str, name: str) -> None:
    """What each run logged under a name, over another number that it logged; a run may lack either."""
    for run in runs:
        x, y = run.history.values(x_name), run.history.values(name)
        told = [(at, value) for at, value in zip(x, y, strict=True) if is_drawable(value) and is_drawable(at)]
        marker = "o" if len(told) == 1 else ""  # a line through one point shows nothing
        panel.plot([at for at, _ in told], [value for _, value in told], **_style(run), marker=marker, ms=4)


def _scores(panel: Axes, group: Measured, metric: str) -> None:
    for run, curves in zip(group.runs, group.curves, strict=True):
        points = [point for point in curves[metric].points if is_drawable(point.value)] if metric in curves else []
        panel.plot([p.step for p in points], [p.value for p in points], **_style(run), marker="o", ms=4)
        partial = [point for point in points if point.left_out]
        panel.plot([p.step for p in partial], [p.value for p in partial], "o", ms=7, mfc="white", mec=WRONG)


def _style(run: ComparedRun) -> dict[str, Any]:
    colour, line = style_of(run.letter)
    return {"color": colour, "linestyle": line, "linewidth": 1.6}
