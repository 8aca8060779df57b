"""The pages of `umt report` in a real browser, as wide as a telephone and a desk: nothing is missing or cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.browser import WIDTHS, browser, look_at, why_no_browser
from tests.support.run_records import metrics_line, scores_line
from tests.support.shards import noisy_frames, write_shards
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from umt_ds.cli.report import command

pytestmark = pytest.mark.skipif(why_no_browser() is not None, reason=why_no_browser() or "there is a browser")

MANY = {f"reranked_{way}_r{k}": float(k) for way in ("t2v", "v2t") for k in (1, 5, 10)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


def run_of(folder: Path, *overrides: str) -> Path:
    """A run with a checkpoint, scores of a metric with a long name, and a long path."""
    config = make_config(folder, *overrides)
    run = write_run(config)
    lines = [metrics_line(1), metrics_line(2), scores_line(2, name="a_name_of_some_length", **MANY)]
    (run / "metrics.jsonl").write_text("".join(lines))
    add_checkpoint(run, config)
    return run


def labelled(number: int) -> dict[str, bytes]:
    return {**noisy_frames(number), "json": json.dumps({"motion_label": number % 2}).encode()}


def report(*arguments: str | Path) -> Path:
    done = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)
    return Path(done.stdout.splitlines()[0])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one run, with masks and a probe, and one of five."""
    folders = [tmp_path_factory.mktemp("a-folder-with-a-long-name-without-any-blank-" * 3) for _ in range(5)]
    for name, clips in (("train", 4), ("val", 2)):
        write_shards(folders[0] / name, (clips,), members=labelled)
    runs = [run_of(folder, f"optim.lr={rate}") for rate, folder in enumerate(folders, start=1)]
    return {"one run": report(runs[0]), "five runs": report(*runs, "-o", folders[0] / "compared")}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["one run", "five runs"])
def test_a_page_is_whole_at_any_width(chromium: Any, pages: dict[str, Path], which: str, width: int) -> None:
    looked = look_at(chromium, pages[which], width=width)
    assert not looked, looked


def test_what_is_wrong_with_a_page_is_seen(chromium: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><img src="nothing.png" alt="a picture"><script>nothing()</script>'
        '<div style="width: 700px">wide</div><img src="data:image/png;base64,AAAA" alt="no PNG">'
        '<link rel="stylesheet" href="http://127.0.0.1:9/style.css">'
    )
    looked = look_at(chromium, page, width=380)
    assert looked.broken == ["a picture", "no PNG"]
    assert any("nothing is not defined" in said for said in looked.errors)
    assert looked.fetched == ["http://127.0.0.1:9/style.css"]
    assert looked.too_wide > 300
    assert any(url.endswith("nothing.png") for url in looked.failed)
    assert look_at(chromium, page, width=1400).too_wide == 0
