"""How a run of recognition is judged: from its settings to accuracies of its module."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.recognition import NAMES, a_set, labelled, module_of, run_on
from tests.support.shards import write_shards
from umt_ds.config.run import RunConfig
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.errors import ConfigError, DataError, NonFiniteError
from umt_ds.evaluation.encode import ALONE, no_beat
from umt_ds.evaluation.evaluator import Scores, try_sets
from umt_ds.tasks.kinds import evaluators_of
from umt_ds.tasks.recognition.task import RecognitionModule

torch.set_num_threads(1)
SIX_VIEWS = [f"evaluation.val.{setting}" for setting in ("segments=2", "crops=3", "batch=7")]  # a clip a pass


def score(run: RunConfig, module: RecognitionModule | None = None) -> Scores:
    (evaluator,) = evaluators_of(run)
    found = evaluator.run(module or module_of(run), ALONE, beat=no_beat, predictions=True)
    assert tuple(found.values) == evaluator.metrics
    return found


def by_hand(run: RunConfig, module: RecognitionModule) -> tuple[Tensor, list[int]]:
    """Mean probabilities f64 [N,C] and labels, a view and a clip at a time."""
    (evaluator,) = evaluators_of(run)
    items = evaluator.items  # type: ignore[attr-defined]
    assert isinstance(items, EvaluationSet)
    means, labels = [], []
    for batch in items.batches():
        for item, views in zip(batch.items, batch.pixels.split(items.request.num_views), strict=True):
            with torch.no_grad():
                said = [module.logits(view[None]).softmax(dim=-1).double() for view in views]
            means.append(torch.cat(said).mean(dim=0))
            labels.append(item.labels[0])
    return torch.stack(means), labels


def test_a_clip_is_named_by_the_mean_over_its_views(tmp_path: Path) -> None:
    run = run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val", count=9), *SIX_VIEWS)
    module = module_of(run)
    found, (means, labels) = score(run, module), by_hand(run, module)
    named = means.argmax(dim=1).tolist()
    assert len(set(named)) > 1
    right = sum(one == other for one, other in zip(named, labels, strict=True))
    assert found.values["top1"] == pytest.approx(100 * right / 9)
    of_classes = [[one == other for one, other in zip(named, labels, strict=True) if other == c] for c in range(3)]
    assert found.values["mean_class"] == pytest.approx(100 * sum(sum(some) / len(some) for some in of_classes) / 3)
    rows = found.predictions
    assert rows is not None
    assert [row[0] for row in rows["predicted"]] == named
    assert [row[0] for row in rows["predicted_name"]] == [NAMES[one] for one in named]
    shares = torch.tensor(rows["probability"]).double()
    torch.testing.assert_close(shares, means.sort(dim=1, descending=True).values, rtol=0, atol=1e-6)


def test_the_batch_of_views_does_not_change_what_is_found(tmp_path: Path) -> None:
    sets = a_set(tmp_path / "train"), a_set(tmp_path / "val")
    found = [score(run_on(*sets, *SIX_VIEWS[:2], f"evaluation.val.batch={batch}")) for batch in (1, 12, 100)]
    assert [one.protocol["batch"] for one in found] == [1, 2, 16], "clips that go through the model together"
    probabilities = [torch.tensor((one.predictions or {})["probability"]) for one in found]
    for other in probabilities[1:]:
        torch.testing.assert_close(other, probabilities[0], rtol=0, atol=1e-6)


def test_top5_is_among_the_numbers_where_there_are_more_than_five_classes(tmp_path: Path) -> None:
    numbers = tuple(map(str, range(6)))
    six = run_on(a_set(tmp_path / "train", names=numbers), a_set(tmp_path / "val", names=numbers))
    found = score(six)
    assert list(found.values) == ["top1", "top5", "mean_class"]
    assert "predicted_name" not in (found.predictions or {}), "numbers are no names"
    assert found.protocol["class_list"] == "not checked: the labels of the training sets have no names"


def test_a_class_list_that_nobody_can_check_is_called_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = a_set(tmp_path / "train")
    lists = [
        score(run_on(train, a_set(tmp_path / name, names=names))).protocol["class_list"]
        for name, names in (("same", NAMES), ("none", ()))
    ]
    assert len(lists[0]) == 16
    assert lists[1] == f"{lists[0]}, not checked: the set does not name its classes"
    (said,) = [record.getMessage() for record in caplog.records if "matched by number" in record.getMessage()]
    assert f"in them and in the head: evaluation.val.shards: {tmp_path / 'none'}" in said


def test_a_protocol_says_what_one_needs_to_repeat_a_score(tmp_path: Path) -> None:
    protocol = score(run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val"), *SIX_VIEWS)).protocol
    json.dumps(protocol)  # of JSON types
    said = {key: protocol[key] for key in ("views", "segments", "crops", "classes", "label_field", "antialias", "side")}
    assert said == {
        "views": 6, "segments": 2, "crops": 3, "classes": 3, "label_field": "label", "antialias": False, "side": 16,
    }  # fmt: skip
    assert protocol["frames"] == "recognition:2x2, of the stored frames"
    assert protocol["ties"] == "of equally likely classes the right one comes last"
    assert protocol["chance"] == {"top1": 40.0}, "two of five clips are of the most common class"
    assert protocol["percent_trained_on"] == {"demo": 100.0}


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (lambda n: 3 if n == 4 else n % 3, "clip clip-0004 has label=3, and the model has classes 0 to 2"),
        (lambda n: n if n < 3 else None, "2 of 5 clips cannot be scored: clip-0003 "),
    ],
)
def test_labels_that_no_score_comes_of_are_found_without_a_model(
    tmp_path: Path, label: Callable[[int], int | None], said: str
) -> None:
    run = run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val", label=label))
    with pytest.raises(DataError, match=said):
        try_sets(evaluators_of(run))


def test_a_clip_without_a_label_is_left_out_with_its_reason(tmp_path: Path) -> None:
    val = a_set(tmp_path / "val", label=lambda n: (None, -1, 0, 1, 2)[n])
    found = score(run_on(a_set(tmp_path / "train"), val, "evaluation.val.max_left_out=0.5"))
    assert [(one.key, one.reason) for one in found.left_out] == [
        ("clip-0000", "it has no label in 'label'"),
        ("clip-0001", "it has no label in 'label'"),
    ]
    assert found.items == 3


def test_a_set_without_the_labels_of_the_run_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    val = a_set(tmp_path / "val", names=(), label=lambda _: None)
    with pytest.raises(ConfigError, match="val: its first clips have no label 'label'") as raised:
        evaluators_of(run_on(a_set(tmp_path / "train"), val))
    assert raised.value.hint == "fields with whole numbers there: none"


def test_a_label_outside_the_head_is_one_error(tmp_path: Path) -> None:
    run = run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val", names=(), label=lambda n: n))
    with pytest.raises(DataError, match="clip clip-0003 has label=3, and the model has classes 0 to 2") as raised:
        score(run)
    assert raised.value.agreed


def test_a_set_of_another_class_list_is_refused_by_name(tmp_path: Path) -> None:
    run = run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val", names=("archery", "crying", "biking")))
    with pytest.raises(ConfigError, match=r"evaluation\.val\.shards: .*class 1 is 'crying' .* in another order"):
        evaluators_of(run)


def test_a_run_is_judged_where_its_training_set_is_not(tmp_path: Path) -> None:
    run = run_on(tmp_path / "nowhere", a_set(tmp_path / "val"))
    (evaluator,) = evaluators_of(run, NAMES)
    assert evaluator.metrics == ("top1", "mean_class")
    with pytest.raises(ConfigError, match="'biking' in its class list, and 'diving' in that of the head"):
        evaluators_of(run, ("archery", "diving", "crying"))


def test_neighbours_vote_by_the_features_under_the_head(tmp_path: Path) -> None:
    train, val = a_set(tmp_path / "train", count=9), a_set(tmp_path / "val", first=9, count=6)
    run = run_on(train, val, "evaluation.val={kind: knn, neighbours: 1}")
    module = module_of(run)
    found = score(run, module)
    assert list(found.values) == ["label", "rankme"]
    batches = [next(iter(one.batches())) for one in (evaluators_of(run)[0].voters, evaluators_of(run)[0].held_out)]  # type: ignore[attr-defined]
    with torch.no_grad():
        known, asked = (torch.nn.functional.normalize(module.features(batch.pixels), dim=1) for batch in batches)
    nearest = (asked @ known.T).argmax(dim=1).tolist()
    named = [batches[0].items[place].labels[0] for place in nearest]
    assert named == (found.predictions or {})["label_predicted"]


def test_what_is_not_a_number_is_an_error_and_never_a_score(tmp_path: Path) -> None:
    run = run_on(a_set(tmp_path / "train"), a_set(tmp_path / "val"))
    module = module_of(run)
    with torch.no_grad():
        module.head.bias[1] = math.nan
    with pytest.raises(NonFiniteError, match=r"evaluation\.val: what the model says of 5 of 5 clips is not a number"):
        score(run, module)


def test_a_set_without_the_frames_of_published_testing_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """An error of the first evaluation would come hours into a run, and again at every start."""

    def of_300_frames(number: int) -> Mapping[str, bytes]:
        stored = {"source_frames": list(range(0, 280, 40)), "num_frames_total": 300, "clip_frames": [0, 300]}
        return {**labelled()(number), "json": json.dumps({"label": 0, **stored}).encode()}

    val = a_set(tmp_path / "val")
    write_shards(val, [5], members=of_300_frames)
    run = run_on(a_set(tmp_path / "train"), val, "evaluation.val.frames=published", "evaluation.val.segments=4")
    with pytest.raises(ConfigError, match=r"evaluation\.val\.shards: .* not made for the frames of recognition:2x4"):
        evaluators_of(run)
    stored = run_on(tmp_path / "train", val, "evaluation.val.frames=stored", "evaluation.val.segments=4")
    assert len(evaluators_of(stored)) == 1
