"""Records: frozen, compared and shown by their fields, under every Python."""

import copy
import unittest
from dataclasses import FrozenInstanceError, field, fields, replace
from typing import Dict, Tuple

from runyard.protocol.record import record


@record
class Point:
    """A point."""

    x: int
    y: int = 2
    tags: Tuple[str, ...] = ()


@record
class Labelled:
    """A value with a dict, which has no hash."""

    labels: Dict[str, str] = field(default_factory=dict)


class TestRecord(unittest.TestCase):
    def test_a_value_never_changes(self) -> None:
        point = Point(1)
        with self.assertRaises(FrozenInstanceError):
            point.x = 3
        with self.assertRaises(FrozenInstanceError):
            del point.x
        self.assertEqual(point.x, 1)

    def test_equal_fields_are_equal_values_of_one_class_only(self) -> None:
        self.assertEqual(Point(1, 2), Point(1))
        self.assertNotEqual(Point(1, 2), Point(2, 1))
        self.assertNotEqual(Point(1, 2), (1, 2, ()))
        self.assertEqual(len({Point(1), Point(1), Point(5)}), 2)

    def test_a_value_with_a_dict_has_no_hash(self) -> None:
        with self.assertRaises(TypeError):
            hash(Labelled())

    def test_each_value_has_a_default_of_its_own(self) -> None:
        first = Labelled()
        first.labels["a"] = "b"
        self.assertEqual(Labelled().labels, {})

        point = Point(1, tags=("a",))
        self.assertEqual(replace(point, y=5), Point(1, 5, ("a",)))
        self.assertEqual(copy.deepcopy(point), point)
        self.assertEqual([one.name for one in fields(Point)], ["x", "y", "tags"])

    def test_it_shows_its_fields(self) -> None:
        self.assertEqual(repr(Point(1)), "Point(x=1, y=2, tags=())")


if __name__ == "__main__":
    unittest.main()
