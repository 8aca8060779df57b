"""What a file is, told by its first bytes: weights in one of three forms, or something else, called by its name."""

from __future__ import annotations

import json
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import Any, Literal

from umt_ds.errors import WeightsError
from umt_ds.weights.names import some

Form = Literal["safetensors", "torch", "index"]
"""index: the JSON file of `save_pretrained` that says which tensor lies in which file."""

_LOOK = 4096  # bytes
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".aria2", ".tmp")
_TORCH_OLD = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the number that torch.save before 1.6 begins with, as a pickle
_MAX_HEADER = 1 << 48  # bytes; eight letters of text, read as a number, are more

_AGAIN = "download or copy it again"
_FILE_ITSELF = (
    "take the link of the file itself (on huggingface.co /resolve/main/, not /blob/main/), and log in if need be"
)
_UNPACK = "unpack it, and name the weight file inside"
_CONVERT = "name the model's safetensors or PyTorch file; to convert one, use the library that wrote it"
_OTHER_PATH = "check the path"
SAVE_WEIGHTS = (
    "where it was made, save the weights alone: torch.save(model.state_dict(), …), "
    "or safetensors.torch.save_file(model.state_dict(), …)"
)
# (offset, bytes there, what it is, what to do)
_OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS: the file itself was not fetched",
        "git lfs pull in its folder",
    ),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\x00", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x93NUMPY", "an array of NumPy", _CONVERT),
    (0, b"GGUF", "a GGUF file, as llama.cpp reads them", _CONVERT),
    (0, b"lmgg", "a GGML file, as llama.cpp reads them", _CONVERT),
    (0, b"tjgg", "a GGML file, as llama.cpp reads them", _CONVERT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras and TensorFlow write them", _CONVERT),
    (4, b"TFL3", "a TensorFlow Lite model", _CONVERT),
    (0, b"\x89PNG", "a picture", _OTHER_PATH),
    (0, b"\xff\xd8\xff", "a picture", _OTHER_PATH),
    (4, b"ftyp", "a video", _OTHER_PATH),
    (0, b"%PDF", "a PDF", _OTHER_PATH),
    (0, b"PAR1", "a Parquet table", _OTHER_PATH),
    (0, b"\x7fELF", "a program", _OTHER_PATH),
)


def form_of(path: Path) -> Form:
    """How the weights in a file are written, whatever its name. Reads little, runs nothing.

    Raises WeightsError where there is no file, or something else than weights: by its name, and with what to do.
    """
    start = _first_bytes(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER:
        return "safetensors"
    if start.startswith(b"PK"):
        return _inside_zip(path)
    if start.startswith(b"\x80") and _TORCH_OLD in start[:32]:
        return "torch"
    if _leading(start).startswith((b"{", b"[")):
        return _inside_json(path)
    what, hint = _kind(path, start)
    raise no_weights(path, what, hint)


def no_weights(path: Path, what: str, hint: str) -> WeightsError:
    """The error for a file that is `what`, and no weights."""
    return WeightsError(f"{path} is no weight file but {what}", hint=_unfinished(path) or hint)


def damaged(path: Path, reason: object) -> WeightsError:
    """The error for a file that is what it should be, and broken. reason: a library's, cut short."""
    said = " ".join(str(reason).split())[:300]
    return WeightsError(f"{path} is damaged or cannot be read: {said}", hint=_unfinished(path) or _AGAIN)


def _unfinished(path: Path) -> str | None:
    """A hint, where the name of a file says why it is no good."""
    return "its name is that of an unfinished download: finish it" if path.suffix in _UNFINISHED else None


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object. Raises WeightsError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        if (other := _named(_first_bytes(path))) is not None:
            raise WeightsError(f"{path} is no JSON but {other[0]}", hint=_unfinished(path) or other[1]) from error
        raise damaged(path, error) from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds {_json_name(found)}, not an object of names and values", hint=_AGAIN)
    return found


def _first_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would make us wait for ever
            raise WeightsError(f"{path} is not a file", hint="name a weight file, or the folder of a model or run")
        with path.open("rb") as file:
            return file.read(_LOOK)
    except FileNotFoundError:
        link = f": it is a link to {os.readlink(path)}, which is gone" if path.is_symlink() else ""
        hint = "check the path; nothing is downloaded at run time"
        raise WeightsError(f"no weight file {path}{link}", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{path} cannot be read: {reason}", hint="check the path, and who may read it") from error


def _leading(start: bytes) -> bytes:
    """In lower case, without byte order mark and leading space."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def _named(start: bytes) -> tuple[str, str] | None:
    """What first bytes name for certain, and what to do."""
    for offset, mark, what, hint in _OTHERS:
        if start.startswith(mark, offset):
            return what, hint
    if not start:
        return "empty", _AGAIN
    if not start.strip(b"\x00"):
        return "nothing but zeros, as a broken-off copy leaves them", _AGAIN
    if _leading(start).startswith((b"<!doctype html", b"<!--", b"<html", b"<head", b"<body", b"<script")):
        return "a web page (HTML)", _FILE_ITSELF
    if _leading(start).startswith((b"<?xml", b"<error>")):
        return "XML, as stores answer where they have no file", f"{_AGAIN}: {_FILE_ITSELF}"
    return None


def _kind(path: Path, start: bytes) -> tuple[str, str]:
    """What a file is that is neither weights nor a container, and what to do."""
    if (named := _named(start)) is not None:
        return named
    if start[:1] == b"\x08" and start[2:3] == b"\x12":  # fields 1 and 2 of a protocol buffer
        return "an ONNX or TensorFlow graph", _CONVERT
    if start.startswith(b"\x80"):
        return "a pickle that torch.save did not write, and loading it could run code", SAVE_WEIGHTS
    if _is_text(start):
        return f"text that begins {start[:40].decode(errors='ignore')!r}", f"{_OTHER_PATH}, or {_AGAIN}"
    if re.search(r"\.(data-\d{5}-of-\d{5}|meta|index)$", path.name):
        return "part of a TensorFlow checkpoint", _CONVERT
    if start[0] in range(0x81, 0x90) and start[1:2] >= b"\xa0":  # a mapping whose first key is a text
        return "a MessagePack file, as Flax writes them", _CONVERT
    return f"none of the kinds known here: it begins with the bytes {start[:8].hex(' ')}", _CONVERT


def _is_text(start: bytes) -> bool:
    try:
        text = start[: _LOOK - 4].decode()
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char.isspace() for char in text)


def _inside_json(path: Path) -> Form:
    if "weight_map" in read_json(path):
        return "index"
    raise no_weights(path, "a JSON file", "name the safetensors or PyTorch file beside it, or its folder")


def _inside_zip(path: Path) -> Form:
    """torch.save and torch.jit.save write a zip archive with a `data.pkl`; others write other things into one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise damaged(path, f"a zip archive, as torch.save writes them, that is cut off or broken ({error})") from error
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        raise no_weights(path, "arrays of NumPy (npz)", _CONVERT)
    raise no_weights(path, f"a zip archive of other files ({some(names) or 'it is empty'})", _UNPACK)


def _json_name(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing (null)")
