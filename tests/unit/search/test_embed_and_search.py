"""`umt embed` and `umt search` on a small model: what is embedded is what evaluation embeds, and texts find it."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.indexes import call, error_of, retriever_config, retriever_run
from tests.support.retrieval_runs import clips_of, searched
from tests.support.shards import key_of_sample, png_frames, write_shards
from tests.support.tiny_runs import add_checkpoint, make_config, write_run
from tests.support.videos import write_video
from umt_ds.cli import embed, search
from umt_ds.search import embed as embed_job
from umt_ds.search import index_files
from umt_ds.search.index_files import read_index
from umt_ds.search.model import SearchModel
from umt_ds.tasks.video_text.retriever import build_retriever

torch.set_num_threads(1)


def hits_of(*words: object) -> list[dict[str, Any]]:
    found = json.loads(call(search.command, *words, "--json").stdout)
    return [hit for answer in found["answers"] for hit in answer["hits"]]


def test_products_of_the_embeddings_are_the_similarities_of_evaluation(folder: Path) -> None:
    clips, captions = read_index(folder / "index"), read_index(folder / "index", "captions")
    config = retriever_config(folder)
    retriever = build_retriever(config, folder / "run", device=torch.device("cpu"))
    expected = searched(folder / "shards", retriever)
    assert [row["key"] for row in clips.rows(range(15))] == list(expected.keys)
    assert [row["caption"] for row in captions.rows(range(15))] == list(expected.captions)
    products = clips.vectors.astype(np.float64) @ captions.vectors.astype(np.float64).T
    assert np.allclose(products, expected.similarity.numpy(), atol=1e-6)


def test_a_text_finds_the_clips_of_the_largest_similarity(folder: Path) -> None:
    clips, captions = read_index(folder / "index"), read_index(folder / "index", "captions")
    products = clips.vectors @ captions.vectors[3]
    hits = hits_of(folder / "index", "Clip, 3!", "--top", "4")  # as its caption says it, once it is cleaned
    assert [hit["item"] for hit in hits] == np.argsort(-products, kind="stable")[:4].tolist()
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]
    assert np.allclose([hit["similarity"] for hit in hits], np.sort(products)[::-1][:4], atol=1e-6)
    assert hits[0]["set"] == str(folder / "shards")
    assert hits[0]["file"].endswith(".tar")


def test_a_caption_finds_itself_among_captions_and_a_file_asks_several(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("clip 3\n\nclip 11\n")
    hits = hits_of(folder / "index", "--queries", tmp_path / "queries.txt", "--captions", "--top", "1")
    assert [hit["caption"] for hit in hits] == ["clip 3", "clip 11"]
    assert [hit["key"] for hit in hits] == [key_of_sample(3), key_of_sample(11)]


def test_half_precision_and_npz_find_the_same(folder: Path, tmp_path: Path) -> None:
    call(embed.command, folder / "run", folder / "shards", "-o", tmp_path / "half", "--format", "npz")
    half, full = read_index(tmp_path / "half"), read_index(folder / "index")
    assert half.vectors.dtype == np.float16
    assert np.abs(half.vectors - full.vectors).max() < 1e-3
    rows = range(15)
    assert half.rows(rows) == full.rows(rows)


def test_windows_of_videos_are_found_with_their_times_and_drawn(folder: Path, tmp_path: Path) -> None:
    words = (folder / "run", folder / "videos", "-o", tmp_path / "index", "--window", "1", "--stride", "0.5")
    told = call(embed.command, *words, "--batch", "2").stdout  # so that windows of one video are several units
    index = read_index(tmp_path / "index")
    rows = index.rows(range(len(index)))
    spans = {
        key: [(row["start_s"], row["end_s"]) for row in rows if row["key"] == key]
        for key in dict.fromkeys(r["key"] for r in rows)
    }
    starts = {f"below/v{n}.mp4": np.arange(3 + 2 * n) / 2 for n in range(3)}
    assert list(spans) == list(starts)
    for key, expected in starts.items():
        assert np.allclose(spans[key], np.stack([expected, expected + 1], axis=1))
    assert "left out: 1" in told
    left_out = list(csv.DictReader((tmp_path / "index" / "left_out.csv").open()))
    assert [(row["key"], "not a video" in row["reason"]) for row in left_out] == [("bad.mp4", True)]

    found = call(search.command, tmp_path / "index", "clip 3", "--top", "3", "--picture", tmp_path / "hits.png").stdout
    assert "below/v" in found
    assert "0:0" in found  # seconds
    with Image.open(tmp_path / "hits.png") as picture:
        assert picture.height > 3 * 96


def test_a_video_finds_itself(folder: Path, tmp_path: Path) -> None:
    pictures = [np.random.default_rng(n).integers(0, 255, (32, 32, 3), np.uint8) for n in range(8)]
    for number in range(4):
        write_video(tmp_path / "videos" / f"v{number}.mp4", size=(32, 32), pictures=pictures[number : number + 4])
    call(embed.command, folder / "run", tmp_path / "videos", "-o", tmp_path / "index", "--dtype", "float32")
    index = read_index(tmp_path / "index")
    hits = hits_of(tmp_path / "index", "--video", tmp_path / "videos" / "v2.mp4", "--top", "4")
    products = index.vectors @ index.vectors[2]
    assert [hit["key"] for hit in hits] == [f"v{n}.mp4" for n in np.argsort(-products)]


def test_a_clip_that_cannot_be_read_is_left_out_and_one_without_caption_is_not(folder: Path, tmp_path: Path) -> None:
    def members(number: int) -> dict[str, bytes]:
        damaged = {"001.png": b"no picture", "004.png": b"no picture"} if number == 2 else {}
        return {**png_frames(number), **damaged, **({"json": b"{}"} if number == 4 else {})}

    write_shards(tmp_path / "set", (6,), members=members)
    call(embed.command, folder / "run", tmp_path / "set", "-o", tmp_path / "index", "--captions")
    clips, captions = read_index(tmp_path / "index"), read_index(tmp_path / "index", "captions")
    assert [row["item"] for row in clips.rows(range(5))] == [0, 1, 3, 4, 5]
    assert [row["item"] for row in captions.rows(range(4))] == [0, 1, 3, 5]
    assert key_of_sample(2) in (tmp_path / "index" / "left_out.csv").read_text()


def test_a_hit_whose_item_is_another_clip_now_is_not_shown_in_its_place(folder: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "set", (6,))
    call(embed.command, folder / "run", tmp_path / "set", "-o", tmp_path / "index")
    shutil.rmtree(tmp_path / "set")
    write_shards(tmp_path / "set", (6,), key=lambda number: f"other-{number:04d}")
    told = error_of(search.command, tmp_path / "index", "clip", "--rerank", "3")
    assert "is now other-000" in told
    assert "changed since it was embedded" in told


def test_linked_videos_are_embedded_by_their_names_and_links_to_nothing_are_left_out(
    folder: Path, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for number in range(2):
        (links / f"film{number}.mp4").symlink_to(folder / "videos" / "below" / f"v{number}.mp4")
    call(embed.command, folder / "run", *sorted(links.iterdir()), "-o", tmp_path / "named")
    (links / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    told = call(embed.command, folder / "run", links, "-o", tmp_path / "index").stdout
    for name in ("named", "index"):
        rows = read_index(tmp_path / name).rows(range(2))
        assert [row["key"] for row in rows] == ["film0.mp4", "film1.mp4"]
    assert "gone.mp4 (a link that leads nowhere)" in told
    assert hits_of(tmp_path / "index", "clip", "--rerank", "2")


def test_a_video_whose_name_is_not_utf8_is_left_out(folder: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "videos" / "a.mp4")
    shutil.copy(os.fsencode(video), os.fsencode(tmp_path / "videos") + b"/b\xff.mp4")
    told = call(embed.command, folder / "run", tmp_path / "videos", "-o", tmp_path / "index").stdout
    assert "left out: 1" in told
    assert "not in UTF-8" in (tmp_path / "index" / "left_out.csv").read_text()


@pytest.mark.parametrize("words", [("--window", "nan"), ("--window", "inf"), ("--window", "1", "--stride", "nan")])
def test_windows_have_a_length_in_seconds(folder: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    result = call(embed.command, folder / "run", folder / "videos", "-o", tmp_path / "index", *words)
    assert result.exit_code == 2
    assert "numbers of seconds" in result.stderr


def test_clips_that_a_model_makes_no_numbers_of_are_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SearchModel.embed_clips

    def broken(model: SearchModel, pixels: torch.Tensor) -> torch.Tensor:
        vectors = real(model, pixels)
        vectors[2] = torch.nan
        return vectors

    monkeypatch.setattr(SearchModel, "embed_clips", broken)
    told = call(embed.command, folder / "run", folder / "shards", "-o", tmp_path / "index", "--captions").stdout
    assert f"{key_of_sample(2)} (the model makes a vector of it that is not of numbers" in told
    for kind in ("clips", "captions"):
        index = read_index(tmp_path / "index", kind)
        assert [row["item"] for row in index.rows(range(len(index)))] == [0, 1, *range(3, 15)]


@pytest.mark.parametrize(("file", "words"), [("clips", ["--captions"]), ("captions", [])])
def test_captions_are_not_taken_for_clips(folder: Path, file: str, words: list[str]) -> None:
    told = error_of(search.command, folder / "index" / f"{file}.parquet", "clip 3", *words)
    assert f"holds {file}" in told


def test_other_weights_are_refused_and_the_same_ones_elsewhere_are_not(folder: Path, tmp_path: Path) -> None:
    other = retriever_run(tmp_path, "seed=7", f"task.text.vocabulary={folder / 'vocab.txt'}")
    told = error_of(search.command, folder / "index", "clip 3", "--weights", other)
    assert "was made by other weights" in told
    moved = tmp_path / "moved"
    (folder / "run" / "checkpoints" / "step-00000006").rename(moved)
    try:
        assert "are not there" in error_of(search.command, folder / "index", "clip 3")
        assert hits_of(folder / "index", "clip 3", "--weights", moved)
    finally:
        moved.rename(folder / "run" / "checkpoints" / "step-00000006")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (lambda f: (f / "shards", "--window", "5"), "--window is for video files"),
        (lambda f: (f / "videos", "--captions"), "--captions is for sets"),
        (lambda f: (f / "nothing",), "nothing is not there"),
        (lambda f: (f / "run",), "holds no video files"),
        (lambda f: (f / "videos", "--window", "0.1"), "none of the clips could be embedded"),
    ],
)
def test_sources_that_do_not_fit_are_one_error(
    folder: Path, tmp_path: Path, words: Callable[[Path], tuple[object, ...]], says: str
) -> None:
    assert says in error_of(embed.command, folder / "run", *words(folder), "-o", tmp_path / "index")


def test_a_run_that_learned_no_text_and_weights_without_text_are_refused(folder: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, "data.workers=0")
    write_run(config)
    add_checkpoint(config.folder, config)
    told = error_of(embed.command, config.folder, folder / "shards", "-o", tmp_path / "index")
    assert "does not compare videos with texts" in told
    words = (folder / "run" / "config.yaml", folder / "shards", "-o", tmp_path / "index")
    told = error_of(embed.command, *words, "--weights", config.folder)
    assert "it has read no text" in told


def test_texts_that_say_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "nothing is left of the text '?!'" in error_of(search.command, folder / "index", "?!")
    (tmp_path / "empty.txt").write_text("\n \n")
    told = error_of(search.command, folder / "index", "--queries", tmp_path / "empty.txt")
    assert "holds no query" in told


def test_a_query_video_without_frames_is_refused(folder: Path) -> None:
    told = error_of(search.command, folder / "index", "--video", folder / "videos" / "bad.mp4")
    assert "bad.mp4" in told


def test_a_dry_run_writes_nothing_and_names_what_would_be_embedded(folder: Path, tmp_path: Path) -> None:
    words = (folder / "run", folder / "shards", folder / "videos", "-o", tmp_path / "index", "--dry-run")
    told = call(embed.command, *words).stdout
    assert "items 15" in told
    assert "files 4" in told
    assert not (tmp_path / "index").exists()


def test_a_hit_that_is_gone_has_the_reason_in_its_picture(folder: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    call(embed.command, folder / "run", video, "-o", tmp_path / "index")
    video.unlink()
    call(search.command, tmp_path / "index", "clip", "--picture", tmp_path / "hits.png")
    assert (tmp_path / "hits.png").exists()


def test_the_first_hits_are_put_in_the_order_of_the_matching_head(folder: Path) -> None:
    plain = hits_of(folder / "index", "clip 3", "--top", "6")
    hits = hits_of(folder / "index", "clip 3", "--top", "6", "--rerank", "4")
    retriever = build_retriever(retriever_config(folder), folder / "run", device=torch.device("cpu"))
    frames = {number: views[0] for number, views in clips_of(folder / "shards", retriever).views_of(range(15)).items()}
    tokens = retriever.tokenizer(["clip 3"])
    model, states = retriever.model, retriever.encode_texts(tokens)
    with torch.no_grad():
        videos = torch.cat([retriever.encode_videos(frames[n][None]) for n in range(15)])
        fused = model.text_encoder.fuse(states.expand(15, -1, -1), tokens.mask.expand(15, -1), videos)
        logits = model.match(fused)[:, 1]
    assert sorted(hit["item"] for hit in hits[:4]) == sorted(hit["item"] for hit in plain[:4])
    assert [hit["item"] for hit in hits[4:]] == [hit["item"] for hit in plain[4:]]
    assert [hit["match"] for hit in hits[:4]] == sorted((hit["match"] for hit in hits[:4]), reverse=True)
    assert np.allclose([hit["match"] for hit in hits[:4]], [float(logits[hit["item"]]) for hit in hits[:4]], atol=1e-5)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5, 6]


def test_a_clip_that_is_gone_cannot_be_reranked(folder: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4")
    call(embed.command, folder / "run", video, "-o", tmp_path / "index")
    video.unlink()
    told = error_of(search.command, tmp_path / "index", "clip", "--rerank", "3")
    assert "v.mp4, which is to be re-ranked, cannot be read" in told


def test_an_empty_set_and_a_full_disk_are_one_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = write_shards(tmp_path / "empty", ())
    assert "there are no clips in" in error_of(embed.command, folder / "run", empty, "-o", tmp_path / "index")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(index_files, "appearing", full)
    told = error_of(embed.command, folder / "run", folder / "shards", "-o", tmp_path / "index")
    assert "cannot be written" in told
    assert "No space left on device" in told
    monkeypatch.undo()
    monkeypatch.setattr(embed_job, "free_bytes", lambda _: 10)
    told = error_of(embed.command, folder / "run", folder / "shards", "-o", tmp_path / "index")
    assert "GB left" in told


def test_a_run_that_learned_no_matching_is_not_reranked(folder: Path, tmp_path: Path) -> None:
    words = (folder / "run", folder / "shards", "-o", tmp_path / "index", "task.loss_weights.vtm=0")
    call(embed.command, *words)
    assert "does not learn which texts match" in error_of(search.command, tmp_path / "index", "a", "--rerank", "2")
