"""What the rank of test_recipes.py does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.distributed.calls import train
from tests.support.recipes import smaller, variables, write_models


def enter(folder: str) -> None:
    """Go where the recipes are to be run; all that they want is made, or was."""
    os.environ.update(variables(Path(folder)))
    os.chdir(folder)
    write_models(Path(folder))


def train_recipe(name: str) -> dict[str, Any]:
    """`umt train NAME`, a few steps of it; the exit code, or what broke."""
    try:
        return train(name, smaller(name))
    except Exception as error:
        return {"code": repr(error)}
