"""docs/v1_coverage.md: every row of the contract is there once, and a row that works names a test that exists."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.shape.source_tree import ROOT

PAGE = ROOT / "docs" / "v1_coverage.md"

#: How many rows each article, the shared rules (X) and the run-time contract (C) have.
ROW_COUNTS = {"A0": 28, "A1": 23, "A2": 7, "A3": 10, "A4": 29, "X": 4, "C": 15}


@dataclass(frozen=True)
class Row:
    """One line of a table on the page."""

    ids: tuple[str, ...]
    what: str
    status: str
    #: "path::name" of each test that shows it.
    tests: tuple[str, ...]


def rows() -> Iterator[Row]:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and re.match(r"[AXC]\d?-\d", cells[0]):
            ids, what, status, tests = cells
            yield Row(tuple(ids.split(", ")), what, status, tuple(re.findall(r"`([^`]+)`", tests)))


def test_every_row_of_the_contract_is_listed_once() -> None:
    expected = {f"{group}-{number:02}" for group, count in ROW_COUNTS.items() for number in range(1, count + 1)}
    assert Counter(identifier for row in rows() for identifier in row.ids) == Counter(expected)


def test_every_status_is_a_known_word() -> None:
    assert {row.status for row in rows()} <= {"works", "planned"}


def test_a_row_that_works_names_tests_that_exist() -> None:
    wrong = [f"{row.ids[0]}: no test named" for row in rows() if row.status == "works" and not row.tests]
    wrong += [f"{row.ids[0]}: {test}" for row in rows() for test in row.tests if not exists(test)]
    assert not wrong, "\n".join(["", *wrong])


def test_a_planned_row_claims_no_test() -> None:
    assert [row.ids[0] for row in rows() if row.status == "planned" and row.tests] == []


def exists(test: str) -> bool:
    path, *names = test.split("::")
    if not (ROOT / path).is_file() or not names:
        return False
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return set(names) <= defined
