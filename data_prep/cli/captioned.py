"""The commands that make sets of pictures and videos with captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from data_prep.cli.making import BuildJob, set_options
from data_prep.cli.options import FILE, FOLDER, LIST, NEW_FOLDER, before_options, classes, keys

if TYPE_CHECKING:
    from data_prep.sources.before import Before
    from data_prep.sources.scan import Keys


@click.command(short_help="WebVid-2M or -10M by its csv.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--csv", type=LIST, required=True, help="csv with videoid,name[,page_dir], or a folder of such files.")
@keys
@before_options
@set_options
def webvid(videos: Path, out: Path, csv: Path, keys: Keys, before: Before, making: BuildJob) -> None:
    """Make shards in OUT of the WebVid clips below VIDEOS (page_dir/videoid.mp4) with their captions.

    \b
    Example:
      umt-data webvid ~/webvid ~/shards/webvid2m --csv results_2M_train.csv --engine slurm --tasks 64 --workers 8
      umt-data webvid ~/webvid ~/shards/webvid2m --csv results_2M_train.csv --min-words 3 --language en
    """
    from data_prep.sources.before import leave_out
    from data_prep.sources.webvid import list_webvid

    making.make(leave_out(list_webvid(videos, csv=csv, keys=keys), before, workers=making.run.workers), out)


@click.command(short_help="Images (or videos) with captions: COCO, VG, SBU, CC3M.")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--annotations", type=FILE, required=True, help="json, jsonl, tsv, txt or SQLite file: see above.")
@click.option("--media", type=click.Choice(["image", "video"]), help="What names without a suffix mean.")
@click.option("--split", help="Of a file that has several, such as train and val.")
@click.option("--min-area", default=0, type=click.IntRange(0), help="Leave out phrases of regions of fewer pixels.")
@keys
@before_options
@set_options
def pairs(
    folder: Path,
    out: Path,
    annotations: Path,
    media: Literal["image", "video"] | None,
    split: str | None,
    min_area: int,
    keys: Keys,
    before: Before,
    making: BuildJob,
) -> None:
    """Make shards in OUT of the images (or videos) below FOLDER that an annotation file gives captions to.

    \b
    It may be
      COCO's captions_train2014.json, or results [{"image_id": 42, "caption": "one"}]
      [{"image": "a/b.jpg", "caption": "one" or ["one", "two"]}, …] of UMT, VindLU, ALBEF; also "video"
      their SQLite table annos(id, filename, caption)
      {"id", "image", "captions": […]}, one object a line
      {"train": {"00000000": ["one"]}} of CC3M by VIOLET; caption, url, file separated by tabs
      Visual Genome's region_descriptions.json; SBU's sbu-captions-all.json, or its two .txt

    \b
    Example:
      umt-data pairs ~/coco ~/shards/coco --annotations captions_train2014.json
      umt-data pairs ~/vg ~/shards/vg --annotations vg.json
    """
    from data_prep.sources.before import leave_out
    from data_prep.sources.pairs import list_pairs

    listing = list_pairs(folder, annotations=annotations, media=media, split=split, keys=keys, min_area=min_area)
    making.make(leave_out(listing, before, workers=making.run.workers), out)


@click.command(short_help="Parquet files of the Hugging Face hub.")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--split", help="Of a folder that has several, such as train and validation.")
@click.option("--media", help="The column of pictures, videos or their paths.  [default: the one there is]")
@click.option("--caption", help="The column of captions: a text or a list.  [default: caption, text or title]")
@click.option("--label", help="The column of classes.  [default: the one with names, or label]")
@click.option("--key", help="What samples are called by: a column, or a part such as image.path.  [default: file/row]")
@classes
@before_options
@set_options
def parquet(
    folder: Path,
    out: Path,
    split: str | None,
    media: str | None,
    caption: str | None,
    label: str | None,
    key: str | None,
    classes: Path | None,
    before: Before,
    making: BuildJob,
) -> None:
    """Make shards in OUT of the rows of the parquet files below FOLDER, as data sets on the Hugging Face hub are.

    A row has a picture or video as bytes, or the path of a file below FOLDER; nothing is downloaded. Rows of a row
    group stay together, for it is read as a whole. The names of classes are those of the files.

    \b
    Example:
      umt-data parquet ~/food101 ~/shards/food101 --split train
      umt-data parquet ~/flickr30k ~/shards/flickr30k --split test --caption sentences --key image.path
    """
    from data_prep.sources.before import leave_out
    from data_prep.sources.parquet import list_parquet
    from data_prep.sources.parquet_columns import Choice

    listing = list_parquet(folder, split=split, choice=Choice(media, caption, label, key), classes=classes)
    making.make(leave_out(listing, before, workers=making.run.workers), out)


COMMANDS = (webvid, pairs, parquet)
