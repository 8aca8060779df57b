"""What ranks need and take seconds to import. `ranks.py` has one process do it, and ranks are forks of that."""

from __future__ import annotations

import gc
import os

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else torch starts CUDA to find out, and what has it cannot fork

import open_clip  # noqa: F401
import timm.optim  # noqa: F401
import torch

import umt_ds.jobs.evaluate
import umt_ds.jobs.train
import umt_ds.tasks.image_text.room
import umt_ds.tasks.recognition.room
import umt_ds.tasks.stage1.room
import umt_ds.tasks.stage2.room  # noqa: F401

if not torch.cuda.is_available():  # DeepSpeed starts CUDA when it is imported
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401

gc.freeze()  # ranks collect garbage after each job: not what was imported, again and again
