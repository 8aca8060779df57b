"""What the rest of the house may ask of a task.

What follows from the settings alone, the settings say (`config/tasks/base.py`). The rest is made here: a room is the
folder `tasks/<kind>/`, and its module `room.py` has the functions of `TaskRoom`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from umt_ds.batch import Media
from umt_ds.config.deepspeed_json import Precision
from umt_ds.config.run import RunConfig
from umt_ds.data.collate import Tokenize, TokenizeAnswers
from umt_ds.engine.protocol import Task
from umt_ds.evaluation.embedding import Embedder
from umt_ds.evaluation.encode import Encode
from umt_ds.evaluation.evaluator import Evaluator
from umt_ds.evaluation.exhibits import Exhibit
from umt_ds.evaluation.prediction import Asked, Predictor
from umt_ds.tasks.cost import TaskCost

Say = Callable[[str], None]


@dataclass(frozen=True)
class ExhibitOptions:
    """What to show of a run, and on which shards: None for the run's own, and the folder `val` beside them."""

    probe: bool = True
    train: Path | None = None
    val: Path | None = None
    max_clips: int = 2000


class TaskRoom(Protocol):
    """The functions of a room. Each is given a run of its own kind."""

    def tokenizer(self, run: RunConfig) -> Tokenize | None:
        """What makes tokens of captions for the loader; None where no text is read. It may read files.

        Raises ConfigError where there is no vocabulary.
        """

    def answer_tokenizer(self, run: RunConfig) -> TokenizeAnswers | None:
        """What makes tokens of answers to questions for the loader; None where none are learned."""

    def num_classes(self, run: RunConfig) -> int | None:
        """How many classes the labels of its clips number from 0 on; each clip then has one. None: the loader takes
        labels as they are, -1 where there is none. Raises ConfigError or DataError where nothing says how many."""

    def build(
        self, run: RunConfig, *, device: torch.device, precision: Precision, pieces: int, classes: Sequence[str]
    ) -> Task:
        """The task with initial weights that are the same on every rank. pieces: of a `RunPlan`. classes: names of the
        rows of the head in the checkpoint that will be loaded, where one is and has them."""

    def cost(self, run: RunConfig, precision: Precision, shares: Mapping[Media, float]) -> TaskCost:
        """Its arithmetic and memory. Raises ConfigError where its parts do not fit each other."""

    def evaluators(self, run: RunConfig, classes: Sequence[str]) -> Sequence[Evaluator]:
        """One for each entry of `evaluation` of the run, in its order, which are of the kinds that its settings say
        (`judged_by`). classes: as above. Raises ConfigError or DataError for sets that cannot be used."""

    def tokens(self, run: RunConfig, module: nn.Module) -> Encode:
        """All tokens of whole, unmasked clips after the last norm, [B,n,D], by the module of a task that was built:
        what a probe asks. Raises ConfigError where the task trains no encoder of clips."""

    def embedder(self, run: RunConfig, module: nn.Module) -> Embedder:
        """How the module of a task that was built makes vectors of clips, and of texts where it reads them. Raises
        ConfigError where the task trains no encoder of clips."""

    def exhibits(self, folder: Path, run: RunConfig, options: ExhibitOptions, say: Say) -> Iterator[Exhibit]:
        """What a report shows of the trained run in `folder`: made one by one, since each may take a while."""

    def predictor(self, run: RunConfig, asked: Asked, classes: Sequence[str]) -> Predictor:
        """What it says of videos that nobody has labelled. classes: as above. Raises ConfigError where it says nothing
        of a video, or not what is asked, and where something is missing that it needs to be told."""
