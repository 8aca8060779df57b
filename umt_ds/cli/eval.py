"""`umt eval`: how good models are, by the evaluations of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from umt_ds.cli.ranks import start_ranks, tell_the_others
from umt_ds.cli.words import LOCAL_FILE, LOCAL_FOLDER, overrides_in, runs_in
from umt_ds.config.evaluation import EVALUATION_KINDS
from umt_ds.distributed.world import sign_of_launcher
from umt_ds.environment import set_default, temporary_folder, working_folder
from umt_ds.errors import UmtError
from umt_ds.jobs.eval_plan import plan_text
from umt_ds.jobs.eval_runs import EvalRun, find_runs
from umt_ds.jobs.score_files import ScoreFiles


@click.command("eval")
@click.argument("words", nargs=-1, required=True, metavar="RUN... [KEY=VALUE]...")
@click.option("--ranks", type=click.IntRange(1), help="Start that many ranks on this machine; or use a launcher.")
@click.option("--on", "only", multiple=True, metavar="NAME", help="Only this evaluation of the runs. May be repeated.")
@click.option("--shards", metavar="SHARDS", help="Evaluate on this set alone, whatever the runs name; with --kind.")
@click.option("--kind", metavar="KIND", help=f"What to measure on --shards: {', '.join(sorted(EVALUATION_KINDS))}.")
@click.option("--weights", metavar="PATH", help="Score these: a weight file, the folder of a model, run or checkpoint.")
@click.option("--best", is_flag=True, help="Of run folders, the best checkpoint (cadence.keep_best), not the newest.")
@click.option("-o", "--out", type=LOCAL_FILE, help="Write the scores with their protocol as JSON, too.")
@click.option("--save-predictions", "predictions", type=LOCAL_FOLDER, help="Write what was answered for each item.")
@click.option("--dry-run", is_flag=True, help="Check the sets, print what would be evaluated, evaluate nothing.")
def command(
    words: tuple[str, ...],
    ranks: int | None,
    only: tuple[str, ...],
    shards: str | None,
    kind: str | None,
    weights: str | None,
    best: bool,
    out: Path | None,
    predictions: Path | None,
    dry_run: bool,
) -> None:
    """Score trained models on held-out data, as their runs do while they train (`evaluation:` of their settings).

    RUN is a run folder (its newest checkpoint), a checkpoint folder, or a YAML file or shipped run with --weights or
    init.weights. A word with `=` sets a key in each of them; write ./a=b for a folder of that name. Nothing is trained,
    and no teacher is needed.

    Runs that differ by their seed alone are put together, and where such groups differ by init.weights alone, so is
    what these brought.

    Re-ranking that was killed goes on where it was with the same command: what is finished is kept beside -o FILE, or
    in the run folder.

    \b
    For example:
      umt eval runs/b16_k710 --ranks 8
      umt eval runs/recognition_b16_k400 --best --on test --ranks 8
      umt eval runs/b16_k400 --kind classification --shards /data/k400/val evaluation.classification.segments=4
      umt eval runs/b16_5m --kind retrieval --shards /data/msrvtt/test -o scores.json
      umt eval runs/b16_5m --on msrvtt evaluation.msrvtt.rerank.candidates=128 -o scores.json --ranks 8
      umt eval runs/b16_25m_msrvtt --kind multiple_choice --shards /data/msrvtt-mc
      umt eval runs/demo/stage2-* --on retrieval --save-predictions runs/demo/answers
      umt eval stage2/l16_25m --weights l16_25m.pth --kind retrieval --shards /data/msrvtt/test
      umt eval runs/b16_k400 evaluation.val.kind=knn evaluation.val.shards=/data/k400/val --dry-run
    """
    working_folder()  # without these two, libraries would fail somewhere below
    temporary_folder()
    set_default("TORCH_CPP_LOG_LEVEL", "ERROR")  # else a lost rank is a stack of C++ on each of the others
    if (shards is None) != (kind is None):
        raise click.UsageError("--shards and --kind belong together: which set, and what to measure on it")
    try:
        runs = _find(words, shards=shards, kind=kind, only=only, weights=weights, best=best)
    except UmtError as error:
        if not dry_run:
            tell_the_others(error)
        raise
    if dry_run:
        from umt_ds.jobs.evaluate import try_evaluation

        told = plan_text(runs, ranks or 1)
        try_evaluation(runs)
        click.echo(told)
        return
    _evaluate(runs, ranks, _words(words, only, shards, kind, weights, best, out, predictions), out, predictions)


def _find(
    words: Sequence[str],
    *,
    shards: str | None,
    kind: str | None,
    only: Sequence[str],
    weights: str | None,
    best: bool,
) -> list[EvalRun]:
    names = runs_in(words, weights=weights)
    if weights is not None and best:
        raise click.UsageError("--best is a checkpoint of a run folder, and --weights takes its place")
    given = [f"init.weights={weights}"] if weights is not None else []
    if kind is not None:  # alone: first those that the run names go
        given += ["evaluation=null", f"evaluation.{kind}.kind={kind}", f"evaluation.{kind}.shards={shards}"]
    overrides = [*given, *overrides_in(words)]
    return find_runs(names, overrides, only=only, own_weights=weights is None, best=best)


def _words(
    words: Sequence[str],
    only: Sequence[str],
    shards: str | None,
    kind: str | None,
    weights: str | None,
    best: bool,
    out: Path | None,
    predictions: Path | None,
) -> list[str]:
    """The same command for each rank."""
    options = {
        "--shards": shards,
        "--kind": kind,
        "--weights": weights,
        "--out": out,
        "--save-predictions": predictions,
    }
    given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    given += ["--best"] if best else []
    return ["eval", *words, *given, *(text for name in only for text in ("--on", name))]


def _evaluate(
    runs: Sequence[EvalRun], ranks: int | None, words: Sequence[str], out: Path | None, predictions: Path | None
) -> None:
    files = ScoreFiles(out, predictions)
    if not sign_of_launcher():
        files.check(runs)  # before the ranks load their libraries
    start_ranks(ranks, words)
    from umt_ds.jobs.evaluate import run_evaluation

    text = run_evaluation(runs, files)
    if text is not None:
        click.echo(text)
