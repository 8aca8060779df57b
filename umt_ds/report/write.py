"""What `umt report` does: read a run, draw it, probe it, write the page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, assert_never

import torch
from torch import Tensor

from umt_ds.config.load import load_run
from umt_ds.config.schema import ImageTextConfig, RunConfig, Stage1Config, Stage2Config
from umt_ds.data.order.frames import middle
from umt_ds.data.shards.records import load_manifest
from umt_ds.data.shards.stream import Tars
from umt_ds.engine.manifest import resolve_checkpoint
from umt_ds.errors import DataError, MachineError, UmtError
from umt_ds.evaluation.metrics.probe import ProbeResult
from umt_ds.evaluation.metrics.retrieval import Answer, RetrievalResult, RetrievalScores, answers, retrieval_scores
from umt_ds.jobs.evaluate import Retrieval, resized_how
from umt_ds.report.facts import checkpoint_rows, key_numbers, origin_rows, recipe_difference
from umt_ds.report.history import History, read_history
from umt_ds.report.masked import MaskedClip
from umt_ds.report.page import Section, note, page, picture, sentence, table
from umt_ds.report.pictures import (
    draw_accuracy,
    draw_answers,
    draw_masks,
    draw_similarity,
    draw_speed,
    draw_training,
)
from umt_ds.report.stage1_probe import Say, Stage1Probe
from umt_ds.tasks.build import shards_of
from umt_ds.tasks.stage2.retriever import build_retriever
from umt_ds.terminal import columns

T = TypeVar("T")
_ANSWERS, _FIRST = 6, 5  # captions that are shown, and clips for each


@dataclass(frozen=True)
class ReportOptions:
    """What to measure, and on which shards: None for the run's own, and the folder `val` beside them."""

    probe: bool = True
    train: Path | None = None
    val: Path | None = None
    max_clips: int = 2000


def write_report(run: Path, out: Path, options: ReportOptions, *, say: Say) -> str:
    """Write index.html, the PNGs and probe.json of `run` into `out`; the page's path and the kNN table as text.

    What a section lacks by itself (held-out shards, labels, a checkpoint, the teacher) that section says. Raises
    UmtError where `run` is no run, and where shards that `options` names are not there.
    """
    history = read_history(run)
    if history.passed_over:
        say(history.passed_over)
    config = load_run(str(run / "config.yaml"))
    for named in (options.train, options.val):
        if named is not None:
            load_manifest(named)
    output = _Output(out)
    say(f"drawing the curves of {run}")
    sections = [_facts(config, history), _training(config, history, output)]
    text = str(out / "index.html")
    match config.task:
        case Stage1Config() as task:
            study = Stage1Probe(run, config, task, options.train, options.val, options.max_clips)
            say("drawing masks over held-out clips")
            sections.append(_masks(study, _or_error(study.masked_clips), output))
            if options.probe:
                result = _or_error(lambda: study.probe(say))
                sections.append(_probe(study, result, output))
                text += f"\n{_as_text(result)}"
        case Stage2Config():
            say("embedding held-out clips and captions")
            search = _or_error(lambda: _search(run, config, options))
            sections.append(_found(search, config.name, output))
            text += f"\n{search if isinstance(search, UmtError) else columns(_score_rows(search.scores))}"
        case ImageTextConfig():
            sections.append(Section("What was learned", (note(_CLIP),)))
        case _:
            assert_never(config.task)
    sections += [_speed(config, history, output), _origins(run)]
    output.write("index.html", page(f"Run {config.name}", sections).encode())
    return text


_CLIP = "How good this CLIP is shows where it teaches: in the row `teacher` of the report of a stage-1 run."


