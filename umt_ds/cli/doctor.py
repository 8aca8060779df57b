"""`umt doctor`: is this machine fit for a run?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from umt_ds.errors import EXIT_FAILED

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("doctor")
@click.argument("name", required=False, metavar="[RUN_NAME]")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--shards", multiple=True, help="Look at this folder or URL of shards too; repeat.")
@click.option("--disk", type=_FOLDER, help="Measure this folder's disk. Default: where the run's folder will be.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(
    name: str | None, overrides: tuple[str, ...], shards: tuple[str, ...], disk: Path | None, as_json: bool
) -> None:
    """Look at this machine, and with RUN_NAME at what that run needs: its shards, weights and memory for the loader.

    One line each: ok, note or problem; what is there, what will be used because of it, what to do. Takes about half a
    minute. Exit code 1 if there is a problem, else 0. On a cluster, give it to a compute node: srun umt doctor …

    \b
    For example:
      umt doctor
      umt doctor stage1/b16_k710 --disk /scratch/runs
      srun --gpus 8 umt doctor stage1/b16_k710 data.sources.k710.shards=/data/k710/train
      umt doctor --shards s3://bucket/k710/train
    """
    from umt_ds.preflight.run_checks import run_checks

    findings = []
    for finding in run_checks(name, overrides, shards=shards, disk=disk):
        findings.append(finding)
        click.echo(str(finding), err=as_json)
    problems = sum(finding.status == "problem" for finding in findings)
    if as_json:
        click.echo(
            json.dumps({"problems": problems, "findings": [asdict(f) for f in findings]}, indent=1, ensure_ascii=False)
        )
    sys.exit(EXIT_FAILED if problems else 0)
