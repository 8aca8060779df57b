"""Class lists: a set whose labels count in another order than the head is refused by name."""

from __future__ import annotations

import pytest

from umt_ds.errors import ConfigError
from umt_ds.tasks.recognition.classes import check_class_list

HEAD = ("archery", "biking", "crying")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("archery", "crying", "biking"), "class 1 is 'crying' .* 'biking' .*: the same 3 classes in another order"),
        (("archery", "biking", "diving"), "class 2 is 'diving' in its class list, and 'crying' in that of the head$"),
        (HEAD[:2], "has 2 classes, that of the head 3"),
        ((*HEAD, "diving"), "has 4 classes, that of the head 3"),
        (("archery", "crying"), "class 1 is 'crying' .*; its class list has 2 classes, that of the head 3"),
    ],
)
def test_another_class_list_is_refused_with_the_first_difference(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_class_list(names, HEAD, where="evaluation.val.shards: /sets/val")
    assert raised.value.what.startswith("evaluation.val.shards: /sets/val: ")
    assert raised.match(said.replace("$", "\n"))


def test_the_same_list_passes_and_so_do_lists_without_names_and_other_spellings_of_kinetics() -> None:
    check_class_list(HEAD, HEAD, where="a set")
    check_class_list((), HEAD, where="a set without a list")
    check_class_list(HEAD, (), where="a head without names")
    check_class_list(("tying tie", "biking"), ("tying necktie", "biking"), where="K600's spelling and K710's")
