"""TabularDataset on this machine's files: what is read, and as what."""

import gzip
import json
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from runyard.azureml.core import Dataset
from runyard.azureml.data import DataType
from runyard.azureml.data.dataset_type_definitions import PromoteHeadersBehavior
from runyard.errors import UserErrorException
from tests.sdk.tables import PEOPLE, csv, dtypes, rows

Tabular = Dataset.Tabular


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return csv(tmp_path, "people.csv", PEOPLE)


def test_types_are_found_out_from_the_values(people: Path) -> None:
    frame = Tabular.from_delimited_files(str(people)).to_pandas_dataframe()
    assert {name: str(kind) for name, kind in frame.dtypes.items() if name != "name"} == {
        "id": "int64", "age": "float64", "height": "float64", "member": "bool", "joined": "datetime64[ns]",
    }  # fmt: skip
    assert frame["name"].tolist()[:2] == ["Ann, Dr.", "Bob"]
    assert frame["name"].isna().tolist() == [False, False, True]
    assert frame["joined"][1] == pandas.Timestamp("2020-01-03 04:05:06")


def test_same_frame_as_pandas_makes_of_plain_numbers(tmp_path: Path) -> None:
    lines = "\n".join(f"{n},{n * 0.37},{'' if n % 7 else n},text {n}" for n in range(5_000))
    path = csv(tmp_path, "plain.csv", "a,b,c,d\n" + lines + "\n")
    pandas.testing.assert_frame_equal(
        Tabular.from_delimited_files(str(path)).to_pandas_dataframe(), pandas.read_csv(path), check_dtype=False
    )


def test_value_late_in_the_file_makes_its_column_wider_and_nothing_is_lost(tmp_path: Path) -> None:
    count = 600_000
    numbers = [*(f"00{n}" for n in range(count)), "x7"]
    whole = [*(str(n) for n in range(count)), "0.5"]
    text = "code,amount\n" + "\n".join(map(",".join, zip(numbers, whole, strict=True))) + "\n"
    frame = Tabular.from_delimited_files(str(csv(tmp_path, "late.csv", text))).to_pandas_dataframe()
    assert frame["code"].tolist() == numbers
    assert str(frame["amount"].dtype) == "float64"
    assert frame["amount"].tolist()[-2:] == [count - 1, 0.5]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2"], "int64"),
        (["1", "2.5"], "float64"),
        (["1", " 2 ", "+3"], "int64"),
        (["1", "NA", "3"], "float64"),
        (["9223372036854775807", "1"], "int64"),
        (["9223372036854775808", "1"], "text"),
        (["0x10", "0x11"], "text"),
        (["1_000", "2"], "text"),
        (["1e3", "2"], "float64"),
        (["True", "FALSE"], "bool"),
        (["true", "1"], "text"),
        (["NA", "Berlin"], "text"),
        (["2020-01-02", "2020-01-02T03:04:05.123456789"], "datetime64[ns]"),
        (["2020-01-02T03:04:05Z", "2020-01-02T03:04:05+02:00"], "datetime64[ns]"),
        (["2020-01-02T03:04:05Z", "2020-01-02T03:04:05"], "text"),
        (["2020-02-30", "2020-01-01"], "text"),
        (["01/02/2020", "03/04/2020"], "text"),
    ],
)
def test_kind_of_a_column(tmp_path: Path, values: list[str], kind: str) -> None:
    path = csv(tmp_path, "one.csv", "a,b\n" + "".join(f"{one},x\n" for one in values))
    assert dtypes(Tabular.from_delimited_files(str(path)))["a"] == kind
    assert dtypes(Tabular.from_delimited_files(str(path), infer_column_types=False))["a"] == "text"


