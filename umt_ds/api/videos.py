"""What people call a video (a path, frames in any of the usual containers) → what a model is shown of it.

V views of a video, T frames, H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from umt_ds.data.clip_request import ClipRequest
from umt_ds.data.video_clips import clip_of_video, whole_clip
from umt_ds.environment import at_home
from umt_ds.errors import DataError, DecodeError

Array: TypeAlias = NDArray[np.uint8] | Tensor
Frame: TypeAlias = Image.Image | Array
"""A picture of PIL, or uint8 [H,W,3]."""
Video: TypeAlias = str | os.PathLike[str] | bytes | Array | Sequence[Frame]
"""A file by its path or as bytes; frames as uint8 [T,H,W,3] or [T,3,H,W], or one by one; or the views of a model, uint8
[V,T,side,side,3]."""

_LAYOUTS = "uint8 [T,H,W,3], RGB from 0 to 255"


def videos_in(given: Video | Sequence[Video]) -> tuple[list[Video], bool]:
    """One video, or several; and whether it is one. A list of frames is one. Raises DataError for what is none."""
    if isinstance(given, str | os.PathLike | bytes):
        return [given], True
    if isinstance(given, np.ndarray | Tensor):
        _refuse_other_shapes(given)
        return ([given], True) if given.ndim == 4 else (list(given), False)
    if not isinstance(given, Sequence) or not given:
        raise DataError(f"{_told(given)} is no video", hint=f"a path, frames as {_LAYOUTS}, or a list of these")
    frames = [_is_frame(one) for one in given]
    if all(frames):
        return [cast(Sequence[Frame], given)], True
    if any(frames):
        raise DataError("a list holds frames and videos at once", hint="a list of frames is one video")
    return [one for several in cast(Sequence[Video], given) for one in videos_in(several)[0]], False


def views_of(video: Video, request: ClipRequest) -> Tensor:
    """What a model is shown of one video: u8 [V,T,side,side,3]. The frames that are given count as all that it has, and
    the model's rule chooses among them; views of the right shape are taken as they are.

    Raises DataError for what is no video, is damaged or cannot be read.
    """
    if isinstance(video, bytes):
        try:
            return clip_of_video(video, request).views
        except DecodeError as error:
            raise DataError(f"the video of {len(video):,} bytes: {error.what}") from error
    if isinstance(video, str | os.PathLike):
        return whole_clip(path_of(video), request).views
    if isinstance(video, np.ndarray | Tensor) and video.ndim == 5:
        return _checked_views(video, request)
    frames = frames_in(video)
    return torch.from_numpy(request.views_of(frames[list(request.frames.choose(len(frames)))]))


def path_of(video: str | os.PathLike[str]) -> Path:
    """`~` is the home folder."""
    return Path(at_home(os.fspath(video)))


def frames_in(video: Video) -> NDArray[np.uint8]:
    """Frames in any container as u8 [T,H,W,3]. Raises DataError for what are none."""
    if isinstance(video, np.ndarray | Tensor):
        return _checked(video)
    if isinstance(video, Sequence) and not isinstance(video, str | bytes) and video and all(map(_is_frame, video)):
        frames = [_checked(_array(one)[None]) for one in video]
        if len({one.shape for one in frames}) > 1:
            raise DataError("the frames of a video have different sizes", hint="resize them to one, or give the file")
        return np.concatenate(frames)
    raise DataError(f"{_told(video)} holds no frames", hint=f"frames as {_LAYOUTS}, or a list of pictures")


def _array(frame: Frame) -> Array:
    return np.asarray(frame.convert("RGB")) if isinstance(frame, Image.Image) else frame


def _is_frame(one: object) -> bool:
    return isinstance(one, Image.Image) or (isinstance(one, np.ndarray | Tensor) and one.ndim == 3)


def _refuse_other_shapes(given: Array) -> None:
    if given.ndim not in (4, 5):
        raise DataError(
            f"an array of shape {list(given.shape)} is no video",
            hint=f"{_LAYOUTS}, or [B,T,H,W,3]; of an image: [image]",
        )


def _checked(given: Array) -> NDArray[np.uint8]:
    """[T,H,W,3] or [T,3,H,W] → [T,H,W,3] on the CPU."""
    frames = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
    if frames.ndim != 4 or 3 not in (frames.shape[-1], frames.shape[1]) or not frames.size:
        raise DataError(f"frames of shape {list(frames.shape)} are no video", hint=_LAYOUTS)
    _refuse_other_numbers(frames)
    channels_last = frames if frames.shape[-1] == 3 else np.moveaxis(frames, 1, -1)
    return np.ascontiguousarray(channels_last)


def _checked_views(given: Array, request: ClipRequest) -> Tensor:
    wanted = (request.frames.count, request.side, request.side, 3)
    if tuple(given.shape[1:]) != wanted or not len(given):
        raise DataError(
            f"views of shape {list(given.shape)}, and the model is shown [V,{','.join(map(str, wanted))}]",
            hint="frames of another size: [T,H,W,3]; `VideoModel.views` makes views of them",
        )
    _refuse_other_numbers(given)
    return given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(given)


def _refuse_other_numbers(given: Array) -> None:
    if given.dtype not in (np.uint8, torch.uint8):
        raise DataError(
            f"pixels of type {str(given.dtype).removeprefix('torch.')}, which may mean several things",
            hint="uint8 from 0 to 255, before any normalisation: the model normalises for itself",
        )


def _told(given: object) -> str:
    return "nothing" if isinstance(given, Sequence) and not given else f"a {type(given).__name__}"
