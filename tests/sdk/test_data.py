"""Datasets, references and outputs that are not what their owner takes them for: each is refused or said."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from runyard.azureml.core import Dataset, Datastore, Environment, Workspace
from runyard.azureml.data import OutputFileDatasetConfig
from runyard.client.home import home_folder
from runyard.errors import AzureMLException, UserErrorException
from runyard.files.snapshots import take_snapshot
from runyard.files.survey import survey
from runyard.sdk.run import Run
from tests.emulators.site import serving_folder
from tests.own_server import log_of, own_server, submit_here

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("data-home")):
        yield Workspace.create("mine", exist_ok=True)


def test_data_of_another_workspace_are_never_taken_for_this_ones(workspace: Workspace, tmp_path: Path) -> None:
    """Both workspaces have a datastore of that name, and a file of that path in it."""
    other = Workspace.create("theirs", exist_ok=True)
    (tmp_path / "x.txt").write_text("x")
    for one in (workspace, other):
        one.get_default_datastore().upload_files([str(tmp_path / "x.txt")], target_path="both", show_progress=False)
    mine, theirs = workspace.get_default_datastore(), other.get_default_datastore()
    dataset = Dataset.File.from_files((theirs, "both/x.txt"))
    sentence = "The datastore 'workspaceblobstore' belongs to workspace 'theirs', and not to 'mine'; use one of 'mine'."
    for argument in (
        dataset.as_mount(),
        theirs.path("both").as_mount(),
        theirs.path("both").as_upload("made"),
        OutputFileDatasetConfig("made", (theirs, "made")),
    ):
        with pytest.raises(UserErrorException) as caught:
            submit_here(workspace, tmp_path, "", argument)
        assert str(caught.value) == sentence
    with pytest.raises(UserErrorException, match="belongs to workspace 'theirs'"):
        dataset.take(1).register(workspace, "both")
    with pytest.raises(UserErrorException, match="belongs to workspace 'theirs', and not to 'mine'"):
        Dataset.File.from_files([(mine, "both"), (theirs, "both/x.txt")])
    registered = dataset.register(other, "both")
    with pytest.raises(UserErrorException, match="belongs to workspace 'theirs'"):
        submit_here(workspace, tmp_path, "", registered.as_mount())
    assert Dataset.File.from_files(str(tmp_path / "x.txt")).register(workspace, "local").register(other, "local").id


def test_outputs_of_one_place_are_refused_since_one_would_write_over_the_other(
    workspace: Workspace, tmp_path: Path
) -> None:
    store = workspace.get_default_datastore()
    for first, second in (
        ("same/{run-id}", "same/{run-id}/"),
        ("outer", "outer/{run-id}/deep"),
        ("{run-id}/{output-name}", "{run-id}"),
        ("/", "anywhere"),
    ):
        outputs = [OutputFileDatasetConfig("one", (store, first)), OutputFileDatasetConfig("two", (store, second))]
        with pytest.raises(UserErrorException, match=r"Outputs 'one' and 'two' go to one place of datastore .*folder"):
            submit_here(workspace, tmp_path, "", *outputs)
    apart = [OutputFileDatasetConfig(name, (store, "out/{output-name}")) for name in ("one", "two")]
    beside = OutputFileDatasetConfig("three", (store, "out/one-more"))
    submit_here(workspace, tmp_path, "", *apart, beside).wait_for_completion()


def test_folder_with_brackets_in_its_name_is_mounted_as_that_folder(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.get_default_datastore()
    (tmp_path / "x.csv").write_text("x")
    store.upload_files([str(tmp_path / "x.csv")], target_path="v[2]", show_progress=False)
    script = "import os, sys; print(os.listdir(sys.argv[1]))"
    run = submit_here(workspace, tmp_path, script, Dataset.File.from_files((store, "v[2]")).as_mount())
    assert "\n['x.csv']\n" in log_of(run, tmp_path)


def test_one_odd_name_costs_no_other_file_of_an_output(workspace: Workspace, tmp_path: Path) -> None:
    script = """
