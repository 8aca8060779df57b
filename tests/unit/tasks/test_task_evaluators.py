"""What judges a run of each task: from `evaluation` in its configuration to scores of its module."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.retrieval_runs import retrieval_yaml, searched
from tests.support.shards import noisy_frames, write_shards
from tests.support.stage2_runs import stage2_run, write_for_stage2
from umt_ds.config.load import load_run
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.shards.manifest import load_manifest
from umt_ds.errors import ConfigError, DataError
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.evaluator import Scores, try_sets
from umt_ds.evaluation.frozen_features import pooled_student, probe_all
from umt_ds.evaluation.knn import KnnEvaluator
from umt_ds.evaluation.metrics.retrieval import retrieval_scores
from umt_ds.evaluation.retrieval import RetrievalEvaluator
from umt_ds.tasks.kinds import build_task, evaluators_of
from umt_ds.tasks.stage1.task import Stage1Module
from umt_ds.tasks.stage2.module import Stage2Module
from umt_ds.tasks.video_text.retriever import Retriever

torch.set_num_threads(1)
CPU = torch.device("cpu")


def clips(label: Callable[[int], int | None] = lambda n: n % 3) -> Callable[[int], dict[str, bytes]]:
    """Noise with a label, and with none where that is None."""

    def members(number: int) -> dict[str, bytes]:
        said = {} if label(number) is None else {"label": label(number)}
        return {**noisy_frames(number), "json": json.dumps(said).encode()}

    return members


def stage1_run(folder: Path, *more: str) -> RunConfig:
    """demo/stage1 at 16 px, that trains on FOLDER/train and is judged by FOLDER/val."""
    words = [
        f"data.sources.demo.shards={folder / 'train'}", "data.workers=0", "task.teacher.weights=random",
        "task.student.frames=2", "task.student.image_size=16", "task.teacher.tower.image_size=16",
        "evaluation.knn.kind=knn", f"evaluation.knn.shards={folder / 'val'}", "evaluation.knn.neighbours=3", *more,
    ]  # fmt: skip
    return load_run("demo/stage1", words)


def module_of(run: RunConfig) -> torch.nn.Module:
    return build_task(run, device=CPU, precision="fp32").module.eval()


def score(run: RunConfig, *, times: int = 1, predictions: bool = False) -> Scores:
    (evaluator,) = evaluators_of(run)
    module = module_of(run)
    for _ in range(times):
        found = evaluator.run(module, ALONE, beat=no_beat, predictions=predictions)
    assert tuple(found.values) == evaluator.metrics
    return found


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_knn_of_a_run_is_what_the_probe_of_the_report_finds(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (9,), members=clips())
    write_shards(tmp_path / "val", (6,), members=clips(), first=9)
    run = stage1_run(tmp_path, "evaluation.knn.neighbours=20")
    found = score(run, predictions=True)
    module = module_of(run)
    assert isinstance(module, Stage1Module)
    request = ClipRequest(middle_frames(2), 16, label_fields=["label"])
    sets = [EvaluationSet(tmp_path / name, request, batch_size=16) for name in ("train", "val")]
    probe = probe_all({"student": pooled_student(module.encoder)}, *sets, fields=["label"])
    assert found.values["label"] == pytest.approx(100 * probe.accuracy["student"]["label"])
    assert found.protocol["chance"]["label"] == pytest.approx(100 * probe.accuracy["chance"]["label"])
    pixels = torch.cat([batch.pixels for batch in EvaluationSet(tmp_path / "val", request, batch_size=16).batches()])
    spectrum = torch.linalg.svdvals(pooled_student(module.encoder)(pixels).double())
    shares = spectrum / spectrum.sum()
    assert found.values["rankme"] == pytest.approx(math.exp(-(shares * shares.log()).sum().item()), rel=1e-4)
    rows = found.predictions
    assert rows is not None
    right = [one == other for one, other in zip(rows["label"], rows["label_predicted"], strict=True)]
    assert found.values["label"] == pytest.approx(100 * sum(right) / 6)
    assert all(0 < share <= 1 for share in rows["label_share"])


def test_a_protocol_says_what_one_needs_to_score_again(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (9,), members=clips())
    write_shards(tmp_path / "val", (6,), members=clips(), first=9)
    protocol = score(stage1_run(tmp_path, "evaluation.knn.limit=4")).protocol
    json.dumps(protocol)  # of JSON types
    manifest = json.loads((tmp_path / "val" / "manifest.json").read_text())
    assert protocol["fingerprint"] == manifest["fingerprint"]
    said = {name: protocol[name] for name in ("samples", "items", "limit", "num_frames", "stored_frames", "side")}
    assert said == {"samples": 6, "items": 4, "limit": 4, "num_frames": 2, "stored_frames": [7, 7], "side": 16}
    assert protocol["voters"]["items"] == 4
    assert (protocol["neighbours"], protocol["temperature"], protocol["precision"]) == (3, 0.07, "fp32")
    assert protocol["percent_trained_on"] == {"demo": 0.0}


def test_a_set_without_labels_is_judged_by_rankme_alone_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(tmp_path / "train", (5,), members=clips())
    write_shards(tmp_path / "val", (6,), members=clips(lambda _: None), first=9)
    found = score(stage1_run(tmp_path), times=2)
    assert list(found.values) == ["rankme"]
    assert "have no labels: no kNN accuracy, RankMe alone" in found.protocol["remark"]
    assert len(warnings(caplog)) == 1
    with pytest.raises(ConfigError, match=r"evaluation.knn.labels: the clips of .*val have no label 'verb'"):
        evaluators_of(stage1_run(tmp_path, "evaluation.knn.labels=[verb]"))


def test_voters_without_labels_leave_rankme_alone(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (5,), members=clips(lambda _: None))
    write_shards(tmp_path / "val", (6,), members=clips(), first=9)
    assert list(score(stage1_run(tmp_path)).values) == ["rankme"]
    other = write_shards(tmp_path / "other", (5,), members=clips())
    assert list(score(stage1_run(tmp_path, f"evaluation.knn.voters={other}")).values) == ["label", "rankme"]


def test_a_label_that_the_voters_lack_is_not_voted_on_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def members(*fields: str) -> Callable[[int], dict[str, bytes]]:
        return lambda n: {**noisy_frames(n), "json": json.dumps({field: n % 3 for field in fields}).encode()}

    write_shards(tmp_path / "train", (5,), members=members("motion_label"))
    write_shards(tmp_path / "val", (6,), members=members("verb_label", "motion_label"), first=9)
    found = score(stage1_run(tmp_path), times=2)
    assert list(found.values) == ["motion", "rankme"]
    assert "have no label 'verb_label': no kNN accuracy of it" in found.protocol["remark"]
    assert len(warnings(caplog)) == 1


def named_sets(folder: Path, *, train: list[str], val: list[str]) -> RunConfig:
    """Clips of three labels, under these class lists: each clip is in both sets, so that its nearest is itself."""
    for name, classes in {"train": train, "val": val}.items():
        own = {label: classes.index(one) for label, one in enumerate(train) if one in classes} if classes else {}
        write_shards(folder / name, (6,), members=clips(lambda n, own=own: own.get(n % 3, n % 3)))  # type: ignore[misc]
        replace(load_manifest(folder / name), labels=tuple(classes)).save(folder / name)
    return stage1_run(folder, "evaluation.knn.neighbours=1")


def test_voters_of_another_order_are_matched_by_the_names_of_classes(tmp_path: Path) -> None:
    found = score(named_sets(tmp_path, train=["run", "sit", "eat"], val=["eat", "run", "sit"]))
    assert found.protocol["labels_matched"] == {"label": "by name"}
    assert found.values["label"] == 100


@pytest.mark.parametrize("unnamed", [[], ["0", "1", "2"]])
def test_voters_without_names_are_matched_by_number_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unnamed: list[str]
) -> None:
    found = score(named_sets(tmp_path, train=["run", "sit", "eat"], val=unnamed), times=2)
    assert found.protocol["labels_matched"] == {"label": "by number"}
    (said,) = [one for one in warnings(caplog) if "matched by number" in one]
    assert said.startswith("1 set(s) do not name their classes")
    assert said.endswith(f"train: {tmp_path / 'val'}")


def test_a_class_that_the_voters_do_not_know_is_refused(tmp_path: Path) -> None:
    run = named_sets(tmp_path, train=["run", "sit", "eat"], val=["run", "eat", "sit", "fly"])
    said = r"evaluation.knn: .*val: 1 of its 4 classes \(label\) are not in the class list of .*train: 'fly', whose"
    with pytest.raises(ConfigError, match=said):
        evaluators_of(run)


def test_the_list_of_another_label_is_matched_too(tmp_path: Path) -> None:
    def members(number: int) -> dict[str, bytes]:
        return {**noisy_frames(number), "json": json.dumps({"motion_label": number % 2}).encode()}

    for name, motions in {"train": ["up", "down"], "val": ["down", "left"]}.items():
        folder = write_shards(tmp_path / name, (6,), members=members)
        replace(load_manifest(folder), options={"classes": {"motion": motions}}).save(folder)
    with pytest.raises(ConfigError, match=r"val: 1 of its 2 classes \(motion_label\) .*train: 'left'"):
        evaluators_of(stage1_run(tmp_path))


def test_a_first_clip_without_a_label_does_not_speak_for_the_set(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (5,), members=clips())
    write_shards(tmp_path / "val", (6,), members=clips(lambda n: {9: None, 10: -1}.get(n, n % 3)), first=9)
    found = score(stage1_run(tmp_path, "evaluation.knn.max_left_out=0.4"))
    assert list(found.values) == ["label", "rankme"]
    assert [one.key for one in found.left_out] == ["clip-0009", "clip-0010"]


def test_a_set_whose_labels_are_all_unknown_has_none(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (5,), members=clips())
    write_shards(tmp_path / "val", (6,), members=clips(lambda _: -1), first=9)
    assert list(score(stage1_run(tmp_path)).values) == ["rankme"]


def test_streamed_clips_cannot_vote(tmp_path: Path) -> None:
    write_shards(tmp_path / "val", (6,), members=clips())
    streamed = f"data.sources.demo.shards={tmp_path}/{{000..003}}.tar"
    with pytest.raises(ConfigError, match=r"evaluation.knn.voters: the run's own clips are streamed"):
        evaluators_of(stage1_run(tmp_path, streamed))
    voters = write_shards(tmp_path / "voters", (5,), members=clips())
    assert score(stage1_run(tmp_path, streamed, f"evaluation.knn.voters={voters}")).items == 6


def test_a_clip_without_its_label_is_left_out_of_what_is_judged_and_does_not_vote(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (8,), members=clips(lambda n: n % 3 if n < 5 else None))
    write_shards(tmp_path / "val", (6,), members=clips(lambda n: None if n == 12 else n % 3), first=9)
    found = score(stage1_run(tmp_path, "evaluation.knn.max_left_out=0.2"))
    assert [(one.key, one.reason) for one in found.left_out] == [("clip-0012", "it has no label in 'label'")]
    assert (found.items, found.is_partial) == (5, True)
    assert (found.protocol["voters"]["items"], found.protocol["voters"]["left_out"]) == (8, 0)
    with pytest.raises(DataError, match="1 of 6 clips cannot be scored: clip-0012"):
        score(stage1_run(tmp_path))


def test_judging_a_run_by_what_it_trains_on_is_warned_of_with_the_share(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(tmp_path / "train", (4, 2), members=clips())
    found = score(stage1_run(tmp_path, f"evaluation.knn.shards={tmp_path / 'train'}"), times=2)
    assert found.protocol["percent_trained_on"] == {"demo": 100.0}
    assert found.protocol["voters"]["shared"] == 6
    trained, voting = warnings(caplog)  # each once, of two evaluations
    assert "evaluation.knn: 100 % of its clips" in trained
    assert "data.sources.demo, which the run trains on" in trained
    assert "100 % of the held-out clips (6) are among the clips that vote" in voting


def test_shards_and_clips_that_two_sets_share_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shards(tmp_path / "train", (4, 2), members=clips())
    write_shards(tmp_path / "val", (4, 4), members=clips())  # its first shard, and two clips of its second
    found = score(stage1_run(tmp_path))
    assert found.protocol["percent_trained_on"] == {"demo": 75.0}
    assert found.protocol["voters"]["shared"] == 6
    assert "75 % of its clips" in warnings(caplog)[0]
    assert "75 % of the held-out clips (6)" in warnings(caplog)[1]


def test_the_share_that_is_trained_on_is_of_the_clips_that_are_scored(tmp_path: Path) -> None:
    write_shards(tmp_path / "train", (2, 7), members=clips())
    write_shards(tmp_path / "val", (5, 4), members=clips(), first=6)  # clips 6 to 8 lie in a shard that differs
    found = score(stage1_run(tmp_path, "evaluation.knn.limit=6"))
    assert found.protocol["percent_trained_on"] == {"demo": 50.0}


def test_a_run_can_be_judged_where_its_training_data_are_not(tmp_path: Path) -> None:
    write_shards(tmp_path / "val", (6,), members=clips())
    voters = write_shards(tmp_path / "voters", (5,), members=clips(), first=9)
    found = score(stage1_run(tmp_path, f"evaluation.knn.voters={voters}"))
    assert found.protocol["percent_trained_on"] == {"demo": None}


def test_stage_2_is_judged_by_retrieval_and_knn_of_the_module_in_training(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (5, 4), members=noisy_frames)
    write_for_stage2(tmp_path)
    held_out = write_shards(tmp_path / "held_out", (4, 3), members=noisy_frames, first=20)
    more = [f"evaluation.{name}.{key}" for name in ("retrieval", "knn") for key in (f"shards={held_out}", "batch=3")]
    more += ["evaluation.retrieval.antialias=false", "evaluation.retrieval.rerank=null", "data.workers=0"]
    run = load_run("demo/stage2", stage2_run(tmp_path, "run", *more))
    module = module_of(run)
    assert isinstance(module, Stage2Module)
    by_name = {one.name: one for one in evaluators_of(run)}
    found = by_name["retrieval"].run(module, ALONE, beat=no_beat, predictions=True)

    assert list(found.values) == ["t2v_r1", "t2v_r5", "t2v_r10", "v2t_r1", "v2t_r5", "v2t_r10", "mean"]
    evaluator = by_name["retrieval"]
    assert isinstance(evaluator, RetrievalEvaluator)
    retriever = evaluator.model_of(module)
    assert isinstance(retriever, Retriever)
    offline = searched(held_out, retriever, batch=3, antialias=False)
    scores = retrieval_scores(offline.similarity, offline.right)
    assert found.values["t2v_r1"] == pytest.approx(100 * scores.text_to_video[1])
    assert found.values["mean"] == pytest.approx(100 * scores.mean)
    assert (found.protocol["antialias"], found.items) == (False, 7)
    assert found.protocol["vocabulary"] == evaluator.tokenizer.fingerprint
    assert found.protocol["max_tokens"] == 20
    rows = found.predictions
    assert rows is not None
    assert rows["key"] == list(offline.keys), "a caption each"
    assert [rank <= 1 for rank in rows["rank"]].count(True) == round(7 * scores.text_to_video[1])
    assert isinstance(by_name["knn"], KnnEvaluator)
    assert list(by_name["knn"].run(module, ALONE, beat=no_beat).values) == ["label", "rankme"]


def with_options(number: int) -> dict[str, bytes]:
    members = noisy_frames(number)
    said = json.loads(members["json"]) | {"texts": [f"A clip, {number}!", "nothing", "2"], "right": number % 3}
    return {**members, "json": json.dumps(said).encode()}


@pytest.mark.parametrize("kind", ["stage2", "retrieval"])
def test_a_model_of_video_and_text_is_judged_by_retrieval_multiple_choice_and_knn(kind: str, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (5, 4), members=noisy_frames)
    write_for_stage2(tmp_path)
    held_out = write_shards(tmp_path / "held_out", (4, 3), members=with_options, first=20)
    kinds = ("knn", "retrieval", "multiple_choice")
    more = [f"evaluation.{name}.{key}" for name in kinds for key in (f"kind={name}", f"shards={held_out}", "batch=3")]
    more += ["evaluation.multiple_choice.options=texts", "evaluation.multiple_choice.answer=right", "data.workers=0"]
    run = load_run(retrieval_yaml(tmp_path, kind=kind), more)
    module, judges = module_of(run), evaluators_of(run)
    assert [one.name for one in judges] == list(kinds)
    found = {one.name: one.run(module, ALONE, beat=no_beat, predictions=True) for one in judges}
    assert all(scores.items == 7 for scores in found.values())
    chosen = found["multiple_choice"]
    assert chosen.predictions is not None
    assert chosen.predictions["options"][0] == ["a clip 20", "nothing", "2"], "cleaned as captions are"
    assert chosen.predictions["answer"] == [number % 3 for number in range(20, 27)]
    assert chosen.protocol["view"] == "the whole frame, resized to a square out of its proportions"
    assert chosen.protocol["antialias"] is False
    assert chosen.protocol["num_frames"] == 3
    assert chosen.protocol["percent_trained_on"] == {"clips": 0.0, "pictures": 0.0}
    json.dumps(chosen.protocol)


def test_a_set_without_options_is_refused_before_a_model_is_made(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", (5, 4), members=noisy_frames)
    write_for_stage2(tmp_path)
    more = ["evaluation.mc.kind=multiple_choice", f"evaluation.mc.shards={tmp_path / 'shards'}"]
    with pytest.raises(DataError, match=r"9 of 9 clips cannot be scored: .*options is no list of texts"):
        try_sets(evaluators_of(load_run(retrieval_yaml(tmp_path), more)))


def test_a_run_without_matching_cannot_be_re_ranked(tmp_path: Path) -> None:
    held_out = write_shards(tmp_path / "held_out", (4,), members=noisy_frames)
    write_for_stage2(tmp_path)
    judged = f"evaluation.retrieval={{kind: retrieval, shards: {held_out}, rerank: {{}}}}"
    run = load_run("demo/stage2", stage2_run(tmp_path, "run", "evaluation=null", judged, "task.loss_weights.vtm=0"))
    with pytest.raises(ConfigError, match=r"retrieval\.rerank: the run does not learn which texts match"):
        evaluators_of(run)
