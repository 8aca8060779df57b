"""The pictures of a report. The door to matplotlib, which loads on use; figures are drawn without pyplot, so there
is no backend to choose and nothing global to clean up.

Shapes: T frames, H x W pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from umt_ds.errors import shown
from umt_ds.evaluation.exhibits import NamedClip
from umt_ds.evaluation.masked import MaskedClip, shade_removed, squares
from umt_ds.evaluation.metrics.retrieval import Answer, RetrievalResult
from umt_ds.report.history import History, ScoreCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "clips_per_s": "views a second",
    "data_stall_percent": "waiting for data, %",
    "peak_memory_gib": "peak memory, GiB",
}
_MOST = 1e100  # what is larger is not drawn: margins around it are infinite
_LINE, _GRID = "#1f5fa8", "#dddddd"
RIGHT, WRONG = "#2e9e4f", "#c0392b"
_MEDIA = {"image": "#e39c37", "video": "#1f5fa8"}  # whose losses are logged apart
_BARS = ("#1f5fa8", "#9bbcdd", "#e39c37", "#bbbbbb", "#6aa84f", "#8e63a9")


# ---------------------------------------------------------------- curves


def draw_training(history: History, *, title: str, changes: Sequence[int] = ()) -> bytes:
    """Loss and its parts (of images and clips together), learning rate and gradient norm over the steps, as PNG.
    changes: after so many steps the mixture is another."""
    panels = [names for _, names in groupby_loss(history.loss_names)]
    return _draw_curves(history, [*panels, ["lr"], ["grad_norm"]], title=title, changes=changes)


def groupby_loss(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Parts of a loss by what they are, in the order given: image_vtc and video_vtc are both vtc."""
    groups: dict[str, list[str]] = {}
    for name in names:
        medium, _, part = name.partition("_")
        groups.setdefault(part if medium in _MEDIA else name, []).append(name)
    return list(groups.items())


def draw_speed(history: History, *, title: str) -> bytes:
    """Throughput, data stall and memory over the steps, as PNG."""
    return _draw_curves(history, [["clips_per_s"], ["data_stall_percent"], ["peak_memory_gib"]], title=title)


def draw_scores(curves: Sequence[ScoreCurve], *, title: str, changes: Sequence[int] = ()) -> bytes:
    """A panel for each metric over the steps, as PNG; what is partial has a hollow mark. changes: of the mixture."""
    figure = figure_of(width=9.0, height=0.8 + 1.75 * len(curves), title=title)
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for panel, curve in zip(panels, curves, strict=True):
        points = [point for point in curve.points if is_drawable(point.value)]
        partial = [point for point in points if point.left_out]
        panel.plot([p.step for p in points], [p.value for p in points], color=_LINE, linewidth=1.6, marker="o", ms=4)
        if partial:
            steps, values = [p.step for p in partial], [p.value for p in partial]
            panel.plot(steps, values, "o", ms=7, mfc="white", mec=WRONG, label="partial: items are left out")
        _mark_changes(panel, changes)
        if partial or (changes and panel is panels[0]):
            panel.legend(loc="lower right", frameon=False, fontsize=8)
        panel.set_ylabel(curve.name)
        panel.ticklabel_format(axis="y", scilimits=(-3, 5))
        tidy(panel)
    panels[-1].set_xlabel("optimiser step")
    figure.align_ylabels()
    return png_of(figure)


def _draw_curves(history: History, rows: Sequence[Sequence[str]], *, title: str, changes: Sequence[int] = ()) -> bytes:
    """One panel for each row of names above one another, over the same steps; each resumption a dashed line, each
    change of the mixture a dotted one."""
    figure = figure_of(width=9.0, height=0.8 + 1.75 * len(rows), title=title)
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for panel, names in zip(panels, rows, strict=True):
        name = names[0]
        for each in names:
            _draw_line(panel, history, each)
        medium, _, part = name.partition("_")
        panel.set_ylabel(part if medium in _MEDIA else TITLES.get(name, name))
        if len(names) > 1 or medium in _MEDIA:
            panel.legend(loc="upper right", frameon=False, fontsize=8)
        panel.ticklabel_format(axis="y", scilimits=(-3, 5))
        if name not in history.loss_names:
            panel.set_ylim(0, 100 if name == "data_stall_percent" else _above(history.values(name)))
        for number, step in enumerate(history.resumed_at):
            label = "resumed (first step logged after it)" if number == 0 else None
            panel.axvline(step, color=WRONG, linestyle="--", linewidth=1.2, label=label)
        _mark_changes(panel, changes)
        tidy(panel)
    if history.resumed_at or changes:  # above the panel, where no curve is
        panels[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=9)
    panels[-1].set_xlabel("optimiser step")
    figure.align_ylabels()
    return png_of(figure)


def _mark_changes(panel: Axes, changes: Sequence[int]) -> None:
    """A dotted line where the mixture changes; the first has a label."""
    for number, step in enumerate(changes):
        label = "the mixture changes (data.segments)" if number == 0 else None
        panel.axvline(step, color=RIGHT, linestyle=":", linewidth=1.6, label=label)


