"""Tiny videos for tests, written with PyAV alone: frame n is flat grey, level 8 + 6 n, so a pixel tells the frame."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.clip import Sample

FIRST_LEVEL, STEP = 8, 6


def level(number: int) -> int:
    """The grey level of frame `number`."""
    return FIRST_LEVEL + STEP * number


def frame_number(pixels: NDArray[np.uint8]) -> int:
    """Which frame of a tiny video this is, from its mean level (lossy coding moves it by a level or two)."""
    return round((float(pixels.mean()) - FIRST_LEVEL) / STEP)


def write_video(
    path: Path,
    *,
    frames: int = 12,
    size: tuple[int, int] = (64, 48),
    fps: int | Fraction = 10,
    rotation: int = 0,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    ticks: Sequence[int] | None = None,
) -> Path:
    """A small H.264 file of `size` (width, height). `rotation`: a display matrix, degrees counter-clockwise. ticks:
    when each frame is shown, in parts 1/fps of a second; default: one in each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    if pictures is None:
        pictures = [np.full((height, width, 3), level(n), np.uint8) for n in range(frames)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "8", "g": "5", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for picture, tick in zip(pictures, ticks or range(len(pictures)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = tick, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_numbered_video(path: Path, numbers: Iterable[int], *, fps: int | Fraction = 30) -> Path:
    """A video of 48 x 48 pixels whose frames show these numbers below 512, for more frames than grey levels tell."""
    return write_video(path, pictures=[numbered(number) for number in numbers], size=(48, 48), fps=fps)


def numbered(number: int) -> NDArray[np.uint8]:
    """A number below 512 as nine black or white squares, u8 [48,48,3]."""
    bits = np.array([number >> bit & 1 for bit in range(9)], np.uint8).reshape(3, 3)
    return np.repeat(np.kron(bits * 255, np.ones((16, 16), np.uint8))[..., None], 3, axis=2)


def shown_number(pixels: NDArray[np.uint8]) -> int:
    """The number that such a frame shows, at any size; coding blurs the edges of its squares only."""
    side = pixels.shape[0]
    centres = [(2 * place + 1) * side // 6 for place in range(3)]
    bits = (pixels[np.ix_(centres, centres)].mean(axis=2) > 127).ravel()
    return sum(1 << bit for bit in range(9) if bits[bit])


def write_videos(folder: Path, count: int, *, frames: int = 12) -> Path:
    """`count` videos v00.mp4, v01.mp4, …, every other one in a subfolder."""
    for number in range(count):
        write_video(folder / ("odd" if number % 2 else "") / f"v{number:02d}.mp4", frames=frames)
    return folder


def write_audio_only(path: Path) -> Path:
    """An mp4 with a second of silence and no video stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 16000, start
            container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return path


def pictures_of(sample: Sample) -> list[NDArray[np.uint8]]:
    """The frames of a sample, decoded by Pillow."""
    names = sorted(name for name in sample.members if name.endswith(".jpg"))
    return [np.asarray(Image.open(io.BytesIO(sample.members[name]))) for name in names]
