"""A command that is killed, or whose disk fails, at any of its file operations, in the process of a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


OPERATIONS = ("os.replace", "os.unlink", "os.mkdir")


@contextmanager
def stopped_at(step: int, error: BaseException) -> Iterator[list[str]]:
    """`error` instead of the file operation number `step`, and instead of all after it; gives those that were done."""
    done: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            real = getattr(os, name.removeprefix("os."))

            def counted(path: Any, *rest: Any, real: Any = real, name: str = name, **how: Any) -> Any:
                if len(done) >= step:
                    raise error
                done.append(f"{name} {path}")
                return real(path, *rest, **how)

            patch.setattr(name, counted)
        yield done
