"""Weight files have one door: nobody else opens a torch or safetensors file, and nobody runs a pickle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.paths import REPO

# What reads weights of others, or runs what a file holds, wherever it is called from.
READERS = re.compile(
    r"(?:torch|jit|serialization)\.(?:load|_load|load_inline)|(?:pickle|dill|joblib|cloudpickle)\.loads?|(?:\w+\.)?\w*Unpickler"
    r"|(?:\w+\.)?(?:load_file|safe_open|from_pretrained|load_state_dict_from_url|load_open_clip_checkpoint)"
    r"|hub\.(?:load|load_state_dict_from_url)"
)
# Module → why it may.
MAY = {
    ("umt_ds/weights/file.py", "load_file"): "the door",
    ("umt_ds/engine/checkpoint_files.py", "safe_open"): "state of our own checkpoints, by hash",
    ("umt_ds/data/pipeline.py", "pickle.loads"): "what our own worker process sent",
    # `umt export` runs what it has just written, with the program it is for
    ("umt_ds/exchange/transformers.py", "load_file"): "its own output",
    ("umt_ds/exchange/transformers.py", "AutoModelForImageClassification.from_pretrained"): "its own output",
    ("umt_ds/exchange/transformers.py", "VideoMAEModel.from_pretrained"): "its own output",
    ("umt_ds/exchange/transformers.py", "BertModel.from_pretrained"): "its own output",
}


def readers_in(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if READERS.fullmatch(called) or READERS.fullmatch(".".join(called.split(".")[-2:])):
                yield node.lineno, called


def test_nobody_else_reads_weight_files() -> None:
    found = {}
    for package in ("umt_ds", "data_prep", "launchers"):
        for path in sorted((REPO / package).rglob("*.py")):
            name = path.relative_to(REPO).as_posix()
            found |= {(name, called): line for line, called in readers_in(path.read_text())}
    assert found.keys() - MAY.keys() == set()
    assert MAY.keys() - found.keys() == set(), "an exception that nobody needs any more"


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "from torch import jit\njit.load('x')",
        "import pickle\npickle.load(file)",
        "pickle.Unpickler(file).load()",
        "from safetensors.torch import load_file\nload_file('x')",
        "import safetensors.torch\nsafetensors.torch.load_file('x')",
        "BertModel.from_pretrained('bert')",
    ],
)
def test_another_door_would_be_seen(source: str) -> None:
    assert list(readers_in(source))
