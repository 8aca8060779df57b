"""What a DeepSpeed JSON may say: the sections and keys of DeepSpeed 0.19 that this system honours, and, of the others
that DeepSpeed knows, why it does not. DeepSpeed itself passes over keys that it does not know without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from umt_ds.config.section import Section
from umt_ds.config.values import Part, Place, PositiveOrNone, Text

Elements = Annotated[int, Field(ge=0, le=2**63 - 1)]
Small = Annotated[int, Field(ge=0, le=10_000)]
Dtype = Literal["fp32", "bf16", "fp16"]


class Bf16Section(Section):
    """`bf16`."""

    enabled: bool = False


class Fp16Section(Section):
    """`fp16`: with a dynamic loss scale where loss_scale is 0."""

    enabled: bool = False
    loss_scale: PositiveOrNone = 0
    initial_scale_power: int = Field(16, ge=0, le=100)
    loss_scale_window: int = Field(1000, gt=0, le=2**31)
    hysteresis: int = Field(2, gt=0, le=2**31)
    consecutive_hysteresis: bool = False
    min_loss_scale: int = Field(1, gt=0, le=2**31)


class _OffloadSection(Section):
    """What both have."""

    device: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: Place | None = None

    @model_validator(mode="after")
    def _with_path(self) -> _OffloadSection:
        if self.device == "nvme" and self.nvme_path is None:
            raise ValueError('device "nvme" needs nvme_path, a folder on a local disk')
        return self


class OffloadParamSection(_OffloadSection):
    """`zero_optimization.offload_param`."""

    buffer_count: Small = 5
    buffer_size: Elements = 0
    max_in_cpu: Elements = 0
    pin_memory: bool = True


class OffloadOptimizerSection(_OffloadSection):
    """`zero_optimization.offload_optimizer`."""

    buffer_count: Small = 4
    pin_memory: bool = True
    pipeline_read: bool = False
    pipeline_write: bool = False
    fast_init: bool = False
    ratio: Part = 1.0


class LeafModuleSection(Section):
    """`zero_optimization.leaf_module`."""

    classes: tuple[Text, ...] = ()
    names: tuple[Text, ...] = ()
    name_suffixes: tuple[Text, ...] = ()


class ZeroSection(Section):
    """`zero_optimization`. What is not said here is left to DeepSpeed's defaults, not to those of this class."""

    stage: int = Field(0, ge=0, le=3)
    contiguous_gradients: bool = True
    reduce_scatter: bool = True
    reduce_bucket_size: Elements = Field(1, gt=0)
    use_multi_rank_bucket_allreduce: bool = True
    allgather_partitions: bool = True
    allgather_bucket_size: Elements = 0
    overlap_comm: bool | None = None
    offload_param: OffloadParamSection | None = None
    offload_optimizer: OffloadOptimizerSection | None = None
    sub_group_size: Elements = 0
    stage3_prefetch_bucket_size: Elements = 0
    stage3_param_persistence_threshold: Elements = 0
    stage3_model_persistence_threshold: Elements = 0
    stage3_max_live_parameters: Elements = 0
    stage3_max_reuse_distance: Elements = 0
    stage3_module_granularity_threshold: Elements = 0
    stage3_use_all_reduce_for_fetch_params: bool = False
    stage3_allgather_sequential: bool = False
    ignore_unused_parameters: bool = True
    round_robin_gradients: bool = False
    parameter_alignment: bool = False
    memory_efficient_linear: bool = True
    override_module_apply: bool = True
    log_trace_cache_warnings: bool = False
    enable_sanity_checks: bool = False
    leaf_module: LeafModuleSection = LeafModuleSection()

    @model_validator(mode="after")
    def _offloads_what_it_shards(self) -> ZeroSection:
        """DeepSpeed would pass over the rest without a word, or fail in the middle of its own code."""
        least = {"offload_param": 3, "offload_optimizer": 1}
        for name, stage in least.items():
            section = getattr(self, name)
            stage = 3 if section is not None and section.device == "nvme" else stage
            if section is not None and section.device != "none" and self.stage < stage:
                raise ValueError(f'{name} to "{section.device}" needs stage {stage}, and stage is {self.stage}')
        return self


