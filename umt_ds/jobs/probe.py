"""`umt probe`: what the frozen features of runs know. One process: features once, then small heads on them."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from umt_ds.config.deepspeed_json import Precision, load_deepspeed_json, precision_of
from umt_ds.config.probes import ProbeSettings
from umt_ds.config.show import as_tree
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.distributed.device import device_of
from umt_ds.distributed.world import World
from umt_ds.engine.manifest import CHECKPOINTS, versions
from umt_ds.environment import at_home
from umt_ds.errors import ConfigError, MachineError
from umt_ds.evaluation.bar import bar_of
from umt_ds.evaluation.metrics.knn import NEIGHBOURS, TEMPERATURE
from umt_ds.evaluation.probes.features import FeatureRequest, FrozenFeatures, compute_features, find_features
from umt_ds.jobs.eval_runs import CONFIG, EvalRun
from umt_ds.jobs.evaluate import as_trained, load_scored, log_to_stderr, name_of, step_scored, verify_checkpoints
from umt_ds.jobs.probe_scores import ProbedSet, score_field
from umt_ds.jobs.probe_table import ProbedRun, as_json, probe_text
from umt_ds.tasks.evaluators import percent_trained_on
from umt_ds.tasks.initial import state_fingerprint
from umt_ds.tasks.kinds import build_task, tokens_of
from umt_ds.tasks.probing import labels_of, match_probed, probed_fields, probed_set
from umt_ds.whole_file import write_whole

log = logging.getLogger("umt_ds")

_FEATURES = "features"  # folder of the cache
_TRAIN, _VAL = "train", "val"


@dataclass(frozen=True)
class ProbeJob:
    """train, val: labelled shards. out: where features and scores go; None: `probes` in the folder of each run. ema:
    of each run the moving average of its weights."""

    train: Path
    val: Path
    settings: ProbeSettings
    out: Path | None = None
    ema: bool = False

    def folder_of(self, run: EvalRun) -> Path:
        """Raises ConfigError where there is no folder of a run to put things in."""
        if self.out is not None:
            return self.out
        named = Path(at_home(run.name)).resolve()
        folder = named.parent.parent if named.parent.name == CHECKPOINTS else named
        if (folder / CONFIG).is_file():
            return folder / "probes"
        raise ConfigError(f"{run.name} is no run folder, in which features could be kept", hint="name a folder: -o DIR")


def run_probes(runs: Sequence[EvalRun], job: ProbeJob) -> str:
    """Probe the runs one after another, write their scores and give the tables. Raises UmtError."""
    log_to_stderr(World.alone())
    fields = _check(runs, job)
    for run in runs:
        _make(job.folder_of(run) / _FEATURES)
    device = device_of(World.alone())
    probed = [_probe(run, job, fields, device) for run in runs]
    about = {"versions": versions(), "device": name_of(device)}
    places: dict[Path, list[ProbedRun]] = {}
    for one in probed:
        places.setdefault(job.folder_of(one.run), []).append(one)
    files = {folder / _scores_name(some): some for folder, some in places.items()}
    for file, some in files.items():
        write_whole(file, json.dumps(as_json(some, about), indent=1) + "\n")
    return "\n".join([probe_text(probed), *(f"with all that was tried: {file}" for file in files)])


def plan_probes(runs: Sequence[EvalRun], job: ProbeJob) -> str:
    """What `run_probes` would compute and store. Raises as it does."""
    log_to_stderr(World.alone())
    fields = _check(runs, job)
    device = device_of(World.alone())
    return "\n".join(line for run in runs for line in _planned(run, job, fields, device))


def _scores_name(probed: Sequence[ProbedRun]) -> str:
    """Of the file with these scores: the same for the same weights, sets, labels and protocol, so that none is lost."""
    asked = [[one.fingerprint, one.protocol, [field.field for field in one.fields]] for one in probed]
    return f"probes-{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]}.json"


def _check(runs: Sequence[EvalRun], job: ProbeJob) -> dict[str, str]:
    """The label fields, and by what the labels of each are matched. What is wrong with the labels or the last run is
    said before hours go into the first."""
    fields = probed_fields(job.train, job.val, job.settings.labels)
    verify_checkpoints(runs)
    for run in runs:
        job.folder_of(run)
    train, val = (probed_set(shards, runs[0].config, job.settings) for shards in (job.train, job.val))
    return match_probed(fields, train=train, val=val)


def _make(folder: Path) -> None:
    """The folder of the cache, which says before any work whether it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(f"nothing can be written in {folder}: {error}", hint="another place: -o DIR") from error


