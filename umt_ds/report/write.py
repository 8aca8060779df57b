"""What `umt report` does: read a run, draw it, probe it, write the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, assert_never

from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.engine.best import read_best
from umt_ds.errors import CheckpointError, shown
from umt_ds.evaluation.evaluator import Scores
from umt_ds.evaluation.exhibits import (
    AnsweredClips,
    Exhibit,
    KnnProbe,
    MaskedClips,
    NamedClips,
    NotMade,
    Remark,
    Retrieved,
)
from umt_ds.evaluation.frozen_features import ProbeResult
from umt_ds.evaluation.published import gaps
from umt_ds.report.answers import answer_rows, answers_as_json, draw_answered, retrieval_rows
from umt_ds.report.classes import MOST_DRAWN, accuracy_rows, class_rows, confused_pairs, confusion_as_json
from umt_ds.report.facts import checkpoint_rows, key_numbers, origin_rows, recipe_difference
from umt_ds.report.folder import ReportFolder
from umt_ds.report.history import History, ScorePoint, read_history
from umt_ds.report.page import Section, note, page, sentence, table
from umt_ds.report.pictures import (
    draw_accuracy,
    draw_answers,
    draw_confusion,
    draw_masks,
    draw_named_clips,
    draw_scores,
    draw_similarity,
    draw_speed,
    draw_training,
)
from umt_ds.tasks.kinds import exhibits_of
from umt_ds.tasks.room import ExhibitOptions, Say
from umt_ds.tasks.sources import SegmentDraws, drawn_by_segment
from umt_ds.terminal import columns


def write_report(run: Path, out: Path, options: ExhibitOptions, *, say: Say) -> str:
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
    output = ReportFolder(out)
    say(f"drawing the curves of {run}")
    parts = drawn_by_segment(config, steps=history.last["step"])
    sections = [_facts(config, history), _training(config, history, parts, output)]
    if history.scores:
        sections.append(_scores(run, config, history, parts, output))
    text = str(out / "index.html")
    for exhibit in exhibits_of(run, config, options, say):
        sections.append(_section(exhibit, config.name, output))
        text += _in_words(exhibit)
    sections += [_speed(config, history, output), _origins(run)]
    output.write("index.html", page(f"Run {config.name}", sections).encode())
    return text


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


def _training(config: RunConfig, history: History, parts: list[SegmentDraws], output: ReportFolder) -> Section:
    png = draw_training(history, title=f"{config.name}: training", changes=[part.first for part in parts[1:]])
    resumed = ", ".join(str(step) for step in history.resumed_at)
    return Section(
        "Training",
        (
            output.picture("training.png", png, about="loss, learning rate and gradient norm over the steps"),
            sentence(f"Resumed; first steps logged after it: {resumed}." if resumed else "Ran without interruption."),
            sentence(str(history.rerun)),
            *([sentence(history.passed_over)] if history.passed_over else []),
            *_mixture(parts),
        ),
    )


def _mixture(parts: list[SegmentDraws]) -> Iterator[str]:
    """The clips of each source that were drawn before and after each change of the mixture."""
    if parts:
        yield sentence("The mixture was declared to change (data.segments). Clips drawn of each source so far:")
        rows = [
            (
                f"{part.first} to {part.end - 1}",
                *(f"{count} ({100 * count / part.total:.3g} %)" for count in part.drawn.values()),
            )
            for part in parts
        ]
        yield table(rows, head=("steps", *map(shown, parts[0].drawn)))


def _scores(run: Path, config: RunConfig, history: History, parts: list[SegmentDraws], output: ReportFolder) -> Section:
    """What evaluations between the steps found: the last and the best of each metric, and all of them as curves."""
    changes = [part.first for part in parts[1:]]
    png = draw_scores(history.scores, title=f"{config.name}: scores on held-out data", changes=changes)
    rows = [[curve.name, *_score_cells(curve.last), *_score_cells(curve.best)] for curve in history.scores]
    try:
        best = read_best(run)
        kept = f"Kept as the best in {best.metric}: {best.checkpoint} ({best.value:.4g})." if best else ""
    except CheckpointError as error:
        kept = str(error)
    return Section(
        "Scores",
        (
            table(rows, head=("", "last", "at step", "items", "best", "at step", "items")),
            *(sentence(f"{name}: {_sets_in(protocol)}.") for name, protocol in history.protocols.items()),
            *([sentence(kept)] if kept else []),
            *(_types(name, found) for name, found in history.by_type.items() if found),
            output.picture("scores.png", png, about="each metric of the evaluations over the steps"),
            note(
                "The larger the better. A number that does not cover all items of its set is partial; the best is one "
                f"of the most complete ones. All evaluations together took {history.evaluation_s:.0f} s."
            ),
        ),
    )


def _types(name: str, by_type: Mapping[str, Mapping[str, float]]) -> str:
    """The last numbers of an evaluation for each type of its items."""
    names = list(dict.fromkeys(metric for some in by_type.values() for metric in some))
    rows = [
        [shown(kind), *(f"{some[name]:.4g}" if name in some else "" for name in names)]
        for kind, some in by_type.items()
    ]
    return table(rows, head=(f"{name}, last", *names))


def _sets_in(protocol: Mapping[str, Any]) -> str:
    """Which clips a score is of, and those of the other sets that took part, such as the voters of a kNN."""
    gap = "".join(f"; {one}" for one in gaps(protocol))
    others = [(what, one) for what, one in protocol.items() if isinstance(one, Mapping) and "shards" in one]
    return (
        "; ".join(
            f"{one.get('items', '?')} of the {one.get('samples', '?')} {what} in {one.get('shards', '?')}"
            for what, one in (("clips", protocol), *others)
        )
        + gap
    )


def _score_cells(point: ScorePoint) -> list[str]:
    partial = f", partial: {point.left_out} left out" if point.left_out else ""
    return [f"{point.value:.4g}", str(point.step), f"{point.items}{partial}"]


def _speed(config: RunConfig, history: History, output: ReportFolder) -> Section:
    png = draw_speed(history, title=f"{config.name}: speed")
    return Section("Speed", (output.picture("speed.png", png, about="throughput and data stall over the steps"),))


def _origins(run: Path) -> Section:
    rows = checkpoint_rows(run)
    head = ("checkpoint", "written by", "size", "written (UTC)", "hash of the numbers")
    parts = (table(rows, head=head), table(origin_rows(run))) if rows else (note("The run has no checkpoint yet."),)
    return Section("Checkpoints and origins", parts)


# ---------------------------------------------------------------- exhibits


def _section(exhibit: Exhibit, name: str, output: ReportFolder) -> Section:
    """An exhibit of the run `name`, drawn."""
    match exhibit:
        case Remark(title, text):
            return Section(title, (note(text),))
        case NotMade(title, error):
            return Section(title, (note(f"Not made: {error}"),))
        case MaskedClips():
            return _masks(exhibit, name, output)
        case KnnProbe():
            return _probe(exhibit, name, output)
        case Retrieved():
            return _retrieved(exhibit, name, output)
        case NamedClips():
            return _named(exhibit, name, output)
        case AnsweredClips():
            return _answered(exhibit, name, output)
        case _:
            assert_never(exhibit)


def _in_words(exhibit: Exhibit) -> str:
    """Its numbers for a terminal, on lines of their own; nothing where it has none."""
    match exhibit:
        case KnnProbe(result):
            return f"\n{columns(_probe_rows(result))}"
        case Retrieved():
            return f"\n{columns(retrieval_rows(exhibit.scores, exhibit.again))}"
        case AnsweredClips(title, scores=scores):
            return f"\n{title}\n{columns(answer_rows(scores))}"
        case NamedClips(scores=scores):
            return f"\n{columns(accuracy_rows(scores))}"
        case NotMade(title, error):
            return f"\n{title}: {error}"
        case _:
            return ""


def _masks(masked: MaskedClips, name: str, output: ReportFolder) -> Section:
    (rows, cols), frames = masked.clips[0].grid, len(masked.clips[0].pixels)
    png = draw_masks(masked.clips, title=f"{name}: held-out clips under the {masked.mask_kind} mask")
    about = (
        f"Of the {frames} × {rows * cols} patches of a clip the student sees {masked.visible}, those in colour. "
        "The teacher sees all; its class token attends most to the bright ones"
    )
    return Section(
        "What the student sees",
        (
            output.picture("masks.png", png, about="frames, the patches that are kept, the teacher's attention"),
            sentence(
                f"{about}, which are the likeliest to be kept." if masked.mask_kind == "semantic" else f"{about}."
            ),
        ),
    )


def _probe(probe: KnnProbe, name: str, output: ReportFolder) -> Section:
    result = probe.result
    output.write("probe.json", (json.dumps({**probe.where, **asdict(result)}, indent=1) + "\n").encode())
    png = draw_accuracy(result.accuracy, title=f"{name}: kNN accuracy on held-out clips")
    head, *rows = _probe_rows(result)
    return Section(
        "What the features know",
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
            table(list(probe.where.items())),
        ),
    )


def _probe_rows(result: ProbeResult) -> list[list[str]]:
    """The accuracies in percent as a table, heading first."""
    rows = [[model, *(f"{100 * share:.1f}" for share in shares.values())] for model, shares in result.accuracy.items()]
    return [["kNN accuracy, %", *result.labels], *rows]


def _retrieved(result: Retrieved, name: str, output: ReportFolder) -> Section:
    again = (
        {}
        if result.again is None
        else {"again": {"values": dict(result.again.values), "ranks": dict(result.again.ranks)}}
    )
    output.write("retrieval.json", (json.dumps(asdict(result.scores) | again, indent=1) + "\n").encode())
    matrix = draw_similarity(result.found, title=f"{name}: held-out captions and clips")
    strips = draw_answers(
        result.answers, result.frames, title=f"{name}: what some captions find", reranked=result.reranked_ranks
    )
    head, *rows = retrieval_rows(result.scores, result.again)
    scores = result.scores
    return Section(
        "What finds what",
        (
            table(rows, head=head),
            note(
                f"{scores.texts} captions and {scores.videos} clips that the run has not seen, by the similarity of "
                f"their embeddings{_and_again(result.again)}; frames are {result.resized}, nothing is hidden. By "
                f"chance a caption finds its clip {100 * scores.chance:.1f} % of the time."
            ),
            output.picture("similarity.png", matrix, about="similarity of every caption to every clip"),
            output.picture("retrieved.png", strips, about="some captions and the clips found for them, best first"),
            table([("checkpoint", str(result.checkpoint)), ("clips", str(result.shards))]),
        ),
    )


def _and_again(again: Scores | None) -> str:
    """What else ranked them."""
    if again is None:
        return ", nothing re-ranked"
    told = {"reranked": "by the fusion encoder among the most similar", "dual_softmax": "by a softmax over all of them"}
    return ", and ".join(["", *(f"{told.get(one, one)} ({one.replace('_', ' ')})" for one in again.scorers)])


def _answered(result: AnsweredClips, name: str, output: ReportFolder) -> Section:
    slug = re.sub(r"\W+", "_", result.title.lower()).strip("_")
    output.write(f"{slug}.json", (json.dumps(answers_as_json(result), indent=1) + "\n").encode())
    head, *rows = answer_rows(result.scores)
    protocol = result.scores.protocol
    png = draw_answered(result, title=f"{name}: {result.title[0].lower()}{result.title[1:]}")
    return Section(
        result.title,
        (
            table(rows, head=head),
            note(
                f"Frames: {protocol['frames']}. Without a look at the video: always the most frequent answer, or any "
                "of the options. Green: answered rightly; ✓ stands before what is right."
            ),
            *(
                sentence(f"{share:.3g} % of these items are among those of {one}, which the run trained on.")
                for one, share in protocol.get("percent_trained_on", {}).items()
                if share
            ),
            output.picture(f"{slug}.png", png, about="some items with what is answered"),
            table([("checkpoint", str(result.checkpoint)), ("clips", str(protocol["shards"]))]),
        ),
    )


def _named(result: NamedClips, name: str, output: ReportFolder) -> Section:
    output.write("confusion.json", (json.dumps(confusion_as_json(result), indent=1) + "\n").encode())
    head, *rows = accuracy_rows(result.scores)
    clips = draw_named_clips(
        result.right, result.wrong, result.names, title=f"{name}: held-out clips and what they are taken for"
    )
    protocol = result.scores.protocol
    return Section(
        "What is taken for what",
        (
            table(rows, head=head),
            note(
                f"Views of a clip: {protocol['views']}, frames: {protocol['frames']}. Chance: always the most common "
                "class of these clips. mean_class: the mean over the classes that occur."
            ),
            *(
                sentence(f"{share:.3g} % of these clips are among those of {one}, which the run trained on.")
                for one, share in protocol["percent_trained_on"].items()
                if share
            ),
            *_confusion(result, name, output),
            output.picture("named.png", clips, about="some held-out clips with the classes that the model gives them"),
            table(class_rows(result, MOST_DRAWN), head=("true class", "clips", "right, %", "most often taken for")),
            table([("checkpoint", str(result.checkpoint)), ("clips", str(protocol["shards"]))]),
        ),
    )


def _confusion(result: NamedClips, name: str, output: ReportFolder) -> Iterator[str]:
    """A matrix; of many classes the pairs that are confused most."""
    if len(result.names) <= MOST_DRAWN:
        png = draw_confusion(result.confusion, result.names, title=f"{name}: what held-out clips are taken for")
        yield output.picture("confusion.png", png, about="how many clips of each class are taken for each class")
    else:
        yield sentence(f"Confused most, of {len(result.names)} classes; below, the {MOST_DRAWN} that are named worst:")
        yield table(confused_pairs(result), head=("true class", "taken for", "clips", "of"))