class AioSection(Section):
    """`aio`: how offloading to NVMe reads and writes."""

    block_size: Elements = Field(1048576, gt=0)
    queue_depth: Small = Field(8, gt=0)
    intra_op_parallelism: Small = Field(1, gt=0)
    single_submit: bool = False
    overlap_events: bool = True
    use_gds: bool = False


class DataTypesSection(Section):
    """`data_types`."""

    grad_accum_dtype: Dtype | None = None


class DeepSpeedSettings(Section):
    """A whole file."""

    zero_optimization: ZeroSection = ZeroSection()
    bf16: Bf16Section = Bf16Section()
    fp16: Fp16Section = Fp16Section()
    data_types: DataTypesSection = DataTypesSection()
    communication_data_type: Dtype | None = None
    prescale_gradients: bool = False
    gradient_predivide_factor: float = Field(1.0, ge=1e-6, le=1e6)
    aio: AioSection = AioSection()
    disable_python_gc: bool = False


# JSON key → the key of the run YAML that owns the matter
OWNED_BY_RUN = {
    "train_batch_size": "batch.global",
    "train_micro_batch_size_per_gpu": "batch.micro",
    "gradient_accumulation_steps": "batch.global and batch.micro",
    "gradient_clipping": "optim.clip_grad",
    "optimizer": "optim",
    "scheduler": "schedule",
    "steps_per_print": "cadence.log",
}


@dataclass(frozen=True)
class NotHonoured:
    """A key that DeepSpeed knows and this system does not honour. harmless: the value that changes nothing, taken and
    left out, as null and {enabled: false} are."""

    reason: str
    hint: str | None = None
    harmless: Any = False


_PRECISION = NotHonoured("is not the precision that teacher and losses follow", 'bf16: {"enabled": true}, or fp16')
_CHECKPOINTS = NotHonoured("is about DeepSpeed's checkpoints; here each holds whole fp32 tensors by name", "remove it")
_REMOVED = NotHonoured("DeepSpeed 0.19 has no more", "remove it")
_MODEL = NotHonoured("is for models and engines that are not trained here", "remove it")
_DATA = NotHonoured("is about DeepSpeed's own data loader, which is not used", "see `data` in the run YAML")
_MEASURED = NotHonoured(
    "prints through DeepSpeed's log, which is silent here", "`umt bench step` measures where time goes"
)
_MONITORED = NotHonoured("would write a second log", "report.tensorboard and report.wandb in the run YAML")
_NUMBERS = NotHonoured("changes the numbers of training in a way that nothing here was tested with", "remove it")
_ACCUMULATION = NotHonoured("takes over when the weights move, which the run decides", "remove it", harmless=True)

