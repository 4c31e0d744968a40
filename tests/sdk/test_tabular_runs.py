"""Tables of a workspace: registered, read from datastores, passed to runs, and kept from DataFrames."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
from typer.testing import CliRunner

from runyard.azureml.core import Dataset, Environment, Experiment, ScriptRunConfig, Workspace
from runyard.azureml.core.conda_dependencies import CondaDependencies
from runyard.azureml.data import DataType, FileDataset, TabularDataset
from runyard.cli.__main__ import app as commands
from runyard.errors import UserErrorException
from runyard.protocol.datasets import DatasetSpec, Source
from runyard.protocol.selection import Step, StepKind
from runyard.protocol.tables import Reader, Term
from tests.own_server import log_of, own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

Tabular = Dataset.Tabular
SCRIPT = """
import json
from azureml.core import Run
run = Run.get_context()
print("LINE " + type(run.input_datasets["sales"]).__name__)
frame = run.input_datasets["sales"].to_pandas_dataframe()
print("FRAME " + json.dumps({"columns": list(frame.columns), "kinds": [str(k) for k in frame.dtypes],
                             "ids": frame["id"].tolist(), "total": float(frame["price"].sum())}))
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("tabular-home")):
        yield Workspace.create("sdk", exist_ok=True)


@pytest.fixture(scope="module")
def sales(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> TabularDataset:
    folder = tmp_path_factory.mktemp("sales")
    for number, region in enumerate(("north", "south")):
        lines = "".join(f"{number * 1000 + n},{n / 4},2020-01-{n % 28 + 1:02}\n" for n in range(1000))
        (folder / region).mkdir()
        (folder / region / "data.csv").write_text("id,price,day\n" + lines)
    store = workspace.get_default_datastore()
    store.upload(str(folder), "sales", show_progress=False)
    return Tabular.from_delimited_files((store, "sales/**/*.csv"), partition_format="/{region}/*.csv")


def submit(workspace: Workspace, tmp_path: Path, environment: Environment, *arguments: Any) -> dict[str, Any]:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "read.py").write_text(SCRIPT)
    config = ScriptRunConfig(str(tmp_path / "source"), "read.py", arguments=list(arguments), environment=environment)
    run = Experiment(workspace, "tables").submit(config)
    run.wait_for_completion()
    log = log_of(run, tmp_path)
    assert "LINE TabularDataset" in log
    found = json.loads(next(line for line in log.splitlines() if line.startswith("FRAME "))[6:])
    assert isinstance(found, dict)
    return found


def expected(dataset: TabularDataset) -> dict[str, Any]:
    frame = dataset.to_pandas_dataframe()
    return {
        "columns": list(frame.columns), "kinds": [str(kind) for kind in frame.dtypes],
        "ids": frame["id"].tolist(), "total": float(frame["price"].sum()),
    }  # fmt: skip


def test_registered_tables_come_back_as_they_were(workspace: Workspace, sales: TabularDataset) -> None:
    cheap = sales.filter((sales["price"] < 100) & (sales["region"] == "south"))
    first = cheap.register(workspace, "cheap", description="not dear", tags={"a": "1"})
    assert (first.version, first.description, first.tags) == (1, "not dear", {"a": "1"})
    assert cheap.register(workspace, "cheap").version == 1, "the same definition is the same version"
    train, _ = cheap.random_split(0.5, seed=7)
    with pytest.raises(UserErrorException, match="another definition"):
        train.register(workspace, "cheap")
    second = train.register(workspace, "cheap", create_new_version=True)
    again = Dataset.get_by_name(workspace, "cheap")
    assert isinstance(again, TabularDataset)
    assert (again.version, again.id) == (2, second.id)
    assert again.to_pandas_dataframe()["id"].tolist() == train.to_pandas_dataframe()["id"].tolist()
    old = TabularDataset.get_by_name(workspace, "cheap", version=1)
    assert len(old.to_pandas_dataframe()) == 400
    assert isinstance(Dataset.get_by_id(workspace, first.id), TabularDataset)
    assert isinstance(Dataset.get_all(workspace)["cheap"], TabularDataset)
    again.add_tags({"b": "2"})
    assert again.update(description="other").remove_tags(["b"]).description == "other"
    assert (again.tags, again.partition_keys) == ({}, ["region"])
    again.unregister_all_versions()
    with pytest.raises(UserErrorException, match="not registered"):
        Dataset.get_by_name(workspace, "cheap")


