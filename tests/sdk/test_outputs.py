"""Folders that a run writes: in a datastore while it runs or after it, and a dataset for the next run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runyard.azureml.core import Dataset, Datastore, Workspace
from runyard.azureml.data import OutputFileDatasetConfig
from runyard.cli.__main__ import app as commands
from runyard.errors import UserErrorException
from tests.emulators.site import serving_folder
from tests.faults.house import wait_until
from tests.own_server import log_of, own_server, stored_bytes, submit_here

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("outputs-home")):
        yield Workspace.create("sdk", exist_ok=True)


WRITE = """
import os, sys
from azureml.core import Run
folder = sys.argv[1]
assert Run.get_context().output_datasets["prepared"] == folder == os.environ["prepared"] == os.environ["PREPARED"]
assert "prepared" not in Run.get_context().input_datasets
os.makedirs(os.path.join(folder, "deep"), exist_ok=True)
for name in ("a.csv", "b.txt", "deep/c.csv"):
    with open(os.path.join(folder, name), "w") as file:
        file.write(name)
"""
READ = """
import os, sys
from azureml.core import Run
for parent, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(parent, name)
        print("found", os.path.relpath(path, sys.argv[1]), open(path).read())
"""


def test_output_becomes_a_dataset_that_the_next_run_reads(workspace: Workspace, tmp_path: Path) -> None:
    output = OutputFileDatasetConfig("prepared").register_on_complete("prepared-digits", "by a run", {"stage": "1"})
    with pytest.raises(UserErrorException, match="submit one with it first"):
        output.as_input()
    first = submit_here(workspace, tmp_path, WRITE, output)
    first.wait_for_completion()
    dataset = Dataset.get_by_name(workspace, "prepared-digits")
    assert (dataset.version, dataset.description, dataset.tags) == (1, "by a run", {"stage": "1"})
    assert dataset.to_path() == ["/a.csv", "/b.txt", "/deep/c.csv"]
    details = first.get_details()
    assert details["outputDatasets"] == [
        {
            "dataset": {"id": dataset.id},
            "outputType": "RunOutput",
            "outputDetails": {"outputName": "prepared", "mechanism": "Mount"},
        }
    ]
    place = {"datastoreName": "workspaceblobstore", "relativePath": "dataset/{run-id}/{output-name}"}
    assert details["runDefinition"]["outputData"] == {
        "prepared": {"outputLocation": {"dataPath": place}, "mechanism": "Mount"}
    }
    second = submit_here(workspace, tmp_path, READ, dataset.as_named_input("digits").as_mount())
    second.wait_for_completion()
    assert "found deep/c.csv deep/c.csv" in log_of(second, tmp_path)
    third = submit_here(workspace, tmp_path, READ, output.as_input("again"))
    third.wait_for_completion()
    assert "found a.csv a.csv" in log_of(third, tmp_path)


def test_upload_takes_what_matches_after_a_success_only(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.get_default_datastore()
    output = OutputFileDatasetConfig("prepared", (store, "tables/{output-name}/{run-id}/"))
    chosen = output.as_upload(source_globs=["**/*.csv"])
    run = submit_here(workspace, tmp_path, WRITE, chosen)
    run.wait_for_completion()
    paths = [one.path for one in store._list(f"tables/prepared/{run.id}")]
    assert paths == [f"tables/prepared/{run.id}/a.csv", f"tables/prepared/{run.id}/deep/c.csv"]
    assert f"2 files, 15 bytes, are in workspaceblobstore/tables/prepared/{run.id}" in log_of(run, tmp_path)
    failed = submit_here(workspace, tmp_path, WRITE + "sys.exit(3)", output.as_upload())
    failed.wait_for_completion(raise_on_error=False)
    assert failed.status == "Failed"
    assert store._list(f"tables/prepared/{failed.id}") == []
    assert "was not uploaded, since the script did not succeed" in log_of(failed, tmp_path)
    assert failed.get_details()["outputDatasets"] == []


def test_mounted_output_keeps_what_a_failed_script_wrote(workspace: Workspace, tmp_path: Path) -> None:
    run = submit_here(
        workspace, tmp_path, WRITE + "sys.exit(3)", OutputFileDatasetConfig("prepared").register_on_complete("never")
    )
    run.wait_for_completion(raise_on_error=False)
    paths = [one.path for one in workspace.get_default_datastore()._list(f"dataset/{run.id}/prepared")]
    assert len(paths) == 3
    with pytest.raises(UserErrorException, match="'never' is not registered"):
        Dataset.get_by_name(workspace, "never")


def test_output_writes_over_nothing_unless_it_may(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.get_default_datastore()
    output = OutputFileDatasetConfig("prepared", (store, "fixed"))
    submit_here(workspace, tmp_path, WRITE, output.as_upload()).wait_for_completion()
    refused = submit_here(workspace, tmp_path, WRITE.replace("(name)", "('other')"), output.as_upload())
    refused.wait_for_completion(raise_on_error=False)
    assert refused.status == "Failed"
    assert "'prepared': The datastore has a file 'fixed/" in refused.get_details()["error"]["error"]["message"]
    allowed = submit_here(workspace, tmp_path, WRITE.replace("(name)", "('other')"), output.as_upload(overwrite=True))
    allowed.wait_for_completion()
    assert stored_bytes(store, "fixed/a.csv") == b"other"


def test_output_that_cannot_be_stored_costs_nothing_else_of_the_record(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.get_default_datastore()
    script = f"""{WRITE}
