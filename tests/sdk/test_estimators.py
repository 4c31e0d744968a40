"""v1's estimators of every generation: the run that each one makes, what is refused, and real runs."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Datastore, Environment, Experiment, ScriptRunConfig, Workspace
from runyard.azureml.core.runconfig import (
    DEFAULT_GPU_IMAGE,
    ContainerRegistry,
    MpiConfiguration,
    PyTorchConfiguration,
    TensorflowConfiguration,
)
from runyard.azureml.data.datapath import DataPath
from runyard.azureml.exceptions import TrainingException, UserErrorException
from runyard.azureml.train.dnn import Chainer, Gloo, Mpi, Nccl, ParameterServer, PyTorch, TensorFlow
from runyard.azureml.train.estimator import Estimator
from runyard.azureml.train.sklearn import SKLearn
from runyard.files.snapshots import take_snapshot
from runyard.protocol.distributed import Distribution, DistributionKind
from runyard.protocol.runs import RunSpec
from runyard.sdk import notices
from runyard.sdk.submission import RunData, make_spec
from tests.own_server import own_server

#: The parameters of each class in its last generation, as v1 documents them, without its private switches.
GENERIC = {
    "compute_target", "vm_size", "vm_priority", "entry_script", "script_params", "node_count",
    "process_count_per_node", "distributed_backend", "distributed_training", "use_gpu", "use_docker",
    "custom_docker_base_image", "custom_docker_image", "image_registry_details", "user_managed", "conda_packages",
    "pip_packages", "conda_dependencies_file_path", "pip_requirements_file_path", "conda_dependencies_file",
    "pip_requirements_file", "environment_variables", "environment_definition", "inputs",
    "source_directory_data_store", "shm_size", "resume_from", "max_run_duration_seconds",
}  # fmt: skip
OF_ONE_PROCESS = GENERIC - {
    "node_count", "process_count_per_node", "distributed_backend", "distributed_training", "use_gpu",
    "custom_docker_base_image", "source_directory_data_store",
}  # fmt: skip
PARAMETERS = [
    (Estimator, GENERIC),
    (TensorFlow, {*GENERIC, "worker_count", "parameter_server_count", "framework_version"}),
    (PyTorch, {*GENERIC, "framework_version"}),
    (Chainer, {*GENERIC, "framework_version"}),
    (SKLearn, {*OF_ONE_PROCESS, "framework_version"}),
]


pytestmark = pytest.mark.xdist_group("sdk")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    with own_server(tmp_path_factory.mktemp("estimators-home")):
        yield Experiment(Workspace.create("estimators", exist_ok=True), "trial")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "t.py").write_text("import sys\nprint(sys.argv[1:])\n")
    return folder


@pytest.fixture
def spec_of(source: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    """The run that submit() would ask for, without a server."""

    def make(config: Any, workspace: Any = None, **overrides: Any) -> RunSpec:
        made = config if isinstance(config, ScriptRunConfig) else config._script_run_config(**overrides)
        snapshot = take_snapshot(made.source_directory, str(tmp_path / "cache"))
        return make_spec(made, snapshot, RunData(workspace), "run_1", "trial")

    return make


@pytest.mark.parametrize(("kind", "parameters"), PARAMETERS)
def test_every_parameter_of_v1_is_there_and_no_other_is_taken(
    kind: Any, parameters: set[str], source: Path, spec_of: Callable[..., RunSpec]
) -> None:
    known = set(inspect.signature(kind).parameters) - {"source_directory", "switches"}
    assert parameters <= known
    for name in (known - parameters) | {"no_such_parameter"}:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            kind(source, compute_target="local", entry_script="t.py", **{name: "other"})
    found = kind(source, compute_target="local", entry_script="t.py", _disable_validation=False)
    assert spec_of(found).script == "t.py"


@pytest.mark.e2e
def test_estimator_asks_for_the_very_run_of_a_script_run_config(
    experiment: Experiment, source: Path, spec_of: Callable[..., RunSpec]
) -> None:
    data = experiment.workspace.get_default_datastore().as_mount()
    estimator = Estimator(
        source,
        compute_target="cpu",
        entry_script="t.py",
        script_params={"--data-folder": data, "--regularization": 0.8, "--verbose": ""},
        conda_packages=["scikit-learn"],
        pip_packages=["tqdm==4.0"],
        environment_variables={"A": "1"},
        max_run_duration_seconds=77,
        node_count=2,
        process_count_per_node=3,
        distributed_training=MpiConfiguration(),
        shm_size="1g",
    )
    environment = Environment()
    environment.docker.enabled, environment.docker.shm_size = True, "1g"
    environment.python.conda_dependencies.add_conda_package("scikit-learn")
    environment.python.conda_dependencies.add_pip_package("tqdm==4.0")
    config = ScriptRunConfig(
        source,
        "t.py",
        ["--data-folder", data, "--regularization", 0.8, "--verbose"],
        compute_target="cpu",
        environment=environment,
        distributed_job_config=MpiConfiguration(3, 2),
        max_run_duration_seconds=77,
    )
    config.run_config.environment_variables = {"A": "1"}
    made = spec_of(estimator, experiment.workspace)
    assert made == spec_of(config, experiment.workspace)
    reference = "$AZUREML_DATAREFERENCE_workspaceblobstore"
    assert made.arguments == ("--data-folder", reference, "--regularization", "0.8", "--verbose")
    assert made.inputs[0].datastore == "workspaceblobstore"
    assert estimator.run_config.target == config.run_config.target == "cpu"


def pip_of(spec: RunSpec) -> tuple[str, ...]:
    return spec.environment.python.conda.pip


@pytest.mark.parametrize(
    ("kind", "version", "pip"),
    [
        (TensorFlow, None, ("tensorflow==1.13.2",)),
        (TensorFlow, "2.2", ("tensorflow==2.2.0",)),
        (PyTorch, None, ("torch==1.4.0", "torchvision==0.5.0", "tensorboard==1.14.0", "future==0.17.1")),
        (Chainer, None, ("chainer==5.1.0", "filelock==3.0.12")),
        (SKLearn, None, ("scikit-learn==0.20.3", "scipy==1.2.1", "numpy==1.16.2", "joblib==0.13.2")),
    ],
)
def test_framework_of_that_version_is_in_the_environment(
    kind: Any, version: str | None, pip: tuple[str, ...], source: Path, spec_of: Callable[..., RunSpec]
) -> None:
    estimator = kind(source, compute_target="cpu", entry_script="t.py", framework_version=version)
    assert pip_of(spec_of(estimator)) == pip
    assert estimator.framework_version == (version or kind.DEFAULT_VERSION)
    assert estimator.framework_version in kind.get_supported_versions()


def test_framework_versions_are_those_that_v1_shipped() -> None:
    assert TensorFlow.get_supported_versions() == ["1.10", "1.12", "1.13", "2.0", "2.1", "2.2", "2.3"]
    assert PyTorch.get_supported_versions() == ["1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6"]
    assert Chainer.get_supported_versions() == ["5.1.0", "7.0.0"]
    assert SKLearn.get_supported_versions() == ["0.20.3"]
    defaults = [one.DEFAULT_VERSION for one in (TensorFlow, PyTorch, Chainer, SKLearn)]
    assert defaults == ["1.13", "1.4", "5.1.0", "0.20.3"]


def test_processors_build_is_taken_where_that_for_gpus_would_not_start(
    source: Path, spec_of: Callable[..., RunSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    old = spec_of(TensorFlow(source, compute_target="gpu", entry_script="t.py", use_gpu=True))
    assert pip_of(old) == ("tensorflow==1.13.2",)
    assert old.environment.docker.gpu_support
    assert old.environment.docker.base_image == "mcr.microsoft.com/azureml/openmpi3.1.2-cuda10.0-cudnn7-ubuntu18.04"
    assert "TensorFlow 1.13 for GPUs starts only where CUDA 10.0 is installed" in capsys.readouterr().err
    newer = TensorFlow(source, compute_target="gpu", entry_script="t.py", use_gpu=True, framework_version="2.1")
    assert pip_of(spec_of(newer)) == ("tensorflow-gpu==2.1.0",)
    own = TensorFlow(source, compute_target="gpu", entry_script="t.py", use_gpu=True, custom_docker_image="me/cuda:1")
    assert pip_of(spec_of(own)) == ("tensorflow-gpu==1.13.2",)
    assert spec_of(own).environment.docker.base_image == "me/cuda:1"
    plain = Estimator(source, compute_target="gpu", entry_script="t.py", use_gpu=True)
    assert spec_of(plain).environment.docker.base_image == DEFAULT_GPU_IMAGE


def test_users_own_version_of_a_package_replaces_the_frameworks(source: Path, spec_of: Callable[..., RunSpec]) -> None:
    estimator = TensorFlow(
        source,
        compute_target="gpu",
        entry_script="t.py",
        pip_packages=["horovod==0.19.5", "keras<=2.3.1"],
        distributed_training=MpiConfiguration(),
    )
    assert pip_of(spec_of(estimator)) == ("tensorflow==1.13.2", "horovod==0.19.5", "keras<=2.3.1")
    estimator.conda_dependencies.add_pip_package("tqdm")
    assert pip_of(spec_of(estimator))[-1] == "tqdm", "the estimator may be changed until it is submitted"


MPI = Distribution(DistributionKind.MPI)
PS = Distribution(DistributionKind.TENSORFLOW, worker_count=2, parameter_server_count=1)


def test_horovod_estimator_of_the_article(source: Path, spec_of: Callable[..., RunSpec]) -> None:
    estimator = TensorFlow(
        source_directory=source,
        compute_target="gpu",
        script_params={"--steps": 2},
        entry_script="t.py",
        node_count=2,
        process_count_per_node=1,
        distributed_training=MpiConfiguration(),
        framework_version="1.13",
        use_gpu=True,
    )
    spec = spec_of(estimator)
    assert (spec.node_count, spec.distribution) == (2, MPI)
    assert pip_of(spec) == ("tensorflow==1.13.2", "horovod==0.16.4")


def test_parameter_server_estimator_of_the_article(source: Path, spec_of: Callable[..., RunSpec]) -> None:
    distributed_training = TensorflowConfiguration()
    distributed_training.worker_count = 2
    estimator = TensorFlow(
        source_directory=source,
        compute_target="gpu",
        entry_script="t.py",
        node_count=2,
        process_count_per_node=1,
        distributed_training=distributed_training,
        use_gpu=True,
    )
    spec = spec_of(estimator)
    assert (spec.node_count, spec.distribution) == (2, PS)
    assert pip_of(spec) == ("tensorflow==1.13.2",)


def test_estimator_of_2018_with_a_backend_and_an_image(
    source: Path, spec_of: Callable[..., RunSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    def make() -> Estimator:
        return Estimator(
            source_directory=source,
            compute_target="batchai",
            entry_script="t.py",
            node_count=2,
            process_count_per_node=1,
            distributed_backend="mpi",
            pip_packages=["cntk==2.5.1"],
            custom_docker_base_image="microsoft/mmlspark:0.12",
        )

    spec = spec_of(make())
    assert (spec.node_count, spec.distribution) == (2, MPI)
    assert pip_of(spec) == ("cntk==2.5.1",)
    assert spec.environment.docker.base_image == "microsoft/mmlspark:0.12"
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert "'custom_docker_base_image' is deprecated: use custom_docker_image." in said
    assert "'distributed_backend' is deprecated: use distributed_training=MpiConfiguration()." in said
    assert "The Estimator estimator is deprecated: ScriptRunConfig" in said
    make()
    assert capsys.readouterr().err == "", "once in a process"


PROCESSES = [
    (TensorFlow, {"distributed_backend": "ps", "worker_count": 2, "node_count": 2}, PS, 2),
    (TensorFlow, {"distributed_training": ParameterServer(2, 1), "node_count": 3}, PS, 3),
    (TensorFlow, {"distributed_training": TensorflowConfiguration(2, 1)}, PS, 1),
    (TensorFlow, {"distributed_training": TensorflowConfiguration(), "worker_count": 2, "node_count": 2}, PS, 2),
    (Estimator, {"distributed_training": Mpi(2), "node_count": 2}, replace(MPI, process_count_per_node=2), 2),
    (Chainer, {"distributed_backend": "mpi", "process_count_per_node": 2}, replace(MPI, process_count_per_node=2), 1),
    (PyTorch, {"distributed_backend": "mpi", "node_count": 2}, MPI, 2),
    (PyTorch, {"distributed_backend": "Gloo", "node_count": 2}, ("gloo", 2), 2),
    (PyTorch, {"distributed_training": Nccl(), "node_count": 2}, ("nccl", 2), 2),
    (PyTorch, {"distributed_training": Gloo(), "node_count": 2, "process_count_per_node": 2}, ("gloo", 4), 2),
    (PyTorch, {"distributed_training": PyTorchConfiguration("Gloo", 4, 2)}, ("gloo", 4), 2),
]


@pytest.mark.parametrize(("kind", "given", "asked", "nodes"), PROCESSES)
def test_processes_are_spread_as_each_generation_says(
    kind: Any, given: dict[str, Any], asked: Any, nodes: int, source: Path, spec_of: Callable[..., RunSpec]
) -> None:
    if isinstance(asked, tuple):
        backend, count = asked
        asked = Distribution(DistributionKind.PYTORCH, process_count=count, backend=backend)
    spec = spec_of(kind(source, compute_target="gpu", entry_script="t.py", **given))
    assert (spec.distribution, spec.node_count) == (asked, nodes)


def own() -> Environment:
    return Environment("own")


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (Estimator, {"environment_definition": own(), "pip_packages": ["six"]}, "leave pip_packages out"),
    (Estimator, {"environment_definition": own(), "use_gpu": True, "custom_docker_image": "a"}, "custom_docker_image"),
    (Estimator, {"environment_definition": "own"}, "environment_definition is an Environment"),
    (Estimator, {"conda_dependencies_file": "c.yml", "pip_packages": ["six"]}, "lists all packages"),
    (Estimator, {"node_count": 0}, "node_count is a whole number of at least 1, not 0"),
    (Estimator, {"process_count_per_node": -1}, "process_count_per_node is a whole number of at least 1"),
    (Estimator, {"node_count": 2}, "node_count is 2, and nothing says how"),
    (TensorFlow, {"process_count_per_node": 2}, "process_count_per_node is 2, and nothing says how"),
    (Estimator, {"distributed_backend": "ps"}, "is one of mpi"),
    (TensorFlow, {"distributed_backend": "nccl"}, "is one of mpi, ps"),
    (PyTorch, {"distributed_backend": "ps"}, "is one of mpi, gloo, nccl"),
    (Chainer, {"distributed_training": TensorflowConfiguration()}, "is MpiConfiguration of azureml.core.runconfig"),
    (PyTorch, {"distributed_training": TensorflowConfiguration()}, "is MpiConfiguration or PyTorchConfiguration"),
    (TensorFlow, {"distributed_training": MpiConfiguration(), "distributed_backend": "mpi"}, "not both"),
    (TensorFlow, {"distributed_training": MpiConfiguration(2), "process_count_per_node": 3}, "give it once"),
    (Estimator, {"compute_target": None}, "needs compute_target, or vm_size"),
    (Estimator, {"compute_target": "local", "node_count": 2, "distributed_backend": "mpi"}, "is one machine"),
    (Estimator, {"custom_docker_image": "a", "custom_docker_base_image": "b"}, "two names of one parameter"),
    (Estimator, {"pip_requirements_file": "a", "pip_requirements_file_path": "b"}, "two names of one parameter"),
    (Estimator, {"use_docker": False, "custom_docker_image": "a"}, "use_docker=False contradicts the image 'a'"),
    (Estimator, {"entry_script": None}, "needs entry_script"),
    (Estimator, {"entry_script": "absent.py"}, "The entry_script 'absent.py' is not in "),
    (Estimator, {"entry_script": "absent.ipynb"}, "The entry_script 'absent.ipynb' is not in "),
    (Estimator, {"script_params": ["--a"]}, "script_params is a dict"),
    (Estimator, {"environment_variables": ["A"]}, "environment_variables is a dict"),
    (Estimator, {"image_registry_details": "mine.azurecr.io"}, "is a ContainerRegistry of .*, not str"),
    (Estimator, {"inputs": "data"}, "inputs is a list"),
    (Estimator, {"inputs": [3]}, "inputs holds data references"),
    (Estimator, {"pip_packages": "six"}, r"pip_packages is a list of packages such as \['numpy'\], not 'six'"),
    (TensorFlow, {"framework_version": "0.9"}, "it is one of 1.10, 1.12, 1.13"),
]


@pytest.mark.parametrize(("kind", "given", "sentence"), REFUSED)
def test_what_contradicts_itself_is_refused(kind: Any, given: dict[str, Any], sentence: str, source: Path) -> None:
    with pytest.raises(TrainingException, match=sentence):
        kind(source, **{"compute_target": "gpu", "entry_script": "t.py", **given})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"vm_priority": "lowpriority"}, "vm_priority is for an estimator without compute_target"),
        ({"worker_count": 2}, "worker_count counts beside distributed_backend='ps' or a TensorflowConfiguration alone"),
        ({"parameter_server_count": 2, "distributed_training": MpiConfiguration()}, "parameter_server_count counts"),
    ],
)
def test_parameter_that_does_not_count_is_told_of(
    given: dict[str, Any],
    sentence: str,
    source: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notices, "_said", set())
    TensorFlow(source, compute_target="gpu", entry_script="t.py", **given)
    assert sentence in capsys.readouterr().err


def test_time_limit_of_nothing_is_no_limit_of_thirty_days(source: Path) -> None:
    """The server refuses it, as it does that of a ScriptRunConfig."""
    asked = Estimator(source, compute_target="gpu", entry_script="t.py", max_run_duration_seconds=0)
    assert asked.run_config.max_run_duration_seconds == 0


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [("/nope", "The source_directory '/nope' is no folder here"), (7, "is the path of a folder")],
)
def test_folder_that_is_not_there_is_refused_at_once(folder: Any, sentence: str) -> None:
    with pytest.raises(TrainingException, match=sentence):
        Estimator(folder, compute_target="gpu", entry_script="t.py")


def test_no_folder_is_the_current_one(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    assert Estimator(None, compute_target="gpu", entry_script="t.py").source_directory == "."


@pytest.mark.parametrize("version", ["1.10", "1.12"])
def test_version_that_no_run_can_have_is_the_nearest_with_a_warning(
    version: str, source: Path, spec_of: Callable[..., RunSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    estimator = TensorFlow(source, compute_target="gpu", entry_script="t.py", framework_version=version)
    assert (
        f"TensorFlow {version} has no build for a Python that a run can use: TensorFlow 1.13" in capsys.readouterr().err
    )
    assert estimator.framework_version == version
    assert "tensorflow==1.13.2" in pip_of(spec_of(estimator))


def test_packages_for_an_interpreter_of_ones_own_are_a_users_error(
    source: Path, spec_of: Callable[..., RunSpec]
) -> None:
    with pytest.raises(UserErrorException, match="user_managed=True installs nothing; leave conda_packages out"):
        Estimator(source, compute_target="gpu", entry_script="t.py", user_managed=True, conda_packages=["numpy"])
    spec = spec_of(TensorFlow(source, compute_target="gpu", entry_script="t.py", user_managed=True))
    assert spec.environment.python.user_managed
    assert pip_of(spec) == ()


def test_files_of_packages_lie_in_the_source_folder(source: Path, spec_of: Callable[..., RunSpec]) -> None:
    (source / "conda.yml").write_text("channels: [conda-forge]\ndependencies: [python=3.8, numpy, {pip: [tqdm]}]\n")
    (source / "pip.txt").write_text("six==1.16.0  # old\n")
    for names in ("conda_dependencies_file", "pip_requirements_file"), (
        "conda_dependencies_file_path", "pip_requirements_file_path",
    ):  # fmt: skip
        given = dict(zip(names, ("conda.yml", "pip.txt"), strict=True))
        conda = spec_of(TensorFlow(source, compute_target="c", entry_script="t.py", **given)).environment.python.conda
        assert conda.channels == ("conda-forge",)
        assert (conda.packages, conda.pip) == (("python=3.8", "numpy"), ("tqdm", "six==1.16.0")), "no framework"
    both = SKLearn(
        source, compute_target="c", entry_script="t.py", pip_requirements_file="pip.txt", pip_packages=["tqdm"]
    )
    assert pip_of(spec_of(both))[0] == "six==1.16.0"
    assert pip_of(spec_of(both))[-1] == "tqdm"


def test_definition_of_an_environment_is_taken_as_it_is(source: Path, spec_of: Callable[..., RunSpec]) -> None:
    registry = ContainerRegistry()
    registry.address, registry.username, registry.password = "registry.example.com", "me", "secret"
    definition = own()
    definition.docker.base_image, definition.docker.base_image_registry = "team/image:1", registry
    spec = spec_of(PyTorch(source, compute_target="c", entry_script="t.py", environment_definition=definition))
    assert spec.environment == definition._spec()
    image = Estimator(
        source,
        compute_target="c",
        entry_script="t.py",
        custom_docker_image="team/image:1",
        image_registry_details=registry,
    )
    assert spec_of(image).environment.docker.registry == definition._spec().docker.registry


@pytest.mark.e2e
def test_run_resumes_from_a_folder_of_a_datastore(
    experiment: Experiment, source: Path, spec_of: Callable[..., RunSpec]
) -> None:
    place = DataPath(Datastore(experiment.workspace, "workspaceblobstore"), "models/best")
    config = ScriptRunConfig(source, "t.py", ["--a", 1], compute_target="c", resume_from=place)
    estimator = Estimator(
        source, compute_target="c", entry_script="t.py", script_params={"--a": 1}, resume_from=place, user_managed=True
    )
    workspace = experiment.workspace
    changed = spec_of(estimator, workspace, script_params={"--a": "1"})
    for spec in (spec_of(config, workspace), spec_of(estimator, workspace), changed):
        assert spec.arguments == ("--a", "1", "--resume-from", "$AZUREML_DATAREFERENCE_MODEL_LOCATION")
        (data,) = spec.inputs
        assert (data.name, data.datastore, data.path, data.mode) == (
            "MODEL_LOCATION", "workspaceblobstore", "models/best", "mount",
        )  # fmt: skip
    with pytest.raises(UserErrorException, match="resume_from is a DataPath"):
        ScriptRunConfig(source, "t.py", resume_from="models/best")
