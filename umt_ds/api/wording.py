"""What commands say of their options, for those who call functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from umt_ds.errors import ConfigError

_OPTION = re.compile(r"--([a-z]+)(?: (\d+))?(?![\w-])")


@contextmanager
def in_python() -> Iterator[None]:
    """A ConfigError that is raised inside names arguments where it named options.

    >>> with in_python():
    ...     raise ConfigError("--top 129: of the 200 answers 128 are scored")
    Traceback (most recent call last):
    umt_ds.errors.ConfigError: top=129: of the 200 answers 128 are scored
    """
    try:
        yield
    except ConfigError as error:
        hint = None if error.hint is None else _as_arguments(error.hint)
        raise ConfigError(_as_arguments(error.what), hint=hint) from error


def _as_arguments(text: str) -> str:
    return _OPTION.sub(lambda option: f"{option[1]}={option[2] or ''}", text)
