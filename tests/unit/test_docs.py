"""What pages and comments point to is there: headings of METHOD.md, files that a README names, links between pages.

(Keys, commands and messages that pages name: test_messages.py, test_doc_commands.py.)"""

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


# ---------------------------------------------------------------- links between pages

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors_of(page: Path) -> set[str]:
    """What a link after `#` may name, as GitHub makes it of headings."""
    return {
        re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        for heading in headings(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    }


def broken_links(page: Path, text: str) -> list[str]:
    """Links that lead to no file, or to no heading of it."""
    broken = []
    for target, anchor in LINK.findall(re.sub(r"\]\(\s+", "](", text)):
        to = page.parent / target if target else page
        if not to.exists() or (anchor and anchor not in anchors_of(to)):
            broken.append(f"{target}#{anchor}")
    return broken


@pytest.mark.parametrize("readme", READMES)
def test_every_link_of_a_page_leads_somewhere(readme: str) -> None:
    assert broken_links(REPO / readme, (REPO / readme).read_text()) == []


def test_a_link_that_leads_nowhere_is_seen() -> None:
    text = "[a](umt_ds/README.md#floors) [b](umt_ds/README.md#flors) [c](umt_ds/NOTHING.md) [d](#nothing)"
    assert broken_links(REPO / "README.md", text) == ["umt_ds/README.md#flors", "umt_ds/NOTHING.md#", "#nothing"]


def test_every_page_is_reached_from_the_first_one() -> None:
    """A newcomer follows links; a page that none leads to is not there."""
    reached, to_visit = set(), [REPO / "README.md"]
    while to_visit:
        page = to_visit.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        to_visit += [page.parent / target for target, _ in LINK.findall(page.read_text()) if target]
    assert [name for name in READMES if (REPO / name).resolve() not in reached] == []


def test_pictures_of_pages_are_small() -> None:
    pictures = [path for path in (REPO / "pictures").iterdir() if path.is_file()]
    assert {path.name for path in pictures} == {"flow.svg", "report.png"}
    assert max(path.stat().st_size for path in pictures) < 200_000