def test_run_reads_the_same_rows_as_the_client(workspace: Workspace, sales: TabularDataset, tmp_path: Path) -> None:
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    asked = sales.filter(sales["price"] > 50).take_sample(0.3, seed=11).skip(5).keep_columns(["id", "price", "day"])
    found = submit(workspace, tmp_path, environment, asked.as_named_input("sales"))
    assert found == expected(asked)
    assert 300 < len(found["ids"]) < 650


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_environment_of_an_older_python_reads_the_same_rows(
    workspace: Workspace, sales: TabularDataset, tmp_path: Path
) -> None:
    environment = Environment("tables")
    environment.python.conda_dependencies = CondaDependencies.create(
        python_version="3.8", pip_packages=["pandas", "pyarrow"]
    )
    asked = sales.filter(sales["price"] > 50).take_sample(0.3, seed=11).skip(5).keep_columns(["id", "price", "day"])
    assert submit(workspace, tmp_path, environment, asked.as_named_input("sales")) == expected(asked)


def test_dataframe_is_kept_and_registered(workspace: Workspace) -> None:
    frame = pandas.DataFrame(
        {
            "n": [1, 2, 3],
            "text": ["a", None, "ü"],
            "at": pandas.to_datetime(["2020-01-01", None, "2021-01-01"]),
            "kind": pandas.Categorical(["x", "y", "x"]),
            7: [True, False, True],
        },
        index=[5, 6, 7],
    )
    store = workspace.get_default_datastore()
    found = Tabular.register_pandas_dataframe(
        frame, (store, "frames"), "frame", description="kept", show_progress=False
    )
    assert (found.version, found.description) == (1, "kept")
    back = Dataset.get_by_name(workspace, "frame").to_pandas_dataframe()
    assert list(back.columns) == ["n", "text", "at", "kind", "7"]
    assert back["n"].tolist() == [1, 2, 3]
    assert back["kind"].tolist() == ["x", "y", "x"]
    assert back["at"].isna().tolist() == [False, True, False]
    again = Tabular.register_pandas_dataframe(frame, store, "frame", show_progress=False)
    assert again.version == 2
    assert Dataset.from_pandas_dataframe(frame, store.path("older")).to_pandas_dataframe().shape == (3, 5)
    with pytest.raises(UserErrorException, match="'n' more than once"):
        Tabular.register_pandas_dataframe(frame[["n", "n"]], store, "twice")
    with pytest.raises(UserErrorException, match="cannot be kept as a table"):
        Tabular.register_pandas_dataframe(pandas.DataFrame({"mixed": [1, "a", object()]}), store, "mixed")
    with pytest.raises(UserErrorException, match="target is a datastore"):
        Tabular.register_pandas_dataframe(frame, "/tmp/x", "frame")


def test_rows_become_files_of_the_datastore(workspace: Workspace, sales: TabularDataset) -> None:
    part = sales.filter(sales["price"] > 200)
    for files, read in (
        (part.to_csv_files(), Tabular.from_delimited_files),
        (part.to_parquet_files(), Tabular.from_parquet_files),
    ):
        assert isinstance(files, FileDataset)
        source = files._sources[0]
        assert source.datastore == "workspaceblobstore"
        back = read((workspace.get_default_datastore(), source.path)).to_pandas_dataframe()
        pandas.testing.assert_frame_equal(back, part.to_pandas_dataframe())


