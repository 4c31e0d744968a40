"""RunConfiguration: its sections, the files that v1 wrote and ours, and the runs that it makes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runyard.azureml.core import (
    Dataset,
    Environment,
    Experiment,
    RunConfiguration,
    ScriptRunConfig,
    Workspace,
    runconfig,
)
from runyard.azureml.core.compute import AmlCompute, BatchAiCompute, ComputeTarget
from runyard.azureml.core.runconfig import (
    ContainerRegistry,
    DataReferenceConfiguration,
    DockerConfiguration,
    MpiConfiguration,
)
from runyard.azureml.data import OutputFileDatasetConfig
from runyard.azureml.exceptions import RunConfigurationException, UserErrorException
from runyard.protocol.distributed import DistributionKind
from runyard.sdk import notices
from tests.own_server import own_server

pytestmark = pytest.mark.xdist_group("sdk")

#: As the SDK of 2018 wrote it, with its comments.
OLD = """
# The script to run.
script: train.py
# The arguments to the script file.
arguments:
- --rate
- 0.10
- --seed
- 010
# The name of the compute target to use for this run.
target: cluster
# Framework to execute inside. Allowed values are "Python" ,  "PySpark", "CNTK",  "TensorFlow", and "PyTorch".
framework: TensorFlow
# Communicator for the given framework. Allowed values are "None" ,  "ParameterServer", "OpenMpi", and "IntelMpi".
communicator: ParameterServer
# Automatically prepare the run environment as part of the run itself.
autoPrepareEnvironment: true
# Maximum allowed duration for the run.
maxRunDurationSeconds: 600
# Number of nodes to use for running job.
nodeCount: 2
# Environment details.
environment:
# Environment variables set for the run.
  environmentVariables:
    EXAMPLE_ENV_VAR: EXAMPLE_VALUE
# Python details
  python:
    userManagedDependencies: false
    interpreterPath: python
    condaDependenciesFile: aml_config/conda_dependencies.yml
# Docker details
  docker:
    enabled: true
    baseImage: mcr.microsoft.com/azureml/base:0.2.4
    sharedVolumes: true
    gpuSupport: false
    shmSize: 1g
    arguments: []
    baseImageRegistry:
      address:
      username:
      password:
# Spark details
  spark:
    repositories:
    - https://mmlspark.azureedge.net/maven
    packages:
    - group: com.microsoft.ml.spark
      artifact: mmlspark_2.11
      version: '0.12'
    precachePackages: true
# History details.
history:
  outputCollection: true
  directoriesToWatch:
  - logs
  - outputs
spark:
  configuration:
    spark.app.name: Azure ML Experiment
    spark.yarn.maxAppAttempts: 1
hdi:
  yarnDeployMode: cluster
tensorflow:
  workerCount: 2
  parameterServerCount: 1
mpi:
  processCountPerNode: 1
dataReferences:
  mnist:
    dataStoreName: workspaceblobstore
    pathOnDataStore: mnist
    mode: download
    overwrite: true
    pathOnCompute: data
# Project share datastore reference.
projectShareDatastore:
sourceDirectoryDataStore:
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    with own_server(tmp_path_factory.mktemp("configurations-home")):
        yield Experiment(Workspace.create("configurations", exist_ok=True), "trial")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "aml_config").mkdir(parents=True)
    (folder / "aml_config" / "cluster.runconfig").write_text(OLD)
    (folder / "aml_config" / "conda_dependencies.yml").write_text("dependencies:\n- python=3.6.2\n- pip: [six]\n")
    (folder / "train.py").write_text("print('trained')\n")
    return folder