# ---------------------------------------------------------------- one run


@dataclass(frozen=True)
class _Frozen:
    """A frozen model, and what is wanted of it, by the role of the set."""

    fingerprint: str
    step: int | None
    loaded: str
    precision: Precision
    requests: Mapping[str, FeatureRequest]

    @property
    def sets(self) -> Mapping[str, EvaluationSet]:
        return {role: request.items for role, request in self.requests.items()}


def _frozen(run: EvalRun, job: ProbeJob, device: torch.device) -> _Frozen:
    precision = precision_of(load_deepspeed_json(run.config.engine))
    task = build_task(run.config, device=device, precision=precision, classes=run.classes)
    loaded = load_scored(task, run, averaged=job.ema, judged=())
    step = step_scored(run)
    fingerprint = state_fingerprint(task.module.state_dict())
    module = as_trained(task.module, precision).to(device).eval()
    decisive = {"weights": fingerprint, "precision": precision, "task": as_tree(run.config)["task"]}
    requests = {
        role: FeatureRequest(
            probed_set(shards, run.config, job.settings),
            tokens_of(run.config, module),
            decisive,
            job.settings.token_pool,
            num_workers=run.config.data.workers,
        )
        for role, shards in ((_TRAIN, job.train), (_VAL, job.val))
    }
    return _Frozen(fingerprint, step, loaded, precision, requests)


def _probe(run: EvalRun, job: ProbeJob, fields: Mapping[str, str], device: torch.device) -> ProbedRun:
    """fields: of labels, and by what these are matched."""
    frozen = _frozen(run, job, device)
    found = _features(run, frozen, job)
    train, val = found[_TRAIN], found[_VAL]
    scores = []
    for field in fields:
        probed = {
            role: ProbedSet(some, labels_of([item.labels for item in some.items], frozen.sets[role], field))
            for role, some in found.items()
        }
        scores.append(score_field(field, **probed, settings=job.settings, device=device, name=run.name))
    contents = {item.content for item in train.items}
    return ProbedRun(
        run,
        frozen.fingerprint,
        frozen.step,
        frozen.loaded,
        {role: [(one.key, one.reason) for one in some.left_out] for role, some in found.items()},
        sum(item.content in contents for item in val.items),
        tuple(scores),
        {
            **_protocol(frozen, found, job.settings, len(train.items), device),
            "labels_matched": dict(fields),
            "ema": job.ema,
            "percent_trained_on": percent_trained_on(frozen.sets[_VAL], run.config),
        },
    )


def _protocol(
    frozen: _Frozen, found: Mapping[str, FrozenFeatures], settings: ProbeSettings, clips: int, device: torch.device
) -> dict[str, Any]:
    """What one must know to repeat the numbers; JSON types."""
    request = frozen.requests[_VAL].items.request
    sets = {
        role: {
            "shards": str(items.shards),
            "fingerprint": items.manifest.fingerprint,
            "items": len(found[role].items),
            "left_out": len(found[role].left_out),
        }
        for role, items in frozen.sets.items()
    }
    trained = {kind: grid for kind in settings.kinds if (grid := settings.grid_of(kind)) is not None}
    return {
        **sets,
        "limit": max((request.asked["limit"] or 0 for request in frozen.requests.values()), default=0) or None,
        "frames": request.frames.text,
        "side": request.side,
        "antialias": request.antialias,
        "features": "tokens of the unmasked clip after the last norm, of a classifier before fc_norm; their mean for "
        "knn and linear",
        "pool": settings.token_pool,
        "precision": frozen.precision,
        "device": name_of(device),
        **({"knn": {"neighbours": NEIGHBOURS, "temperature": TEMPERATURE}} if "knn" in settings.kinds else {}),
        **{
            kind: {
                "lr": list(grid.lr),
                "weight_decay": list(grid.weight_decay),
                "steps": grid.steps(clips),
                "batch": grid.batch_of(clips),
            }
            for kind, grid in trained.items()
        },
        **({"held_back": settings.held_back, "seeds": settings.seeds} if trained else {}),
    }


