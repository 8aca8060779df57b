"""What pages and comments point to is there: headings of METHOD.md, files that a README names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import REPO

PACKAGES = ("umt_ds", "data_prep", "launchers", "ds_configs", "tests")
METHOD = REPO / "umt_ds" / "METHOD.md"
# Pages of the people who planned the house; a reader of the repository does not have them.
ELSEWHERE = ("SPE" + "C ", "ARCHITEC" + "TURE", "PEER" + "S.md")
POINTER = re.compile(r'METHOD\.md((?:, "[^"]+")+)')
PATH = re.compile(r"`((?:[\w.-]+/)+|(?:[\w.-]+/)*[\w-]+\.(?:py|md))`")  # folders; sources and pages


def files_of_the_repository() -> list[Path]:
    """Pages and settings at the root, and all that lies in the packages."""
    inside = [path for package in PACKAGES for path in sorted((REPO / package).rglob("*"))]
    found = [path for path in (*sorted(REPO.iterdir()), *inside) if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and path.name != ".git"]


def text_of(path: Path) -> str:
    """Its text on one line, without the marks of comments at the line breaks; a binary file has none."""
    try:
        return re.sub(r"\s*\n[ \t]*#?[ \t]*", " ", path.read_text())
    except UnicodeDecodeError:
        return ""


def headings(page: str) -> set[str]:
    return {line.lstrip("#").strip() for line in page.splitlines() if line.startswith("#")}


TEXTS = {path.relative_to(REPO).as_posix(): text_of(path) for path in files_of_the_repository()}
READMES = [name for name in TEXTS if name.endswith(".md") and not name.endswith(("RESULTS.md", "METHOD.md"))]


def test_no_file_cites_a_page_that_the_repository_does_not_hold() -> None:
    assert [(name, page) for name, text in TEXTS.items() for page in ELSEWHERE if page in text] == []


def test_every_pointer_into_method_names_a_heading() -> None:
    pointers = [
        (name, heading)
        for name, text in TEXTS.items()
        for found in POINTER.findall(text)
        for heading in re.findall(r'"([^"]+)"', found)
    ]
    assert len(pointers) > 80, "the search finds them"
    assert [pointer for pointer in pointers if pointer[1] not in headings(METHOD.read_text())] == []


def is_missing(name: str, *, beside: Path) -> bool:
    """A path, from the root, from the page's folder or from a package, that should be there and is not.

    A bare file name may lie anywhere. A folder counts if its first part is ours: `RUN/stacks/` is an example.
    """
    if "/" not in name:
        return not any(known.endswith(f"/{name}") or known == name for known in TEXTS)
    roots = [REPO, beside, REPO / "umt_ds", REPO / "data_prep"]
    is_ours = name.endswith((".py", ".md")) or any((root / name.split("/")[0]).exists() for root in roots)
    return is_ours and not any((root / name).exists() for root in roots)


@pytest.mark.parametrize("readme", READMES)
def test_every_path_that_a_readme_names_exists(readme: str) -> None:
    named = PATH.findall((REPO / readme).read_text())
    assert [name for name in named if is_missing(name, beside=(REPO / readme).parent)] == []


def test_a_path_or_heading_that_is_not_there_is_seen() -> None:
    beside = REPO / "umt_ds"
    assert [is_missing(name, beside=beside) for name in ("tasks/stage1.py", "tasks/nothing/", "nothing.py")] == [
        True
    ] * 3
    assert not any(is_missing(name, beside=beside) for name in ("tasks/stage1/task.py", "RUN/stacks/", "loop.py"))
    assert POINTER.findall(f'see {METHOD.name}, "Masking", "Nothing".') == [', "Masking", "Nothing"']
    assert {"Masking", "Nothing"} - headings(METHOD.read_text()) == {"Nothing"}
