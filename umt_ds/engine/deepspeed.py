"""The one door to DeepSpeed (quirks seen with 0.19.8).

The engine behind this door trains at ZeRO stages 0 to 3 in fp32, bf16 and fp16, tells the gradient norm at
each of them, never applies a step with a non-finite gradient, and gives and takes the full training state
by parameter name, so that checkpoints know neither world size nor stage.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from umt_ds.batch import Losses
from umt_ds.config.batching import RunPlan
from umt_ds.config.deepspeed_json import Precision, complete_deepspeed_json, precision_of, zero_stage_of
from umt_ds.config.optimisation import OptimConfig
from umt_ds.config.run import RunConfig
from umt_ds.engine.clipping import GradientClipper, total_norm
from umt_ds.engine.manifest import StateKind, state_kinds
from umt_ds.engine.optim import build_adamw
from umt_ds.engine.protocol import Task
from umt_ds.engine.swapped_weights import swapped_weights
from umt_ds.engine.zero3 import borrowed, own_partition
from umt_ds.environment import Environment, set_default
from umt_ds.errors import ConfigError
from umt_ds.models.full_value import is_kept_full, keep_full

_LOSS_SCALE_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def build_engine(task: Task, config: RunConfig, plan: RunPlan, settings: dict[str, Any]) -> Engine:
    """Wrap the task's module. The process group must be open; weights must be loaded already."""
    deepspeed = _import_deepspeed()
    small = [name for name, p in task.module.named_parameters() if p.ndim == 0]
    assert not small, f"DeepSpeed cannot hold 0-dimensional parameters: {small}"
    if zero_stage_of(settings) == 0 and settings.get("data_types", {}).get("grad_accum_dtype"):
        raise ConfigError("data_types.grad_accum_dtype is not supported at ZeRO stage 0", hint="remove it")
    if zero_stage_of(settings) == 0 and precision_of(settings) == "fp16":
        raise ConfigError(
            "fp16 at ZeRO stage 0 is not supported: DeepSpeed 0.19.8's wrapper leaves the fp32 curve there",
            hint="engine.deepspeed=zero2_fp16.json, or stage 1",
        )
    if config.engine.compile and zero_stage_of(settings) == 3:
        raise ConfigError(
            "engine.compile and ZeRO stage 3 do not go together: its hooks gather weights inside the blocks",
            hint="engine.compile=false, or ZeRO stage 0, 1 or 2",
        )
    offloaded = settings.get("zero_optimization", {}).get("offload_optimizer") or {}
    if config.optim.ema_decay is not None and offloaded.get("device") == "nvme":
        raise ConfigError(
            "optim.ema_decay does not go together with zero_optimization.offload_optimizer to nvme",
            hint='leave optim.ema_decay out, or offload to "cpu"',
        )
    task.accelerate(compile=config.engine.compile, graph=config.engine.graph)
    optimizer = build_adamw(task.parameter_groups(config.optim), config.optim)
    complete = complete_deepspeed_json(settings, config, plan)
    stage, precision = zero_stage_of(settings), precision_of(settings)
    if _is_plain(stage, precision):
        complete["gradient_clipping"] = 0.0  # done by the engine below, which needs the norm anyway
    given = {name: parameter.data for name, parameter in task.module.named_parameters()}
    wrapped, *_ = deepspeed.initialize(model=task.module, optimizer=optimizer, config=complete)
    if stage == 3:
        for part, parameter in borrowed(task.module):
            deepspeed.zero.register_external_parameter(part, parameter)
    if stage == 0 and plan.world == 1:
        wrapped.enable_backward_allreduce = False  # with nobody: it would copy all gradients there and back
    engine = Engine(wrapped, optimizer, precision=precision, stage=stage, optim=config.optim)
    if precision != "fp32":  # DeepSpeed makes its fp32 copies of the cast weights, which are rounded
        for name in engine.names():
            engine.write_state("weight", name, given[name])
    engine.reset_moments(steps=0)
    return engine


def _is_plain(stage: int, precision: Precision) -> bool:
    """Stage 0 in fp32 is the bare optimizer: DeepSpeed tells no norm and would apply a NaN."""
    return stage == 0 and precision == "fp32"


