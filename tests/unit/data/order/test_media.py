"""Images and clips in one run: which draw shows what, and that neither ranks nor workers change it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.loading import LAST_NUMBER, PLAN, Tokenizing
from tests.support.shards import frame, key_of_sample, noisy_frames, picture, record, write_shards
from umt_ds.batch import Batch, Media, Tokens
from umt_ds.data.loader import Loader, LoaderPlan, SourceSpec
from umt_ds.data.order.frames import FramePolicy
from umt_ds.data.order.media import MediaSchedule, Mode, check_pack, shares_of
from umt_ds.errors import ConfigError, DataError
from umt_ds.keyed import add_digests

MODES: tuple[Mode, Mode] = ("alternate", "packed")


# ---------------------------------------------------------------- the schedule


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 99), images=st.floats(0.2, 4), other=st.floats(0.2, 4))
@settings(max_examples=20, deadline=None)
def test_each_medium_counts_its_own_draws_without_gap_or_repeat(
    mode: Mode, seed: int, images: float, other: float
) -> None:
    media: list[Media] = ["video", "image", "image"]
    schedule = MediaSchedule(media, [1.0, images, other], seed=seed, step_draws=6, mode=mode, pack=6)
    draws = [schedule(draw) for draw in range(6 * 40)]
    for medium in ("image", "video"):
        own = [(source, k) for draw, (source, k) in enumerate(draws) if schedule.medium(draw) == medium]
        assert {media[source] for source, _ in own} <= {medium}
        for source in range(3):
            ks = sorted(k for found, k in own if found == source)
            assert ks == list(range(len(ks)))


def test_in_alternate_steps_show_one_medium_in_the_shares_of_a_block() -> None:
    schedule = MediaSchedule(["image", "video"], [3.0, 1.0], seed=1, step_draws=4, mode="alternate", pack=16)
    steps = [{schedule.medium(4 * step + offset) for offset in range(4)} for step in range(4096)]
    assert all(len(step) == 1 for step in steps)
    assert Counter(next(iter(step)) for step in steps) == {"image": 3072, "video": 1024}
    assert schedule.shares == {"image": 0.75, "video": 0.25}
    first = [next(iter(step)) for step in steps[:64]]
    assert first != sorted(first), "the order is shuffled"


def test_in_packed_every_group_holds_the_same_whole_shares() -> None:
    schedule = MediaSchedule(["image", "video"], [2.88, 2.49], seed=1, step_draws=32, mode="packed", pack=16)
    for group in range(50):
        shown = Counter(schedule.medium(16 * group + offset) for offset in range(16))
        assert shown == {"image": 9, "video": 7}
    assert schedule.shares == {"image": 9 / 16, "video": 7 / 16}
    assert shares_of(["image", "video"], [2.88, 2.49], mode="packed", pack=16) == schedule.shares


def test_a_medium_too_rare_for_a_group_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="without a single draw in 16"):
        MediaSchedule(["image", "video"], [100.0, 1.0], seed=1, step_draws=32, mode="packed", pack=16)
    with pytest.raises(ConfigError, match=r"batch\.micro=24 is not a multiple of batch\.pack=16") as refused:
        check_pack(24, 16)
    assert "batch.micro=32" in str(refused.value)


# ---------------------------------------------------------------- the loader


def still(number: int) -> dict[str, bytes]:
    return {**record(100 + number), "jpg": picture(frame(number, 0), format="JPEG")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("media")
    clips = write_shards(folder / "clips", [9, 8], members=noisy_frames)
    return clips, write_shards(folder / "images", [10, 11], members=still)


def sources(shards: tuple[Path, Path]) -> list[SourceSpec]:
    clips, images = shards
    return [
        SourceSpec("clips", clips, FramePolicy("intervals", 3), 1.0),
        SourceSpec("images", images, FramePolicy("intervals", 1), 2.0, media="image"),
    ]


def plan(mode: Mode, **running: int) -> LoaderPlan:
    return replace(PLAN, media_mode=mode, pack=3, crop="random_resized", **{"micro": 12, **running})


def parts_of(shards: tuple[Path, Path], mode: Mode, steps: range, **running: int) -> dict[int, list[Batch]]:
    """All ranks' parts of each step."""
    found: dict[int, list[Batch]] = {step: [] for step in steps}
    for rank in range(running.get("world", 1)):
        loader = Loader(sources(shards), plan(mode, rank=rank, **running), tokenize=LAST_NUMBER)
        for step in steps:
            found[step] += [part for batch in loader.micro_batches(step) for part in batch.parts]
        loader.close()
    return found


def rows(parts: list[Batch]) -> Iterator[tuple[object, ...]]:
    """What each draw shows, in the order of the draws."""
    every = []
    for part in parts:
        assert part.text is not None
        assert part.ids is not None
        for row, key in enumerate(part.keys):
            numbers = (int(part.draws[row]), int(part.slots[row]), int(part.ids[row]), int(part.text.ids[row]))
            every.append((numbers, part.media, key, part.pixels[row].numpy().tobytes()))
    return iter(sorted(every))


