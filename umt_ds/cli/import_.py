"""`umt import`: what a weight file is, and a model's folder made of it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from umt_ds.cli.words import LOCAL_FOLDER
from umt_ds.tasks.importing.releases import KINDS, FileKind


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "folder", type=LOCAL_FOLDER, help="Write a model's folder: safetensors, and what they are.")
@click.option("--as", "kind", type=click.Choice(KINDS), help="What to take it for; default: what it seems to be.")
@click.option("--dry-run", is_flag=True, help="With --to: look, and say what would be written.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in the place of lines.")
def command(file: Path, folder: Path | None, kind: FileKind | None, dry_run: bool, as_json: bool) -> None:
    """Say what a weight FILE is: which task trained it and of which size, which published file it may be, which of its
    tensors the model here uses, and what is odd about it.

    FILE is a weight file in any form (safetensors, torch.save, TorchScript as of OpenAI's CLIP), the folder of a model,
    or a run. Nothing in it is run. Other commands read the same files; the folder that --to writes is smaller, without
    the teacher and other leftovers, in float types as they were, and its hash is checked whenever it is read.

    \b
    For example:
      umt import b16_25m.pth
      umt import b16_25m.pth --to weights/b16_25m
      umt import checkpoint-best/mp_rank_00_model_states.pt --json
      umt import ViT-B-16.pt --to weights/clip_b16
      umt import l16_ptk710_ftk710_ftk400_f16_res224.pth --as encoder --to weights/l16 --dry-run
    """
    from umt_ds.tasks.importing import report

    found = report.look_at(file, kind=kind)
    if folder is not None:
        report.check(found, folder)
        if not dry_run:
            report.write(found, folder)
    click.echo(json.dumps(report.as_json(found), indent=2) if as_json else report.as_text(found, folder=folder))
    if folder is not None:
        click.echo(f"{'would write' if dry_run else 'written:'} {folder}", err=True)
