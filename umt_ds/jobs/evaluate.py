"""What `umt eval` does: load the runs, score them, and put the scores side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.errors import MachineError
from umt_ds.evaluation.metrics.retrieval import RANKS, RetrievalScores, retrieval_scores
from umt_ds.evaluation.metrics.spread import Spread, groups_of, pairs_of
from umt_ds.tasks.stage2.retrieval import Retrieval, resized_how
from umt_ds.tasks.stage2.retriever import build_retriever
from umt_ds.terminal import columns
from umt_ds.whole_file import write_whole

_HEAD = [*(f"T→V R@{k}" for k in RANKS), *(f"V→T R@{k}" for k in RANKS), "mean"]


def score_retrieval(runs: Sequence[Path], request: Retrieval, *, out: Path | None) -> str:
    """The table as text; the numbers go to `out`, too. Raises ConfigError for a run that is not of stage 2."""
    configs = [load_run(str(run / "config.yaml")) for run in runs]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scores = []
    for run, config in zip(runs, configs, strict=True):
        found = request.search(build_retriever(config, run, device=device), name=run.name)
        scores.append(retrieval_scores(found.similarity, found.video_of_text))
    if out is not None:
        _write(out, runs, request, scores)
    smooth = {request.resizes_smoothly(config.data.augment.antialias) for config in configs}
    return _text(runs, configs, scores, resized=resized_how(smooth))


def numbers_of_scores(scores: RetrievalScores) -> list[float]:
    """R@1, 5, 10 both ways and their mean, in percent."""
    shares = [*scores.text_to_video.values(), *scores.video_to_text.values(), scores.mean]
    return [100 * share for share in shares]


def _text(
    runs: Sequence[Path], configs: Sequence[RunConfig], scores: Sequence[RetrievalScores], *, resized: str
) -> str:
    numbers = [numbers_of_scores(score) for score in scores]
    rows = [[run.name, *(f"{number:.1f}" for number in row)] for run, row in zip(runs, numbers, strict=True)]
    groups = groups_of(configs)
    spreads = [[Spread.of([numbers[m][c] for m in group.members]) for c in range(len(_HEAD))] for group in groups]
    for group, spread in zip(groups, spreads, strict=True):
        if len(group.members) > 1:
            name = f"mean ± sd of {len(group.members)} from {group.weights}"
            rows.append([name, *(f"{c.mean:.1f} ± {c.deviation:.1f}" for c in spread)])
    for one, other in pairs_of(groups):
        left, right = spreads[groups.index(one)], spreads[groups.index(other)]
        gains = [a.minus(b) for a, b in zip(left, right, strict=True)]
        name = f"{one.weights} less {other.weights}, ± standard error"
        rows.append([name, *(f"{gain:+.1f} ± {error:.1f}" for gain, error in gains)])
    first = scores[0]
    about = f"{first.texts} captions, {first.videos} clips, {resized}; chance is {100 * first.chance:.2f} % at R@1."
    return f"{about} In percent:\n{columns([['', *_HEAD], *rows])}"


def _write(out: Path, runs: Sequence[Path], request: Retrieval, scores: Sequence[RetrievalScores]) -> None:
    content = {
        "shards": str(request.shards),
        "limit": request.limit,
        "antialias": "as each run" if request.antialias is None else request.antialias,
        "runs": {str(run): asdict(score) for run, score in zip(runs, scores, strict=True)},
    }
    try:
        write_whole(out, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise MachineError(f"cannot write {out}: {error}", hint="choose another file with -o") from error