def test_zones_become_utc(tmp_path: Path) -> None:
    path = csv(tmp_path, "zones.csv", "at\n2020-01-02T03:04:05Z\n2020-01-02T03:04:05+02:00\n2020-01-01T23:00:00-0330\n")
    found = Tabular.from_delimited_files(str(path)).to_pandas_dataframe()["at"]
    assert [str(one) for one in found] == ["2020-01-02 03:04:05", "2020-01-02 01:04:05", "2020-01-02 02:30:00"]


def test_whole_number_beside_a_missing_one_keeps_its_last_digit(tmp_path: Path) -> None:
    path = csv(tmp_path, "ids.csv", "id,b\n9007199254740993,1\n,2\n")
    found = Tabular.from_delimited_files(str(path)).to_pandas_dataframe()["id"]
    assert found[0] == 9007199254740993
    assert found.isna().tolist() == [False, True]


def test_types_that_are_asked_for(tmp_path: Path) -> None:
    path = csv(
        tmp_path, "asked.csv", "id;day;price;ok;n\n007;02.01.2020;1.234,5;yes;12\n008;31.12.2019;x;0;1.0\n;;;;oops\n"
    )
    types = {
        "id": DataType.to_string(), "day": DataType.to_datetime("%d.%m.%Y"), "price": DataType.to_float(","),
        "ok": DataType.to_bool(), "n": DataType.to_long(),
    }  # fmt: skip
    dataset = Tabular.from_delimited_files(str(path), separator=";", set_column_types=types)
    day = pandas.Timestamp
    assert rows(dataset) == [
        {"id": "007", "day": day("2020-01-02"), "price": 1234.5, "ok": True, "n": 12},
        {"id": "008", "day": day("2019-12-31"), "price": None, "ok": False, "n": 1},
        {"id": None, "day": None, "price": None, "ok": None, "n": None},
    ]
    with pytest.raises(UserErrorException, match=r"Row 2 of .*asked\.csv: column 'price' holds 'x'.* no number"):
        dataset.to_pandas_dataframe(on_error="fail")


def test_format_of_times_is_found_or_asked_for(tmp_path: Path) -> None:
    path = csv(tmp_path, "times.csv", "us,any\n01/31/2020 5:06 PM,01/02/2020\n02/01/2020 5:06 AM,03/04/2020\n")
    types = {"us": DataType.to_datetime()}
    found = Tabular.from_delimited_files(str(path), set_column_types=types).to_pandas_dataframe()["us"]
    assert [str(one) for one in found] == ["2020-01-31 17:06:00", "2020-02-01 05:06:00"]
    with pytest.raises(UserErrorException, match=r"'any'.*day and month could be either"):
        Tabular.from_delimited_files(str(path), set_column_types={"any": DataType.to_datetime()}).to_pandas_dataframe()


def test_times_that_pandas_cannot_hold(tmp_path: Path) -> None:
    path = csv(tmp_path, "far.csv", "at\n0001-01-01\n2020-01-01\n9999-12-31\n")
    dataset = Tabular.from_delimited_files(str(path))
    assert dataset.to_pandas_dataframe()["at"].isna().tolist() == [True, False, True]
    with pytest.raises(UserErrorException, match=r"0001-01-01.*cannot hold"):
        dataset.to_pandas_dataframe(out_of_range_datetime="fail")


def test_quotes_line_breaks_byte_order_mark_and_empty_lines(tmp_path: Path) -> None:
    text = '\ufeffid,"a ""b"""\r\n\r\n1,"two\r\nlines"\r\n2,"say ""hi"", you"\r\n3,\r\n'
    for number in range(2):
        path = csv(tmp_path, f"quotes{number}.csv", text)
        found = rows(Tabular.from_delimited_files(str(path), support_multi_line=bool(number)))
        assert found == [
            {"id": 1, 'a "b"': "two\r\nlines"}, {"id": 2, 'a "b"': 'say "hi", you'}, {"id": 3, 'a "b"': None},
        ]  # fmt: skip