class _Output:
    """The folder of a report. Files appear whole. Raises MachineError where they cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        partial = path.with_name(f"{name}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError as error:
            raise MachineError(f"cannot write {path}: {error}", hint="choose another folder with -o") from error

    def picture(self, name: str, png: bytes, *, about: str) -> str:
        """Write the PNG; the same picture as HTML."""
        self.write(name, png)
        return picture(png, about=about)


def _or_error(make: Callable[[], T]) -> T | UmtError:
    """What `make` gives, or why it cannot: a section says so, the rest of the page stands."""
    try:
        return make()
    except UmtError as error:
        return error


# ---------------------------------------------------------------- the sections


def _facts(config: RunConfig, history: History) -> Section:
    parts = [table(key_numbers(config, history))]
    match recipe_difference(config):
        case None:
            parts.append(note(f"No shipped recipe is called {config.name}: config.yaml in the run folder says it all."))
        case (recipe, []):
            parts.append(sentence(f"The configuration is that of the shipped recipe {recipe}, unchanged."))
        case (recipe, lines):
            parts.append(sentence(f"Different from the shipped recipe {recipe} (recipe → this run):"))
            parts.append(table([line.split(": ", 1) for line in lines]))
    return Section("The run", tuple(parts))


def _training(config: RunConfig, history: History, output: _Output) -> Section:
    png = draw_training(history, title=f"{config.name}: training")
    resumed = ", ".join(str(step) for step in history.resumed_at)
    return Section(
        "Training",
        (
            output.picture("training.png", png, about="loss, learning rate and gradient norm over the steps"),
            sentence(f"Resumed; first steps logged after it: {resumed}." if resumed else "Ran without interruption."),
            sentence(str(history.rerun)),
            *([sentence(history.passed_over)] if history.passed_over else []),
        ),
    )


def _masks(study: Stage1Probe, clips: list[MaskedClip] | UmtError, output: _Output) -> Section:
    title = "What the student sees"
    if isinstance(clips, UmtError):
        return Section(title, (note(f"Not drawn: {clips}"),))
    kind, grid, frames = study.mask.kind, clips[0].grid, study.task.student.frames
    patches = grid[0] * grid[1]
    png = draw_masks(clips, title=f"{study.config.name}: held-out clips under the {kind} mask")
    about = (
        f"Of the {frames} × {patches} patches of a clip the student sees {study.mask.visible(frames, patches)}, those "
        "in colour. The teacher sees all; its class token attends most to the bright ones"
    )
    return Section(
        title,
        (
            output.picture("masks.png", png, about="frames, the patches that are kept, the teacher's attention"),
            sentence(f"{about}, which are the likeliest to be kept." if kind == "semantic" else f"{about}."),
        ),
    )


def _probe(study: Stage1Probe, result: ProbeResult | UmtError, output: _Output) -> Section:
    title = "What the features know"
    if isinstance(result, UmtError):
        return Section(title, (note(f"Not measured: {result}"),))
    where = {
        "checkpoint": str(resolve_checkpoint(study.run)),
        "train": str(study.training_shards),
        "val": str(study.held_out_shards),
    }
    output.write("probe.json", (json.dumps({**where, **asdict(result)}, indent=1) + "\n").encode())
    png = draw_accuracy(result.accuracy, title=f"{study.config.name}: kNN accuracy on held-out clips")
    head, *rows = _probe_rows(result)
    return Section(
        title,
        (
            output.picture("probe.png", png, about="kNN accuracy of each model for each label"),
            table(rows, head=head),
            note(
                f"Frozen features, nothing trained: the {result.k} nearest of {result.train_clips} labelled clips vote "
                f"on each of {result.test_clips} held-out ones (cosine, temperature {result.temperature:g}). "
                "Student: mean over all tokens of the unmasked clip; untrained: the same student before step 0. "
                "Teacher: mean over the frames of its image embedding, so it cannot tell their order. "
                "Chance: always the most common class."
            ),
            table(list(where.items())),
        ),
    )


def _speed(config: RunConfig, history: History, output: _Output) -> Section:
    png = draw_speed(history, title=f"{config.name}: speed")
    return Section("Speed", (output.picture("speed.png", png, about="throughput and data stall over the steps"),))


def _origins(run: Path) -> Section:
    rows = checkpoint_rows(run)
    head = ("checkpoint", "written by", "size", "written (UTC)", "hash of the numbers")
    parts = (table(rows, head=head), table(origin_rows(run))) if rows else (note("The run has no checkpoint yet."),)
    return Section("Checkpoints and origins", parts)


def _probe_rows(result: ProbeResult) -> list[list[str]]:
    """The accuracies in percent as a table, heading first."""
    rows = [[model, *(f"{100 * share:.1f}" for share in shares.values())] for model, shares in result.accuracy.items()]
    return [["kNN accuracy, %", *result.labels], *rows]


def _as_text(result: ProbeResult | UmtError) -> str:
    """The table for a terminal."""
    return f"no kNN accuracy: {result}" if isinstance(result, UmtError) else columns(_probe_rows(result))


# ---------------------------------------------------------------- retrieval


@dataclass(frozen=True)
class _Search:
    """Held-out clips, what the captions found, and some of it with the frames that are needed to show it."""

    shards: Path
    checkpoint: Path
    found: RetrievalResult
    scores: RetrievalScores
    answers: list[Answer]
    frames: dict[int, Tensor]  # u8 [T,H,W,3] of each video that is shown
    resized: str  # how frames were


def _search(run: Path, config: RunConfig, options: ReportOptions) -> _Search:
    shards = options.val or _held_out(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    retriever = build_retriever(config, run, device=device)
    request = Retrieval(shards, limit=options.max_clips)
    found = request.search(retriever, name=shards.name)
    texts = middle(len(found.captions), count=min(_ANSWERS, len(found.captions)))
    some = answers(found, texts=texts, first=min(_FIRST, len(found.keys)))
    shown = {video for answer in some for video in answer.found}
    return _Search(
        shards=shards,
        checkpoint=resolve_checkpoint(run),
        found=found,
        scores=retrieval_scores(found.similarity, found.video_of_text),
        answers=some,
        frames=request.frames_of(shown, retriever),
        resized=resized_how([retriever.antialias]),
    )


def _held_out(config: RunConfig) -> Path:
    """`retrieval` or `val` beside the clips that the run was trained on. Raises DataError where there is neither."""
    sources = config.data.sources.values()
    videos = [source for source in sources if source.media == "video"] or list(sources)
    shards = shards_of(videos[0])
    if isinstance(shards, Tars):
        raise DataError("the run's clips are streamed", hint="name held-out shards with captions: --val SHARDS")
    for name in ("retrieval", "val"):
        if (shards.parent / name).is_dir():
            return shards.parent / name
    raise DataError(f"there are no held-out clips beside {shards}", hint="name some with captions: --val SHARDS")


def _found(result: _Search | UmtError, name: str, output: _Output) -> Section:
    title = "What finds what"
    if isinstance(result, UmtError):
        return Section(title, (note(f"Not measured: {result}"),))
    output.write("retrieval.json", (json.dumps(asdict(result.scores), indent=1) + "\n").encode())
    matrix = draw_similarity(result.found, title=f"{name}: held-out captions and clips")
    strips = draw_answers(result.answers, result.frames, title=f"{name}: what some captions find")
    head, *rows = _score_rows(result.scores)
    scores = result.scores
    return Section(
        title,
        (
            table(rows, head=head),
            note(
                f"{scores.texts} captions and {scores.videos} clips that the run has not seen, by the similarity of "
                f"their embeddings; frames are {result.resized}, nothing is hidden and nothing re-ranked. By chance a "
                f"caption finds its clip {100 * scores.chance:.1f} % of the time."
            ),
            output.picture("similarity.png", matrix, about="similarity of every caption to every clip"),
            output.picture("retrieved.png", strips, about="some captions and the clips found for them, best first"),
            table([("checkpoint", str(result.checkpoint)), ("clips", str(result.shards))]),
        ),
    )


def _score_rows(scores: RetrievalScores) -> list[list[str]]:
    """R@k both ways in percent, heading first."""
    ways = {"caption → clip": scores.text_to_video, "clip → caption": scores.video_to_text}
    head = ["found among the first k, %", *(f"k = {k}" for k in scores.text_to_video)]
    return [head, *([way, *(f"{100 * share:.1f}" for share in shares.values())] for way, shares in ways.items())]
