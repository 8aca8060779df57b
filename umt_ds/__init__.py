"""umt_ds: DeepSpeed-scaled pretraining of video foundation models (Unmasked Teacher, ICCV 2023).

`umt_ds.load(…)` gives a trained model to call (`umt_ds.api`); it is imported when it is asked for, with torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from umt_ds.api import VideoModel, load

__version__ = "0.1.0"
__all__ = ["VideoModel", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name in ("load", "VideoModel"):
        from umt_ds import api  # loads torch

        return api.load if name == "load" else api.VideoModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