# ---------------------------------------------------------------- features


def _features(run: EvalRun, frozen: _Frozen, job: ProbeJob) -> dict[str, FrozenFeatures]:
    """Of both sets, by role: those that are there, and those that are computed now."""
    folder = job.folder_of(run) / _FEATURES
    found = {role: find_features(folder, request) for role, request in frozen.requests.items()}
    missing = {role: frozen.requests[role] for role, some in found.items() if some is None}
    if missing:
        shape = next(iter(missing.values())).shape()
        check_room([request.items for request in missing.values()], shape, folder, job.settings)
    for role, request in missing.items():
        with bar_of(request.items, name=f"{run.name} {role}") as beat:
            found[role] = compute_features(folder, request, beat=beat)
    return {role: some for role, some in found.items() if some is not None}


def check_room(sets: Sequence[EvaluationSet], shape: tuple[int, int], folder: Path, settings: ProbeSettings) -> None:
    """Raises ConfigError where the features of these sets are larger than the cache may be, MachineError where the disk
    has less room. shape: n tokens of D numbers for each clip."""
    needed, clips = sum(bytes_of(len(items), shape) for items in sets), sum(map(len, sets))
    if needed > settings.cache_gb * 1e9:
        raise ConfigError(
            f"the features of {clips:,} clips are {needed / 1e9:,.3g} GB ({shape[0]} tokens of {shape[1]} numbers in "
            f"fp16 each), more than --cache-gb {settings.cache_gb:g}",
            hint=f"--pool {2 * settings.pool} stores a quarter of the tokens; --limit N looks at fewer clips; --kinds "
            "knn,linear stores no tokens; or allow more with --cache-gb",
        )
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise MachineError(
            f"the features of {clips:,} clips are {needed / 1e9:,.3g} GB, and the disk of {folder} has "
            f"{free / 1e9:,.3g} GB left",
            hint="another disk: -o DIR; or --pool, --limit and --kinds, which make them smaller",
        )


def bytes_of(clips: int, shape: tuple[int, int]) -> int:
    """Of n tokens in fp16 and their mean in fp32 for each clip."""
    tokens, width = shape
    return clips * width * (2 * tokens + 4)


def _planned(run: EvalRun, job: ProbeJob, fields: Mapping[str, str], device: torch.device) -> Iterator[str]:
    settings, frozen = job.settings, _frozen(run, job, device)
    folder = job.folder_of(run) / _FEATURES
    yield f"{run.name}: {run.config.task.summary}"
    yield f"  weights {run.weights}, {frozen.precision}"
    missing = []
    for role, request in frozen.requests.items():
        told = f"  {role} {request.items.shards}: {len(request.items)} clips"
        if find_features(folder, request) is not None:
            yield f"{told}, whose features are in {folder / request.name}"
            continue
        shape = request.shape()
        missing.append(request.items)
        passes, size = request.items.turns(1), bytes_of(len(request.items), shape) / 1e6
        yield f"{told}; {passes} forward passes of {settings.clips_at_once}; {size:,.1f} MB in {folder}"
    if missing:
        check_room(missing, shape, folder, settings)
    yield f"  labels: {', '.join(fields)}"
    for kind in settings.kinds:
        if (grid := settings.grid_of(kind)) is not None:
            clips = len(frozen.sets[_TRAIN])
            heads, steps, batch = len(grid.points), grid.steps(clips), grid.batch_of(clips)
            times = len(fields) * settings.seeds
            yield f"  {kind}: {heads} heads and the one that is taken, {steps} steps of {batch} clips, {times} times"
