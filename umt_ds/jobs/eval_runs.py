"""The runs that `umt eval` scores: their settings, and where their weights lie. Torch-free."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from umt_ds.config.check import Tree, check, fill
from umt_ds.config.evaluation import EVALUATION_KINDS
from umt_ds.config.explain import Origin, Origins
from umt_ds.config.key_paths import flatten
from umt_ds.config.load import lay_overrides, load_tree, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree
from umt_ds.engine.best import read_best
from umt_ds.engine.manifest import (
    CHECKPOINTS,
    MANIFEST,
    checkpoint_folders,
    read_checkpoint_manifest,
    resolve_checkpoint,
)
from umt_ds.engine.readback import is_file, is_folder
from umt_ds.environment import at_home
from umt_ds.errors import CheckpointError, ConfigError, WeightsError
from umt_ds.weights.exported import classes_in, is_model_folder, read_model_folder

CONFIG = "config.yaml"
_KINDS_OF_RUN = "a run, checkpoint or model folder, a YAML file, or a shipped run (`umt config` lists them)"
# A folder of weights that no run comes with, as an example in a hint.
_WITH_WEIGHTS = "umt eval NAME --weights"


@dataclass(frozen=True)
class EvalRun:
    """A run to score. name: as the user calls it. checkpoint: one of ours; None: `init.weights` is taken. teacher:
    where the weights of its teacher were, which `config` calls random; None where it has none, or nobody says."""

    name: str
    config: RunConfig
    checkpoint: Path | None
    teacher: Path | None = None

    @property
    def weights(self) -> Path:
        """The file or folder that the weights are read from."""
        weights = self.checkpoint or self.config.init.weights
        assert weights is not None, "find_runs refuses it"
        return weights

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the rows of its head, as the checkpoint has them; none where nobody wrote them down."""
        if self.checkpoint is not None:
            return tuple(read_checkpoint_manifest(self.checkpoint).classes)
        return classes_in(self.weights) if is_model_folder(self.weights) else ()

    def is_same(self, other: EvalRun) -> bool:
        """Whether it is the other one, perhaps in another spelling."""
        if self.checkpoint is None or other.checkpoint is None:
            return self.checkpoint is other.checkpoint and self.config == other.config
        return self.checkpoint.resolve() == other.checkpoint.resolve()


def find_runs(
    names: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    own_weights: bool = True,
    best: bool = False,
    judged: bool = True,
) -> list[EvalRun]:
    """The runs that are called so, with `overrides` in the settings of each.

    only: the evaluations to make; all of a run where it names none. own_weights: of a folder, take the newest
    checkpoint; False: `init.weights`, as of a run that has not begun. best: of a run folder, take the best checkpoint
    (`cadence.keep_best`). judged: False where nobody makes evaluations: then none are needed, nor what their settings
    name.

    The settings may name variables that are not set, where scoring has no need of them: paths of training data, the
    weights of a teacher, which nobody asks. Raises ConfigError or CheckpointError for a name with nothing behind it, a
    run without weights or evaluations, and settings that are wrong.
    """
    runs = [_find(name, overrides, only, own_weights=own_weights, best=best, judged=judged) for name in names]
    for number, run in enumerate(runs):
        twice = next((other for other in runs[:number] if run.is_same(other)), None)
        if twice is not None:
            same = run.name if run.name == twice.name else f"{run.weights}, as {twice.name} and {run.name},"
            raise ConfigError(
                f"{same} is named twice", hint="name each run once: the mean of equal runs would count it twice"
            )
    return runs


def _find(
    name: str, overrides: Sequence[str], only: Sequence[str], *, own_weights: bool, best: bool, judged: bool
) -> EvalRun:
    folder = _folder_called(name)
    tree, origins = _tree_of_folder(folder) if folder is not None else _tree_of_recipe(name)
    lay_overrides(tree, origins, overrides)
    teacher = _teacher_weights(tree, origins)
    _forget_training(tree)
    config = check(tree, origins, keep_unset=True)
    config = _with_evaluations(config, only, name) if judged else config
    _refuse_unset(config, name, judged=judged)
    if folder is not None and own_weights and not is_model_folder(folder):
        return EvalRun(name, config, _best_in(folder) if best else _checkpoint_in(folder), teacher)
    if best:
        raise ConfigError(f"{name} is no run folder, and has no best checkpoint", hint="leave --best away")
    _check_initial_weights(config, name)
    if judged:
        config = config.model_copy(update={"task": config.task.judged_alone()})
    return EvalRun(name, config, None, teacher)


# ---------------------------------------------------------------- settings


def _folder_called(name: str) -> Path | None:
    try:
        path = Path(at_home(name))
        return path if is_folder(path) else None
    except ValueError as error:
        raise ConfigError(f"{name!r}: {error}") from error


def _tree_of_folder(folder: Path) -> tuple[Tree, Origins]:
    """Of a run folder, what it was started with last; of a checkpoint, what it was written with."""
    if is_model_folder(folder):
        tree = read_model_folder(folder).tree
        tree["init"] = {"weights": str(folder)}
        return tree, {"": Origin(str(folder / CONFIG))}
    if is_file(folder / CONFIG):
        return load_tree(str(folder / CONFIG))
    if not is_file(folder / MANIFEST) and not checkpoint_folders(folder):
        raise ConfigError(
            f"{folder} is neither a run folder (no {CONFIG}) nor a checkpoint (no {MANIFEST})",
            hint=f"weights alone want the run that they belong to: {_WITH_WEIGHTS} {folder}",
        )
    checkpoint = resolve_checkpoint(folder)
    manifest = read_checkpoint_manifest(checkpoint)
    return copy.deepcopy(manifest.config), {"": Origin(str(checkpoint / MANIFEST))}


