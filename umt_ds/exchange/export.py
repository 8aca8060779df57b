"""`umt export`: what is done around a target. Its files, a card, and the model that they make, held against the one
that was read; the folder appears when all of that is done, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from umt_ds.errors import ConfigError, MachineError
from umt_ds.exchange.card import card_of, compared_on, write_card
from umt_ds.exchange.compare import Difference, differences, outputs_of, probe_of
from umt_ds.exchange.source import Source
from umt_ds.exchange.targets import FORMS, Options, Plan, TargetName, Written, refused, target_of
from umt_ds.whole_file import partial_beside

# Field of `Options` → how one types it, and the targets that heed it.
_HEEDED: Mapping[str, tuple[str, tuple[TargetName, ...]]] = {
    "wrap": ("--wrap", ("published",)),
    "max_shard_bytes": ("--max-shard-size", ("safetensors",)),
    "part": ("--part", ("transformers", "onnx")),
}


@dataclass(frozen=True)
class Exported:
    """What was written. compared: before and after, of each output that the target has."""

    out: Path
    written: Written
    compared: tuple[Difference, ...]


def refuse_existing(out: Path) -> None:
    """Raises ConfigError for a folder that is there already."""
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} is there already", hint="name another folder, or move it away")


def plan_export(source: Source, target: TargetName, out: Path, options: Options) -> Plan:
    """What would be written. Raises ConfigError as `refuse_existing`, and for a model that the target cannot take."""
    refuse_existing(out)
    _refuse_idle(options, target)
    if source.form not in FORMS[target]:
        raise refused(source, target, f"has no form for a {source.form.replace('_', ' and ')} model")
    return target_of(target).plan(source, options)


def _refuse_idle(options: Options, target: TargetName) -> None:
    """Raises ConfigError for an option that the target does not heed."""
    for name, (option, heeding) in _HEEDED.items():
        if getattr(options, name) is not None and target not in heeding:
            raise ConfigError(f"{option} means nothing to --to {target}", hint=f"it is for: {', '.join(heeding)}")


def export(
    source: Source, target: TargetName, out: Path, options: Options, *, clip: Path | None = None, keep: bool = True
) -> Exported:
    """Write the folder `out`, and compare. clip: a video file to compare on; None: synthetic clips. keep: False forgets
    the weights of `source` when they are written, so that no two copies are in memory.

    Raises ConfigError as `plan_export`, MachineError where the disk refuses, and what the target raises; then nothing
    is left behind.
    """
    plan_export(source, target, out, options)
    probe = probe_of(source, clip)
    before = outputs_of(source, probe)
    partial = partial_beside(out)
    try:
        partial.mkdir(parents=True)
        written = target_of(target).write(source, partial, options)
        card = card_of(source, target, partial)
        write_card(card, partial, written)  # a model folder is one by its card
        if not keep:
            source.forget_weights()
        after = target_of(target).run(partial, source, probe, options)
        compared = tuple(differences(before, after))
        write_card(card | compared_on(clip, compared), partial, written)
        partial.rename(out)
    except OSError as error:
        raise MachineError(f"{out} cannot be written: {error.strerror or error}", hint="name another folder") from error
    finally:
        with suppress(OSError):
            shutil.rmtree(partial, ignore_errors=True)
    return Exported(out, written, compared)


def plan_text(out: Path, plan: Plan) -> str:
    """What `--dry-run` prints."""
    files = [f"  {name}: {about}" for name, about in plan.files.items()]
    return "\n".join([f"would write {out}:", *files, *(f"note: {note}" for note in plan.notes)])


def as_text(exported: Exported) -> str:
    """What is printed: where it lies, what was left out, the differences."""
    lines = [f"{exported.out}: " + ", ".join(sorted(path.name for path in exported.out.iterdir()))]
    lines += [f"note: {note}" for note in exported.written.notes]
    return "\n".join([*lines, *map(str, exported.compared)])
