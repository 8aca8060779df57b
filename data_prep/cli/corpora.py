"""The commands that make sets of videos, one for each corpus or kind of list. With captions: `captioned.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.cli.making import BuildJob, set_options
from data_prep.cli.options import (
    FILE,
    FOLDER,
    LIST,
    NEW_FOLDER,
    Number,
    before_options,
    classes,
    given,
    keys,
)
from umt_ds.errors import ConfigError

if TYPE_CHECKING:
    from data_prep.sources.before import Before
    from data_prep.sources.named_classes import Part
    from data_prep.sources.path_label import Split
    from data_prep.sources.scan import Keys, Kind

LOCAL_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(short_help="Shards of any folder of videos.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--kind", default="video", type=click.Choice(["video", "image", "frames"]), help="What to look for.")
@click.option("--captions", type=FILE, help="csv with the columns file,caption[,label]; others are not used.")
@click.option("--labels", type=FILE, help="csv with the columns file,label: class names, or whole numbers.")
@click.option("--spans", type=FILE, help="csv with file,start,end[,caption][,label] (seconds): a clip for each row.")
@click.option("--first-seconds", type=Number(0, min_open=True), help="Of each video, only so many from its start.")
@classes
@keys
@before_options
@set_options
def folder(
    videos: Path,
    out: Path,
    kind: Kind,
    captions: Path | None,
    labels: Path | None,
    spans: Path | None,
    first_seconds: float | None,
    classes: Path | None,
    keys: Keys,
    before: Before,
    making: BuildJob,
) -> None:
    """Make shards in OUT of every video below VIDEOS. Both may be URLs, such as s3://bucket/videos.

    --kind image takes pictures instead, --kind frames folders of numbered pictures (img_00001.jpg). --spans takes
    parts of videos, such as the scenes that `umt-data scenes` finds.

    Give the same command again to continue after an interruption, or when more videos have arrived: they become
    further shards. OUT/bad.csv says which files became no sample, and why.

    \b
    Example:
      umt-data folder ~/videos ~/shards/mine --captions captions.csv --limit 100
      umt-data folder s3://raw/videos s3://shards/mine --engine slurm --tasks 64 --workers 8 --logs ~/logs
      umt-data folder ~/clips/val ~/shards/mine/val --labels val.csv
      umt-data folder ~/test ~/shards/test --captions test.csv --views retrieval:12
      umt-data folder ~/films ~/shards/films --spans scenes.csv --min-side 256
      umt-data folder ~/didemo ~/shards/didemo-test --first-seconds 30 --views retrieval:12
    """
    from data_prep.sources.before import leave_out
    from data_prep.sources.folder import list_folder
    from data_prep.sources.spans import list_spans

    if spans and (others := given("kind", "captions", "labels", "first_seconds")):
        raise ConfigError(
            f"--spans says what the clips are, and so does {' and '.join(others)}",
            hint="its columns hold captions and labels, too",
        )
    if spans:
        listing = list_spans(videos, spans=spans, classes=classes, keys=keys)
    else:
        said = {"captions": captions, "labels": labels, "classes": classes}
        listing = list_folder(videos, **said, kind=kind, keys=keys, first_s=first_seconds)
    making.make(leave_out(listing, before, workers=making.run.workers), out)


@click.command("list", short_help="Any list of `path label`.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--rows", type=FILE, required=True, help="Lines path,label or path,number of frames,label; no header.")
@click.option(
    "--split", type=click.Choice(["comma", "space", "tab"]), help="What stands between them. [default: guessed]"
)
@classes
@keys
@before_options
@set_options
def list_(
    videos: Path,
    out: Path,
    rows: Path,
    split: Split | None,
    classes: Path | None,
    keys: Keys,
    before: Before,
    making: BuildJob,
) -> None:
    """Make shards in OUT of the videos (or folders of frames) below VIDEOS that a list names, with its labels.

    Such lists are published for K400, UCF101, HMDB51, Something-Something and Moments in Time. --classes gives
    names to the numbers and never changes them.

    \b
    Example:
      umt-data list ~/hmdb51 ~/shards/hmdb51-val --rows hmdb51_split1_val.txt --classes hmdb51_label_map.txt \\
        --views recognition:8x4
    """
    from data_prep.sources.before import leave_out
    from data_prep.sources.path_label import list_path_label

    listing = list_path_label(videos, rows=rows, split=split, classes=classes, keys=keys)
    making.make(leave_out(listing, before, workers=making.run.workers), out)


@click.command(short_help="Kinetics-400, -600 or -700 by an official csv.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--csv", type=FILE, required=True, help="Official csv: label,youtube_id,time_start,time_end,split.")
@classes
@before_options
@set_options
def kinetics(videos: Path, out: Path, csv: Path, classes: Path | None, before: Before, making: BuildJob) -> None:
    """Make shards in OUT of the Kinetics clips below VIDEOS that an official csv names.

    Rows without a file are listed in OUT/bad.csv as missing; they do not count against --max-bad.

    \b
    Example:
      umt-data kinetics ~/k400/val ~/shards/k400-val --csv kinetics400_validate.csv --views recognition:8x4
    """
    from data_prep.sources.before import leave_out
    from data_prep.sources.kinetics import list_kinetics

    listing = list_kinetics(videos, csv=csv, classes=classes)
    making.make(leave_out(listing, before, workers=making.run.workers), out)


@click.command(short_help="Kinetics-710: the three merged, without leaks.")
@click.argument("out", type=NEW_FOLDER)
@click.option(
    "--set",
    "sets",
    nargs=3,
    multiple=True,
    required=True,
    type=(str, FILE, FOLDER),
    metavar="NAME CSV VIDEOS",
    help="A list to merge: a name for it, its official csv, its videos; repeat. Earlier ones are preferred.",
)
@click.option("--against", multiple=True, type=LIST, help="Leave out every video of this csv or set; repeat.")
@click.option("--leaks", type=NEW_FOLDER, help="Write leaks.csv and exclude.txt there.")
@set_options
def k710(
    out: Path, sets: tuple[tuple[str, Path, Path], ...], against: tuple[Path, ...], leaks: Path | None, making: BuildJob
) -> None:
    """Make shards in OUT of Kinetics-710: each video of the lists once, with the labels of published K710 heads.

    Name the validation and test lists of all three sets with --against: their videos are left out of training.
    OUT/bad.csv says of every row why it is not in the set.

    \b
    Example:
      umt-data k710 ~/shards/k710 --set k400 k400/train.csv ~/k400 --set k600 k600/train.csv ~/k600 \\
        --set k700 k700/train.csv ~/k700 --against k400/val.csv --against k600/val.csv --against k700/val.csv
    """
    from data_prep.leaks.report import LeakReport, write_found
    from data_prep.sources.k710 import KineticsSet, list_k710

    listing, report = list_k710([KineticsSet(*one) for one in sets], against=against)
    click.echo(report.table(), err=True)
    if leaks and not making.dry_run:
        write_found(LeakReport(out, against, report), leaks)
    making.make(listing, out)


@click.command(short_help="Something-Something V2 by its official json.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--json", "annotations", type=FILE, required=True, help="train.json, validation.json or test.json.")
@click.option("--labels", type=FILE, required=True, help="labels.json: the classes and their numbers.")
@set_options
def something(videos: Path, out: Path, annotations: Path, labels: Path, making: BuildJob) -> None:
    """Make shards in OUT of the Something-Something V2 clips below VIDEOS (ID.webm).

    The class is the template, the caption the filled-in sentence. Left and right are classes: train without flip.

    \b
    Example:
      umt-data something ~/ssv2 ~/shards/ssv2-train --json labels/train.json --labels labels/labels.json
      umt-data something ~/ssv2 ~/shards/ssv2-val --json labels/validation.json --labels labels/labels.json \\
        --views ssv2:8x2
    """
    from data_prep.sources.something import list_something

    making.make(list_something(videos, annotations=annotations, labels=labels), out)


@click.command(short_help="UCF101 by its official split files.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--rows", type=FILE, required=True, help="trainlist01.txt, testlist01.txt or those of another split.")
@click.option("--classes", type=FILE, required=True, help="classInd.txt: the classes and their numbers.")
@set_options
def ucf101(videos: Path, out: Path, rows: Path, classes: Path, making: BuildJob) -> None:
    """Make shards in OUT of the UCF101 clips below VIDEOS that an official split names. Classes count from 0.

    \b
    Example:
      umt-data ucf101 ~/UCF-101 ~/shards/ucf101-train --rows trainlist01.txt --classes classInd.txt
      umt-data ucf101 ~/UCF-101 ~/shards/ucf101-val --rows testlist01.txt --classes classInd.txt --views recognition:8x4
    """
    from data_prep.sources.named_classes import list_ucf101

    making.make(list_ucf101(videos, rows=rows, classes=classes), out)


@click.command(short_help="HMDB51 by its official split files.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option(
    "--splits", type=LOCAL_FOLDER, required=True, help="Folder of the files NAME_test_split1.txt, one for a class."
)
@click.option("--number", default=1, type=click.IntRange(1, 3), show_default=True, help="Which of the three splits.")
@click.option("--part", type=click.Choice(["train", "test"]), required=True, help="Which of its parts.")
@set_options
def hmdb51(videos: Path, out: Path, splits: Path, number: int, part: Part, making: BuildJob) -> None:
    """Make shards in OUT of the HMDB51 clips below VIDEOS that an official split has in one part.

    Classes are numbered in alphabetical order, from 0.

    \b
    Example:
      umt-data hmdb51 ~/hmdb51 ~/shards/hmdb51-train --splits testTrainMulti_7030_splits --part train
      umt-data hmdb51 ~/hmdb51 ~/shards/hmdb51-val --splits testTrainMulti_7030_splits --part test \\
        --views recognition:8x4
    """
    from data_prep.sources.named_classes import list_hmdb51

    making.make(list_hmdb51(videos, splits=splits, split=number, part=part), out)


@click.command(short_help="Moments in Time, V1 or V2, by its official csv.")
@click.argument("videos", type=FOLDER)
@click.argument("out", type=NEW_FOLDER)
@click.option("--csv", type=FILE, required=True, help="trainingSet.csv or validationSet.csv.")
@click.option("--classes", type=FILE, required=True, help="moments_categories.txt: the classes and their numbers.")
@set_options
def moments(videos: Path, out: Path, csv: Path, classes: Path, making: BuildJob) -> None:
    """Make shards in OUT of the clips of Moments in Time below VIDEOS (CLASS/FILE) that an official csv names.

    \b
    Example:
      umt-data moments ~/mit/training ~/shards/mit-train --csv trainingSet.csv --classes moments_categories.txt
      umt-data moments ~/mit/validation ~/shards/mit-val --csv validationSet.csv --classes moments_categories.txt \\
        --views recognition:8x4
    """
    from data_prep.sources.named_classes import list_moments

    making.make(list_moments(videos, csv=csv, classes=classes), out)


@click.command("classes", short_help="Print the classes of Kinetics.")
@click.argument("name", type=click.Choice(["k400", "k600", "k700", "k710"]))
@click.option("--in-k710", is_flag=True, help="As JSON: for each class the row of a K710 head.")
def classes_(name: str, in_k710: bool) -> None:
    """Print the classes of a Kinetics set, one a line, in the order in which published heads number them.

    \b
    Example:
      umt-data classes k600 > k600.txt; umt-data kinetics ~/k600 ~/shards/k600 --csv val.csv --classes k600.txt
      umt-data classes k400 --in-k710
    """
    from typing import cast

    from umt_ds.classes import ClassList, classes, k710_numbers

    names = classes(cast("ClassList", name))
    click.echo(str(k710_numbers(names)) if in_k710 else "\n".join(names))


COMMANDS = (folder, list_, kinetics, k710, classes_, something, ucf101, hmdb51, moments)
