"""Scores as files: JSON with all that one must know to repeat them, and what was answered for each item. Torch-free."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umt_ds.engine.manifest import CHECKPOINTS
from umt_ds.errors import ConfigError, MachineError
from umt_ds.jobs.eval_runs import EvalRun
from umt_ds.whole_file import write_whole

if TYPE_CHECKING:
    from umt_ds.evaluation.evaluator import Scores
    from umt_ds.jobs.run_scores import RunScores

FORMAT = 1  # of the JSON file; umt_ds/README.md describes it


@dataclass(frozen=True)
class ScoreFiles:
    """Where scores go besides the terminal. out: a JSON file. predictions: a folder, of a parquet
    file for each run and evaluation."""

    out: Path | None = None
    predictions: Path | None = None

    def check(self, runs: Sequence[EvalRun]) -> None:
        """Make the folders, and raise MachineError or ConfigError where the files could not be written: hours of
        evaluation should not end so."""
        if self.out is not None:
            if self.out.is_dir():
                raise ConfigError(f"{self.out} is a folder", hint=f"name a file: --out {self.out / 'scores.json'}")
            _refuse_unwritable(self.out.parent)
        if self.predictions is not None:
            slugs = [_slug(run.name) for run in runs]
            twice = next((slug for index, slug in enumerate(slugs) if slug in slugs[:index]), None)
            if twice is not None:
                raise ConfigError(
                    f"the predictions of two runs would both be called {twice}", hint="score them one by one"
                )
            _refuse_unwritable(self.predictions)

    def write(self, scored: Sequence[RunScores], about: Mapping[str, Any]) -> list[str]:
        """Write what was asked for; a sentence about each thing. about: the machine, of JSON's types. Raises
        MachineError."""
        said = []
        places: dict[tuple[str, str], str] = {}
        for one in scored if self.predictions is not None else ():
            for scores in one.scores:
                if scores.predictions is None:
                    said.append(f"no answers of {one.run.name} in {scores.name}: it answers for no single item")
                    continue
                path = self._place(one.run, scores)
                _write(path, _as_parquet(scores.predictions))
                places[one.run.name, scores.name] = str(path)
                said.append(f"the answers of {one.run.name} in {scores.name}: {path}")
        if self.out is not None:
            content = _as_json(scored, places, about)
            _write(self.out, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
            said.append(f"the scores with their protocol: {self.out}")
        return said

    def kept_work(self, run: EvalRun) -> Path | None:
        """Where evaluators keep what they have finished, until the scores are written: beside the JSON file, else in
        the folder of the run; None where there is neither."""
        if self.out is not None:
            return self.out.with_name(f"{self.out.name}.parts")
        if run.checkpoint is None or run.checkpoint.parent.name != CHECKPOINTS:
            return None
        return run.checkpoint.parent.parent / "evaluation.parts"

    def forget_kept_work(self, runs: Sequence[EvalRun]) -> None:
        """Also that of earlier commands, which were killed and had other settings."""
        for folder in {self.kept_work(run) for run in runs} - {None}:
            assert folder is not None
            shutil.rmtree(folder, ignore_errors=True)

    def _place(self, run: EvalRun, scores: Scores) -> Path:
        assert self.predictions is not None
        return self.predictions / f"{_slug(run.name)}.{scores.name}.parquet"


def _slug(name: str) -> str:
    """`runs/demo/stage2-0` as a part of a file's name: `runs-demo-stage2-0`."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "run"


# ---------------------------------------------------------------- JSON


def _as_json(
    scored: Sequence[RunScores], places: Mapping[tuple[str, str], str], about: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
        "runs": [_run_as_json(one, places) for one in scored],
    }


def _run_as_json(one: RunScores, places: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    return {
        "run": one.run.name,
        "name": one.run.config.name,
        "task": one.run.config.task.kind,
        "weights": str(one.run.weights),
        "fingerprint": one.fingerprint,
        "step": one.step,
        "loaded": one.loaded,
        "precision": one.precision,
        "evaluations": [
            {
                "evaluation": scores.name,
                "settings": one.run.config.evaluation[scores.name].model_dump(mode="json"),
                "values": _finite(scores.values),
                "ranks": _finite(scores.ranks),
                "by_type": _finite(scores.by_type),
                "items": scores.items,
                "partial": scores.is_partial,
                "left_out": [{"key": item.key, "reason": item.reason} for item in scores.left_out],
                "gaps": list(scores.gaps),
                "protocol": _finite(scores.protocol),
                "predictions": places.get((one.run.name, scores.name)),
            }
            for scores in one.scores
        ],
    }


def _finite(value: Any) -> Any:
    """As JSON has it: NaN and infinities, which it has not, are null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- predictions


def _as_parquet(table: Mapping[str, list[Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(dict(table)), file)
    return file.getvalue()


# ---------------------------------------------------------------- disk


def _refuse_unwritable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(f"nothing can be written in {folder}: {error}", hint="choose another place") from error


def _write(path: Path, content: bytes) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise MachineError(
            f"{path} cannot be written: {error}", hint="free some space, or choose another place"
        ) from error