def test_key_that_nobody_knows_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt count was read as 1 without a word."""
    monkeypatch.setattr(notices, "_said", set())
    (tmp_path / "odd.runconfig").write_text("script: train.py\nnodecount: 2\nmpi:\n  processCount: 4\n")
    RunConfiguration.load(str(tmp_path), "odd")
    assert "has keys that mean nothing here: nodecount, mpi.processCount." in capsys.readouterr().err
    RunConfiguration.load(RunConfiguration().save(str(tmp_path), "ours"))
    assert capsys.readouterr().err == ""


def test_file_that_v1_wrote_is_read_in_all_its_sections(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = RunConfiguration.load(str(project), "cluster")
    assert "mean nothing here" not in capsys.readouterr().err
    assert (found.script, found.target, found.framework) == ("train.py", "cluster", "TensorFlow")
    assert found.arguments == ["--rate", "0.10", "--seed", "010"], "texts stay as they are written"
    assert (found.communicator, found.node_count, found.max_run_duration_seconds) == ("ParameterServer", 2, 600)
    assert (found.tensorflow.worker_count, found.tensorflow.parameter_server_count) == (2, 1)
    asked, nodes = found._distribution()
    assert asked is not None
    assert (asked.kind, asked.worker_count, nodes) == (DistributionKind.TENSORFLOW, 2, 2)
    spec = found.environment._spec()
    assert (spec.python.conda.packages, spec.python.conda.pip) == (("python=3.6.2",), ("six",))
    assert (spec.docker.enabled, spec.docker.base_image, spec.docker.shm_size) == (
        True, "mcr.microsoft.com/azureml/base:0.2.4", "1g",
    )  # fmt: skip
    assert spec.variables == {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"}
    assert found.environment.spark.packages[0].artifact == "mmlspark_2.11"
    assert found.history.directories_to_watch == ["logs", "outputs"]
    assert found.spark.configuration["spark.app.name"] == "Azure ML Experiment"
    data = found.data_references["mnist"]
    assert (data.data_store_name, data.path_on_data_store, data.mode) == ("workspaceblobstore", "mnist", "download")
    assert (data.path_on_compute, data.overwrite) == ("data", True)


def test_configuration_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    config = RunConfiguration("train.py", ["--rate", "0.1", "--name", "yes", "--code", "010"])
    config.target, config.node_count, config.max_run_duration_seconds = "cluster", 2, 60
    config.framework, config.communicator, config.mpi = "Python", "IntelMpi", MpiConfiguration(3)
    config.environment = Environment("mine")
    config.environment.python.conda_dependencies.add_pip_package("six==1.16.0")
    config.environment.python.conda_dependencies.set_python_version("3.10")
    registry = ContainerRegistry()
    registry.address, registry.username, registry.password = "registry.example.com", "me", "secret"
    config.environment.docker.base_image_registry = registry
    config.docker = DockerConfiguration(use_docker=True, arguments=["--privileged"], shm_size="3g")
    config.environment_variables = {"A": "1"}
    config.amlcompute.vm_size, config.history.directories_to_watch = "STANDARD_D2_V2", ["logs", "more"]
    config.data_references["words"] = DataReferenceConfiguration("store", "download", "a/b", "c", True)

    file = config.save(str(tmp_path), "mine")
    assert file == str(tmp_path / ".azureml" / "mine.runconfig")
    assert "secret" not in Path(file).read_text()
    found = RunConfiguration.load(str(tmp_path), "mine")
    again = found.save(str(tmp_path / "other.yml"))
    assert Path(again).read_text() == Path(file).read_text()
    assert found.arguments == ["--rate", "0.1", "--name", "yes", "--code", "010"]
    assert found.environment._spec().python == config.environment._spec().python
    assert found._distribution() == config._distribution()
    assert vars(found.docker) == vars(config.docker)
    assert vars(found.data_references["words"]) == vars(config.data_references["words"])
    assert vars(found.amlcompute) == vars(config.amlcompute)
    assert (found.environment_variables, found.max_run_duration_seconds) == ({"A": "1"}, 60)


def test_file_has_v1s_keys(tmp_path: Path) -> None:
    data = yaml.safe_load(Path(RunConfiguration().save(str(tmp_path), "empty")).read_text())
    keys = "script arguments target framework communicator maxRunDurationSeconds nodeCount environment history spark"
    keys += " docker hdi tensorflow mpi pytorch paralleltask dataReferences data datacaches outputData amlcompute"
    keys += " sourceDirectoryDataStore kubernetescompute credentialPassthrough command environmentVariables priority"
    assert set(keys.split()) <= set(data)
    assert data["mpi"] == {"processCountPerNode": 1, "nodeCount": 1}
    assert data["communicator"] == "None"


def test_packages_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    config = RunConfiguration()
    config.environment.python.conda_dependencies.add_pip_package("six")
    config.save(str(tmp_path), "mine", separate_environment_yaml=True)
    packages = tmp_path / ".azureml" / "environment.yml"
    assert yaml.safe_load(packages.read_text())["dependencies"] == [{"pip": ["six"]}]
    packages.write_text("dependencies:\n- pip: [tqdm]\n")
    assert RunConfiguration.load(str(tmp_path), "mine").environment._spec().python.conda.pip == ("tqdm",)
    packages.unlink()
    with pytest.raises(UserErrorException, match=r"The conda file 'environment.yml', which .* is not beside it"):
        RunConfiguration.load(str(tmp_path), "mine")


def test_places_and_names_are_those_of_v1(project: Path, tmp_path: Path) -> None:
    config = RunConfiguration.load(str(project / "aml_config" / "cluster.runconfig"))
    config.script = "other.py"
    with pytest.raises(UserErrorException, match="needs a name"):
        config.save(str(project))
    assert config.save(str(project), "next") == str(project / "aml_config" / "next.runconfig")
    (project / ".azureml").mkdir()
    config.save(str(project), "cluster.runconfig")
    assert RunConfiguration.load(str(project), "cluster").script == "other.py", ".azureml is searched first"
    RunConfiguration.delete(str(project), "cluster")
    assert RunConfiguration.load(str(project), "cluster.runconfig").script == "train.py"
    with pytest.raises(
        UserErrorException, match=r"no run configuration 'absent' in .*; pass name= with one of cluster, "
    ):
        RunConfiguration.load(str(project), "absent")
    with pytest.raises(UserErrorException, match=r"no single run configuration in .*; save one"):
        RunConfiguration.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserErrorException, match="There is no folder"):
        config.save(str(tmp_path / "nowhere" / "file"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("dataReferences: {a: 5}", "'a' of a run configuration holds keys and values, not 5"),
        ("a: [", "is not valid YAML"),
        ("- a", "holds no keys and values"),
        ("mpi: 3", "'mpi' of a run configuration holds keys and values, not 3"),
        ("data: {words: {dataLocation: }}", "The data 'words' of the file name no stored dataset"),
        ("[" * 200, "more than 100 brackets"),
    ],
)
def test_file_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bad.runconfig").write_text(text)
    with pytest.raises((UserErrorException, RunConfigurationException), match=sentence):
        RunConfiguration.load(str(tmp_path / "bad.runconfig"))


@pytest.mark.e2e
def test_run_of_a_loaded_file_reads_its_data(experiment: Experiment, tmp_path: Path) -> None:
    store = experiment.workspace.get_default_datastore()
    (tmp_path / "words.txt").write_text("some words")
    store.upload_files([str(tmp_path / "words.txt")], target_path="mnist")
    dataset = Dataset.File.from_files((store, "mnist")).register(experiment.workspace, "words", create_new_version=True)
    source = tmp_path / "source"
    source.mkdir()
    (source / "t.py").write_text(
        "import os, sys\n"
        "print(sys.argv[1], [os.listdir(os.environ['AZUREML_DATAREFERENCE_' + one]) for one in sys.argv[2:]])\n"
    )
    config = RunConfiguration(
        "t.py",
        [store.path("mnist").as_mount(), "raw", "workspaceblobstore_mnist", "table", "section", "named", "folder"],
    )
    config.environment.python.user_managed_dependencies = True
    config.data_references["raw"] = DataReferenceConfiguration(path_on_datastore="mnist", mode="download")
    config.data["table"] = dataset.as_named_input("table").as_mount()
    config.data["section"] = runconfig.Dataset(dataset_id=dataset.id)
    config.save(str(source), "mine")

    loaded = RunConfiguration.load(str(source), "mine")
    loaded.data["named"] = runconfig.Dataset(dataset_name="words", dataset_version=dataset.version)
    loaded.data["folder"] = runconfig.DataPath("workspaceblobstore", "mnist")
    run = experiment.submit(ScriptRunConfig(str(source), run_config=loaded))
    run.wait_for_completion()
    details: dict[str, Any] = run.get_details()
    assert details["runDefinition"]["script"] == "t.py"
    run.download_file("user_logs/std_log.txt", str(tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text().splitlines()[-1].endswith(str([["words.txt"]] * 6))


@pytest.mark.e2e
def test_what_a_file_cannot_name_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    config = RunConfiguration()
    unsaved = Dataset.File.from_files((experiment.workspace.get_default_datastore(), "x"), validate=False)
    config.data["words"] = unsaved.as_named_input("words").as_mount()
    with pytest.raises(RunConfigurationException, match="The dataset 'words' is stored nowhere"):
        config.save(str(tmp_path), "mine")
    for section, sentence in (
        (runconfig.Dataset(dataset_name="words"), "names a dataset by its id, which 'words' lacks"),
        (runconfig.DataPath("store", "a/b"), "'a/b' among data_references"),
    ):
        config.data = {"words": section}
        with pytest.raises(RunConfigurationException, match=sentence):
            config.save(str(tmp_path), "mine")
    config.data = {}
    config.output_data["model"] = OutputFileDatasetConfig("model")
    with pytest.raises(RunConfigurationException, match="cannot hold the outputs model"):
        config.save(str(tmp_path), "mine")


@pytest.mark.e2e
def test_batch_ai_cluster_is_made_as_an_aml_compute(
    experiment: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "_said", set())
    wanted = BatchAiCompute.provisioning_configuration(
        vm_size="STANDARD_D2_V2", vm_priority="lowpriority", autoscale_enabled=True, cluster_min_nodes=0,
        cluster_max_nodes=3,
    )  # fmt: skip
    assert "Batch AI became AmlCompute" in capsys.readouterr().err
    made = ComputeTarget.create(experiment.workspace, "batchai", wanted)
    assert isinstance(made, AmlCompute)
    assert made.scale_settings.maximum_node_count == 3
    assert isinstance(BatchAiCompute(experiment.workspace, "batchai"), AmlCompute)
