"""Where our step and the plain reference step both start: the same weights, masks and negatives, to compare losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.bench.plain import PlainStep, build_plain, float_clips, refuse_unpublished
from umt_ds.bench.plain_recognition import Mixed, PlainRecognitionStep, build_plain_recognition
from umt_ds.bench.plain_stage2 import Drawn, PlainStage2Step, build_plain_stage2, refuse_unpublished_stage2
from umt_ds.bench.synthetic import noise_vocabulary
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.run import RunConfig
from umt_ds.config.tasks.recognition import RecognitionConfig
from umt_ds.config.tasks.stage1 import Stage1Config
from umt_ds.config.tasks.stage2 import Stage2Config
from umt_ds.engine.protocol import BatchSource
from umt_ds.tasks.bert import bert_size_of
from umt_ds.tasks.recognition.task import RecognitionTask
from umt_ds.tasks.stage1.task import Stage1Task
from umt_ds.tasks.stage2.task import Stage2Task

Published = Stage1Task | Stage2Task | RecognitionTask  # the tasks that have a plain twin
ReferenceOf = PlainStep | PlainStage2Step | PlainRecognitionStep


@dataclass(frozen=True)
class ParityStart:
    """state: our weights; drawn: a mask and for stage 2 the rest, of recognition the mixed clips; loss: ours, with
    nothing dropped. The head of recognition is at scale 1, so that the loss says whether the blocks are the same."""

    state: dict[str, Tensor]
    drawn: Any
    loss: float

    @staticmethod
    @torch.no_grad()
    def of(task: Published, config: RunConfig, source: BatchSource, device: torch.device) -> ParityStart:
        """Before DeepSpeed takes the module. Raises ConfigError where there is no published step."""
        _refuse(task, config)
        module = task.module.to(device).eval()
        if isinstance(config.task, RecognitionConfig):
            # at the published .001 the loss is ln C, whatever the blocks make of a clip
            head = task.module.head
            assert isinstance(head, nn.Linear)
            head.weight.div_(config.task.head_scale)
        inputs = task.prepare(next(source.micro_batches(0)), 0)
        loss = module(inputs).total.item()
        drawn = _drawn(task, inputs)
        module.train()
        return ParityStart(
            {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}, drawn, loss
        )

    def reference_step(
        self, task: Published, config: RunConfig, device: torch.device, *, precision: Precision
    ) -> ReferenceOf:
        """The published step, from here."""
        settings = config.task
        if isinstance(settings, RecognitionConfig):
            classes = len(self.state["head.weight"])
            return build_plain_recognition(
                settings, classes, self.state, config.optim, device=device, precision=precision
            )
        assert not isinstance(task, RecognitionTask)
        assert task.teacher is not None
        if isinstance(settings, Stage2Config):
            words = noise_vocabulary(settings.text)
            return build_plain_stage2(
                settings, task.teacher, bert_size_of(settings.text), words, self.state, config.optim,
                device=device, precision=precision,
            )  # fmt: skip
        assert isinstance(settings, Stage1Config)
        return build_plain(settings, task.teacher, self.state, config.optim, device=device, precision=precision)


def _refuse(task: Published, config: RunConfig) -> None:
    if isinstance(config.task, Stage2Config) and isinstance(task, Stage2Task):
        refuse_unpublished_stage2(config.task, task.teacher)
    elif isinstance(config.task, Stage1Config) and isinstance(task, Stage1Task):
        refuse_unpublished(config.task, task.teacher)


def _drawn(task: Published, inputs: Any) -> Any:
    if isinstance(task, RecognitionTask):
        return Mixed(inputs.pixels if inputs.pixels.is_floating_point() else float_clips(inputs.pixels), inputs.targets)
    return _of_stage1(task, inputs) if isinstance(task, Stage1Task) else _of_stage2(task, inputs)


def _of_stage1(task: Stage1Task, inputs: Any) -> Tensor:
    """The mask: bool [B,N], True hidden."""
    return _hidden(inputs.keep, len(task.module.encoder.position_table(inputs.pixels)))


def _of_stage2(task: Stage2Task, inputs: Any) -> Drawn:
    ((rows,),) = inputs.pieces
    module = task.module
    (encoded,) = module.encode([rows])
    negatives = module.hard_negatives([rows], [encoded], module.temperature(), step=inputs.step)
    labels = torch.full_like(rows.ids, -100).flatten()
    count = rows.masked.count
    labels[rows.masked.positions[:count]] = rows.masked.labels[:count]
    tokens = len(module.vision_encoder.encoder.position_table(rows.clips.pixels))
    mask = _hidden(rows.clips.keep, tokens)
    return Drawn(mask, rows.masked.ids, labels.view_as(rows.ids), (negatives.video, negatives.caption))


def _hidden(keep: Tensor, tokens: int) -> Tensor:
    return torch.ones(len(keep), tokens, dtype=torch.bool).scatter(1, keep.cpu(), False)
