"""The command that makes sets of parquet files with pictures or videos in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.cli.making import BuildJob, set_options
from data_prep.cli.options import FOLDER, NEW_FOLDER, before_options, classes

if TYPE_CHECKING:
    from data_prep.sources.before import Before


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


COMMANDS = (parquet,)
