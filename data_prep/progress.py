"""One look for all progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm[Any]:
    """A tqdm bar on stderr with rate and ETA; into a log file it writes a line each ten seconds only."""
    return tqdm(items, mininterval=0.1 if sys.stderr.isatty() else 10.0, **options)
