"""Where the checkout lies, and the real inputs beside it, without which the tests that read them are skipped."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SHARED = REPO.parent / "shared"