def test_quoted_line_breaks_across_the_pieces_that_are_read(tmp_path: Path) -> None:
    cell = '"' + "\n".join(["line, of text"] * 7) + '"'
    path = csv(tmp_path, "wide.csv", "n,text\n" + "".join(f"{n},{cell}\n" for n in range(60_000)))
    frame = Tabular.from_delimited_files(str(path)).to_pandas_dataframe()
    assert frame["n"].tolist() == list(range(60_000))
    assert set(frame["text"]) == {cell.strip('"')}


@pytest.mark.parametrize(
    ("name", "python"),
    [("utf8", "utf-8-sig"), ("latin1", "latin-1"), ("windows1252", "cp1252"), ("utf16", "utf-16"), ("utf32", "utf-32")],
)
def test_encodings(tmp_path: Path, name: str, python: str) -> None:
    path = csv(tmp_path, "text.csv", "Größe,b\nKöln,1\n" * 1 + "Düren,2\n", python)
    assert rows(Tabular.from_delimited_files(str(path), encoding=name))[1] == {"Größe": "Düren", "b": 2}


def test_wrong_encoding_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path, "text.csv", "a,b\nKöln,1\n", "latin-1")
    with pytest.raises(UserErrorException, match=r"text\.csv is not text of the encoding 'utf8'"):
        Tabular.from_delimited_files(str(path)).to_pandas_dataframe()
    with pytest.raises(UserErrorException, match=r"'klingon' is no encoding"):
        Tabular.from_delimited_files(str(path), encoding="klingon")


def test_compressed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n1,x\n2,y\n"))
    assert rows(Tabular.from_delimited_files(str(tmp_path / "a.csv.gz"))) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"a,b\n1,x\n2,y\n" * 100_000)[:-9])
    with pytest.raises(UserErrorException, match=r"b\.csv\.gz cannot be read"):
        Tabular.from_delimited_files(str(tmp_path / "b.csv.gz")).to_pandas_dataframe()


def test_uneven_row_is_named_with_its_file(tmp_path: Path) -> None:
    path = csv(tmp_path, "uneven.csv", "a,b\n" + "1,2\n" * 100_000 + "1,2,3\n" + "1,2\n")
    with pytest.raises(UserErrorException, match=r"Row 100001 of .*uneven\.csv has 3 fields where 2 are due"):
        Tabular.from_delimited_files(str(path)).to_pandas_dataframe()


def test_open_quote_and_endless_row_end_in_a_sentence(tmp_path: Path) -> None:
    path = csv(tmp_path, "open.csv", 'a,b\n1,"never closed\n' + "2,3\n" * 3_000_000)
    with pytest.raises(UserErrorException, match=r"open\.csv has a row of more than 4 MiB, or a quote"):
        Tabular.from_delimited_files(str(path)).to_pandas_dataframe()


def test_empty_files_and_headers_alone(tmp_path: Path) -> None:
    csv(tmp_path, "t/1.csv", "")
    csv(tmp_path, "t/2.csv", "a,b\n")
    csv(tmp_path, "t/3.csv", "\ufeff")
    dataset = Tabular.from_delimited_files(str(tmp_path / "t"))
    frame = dataset.to_pandas_dataframe()
    assert (list(frame.columns), len(frame)) == (["a", "b"], 0)
    csv(tmp_path, "t/4.csv", "a,b\n1,2\n")
    assert rows(dataset) == [{"a": 1, "b": 2}]
    assert len(Tabular.from_delimited_files(str(tmp_path / "t" / "1.csv")).to_pandas_dataframe().columns) == 0


