"""umt_ds: DeepSpeed-scaled pretraining of video foundation models (Unmasked Teacher, ICCV 2023)."""

__version__ = "0.1.0"