CUTS = [
    {"world": 2, "micro": 6},
    {"world": 2, "micro": 3, "accumulation": 2},
    {"world": 1, "micro": 12, "num_workers": 2},
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", CUTS)
def test_ranks_accumulation_and_workers_only_cut_the_same_draws(
    mode: Mode, cut: dict[str, int], shards: tuple[Path, Path]
) -> None:
    whole, pieces = parts_of(shards, mode, range(4)), parts_of(shards, mode, range(2, 4), **cut)
    for step in range(2, 4):
        assert list(rows(whole[step])) == list(rows(pieces[step]))
        digests = [add_digests(*(part.digest for part in of[step])) for of in (whole, pieces)]
        assert digests[0] == digests[1]


def test_alternate_batches_are_of_one_medium_each_with_its_own_frames(shards: tuple[Path, Path]) -> None:
    steps = parts_of(shards, "alternate", range(12))
    assert all(len(parts) == 1 for parts in steps.values())
    assert {(part.media, part.pixels.shape[1]) for (part,) in steps.values()} == {("image", 1), ("video", 3)}


def test_packed_batches_hold_both_images_first(shards: tuple[Path, Path]) -> None:
    loader = Loader(sources(shards), plan("packed"), tokenize=LAST_NUMBER)
    (batch,) = loader.micro_batches(0)
    loader.close()
    assert batch.media == "image"
    assert batch.packed_with is not None
    assert batch.packed_with.media == "video"
    assert [tuple(part.pixels.shape[:2]) for part in batch.parts] == [(8, 1), (4, 3)]
    assert sorted(torch.cat([part.slots for part in batch.parts]).tolist()) == list(range(12))


def test_the_same_sample_has_the_same_id_and_no_other_has(shards: tuple[Path, Path]) -> None:
    ids: dict[int, set[str]] = {}
    for parts in parts_of(shards, "packed", range(6)).values():
        for part in parts:
            assert part.ids is not None
            for number, key in zip(part.ids.tolist(), part.keys, strict=True):
                ids.setdefault(number, set()).add(f"{part.media} {key}")
    assert all(len(keys) == 1 for keys in ids.values())
    assert len(ids) == len(set.union(*ids.values()))


def test_sources_of_one_medium_must_have_as_many_frames(shards: tuple[Path, Path]) -> None:
    clips, _ = shards
    two = [SourceSpec("a", clips, FramePolicy("sparse", 3)), SourceSpec("b", clips, FramePolicy("sparse", 2))]
    with pytest.raises(ConfigError, match="b has not"):
        Loader(two, PLAN)


# ---------------------------------------------------------------- captions


def of_images(folder: Path) -> SourceSpec:
    return SourceSpec("images", folder, FramePolicy("sparse", 1), media="image")


def test_an_image_that_cannot_be_decoded_shows_another_one_with_that_ones_caption(tmp_path: Path) -> None:
    def damaged(number: int) -> dict[str, bytes]:
        whole = still(number)
        return {**whole, "jpg": whole["jpg"][:40]} if number % 3 == 0 else whole

    source = SourceSpec(
        "images", write_shards(tmp_path, [9, 9], members=damaged), FramePolicy("sparse", 1), media="image"
    )
    loader = Loader([source], replace(PLAN, max_bad_rate=1.0), tokenize=LAST_NUMBER)
    batches = [batch for step in range(3) for batch in loader.micro_batches(step)]
    loader.close()
    assert sum(batch.substituted for batch in batches) > 5
    for batch in batches:
        assert batch.text is not None
        assert [key_of_sample(n - 100) for n in batch.text.ids[:, 0].tolist()] == list(batch.keys)


def test_an_empty_caption_costs_its_sample_as_a_broken_picture_does(tmp_path: Path) -> None:
    def silent(number: int) -> dict[str, bytes]:
        return {**still(number), "json": json.dumps({"caption": " " if number % 4 == 1 else f"clip {number}"}).encode()}

    source = SourceSpec(
        "images", write_shards(tmp_path, [8, 8], members=silent), FramePolicy("sparse", 1), media="image"
    )
    loader = Loader([source], replace(PLAN, max_bad_rate=1.0), tokenize=LAST_NUMBER)
    (batch,) = loader.micro_batches(0)
    loader.close()
    assert batch.substituted > 0
    assert batch.text is not None
    assert all(number % 4 != 1 for number in batch.text.ids[:, 0].tolist())


def test_a_corpus_without_text_is_one_error_before_anything_is_trained(tmp_path: Path) -> None:
    def untold(number: int) -> dict[str, bytes]:
        return {**still(number), "json": json.dumps({"title": f"clip {number}", "label": 3}).encode()}

    source = replace(of_images(write_shards(tmp_path, [4], members=untold)), name="web")
    with pytest.raises(DataError, match="source web: the first 4 samples") as refused:
        Loader([source], PLAN, tokenize=LAST_NUMBER)
    assert "data.sources.web.caption=FIELD; fields with text: title" in str(refused.value)
    loader = Loader([replace(source, caption="title")], PLAN, tokenize=LAST_NUMBER)
    (batch,) = loader.micro_batches(0)
    loader.close()
    assert batch.text is not None


def test_captions_are_cleaned_before_they_are_tokenised(tmp_path: Path) -> None:
    class Loud(Tokenizing):
        def clean(self, caption: str) -> str:
            return caption.upper()

    seen: list[str] = []

    def remember(captions: list[str]) -> Tokens:
        seen.extend(captions)
        return LAST_NUMBER(captions)

    source = of_images(write_shards(tmp_path, [4], members=still))
    loader = Loader([source], PLAN, tokenize=Loud(remember))
    list(loader.micro_batches(0))
    loader.close()
    assert seen
    assert all(caption.startswith("CLIP ") for caption in seen)