os.makedirs("outputs", exist_ok=True)
open("outputs/model.bin", "w").write("hours of work")
open(os.path.join(sys.argv[2], "d.csv"), "w").write("more")
"""
    first = OutputFileDatasetConfig("prepared", (store, "taken")).as_upload()
    second = OutputFileDatasetConfig("second", (store, "free/{run-id}")).as_upload()
    submit_here(workspace, tmp_path, script, first, second).wait_for_completion()
    refused = submit_here(workspace, tmp_path, script.replace("(name)", "('other')"), first, second)
    refused.wait_for_completion(raise_on_error=False)
    assert refused.status == "Failed"
    assert "'taken/" in refused.get_details()["error"]["error"]["message"]
    assert "outputs/model.bin" in refused.get_file_names()
    assert len(store._list(f"free/{refused.id}")) == 1


def test_reference_in_upload_mode_stores_a_folder_that_the_script_writes(workspace: Workspace, tmp_path: Path) -> None:
    """v1's older way: a path of a datastore, to which a folder of the script's own choice goes."""
    store = workspace.get_default_datastore()
    script = "import os, sys; os.makedirs('made/here', exist_ok=True); open('made/here/x', 'w').write(sys.argv[1])"
    reference = store.path("from/reference").as_upload(path_on_compute="made")
    run = submit_here(workspace, tmp_path, script, reference)
    run.wait_for_completion()
    assert stored_bytes(store, "from/reference/here/x").decode().endswith("/made")
    assert run.get_details()["outputDatasets"] == []


def test_links_pipes_and_odd_names_hold_no_output_up(workspace: Workspace, tmp_path: Path) -> None:
    script = """
