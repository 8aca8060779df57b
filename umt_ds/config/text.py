"""Text files that users write."""

from __future__ import annotations

from pathlib import Path

from umt_ds.errors import ConfigError


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8, without the mark that some editors put in front. `what` is its kind, in words.

    Raises ConfigError naming the file, and the line that is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{what} {path}, line {line}: not UTF-8 text", hint="save the file as UTF-8") from None
