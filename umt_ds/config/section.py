"""The base of every section of a run, and what tells a setting of an experiment from one of running it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable, and a key that is not declared is an error."""

    # never infinite, never NaN; the other bounds of numbers are in values.py or at their field
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Running:
    """The type of RUNNING."""


# `field: Annotated[Kind, RUNNING]`: another value of it, or of anything inside it, is the same experiment. A path of
# weights or shards is such a setting, too: what lies there is compared by content (fingerprints in the manifest of a
# checkpoint). Every other setting affects results (`show.numbers_of`).
RUNNING = Running()


def refuse_backwards(name: str, pair: tuple[float, float]) -> None:
    """Raises ValueError, for pydantic, where a pair does not rise."""
    if not pair[0] < pair[1]:
        raise ValueError(f"{name} begins at {pair[0]} and ends at {pair[1]}: the first is the smaller one")
