"""Tables of files and definitions that mean harm, or that nobody thought of."""

import datetime
import functools
import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from runyard.azureml.core import Dataset
from runyard.azureml.data import DataType, TabularDataset
from runyard.errors import UserErrorException
from runyard.protocol.tables import Term, check_filter
from runyard.sdk import tabular_blocks, tabular_memory
from runyard.sdk.tabular_filter import may_match
from runyard.sdk.tabular_write import _folder_name

Tabular = Dataset.Tabular
SOURCE = Path(__file__).parents[2] / "src"


def write(path: Path, text: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return str(path)


def values(dataset: TabularDataset, name: str) -> list[Any]:
    found = dataset.to_pandas_dataframe()[name]
    return [None if missing else one for one, missing in zip(found, found.isna(), strict=True)]


def test_python_without_the_readers_passes_tables_on_and_names_what_it_lacks(tmp_path: Path) -> None:
    program = (
        "from runyard.azureml.core import Dataset\n"
        f"ds = Dataset.Tabular.from_delimited_files({write(tmp_path / 'a.csv', 'a,b' + chr(10) + '1,2')!r})\n"
        "ds = ds.filter(ds['a'] > 0).keep_columns('a').take_sample(0.5, seed=1)\n"
        "print(ds._facts())\n"
        "try:\n    ds.to_pandas_dataframe()\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    words = [sys.executable, "-S", "-c", program]
    done = subprocess.run(
        words, env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True
    )
    assert "('filter', \"(dataset['a'] > 0)\")" in done.stdout
    assert "UserErrorException Reading a table here needs the package pyarrow" in done.stdout
    assert "pip install 'runyard[tabular]'" in done.stdout


def test_bomb_ends_before_the_memory_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "bomb.csv.gz", gzip.compress(b"a,b\n" + b"0,0\n" * 4_000_000))
    assert os.path.getsize(path) < 50_000
    monkeypatch.setattr(tabular_memory, "free_memory", lambda: 60 << 20)
    ds = Tabular.from_delimited_files(path)
    with pytest.raises(UserErrorException, match=r"more memory than the 0.1 GiB that are free.*to_parquet_files"):
        ds.to_pandas_dataframe()
    assert len(ds.take(10).to_pandas_dataframe()) == 10


def test_free_memory_is_known_here() -> None:
    found = tabular_memory.free_memory()
    assert found is not None
    assert found > 1 << 20


def test_one_endless_line_of_json_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "l.jsonl", '{"a": "' + "x" * (17 << 20) + '"}\n')
    for how in ("error", "drop"):
        with pytest.raises(UserErrorException, match=r"Line 1 of .*more than 16 million characters"):
            Tabular.from_json_lines_files(path, invalid_lines=how).to_pandas_dataframe()


def test_numbers_without_end_and_halves_of_characters_in_json(tmp_path: Path) -> None:
    path = write(tmp_path / "n.jsonl", '{"n": %s, "t": "\\ud83d\\ude00"}\n{"n": 5, "t": "x"}\n' % ("9" * 2_000_000))
    assert values(Tabular.from_json_lines_files(path), "n") == ["9" * 2_000_000, "5"]
    assert values(Tabular.from_json_lines_files(path), "t") == ["\U0001f600", "x"]
    path = write(tmp_path / "s.jsonl", '{"n": 1}\n{"n": "\\ud800"}\n')
    with pytest.raises(UserErrorException, match=r"Line 2 of .*half of a character"):
        Tabular.from_json_lines_files(path).to_pandas_dataframe()
    path = write(tmp_path / "big.jsonl", '{"n": 9007199254740993}\n{"n": 0.5}\n')
    assert values(Tabular.from_json_lines_files(path), "n") == ["9007199254740993", "0.5"]


def test_columns_without_end_in_json_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabular_blocks, "WIDTH_MAX", 2_000)
    path = write(tmp_path / "k.jsonl", "".join(f'{{"k{number}": 1}}\n' for number in range(2_500)))
    with pytest.raises(UserErrorException, match="more than 2,000 columns"):
        Tabular.from_json_lines_files(path).to_pandas_dataframe()


def test_column_that_only_later_lines_have(tmp_path: Path) -> None:
    path = write(tmp_path / "late.jsonl", '{"a": 1}\n' * 70_000 + '{"a": 2, "late": "x"}\n')
    ds = Tabular.from_json_lines_files(path)
    assert values(ds, "late")[-2:] == [None, "x"]
    assert len(ds.filter(ds["late"] == "x").to_pandas_dataframe()) == 1
    assert len(ds.drop_columns("a").keep_columns("late").to_pandas_dataframe()) == 70_001


def test_hostile_text_is_text(tmp_path: Path) -> None:
    text = "__import__('os').system('touch /tmp/owned')"
    path = write(tmp_path / "t.csv", f'a,b\n"{text}",=1+1\n"x\0y","\u202e"\n')
    ds = Tabular.from_delimited_files(path)
    assert values(ds, "a") == [text, "x\0y"]
    assert values(ds.filter(ds["a"] == text), "b") == ["=1+1"]
    assert values(ds.filter(ds["a"].contains(".*")), "a") == [], "a text to look for is no pattern"


def test_files_beside_the_tables_own_are_left_out(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), (tmp_path / "part-0.parquet"))
    write(tmp_path / "_SUCCESS", "")
    write(tmp_path / ".part-0.parquet.crc", "crc")
    assert values(Tabular.from_parquet_files(str(tmp_path)), "a") == [1]
    named = write(tmp_path / "_named.csv", "a\n2\n")
    assert values(Tabular.from_delimited_files(named), "a") == [2]


