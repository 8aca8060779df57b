"""What can go wrong for a user, a data set or a machine, in the user's words and with the next step.

`assert` is for our own bugs; these types are for everything else. The exit code of a command says
which kind it was: 0 done, 1 anything else, 2 bad configuration, 75 stopped and resumable, 130 ended by Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Self

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_CONFIG = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: a scheduler may start the same command again
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells say it: 128 and the number of SIGINT


class UmtError(Exception):
    """An error that a user can act on: what happened and where, then `hint`, what to do about it."""

    exit_code = EXIT_FAILED
    agreed = False  # every rank of a job raises it, so that it is enough if the first one says it

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def by_all_ranks(self) -> Self:
        """The same error, marked as one that the ranks have agreed on: each of them raises it."""
        self.agreed = True
        return self

    def __str__(self) -> str:
        return f"{self.what}\n  hint: {self.hint}" if self.hint else self.what


class ConfigError(UmtError):
    """The configuration, or a combination of settings, cannot be run."""

    exit_code = EXIT_BAD_CONFIG


@contextmanager
def of_setting(key: str) -> Iterator[None]:
    """A ConfigError raised inside tells the key that it is about: a model does not know where its numbers come from.

    >>> with of_setting("task.text"):
    ...     raise ConfigError("12 of 12 layers fuse")
    Traceback (most recent call last):
    umt_ds.errors.ConfigError: task.text: 12 of 12 layers fuse
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.what}", hint=error.hint) from error


class DataError(UmtError):
    """A shard, an index, a manifest or an annotation file is missing, damaged or inconsistent."""


class DecodeError(DataError):
    """One video or image cannot be decoded; costs that sample and never the run."""


class CheckpointError(UmtError):
    """A checkpoint is missing, incomplete, altered, or belongs to another configuration."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's files are not those that were written: the checkpoint before it may be taken instead."""


class WeightsError(UmtError):
    """A weight file cannot be read or does not fit the model."""


class MachineError(UmtError):
    """The environment lacks something: a device, a package, disk space, a peer process."""


class NonFiniteError(UmtError):
    """Loss or gradient became NaN or infinite. Exit code 75, so that the job goes on from its last checkpoint; 1 where
    the same step fails again. step: counted from 0, where it is one."""

    def __init__(self, what: str, *, hint: str | None = None, step: int | None = None, again: bool) -> None:
        super().__init__(what, hint=hint)
        self.step = step
        self.exit_code = EXIT_FAILED if again else EXIT_STOPPED


def printable(text: str) -> str:
    """Foreign text for a terminal, which control characters could rewrite: what does not print is spelt out.

    >>> printable("two\\nlines \\x1b[31m")
    'two\\\\nlines \\\\x1b[31m'
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shown(text: str, most: int = 60) -> str:
    """Foreign text for a message: printable, and of its characters at most `most`.

    >>> shown("a" * 99, 5)
    'aaaa…'
    """
    return printable(text if len(text) <= most else text[: most - 1] + "…")


def quoted(text: str, most: int = 80) -> str:
    """Foreign text in quotes for a message, as `repr` spells it, and of its characters at most `most`.

    >>> print(quoted("it's\\n" + "a" * 99, 8))
    "it's\\naa…"
    """
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def some(names: Iterable[object], most: int = 5, *, each: int = 60) -> str:
    """A list for a message: at most `most` of its names, with `each` letters as `shown`, and whether there are more.

    >>> some(["a", "b"]), some(range(9), 2)
    ('a, b', '0, 1, …')
    """
    first = list(islice(names, most + 1))
    return ", ".join([*(shown(str(name), each) for name in first[:most]), *(["…"] if len(first) > most else [])])
