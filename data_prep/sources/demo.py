"""A small world to try everything on: coloured balls that move over a background, rendered as mp4 files.

What a clip shows (`appearance`: pattern and colour) can be told from any single frame; what happens in it
(`motion`) from no single frame, unless one is told when it was taken: over the frames of a clip a motion passes
through every position, size or angle once, and what it leaves alone is uniform too. Only the order differs. Each motion
is another one's film run backwards, and left is right in a mirror, so training on it must not flip. Pictures beside the
clips show scenes of their own, and say nothing of motion.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.checking.sheet import save_png
from data_prep.clip import Clip, Listing, RunOptions
from data_prep.engines import WorkerFailure, map_ordered
from data_prep.tables.table import Table
from umt_ds.data.pixels.video import write_mp4
from umt_ds.data.shards.records import sample_key, write_json
from umt_ds.data.shards.storage import write_whole
from umt_ds.errors import ConfigError, MachineError
from umt_ds.keyed import Stream, permutation
from umt_ds.terminal import progress
from umt_ds.whole_file import appearing

Split = Literal["train", "val"]

FRAMES, FPS = 16, 10
WORLD = 2  # the version of what scenes look like and do: folders of another one are not gone on with
SWEEP = (FRAMES - 1) / FRAMES  # what a motion changes by between the first frame and the last: all but one frame's step
_SPREAD = (
    1 / FRAMES
)  # how far from its end a sweep may begin, to both sides; whole steps keep all values equally likely
DISTINCT = 64  # held-out clips of which each caption is true of one only
COLORS = {"red": (214, 48, 40), "green": (46, 160, 67), "blue": (42, 92, 220), "yellow": (240, 200, 30)}
PATTERNS = ("plain", "striped", "checked")
BACKGROUNDS = {"dark": 60.0, "grey": 110.0, "light": 160.0}
# change per clip of (x, y, size phase, angle), in widths, heights, size cycles and turns
MOTIONS = {
    "moves left": (-1, 0, 0, 0),
    "moves right": (1, 0, 0, 0),
    "moves up": (0, -1, 0, 0),
    "moves down": (0, 1, 0, 0),
    "grows": (0, 0, 1, 0),
    "shrinks": (0, 0, -1, 0),
    "turns clockwise": (0, 0, 0, 1),
    "turns counterclockwise": (0, 0, 0, -1),
}
APPEARANCES = tuple(f"{pattern} {color} ball" for color in COLORS for pattern in PATTERNS)
JOINT = tuple(f"{appearance} {motion}" for appearance in APPEARANCES for motion in MOTIONS)
_PHRASES = (
    "a {appearance} {motion} over a {background} background",
    "over a {background} background, a {appearance} {motion}",
    "there is a {appearance}; it {motion}. The background is {background}",
    "a {appearance} that {motion} on a {background} background",
)
_STILL_PHRASES = (
    "a {appearance} over a {background} background",
    "over a {background} background, a {appearance}",
    "there is a {appearance}. The background is {background}",
    "a {appearance} on a {background} background",
)
_COLUMNS = ("file", "caption", "label", "appearance", "motion", "background", "split")
_VIDEOS, _CAPTIONS, _RECIPE = "videos", "captions.csv", "recipe.json"
_PICTURES, _PICTURE_CAPTIONS = "pictures", "picture_captions.csv"
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Scene:
    """All that decides one clip. Position, size phase and angle at its start are in [0,1)."""

    file: str
    split: Split
    color: str
    pattern: str
    background: str
    motion: str
    caption: str
    start: tuple[float, ...]  # of x, y, size phase and angle
    speed: float  # what the motion changes, it changes by this much during the clip

    @property
    def appearance(self) -> str:
        return f"{self.pattern} {self.color} ball"


def scenes(count: int, seed: int) -> list[Scene]:
    """`count` scenes: every combination of appearance and motion equally often, each fifth one for validation."""
    rounds = -(-count // len(JOINT))
    order = [int(j) for r in range(rounds) for j in permutation(len(JOINT), seed, "demo", "round", r)]
    return [_scene(number, joint, seed) for number, joint in enumerate(order[:count])]


def _scene(number: int, joint: int, seed: int) -> Scene:
    random = Stream(seed, "demo", number)
    appearance, motion = APPEARANCES[joint // len(MOTIONS)], list(MOTIONS)[joint % len(MOTIONS)]
    pattern, color, _ = appearance.split()
    background = list(BACKGROUNDS)[random.integer(len(BACKGROUNDS))]
    phrase = _PHRASES[random.integer(len(_PHRASES))]
    return Scene(
        file=f"clip-{number:05d}.mp4",
        split="val" if number % 5 == 4 else "train",
        color=color,
        pattern=pattern,
        background=background,
        motion=motion,
        caption=phrase.format(appearance=appearance, motion=motion, background=background),
        start=tuple(_start(change, random) for change in MOTIONS[motion]),
        speed=SWEEP,
    )


def _start(change: int, random: Stream) -> float:
    """Where a property begins: near the end from which it is swept; anywhere, where it does not change."""
    if change == 0:
        return random.uniform()
    end = 0.0 if change > 0 else 1.0
    return (end + change / (2 * FRAMES) + random.uniform(-_SPREAD, _SPREAD)) % 1.0


def render_demo(out: Path, *, count: int, seed: int, size: int, run: RunOptions) -> None:
    """Write `out/videos/*.mp4` and `out/captions.csv`; what an interrupted run has rendered is kept.

    Raises ConfigError if `out` holds a demo with another count, seed or size.
    """
    if count < 10 or size < 32 or size % 2:
        raise ConfigError("a demo has at least 10 clips, and an even size of at least 32 pixels")
    videos = out / _VIDEOS
    videos.mkdir(parents=True, exist_ok=True)
    _check_recipe(out / _RECIPE, {"world": WORLD, "clips": count, "seed": seed, "size": size})
    world = scenes(count, seed)
    missing = [scene for scene in world if not (videos / scene.file).is_file()]
    results = map_ordered(partial(_render, videos, size), missing, workers=run.workers, timeout_s=run.timeout_s)
    for result in progress(results, total=len(missing), unit="clip", desc="render", disable=not missing):
        if isinstance(result, WorkerFailure):
            raise MachineError(f"a demo clip could not be rendered: {result.reason}")
    _write_captions(out / _CAPTIONS, world)


def list_demo(out: Path, split: Split) -> Listing:
    """The clips of one split of a rendered demo.

    Beside the joint label each sample's json has `appearance`, `appearance_label`, `motion`, `motion_label`
    and `background`; the manifest's options hold the lists of classes.
    """
    rows = [row for _, row in Table(out / _CAPTIONS, columns=_COLUMNS) if row[-1] == split]
    classes = {"appearance": list(APPEARANCES), "motion": list(MOTIONS), "background": list(BACKGROUNDS)}
    return Listing(
        root=out / _VIDEOS,
        clips=tuple(_clip(row) for row in rows),
        labels=JOINT,
        about={"source": "demo", "split": split, "classes": classes},
    )


def list_distinct(out: Path, count: int = DISTINCT) -> Listing:
    """`count` held-out clips of which no two show the same appearance, motion and background, so that each caption is
    true of one clip only; all there are, if fewer."""
    listing = list_demo(out, "val").first_in_order()
    first = {(c.label_name, c.extra["background"]): c for c in reversed(listing.clips)}
    chosen = [clip for clip in listing.clips if first[clip.label_name, clip.extra["background"]] is clip]
    return replace(listing, clips=tuple(chosen[:count]), about={**listing.about, "distinct": len(chosen[:count])})


def render_pictures(out: Path, *, count: int, seed: int, size: int, run: RunOptions) -> None:
    """Write `out/pictures/*.png` and `out/picture_captions.csv`: single frames of scenes that no clip shows."""
    pictures = out / _PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    world = [_still(number, seed) for number in range(count)]
    missing = [scene for scene in world if not (pictures / scene.file).is_file()]
    results = map_ordered(
        partial(_render_picture, pictures, size), missing, workers=run.workers, timeout_s=run.timeout_s
    )
    for result in progress(results, total=len(missing), unit="picture", desc="render", disable=not missing):
        if isinstance(result, WorkerFailure):
            raise MachineError(f"a demo picture could not be rendered: {result.reason}")
    _write_table(out / _PICTURE_CAPTIONS, ["file", "caption"], [[scene.file, scene.caption] for scene in world])


def list_pictures(out: Path) -> Listing:
    """The rendered pictures with their captions."""
    rows = Table(out / _PICTURE_CAPTIONS, columns=("file", "caption"))
    clips = tuple(Clip(sample_key(file), file, captions=(caption,)) for _, (file, caption) in rows)
    return Listing(root=out / _PICTURES, clips=clips, media="image", about={"source": "demo pictures"})


def write_vocabulary(out: Path) -> None:
    """`out/vocab.txt`: a WordPiece vocabulary of the words that captions of this world are made of, and of letters for
    all others, so that a text encoder can be trained where no BERT lies on the disk."""
    said = " ".join([*_PHRASES, *_STILL_PHRASES, *APPEARANCES, *MOTIONS, *BACKGROUNDS]).lower()
    words = set(re.findall("[a-z]+", re.sub(r"\{.*?\}", " ", said)))
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789")
    tokens = [*_SPECIAL_TOKENS, *sorted(letters | words), *(f"##{letter}" for letter in sorted(letters))]
    write_whole(out / "vocab.txt", ("\n".join(tokens) + "\n").encode())


def _still(number: int, seed: int) -> Scene:
    random = Stream(seed, "demo picture", number)
    appearance = APPEARANCES[random.integer(len(APPEARANCES))]
    background = list(BACKGROUNDS)[random.integer(len(BACKGROUNDS))]
    pattern, color, _ = appearance.split()
    phrase = _STILL_PHRASES[random.integer(len(_STILL_PHRASES))]
    return Scene(
        file=f"picture-{number:05d}.png",
        split="train",
        color=color,
        pattern=pattern,
        background=background,
        motion=next(iter(MOTIONS)),  # of which frame 0 shows nothing
        caption=phrase.format(appearance=appearance, background=background),
        start=(random.uniform(), random.uniform(), random.uniform(), random.uniform()),
        speed=0.5,
    )


def _clip(row: tuple[str, ...]) -> Clip:
    file, caption, label, appearance, motion, background, _ = row
    return Clip(
        key=sample_key(file),
        source=file,
        captions=(caption,),
        label=JOINT.index(label),
        label_name=label,
        extra={
            "appearance": appearance,
            "appearance_label": APPEARANCES.index(appearance),
            "motion": motion,
            "motion_label": list(MOTIONS).index(motion),
            "background": background,
        },
    )


def _check_recipe(path: Path, recipe: dict[str, int]) -> None:
    if path.is_file() and (before := json.loads(path.read_text(encoding="utf-8"))) != recipe:
        raise ConfigError(
            f"{path.parent} holds a demo made with {before}, not {recipe}",
            hint="choose another folder, or delete this one",
        )
    write_json(path, recipe)


def _write_captions(path: Path, world: Sequence[Scene]) -> None:
    rows = [
        [s.file, s.caption, f"{s.appearance} {s.motion}", s.appearance, s.motion, s.background, s.split] for s in world
    ]
    _write_table(path, _COLUMNS, rows)


def _write_table(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_whole(path, text.getvalue().encode())


def _render_picture(pictures: Path, size: int, scene: Scene) -> None:
    save_png(Image.fromarray(draw(scene, 0, size)), pictures / scene.file)


def _render(videos: Path, size: int, scene: Scene) -> None:
    path = videos / scene.file
    with appearing(path) as partial_path:
        write_mp4(partial_path, [draw(scene, number, size) for number in range(FRAMES)], fps=FPS)


def draw(scene: Scene, number: int, size: int) -> NDArray[np.uint8]:
    """Frame `number` of a scene, u8 [size,size,3]. The world is a torus: what leaves on the left enters on
    the right, so that a position tells nothing about the direction."""
    moved = scene.speed * number / (FRAMES - 1)
    x, y, phase, turns = (s + moved * c for s, c in zip(scene.start, MOTIONS[scene.motion], strict=True))
    radius = size * (0.16 + 0.16 * (phase % 1.0))
    pixel = np.arange(size) + 0.5
    dx = (pixel[None, :] - x * size + size / 2) % size - size / 2  # [1,W], on the torus
    dy = (pixel[:, None] - y * size + size / 2) % size - size / 2  # [H,1]
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    u, v = (cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius  # [H,W], in the ball's own frame
    picture = np.full((size, size, 3), BACKGROUNDS[scene.background])
    outside = (np.hypot(u, v) - 1) * radius  # pixels from the rim
    color = np.array(COLORS[scene.color], dtype=np.float64)
    picture = _paint(picture, color, outside)
    picture = _paint(picture, 0.35 * color, np.where(_is_dark(scene.pattern, u, v), outside, 1.0))
    # a white spot off the centre shows how the ball, a plain one too, is turned
    spot = (np.hypot(u, v + 0.6) - 0.25) * radius
    return np.rint(_paint(picture, np.full(3, 255.0), spot)).astype(np.uint8)


def _is_dark(pattern: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the pattern of a ball of radius 1 is dark."""
    column, row = np.floor(2.5 * u).astype(np.int64), np.floor(2.5 * v).astype(np.int64)
    match pattern:
        case "striped":
            parity = column % 2
        case "checked":
            parity = (column + row) % 2
        case _:
            parity = np.ones_like(column)
    return np.equal(parity, 0)


def _paint(
    picture: NDArray[np.float64], color: NDArray[np.float64], distance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`color` where `distance` (pixels) is negative, with an edge one pixel soft."""
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    return picture * (1 - cover) + color * cover
