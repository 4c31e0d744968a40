"""Whatever is written comes back: no value of a table is changed or lost by finding out what it is."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from runyard.azureml.core import Dataset
from runyard.sdk.tabular_columns import MISSING

TRICKY = ["NA", "true", "False", "", " ", '"', ",", "\n", "\r", "\r\n", "2020-01-01", "2020-01-01T00:00:00Z", "0x1"]
TRICKY += ["+1", "-", "1e5", "inf", "nan", "'", "\ufeff", "\0x", "007", "9223372036854775808", "1_0", "\u0661"]
CELLS = some.one_of(
    some.text(some.characters(exclude_categories=("Cs",)), max_size=6),
    some.integers().map(str),
    some.floats(allow_nan=False).map(repr),
    some.sampled_from(TRICKY),
)
ROWS = some.integers(2, 4).flatmap(
    lambda width: some.lists(some.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=8)
)
SCALARS = some.one_of(some.none(), some.booleans(), some.integers(), some.floats(allow_nan=False, allow_infinity=False))
VALUES = some.one_of(SCALARS, some.text(max_size=5), some.lists(SCALARS, max_size=2))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables") / "t"


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_cells_of_a_delimited_file(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        written = csv.writer(file)
        written.writerow([f"c{number}" for number in range(len(rows[0]))])
        written.writerows(rows)
    as_text = Dataset.Tabular.from_delimited_files(str(path), infer_column_types=False, empty_as_string=True)
    assert as_text.to_pandas_dataframe().to_numpy().tolist() == rows
    table = Dataset.Tabular.from_delimited_files(str(path))._scan("null").collect()
    for column, found in enumerate(table.columns):
        for cell, value in zip((row[column] for row in rows), found.to_pylist(), strict=True):
            assert means(cell, value), (cell, value)


@settings(max_examples=200, deadline=None)
@given(rows=some.lists(some.dictionaries(some.sampled_from("abc"), VALUES), min_size=1, max_size=6))
def test_values_of_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    table = Dataset.Tabular.from_json_lines_files(str(path))._scan("null").collect()
    for name, found in zip(table.schema.names, table.columns, strict=True):
        for row, value in zip(rows, found.to_pylist(), strict=True):
            written = row.get(name)
            is_text = isinstance(value, str) and not isinstance(written, str)
            assert (json.loads(value) if is_text else value) == written


def means(cell: str, value: Any) -> bool:
    """Is the value what the cell says?"""
    if value is None:
        return cell.strip() in MISSING
    if isinstance(value, bool):
        return cell.strip().lower() == str(value).lower()
    if isinstance(value, int):
        return int(cell) == value
    if isinstance(value, float):
        return float(cell) == value or (math.isnan(value) and math.isnan(float(cell)))
    return not isinstance(value, str) or value == cell
