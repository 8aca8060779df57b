"""`umt search`: what texts, or a video, find in an index. One process.

Shapes: Q queries, N clips, C width of an embedding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from umt_ds.distributed.device import device_of
from umt_ds.distributed.world import World
from umt_ds.errors import ConfigError, DataError, shown
from umt_ds.jobs.evaluate import log_to_stderr
from umt_ds.search.hits import Answer, Hit, told
from umt_ds.search.index_files import CAPTIONS, CLIPS, Facts, Kind, index_file, read_facts, read_index
from umt_ds.search.model import SearchModel, open_model_of
from umt_ds.search.nearest import nearest
from umt_ds.search.picture import MOST_HITS, draw_hits
from umt_ds.search.rerank import reranked


@dataclass(frozen=True)
class Search:
    """index: the folder of an index, or its file of clips. texts, video: what is looked for. weights: where they lie
    now. captions: look among the captions instead of the clips. picture: a PNG of the hits. rerank: how many
    of the first hits of a text are put in the order of the fusion encoder."""

    index: Path
    texts: Sequence[str] = ()
    video: Path | None = None
    top: int = 10
    captions: bool = False
    weights: Path | None = None
    picture: Path | None = None
    rerank: int = 0


@dataclass
class Found:
    """seconds: what took how long."""

    answers: list[Answer]
    clips: int
    seconds: dict[str, float] = field(default_factory=dict)


def run_search(search: Search) -> Found:
    """Answer the queries. Raises UmtError for an index that is none, another model, and texts that say nothing."""
    log_to_stderr(World.alone())
    _check_picture(search)
    seconds: dict[str, float] = {}
    kind: Kind = CAPTIONS if search.captions else CLIPS
    path = index_file(search.index, kind)  # what is wrong with the index is said before a model is loaded
    facts = read_facts(path)
    with _timed(seconds, "model"):
        model = _model_of(search, facts, path)
    if search.rerank and not model.text.can_match:
        raise ConfigError(
            f"the run of {path} does not learn which texts match (its weight of VTM is 0), so its fusion encoder "
            "cannot re-rank",
            hint="leave --rerank away",
        )
    with _timed(seconds, "query"):
        names, queries = _queries(search, model)
    with _timed(seconds, "index"):
        index = read_index(path, kind)
    with _timed(seconds, "search"):
        best = nearest(queries, index.vectors, top=max(search.top, search.rerank))
        rows = iter(index.rows(best.rows.flatten().tolist()))
    answers = [
        Answer(name, tuple(_hit(rank, value, next(rows)) for rank, value in enumerate(values, 1)))
        for name, values in zip(names, best.similarity.tolist(), strict=True)
    ]
    if search.rerank:
        with _timed(seconds, "re-rank"):
            answers = [_reranked(answer, model, search) for answer in answers]
    answers = [Answer(answer.query, answer.hits[: search.top]) for answer in answers]
    if search.picture is not None:
        with _timed(seconds, "picture"):
            draw_hits(answers, model.request, search.picture)
    return Found(answers, len(index), seconds)


def _check_picture(search: Search) -> None:
    hits = search.top * max(1, len(search.texts))
    if search.picture is not None and hits > MOST_HITS:
        raise ConfigError(
            f"--picture would show {hits:,} hits, more than {MOST_HITS}",
            hint="fewer of each query: --top; or fewer queries",
        )


def _model_of(search: Search, facts: Facts, path: Path) -> SearchModel:
    return open_model_of(facts, search.weights, index=path, device=device_of(World.alone()))


def _queries(search: Search, model: SearchModel) -> tuple[list[str], Tensor]:
    """Their names, and f32 [Q,C]."""
    if search.video is not None:
        return [str(search.video)], model.embed_video(search.video)[None]
    return list(search.texts), model.text.texts([model.text.clean(text) for text in search.texts])


def _hit(rank: int, similarity: float, row: dict[str, Any]) -> Hit:
    return Hit(rank, similarity, **row)


def _reranked(answer: Answer, model: SearchModel, search: Search) -> Answer:
    first = reranked(answer.hits[: search.rerank], model.text.clean(answer.query), model)
    return Answer(answer.query, (*first, *answer.hits[search.rerank :]))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[name] = time.monotonic() - begun


def queries_in(file: Path) -> list[str]:
    """The lines of a text file that say something. Raises ConfigError where there is none, DataError for no text."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}", hint="a line a query, in UTF-8") from error
    if not any(lines):
        raise ConfigError(f"{file} holds no query", hint="write a line a query")
    return [line for line in lines if line]


# ---------------------------------------------------------------- as text and JSON


def as_text(found: Found) -> str:
    """A table a query, and what took how long."""
    lines = []
    for answer in found.answers:
        lines.append(f"{shown(answer.query, 100)}")
        lines += [_line(hit) for hit in answer.hits]
    times = ", ".join(f"{name} {took:.2f} s" for name, took in found.seconds.items())
    return "\n".join([*lines, f"{found.clips:,} rows; {times}"])


def _line(hit: Hit) -> str:
    match = "" if hit.match is None else f"   match {hit.match:7.3f}"
    return f"{hit.rank:>6}   {hit.similarity:.4f}{match}   {told(hit)}"


def as_json(found: Found) -> str:
    """All that is known of each hit."""
    return json.dumps({"rows": found.clips, "seconds": found.seconds, "answers": list(map(asdict, found.answers))})