NOT_HONOURED: dict[str, NotHonoured] = {
    "torch_autocast": _PRECISION,
    "amp": _PRECISION,
    "bfloat16": NotHonoured("is an old name", "call it bf16"),
    "fp16.auto_cast": _PRECISION,
    "fp16.fp16_master_weights_and_grads": _NUMBERS,
    "bf16.immediate_grad_update": NotHonoured("changes when gradients are added up", "remove it"),
    "bf16.check_grad_overflow": NotHonoured("cannot be turned off: no bad gradient moves weights", "remove it", True),
    "bf16.bf16_master_weights_and_grads": _NUMBERS,
    "bf16.bf16_optimizer_states": _NUMBERS,
    "data_types.param_dtype": _PRECISION,
    "data_types.buffer_dtype": _PRECISION,
    "data_types.keep_in_fp32_modules": NotHonoured("is said by the models themselves", "remove it", "auto"),
    "gradient_allreduce_op": NotHonoured("must be mean, that of the ranks' gradients", "remove it", "mean"),
    "managed_gradient_accumulation": _ACCUMULATION,
    "zero_allow_untested_optimizer": NotHonoured("must be true: AdamW here is torch's own", "remove it", True),
    "zero_force_ds_cpu_optimizer": NotHonoured("must be false: AdamW here is torch's own", "remove it"),
    "zero_optimization.compute_grad_norm": NotHonoured("must be true: each step needs the norm", "remove it", True),
    "zero_optimization.elastic_checkpoint": _CHECKPOINTS,
    "zero_optimization.load_from_fp32_weights": NotHonoured(_CHECKPOINTS.reason, "remove it", True),
    "zero_optimization.pipeline_loading_checkpoint": _CHECKPOINTS,
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": _CHECKPOINTS,
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": _CHECKPOINTS,
    "zero_optimization.cpu_offload": NotHonoured("is an old name", 'call it offload_optimizer: {"device": "cpu"}'),
    "zero_optimization.cpu_offload_param": NotHonoured("is an old name", 'call it offload_param: {"device": "cpu"}'),
    "zero_optimization.cpu_offload_use_pin_memory": NotHonoured("is an old name", "say pin_memory in offload_…"),
    "zero_optimization.legacy_stage1": NotHonoured("is an old implementation", "remove it"),
    "zero_optimization.zenflow": _NUMBERS,
    "zero_optimization.zero_quantized_weights": _NUMBERS,
    "zero_optimization.zero_quantized_nontrainable_weights": _NUMBERS,
    "zero_optimization.zero_quantized_gradients": _NUMBERS,
    "zero_optimization.zero_hpz_partition_size": NotHonoured("keeps copies that a resume would not reach", None, 1),
    "zero_optimization.save_muon_momentum_buffer_in_memory": _MODEL,
    "zero_optimization.mics_shard_size": _REMOVED,
    "zero_optimization.mics_hierarchical_params_gather": _REMOVED,
    "zero_optimization.zeropp_loco_param": _REMOVED,
    "zero_optimization.offload_optimizer.super_offload": _NUMBERS,
    "zero_optimization.offload_optimizer.cpuadam_cores_perc": NotHonoured("is for super_offload", "remove it", 0.8),
    "activation_checkpointing": NotHonoured("acts on nothing here", "checkpoint_blocks of the student in the run YAML"),
    "compile": NotHonoured("acts on nothing here", "engine.compile in the run YAML"),
    "flops_profiler": _MEASURED,
    "wall_clock_breakdown": _MEASURED,
    "memory_breakdown": _MEASURED,
    "comms_logger": _MEASURED,
    "timers": _MEASURED,
    "dump_state": _MEASURED,
    "log_level": NotHonoured(_MEASURED.reason, "remove it"),
    "tensorboard": _MONITORED,
    "wandb": _MONITORED,
    "comet": _MONITORED,
    "csv_monitor": _MONITORED,
    "autotuning": NotHonoured("acts on nothing here", "`umt bench step RUN --sweep KEY=A,B` compares settings"),
    "checkpoint": _CHECKPOINTS,
    "checkpoint_writer": _CHECKPOINTS,
    "datastates_ckpt": _CHECKPOINTS,
    "data_efficiency": _DATA,
    "dataloader_drop_last": _DATA,
    "disable_allgather": NotHonoured("acts on nothing here", "remove it"),
    "vocabulary_size": NotHonoured("acts on nothing here", "remove it", None),
    "pipeline": _MODEL,
    "hybrid_engine": _MODEL,
    "tensor_parallel": _MODEL,
    "expert_parallel": _MODEL,
    "sequence_parallel_size": NotHonoured(_MODEL.reason, "remove it", 1),
    "seq_parallel_communication_data_type": NotHonoured(_MODEL.reason, "remove it", "fp32"),
    "use_data_before_expert_parallelism": _MODEL,
    "weight_quantization": _MODEL,
    **dict.fromkeys(
        ("nebula", "compression_training", "quantize_training", "sparse_gradients", "eigenvalue", "sparse_attention",
         "elasticity", "graph_harvesting", "curriculum_learning", "progressive_layer_drop"), _REMOVED,
    ),
}  # fmt: skip
