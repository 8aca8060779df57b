"""A trained head serves other classes by the rows that stand for them: by name, else by published order."""

from __future__ import annotations

import pytest
import torch

from umt_ds.classes import classes, k710_numbers
from umt_ds.tasks.recognition.classes import HeadClasses
from umt_ds.tasks.recognition.head_rows import NEW, choose_rows, place_rows


def named(*names: str) -> HeadClasses:
    return HeadClasses(len(names), names)


def test_the_same_classes_are_taken_as_they_are() -> None:
    found = choose_rows(named("archery", "biking"), named("archery", "biking"))
    assert (found.rows, found.told, found.doubt) == ((0, 1), "all 2 rows, of the same classes", None)


def test_another_order_is_put_in_order_by_name_and_that_is_said() -> None:
    found = choose_rows(named("archery", "biking", "crying"), named("crying", "archery"))
    assert (found.rows, found.doubt) == ((2, 0), None)
    assert found.told == "2 of its 3 rows, put in their places by the names of the classes"


def test_a_class_without_a_row_begins_anew_and_is_named() -> None:
    found = choose_rows(named("archery", "biking"), named("biking", "my dance", "archery"))
    assert found.rows == (1, NEW, 0)
    assert found.doubt == "head: 1 of the classes have no row there and begin anew: my dance"


def test_kinetics_classes_are_found_in_every_spelling() -> None:
    assert choose_rows(named("archery", "tying necktie"), named("tying tie")).rows == (1,)


def test_where_no_class_is_the_same_the_head_begins_anew_and_that_is_doubted() -> None:
    found = choose_rows(named("archery", "biking"), named("a", "b"))
    assert found.rows == (NEW, NEW)
    assert found.doubt == "the head begins anew: none of the classes of its 2 rows is one of the 2 here"


@pytest.mark.parametrize("small", ["k400", "k600", "k700"])
def test_a_published_head_of_710_rows_serves_the_sets_of_kinetics(small: str) -> None:
    """With the class list of the set, and without one by the number of its classes."""
    names = classes(small)  # type: ignore[arg-type]
    for head in (HeadClasses(len(names), names), HeadClasses(len(names))):
        found = choose_rows(HeadClasses(710), head)
        assert list(found.rows) == k710_numbers(names)
        assert found.doubt is not None
        assert "taken to be in the order of published heads" in found.doubt
        assert found.told.startswith("its rows are taken to be in the order of published heads; ")
    assert small != "k400" or found.rows == tuple(range(400))


def test_a_published_head_serves_a_set_of_kinetics_whose_labels_count_in_another_order() -> None:
    alphabetic = tuple(sorted(classes("k400")))
    found = choose_rows(HeadClasses(400), HeadClasses(400, alphabetic))
    assert [classes("k400")[row] for row in found.rows] == list(alphabetic)


def test_a_published_head_serves_the_classes_that_a_set_of_ones_own_shares_with_kinetics() -> None:
    found = choose_rows(HeadClasses(710), named("my dance", "archery"))
    assert found.rows == (NEW, classes("k710").index("archery"))


def test_a_head_without_names_of_the_same_size_is_kept_with_a_warning() -> None:
    for trained, head in ((HeadClasses(2), named("a", "b")), (named("a", "b"), HeadClasses(2))):
        found = choose_rows(trained, head)
        assert found.rows == (0, 1)
        assert "nobody can check that they are in the same order" in str(found.doubt)
    own = HeadClasses(400, tuple(f"mine {number}" for number in range(400)))
    assert choose_rows(HeadClasses(400), own).rows == tuple(range(400))


def test_numbers_instead_of_names_are_no_names() -> None:
    """A head of 400 classes called 0 … 399, trained on a set of bare numbers, is not matched with the names 0 … 9."""
    numbers = HeadClasses(3, ("0", "1", "2"))
    assert "no names there" in str(choose_rows(numbers, named("a", "b", "c")).doubt)
    assert choose_rows(numbers, HeadClasses(2, ("0", "1"))).rows == (NEW, NEW)


def test_rows_are_copied_to_their_places_and_the_others_stay() -> None:
    trained, fresh = torch.arange(6.0).view(3, 2), torch.full((4, 2), 9.0)
    placed = place_rows(trained.half(), fresh, (2, NEW, 0, 2))
    assert placed.tolist() == [[4, 5], [9, 9], [0, 1], [4, 5]]
    assert placed.dtype == torch.float32
    assert fresh.eq(9).all()
