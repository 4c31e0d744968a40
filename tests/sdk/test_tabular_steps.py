"""A table's steps: the rows and columns that each of them leaves."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from runyard.azureml.core import Dataset
from runyard.azureml.data import FileDataset, TabularDataset
from runyard.errors import DatasetTimestampMissingError, UserErrorException
from tests.sdk.tables import PEOPLE, csv, rows

Tabular = Dataset.Tabular


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return csv(tmp_path, "people.csv", PEOPLE)


def test_filters(people: Path) -> None:
    ds = Tabular.from_delimited_files(str(people))
    conditions = {
        "1 3": ds["age"] > 30,
        "3": (ds["age"] > 30) & ~(ds["name"] == "Ann, Dr."),
        "1": ds["name"].starts_with("Ann") | ds["name"].ends_with("zzz"),
        "2": ds["age"].is_null(),
        "1 2": ds["height"] == ds["height"],
        "1 3 ": ds["member"] == True,  # noqa: E712
        "2 ": ~(ds["age"] > 0),
        "2 3": ds["name"] != "Ann, Dr.",
        "1 2 ": ds["joined"] < datetime(2021, 1, 1),
        "3 ": ds["joined"] > "2021-01-01",
        " 1": (ds["age"] + ds["id"]) / 2 == 16,
        " 2": ds["name"].to_lower().contains("bo"),
        " 1 2": ds["name"].length() > 2,
        "2 3 ": ds["id"] >= 2,
        "3  ": ds["name"] == None,  # noqa: E711
    }
    for wanted, condition in conditions.items():
        assert [row["id"] for row in rows(ds.filter(condition))] == [int(one) for one in wanted.split()], condition


def test_wrong_filters_are_refused(people: Path) -> None:
    ds = Tabular.from_delimited_files(str(people))
    with pytest.raises(UserErrorException, match="joined by"):
        ds.filter(ds["age"] > 1 and ds["age"] < 2)  # type: ignore[arg-type]
    with pytest.raises(UserErrorException, match="condition on columns such as"):
        ds.filter("age > 3")  # type: ignore[arg-type]
    for condition, sentence in (
        (ds["nobody"] > 1, "filter names the column 'nobody', which is not there; there are 'id', 'age'"),
        (ds["age"] > "old", "cannot compare a column of (int64|double) with 'old'"),
        (ds["name"] > 3, "cannot compare a column of string with 3"),
        (ds["age"], "condition is a comparison"),
        (ds["age"].starts_with("a"), "asks a column of text"),
        (ds["name"] + 1 > 2, "calculates with numbers"),
    ):
        with pytest.raises(UserErrorException, match=sentence):
            ds.filter(condition).to_pandas_dataframe()


def test_comparison_waits_until_the_column_is_known(tmp_path: Path) -> None:
    lines = "".join(f"{n},{n % 5}\n" for n in range(700_000))
    path = csv(tmp_path, "zip.csv", "zip,b\n" + lines + "W1A,9\n")
    ds = Tabular.from_delimited_files(str(path))
    assert rows(ds.filter(ds["zip"] == "17")) == [{"zip": "17", "b": 2}]


def test_columns(people: Path) -> None:
    ds = Tabular.from_delimited_files(str(people))
    assert list(ds.keep_columns(["name", "id"]).to_pandas_dataframe().columns) == ["name", "id"]
    assert list(ds.drop_columns("height").drop_columns(["id", "age"]).to_pandas_dataframe().columns) == [
        "name", "member", "joined",
    ]  # fmt: skip
    assert rows(ds.filter(ds["age"] > 30).keep_columns("id")) == [{"id": 1}, {"id": 3}]
    kept = ds.keep_columns(["id", "name"])
    with pytest.raises(UserErrorException, match=r"filter names the column 'age', which is not there; there are 'id'"):
        kept.filter(kept["age"] > 3).to_pandas_dataframe()
    with pytest.raises(UserErrorException, match="keep_columns names the column 'x'"):
        ds.keep_columns("x", validate=True)
    with pytest.raises(UserErrorException, match="one or more names"):
        ds.keep_columns([])


def test_take_skip_and_samples(tmp_path: Path) -> None:
    for number in range(4):
        text = "n\n" + "".join(f"{number * 50_000 + n}\n" for n in range(50_000))
        csv(tmp_path, f"many/{number}.csv", text)
    ds = Tabular.from_delimited_files(str(tmp_path / "many"))

    def numbers(dataset: TabularDataset) -> list[int]:
        found: list[int] = dataset.to_pandas_dataframe()["n"].tolist()
        return found

    assert numbers(ds.take(3)) == [0, 1, 2]
    assert numbers(ds.skip(199_998)) == [199_998, 199_999]
    assert numbers(ds.skip(49_999).take(2)) == [49_999, 50_000]
    assert numbers(ds.take(0)) == []
    train, test = ds.random_split(0.7, seed=3)
    assert sorted(numbers(train) + numbers(test)) == list(range(200_000))
    assert abs(len(numbers(train)) - 140_000) < 1_000
    assert numbers(train.skip(139_000).take(3)) == [199_259, 199_260, 199_261]
    # The same rows on every machine, with every version: these came of the first one.
    assert numbers(train.take(12)) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    again, rest = train.random_split(0.5, seed=3)
    assert abs(len(numbers(again)) - 70_000) < 1_000, "a second draw of one seed is a draw of its own"
    assert sorted(numbers(again) + numbers(rest)) == numbers(train)
    even = ds.filter(ds["n"] > 100_000).take_sample(0.5, seed=1)
    assert numbers(even) == numbers(even)
    assert abs(len(numbers(even)) - 50_000) < 1_000
    drawn = ds.take_sample(0.01)
    assert numbers(drawn) == numbers(drawn)


def test_partitions_and_paths(tmp_path: Path) -> None:
    for region, day, value in (("north", "2020/01/02", 1), ("south", "2020/01/03", 2), ("north", "2021/05/06", 3)):
        csv(tmp_path, f"sales/{region}/{day}/data.csv", f"v\n{value}\n")
    form = "/{region}/{day:yyyy/MM/dd}/data.csv"
    ds = Tabular.from_delimited_files(str(tmp_path / "sales/**/*.csv"), partition_format=form, include_path=True)
    first = rows(ds)[0]
    assert list(first) == ["Path", "v", "region", "day"]
    assert first == {"Path": "/north/2020/01/02/data.csv", "v": 1, "region": "north", "day": datetime(2020, 1, 2)}
    assert ds.partition_keys == ["region", "day"]
    assert ds.get_partition_key_values(["region"]) == [{"region": "north"}, {"region": "south"}]
    north = ds.filter((ds["region"] == "north") & (ds["day"] < datetime(2021, 1, 1)))
    assert rows(north.keep_columns("v")) == [{"v": 1}]
    assert north.get_partition_key_values() == [{"region": "north", "day": datetime(2020, 1, 2)}]
    timed = ds.with_timestamp_columns(partition_timestamp="day")
    assert [row["v"] for row in rows(timed.time_after(datetime(2020, 1, 3)))] == [3, 2]
    for wrong in ("{a}{b}/*.csv", "/no/field.csv", "{a}/{a}/x", "{d:MM/dd}/x"):
        with pytest.raises(UserErrorException, match="partition format"):
            Tabular.from_delimited_files(str(tmp_path / "sales"), partition_format=wrong)
    with pytest.raises(UserErrorException, match="does not end as the partition format"):
        Tabular.from_delimited_files(str(tmp_path / "sales"), partition_format="{x}.tsv").to_pandas_dataframe()


def test_files_that_a_filter_on_their_path_leaves_out_are_not_read(tmp_path: Path) -> None:
    csv(tmp_path, "p/a/1.csv", "v\n1\n")
    (tmp_path / "p/b").mkdir()
    (tmp_path / "p/b/1.csv").write_bytes(b"v\n\xff\xfe\n")
    ds = Tabular.from_delimited_files(str(tmp_path / "p"), partition_format="/{part}/*.csv")
    assert rows(ds.filter(ds["part"] == "a")) == [{"v": 1, "part": "a"}]
    with pytest.raises(UserErrorException, match="encoding"):
        ds.to_pandas_dataframe()


def test_times(people: Path) -> None:
    ds = Tabular.from_delimited_files(str(people))
    with pytest.raises(DatasetTimestampMissingError, match="with_timestamp_columns"):
        ds.time_before(datetime(2020, 1, 1))
    ds = ds.with_timestamp_columns("joined", validate=True)
    assert ds.timestamp_columns == ("joined", None)

    def ids(dataset: TabularDataset) -> list[int]:
        return [row["id"] for row in rows(dataset)]

    day = datetime(2020, 1, 2)
    assert ids(ds.time_before(day)) == [1]
    assert ids(ds.time_before(day, include_boundary=False)) == []
    assert ids(ds.time_after(day, include_boundary=False)) == [2, 3]
    assert ids(ds.time_between(day, datetime(2020, 12, 31, tzinfo=timezone(timedelta(hours=1))))) == [1, 2]
    assert ids(ds.time_recent(timedelta(days=1))) == []
    assert ids(ds.time_recent(timedelta(days=20_000))) == [1, 2, 3]
    with pytest.raises(UserErrorException, match="with_timestamp_columns names the column 'when'"):
        ds.with_timestamp_columns("when", validate=True)


def test_nothing_is_read_before_somebody_asks(tmp_path: Path) -> None:
    path = csv(tmp_path, "bad.csv", "a,b\n1\n")
    ds = Tabular.from_delimited_files(str(path))
    ds = ds.filter(ds["a"] > 3).keep_columns("a").take(5).with_timestamp_columns("a")
    path.write_text("a,b\n5,6\n")
    assert rows(ds) == [{"a": 5}]


def test_files_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: Path) -> None:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "home"))
    ds = Tabular.from_delimited_files(str(people))
    for written, read in (
        (ds.to_csv_files("\t"), lambda one: Tabular.from_delimited_files(one, separator="\t")),
        (ds.to_parquet_files(), Tabular.from_parquet_files),
    ):
        assert isinstance(written, FileDataset)
        copies = written.download(str(tmp_path / written.to_path()[0].strip("/")))
        assert rows(read(copies[0])) == rows(ds)


def test_mounted_table_is_refused(people: Path) -> None:
    with pytest.raises(UserErrorException, match="no files to mount"):
        Tabular.from_delimited_files(str(people)).as_named_input("x").as_mount()
