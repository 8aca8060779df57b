"""What the engine asks of a task, and what the loop passes around."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

from torch import Tensor, nn

from umt_ds.batch import Batch
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.tasks.base import ClipShape
from umt_ds.engine.step_stats import GlobalStepStats
from umt_ds.keyed import add_digests


@dataclass(frozen=True)
class InitialWeights:
    """Weights made elsewhere, to begin with. where: names them in messages. classes: of the rows of their head, by
    name; none where nobody wrote them down. pretrained_on: the clip whose positions their encoder learned with; None
    where nobody wrote it down. fingerprints: of what their run depended on (`Task.fingerprints`), as it wrote them
    down."""

    state: Mapping[str, Tensor]
    where: str
    classes: tuple[str, ...] = ()
    pretrained_on: ClipShape | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)


class Task(Protocol):
    """What to learn. A new task is a new file in `tasks/`; nothing in the engine changes for it."""

    @property
    def module(self) -> nn.Module:
        """All that DeepSpeed wraps; `module(inputs) → Losses`. A frozen teacher is not inside."""

    @property
    def flops_per_view(self) -> float:
        """Arithmetic of one training view, teacher included (2 FLOP a multiply-add)."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Content hashes of what the run depends on besides config and data, such as teacher weights."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what its head tells apart, in the order of the rows: a checkpoint keeps them. None where it has no
        head, or nobody named its classes."""

    def prepare(self, batch: Batch, step: int) -> Any:
        """Inputs of the module, made without gradient (teacher, mask, device transfer)."""

    def accelerate(self, *, compile: bool, graph: bool) -> None:
        """Hand what is worth it to torch.compile, in place (names in the state dict stay); replay what is frozen as a
        CUDA graph, where there is CUDA."""

    def load_weights(self, weights: InitialWeights) -> str:
        """Start the module from weights made elsewhere; says what was loaded. Raises WeightsError on a misfit."""

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """AdamW parameter groups; a group's `lr_scale` multiplies the schedule."""


class BatchSource(Protocol):
    """What the loop asks of a loader."""

    def deliveries(self, step: int) -> Iterator[Callable[[], Batch]]:
        """This rank's micro-batches of optimiser step `step`, in order, as they arrive: each is a call that does what
        the device has to do for it, in the stream that is current then, and gives the batch."""

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """The same, done."""


@dataclass(frozen=True)
class Progress:
    """Everything about where a run stands; all of it is in a checkpoint's manifest.

    `digest` and `mask_digest` are sums mod 2^64 over all draws since step 0, over all ranks: two runs
    that agree on them have seen the same clips, in the same steps, under the same masks.
    """

    step: int = 0
    draws: int = 0
    digest: int = 0
    mask_digest: int = 0
    skipped: int = 0  # steps that the optimiser did not apply (fp16 overflow)
    substituted: int = 0  # draws that showed a substitute

    def after(self, heard: GlobalStepStats, draws_per_step: int) -> Progress:
        """Progress when the step that was heard of, the next one, is counted too."""
        assert heard.step == self.step + 1
        return replace(
            self,
            step=heard.step,
            draws=self.draws + draws_per_step,
            digest=add_digests(self.digest, heard.digest),
            mask_digest=add_digests(self.mask_digest, heard.mask_digest),
            skipped=self.skipped + heard.skipped,
            substituted=self.substituted + heard.substituted,
        )


class Ended(Enum):
    """Why the loop returned."""

    FINISHED = "finished"
    STOPPED = "stopped"