import os, sys
os.makedirs(os.path.join(sys.argv[1], *["d" * 200] * 6))
for name in ("e:1", "fine", "/".join(["d" * 200] * 6) + "/too far down"):
    open(os.path.join(sys.argv[1], name), "w").write(name)
"""
    run = submit_here(workspace, tmp_path, script, OutputFileDatasetConfig("odd").as_upload())
    run.wait_for_completion()
    stored = workspace.get_default_datastore()._list(f"dataset/{run.id}/odd")
    assert [one.path.rpartition("/")[2] for one in stored] == ["e%3A1", "fine"]
    assert "Output 'odd': a file was left out: A path has at most 1024 characters, not 1218." in log_of(run, tmp_path)


def test_what_a_mounted_output_leaves_out_is_said_by_its_run_and_by_those_that_read_it(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
import os, sys
open(os.path.join(sys.argv[1], "fine"), "w").close()
open(os.path.join(os.fsencode(sys.argv[1]), b"no\\xfftext"), "w").close()
os.symlink("/etc/passwd", os.path.join(sys.argv[1], "away"))
os.symlink("/etc", os.path.join(sys.argv[1], "folder"))
os.mkfifo(os.path.join(sys.argv[1], "pipe"))
"""
    output = OutputFileDatasetConfig("odd").register_on_complete("left-out")
    run = submit_here(workspace, tmp_path, script, output)
    made = log_of(run, tmp_path)
    dataset = Dataset.get_by_name(workspace, "left-out")
    reader = submit_here(workspace, tmp_path, "", dataset.as_named_input("odd").as_mount())
    read = log_of(reader, tmp_path)
    capsys.readouterr()
    assert dataset.to_path() == ["/fine"]
    outside = capsys.readouterr().err
    for told in (made, read, outside, _warnings(run), _warnings(reader)):
        assert "4 files of datastore 'workspaceblobstore' are left out: " in told
        assert "away' is a link that leads nowhere, or out of the datastore." in told
        assert "folder' is a link to a folder, which is not followed." in told
        assert "pipe' is no regular file." in told
        assert "no\\udcfftext' is no valid Unicode text." in told
    assert "Output 'odd': 4 files" in made
    assert "Input 'odd': 4 files" in read