def test_partitioned_table(workspace: Workspace, sales: TabularDataset) -> None:
    store = workspace.get_default_datastore()
    month = sales.filter(sales["id"] < 100)
    found = month.partition_by(["region", "day"], (store, "parts"), name="parted", show_progress=False)
    assert (found.name, found.partition_keys) == ("parted", ["region", "day"])
    assert len(found.get_partition_key_values()) == 28
    assert found.get_partition_key_values(["region"]) == [{"region": "north"}]
    back = found.to_pandas_dataframe()
    assert sorted(back["id"]) == list(range(100))
    assert list(back.columns) == ["id", "price", "region", "day"]
    one = found.filter(found["day"] == "2020-01-05 00:00:00")
    assert one.to_pandas_dataframe()["id"].tolist() == [4, 32, 60, 88]
    files = month.partition_by("region", store, show_progress=False, partition_as_file_dataset=True)
    assert isinstance(files, FileDataset)
    with pytest.raises(UserErrorException, match="some of the columns"):
        month.partition_by("nothing", store)


def test_server_refuses_definitions_that_cannot_be(workspace: Workspace) -> None:
    read = Step(StepKind.READ, reader=Reader("delimited"))
    wrong = {
        "first step": (Step(StepKind.TAKE, 3),),
        "is read from files of": (Step(StepKind.READ, reader=Reader("excel")),),
        "separator": (Step(StepKind.READ, reader=Reader("delimited", separator="\n")),),
        "cannot have 'and' here": (read, Step(StepKind.FILTER, terms=(Term("column", "a"), Term("and")))),
        "is one condition": (read, Step(StepKind.FILTER, terms=())),
        "filter's integer cannot be": (read, Step(StepKind.FILTER, terms=(Term("integer", "9" * 30),))),
        "at most 1000 terms": (read, Step(StepKind.FILTER, terms=(Term("column", "a"),) * 1001)),
        "no such step": (read, Step("import os")),
        "at most 10000 columns": (read, Step(StepKind.KEEP, columns=("a",) * 10_001)),
        "less than|cannot take": (read, Step(StepKind.TAKE, -1)),
    }
    for sentence, steps in wrong.items():
        with pytest.raises(UserErrorException, match=sentence):
            workspace._call("save_dataset", DatasetSpec((Source(file="/x.csv"),), "tabular", steps=steps))
    with pytest.raises(UserErrorException, match="no such step"):
        workspace._call("save_dataset", DatasetSpec((Source(file="/x.csv"),), steps=(read,)))
    with pytest.raises(UserErrorException, match="files or tabular"):
        workspace._call("save_dataset", DatasetSpec((Source(file="/x.csv"),), "spreadsheet"))


def test_older_names(workspace: Workspace, sales: TabularDataset) -> None:
    store = workspace.get_default_datastore()
    sales.register(workspace, "older")
    assert Dataset.get(workspace, name="older").id == Dataset.get(workspace, id=Dataset.get(workspace, "older").id).id
    assert "older" in [one.name for one in Dataset.list(workspace)]
    auto = Dataset.auto_read_files([(store, "sales/north/data.csv"), (store, "sales/south/data.csv")])
    assert len(auto.to_pandas_dataframe()) == 2000
    typed = Tabular.from_delimited_files((store, "sales"), set_column_types={"id": DataType.to_string()})
    assert typed.take(1).to_pandas_dataframe()["id"].tolist() == ["0"]


def test_command_line_shows_what_a_table_is_made_of(workspace: Workspace, sales: TabularDataset) -> None:
    part = sales.filter((sales["price"] > 3) & ~sales["region"].starts_with("n")).keep_columns(["id", "region"]).take(5)
    part.register(workspace, "shown")
    done = CliRunner().invoke(commands, ["dataset", "show", "shown", "--workspace", "sdk", "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert shown["paths"] == ["/north/data.csv", "/south/data.csv"]
    assert shown["steps"] == [
        "delimited", "/{region}/*.csv", "((dataset['price'] > 3) & ~dataset['region'].starts_with('n'))",
        "id, region", "5",
    ]  # fmt: skip
    done = CliRunner().invoke(commands, ["dataset", "list", "--workspace", "sdk"])
    assert "tabular" in done.output
