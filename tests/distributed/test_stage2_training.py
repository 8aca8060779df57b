"""`umt train demo/stage2` whole, on small shards and pictures: resume bit for bit, parts left out, other batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.jobs import write_clips
from tests.support.ranks import Call, call, run_ranks
from tests.support.same_run import assert_same_run, assert_same_state, stored
from tests.support.stage2_runs import STEPS, stage2_run, write_for_stage2
from umt_ds.engine.metrics_file import read_metrics

STOP = 3
STAGE2: dict[str, tuple[str, ...]] = {
    "unbroken": ("unbroken",),
    "stopped": ("resumed", f"stop_at={STOP}"),  # what it reads is noted
    "resumed": ("resumed",),
    "split": ("split", "batch.split_contrastive=true", "batch.micro=2"),
    "packed": ("packed", "batch.media=packed", "batch.pack=3", "engine.deepspeed=zero2_bf16.json"),
    "zero3": ("zero3", "engine.deepspeed=zero3_bf16.json", "schedule.steps=3"),
    "vtm alone": (
        "vtm", "task.loss_weights={vtc: 0, vtm: 1, mlm: 0, uta: 0}", "schedule.steps=3", "batch.media=packed",
        "batch.pack=3",
    ),
    "nothing local": ("global", "task.vtm.negatives=global", "task.mlm.mean=global", "task.text.dropout=0"),
}  # fmt: skip


def train(folder: Path, run: str, *more: str, target: str = "train") -> Call:
    words = stage2_run(folder, run, *more)
    return call(f"tests.distributed.calls:{target}", name="demo/stage2", overrides=words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage2")
    write_clips(folder / "shards", (9, 9, 9))
    write_for_stage2(folder)
    return folder


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> dict[str, list[Any]]:
    """All in one launch: by name, what each rank returned."""
    calls = [
        train(folder, *words, target="host_reads" if name == "stopped" else "train") for name, words in STAGE2.items()
    ]
    return dict(zip(STAGE2, zip(*run_ranks(2, calls), strict=True), strict=True))


def test_stage_2_resumes_bit_for_bit(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    assert [told["code"] for told in two_ranks["stopped"]] == [75, 75]
    assert two_ranks["resumed"] == two_ranks["unbroken"] == ({"code": 0}, {"code": 0})
    assert_same_run(folder / "unbroken", folder / "resumed", steps=STEPS, rtol=None)
    assert_same_state(folder / "unbroken", folder / "resumed")
    shown = {name.partition("_")[0] for r in read_metrics(folder / "unbroken").values() for name in r if "_vtc" in name}
    assert shown == {"image", "video"}, "both media were trained on"


def test_a_batch_in_pieces_is_the_same_objective(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    """The first step has the same weights; later ones meet other dropout."""
    assert two_ranks["split"] == ({"code": 0}, {"code": 0})
    whole, split = read_metrics(folder / "unbroken"), read_metrics(folder / "split")
    for step in whole:
        assert whole[step]["mask_digest_total"] == split[step]["mask_digest_total"]
    names = [name for name in whole[1] if name.endswith("_uta")]
    assert names
    for name in names:  # what no dropout touches
        assert split[1][name] == pytest.approx(whole[1][name], rel=1e-5)
    assert split[1]["loss"] == pytest.approx(whole[1]["loss"], rel=0.02)


@pytest.mark.parametrize("name", ["packed", "zero3", "vtm alone"])
def test_stage_2_trains_packed_in_bf16_with_zero_3_and_with_parts_left_out(
    name: str, folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    assert two_ranks[name] == ({"code": 0}, {"code": 0})
    records = read_metrics(folder / STAGE2[name][0])
    assert len(records) == (STEPS if name == "packed" else 3)
    if name == "packed":
        assert {"image_vtc", "video_vtc", "image_mlm", "video_uta"} <= set(records[1])
        assert records[STEPS]["loss"] < records[1]["loss"]
        assert records[1]["temperature"] == pytest.approx(0.07, abs=1e-6), "bf16 has .0698 and .0703"
        assert 0 < abs(records[STEPS]["temperature"] - 0.07) < 4e-3
    if name == "vtm alone":
        assert {key for key in records[1] if key.startswith(("image_", "video_"))} == {"image_vtm", "video_vtm"}


def test_stage_2_waits_for_the_host_where_words_are_hidden_on_it_alone(two_ranks: dict[str, list[Any]]) -> None:
    for told in two_ranks["stopped"]:
        assert len(told["seen"]) == STOP
        for seen in told["seen"][1:]:  # tables are copied in the first
            assert all(" at masked_lm.py" in one or "_text_hashes" in one or "digest64" in one for one in seen), seen


def test_no_teacher_is_in_a_checkpoint_of_stage_2(folder: Path, two_ranks: dict[str, list[Any]]) -> None:
    names = {name.split()[1].split(".")[0] for name in stored(folder / "unbroken")}
    assert names == {"temp", "vision_encoder", "text_encoder", "vision_proj", "text_proj", "itm_head"}


def test_one_rank_sees_the_same_and_with_global_negatives_and_means_loses_the_same(
    folder: Path, two_ranks: dict[str, list[Any]]
) -> None:
    quiet = ("task.text.dropout=0", "task.vtm.negatives=global", "task.mlm.mean=global", "batch.micro=12")
    assert run_ranks(1, [train(folder, "alone", *quiet)]) == [[{"code": 0}]]
    a, b = read_metrics(folder / "global"), read_metrics(folder / "alone")
    for step in a:
        for exact in ("digest", "mask_digest_total", "lr"):
            assert a[step][exact] == b[step][exact], f"step {step}: {exact}"
        for number in ("loss", "grad_norm"):
            assert a[step][number] == pytest.approx(b[step][number], rel=2e-4), f"step {step}: {number}"
