"""v1's nouns as scripts use them, against a real server of their own."""

import contextlib
import json
import os
import re
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Datastore, Environment, Experiment, Model, Run, ScriptRunConfig, Workspace
from runyard.azureml.core.compute import AmlCompute, ComputeTarget
from runyard.azureml.core.compute_target import ComputeTargetException
from runyard.azureml.core.conda_dependencies import CondaDependencies
from runyard.azureml.core.run import _OfflineRun
from runyard.azureml.data.azure_storage_datastore import (
    AbstractAzureStorageDatastore,
    AzureBlobDatastore,
    AzureFileDatastore,
)
from runyard.azureml.exceptions import (
    ActivityFailedException,
    RunEnvironmentException,
    UserErrorException,
    WebserviceException,
)
from runyard.errors import ConflictError
from runyard.protocol.identity import TokenSpec
from runyard.sdk.session import forget_server
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

SCRIPT = """
import os, sys
from azureml.core import Run
run = Run.get_context()
run.log("loss", 0.5, step=0)
run.log("loss", 0.25, step=1)
run.log("count", 7)
run.tag("mood", "good")
os.makedirs("logs", exist_ok=True)
open("logs/own.txt", "w").write("mine")
open("outputs/result.txt", "w").write("result")
print(run.get_metrics(), run.experiment.name, run.input_datasets, sys.argv[1:])
sys.exit(int(os.environ.get("CODE", "0")))
"""