def _draw_line(panel: Axes, history: History, name: str) -> None:
    """What was logged under a name, where it was: a step that shows clips says nothing of images."""
    steps, values = history.steps(), history.values(name)
    told = [(step, value) for step, value in zip(steps, values, strict=True) if is_drawable(value)]
    medium = name.partition("_")[0]
    label = medium if medium in _MEDIA else None
    marker = "o" if len(told) == 1 else ""  # a line through one point shows nothing
    panel.plot(*zip(*told, strict=True), color=_MEDIA.get(medium, _LINE), linewidth=1.6, marker=marker, label=label)


def _above(values: Sequence[float]) -> float:
    """The top of an axis from 0 that has room for all values that are drawn."""
    return max(1.08 * max((value for value in values if is_drawable(value)), default=0.0), 0.0) or 1.0


# ---------------------------------------------------------------- masks


def draw_masks(clips: Sequence[MaskedClip], *, title: str) -> bytes:
    """For each clip its frames, what is left of them, and the teacher's attention, as PNG."""
    rows: list[Callable[[MaskedClip, Axes], None]] = [_show_frames, _show_kept]
    if clips[0].attention is not None:
        rows.append(_show_attention)
    frames, height, width = clips[0].pixels.shape[:3]
    strip = min(2.4, 9.2 * height / (frames * width))  # inches
    figure = figure_of(width=10.5, height=0.7 + len(clips) * (len(rows) * (strip + 0.08) + 0.4), title=title)
    panels = figure.subplots(len(clips) * len(rows), 1, squeeze=False)[:, 0]
    for number, clip in enumerate(clips):
        for show, panel in zip(rows, panels[number * len(rows) :], strict=False):
            show(clip, panel)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
        panels[number * len(rows)].set_title(clip.title, fontsize=10, loc="left")
    return png_of(figure)


def _show_frames(clip: MaskedClip, panel: Axes) -> None:
    panel.imshow(_strip(clip.pixels).numpy(), interpolation="nearest")
    panel.set_ylabel("frames")


def _show_kept(clip: MaskedClip, panel: Axes) -> None:
    panel.imshow(_strip(shade_removed(clip.pixels, clip.keep, clip.grid)).numpy(), interpolation="nearest")
    panel.set_ylabel("kept")


def _show_attention(clip: MaskedClip, panel: Axes) -> None:
    """Bright: much. One scale for all frames of the clip."""
    assert clip.attention is not None
    heat = squares(clip.attention.view(-1, *clip.grid), like=clip.pixels)  # [T,H,W]
    panel.imshow(_strip(heat).numpy(), interpolation="nearest", cmap="inferno", vmin=0, vmax=float(heat.max()))
    panel.set_ylabel("attention")