import os, sys
os.symlink("/etc/passwd", os.path.join(sys.argv[1], "leaves"))
os.symlink("real", os.path.join(sys.argv[1], "stays"))
os.mkfifo(os.path.join(sys.argv[1], "pipe"))
open(os.path.join(sys.argv[1], "real"), "w").write("x")
open(os.path.join(sys.argv[1], "new\\nline"), "w").write("y")
open(os.path.join(sys.argv[1], "l" * 255), "w").write("z")
"""
    run = submit_here(workspace, tmp_path, script, OutputFileDatasetConfig("odd").as_upload())
    run.wait_for_completion()
    store = workspace.get_default_datastore()
    names = [one.path.rpartition("/")[2] for one in store._list(f"dataset/{run.id}/odd")]
    assert names == ["l" * 255, "new%0Aline", "real", "stays"]
    assert "'leaves' is a link that leaves" in log_of(run, tmp_path)


def test_runs_and_datasets_know_each_other(workspace: Workspace, tmp_path: Path) -> None:
    output = OutputFileDatasetConfig("prepared").register_on_complete("known-digits")
    maker = submit_here(workspace, tmp_path, WRITE, output)
    maker.wait_for_completion()
    dataset = Dataset.get_by_name(workspace, "known-digits")
    reader = submit_here(workspace, tmp_path, READ, dataset.as_named_input("digits").as_mount())
    uses = workspace._call("list_dataset_runs", dataset_id=dataset.id)
    assert [(one.run_id, one.direction, one.name) for one in uses] == [
        (reader.id, "input", "digits"),
        (maker.id, "output", "prepared"),
    ]
    read = workspace._call("list_run_datasets", run_id=reader.id)
    assert [(one.dataset_id, one.direction) for one in read] == [(dataset.id, "input")]
    reader.wait_for_completion()
    told = CliRunner().invoke(commands, ["dataset", "runs", "known-digits", "--workspace", "sdk", "--json"])
    assert [one["run_id"] for one in json.loads(told.stdout)] == [reader.id, maker.id]


def test_output_that_cannot_be_is_refused_before_anything_runs(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.get_default_datastore()
    for output, sentence in (
        (OutputFileDatasetConfig("up", (store, "../other")), "'..'"),
        (OutputFileDatasetConfig("up", source="/"), "needs a folder as its source"),
        (OutputFileDatasetConfig("up").as_upload(source_globs="/etc/*"), "absolute"),
        (OutputFileDatasetConfig("up").register_on_complete("no/name"), "no/name"),
        (OutputFileDatasetConfig("up").register_on_complete("n", tags={"k" * 300: "v"}), "tag name"),
    ):
        with pytest.raises(UserErrorException, match=sentence):
            submit_here(workspace, tmp_path, WRITE, output)
    with pytest.raises(UserErrorException, match="a datastore and a path"):
        OutputFileDatasetConfig("up", destination="somewhere")  # type: ignore[arg-type]


def test_file_of_the_web_that_changes_under_a_dataset_is_noticed_and_said(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "digits.txt").write_text("first")
    with serving_folder(site) as address:
        dataset = Dataset.File.from_files(address + "/digits.txt?signature=canary").register(workspace, "of-the-web")
        for _ in range(2):
            run = submit_here(workspace, tmp_path, READ, dataset.as_mount())
            run.wait_for_completion()
            assert "first" in log_of(run, tmp_path)
            assert "warnings" not in run.get_details()
        (site / "digits.txt").write_text("second")
        changed = submit_here(workspace, tmp_path, READ, dataset.as_mount())
        changed.wait_for_completion()
    log = log_of(changed, tmp_path)
    assert "second" in log
    assert "/digits.txt has changed since run" in log
    assert "it had 5 bytes" in log
    assert "has 6" in log
    assert "canary" not in log
    assert "/digits.txt has changed" in changed.get_details()["warnings"][0]["message"]


def test_output_becomes_a_table_of_those_files_that_match(workspace: Workspace, tmp_path: Path) -> None:
    script = """
import os, sys
for name, rows in (("a.csv", "x,y,z\\\\n1,2,3\\\\n"), ("b.csv", "x,y,z\\\\n4,5,6\\\\n"), ("notes.txt", "no table")):
    open(os.path.join(sys.argv[1], name), "w").write(rows)
"""
    output = OutputFileDatasetConfig("rows").read_delimited_files(path_glob="*.csv").drop_columns("z")
    run = submit_here(workspace, tmp_path, script.replace("\\\\", "\\"), output.register_on_complete("made-rows"))
    run.wait_for_completion()
    table = Dataset.get_by_name(workspace, "made-rows")
    assert table.to_pandas_dataframe().to_dict("list") == {"x": [1, 4], "y": [2, 5]}
    again = output.as_input("rows").dataset
    assert again.take(1).to_pandas_dataframe().to_dict("list") == {"x": [1], "y": [2]}


def test_output_whose_datastore_is_gone_by_then_makes_no_dataset_and_says_so(
    workspace: Workspace, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    store = Datastore.register(workspace, "fleeting", str(place))
    script = "import os, sys, time; open(sys.argv[2] + '/started', 'w'); \n"
    script += "while not os.path.exists(sys.argv[2] + '/go'): time.sleep(0.02)\n"
    output = OutputFileDatasetConfig("prepared", (store, "out")).register_on_complete("of-nowhere")
    run = submit_here(workspace, tmp_path, script, output, str(tmp_path))
    wait_until((tmp_path / "started").exists, "the script runs")
    store.unregister()
    (tmp_path / "go").touch()
    run.wait_for_completion()
    assert "became no dataset: " in run.get_details()["warnings"][0]["message"]
    with pytest.raises(UserErrorException, match="not registered"):
        Dataset.get_by_name(workspace, "of-nowhere")


def test_output_folder_that_cannot_be_made_is_named(workspace: Workspace, tmp_path: Path) -> None:
    run = submit_here(workspace, tmp_path, WRITE, OutputFileDatasetConfig("up", source="/proc/nope").as_upload())
    run.wait_for_completion(raise_on_error=False)
    assert "Output 'up': its folder '/proc/nope' cannot be made" in run.get_details()["error"]["error"]["message"]
