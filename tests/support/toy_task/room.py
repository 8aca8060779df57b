"""The door of the toy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from umt_ds.config.tasks.toy import ToyConfig
from umt_ds.tasks.toy.task import ToyModule, ToyTask

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.evaluation import AccuracyEvaluation
from umt_ds.config.run import RunConfig
from umt_ds.data.clip_request import ClipRequest, middle_frames
from umt_ds.data.evaluation import EvaluationSet
from umt_ds.data.shards.storage import as_path
from umt_ds.distributed.world import World
from umt_ds.errors import ConfigError
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode, encode_set, place_of
from umt_ds.evaluation.evaluator import Beat, Evaluator, Scores
from umt_ds.evaluation.exhibits import Exhibit, Remark
from umt_ds.evaluation.prediction import Asked, Predict, Prediction, Predictor, likeliest
from umt_ds.tasks.cost import TaskCost
from umt_ds.tasks.evaluators import evaluation_set
from umt_ds.tasks.room import ExhibitOptions, Say


def tokenizer(run: RunConfig) -> None:
    """No text is read."""


def answer_tokenizer(run: RunConfig) -> None:
    """No answer is learned."""


def num_classes(run: RunConfig) -> None:
    """A clip without a label counts for nothing in the loss."""


def build(
    run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]
) -> ToyTask:
    return ToyTask(_settings(run), seed=run.seed, device=device)


def cost(run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
    task = _settings(run)
    flops = 2.0 * 3 * task.frames * task.cells**2 * task.classes
    return TaskCost(
        sentence=f"{task.classes} classes, {task.frames} frames of {task.image_size} px",
        parameters=round(flops / 2) + task.classes,
        teacher_parameters=0,
        forward_flops=flops,
        student_flops=3 * flops,
        teacher_flops=0.0,
        published_student_flops=3 * flops,
        published_teacher_flops=0.0,
        pixel_bytes=3 * task.frames * task.image_size**2,
        activation_bytes=12.0 * task.frames * task.cells**2,
        teacher_bytes=0.0,
        evaluation_flops=flops,
    )


def evaluators(run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
    task, found = _settings(run), []
    for name, settings in run.evaluation.items():
        assert isinstance(settings, AccuracyEvaluation)
        request = ClipRequest(
            frames=middle_frames(task.frames), side=task.image_size, label_fields=(task.label,), needs_labels=True
        )
        items = evaluation_set(name, as_path(settings.shards), request, settings, run)
        found.append(Accuracy(name, items, settings.digits))
    return found


@dataclass(frozen=True)
class Accuracy:
    """Satisfies `Evaluator`: how often the class with the largest logit is right."""

    name: str
    items: EvaluationSet
    digits: int
    metrics: tuple[str, ...] = ("accuracy",)

    @property
    def sets(self) -> Sequence[EvaluationSet]:
        return [self.items]

    def run(self, module: nn.Module, world: World, *, beat: Beat, predictions: bool = False) -> Scores:
        assert isinstance(module, ToyModule)

        def logits(pixels: Tensor) -> Tensor:
            colours: Tensor = module.classify(module.colours(pixels))
            return colours

        found = encode_set({"logits": logits}, self.items, world, device=place_of(module)[0], beat=beat)
        said = found.vectors["logits"].argmax(dim=-1).tolist()
        right = [item.labels[0] == one for item, one in zip(found.items, said, strict=True)]
        rows = {"key": list(found.keys), "class": said} if predictions else None
        values = {"accuracy": round(100 * sum(right) / len(right), self.digits)}
        return Scores(self.name, values, len(right), found.left_out, {"shards": str(self.items.shards)}, rows)


def tokens(run: RunConfig, module: nn.Module) -> Encode:
    assert isinstance(module, ToyModule)
    return lambda pixels: module.colours(pixels)[:, None]


def embedder(run: RunConfig, module: nn.Module) -> Embedder:
    raise ConfigError(f"run {run.name} knows colours alone", hint="a run with an encoder of clips")


def exhibits(folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
    yield Remark("What was learned", f"{_settings(run).classes} classes told apart by their colours.")


def predictor(run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
    asked.refuse_all_but((), says="tells classes apart by their colours")
    task = _settings(run)
    names = [f"class {number}" for number in range(task.classes)]

    def of(module: nn.Module) -> Predict:
        assert isinstance(module, ToyModule)

        def predict(views: Tensor) -> Sequence[Prediction]:
            (logits,) = module.classify(module.colours(views[0][None])).detach().cpu()
            return [Prediction(None, likeliest(names, {"probability": logits.softmax(dim=0)}, top=asked.top))]

        return predict

    return Predictor(ClipRequest(frames=middle_frames(task.frames), side=task.image_size), averaged=False, of=of)


def _settings(run: RunConfig) -> ToyConfig:
    assert isinstance(run.task, ToyConfig)
    return run.task