def test_files_that_are_gone_from_a_registered_dataset_are_named(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(name)
    dataset = Dataset.File.from_files(str(folder)).register(workspace, "shrinking")
    for expected in (
        "",
        "1 of the 3 files of dataset 'shrinking' is gone since it was registered on",
        "The files of dataset 'shrinking' have changed since it was registered on",
        "",
    ):
        run = submit_here(workspace, tmp_path, "", dataset.as_named_input("small").as_mount())
        log = log_of(run, tmp_path)
        assert run.status == "Completed"
        assert expected in log
        assert (expected in _warnings(run)) if expected else not _warnings(run)
        if (folder / "b").exists() and not expected:
            (folder / "b").unlink()
        elif not (folder / "b").exists():
            assert ": 'b'." in log
            (folder / "b").write_text("longer")
        else:
            dataset = Dataset.File.from_files(str(folder)).register(workspace, "shrinking")


def test_file_that_is_named_and_gone_fails_the_run_with_its_name(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.get_default_datastore()
    for name in ("here", "gone"):
        (tmp_path / name).write_text(name)
        store.upload_files([str(tmp_path / name)], target_path="named", show_progress=False)
    (tmp_path / "empty").mkdir()
    local = Dataset.File.from_files([str(tmp_path / name) for name in ("here", "gone", "empty")])
    stored = Dataset.File.from_files([(store, "named/here"), (store, "named/gone")])
    stays = submit_here(workspace, tmp_path, "", local.as_mount(), stored.as_mount())
    stays.wait_for_completion()
    (tmp_path / "gone").unlink()
    (home_folder() / "datastores" / "mine" / "workspaceblobstore" / "named" / "gone").unlink()
    for dataset, name in ((local, str(tmp_path / "gone")), (stored, "workspaceblobstore/named/gone")):
        run = submit_here(workspace, tmp_path, "", dataset.as_named_input("named").as_mount())
        run.wait_for_completion(raise_on_error=False)
        message = run.get_details()["error"]["error"]["message"]
        assert message == f"Input 'named': nothing is there at {name}."


def test_upload_sends_nothing_before_every_name_can_be_and_leaves_out_what_is_no_file(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, folder = workspace.get_default_datastore(), tmp_path / "odd"
    (folder / "deep").mkdir(parents=True)
    for name in ("a", "deep/b", "z\n"):
        (folder / name).write_text(name)
    os.mkfifo(folder / "deep" / "pipe")
    (folder / "nowhere").symlink_to("gone")
    (folder / "linked").symlink_to("a")
    (folder / "aside").symlink_to("deep")
    with pytest.raises(UserErrorException, match=r"The path 'up/z\\n' has a control character"):
        store.upload(str(folder), "up", show_progress=False)
    assert store._list("up") == []
    (folder / "z\n").unlink()
    store.upload(str(folder), "up", show_progress=False)
    assert sorted(one.path for one in store._list("up")) == ["up/a", "up/deep/b", "up/linked"]
    told = capsys.readouterr().err
    for name, what in (("deep/pipe", "no regular"), ("nowhere", "no regular"), ("aside", "a link to a folder")):
        assert f"Warning: '{folder}/{name}' is left out: it is {what}" in told
    with pytest.raises(UserErrorException, match="takes a list of files, not '/etc/hostname'"):
        store.upload_files("/etc/hostname")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://host:99999/a", "'https://host:99999/a' is not an address: Port out of range 0-65535"),
        ("https://host:port/a", "is not an address: Port could not be cast"),
        ("https://[::1/a", "is not an address: Invalid IPv6 URL"),
        ("https:///a", "is not a http or https address"),
        ("ftp://me:canary@host/a?sig=canary", "'ftp://host/a' is not a http or https address"),
        ("https://me:canary@host/a?sig=canary", "'https://host/a' holds a user or a password"),
    ],
)
def test_address_that_no_dataset_should_hold_is_refused_without_its_secrets(url: str, sentence: str) -> None:
    with pytest.raises(UserErrorException) as caught:
        Dataset.File.from_files(url, validate=False)
    assert sentence in str(caught.value)
    assert "canary" not in str(caught.value)


def test_address_is_looked_at_unless_it_is_not_to_be(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("x")
    with serving_folder(tmp_path) as address:
        found = Dataset.File.from_files([address + "/here?sv=1&sig=canary", address + "/here?x=1"])
        assert repr(found) == f"FileDataset([{address}/here?..., {address}/here?...])"
        Dataset.File.from_files(address + "/gone?sig=of-a-get-request")
        Dataset.File.from_files(address + "/gone", validate=False)
        with pytest.raises(UserErrorException, match=r"/gone is not there, or .* pass validate=False"):
            Dataset.File.from_files(address + "/gone")
    with pytest.raises(UserErrorException, match=r"/here cannot be reached: .*\. Pass validate=False"):
        Dataset.File.from_files(address + "/here")


def test_name_that_would_change_how_the_script_starts_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    dataset = Dataset.File.from_files(str(tmp_path / "x"))
    for name in ("PATH", "HOME", "pythonhome", "PYTHONPATH", "ld_preload"):
        for one in (dataset.as_named_input(name).as_mount(), OutputFileDatasetConfig(name)):
            with pytest.raises(UserErrorException, match=f"'{name}' cannot be an input's or output's name"):
                submit_here(workspace, tmp_path, "", one)
    registered = dataset.register(workspace, "pythonhome")
    fine = [registered.as_mount(), dataset.as_named_input("path").as_mount(), OutputFileDatasetConfig("python_files")]
    submit_here(workspace, tmp_path, "", *fine).wait_for_completion()


def test_what_cannot_be_is_answered_in_a_sentence(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n007,2020-01-01\n")
    pyarrow.parquet.write_table(pyarrow.table([[1], [2]], names=["a", "a"]), tmp_path / "twice.parquet")
    files, table = Dataset.File.from_files(str(path)), Dataset.Tabular.from_delimited_files(str(path))
    store, output = workspace.get_default_datastore(), OutputFileDatasetConfig("x")
    registered = files.register(workspace, "sentences")
    variables = Environment("of-none")
    variables.environment_variables = {"A": None}
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: table.random_split(0.5, seed="s"), "A seed is a whole number, not 's'."),
        (lambda: table.keep_columns(5), "Columns are one or more names, not 5."),
        (lambda: table.with_timestamp_columns("b").time_recent(timedelta.max), "a time lies after the year 1"),
        (
            lambda: Dataset.Tabular.from_parquet_files(str(tmp_path / "twice.parquet")).to_pandas_dataframe(),
            "has the column 'a' more than once",
        ),
        (lambda: Dataset.Tabular.register_pandas_dataframe({}, store, "x"), "A pandas DataFrame is registered here"),
        (lambda: OutputFileDatasetConfig(5), "An output's name is a text, not 5."),
        (lambda: output.as_upload(source_globs=5), "source_globs is a pattern or a list of patterns, not 5."),
        (lambda: files.download(str(path)), f"The folder '{path}' cannot be made: there is a file of that name."),
        (lambda: files.mount(str(path)).start(), "cannot be made: there is a file of that name."),
        (lambda: store.download(str(path)), f"'{path}' is a file; name a folder to download to."),
        (lambda: files.register(workspace, None), "under a name, a text, not None"),
        (
            lambda: files.register(workspace, "sentences", tags=5),
            "are a dict of names and values, not 5.",
        ),
        (lambda: Dataset.get_by_name(workspace, "sentences", 0), "'sentences' version 0 is not registered"),
        (lambda: Environment.get(workspace, "AzureML-Minimal", "9"), "has the version 1 alone, not '9'"),
        (lambda: variables.register(workspace), "The environment variable 'A' has no value"),
        (lambda: files.filter("x"), "name them by a pattern"),
        (lambda: files.file_metadata("x"), "name files by a pattern"),
        (lambda: Datastore.register_azure_data_lake(workspace, "x", "y"), "register_azure_data_lake_gen2()"),
        (lambda: Datastore.register_azure_sql_database(workspace, "x", "y", "z"), "pandas.read_sql"),
        (lambda: Datastore.register_azure_postgre_sql(workspace, "x"), "pandas.read_sql"),
        (lambda: Datastore.register_azure_my_sql(workspace, "x"), "pandas.read_sql"),
        (lambda: Datastore.register_dbfs(workspace, "x"), "mount one on the server's machine"),
        (lambda: Datastore.register_hdfs(workspace, "x"), "mount one on the server's machine"),
        (lambda: survey(str(path)), f"The source folder '{path}' is a file."),
        (lambda: take_snapshot(str(path), str(tmp_path / "cache")), f"The source folder '{path}' is a file."),
    ]
    for do, sentence in refused:
        with pytest.raises(AzureMLException) as caught:
            do()
        assert sentence in str(caught.value)
    assert Dataset.get_by_name(workspace, "sentences", 1).id == registered.id
    assert Environment.get(workspace, "AzureML-Minimal", "1").version == "1"
    assert table.to_pandas_dataframe()["a"].tolist() == [7]


def _warnings(run: Run) -> str:
    return "\n".join(one["message"] for one in run.get_details().get("warnings", []))