def _import_deepspeed() -> Any:
    """Import quietly, and on a CPU without the shared-memory op, which would need a compiler and 30 s."""
    if Environment().choice("DS_ACCELERATOR", ("cuda", "cpu")) is None:
        set_default("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19.8 calls collectives by names that torch 2.14 calls deprecated, at every step
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.distributed.*is deprecated")
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        # DeepSpeed refuses fp16 on CPUs without native support; torch emulates it, slowly but rightly
        get_accelerator().is_fp16_supported = lambda: True
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    return deepspeed


class Engine:
    """A module that DeepSpeed trains."""

    def __init__(
        self,
        wrapped: Any,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision,
        stage: int,
        optim: OptimConfig,
    ) -> None:
        self._wrapped = wrapped
        self._adamw = optimizer
        self.precision = precision
        self.stage = stage
        self.ema_decay = optim.ema_decay
        self.state_kinds = state_kinds(averaged=optim.ema_decay is not None)
        self._clipper = GradientClipper(optimizer, clip_grad=optim.clip_grad, device=self.device)
        self._norm, self._skipped = self._clipper.norm, self._clipper.skip_step
        self._own_parameters = dict(wrapped.module.named_parameters())
        self._exact = [p for p in self._own_parameters.values() if is_kept_full(p)]
        self._kept_full = [] if precision == "fp32" else self._exact
        self._has_clipper = self._takes_clipper()

    # ------------------------------------------------------------ training

    @property
    def device(self) -> torch.device:
        return torch.device(self._wrapped.device)

    def __call__(self, inputs: Any) -> Losses:
        losses: Losses = self._wrapped(inputs)
        return losses

    def set_lr(self, lr: float) -> None:
        """Write the learning rate of the coming step into each group (times the group's `lr_scale`)."""
        for group in self._wrapped.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

    def backward(self, loss: Tensor) -> None:
        """Backward of one micro-batch; DeepSpeed divides by the accumulation and averages over the ranks."""
        self._wrapped.backward(loss)

    def step(self) -> None:
        """After each micro-batch; the weights move at the last one of the step."""
        if not self._wrapped.is_gradient_accumulation_boundary():
            self._wrapped.step()
            return
        if _is_plain(self.stage, self.precision):
            gradients = [p.grad for p in self._own_parameters.values() if p.grad is not None]
            self._clipper.set(total_norm(gradients, self.device))
        self._wrapped.step()
        if self._has_clipper:
            self._norm, self._skipped = self._clipper.norm, self._clipper.skip_step
        else:
            norm = self._wrapped.get_global_grad_norm()
            self._norm = torch.as_tensor(norm, dtype=torch.float32, device=self.device).reshape(())
            self._skipped = torch.full_like(self._norm, not self._wrapped.was_step_applied())
        self._renew_full_values("weight")
        if self.ema_decay is not None:
            self._average_weights(self.ema_decay)

    def _renew_full_values(self, kind: StateKind) -> None:
        for parameter in self._kept_full:
            keep_full(parameter, self._read(parameter, kind))

    @torch.no_grad()
    def _average_weights(self, decay: float) -> None:
        """average ← decay · average + (1 - decay) · weight in fp32; a step that was skipped leaves it alone."""
        share = (1 - self._skipped) * (1 - decay)  # of the new weights; on the device: the host waits for nothing
        for leaf in self._leaves():
            self._adamw.state[leaf]["ema"].lerp_(leaf, share.to(leaf.device))

    def _takes_clipper(self) -> bool:
        """Does AdamW read what our clipper writes? Then the device does not wait for the host in a step.

        It does at stage 0 in fp32, and at stages 1 and 2 in fp32 and bf16. Elsewhere DeepSpeed's own check stays: the
        loss scale of fp16 lives on the host, and stage 3 and offloading wait for it anyway.
        """
        zero = self._wrapped.optimizer
        if self.stage in (1, 2) and self.precision != "fp16" and getattr(zero, "cpu_offload", True) is False:
            self._clipper.patch_zero_optimizer(zero)
            return True
        return _is_plain(self.stage, self.precision)

    def grad_norm(self) -> Tensor:
        """Norm of the whole gradient of the last step before clipping, fp32 scalar; inf or NaN if it was not finite."""
        return self._norm

    def skipped(self) -> Tensor:
        """fp32 scalar: 1 if the last full step left the weights alone, because its gradient was not finite; else 0."""
        return self._skipped

    @property
    def module(self) -> nn.Module:
        """The trained module itself (under ZeRO-3 its parameters are partitioned)."""
        module: nn.Module = self._wrapped.module
        return module

    @contextmanager
    def evaluating(self, *, averaged: bool = False) -> Iterator[nn.Module]:
        """Inside, between two steps, the module is in evaluation mode and no gradient is kept; averaged: it has the
        moving average of its weights. Afterwards each of its parts is in the mode in which it was, and training goes on
        with the same bits."""
        module = self.module
        in_training = [part for part in module.modules() if part.training]
        self._forget_order()
        module.eval()
        try:
            with torch.no_grad(), self._averaged() if averaged else nullcontext(), self._exact_gathered():
                yield module
        finally:
            for part in in_training:
                part.training = True
            self._forget_order()

    @contextmanager
    def _exact_gathered(self) -> Iterator[None]:
        """Inside, the parameters whose exact value counts (a temperature) are whole on every rank also at ZeRO-3, which
        gathers them in a forward pass of the module that holds them, and an evaluation calls the modules in it alone.
        Small ones, which stay whole after their first pass, are not so before it."""
        if self.stage != 3:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(self._exact):
            yield

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the module computes with the averaged weights."""
        parameters = [self._own_parameters[name] for name in self.names()]
        zero3 = self._wrapped.optimizer if self.stage == 3 else None
        with swapped_weights(parameters, self._average_in_module, zero3=zero3):
            self._renew_full_values("ema")
            yield
        self._renew_full_values("weight")

    def _average_in_module(self, parameter: nn.Parameter) -> Tensor:
        """The average of what the module holds of a parameter: of all of it, at ZeRO-3 of this rank's partition."""
        from deepspeed.utils import safe_get_local_optimizer_state

        if self.stage != 3:
            return self._read(parameter, "ema")
        own: Tensor = safe_get_local_optimizer_state(parameter, "ema")
        return own

    def _forget_order(self) -> None:
        """ZeRO-3 records the order of submodules in one micro-step, and fetches weights ahead in that order.

        Without this an evaluation after the first step would be recorded as the rest of that step: the numbers are
        right, but each later micro-step would copy an order of thousands of submodules. It costs one micro-step that
        fetches nothing ahead, in which DeepSpeed records the order anew (0.19.8).
        """
        if self.stage != 3:
            return
        coordinator = self._wrapped.optimizer.parameter_offload.get_param_coordinator()
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()

    def close(self) -> None:
        """Let go of DeepSpeed's references, before the process group is destroyed."""
        self._wrapped.destroy()
        del self._wrapped, self._adamw, self._own_parameters, self._exact, self._kept_full

    # ------------------------------------------------------------ state by name

    def names(self) -> list[str]:
        """Names of all trained parameters, in the module's order, the same on all ranks."""
        return [name for name, parameter in self._own_parameters.items() if parameter.requires_grad]

    def read_state(self, kind: StateKind) -> Iterator[tuple[str, Tensor]]:
        """Full fp32 tensors by parameter name, one at a time. All ranks call it and consume it whole."""
        for name in self.names():
            yield name, self._read(self._own_parameters[name], kind)

    def write_state(self, kind: StateKind, name: str, value: Tensor) -> None:
        """Set the full fp32 tensor of one parameter. All ranks call it, with the same value."""
        from deepspeed import utils as state

        parameter = self._own_parameters[name]
        value = value.to(self.device, torch.float32)
        if kind == "weight" and is_kept_full(parameter):
            keep_full(parameter, value)
        match self.stage, kind:
            case 0, _:
                self._master_state(parameter, kind).copy_(value)
                if kind == "weight":
                    parameter.data.copy_(value)
            case 3, "weight":
                state.safe_set_local_fp32_param(parameter, own_partition(parameter, value))
            case 3, _:
                state.safe_set_local_optimizer_state(parameter, own_partition(parameter, value), kind)
            case _, "weight":
                state.safe_set_full_fp32_param(parameter, value)
            case _:
                state.safe_set_full_optimizer_state(parameter, value, kind)

    def _read(self, parameter: nn.Parameter, kind: StateKind) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self.stage == 0:
            return self._master_state(parameter, kind)
        full: Tensor = (
            safe_get_full_fp32_param(parameter) if kind == "weight" else safe_get_full_optimizer_state(parameter, kind)
        )
        return full.float()

    def _master_state(self, parameter: nn.Parameter, kind: StateKind) -> Tensor:
        """Stage 0: the fp32 tensor itself, where DeepSpeed's mixed-precision wrapper or AdamW keeps it."""
        master = parameter
        if self.precision != "fp32":
            wrapper = self._wrapped.optimizer
            for low, high in zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True):
                for candidate, held in zip(low, high, strict=True):
                    if candidate is parameter:
                        master = held
        if kind == "weight":
            weight: Tensor = master.data
            return weight
        moment: Tensor = self._adamw.state[master][kind]
        return moment

    def reset_moments(self, *, steps: int) -> None:
        """Create zero moments and set AdamW's step counter; the average of the weights, if there is one, begins with
        the weights as they are. It lies beside the moments, where AdamW passes over it and DeepSpeed shards it.

        Done before the first step for two reasons: a loaded checkpoint needs somewhere to put its moments,
        and DeepSpeed links the moments to the parameters after the first *group's* step, so that it would
        never find the other groups'. At stage 0 with bf16 or fp16 it also undoes a step that DeepSpeed's
        wrapper takes at construction.
        """
        with torch.no_grad():
            for leaf in self._leaves():
                self._adamw.state[leaf] = {
                    "step": torch.tensor(float(steps), dtype=torch.float32, device=leaf.device),
                    "exp_avg": torch.zeros_like(leaf),
                    "exp_avg_sq": torch.zeros_like(leaf),
                }
                if self.ema_decay is not None:
                    self._adamw.state[leaf]["ema"] = leaf.clone()
        if self.stage in (1, 2):
            self._wrapped.optimizer._hp_optimizer_states_linked = False
            self._wrapped.optimizer._lazy_init_hp_params_optimizer_state()

    def _leaves(self) -> list[Tensor]:
        """The tensors that AdamW really steps: flat fp32 partitions, or masters, or the parameters."""
        zero = self._wrapped.optimizer
        match self.stage:
            case 0 if _is_plain(self.stage, self.precision):
                return [p for p in self._own_parameters.values() if p.requires_grad]
            case 0:
                return [master for group in zero.fp32_groups for master in group]
            case 1 | 2 if hasattr(zero, "fp32_groups_flat_partition"):
                return list(zero.fp32_groups_flat_partition)  # BF16_Optimizer: stage 1, fp32 accumulation
            case 1 | 2:
                return list(zero.single_partition_of_fp32_groups)
            case _:
                return list(zero.fp32_partitioned_groups_flat)

    # ------------------------------------------------------------ loss scale

    def read_loss_scale(self) -> dict[str, float] | None:
        """The state of fp16's dynamic loss scale; None in other precisions."""
        scaler = self._loss_scaler()
        if scaler is None:
            return None
        return {name: getattr(scaler, name) for name in _LOSS_SCALE_FIELDS if hasattr(scaler, name)}

    def write_loss_scale(self, state: dict[str, float] | None) -> None:
        """Restore what `read_loss_scale` gave (ignored where there is none)."""
        scaler = self._loss_scaler()
        for name, value in (state or {}).items():
            if scaler is not None and hasattr(scaler, name):
                setattr(scaler, name, value)

    def _loss_scaler(self) -> Any:
        if self.precision != "fp16":
            return None
        wrapper = self._wrapped.optimizer
        return wrapper.loss_scaler if hasattr(wrapper, "loss_scaler") else wrapper.loss_scale_config