def _tree_of_recipe(name: str) -> tuple[Tree, Origins]:
    is_yaml = name.endswith((".yaml", ".yml"))
    if name.removesuffix(".yaml") in run_names() or (is_yaml and is_file(Path(at_home(name)))):
        return load_tree(name)
    if is_file(Path(at_home(name))):
        raise ConfigError(f"{name} is a file, and no YAML of a run", hint=f"{_WITH_WEIGHTS} {name}")
    near = difflib.get_close_matches(name, run_names(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"give {_KINDS_OF_RUN}"
    if name in EVALUATION_KINDS:
        hint = f"a kind of evaluation is an option: umt eval RUN --kind {name} --shards SHARDS"
    raise ConfigError(f"{name}: there is no such folder or file, and no shipped run is called so", hint=hint)


def _teacher_weights(tree: Tree, origins: Origins) -> Path | None:
    task = tree.get("task")
    teacher = task.get("teacher") if isinstance(task, dict) else None
    if not isinstance(teacher, dict) or not isinstance(teacher.get("weights"), str):
        return None
    said = fill({"task": {"teacher": {"weights": teacher["weights"]}}}, origins, keep_unset=True)
    weights = said["task"]["teacher"]["weights"]
    return None if weights == "random" or "${env:" in weights else Path(at_home(weights))


def _forget_training(tree: Tree) -> None:
    """What training alone needs. A teacher gets random weights: nobody asks it anything here, and its file may not be
    on this machine. No checkpoint is kept as the best, whose evaluation may not be among those that are made."""
    task, cadence = tree.get("task"), tree.get("cadence")
    teacher = task.get("teacher") if isinstance(task, dict) else None
    if isinstance(teacher, dict):
        teacher["weights"] = "random"
        teacher["pixels"] = "imagenet"  # its own may be said beside its weights only
    if isinstance(cadence, dict):
        cadence.pop("keep_best", None)


def _with_evaluations(config: RunConfig, only: Sequence[str], name: str) -> RunConfig:
    """The same settings with the evaluations that are asked for."""
    known = config.evaluation
    if not known:
        raise ConfigError(
            f"{name} has no evaluation: `evaluation:` of its settings is empty",
            hint=f"name a set and what to measure: --shards SHARDS --kind {' or '.join(EVALUATION_KINDS)}",
        )
    missing = [one for one in only if one not in known]
    if missing:
        raise ConfigError(f"{name} has no evaluation {missing[0]!r}", hint=f"it has: {', '.join(known)}")
    chosen = {one: settings for one, settings in known.items() if one in only or not only}
    return config.model_copy(update={"evaluation": chosen})


def _refuse_unset(config: RunConfig, name: str, *, judged: bool) -> None:
    """Raises ConfigError for a variable that is not set in what is read: all but the sources of training, and where
    nobody makes them the evaluations."""
    unread = {"data"} if judged else {"data", "evaluation"}
    leaves = flatten({key: value for key, value in as_tree(config).items() if key not in unread})
    leaves |= {f"evaluation.{one}.voters": voters for one, voters in _default_voters(config) if judged}
    unset = [key for key, value in leaves.items() if isinstance(value, str) and "${env:" in value]
    if unset:
        raise ConfigError(
            f"{name}: {unset[0]} is {leaves[unset[0]]}, and that variable is not set",
            hint=f"export it, or give the value: {unset[0]}=…",
        )


def _default_voters(config: RunConfig) -> Iterator[tuple[str, str]]:
    """The training clips that vote in an evaluation, because its settings name no others."""
    for name, settings in config.evaluation.items():
        if settings.looks_at_training_clips and (source := first_source(config)):
            yield name, source


def first_source(config: RunConfig) -> str | None:
    """Where the first source of clips lies (of a run on images alone, its first source); None where it is streamed."""
    sources = list(config.data.sources.values())
    source = next((one for one in sources if one.media == "video"), sources[0])
    return None if source.is_stream else source.names[0]


# ---------------------------------------------------------------- weights


def _checkpoint_in(folder: Path) -> Path:
    if not is_file(folder / MANIFEST) and not checkpoint_folders(folder):
        raise CheckpointError(
            f"{folder} has no checkpoint", hint="train it first; or name the weights to score with --weights PATH"
        )
    return resolve_checkpoint(folder)


def _best_in(folder: Path) -> Path:
    """The checkpoint that `cadence.keep_best` chose."""
    found = read_best(folder)
    if found is None:
        raise CheckpointError(
            f"{folder} has no best checkpoint: its run was not judged by cadence.keep_best",
            hint="leave --best away: the newest checkpoint is taken",
        )
    return resolve_checkpoint(folder / CHECKPOINTS / found.checkpoint)


def _check_initial_weights(config: RunConfig, name: str) -> None:
    weights = config.init.weights
    if weights is None:
        raise ConfigError(
            f"{name} says how to train, and names no weights to score",
            hint="give --weights PATH (a weight file, the folder of a model, run or checkpoint), or a run folder",
        )
    if not weights.exists():
        raise WeightsError(f"{name}: the weights {weights} are not there", hint="give others with --weights PATH")


def evaluations_of(runs: Sequence[EvalRun]) -> list[str]:
    """The names of all evaluations, in the order in which runs name them."""
    return list(dict.fromkeys(name for run in runs for name in run.config.evaluation))