def test_table_of_the_web(tmp_path: Path) -> None:
    write(tmp_path / "a.csv.gz", gzip.compress(b"a,b\n1,2\n"))
    pyarrow.parquet.write_table(pyarrow.table({"a": [3]}), tmp_path / "p.parquet")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        ds = Tabular.from_delimited_files(f"{address}/a.csv.gz?sig=secret", include_path=True)
        assert ds.to_pandas_dataframe().to_dict("records") == [{"Path": "/127.0.0.1/a.csv.gz", "a": 1, "b": 2}]
        assert values(Tabular.from_parquet_files([f"{address}/p.parquet"]), "a") == [3]
        with pytest.raises(UserErrorException) as refused:
            ds.filter(ds["none"] > 1).to_pandas_dataframe()
        assert "secret" not in str(refused.value)
    finally:
        server.shutdown()
        server.server_close()


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    test_table_of_the_web(tmp_path)
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.parametrize("value", ["a/b", "..", ".", "", None, "ü", "x y", "%41", "a\nb", 7, 2.5])
def test_values_become_names_of_folders(value: Any) -> None:
    name = _folder_name(value)
    assert name not in ("", ".", "..")
    assert "/" not in name
    assert "\n" not in name


def test_filter_on_a_parquet_column_of_days(tmp_path: Path) -> None:
    days = [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1), None]
    stamps = pyarrow.array([datetime.datetime(2020, 1, 1, 12)] * 3, pyarrow.timestamp("ns", "Europe/Berlin"))
    pyarrow.parquet.write_table(pyarrow.table({"d": days, "z": stamps, "n": [1, 2, 3]}), tmp_path / "d.parquet")
    ds = Tabular.from_parquet_files(str(tmp_path / "d.parquet"))
    assert values(ds.filter(ds["d"] > datetime.date(2020, 6, 1)), "n") == [2]
    assert values(ds.filter(ds["d"] <= "2020-01-01"), "n") == [1]
    assert values(ds.filter(ds["z"] == datetime.datetime(2020, 1, 1, 12)), "n") == [1, 2, 3]


def test_types_that_are_asked_for_in_parquet(tmp_path: Path) -> None:
    table = pyarrow.table({"n": [1.0, 2.5, None], "t": ["2020-01-02", "x", None], "i": [0, 1, None]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    types = {"n": DataType.to_long(), "t": DataType.to_datetime(), "i": DataType.to_bool()}
    ds = Tabular.from_parquet_files(str(tmp_path / "t.parquet"), set_column_types=types)
    assert values(ds, "n") == [1, None, None]
    assert values(ds, "t") == [pandas.Timestamp("2020-01-02"), None, None]
    assert values(ds, "i") == [False, True, None]
    with pytest.raises(UserErrorException, match="set_column_types names the column 'zip'"):
        Tabular.from_parquet_files(
            str(tmp_path / "t.parquet"), set_column_types={"zip": DataType.to_string()}
        ).to_pandas_dataframe()


def test_long_filters_are_kept_and_longer_ones_refused(tmp_path: Path) -> None:
    ds = Tabular.from_delimited_files(write(tmp_path / "a.csv", "a\n" + "".join(f"{n}\n" for n in range(500))))
    condition = ds["a"] == 0
    for number in range(1, 200):
        condition = condition | (ds["a"] == number * 2)
    assert len(ds.filter(condition).to_pandas_dataframe()) == 200
    with pytest.raises(UserErrorException, match="at most 1000 terms"):
        ds.filter(condition | condition)


def test_wrong_terms_are_refused() -> None:
    for terms in ((), (Term("eq"),), (Term("column", "a"),) * 2, (Term("column"),), (Term("time", "yesterday"),)):
        with pytest.raises(UserErrorException, match="filter"):
            check_filter(terms)


def test_what_cannot_be_told_from_a_range_may_match() -> None:
    a, b = Term("column", "a"), Term("column", "b")
    seven, text = Term("integer", "7"), Term("text", "x")
    known = {"a": (1, 5)}
    assert not may_match((a, seven, Term("gt")), known)
    assert not may_match((a, seven, Term("eq")), known)
    assert may_match((a, seven, Term("gt"), Term("not")), known)
    assert may_match((a, seven, Term("ne")), known)
    assert may_match((b, seven, Term("gt")), known)
    assert may_match((a, text, Term("eq")), known)
    assert may_match((a, seven, Term("gt"), b, seven, Term("eq"), Term("or")), known)
    assert not may_match((a, seven, Term("gt"), b, seven, Term("eq"), Term("and")), known)
    assert may_match((a, a, Term("add"), seven, Term("gt")), known)
    assert may_match((a, Term("is_null")), known)
    # What is missing makes a comparison false, and so its contrary true.
    assert may_match((a, Term("integer", "0"), Term("gt"), Term("not")), known)


def test_rows_that_are_kept_do_not_depend_on_how_the_file_is_read(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"n": range(150_000)})
    one = write(tmp_path / "one" / "t", frame.to_csv(index=False))
    table = pyarrow.Table.from_pandas(frame)
    (tmp_path / "two").mkdir()
    (tmp_path / "three").mkdir()
    pyarrow.parquet.write_table(table, tmp_path / "two" / "t", row_group_size=777)
    write(tmp_path / "three" / "t", "".join(json.dumps({"n": n}) + "\n" for n in range(150_000)))
    found = []
    for ds in (
        Tabular.from_delimited_files(one),
        Tabular.from_parquet_files(str(tmp_path / "two" / "t")),
        Tabular.from_json_lines_files(str(tmp_path / "three" / "t")),
    ):
        part = ds.filter(ds["n"] > 70_000).take_sample(0.01, seed=5)
        found.append(part.random_split(0.5, seed=5)[1].to_pandas_dataframe()["n"].tolist())
    assert found[0] == found[1] == found[2]
    assert 300 < len(found[0]) < 500
