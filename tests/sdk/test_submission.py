"""What a submission makes of a ScriptRunConfig, against a real server of its own."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import (
    Dataset,
    Environment,
    Experiment,
    Model,
    RunConfiguration,
    ScriptRunConfig,
    Workspace,
)
from runyard.azureml.core.compute import AmlCompute, ComputeInstance
from runyard.azureml.core.runconfig import PyTorchConfiguration
from runyard.azureml.data import OutputFileDatasetConfig
from runyard.azureml.exceptions import UserErrorException
from runyard.errors import RunConfigurationException
from tests.own_server import log_of, own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    with own_server(tmp_path_factory.mktemp("submission-home")):
        yield Experiment(Workspace.create("submission", exist_ok=True), "trial")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "t.py").write_text("import sys\nprint(sys.argv[1:])\n")
    return tmp_path


def as_it_is() -> Environment:
    found = Environment("mine")
    found.python.user_managed_dependencies = True
    return found


@pytest.mark.parametrize("script", ["./t.py", "package/../t.py", "{folder}/t.py"])
def test_script_is_found_however_its_path_is_written(experiment: Experiment, source: Path, script: str) -> None:
    for given in (script.format(folder=source), Path(script.format(folder=source))):
        run = experiment.submit(ScriptRunConfig(source, given, environment=as_it_is()))
        assert run._known().spec.script == "t.py"
        run.cancel()


def test_script_outside_the_folder_is_not_in_it(experiment: Experiment, source: Path) -> None:
    with pytest.raises(UserErrorException, match="is not in"):
        experiment.submit(ScriptRunConfig(source / "package", "../t.py"))


def test_file_where_a_folder_of_the_run_goes_is_refused(experiment: Experiment, source: Path) -> None:
    (source / "logs").write_text("no folder")
    with pytest.raises(UserErrorException, match="stands where the run's folder 'logs' goes"):
        experiment.submit(ScriptRunConfig(source, "t.py"))


def test_arguments_may_be_one_text_and_nothing_but_a_list_else(source: Path) -> None:
    assert ScriptRunConfig(source, "t.py", "--a 'b c'").arguments == ["--a", "b c"]
    assert ScriptRunConfig(source, "t.py", run_config=RunConfiguration(arguments="--a 1")).arguments == ["--a", "1"]
    with pytest.raises(UserErrorException, match="arguments is a list"):
        ScriptRunConfig(source, "t.py", {"--a": 1})
    with pytest.raises(UserErrorException, match="No closing quotation"):
        ScriptRunConfig(source, "t.py", "--a 'b")


def test_time_limit_beside_a_run_configuration_is_kept(source: Path) -> None:
    limited = ScriptRunConfig(source, "t.py", run_config=RunConfiguration(), max_run_duration_seconds=77)
    assert limited.run_config.max_run_duration_seconds == 77


def test_priority_of_the_run_configuration_is_the_run_s(experiment: Experiment, source: Path) -> None:
    config = ScriptRunConfig(source, "t.py", environment=as_it_is())
    for asked, kept in ((None, 0), (3, 3), ("-2", -2)):
        config.run_config.priority = asked  # type: ignore[assignment]
        run = experiment.submit(config)
        assert run.get_details()["runDefinition"]["priority"] == kept
        run.cancel()
    for wrong, why in (("high", "a whole number"), (float("inf"), "a whole number"), (101, "from -100 to 100")):
        config.run_config.priority = wrong  # type: ignore[assignment]
        with pytest.raises(UserErrorException, match=why):
            experiment.submit(config)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"node_count": "some"}, "node_count is a whole number, not 'some'"),
        ({"node_count": 1.9, "communicator": "OpenMpi"}, "node_count is a whole number, not 1.9"),
        ({"node_count": None}, "node_count is a whole number, not None"),
        ({"max_infrastructure_retries": 1.5}, "max_infrastructure_retries is a whole number, not '1.5'"),
        ({"max_run_duration_seconds": "an hour"}, "max_run_duration_seconds is a whole number, not 'an hour'"),
        ({"target": "amlcompute", "cluster_max_node_count": "some"}, "cluster_max_node_count, or .* whole number"),
    ],
)
def test_count_that_is_none_is_refused_in_a_sentence(
    experiment: Experiment, source: Path, settings: dict[str, Any], sentence: str
) -> None:
    config = ScriptRunConfig(source, "t.py", environment=as_it_is())
    config.run_config.amlcompute.vm_size = "STANDARD_D2_V2"
    config.run_config.amlcompute.cluster_max_node_count = settings.pop("cluster_max_node_count", None)
    for name, value in settings.items():
        setattr(config.run_config, name, value)
    with pytest.raises((UserErrorException, RunConfigurationException), match=sentence):
        experiment.submit(config)


@pytest.mark.parametrize("backend", ["Mpi", "None", None, "ring"])
def test_backend_that_pytorch_has_not_is_refused_with_its_processes(source: Path, backend: Any) -> None:
    """Two of these words are communicators too, and took a run for another one, of fewer processes."""
    asked = PyTorchConfiguration(backend, process_count=4, node_count=2)
    with pytest.raises(
        RunConfigurationException, match="communication_backend of a PyTorchConfiguration is Nccl or Gloo"
    ):
        ScriptRunConfig(source, "t.py", distributed_job_config=asked)


def test_command_with_operators_goes_to_a_shell(experiment: Experiment, source: Path) -> None:
    command = 'python t.py --a "b c" && echo done'
    run = experiment.submit(ScriptRunConfig(source, command=command, environment=as_it_is()))
    assert log_of(run, source) == "['--a', 'b c']\ndone\n"
    assert run.get_details()["runDefinition"]["command"] == "bash -c " + command


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python t.py --a 'b && c' \"d; $e\" f\\;", ("python", "t.py", "--a", "b && c", "d; $e", "f;")),
        (["python", "t.py", "&&"], ("python", "t.py", "&&")),
        ('python t.py "$(date)"', ("bash", "-c", 'python t.py "$(date)"')),
        ("A=1 python t.py", ("bash", "-c", "A=1 python t.py")),
    ],
)
def test_command_without_operators_is_its_words(
    experiment: Experiment, source: Path, command: Any, words: tuple[str, ...]
) -> None:
    run = experiment.submit(ScriptRunConfig(source, command=command, environment=as_it_is()))
    assert run._known().spec.command == words
    run.cancel()


DIRECT = """
import sys
from azureml.core import Dataset, Run
run = Run.get_context()
found = run.input_datasets["words"]
print(sys.argv[1:] == [found.id], found.to_path(), open(found.download()[0]).read())
print(Dataset.get_by_id(run.experiment.workspace, sys.argv[1]).name)
"""


def test_named_input_without_a_mode_is_the_dataset_itself(experiment: Experiment, source: Path) -> None:
    (source / "direct.py").write_text(DIRECT)
    (source / "words.txt").write_text("some words")
    dataset = Dataset.File.from_files(str(source / "words.txt")).register(experiment.workspace, "words-of-it")
    config = ScriptRunConfig(source, "direct.py", [dataset.as_named_input("words")], environment=as_it_is())
    assert log_of(experiment.submit(config), source) == "True ['/words.txt'] some words\nwords-of-it\n"


INSIDE = """
from azureml.core import Model, Run
run = Run.get_context()
workspace = run.experiment.workspace
open("outputs/m.pkl", "w").write("weights")
print(Model.register(workspace, "outputs/m.pkl", "inside").run_id == run.id)
try:
    workspace.get_default_datastore().upload_files(["outputs/m.pkl"])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_run_registers_a_model_of_its_own_and_is_told_where_to_write(experiment: Experiment, source: Path) -> None:
    (source / "inside.py").write_text(INSIDE)
    run = experiment.submit(ScriptRunConfig(source, "inside.py", environment=as_it_is()))
    told = log_of(run, source)
    assert told.startswith("True\nPermissionDeniedError A run writes no datastore by its token. Write to ./outputs")
    model = Model(experiment.workspace, "inside")
    assert (model.run_id, model.experiment_name) == (run.id, "trial")
    assert Path(model.download(str(source / "got"))).read_text() == "weights"


