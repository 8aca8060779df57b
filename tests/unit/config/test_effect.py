"""A setting counts, or it is refused, or the run says that it has no effect here: never skipped without a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from launchers.cli import launch
from umt_ds.cli.config import command
from umt_ds.config.effect import without_effect
from umt_ds.config.load import CONFIGS, load_run, run_names
from umt_ds.config.run import RunConfig
from umt_ds.config.show import as_tree, as_yaml
from umt_ds.errors import ConfigError

NO_UTA = "task.loss_weights.uta=0"
ONLY_CLIPS = ["data.sources.pictures.media=video"]
KNN = "evaluation.knn={kind: knn, shards: /val}"
STREAM = "data.sources={demo: {shards: 'pipe:cat x.tar'}}"


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {name for path in CONFIGS.rglob("*.yaml") for name in re.findall(r"\$\{env:(\w+)\}", path.read_text())}
    for name in named:
        monkeypatch.setenv(name, "/somewhere")


# ---------------------------------------------------------------- said


@pytest.mark.parametrize("name", ["demo/stage1", "demo/stage2", "demo/teacher"])
def test_a_resolved_file_is_not_blamed_for_defaults_that_it_writes_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(as_yaml(as_tree(load_run(name))))
    assert without_effect(load_run(str(tmp_path / "config.yaml"))) == without_effect(load_run(name))


SAID = [
    ("demo/stage2", [NO_UTA], "task.teacher"),
    ("demo/stage2", [NO_UTA], "task.loss"),
    ("demo/stage2", [NO_UTA], "task.mask.image"),
    ("demo/stage2", [NO_UTA, "task.align_projections=visual"], "task.teacher.layers"),
    ("demo/stage2", [NO_UTA, "task.align_projections=visual", "task.teacher.interval=2"], "task.teacher.interval"),
    ("demo/stage2", [NO_UTA, "task.align_projections=visual"], "task.teacher.norm"),
    ("demo/stage2", [NO_UTA, "engine.graph=true"], "engine.graph"),
    ("demo/stage2", ["task.mask.video.ratio=0", "task.mask.video.kind=tube"], "task.mask.video.kind"),
    ("demo/stage2", [*ONLY_CLIPS, "batch.media=packed"], "batch.media"),
    ("demo/stage2", ONLY_CLIPS, "task.mask.image"),
    ("demo/stage2", ["data.sources.clips.media=image"], "task.student.frames"),
    ("demo/stage2", ["batch.pack=8"], "batch.pack"),
    ("demo/stage2", ["task.loss_weights.vtc=0"], "task.vtc.gather"),
    ("demo/stage2", ["task.loss_weights={vtc: 0, vtm: 0}"], "task.vtc.temperature"),
    ("demo/stage2", ["task.loss_weights={vtc: 0, vtm: 0}"], "task.vtc.bounds"),
    ("demo/stage2", ["task.loss_weights.vtm=0"], "task.vtm"),
    ("demo/stage2", ["task.loss_weights.mlm=0"], "task.mlm"),
    ("demo/stage1", ["task.mask.ratio=0"], "task.mask.kind"),
    ("demo/stage1", ["batch.pack=8"], "batch.pack"),
    ("demo/stage1", ["data.cache.max_gb=3"], "data.cache"),
    ("demo/stage1", ["data.sources.demo.weight=2"], "data.sources.demo.weight"),
    ("demo/stage1", [STREAM, "data.window=3"], "data.window"),
    ("demo/stage1", ["init.weights=/a", "init.resume_from=/b"], "init.weights"),
    ("demo/stage1", ["cadence.max_skipped=2", "engine.deepspeed=zero2_fp16.json"], "cadence.max_skipped"),
    ("demo/teacher", ["cadence.evaluate=10"], "cadence.evaluate"),
    ("demo/stage1", ["cadence.evaluate=0"], "evaluation"),
    ("demo/recognition", ["task.mixing.prob=0"], "task.mixing"),
    ("demo/recognition", ["task.mixing={switch: 0, cutmix: 0.5}"], "task.mixing.cutmix"),
    ("demo/recognition", ["task.mixing={switch: 1, mixup: 0.5}"], "task.mixing.mixup"),
    ("demo/recognition", ["task.mixing={cutmix: 0, switch: 1}"], "task.mixing.switch"),
]


@pytest.mark.parametrize(("name", "overrides", "key"), SAID, ids=[f"{n} {' '.join(o)} {k}" for n, o, k in SAID])
def test_what_changes_nothing_is_said_with_its_reason(name: str, overrides: list[str], key: str) -> None:
    said = {line.partition(" ")[0]: line for line in without_effect(load_run(name, overrides))}
    assert key in said, said
    assert said[key].startswith(f"{key} has no effect here: ")


def test_what_only_a_gpu_does_is_said_on_cpus() -> None:
    run = load_run("demo/stage1", ["engine.graph=true", "engine.ahead=true"])
    assert without_effect(run) == []
    said = [line.partition(" ")[0] for line in without_effect(run, on_gpu=False)]
    assert said == ["engine.graph", "engine.ahead"]


@pytest.mark.parametrize(
    ("name", "overrides", "key"),
    [
        ("demo/stage2", [], "task.teacher"),
        ("demo/stage2", [NO_UTA, "task.align_projections=visual"], "task.teacher"),
        ("demo/stage2", [NO_UTA, "task.mask={image: {kind: random}, video: {kind: tube}}"], "task.mask.image"),
        ("demo/stage2", ["batch.media=packed", "batch.pack=8"], "batch.pack"),
        ("demo/stage2", ["task.loss_weights.vtc=0", "task.vtm.hard=true"], "task.vtc.temperature"),
        ("demo/stage2", ["engine.graph=true"], "engine.graph"),
        ("demo/stage1", ["data.cache.max_gb=3", "data.sources.demo.shards=s3://bucket/x"], "data.cache"),
        ("demo/stage1", ["init.weights=/a"], "init.weights"),
        ("demo/stage1", ["cadence.max_skipped=2"], "cadence.max_skipped"),
        ("demo/stage1", [KNN, "cadence.evaluate=10"], "cadence.evaluate"),
        ("demo/stage1", [KNN, "cadence.evaluate=10"], "evaluation"),
        ("demo/recognition", ["task.mixing.switch=0.1"], "task.mixing.cutmix"),
        ("demo/stage1", ["data.sources.more={shards: x, weight: 1}", "data.sources.demo.weight=2"],
         "data.sources.demo.weight"),
    ],
)  # fmt: skip
def test_what_counts_is_not_said(name: str, overrides: list[str], key: str) -> None:
    assert [line for line in without_effect(load_run(name, overrides)) if line.startswith(f"{key} ")] == []


def test_recipes_leave_nothing_behind_but_what_an_inherited_section_says_of_a_part_that_is_off() -> None:
    said = {name: [line.partition(" ")[0] for line in without_effect(load_run(name))] for name in run_names()}
    assert {name: keys for name, keys in said.items() if keys} == {
        "demo/stage2_motion": ["task.loss"],
        "stage2/ablations/without_uta": ["task.loss"],
        "stage2/ablations/extra_unmasked": ["task.loss"],
        "stage2/ablations/random_mask": ["task.loss"],
        "recognition/one_camera": ["task.mixing.switch"],
    }


@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("demo/teacher", ["cadence.evaluate=10"], "is no NAME/METRIC of an evaluation of this run (it has none)"),
        ("demo/stage1", ["cadence.keep_best=probe/label"], "(it has knn)"),
        ("demo/stage1", ["cadence.keep_best=knn"], "knn is no NAME/METRIC"),
        ("demo/stage1", ["cadence.evaluate=0"], "knn/label is never measured, because cadence.evaluate is 0"),
    ],
)
def test_the_best_of_what_is_not_measured_is_refused(name: str, overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=r"^cadence\.keep_best: ") as raised:
        load_run(name, ["cadence.keep_best=knn/label", *overrides])
    assert says in raised.value.what
    load_run("demo/stage1", ["cadence.keep_best=knn/label"])


def test_umt_config_says_it_beside_the_yaml() -> None:
    done = CliRunner().invoke(command, ["demo/stage2", NO_UTA, "init.weights=null"], catch_exceptions=False)
    assert "task.teacher has no effect here: " in done.stderr
    assert yaml.safe_load(done.stdout)["task"]["loss_weights"]["uta"] == 0


def test_umt_launch_says_it_before_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_CLUSTER", str(tmp_path / "cluster.yaml"))
    (tmp_path / "cluster.yaml").touch()
    words = ["submit", "stage2/ablations/without_uta", "--nodes", "2", "--dry-run"]
    done = CliRunner().invoke(launch, words, catch_exceptions=False)
    assert "task.loss has no effect here: " in done.stderr


# ---------------------------------------------------------------- refused


REFUSED = [
    ("demo/stage1", "batch.split_contrastive=true", "batch.split_contrastive"),
    ("demo/teacher", "batch.split_contrastive=true", "batch.split_contrastive"),
    ("demo/stage1", "batch.media=packed", "batch.media"),
    ("demo/teacher", "batch.media=packed", "batch.media"),
    ("demo/teacher", "engine.graph=true", "engine.graph"),
    ("demo/stage1", "data.sources.demo.caption=title", "data.sources.demo.caption"),
    ("demo/stage1", "data.sources.demo.media=image", "data.sources.demo.media"),
    ("demo/stage1", "data.sources.demo.frames.stride=2", "data.sources.demo.frames.stride"),
    ("demo/stage1", "data.augment.scale=[0.2, 1.0]", "data.augment.scale"),
    ("demo/stage2", "task.loss_weights={vtc: 0, vtm: 0, mlm: 0, uta: 0}", "task"),
    ("demo/stage2", "task.positions={frames: 8, image_size: 64}", "task.positions: .*an image has the positions"),
    ("demo/stage2", "task.vtc.temperature=0.9", "temperature"),
    ("demo/stage2", "task.vtc.bounds=[0.1, 0.5]", "temperature"),
    ("demo/stage1", "optim.min_lr=1", "optim.min_lr"),
    ("demo/recognition", "optim={warmup_lr: 1e-6, lr: 1e-3}\nschedule.warmup_steps=0", "optim.warmup_lr"),
    ("recognition/b16_k400", "schedule={steps: 100}", "optim.warmup_lr: there is no warm-up .*schedule.warmup_steps"),
]


@pytest.mark.parametrize(("name", "override", "key"), REFUSED)
def test_what_cannot_be_meant_is_refused(name: str, override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load_run(name, override.split("\n"))


def test_draws_of_a_stream_cannot_be_skipped() -> None:
    with pytest.raises(ConfigError, match=r"data\.skip_draws"):
        load_run("demo/stage1", [STREAM, "data.skip_draws=[[0, 8]]"])


def test_pictures_teach_a_student_of_one_frame() -> None:
    assert load_run("demo/stage1", ["data.sources.demo.media=image", "task.student.frames=1"]).task.kind == "stage1"


@pytest.mark.parametrize("name", run_names())
def test_a_run_written_out_whole_is_the_same_run(name: str, tmp_path: Path) -> None:
    run = load_run(name)
    (tmp_path / "config.yaml").write_text(as_yaml(as_tree(run)))
    assert load_run(str(tmp_path / "config.yaml")) == run
    assert isinstance(run, RunConfig)
