"""The folder of `--to safetensors`: its layout is that of `weights.exported`, and here it is written.

`read_folder` is what others (the Python API) call to read one.
"""

from __future__ import annotations

import json
from pathlib import Path

from umt_ds.config.show import as_tree, as_yaml
from umt_ds.data.vocabulary import WordPieces, read_vocabulary
from umt_ds.exchange.source import Source
from umt_ds.weights.exported import CLASSES, CONFIG, SPLITTING, VOCABULARY, ModelFolder, read_model_folder
from umt_ds.whole_file import write_whole

_HEAD = """\
# The settings of the run that trained the weights beside this file. Commands take the folder where they take a run; to
# train from these weights, name the folder as init.weights of a run.
"""


def read_folder(path: Path) -> ModelFolder:
    """What a folder of `umt export --to safetensors` says of itself: settings, classes, vocabulary, card. Its weights:
    `weights.load.read_state(path)`. Raises WeightsError."""
    return read_model_folder(path)


def write_settings(source: Source, folder: Path) -> None:
    """config.yaml, and beside it the vocabulary and the names of classes, where it has them."""
    tree = as_tree(source.config)
    tree["init"], tree["run_dir"] = {}, None
    for judged in tree["evaluation"].values():
        judged["ema"] = False  # there are no other weights than these, averaged or not
    if source.vocabulary is not None:
        tree["task"]["text"]["vocabulary"] = VOCABULARY
        write_vocabulary(read_vocabulary(source.vocabulary), folder)
    write_whole(folder / CONFIG, _HEAD + as_yaml(tree))
    if source.classes:
        write_whole(folder / CLASSES, json.dumps(list(source.classes), ensure_ascii=False, indent=0) + "\n")


def write_vocabulary(pieces: WordPieces, folder: Path) -> None:
    """vocab.txt, and how text is split where that is not BERT's usual way. Read again it is the same."""
    words = sorted(pieces.numbers, key=lambda token: pieces.numbers[token])
    write_whole(folder / VOCABULARY, "".join(f"{word}\n" for word in words))
    if pieces != WordPieces(pieces.numbers):
        said = {"strip_accents": pieces.strip_accents, "tokenize_chinese_chars": pieces.split_signs}
        write_whole(folder / SPLITTING, json.dumps({"do_lower_case": True, **said}, indent=1) + "\n")
