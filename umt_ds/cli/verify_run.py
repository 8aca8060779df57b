"""`umt verify-run`: did two runs show the same clips under the same masks, and compute the same numbers?"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from umt_ds.report.compare_runs import compare_runs


class _Share(click.FloatRange):
    """From 0 to 1; click's own range lets NaN through."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        share = super().convert(value, param, ctx)
        if math.isnan(share):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return share


@click.command("verify-run")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--rtol", type=_Share(), default=1e-5, show_default=True, help="For losses and norms.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
def command(a: Path, b: Path, rtol: float, as_json: bool) -> None:
    """Compare run folders A and B step by step: clips shown (digest), masks, learning rate, loss, gradient norm.

    Of steps that ran twice, after a kill, the later one counts; lines of metrics.jsonl that are no records are passed
    over and counted. What both runs lack is equal, and so is NaN in both. `--rtol 0` asks for equal bits, as a resumed
    run has on the same number of ranks. Of the newest step of which both have a checkpoint it also says which of the
    weights, moments and averaged weights (optim.ema_decay) are equal bit for bit, where as many ranks wrote both. Exit
    codes: 0 the common steps agree, 1 they differ, 2 there is nothing to compare.

    \b
    For example:
      umt verify-run runs/unbroken runs/resumed --rtol 0
      umt verify-run runs/eight_ranks runs/two_ranks --json
    """
    comparison = compare_runs(a, b, rtol=rtol)
    click.echo(json.dumps(asdict(comparison), allow_nan=False) if as_json else comparison.text())
    sys.exit(1 if comparison.different else 0)