def test_wrong_kind_of_an_option_is_one_sentence(experiment: Experiment, source: Path) -> None:
    wrong: Any = "a-name"
    with pytest.raises(UserErrorException, match="environment is an Environment"):
        ScriptRunConfig(source, "t.py", environment=wrong)
    with pytest.raises(UserErrorException, match="compute_target is a compute target or its name"):
        ScriptRunConfig(source, "t.py", compute_target=5)
    with pytest.raises(UserErrorException, match="tags is a dict"):
        experiment.submit(ScriptRunConfig(source, "t.py"), tags=[wrong])  # type: ignore[arg-type]


def test_misspelt_parameter_is_never_swallowed(
    experiment: Experiment, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its target's name misspelt, a run meant for a cluster ran on this machine, and nothing was said."""
    misspelt: list[Callable[[], Any]] = [
        lambda: ScriptRunConfig(source, "t.py", compute_taget="gpu"),  # type: ignore[call-arg]
        lambda: RunConfiguration(scrip="t.py"),  # type: ignore[call-arg]
        lambda: AmlCompute.provisioning_configuration(max_node=7),  # type: ignore[call-arg]
        lambda: ComputeInstance.provisioning_configuration(vmsize="STANDARD_D2_V2"),  # type: ignore[call-arg]
    ]
    for make in misspelt:
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            make()
    experiment.submit(ScriptRunConfig(source, "t.py", environment=as_it_is()), scrip_params={}).cancel()
    assert "'scrip_params' is kept and changes nothing here: submit() takes tags, run_id" in capsys.readouterr().err


def test_download_of_a_path_where_nothing_is_is_told_of(experiment: Experiment, source: Path) -> None:
    (source / "t.py").write_text("import os, sys\nassert os.listdir(sys.argv[1]) == []\n")
    absent = experiment.workspace.get_default_datastore().path("absent/folder").as_download()
    run = experiment.submit(ScriptRunConfig(source, "t.py", [absent], environment=as_it_is()))
    run.wait_for_completion()
    (told,) = run.get_details()["warnings"]
    assert "is an empty folder: nothing is at" in str(told)
    assert "absent/folder" in str(told)


def test_spark_is_not_started_and_that_is_said(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert RunConfiguration(framework="PySpark")._distribution() == (None, 1)
    assert "framework 'PySpark' starts no Spark here" in capsys.readouterr().err


#: Of any submitted run; those of several processes are in tests/protocol/test_distributed.py.
_AZUREML = (
    "RUN_ID ARM_SUBSCRIPTION ARM_RESOURCEGROUP ARM_WORKSPACE_NAME ARM_PROJECT_NAME EXPERIMENT_ID WORKSPACE_ID "
    "SERVICE_ENDPOINT DISCOVERY_SERVICE_ENDPOINT EXPERIMENTATION_HOST RUN_TOKEN RUN_TOKEN_EXPIRY RUN_TOKEN_RAND "
    "RUN_TOKEN_PASS FRAMEWORK COMMUNICATOR TARGET_TYPE CR_EXECUTION_WORKING_DIR_PATH OUTPUT_DIRECTORY "
    "LOGDIRECTORY_PATH GIT_REPOSITORY_URI GIT_BRANCH GIT_COMMIT GIT_DIRTY DATAREFERENCE_numbers "
    "DATASET_ENVIRONMENT_VARS DATASET_FILE_OUTPUTS"
)
V1_VARIABLES = {f"AZUREML_{name}" for name in _AZUREML.split()} | {"AZ_BATCHAI_JOB_TEMP", "numbers", "NUMBERS"}


def test_script_finds_each_variable_that_v1_had(experiment: Experiment, source: Path, tmp_path: Path) -> None:
    for words in (
        ["init", "-q", "-b", "trunk"],
        ["remote", "add", "origin", "https://host/team/project.git"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "begun"],
    ):
        subprocess.run(["git", "-C", str(source), *words], check=True)
    (source / "t.py").write_text("import json, os\njson.dump(dict(os.environ), open('outputs/found.json', 'w'))\n")
    workspace = experiment.workspace
    (tmp_path / "one.txt").write_text("1")
    store = workspace.get_default_datastore()
    store.upload_files([str(tmp_path / "one.txt")], target_path="numbers")
    numbers = Dataset.File.from_files((store, "numbers/one.txt")).as_named_input("numbers").as_mount()
    made = OutputFileDatasetConfig("made")
    run = experiment.submit(ScriptRunConfig(source, "t.py", [numbers, made], environment=as_it_is()))
    run.wait_for_completion()
    run.download_file("outputs/found.json", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    assert sorted(V1_VARIABLES - set(found)) == []
    assert found["AZUREML_RUN_ID"] == run.id
    assert found["AZUREML_ARM_WORKSPACE_NAME"] == workspace.name
    assert found["AZUREML_ARM_PROJECT_NAME"] == experiment.name
    assert found["AZUREML_GIT_REPOSITORY_URI"] == "https://host/team/project.git"
    assert found["AZUREML_GIT_BRANCH"] == "trunk"
    assert found["AZUREML_GIT_DIRTY"] == "True"
    assert {found[name] for name in ("numbers", "NUMBERS")} == {found["AZUREML_DATAREFERENCE_numbers"]}
    assert "AZUREML_SECONDARY_INSTANCE" not in found