def _strip(frames: Tensor) -> Tensor:
    """Frames [T,H,W(,3)] side by side with a white gap between them: [H, T·(W+gap)-gap(,3)]."""
    gap = max(2, frames.shape[2] // 24)
    blank = 255 if frames.dtype == torch.uint8 else float("nan")
    white = frames.new_full((len(frames), frames.shape[1], gap, *frames.shape[3:]), blank)
    return torch.cat([frames, white], dim=2).transpose(0, 1).flatten(1, 2)[:, :-gap]


# ---------------------------------------------------------------- probe


def draw_accuracy(accuracy: Mapping[str, Mapping[str, float]], *, title: str) -> bytes:
    """A group of bars for each label field, a bar for each model, as PNG. accuracy: model → field → share."""
    fields = list(next(iter(accuracy.values())))
    figure = figure_of(width=max(6.5, 2.0 + 2.6 * len(fields)), height=3.8, title=title)
    panel = figure.subplots()
    width = 0.8 / len(accuracy)
    for number, (model, scores) in enumerate(accuracy.items()):
        middles = [group + (number - (len(accuracy) - 1) / 2) * width for group in range(len(fields))]
        heights = [100 * scores[field] for field in fields]
        bars = panel.bar(middles, heights, width=0.92 * width, color=_BARS[number % len(_BARS)], label=model)
        panel.bar_label(bars, fmt="%.0f", fontsize=9, padding=1)
    panel.set_xticks(range(len(fields)), fields)
    panel.set_ylabel("kNN accuracy, %")
    panel.set_ylim(0, 108)
    tidy(panel)
    panel.grid(visible=False, axis="x")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return png_of(figure)


# ---------------------------------------------------------------- retrieval


def draw_similarity(found: RetrievalResult, *, title: str) -> bytes:
    """Every caption against every video, as PNG; captions in the order of their videos: the diagonal is right."""
    order = found.right.int().argmax(dim=0).argsort(stable=True)  # by the first of their videos
    figure = figure_of(width=7.2, height=6.4, title=title)
    panel = figure.subplots()
    image = panel.imshow(found.similarity[:, order].T.numpy(), cmap="viridis", aspect="auto", interpolation="nearest")
    panel.set_xlabel("video")
    panel.set_ylabel("caption")
    figure.colorbar(image, ax=panel, label="similarity (cosine)")
    return png_of(figure)


def draw_answers(
    answers: Sequence[Answer], frames: Mapping[int, Tensor], *, title: str, reranked: Sequence[int] = ()
) -> bytes:
    """For each caption a row of the videos it found, best first; its own have a green frame. As PNG.

    frames: of each video shown, u8 [T,H,W,3]. reranked: the rank of its own after re-ranking, of each caption.
    """
    columns = len(answers[0].found)
    figure = figure_of(width=2.6 * columns, height=0.6 + 1.15 * len(answers), title=title)
    rows = figure.subfigures(len(answers), 1, squeeze=False)[:, 0]
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        rank = next((rank for rank, video in enumerate(answer.found, 1) if video in answer.right), None)
        where = f"its own is number {rank}" if rank else f"its own is not among the first {columns}"
        where += f", re-ranked {reranked[number]}" if reranked else ""
        row.suptitle(f"“{answer.caption}”: {where}", fontsize=9, x=0.01, ha="left")
        for panel, video in zip(row.subplots(1, columns, squeeze=False)[0], answer.found, strict=True):
            is_right = video in answer.right
            show_frames(panel, frames[video], edge=RIGHT if is_right else _GRID, edge_width=4 if is_right else 1)
    return png_of(figure)


# ---------------------------------------------------------------- classes


def draw_confusion(confusion: Tensor, names: Sequence[str], *, title: str) -> bytes:
    """A row for each true class, coloured by the share of its clips that are taken for each class, with their number,
    as PNG. confusion: i64 [C,C]."""
    labels = [shown(name, 24) for name in names]
    share = confusion.double() / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    size = 1.2 + 0.42 * len(names) + 0.085 * max(map(len, labels))  # inches
    figure = figure_of(width=max(5.0, size + 1.0), height=max(4.2, size), title=title)
    panel = figure.subplots()
    image = panel.imshow(100 * share.numpy(), cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    panel.set_xticks(range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
    panel.set_yticks(range(len(names)), labels, fontsize=8)
    panel.set_xlabel("predicted class")
    panel.set_ylabel("true class")
    for row, column in confusion.nonzero().tolist():
        ink = "white" if share[row, column] > 0.5 else "black"
        weight = "bold" if row == column else "normal"
        number = str(int(confusion[row, column]))
        panel.text(column, row, number, ha="center", va="center", fontsize=8, color=ink, weight=weight)
    figure.colorbar(image, ax=panel, label="% of the clips of a true class", shrink=0.7)
    return png_of(figure)


def draw_named_clips(
    right: Sequence[NamedClip], wrong: Sequence[NamedClip], names: Sequence[str], *, title: str
) -> bytes:
    """Clips that are named rightly on the left, wrongly on the right, each with its classes, as PNG."""
    rows = max(len(right), len(wrong), 1)
    figure = figure_of(width=13.0, height=0.9 + 1.2 * rows, title=title)
    halves = (right, "named rightly"), (wrong, "named wrongly, with the most confidence")
    for half, (clips, about) in zip(figure.subfigures(1, 2, wspace=0.03, squeeze=False)[0], halves, strict=True):
        half.suptitle(f"{about}{'' if clips else ': none'}", fontsize=10)
        for number, panel in enumerate(half.subplots(rows, 1, squeeze=False)[:, 0]):
            if number < len(clips):
                _show_named(panel, clips[number], names)
            else:
                panel.set_axis_off()
    return png_of(figure)


def _show_named(panel: Axes, clip: NamedClip, names: Sequence[str]) -> None:
    """At most eight of its frames under what it is taken for, and its true class or, where that is it, the next."""
    few = clip.frames[:: -(-len(clip.frames) // 8)]
    show_frames(panel, few, edge=RIGHT if clip.is_right else WRONG, edge_width=2.5)
    (first, share), *others = clip.likeliest
    said = f"{shown(clip.key, 24)}: {shown(names[first], 24)} {share:.0%}"
    if clip.is_right:
        said += "".join(f", then {shown(names[number], 24)} {part:.0%}" for number, part in others[:1])
    else:
        part = dict(others).get(clip.label)
        said += f", true class {shown(names[clip.label], 24)}" + (f" {part:.0%}" if part is not None else "")
    panel.set_title(said, fontsize=8.5, loc="left")


# ---------------------------------------------------------------- the door


def figure_of(*, width: float, height: float, title: str) -> Figure:
    """An empty one, of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    return figure


def is_drawable(value: float) -> bool:
    """Neither NaN nor infinite, nor so large that the margins of an axis would be."""
    return abs(value) < _MOST


def tidy(panel: Axes) -> None:
    """A grid behind the curves, and no frame above and right of them."""
    panel.grid(visible=True, color=_GRID, linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def show_frames(panel: Axes, frames: Tensor, *, edge: str = _GRID, edge_width: float = 1.0) -> None:
    """Frames u8 [T,H,W,3] side by side, with an edge around all."""
    panel.imshow(_strip(frames).numpy(), interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_color(edge)
    panel.spines[:].set_linewidth(edge_width)
    panel.set_anchor("W")


def png_of(figure: Figure) -> bytes:
    """Drawn."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
