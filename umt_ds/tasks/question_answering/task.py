"""Question answering: the text encoder reads a question and looks at its video, and a decoder writes the answer.

Per micro-batch all answers to its questions pass through the decoder, each as often as there are different ones: of
the answers "red", "red", "blue" two pass, and "red" weighs 2/3.

Source: UMT section 4 and table 13; METHOD.md, "Question answering".

Shapes: B questions, A places for answers of each, R answers in all, L tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from umt_ds.batch import Answers, Batch, Tokens
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.question_answering import QuestionAnsweringConfig
from umt_ds.engine.optim import decay_groups
from umt_ds.engine.protocol import InitialWeights
from umt_ds.engine.speed import span
from umt_ds.losses.masked_lm import Vocabulary
from umt_ds.models.vit import Clips, drop_path_noise
from umt_ds.tasks.question_answering.cost import answering_flops
from umt_ds.tasks.question_answering.model import build_module, load_initial
from umt_ds.tasks.question_answering.module import AnsweringInputs, AnsweringModule


class QuestionAnsweringTask:
    """Satisfies `engine.protocol.Task`."""

    classes: tuple[str, ...] = ()

    def __init__(
        self, config: QuestionAnsweringConfig, *, seed: int, device: torch.device, vocabulary: Vocabulary
    ) -> None:
        self._config, self._seed, self._device = config, seed, device
        self._module = build_module(config, vocabulary, seed=seed)
        self.fingerprints: Mapping[str, str] = {"vocabulary": vocabulary.fingerprint}

    @property
    def module(self) -> AnsweringModule:
        return self._module

    @property
    def flops_per_view(self) -> float:
        """Of a clip with a question and an answer of full length, forward and backward."""
        return answering_flops(self._config).forward_backward

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """torch.compile for the blocks of the video encoder; nothing is frozen here."""
        for block in self._module.encoder.blocks if compile else ():
            block.compile()

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        return decay_groups(self._module, optim.weight_decay)

    def load_weights(self, weights: InitialWeights) -> str:
        """Start from stage 2 or from question answering, published or our own."""
        return load_initial(self._module, weights)

    @torch.no_grad()
    def prepare(self, batch: Batch, step: int) -> AnsweringInputs:
        """Clips, questions and answers of one micro-batch, on the device."""
        told = batch.targets.answers
        assert batch.text is not None, "the loader tokenises questions for this task"
        assert told is not None, "and answers"
        places = _places(told)
        with span("host_to_device"):
            places = places.pin_memory() if self._device.type == "cuda" else places  # else the copy would wait
            batch, places = batch.to(self._device), places.to(self._device, non_blocking=True)
        text, told = batch.text, batch.targets.answers
        assert text is not None
        assert told is not None
        num_places = told.ids.shape[1]
        noise = None
        if self._module.encoder.drop_path > 0:
            noise = drop_path_noise(self._seed, step, batch.slots, self._module.encoder.size.depth)
        return AnsweringInputs(
            clips=Clips(batch.pixels, drop_noise=noise),
            questions=text,
            answers=Tokens(told.ids.flatten(0, 1)[places], told.mask.flatten(0, 1)[places]),
            rows=places.div(num_places, rounding_mode="floor"),
            weights=told.weights.flatten()[places],
        )


def _places(answers: Answers) -> Tensor:
    """Of the B · A places those with an answer that counts: i64 [R]; where none does the first, which adds nothing.

    The host counts them, in what the loader left there: how many there are is a shape, for which a device would wait.
    """
    counts = torch.from_numpy(answers.weights.numpy().ravel().nonzero()[0])
    return counts if len(counts) else torch.zeros(1, dtype=torch.int64)
