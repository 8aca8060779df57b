"""The frames that evaluation shows, worked by hand (METHOD.md, "Views in testing", "Frames: stage 2")."""

from __future__ import annotations

from itertools import pairwise

import pytest

from umt_ds.data.order.views import (
    FrameRule,
    Views,
    frames_of,
    is_views_text,
    views_text,
)
from umt_ds.errors import ConfigError, DecodeError

LENGTHS = range(1, 401)


@pytest.mark.parametrize("frames", [4, 8, 12, 16])
@pytest.mark.parametrize("clips", [1, 2, 4])
def test_recognition_shows_the_frames_of_kinetics_sparse(frames: int, clips: int) -> None:
    views = Views("recognition", frames, clips)
    for length in LENGTHS:
        s = (length - 1) / frames
        middle = [round(s * i) + int(s / 2) for i in range(frames)]
        assert views.validation(length) == middle
        for c in range(clips):
            shown = views.test_clip(c, length)
            assert shown == [round(s * i) + int(s / (clips + 1) * (c + 1)) for i in range(frames)]
            assert 0 <= shown[0] <= shown[-1] < length
            assert shown == sorted(shown)


def test_recognition_shows_the_worked_frames_of_300() -> None:
    views = Views("recognition", 8, 4)
    assert views.validation(300) == [18, 55, 93, 130, 168, 205, 242, 280]
    assert [views.test_clip(c, 300)[0] for c in range(4)] == [7, 14, 22, 29]


@pytest.mark.parametrize("frames", [4, 8, 12, 16])
def test_something_something_shows_centres_in_validation_and_two_clips_in_testing(frames: int) -> None:
    views = Views("ssv2", frames, 2)
    for length in LENGTHS:
        tick = length / frames
        assert views.validation(length) == [int(tick * (x + 0.5)) for x in range(frames)]
        both = sorted([int(tick * x) for x in range(frames)] + [int(tick / 2 + tick * x) for x in range(frames)])
        assert [views.test_clip(k, length) for k in (0, 1)] == [both[0::2], both[1::2]]


def test_retrieval_shows_the_middle_of_each_interval_and_ends_on_the_last_frame() -> None:
    assert Views("retrieval", 12).validation(300) == [12 + 25 * i for i in range(12)]
    assert Views("retrieval", 4).test_clip(0, 300) == [37, 112, 187, 262]
    for length in LENGTHS:
        shown = Views("retrieval", 12).validation(length)
        edges = [int(length * i / 12) for i in range(13)]
        padded = [*range(length), *[length - 1] * 12][:12]
        assert shown == (padded if length < 12 else [(a + b - 1) // 2 for a, b in pairwise(edges)])


def test_what_views_need_is_what_their_clips_show_and_nothing_more() -> None:
    for length in (1, 5, 8, 77, 300):
        views = Views("recognition", 8, 4)
        shown = {n for clip in range(4) for n in views.test_clip(clip, length)} | set(views.validation(length))
        assert frames_of("recognition:8x4", length) == sorted(shown)
    assert len(frames_of("recognition:8x4", 300)) == 40
    both = set(frames_of("recognition:8x4", 300)) | set(frames_of("retrieval:12", 300))
    assert frames_of("recognition:8x4 retrieval:12", 300) == sorted(both)
    assert frames_of("all", 5) == [0, 1, 2, 3, 4]
    with pytest.raises(DecodeError, match="no frames"):
        frames_of("all", 0)


def test_a_rule_shows_the_clip_of_validation_or_all_test_clips_one_after_the_other() -> None:
    views = Views("ssv2", 4, 2)
    assert views.validation_rule(16) == [2, 6, 10, 14]
    assert views.testing_rule(16) == [0, 4, 8, 12, 2, 6, 10, 14]
    assert FrameRule(views, (0,))(16) == [0, 4, 8, 12]
    assert Views("retrieval", 4).testing_rule(300) == [37, 112, 187, 262]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (["recognition:16x4,8x4"], "recognition:8x4,16x4"),
        (["retrieval:12", "recognition:8x4", "recognition:8x4"], "recognition:8x4 retrieval:12"),
        (["recognition:8x1", "ssv2:8x2"], "recognition:8 ssv2:8x2"),
        (["recognition:8x4", "all"], "all"),
    ],
)
def test_equal_wishes_have_one_spelling(asked: list[str], text: str) -> None:
    assert views_text(asked) == text
    assert views_text([text]) == text
    assert is_views_text(text)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("detection:8", "there is no rule 'detection', only recognition, ssv2, retrieval"),
        ("8x4", "there is no rule '8x4'"),
        ("recognition", "after the colon stand frames"),
        ("recognition:", "after the colon stand frames"),
        ("recognition:0x4", "after the colon stand frames"),
        ("recognition:8x", "after the colon stand frames"),
        ("recognition:8x4,retrieval:12", "after the colon stand frames"),
        ("recognition:８x4", "after the colon stand frames"),
        ("recognition:99999", "after the colon stand frames"),
        ("ssv2:8x4", "ssv2 shows at most 2 clips of a video"),
        ("retrieval:12x4", "retrieval shows at most 1 clip of a video"),
        ("  ", "--views says nothing"),
    ],
)
def test_what_is_no_rule_is_refused_with_an_example(asked: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        views_text([asked])
    assert "--views" in (refused.value.hint or "")
    assert not is_views_text(asked)


def test_another_spelling_or_no_text_is_not_what_a_plan_states() -> None:
    assert not is_views_text("recognition:16x4,8x4")
    assert not is_views_text(["recognition:8x4"])
