"""The moving average of the weights on one rank without DeepSpeed: in checkpoints, and in the loop.

With DeepSpeed: tests/distributed/test_engine.py, test_training.py, test_elastic.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.checkpoints import FakeEngine, folder, open_store, resume, same_state, save, save_and_finish
from tests.support.toy_run import STEPS, ToyEvaluator, ToyModule, toy_run
from umt_ds.engine import report as report_module
from umt_ds.engine.best import read_best
from umt_ds.engine.checkpoint_files import read_checkpoint_weights, read_tensors
from umt_ds.engine.manifest import CheckpointManifest, read_checkpoint_manifest
from umt_ds.engine.metrics_file import METRICS, read_metrics, read_scores
from umt_ds.engine.swapped_weights import swapped_weights
from umt_ds.errors import CheckpointError, WeightsError
from umt_ds.preflight import input_checks
from umt_ds.tasks.initial import read_initial, read_weights

AVERAGED = "optim.ema_decay=0.9"
ALL = ("weight", "exp_avg", "exp_avg_sq", "ema")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "peak_flops", lambda device: (1e12, "a test"))
    monkeypatch.setattr(logging.getLogger("umt_ds"), "propagate", True)


def files_in(checkpoint: Path) -> set[str]:
    return {path.name.partition("-")[0] for path in checkpoint.glob("*.safetensors")}


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("wait", [True, False])
def test_the_average_is_saved_and_comes_back_with_the_other_kinds_of_state(tmp_path: Path, wait: bool) -> None:
    store = open_store(tmp_path, AVERAGED)
    save(store, 2, wait=wait, averaged=True)
    store.finish()
    assert files_in(folder(tmp_path, 2)) == set(ALL)
    assert read_checkpoint_manifest(folder(tmp_path, 2)).ema_decay == 0.9
    assert same_state(resume(open_store(tmp_path, AVERAGED), averaged=True), FakeEngine(2, averaged=True), kinds=ALL)


def test_a_run_that_keeps_none_writes_the_files_that_it_always_wrote(tmp_path: Path) -> None:
    save_and_finish(open_store(tmp_path), 2, wait=True)
    assert files_in(folder(tmp_path, 2)) == {"weight", "exp_avg", "exp_avg_sq"}


def test_an_average_that_is_switched_on_begins_with_the_weights_where_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(open_store(tmp_path), 2)
    with pytest.raises(CheckpointError, match=r"another experiment: optim\.ema_decay: None → 0\.9\n"):
        open_store(tmp_path, AVERAGED).plan_resume()
    engine = resume(open_store(tmp_path, AVERAGED), averaged=True, allow_config_change=True)
    assert same_state(engine, FakeEngine(2))
    assert all(torch.equal(engine.state["ema"][name], weight) for name, weight in engine.state["weight"].items())
    assert "holds no average of the weights: it begins with the weights that it holds" in caplog.text


def test_an_average_that_is_switched_off_is_left_where_it_is_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(open_store(tmp_path, AVERAGED), 2, averaged=True)
    engine = resume(open_store(tmp_path), allow_config_change=True)
    assert same_state(engine, FakeEngine(2, averaged=True))
    assert "changed since the checkpoint: optim.ema_decay: 0.9 → None" in caplog.text


def rewrite(checkpoint: Path, change: Callable[[CheckpointManifest], None]) -> None:
    """A manifest that somebody else wrote and sealed."""
    manifest = read_checkpoint_manifest(checkpoint)
    change(manifest)
    (checkpoint / "manifest.json").write_text(manifest.to_json())


def test_a_checkpoint_that_says_more_or_less_of_an_average_than_it_holds_is_refused(tmp_path: Path) -> None:
    save(open_store(tmp_path, AVERAGED), 2, averaged=True)
    rewrite(folder(tmp_path, 2), lambda manifest: manifest.files.pop("ema-00000.safetensors") and None)
    with pytest.raises(CheckpointError, match="its weights and its ema are not of the same tensors"):
        open_store(tmp_path, AVERAGED).plan_resume()

    save(open_store(tmp_path / "other", AVERAGED), 2, averaged=True)
    rewrite(folder(tmp_path / "other", 2), lambda manifest: manifest.config["optim"].pop("ema_decay") and None)
    with pytest.raises(CheckpointError, match="it holds ema, which its run did not keep"):
        open_store(tmp_path / "other").plan_resume()


@pytest.mark.parametrize("config", [{}, {"optim": None}, {"optim": {"ema_decay": "0.9"}}, {"optim": {}}])
def test_a_manifest_whose_configuration_says_nothing_of_an_average_has_none(tmp_path: Path, config: Any) -> None:
    save(open_store(tmp_path), 2)
    rewrite(folder(tmp_path, 2), lambda manifest: manifest.config.clear() or manifest.config.update(config))
    manifest = read_checkpoint_manifest(folder(tmp_path, 2))
    assert (manifest.ema_decay, manifest.kinds) == (None, ("weight", "exp_avg", "exp_avg_sq"))


# ---------------------------------------------------------------- weights to begin with


def test_averaged_weights_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    save(open_store(tmp_path, AVERAGED), 2, averaged=True)
    state = FakeEngine(2, averaged=True).state
    for path in (tmp_path, folder(tmp_path, 2)):
        found = read_initial(path, averaged=True).state
        assert found.keys() == state["ema"].keys()
        assert all(torch.equal(found[name], state["ema"][name]) for name in found)
        assert all(torch.equal(read_weights(path)[name], state["weight"][name]) for name in found)


def test_the_doctor_looks_for_the_weights_that_a_run_would_begin_with(tmp_path: Path) -> None:
    save(open_store(tmp_path / "run", AVERAGED), 2, averaged=True)
    save(open_store(tmp_path / "plain"), 2)
    found = input_checks.weights(tmp_path / "run", averaged=True)
    assert found.there == f"{tmp_path / 'run'}: 3 averaged tensors"
    assert found.used != input_checks.weights(tmp_path / "run").used
    with pytest.raises(CheckpointError, match="holds no averaged weights"):
        input_checks.weights(tmp_path / "plain", averaged=True)


def test_averaged_weights_of_what_keeps_none_are_one_error(tmp_path: Path) -> None:
    save(open_store(tmp_path / "run"), 2)
    with pytest.raises(CheckpointError, match="step-00000002 holds no averaged weights: its run kept none"):
        read_weights(tmp_path / "run", averaged=True)
    weights = tmp_path / "model.safetensors"
    (folder(tmp_path / "run", 2) / "weight-00000.safetensors").rename(weights)
    for path in (weights, tmp_path):
        with pytest.raises(WeightsError, match="is no run or checkpoint of ours, which alone have them"):
            read_weights(path, averaged=True)


# ---------------------------------------------------------------- in the loop


def test_what_judges_the_average_is_given_it_and_training_does_not_notice(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def note(module: nn.Module) -> None:
        seen.append({name: weight.clone() for name, weight in module.state_dict().items()})

    toy_run(tmp_path / "plain", ema_decay=0.5)
    evaluators = [ToyEvaluator(also=note), ToyEvaluator("averaged", also=note)]
    toy_run(tmp_path / "judged", *evaluators, evaluate=STEPS, ema_decay=0.5, judged_by_average=["averaged"])
    last = folder(tmp_path / "judged", STEPS)
    for found, kind in zip(seen, ("weight", "ema"), strict=True):
        assert all(torch.equal(found[name], tensor) for name, tensor in read_tensors(last, kind))
    trained, averaged = read_scores(tmp_path / "judged" / METRICS)
    assert averaged.protocol == {"rows": 3, "weights": "averaged (decay 0.5)"}
    assert trained.protocol == {"rows": 3}
    assert trained.values != averaged.values
    files = [read_checkpoint_manifest(folder(tmp_path / run, STEPS)).files for run in ("plain", "judged")]
    assert files[0] == files[1]


def test_an_average_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    toy_run(tmp_path / "plain")
    toy_run(tmp_path / "averaged", ema_decay=0.5)
    losses = [[r["loss"] for r in read_metrics(tmp_path / run).values()] for run in ("plain", "averaged")]
    assert losses[0] == losses[1]
    plain, averaged = (read_checkpoint_manifest(folder(tmp_path / run, STEPS)).files for run in ("plain", "averaged"))
    assert plain == {name: entry for name, entry in averaged.items() if not name.startswith("ema-")}


def test_a_resumed_average_is_the_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    toy_run(tmp_path / "unbroken", ema_decay=0.5)
    toy_run(tmp_path / "resumed", ema_decay=0.5, steps=3)
    toy_run(tmp_path / "resumed", ema_decay=0.5)
    one, two = (read_checkpoint_weights(tmp_path / run, averaged=True) for run in ("unbroken", "resumed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_best_checkpoint_may_be_that_of_the_best_average(tmp_path: Path) -> None:
    toy = ToyEvaluator(values=[0.1, 0.5, 0.4, 0.3, 0.2])
    toy_run(tmp_path, toy, evaluate=1, keep_best="toy/mean", ema_decay=0.5, judged_by_average=["toy"])
    best = read_best(tmp_path)
    assert best is not None
    assert (best.step, best.value) == (2, 0.5)


def test_swapped_weights_come_back_after_an_error_too() -> None:
    module = ToyModule()
    before = {name: (weight.data_ptr(), weight.clone()) for name, weight in module.named_parameters()}

    def fail_with_zeros() -> None:
        with torch.no_grad(), swapped_weights(list(module.parameters()), lambda weight: torch.zeros_like(weight)):
            assert float(module(torch.ones(1, 6)).total) == 1.0, "a model of zeros answers 0, and the loss is (0 - 1)²"
            raise KeyError

    with pytest.raises(KeyError):
        fail_with_zeros()
    for name, weight in module.named_parameters():
        assert weight.data_ptr() == before[name][0]
        assert torch.equal(weight, before[name][1])