def test_headers_of_several_files(tmp_path: Path) -> None:
    csv(tmp_path, "same/1.csv", "a,b\n1,2\n")
    csv(tmp_path, "same/2.csv", "b,a\n4,3\n")
    same = str(tmp_path / "same")
    assert rows(Tabular.from_delimited_files(same)) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    how = PromoteHeadersBehavior
    none = Tabular.from_delimited_files(same, header=how.NO_HEADERS)
    assert [row["Column1"] for row in rows(none)] == ["a", "1", "b", "4"]
    assert rows(none) == rows(Tabular.from_delimited_files(same, header=False))
    csv(tmp_path, "first/1.csv", "a,b\n1,2\n")
    csv(tmp_path, "first/2.csv", "3,4\n")
    first = Tabular.from_delimited_files(str(tmp_path / "first"), header=how.ONLY_FIRST_FILE_HAS_HEADERS)
    assert rows(first) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    csv(tmp_path, "other/1.csv", "a,b\n1,2\n")
    csv(tmp_path, "other/2.csv", "a,c\n3,x\n")
    with pytest.raises(UserErrorException, match=r"2\.csv are not those of .*1\.csv \('b', 'c' differ\)"):
        Tabular.from_delimited_files(str(tmp_path / "other")).to_pandas_dataframe()
    other = Tabular.from_delimited_files(str(tmp_path / "other"), header=how.COMBINE_ALL_FILES_HEADERS)
    assert rows(other) == [{"a": 1, "b": 2, "c": None}, {"a": 3, "b": None, "c": "x"}]


def test_names_that_come_twice_or_not_at_all(tmp_path: Path) -> None:
    path = csv(tmp_path, "names.csv", "a,a,,a.1\n1,2,3,4\n")
    assert rows(Tabular.from_delimited_files(str(path))) == [{"a": 1, "a.1": 2, "Column3": 3, "a.1.1": 4}]


def test_kinds_that_differ_between_files_become_one(tmp_path: Path) -> None:
    csv(tmp_path, "d/1.csv", "a\n1\n")
    csv(tmp_path, "d/2.csv", "a\n2.5\n")
    assert rows(Tabular.from_delimited_files(str(tmp_path / "d"))) == [{"a": 1.0}, {"a": 2.5}]
    csv(tmp_path, "d/3.csv", "a\nthree\n")
    assert [row["a"] for row in rows(Tabular.from_delimited_files(str(tmp_path / "d")))] == ["1", "2.5", "three"]


def test_empty_as_string(people: Path) -> None:
    found = rows(Tabular.from_delimited_files(str(people), empty_as_string=True))
    assert (found[2]["name"], found[1]["age"]) == ("", None)


def test_parquet_reads_only_the_columns_and_row_groups_that_are_asked_for(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"n": range(1_000), "text": [f"t{n}" for n in range(1_000)], "x": [n / 2 for n in range(1_000)]}
    )
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=100)
    data = bytearray(path.read_bytes())
    facts = pyarrow.parquet.ParquetFile(path).metadata
    for group in range(9):
        for column in range(3):
            start = facts.row_group(group).column(column).data_page_offset
            data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    ds = Tabular.from_parquet_files(str(path))
    with pytest.raises(UserErrorException, match=r"t\.parquet cannot be read as a Parquet file"):
        ds.to_pandas_dataframe()
    assert [row["n"] for row in rows(ds.filter(ds["n"] >= 998))] == [998, 999]


def test_parquet_keeps_its_types_and_widens_between_files(tmp_path: Path) -> None:
    one = pyarrow.table(
        {"a": pyarrow.array([1, 2], pyarrow.int8()), "c": pyarrow.array(["x", "y"]).dictionary_encode()}
    )
    two = pyarrow.table({"a": pyarrow.array([3.5, None]), "d": [True, False]})
    (tmp_path / "p").mkdir()
    pyarrow.parquet.write_table(one, tmp_path / "p/1.parquet")
    ds = Tabular.from_parquet_files(str(tmp_path / "p"))
    assert dtypes(ds)["a"] == "int8"
    pyarrow.parquet.write_table(two, tmp_path / "p/2.parquet")
    assert rows(ds) == [
        {"a": 1.0, "c": "x", "d": None}, {"a": 2.0, "c": "y", "d": None},
        {"a": 3.5, "c": None, "d": True}, {"a": None, "c": None, "d": False},
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table({"a": ["text"]}), tmp_path / "p/3.parquet")
    with pytest.raises(UserErrorException, match=r"'a' is string in .*3\.parquet and double"):
        ds.to_pandas_dataframe()
    text = Tabular.from_parquet_files(str(tmp_path / "p"), set_column_types={"a": DataType.to_string()})
    assert [row["a"] for row in rows(text)][-1] == "text"