#: Says a word in its own log, waits for the test at a pipe, and says another.
WAITING = """
import os, sys
os.makedirs("logs", exist_ok=True)
with open("logs/own.txt", "w") as log:
    log.write("early")
    log.flush()
    open(sys.argv[1]).read()
    log.write(", late")
open("outputs/result.txt", "w").write("result")
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("sdk-home")):
        yield Workspace.create("sdk", subscription_id="sub", resource_group="group", exist_ok=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    (folder / "train.py").write_text(SCRIPT)
    return str(folder)


def _config(source: str, *arguments: Any, **variables: str) -> ScriptRunConfig:
    environment = Environment("mine")
    environment.python.user_managed_dependencies = True
    config = ScriptRunConfig(source, "train.py", list(arguments), environment=environment)
    config.run_config.environment_variables = variables
    return config


@pytest.fixture(scope="module")
def run(workspace: Workspace, source: str) -> Run:
    """One run that has completed."""
    found = Experiment(workspace, "nouns").submit(_config(source, "--rate", 0.1), tags={"colour": "blue"})
    found.wait_for_completion()
    return found


def test_workspace_is_found_by_the_config_of_a_folder_above(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.write_config(str(tmp_path))
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "deeper")
    found = Workspace.from_config()
    assert (found.name, found.subscription_id, found.resource_group) == ("sdk", "sub", "group")
    assert Workspace.from_config(path=str(tmp_path / ".azureml" / "config.json")).name == "sdk"


def test_token_of_one_workspace_finds_it_by_its_config(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.write_config(str(tmp_path))
    token = workspace._call("create_token", TokenSpec("ci", role="reader")).secret
    monkeypatch.setenv("RUNYARD_TOKEN", token)
    forget_server()
    try:
        assert Workspace.from_config(path=str(tmp_path)).subscription_id == "sub"
    finally:
        monkeypatch.undo()
        forget_server()


def test_nearer_place_of_a_config_wins_in_v1s_order(workspace: Workspace, tmp_path: Path) -> None:
    for place in ("config.json", "aml_config/config.json", ".azureml/config.json"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        name = "from-" + place.split("/")[0].strip(".").replace(".", "-").replace("_", "-")
        (tmp_path / place).write_text(json.dumps({"workspace_name": name, "more": "is ignored"}))
        assert Workspace.from_config(path=str(tmp_path)).name == name


def test_config_without_a_name_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"workspace_name": None}))
    with pytest.raises(UserErrorException, match="needs JSON with a workspace_name"):
        Workspace.from_config(path=str(tmp_path))


def test_log_of_a_run_that_goes_on_is_downloaded_as_it_is(workspace: Workspace, source: str, tmp_path: Path) -> None:
    config = ScriptRunConfig(source, command=["sh", "-c", "echo begun; sleep 60"])
    config.run_config.environment.python.user_managed_dependencies = True
    going = Experiment(workspace, "nouns").submit(config)
    for name in ("user_logs/std_log.txt", "azureml-logs/70_driver_log.txt"):
        ends_at = time.monotonic() + 20
        while True:
            with contextlib.suppress(UserErrorException):
                going.download_file(name, str(tmp_path / "log.txt"))
                if (tmp_path / "log.txt").read_text() == "begun\n":
                    break
            assert time.monotonic() < ends_at
            time.sleep(0.05)
    with pytest.raises(UserErrorException, match="was not found"):
        going.download_file("outputs/absent")
    going.cancel()


def test_missing_config_says_where_it_looked(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserErrorException, match="No workspace config"):
        Workspace.from_config()


def test_run_id_has_v1s_form(run: Run) -> None:
    assert re.fullmatch(r"nouns_\d{10}_[0-9a-f]{8}", run.id)


def test_metrics_and_labels_come_back_as_they_were_logged(run: Run) -> None:
    metrics = run.get_metrics()
    assert metrics == {"loss": [0.5, 0.25], "count": 7}
    assert isinstance(metrics["count"], int)
    assert run.get_metrics(name="count") == {"count": 7}
    assert run.get_tags() == {"colour": "blue", "mood": "good"}


def test_details_have_v1s_keys_as_attributes_too(run: Run) -> None:
    details = run.get_details()
    assert details.status == details["status"] == "Completed"
    assert details["runId"] == run.id
    assert details["runDefinition"]["arguments"] == ["--rate", "0.1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", details["endTimeUtc"])
    assert details["properties"]["ContentSnapshotId"].startswith("sha256")
    assert "user_logs/std_log.txt" in details["logFiles"]
    assert " nouns " in run.get_details_with_logs()["logFiles"]["user_logs/std_log.txt"]


def test_files_of_the_record_are_listed_and_downloaded(run: Run, tmp_path: Path) -> None:
    names = run.get_file_names()
    for name in ("outputs/result.txt", "logs/own.txt", "user_logs/std_log.txt", "azureml-logs/70_driver_log.txt"):
        assert name in names
    run.download_file("outputs/result.txt", str(tmp_path / "deep" / "mine.txt"))
    assert (tmp_path / "deep" / "mine.txt").read_text() == "result"
    with pytest.raises(UserErrorException, match="was not found"):
        run.download_file("outputs/absent.txt")
    run.upload_file("outputs/result.txt.old", str(tmp_path / "deep" / "mine.txt"))
    run.download_files("outputs/result.txt", str(tmp_path / "one"))
    assert [one.name for one in tmp_path.glob("one/outputs/*")] == ["result.txt"]
    run.download_files("outputs/", str(tmp_path / "all"), append_prefix=False)
    assert sorted(one.name for one in tmp_path.glob("all/*")) == ["result.txt", "result.txt.old"]
    assert any(path.endswith("own.txt") for path in run.get_all_logs(str(tmp_path / "logs")))


def test_property_cannot_change_once_it_is_set(run: Run) -> None:
    run.add_properties({"author": "me"})
    run.add_properties({"author": "me"})
    with pytest.raises(UserErrorException, match="cannot change"):
        run.add_properties({"author": "you"})


def test_runs_are_found_by_tag_and_id(workspace: Workspace, run: Run) -> None:
    experiment = Experiment(workspace, "nouns")
    assert [one.id for one in experiment.get_runs(tags="colour")] == [run.id]
    assert [one.id for one in experiment.get_runs(tags={"colour": "red"})] == []
    assert Run.get(workspace, run.id).get_status() == "Completed"
    assert Run(experiment, run.id).number == run.number


def test_failed_run_raises_with_its_error_and_keeps_its_logs(workspace: Workspace, source: str) -> None:
    failed = Experiment(workspace, "failing").submit(_config(source, CODE="3"))
    with pytest.raises(ActivityFailedException, match="ended with exit code 3"):
        failed.wait_for_completion()
    details = failed.wait_for_completion(raise_on_error=False)
    assert details["error"]["error"]["code"] == "UserError"
    assert "outputs/result.txt" in failed.get_file_names()


def test_offline_run_prints_what_it_would_have_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    offline = Run.get_context()
    assert offline.id.startswith("OfflineRun_")
    assert uuid.UUID(offline.id[len("OfflineRun_") :])
    offline.log("loss", 0.5)
    assert capsys.readouterr().out == "Attempted to log scalar metric loss:\n0.5\n"
    assert offline.get_metrics() == {"loss": 0.5}
    offline.set_tags({"mood": "good"})
    offline.add_properties({"made": "here"})
    assert (offline.tags, offline.properties) == ({"mood": "good"}, {"made": "here"})
    assert (offline.get_status(), type(offline)) == ("Running", _OfflineRun)
    with pytest.raises(RunEnvironmentException, match="belongs to no experiment"):
        offline.experiment  # noqa: B018
    assert offline.child_run("part").id == offline.id + ".part"


def test_dataset_keeps_its_version_until_its_files_are_others(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    one = Dataset.File.from_files(str(tmp_path / "a.txt")).register(workspace, "letters")
    assert Dataset.File.from_files(str(tmp_path / "a.txt")).register(workspace, "letters").version == one.version == 1
    other = Dataset.File.from_files(str(tmp_path))
    with pytest.raises(UserErrorException, match="create_new_version"):
        other.register(workspace, "letters")
    assert other.register(workspace, "letters", create_new_version=True).version == 2
    assert Dataset.get_by_name(workspace, "letters").version == 2
    assert Dataset.get_by_name(workspace, "letters", version=1).to_path() == ["/a.txt"]
    with pytest.raises(UserErrorException, match="not registered"):
        Dataset.get_by_name(workspace, "absent")


def test_addresses_that_differ_in_their_query_are_two_files() -> None:
    site = "https://example.org"
    found = Dataset.File.from_files([site + "/get?id=1", site + "/get?id=2", site + "/get?id=1"], validate=False)
    assert found.to_path() == ["/example.org/get_id=1", "/example.org/get_id=2"]
    signed = Dataset.File.from_files([site + "/a/b.tar.gz?sv=1&sig=secret", site + "/c.tar.gz?v=2"], validate=False)
    assert signed.to_path() == ["/example.org/a/b.tar.gz", "/example.org/c_v=2.tar.gz"]
    with pytest.raises(UserErrorException, match=r"have one path, 'example\.org/a'"):
        Dataset.File.from_files([site + "/a?sig=1", site + "/a?sig=2"], validate=False)
    names = ["name=a/b", "name=a%2Fb", "x" * 500]
    odd = Dataset.File.from_files([f"{site}/get?{one}" for one in names], validate=False)
    assert len(set(odd.to_path())) == 3
    assert all(len(path) < 120 and path.count("/") == 2 for path in odd.to_path())


def test_file_that_two_sources_hold_comes_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)
    found = Dataset.File.from_files([str(tmp_path / "a"), str(tmp_path / "a" / "x.txt")])
    assert found.to_path() == ["/a/x.txt"]
    assert [Path(one).read_text() for one in found.download(str(tmp_path / "got"))] == ["a"]


def test_datastore_files_go_up_and_come_down(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "sub" / "b.txt").write_text("b")
    store = workspace.get_default_datastore()
    assert store.name == "workspaceblobstore"
    store.upload(str(tmp_path / "up"), "place", show_progress=False)
    assert store.download(str(tmp_path / "down"), prefix="place", show_progress=False) == 1
    assert (tmp_path / "down" / "place" / "sub" / "b.txt").read_text() == "b"
    assert Dataset.File.from_files((store, "place/**/*.txt")).to_path() == ["/sub/b.txt"]
    with pytest.raises(UserErrorException, match="Nothing in datastore"):
        Dataset.File.from_files((store, "absent"))


def test_workspace_comes_with_v1s_datastores(workspace: Workspace, tmp_path: Path) -> None:
    found = {name: (one.datastore_type, type(one)) for name, one in workspace.datastores.items()}
    assert found == {
        "workspaceblobstore": ("AzureBlob", AzureBlobDatastore),
        "workspacefilestore": ("AzureFile", AzureFileDatastore),
        "workspaceworkingdirectory": ("AzureFile", AzureFileDatastore),
    }
    (tmp_path / "x.txt").write_text("on the share")
    share = Datastore(workspace, "workspacefilestore")
    assert isinstance(share, AbstractAzureStorageDatastore)
    assert (share.container_name, share.is_default) == ("workspacefilestore", False)
    share.upload_files([str(tmp_path / "x.txt")], show_progress=False)
    assert share.download(str(tmp_path / "down"), show_progress=False) == 1
    assert Dataset.File.from_files((share, "*.txt")).to_path() == ["/x.txt"]
    assert Dataset.File.from_files(share).to_path() == ["/x.txt"]
    assert Datastore.get(workspace, "workspaceworkingdirectory")._list("") == [], "each has a folder of its own"
    with pytest.raises(ConflictError, match="came with the workspace"):
        share.unregister()


def test_reserved_environment_must_get_a_name_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    curated = Environment.get(workspace, "AzureML-TensorFlow-2.2-GPU")
    with pytest.raises(UserErrorException, match="reserved"):
        curated.register(workspace)
    mine = curated.clone("my-tensorflow").register(workspace)
    assert (mine.name, mine.version) == ("my-tensorflow", "1")
    assert mine.register(workspace).version == "1"
    mine.save_to_directory(str(tmp_path / "saved"))
    assert "tensorflow-gpu==2.2.0" in (tmp_path / "saved" / "conda_dependencies.yml").read_text()
    assert "my-tensorflow" in workspace.environments


def test_environment_that_is_fetched_has_its_version_and_changed_becomes_the_next(
    workspace: Workspace, source: str
) -> None:
    made = Environment("versioned")
    made.python.user_managed_dependencies = True
    assert made.register(workspace).version == "1"
    found = Environment.get(workspace, "versioned")
    assert (found.version, workspace.environments["versioned"].version) == ("1", "1")
    assert found.register(workspace).version == "1"
    run = Experiment(workspace, "nouns").submit(ScriptRunConfig(source, "train.py", environment=found))
    assert run.get_details()["runDefinition"]["environment"]["version"] == "1"
    run.cancel()
    found.environment_variables["MOOD"] = "good"
    changed = Experiment(workspace, "nouns").submit(ScriptRunConfig(source, "train.py", environment=found))
    assert changed.get_details()["runDefinition"]["environment"]["version"] == ""
    changed.cancel()
    assert found.register(workspace).version == "2"


def test_tensorflow_of_conda_is_added_by_its_kind() -> None:
    found = CondaDependencies()
    found.add_tensorflow_conda_package()
    found.add_tensorflow_conda_package(core_type="gpu", version="1.13")
    assert list(found.conda_packages) == ["tensorflow", "tensorflow-gpu=1.13"]


def test_cluster_is_made_described_resized_and_deleted(workspace: Workspace) -> None:
    with pytest.raises(ComputeTargetException, match="ComputeTargetNotFound"):
        ComputeTarget(workspace, "absent")
    config = AmlCompute.provisioning_configuration(vm_size="standard_d2_v2", min_nodes=1, max_nodes=2)
    cluster = ComputeTarget.create(workspace, "small", config)
    cluster.wait_for_completion(timeout_in_minutes=1)
    status = cluster.get_status().serialize()
    assert (status["currentNodeCount"], status["vmSize"]) == (1, "STANDARD_D2_V2")
    cluster.update(max_nodes=3)
    assert cluster.get_status().scale_settings.maximum_node_count == 3
    cluster.delete()
    assert "small" not in workspace.compute_targets
    assert workspace.get_default_compute_target("CPU") is None
    ComputeTarget.create(workspace, "cpu-cluster", AmlCompute.provisioning_configuration(max_nodes=1))
    found = workspace.get_default_compute_target("cpu")
    assert (found.name, workspace.get_default_compute_target("GPU")) == ("cpu-cluster", None)
    with pytest.raises(UserErrorException, match="'CPU' or 'GPU', not 'TPU'"):
        workspace.get_default_compute_target("TPU")


def test_empty_cluster_grows_for_a_run(workspace: Workspace, source: str) -> None:
    config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", min_nodes=0, max_nodes=1)
    cluster = ComputeTarget.create(workspace, "empty", config)
    assert cluster.get_status().current_node_count == 0
    asked = _config(source)
    asked.run_config.target = "empty"
    found = Experiment(workspace, "nouns").submit(asked)
    found.wait_for_completion()
    assert found.get_details()["target"] == "empty"
    assert cluster.get_status().current_node_count == 1


def test_own_logs_are_read_while_the_script_still_runs(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text(WAITING)
    (tmp_path / "gate").mkdir()
    gate = tmp_path / "gate" / "fifo"
    os.mkfifo(gate)
    found = Experiment(workspace, "nouns").submit(_config(str(tmp_path / "source"), str(gate)))
    early = found._call("read_log", query={"offset": 0, "wait_s": 50}, path="logs/own.txt")
    assert (early, found.get_status()) == (b"early", "Running")
    gate.write_text("go on")
    found.wait_for_completion()
    assert {"logs/own.txt", "outputs/result.txt"} <= set(found.get_file_names())
    assert found._call("read_log", query={"offset": 0}, path="logs/own.txt") == b"early, late"


def test_errors_are_of_v1s_classes(workspace: Workspace) -> None:
    with pytest.raises(WebserviceException, match="does not exist"):
        Model(workspace, "none")
    with pytest.raises(ComputeTargetException, match="cannot be a compute target's name"):
        ComputeTarget.create(workspace, "bad_name", AmlCompute.provisioning_configuration())
    with pytest.raises(ComputeTargetException, match="max_nodes is a whole number, not 'x'"):
        ComputeTarget.create(workspace, "good", AmlCompute.provisioning_configuration(max_nodes="x"))  # type: ignore[arg-type]
    for name in ("", "a/b"):
        with pytest.raises(ComputeTargetException, match="ComputeTargetNotFound"):
            ComputeTarget(workspace, name)
        with pytest.raises(UserErrorException, match="a name is a text"):
            Model(workspace, name)
    for wrong in ("", "a/b", None):
        with pytest.raises(UserErrorException, match="An experiment's name has"):
            Experiment(workspace, wrong)  # type: ignore[arg-type]
    with pytest.raises(UserErrorException, match="whole number or 'latest'"):
        Dataset.get_by_name(workspace, "letters", version="x")


def test_cluster_tells_its_runs_its_sizes_and_settings(workspace: Workspace, source: str) -> None:
    cluster = ComputeTarget.create(workspace, "told", AmlCompute.provisioning_configuration(max_nodes=3))
    assert (cluster.id, cluster.scale_settings.maximum_node_count) == ("told", 3)
    assert cluster.status.vm_size == "STANDARD_D2_V2"
    assert {"name": "STANDARD_NC6", "vCPUs": 6, "gpus": 1, "memoryGB": 56.0} in AmlCompute.supported_vmsizes(workspace)
    config = ScriptRunConfig(source, command=["sleep", "60"], compute_target=cluster)
    config.run_config.environment.python.user_managed_dependencies = True
    submitted = Experiment(workspace, "nouns").submit(config)
    assert [one.id for one in cluster.get_active_runs()] == [submitted.id]
    assert not list(cluster.get_active_runs(type="hyperdrive"))
    submitted.cancel()
    submitted.wait_for_completion()
    assert not list(cluster.get_active_runs())


def test_submitted_folder_comes_back_as_a_zip_file(workspace: Workspace, run: Run, tmp_path: Path) -> None:
    path = run.restore_snapshot(path=str(tmp_path))
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["train.py"]
        assert archive.read("train.py").decode() == SCRIPT
    interactive = Experiment(workspace, "by-hand").start_logging()
    with pytest.raises(UserErrorException, match="has no snapshot"):
        interactive.restore_snapshot()
    interactive.complete()


def test_runs_are_listed_by_their_type(workspace: Workspace, run: Run) -> None:
    assert run.id in [one.id for one in run.experiment.get_runs(type="azureml.scriptrun")]
    assert not list(run.experiment.get_runs(type="hyperdrive"))


def test_local_model_is_registered_found_and_deleted(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w.bin").write_bytes(b"weights")
    first = Model.register(workspace, str(tmp_path / "model"), "local", tags={"a": "1"})
    second = Model.register(workspace, str(tmp_path / "model"), "local")
    assert (first.version, second.version, workspace.models["local"].version) == (1, 2, 2)
    assert [one.version for one in Model.list(workspace, tags=["a"])] == [1]
    second.delete()
    assert Model(workspace, "local").version == 1
    assert Model.register(workspace, str(tmp_path / "model"), "local").version == 3
    assert Path(first.download(str(tmp_path / "got"))).joinpath("w.bin").read_bytes() == b"weights"


def test_interactive_run_logs_from_this_process(workspace: Workspace) -> None:
    with Experiment(workspace, "by-hand").start_logging() as found:
        found.log("loss", 1.5)
        assert found.get_metrics() == {"loss": 1.5}
    assert found.get_status() == "Completed"
    assert str(uuid.UUID(found.id)) == found.id


def test_script_that_is_missing_is_told_at_once(workspace: Workspace, source: str) -> None:
    with pytest.raises(UserErrorException, match=r"'absent\.py' is not in"):
        Experiment(workspace, "nouns").submit(ScriptRunConfig(source, "absent.py"))