def test_json_lines(tmp_path: Path) -> None:
    lines = [{"a": 1, "b": "x", "n": {"k": [1, 2]}}, {"a": 2.5, "c": None}, {"a": None, "b": "", "c": True}]
    path = csv(tmp_path, "l.jsonl", "\ufeff" + "\n".join(json.dumps(one) for one in lines) + "\n\n")
    ds = Tabular.from_json_lines_files(str(path))
    assert rows(ds) == [
        {"a": 1.0, "b": "x", "n": '{"k": [1, 2]}', "c": None}, {"a": 2.5, "b": None, "n": None, "c": None},
        {"a": None, "b": "", "n": None, "c": True},
    ]  # fmt: skip
    assert rows(ds.filter(ds["a"] > 2).keep_columns(["a"])) == [{"a": 2.5}]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("nonsense", "Expecting value"),
        ("[1]", "it is no object"),
        ("[" * 200_000, "nests too deep|Expecting|recursion"),
    ],
)
def test_wrong_json_lines(tmp_path: Path, line: str, sentence: str) -> None:
    path = csv(tmp_path, "l.jsonl", '{"a": 1}\n' + line + '\n{"a": 2}\n')
    with pytest.raises(UserErrorException, match=r"Line 2 of .*l\.jsonl is no JSON object: .*(" + sentence + ")"):
        Tabular.from_json_lines_files(str(path)).to_pandas_dataframe()
    assert rows(Tabular.from_json_lines_files(str(path), invalid_lines="drop")) == [{"a": 1}, {"a": 2}]


def test_files_of_other_formats_end_in_a_sentence(tmp_path: Path) -> None:
    path = csv(tmp_path, "x.csv", "a,b\n1,2\n")
    with pytest.raises(UserErrorException, match=r"x\.csv cannot be read as a Parquet file"):
        Tabular.from_parquet_files(str(path)).to_pandas_dataframe()
    (tmp_path / "x.gz").write_bytes(b"no gzip at all, but called so")
    with pytest.raises(UserErrorException, match=r"x\.gz cannot be read"):
        Tabular.from_delimited_files(str(tmp_path / "x.gz")).to_pandas_dataframe()
    with pytest.raises(UserErrorException, match="does not exist"):
        Tabular.from_delimited_files(str(tmp_path / "none.csv"))
    with pytest.raises(UserErrorException, match="no file to read"):
        Tabular.from_delimited_files(str(tmp_path / "*.tsv"), validate=False).to_pandas_dataframe()
    with pytest.raises(UserErrorException, match=r"Databases are not read here"):
        Tabular.from_sql_query("select 1")
    with pytest.raises(UserErrorException, match="one ASCII"):
        Tabular.from_delimited_files(str(path), separator="||")


def test_wide_file(tmp_path: Path) -> None:
    names = [f"c{n}" for n in range(5_000)]
    path = csv(tmp_path, "wide.csv", ",".join(names) + "\n" + ",".join("1" * 5_000) + "\n" + ",".join(["2.5"] * 5_000))
    ds = Tabular.from_delimited_files(str(path))
    assert ds.to_pandas_dataframe().shape == (2, 5_000)
    assert rows(ds.keep_columns(["c4999", "c0"])) == [{"c4999": 1.0, "c0": 1.0}, {"c4999": 2.5, "c0": 2.5}]
    csv(tmp_path, "wider.csv", ",".join(["x"] * 30_000) + "\n")
    with pytest.raises(UserErrorException, match="more than 20,000 columns"):
        Tabular.from_delimited_files(str(tmp_path / "wider.csv")).to_pandas_dataframe()
