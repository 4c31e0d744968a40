"""What an engine is told: Dockerfiles and command lines, word by word, and that its own help knows each flag."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.choice import choose_builder
from runyard.environments.engine import Engine, ask, find_engine, login_command, pull, remove
from runyard.environments.image import BuildFiles, build_arguments, dockerfile_of, image_source
from runyard.environments.with_docker import _docker_hub, _unpack
from runyard.errors import EnvironmentBuildError, UserErrorException
from runyard.protocol.environments import (
    Builder,
    CondaSpec,
    DockerSpec,
    EnvironmentSpec,
    ImageSource,
    Lock,
    PythonSpec,
    RegistrySpec,
    SourceBuild,
)
from runyard.protocol.plan import ContainerPlan
from runyard.runner.bound import BoundFolder
from runyard.runner.container import Invocation, remove_arguments, run_arguments
from runyard.runner.processes import exit_code

DOCKER = Engine("/usr/bin/docker", "docker", "28.2.2")
PODMAN = Engine("/usr/bin/podman", "podman", "4.3.1", is_rootless=True)
LOCK = Lock(
    "0123456789abcdef" * 4,
    Builder.DOCKER,
    "3.8",
    requirements=("numpy==1.19.5", "tensorflow==2.2.0"),
    options=("--extra-index-url https://user:secret@index.example/simple",),
    as_of="2020-07-24",
    sources=(SourceBuild("horovod[tensorflow]==0.19.5", {"HOROVOD_WITH_MPI": "1"}),),
    image=ImageSource("ubuntu:18.04"),
)
ASKED = Invocation(
    name="runyard-1",
    image="localhost/runyard/env:1",
    command=("/azureml-envs/1/bin/python", "train.py", "--rate", "0.1"),
    work="/home/ann/runs/a/1/work",
    user="1000:1000",
    mounts=(BoundFolder("/home/ann/runs/a/1/work", False), BoundFolder('/data/with "quotes", and commas', True)),
    names=("AZUREML_RUN_TOKEN", "MINE"),
    variables_file="/home/ann/runs/a/1/container.env",
)


def test_dockerfile_mounts_what_is_not_to_stay() -> None:
    assert dockerfile_of(LOCK, "ubuntu:18.04", BuildFiles("", has_certificates=True), DOCKER).splitlines() == [
        "FROM ubuntu:18.04",
        f"LABEL runyard.lock={LOCK.digest}",
        "USER 0",
        f"ARG RUNYARD_LOCK={LOCK.digest}",
        "ARG SSL_CERT_FILE=/opt/runyard/certificates.pem",
        "RUN --mount=type=bind,source=runyard,target=/opt/runyard "
        '["/opt/runyard/uv", "venv", "--no-cache", "--python", "3.8", '
        '"/azureml-envs/0123456789abcdef0123456789abcdef"]',
        "RUN --mount=type=bind,source=runyard,target=/opt/runyard "
        "--mount=type=secret,id=requirements,target=/opt/runyard-requirements.txt "
        '["/opt/runyard/uv", "pip", "install", "--no-cache", "--python", '
        '"/azureml-envs/0123456789abcdef0123456789abcdef/bin/python", "--no-deps", "--compile-bytecode", '
        '"--exclude-newer", "2020-07-24", "--index-strategy", "unsafe-best-match", '
        '"-r", "/opt/runyard-requirements.txt"]',
        "ARG HOROVOD_WITH_MPI=1",
        "RUN --mount=type=bind,source=runyard,target=/opt/runyard "
        "--mount=type=secret,id=requirements,target=/opt/runyard-requirements.txt "
        '["/opt/runyard/uv", "pip", "install", "--no-cache", "--python", '
        '"/azureml-envs/0123456789abcdef0123456789abcdef/bin/python", "--no-deps", "--compile-bytecode", '
        '"--exclude-newer", "2020-07-24", "--index-strategy", "unsafe-best-match", '
        '"--no-build-isolation", "--no-binary", "horovod", "-r", "/opt/runyard-requirements.txt", '
        '"horovod[tensorflow]==0.19.5"]',
        "ENV PATH=/azureml-envs/0123456789abcdef0123456789abcdef/bin:$PATH "
        "VIRTUAL_ENV=/azureml-envs/0123456789abcdef0123456789abcdef",
    ]


def test_older_builder_copies_what_it_cannot_mount() -> None:
    old = replace(DOCKER, can_mount=False)
    text = dockerfile_of(replace(LOCK, sources=(), options=()), "ubuntu:18.04", BuildFiles(""), old)
    assert "COPY runyard /opt/runyard\n" in text
    assert '"-r", "/opt/runyard/requirements.txt"]' in text
    assert "--mount" not in text


def test_image_with_its_own_packages_gets_a_name_and_no_layer() -> None:
    lock = Lock("ab" * 32, Builder.DOCKER, image=ImageSource("mine:1"))
    assert dockerfile_of(lock, "mine:1", BuildFiles(""), DOCKER) == f"FROM mine:1\nLABEL runyard.lock={'ab' * 32}\n"


def test_build_is_one_command_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy")
    assert build_arguments(DOCKER, "tag", "/context", "/context/Dockerfile", "/requirements.txt") == [
        "build", "--network", "host", "--tag", "tag", "--file", "/context/Dockerfile",
        "--secret", "id=requirements,src=/requirements.txt", "--build-arg", "HTTPS_PROXY", "/context",
    ]  # fmt: skip


def test_docker_runs_the_script_as_its_caller() -> None:
    plan = ContainerPlan(("--cpus=2", "--memory", "4g"), "2g")
    assert run_arguments(replace(DOCKER, has_gpus=True), ASKED, plan) == [
        "run", "--rm", "--init", "--name", "runyard-1", "--pull", "never", "--log-driver", "none",
        "--security-opt", "no-new-privileges", "--user", "1000:1000", "--network", "host", "--shm-size", "2g",
        "--gpus", "all",
        "--mount", "type=bind,source=/home/ann/runs/a/1/work,target=/home/ann/runs/a/1/work",
        "--mount", 'type=bind,"source=/data/with ""quotes"", and commas","target=/data/with ""quotes"", and commas",'
        "readonly",
        "--workdir", "/home/ann/runs/a/1/work", "--env-file", "/home/ann/runs/a/1/container.env",
        "--env", "AZUREML_RUN_TOKEN", "--env", "MINE", "--cpus=2", "--memory", "4g",
        "--entrypoint", "/azureml-envs/1/bin/python", "localhost/runyard/env:1", "train.py", "--rate", "0.1",
    ]  # fmt: skip


def test_container_gets_the_gpus_of_its_run_alone() -> None:
    docker, podman = replace(DOCKER, has_gpus=True), replace(PODMAN, has_gpus=True)
    for asked in ((), ("--gpus", "all"), ("--gpus=all",)):
        plan = ContainerPlan((*asked, "--cpus=2"))
        words = run_arguments(docker, ASKED, plan, ["1", "3"])
        assert words[words.index("--gpus") + 1] == '"device=1,3"'
        assert (words.count("--gpus"), "all" in words, "--gpus=all" in words) == (1, False, False)
        assert "--cpus=2" in words
        assert "--gpus" not in run_arguments(docker, ASKED, plan, [])
    words = run_arguments(podman, ASKED, ContainerPlan(), ["1", "3"])
    assert [word for word in words if word.startswith("nvidia.com")] == ["nvidia.com/gpu=1", "nvidia.com/gpu=3"]
    assert "nvidia.com/gpu=all" in run_arguments(podman, ASKED, ContainerPlan())


def test_engine_without_root_maps_its_user() -> None:
    words = run_arguments(PODMAN, ASKED, ContainerPlan(("--network=none", "--ipc=host"), "2g"))
    assert words[words.index("--userns") : words.index("--mount")] == ["--userns", "keep-id", "--user", "1000:1000"]
    assert not {"host", "--shm-size", "--gpus", "--device"} & set(words)
    rootless = run_arguments(replace(DOCKER, is_rootless=True), ASKED, ContainerPlan())
    assert rootless[rootless.index("--user") + 1] == "0:0"


@pytest.mark.parametrize(
    "word", ["--privileged", "-v", "--volume=/:/host", "--device", "--pid=host", "-v/:/host", "-it"]
)
def test_argument_that_opens_the_node_is_refused(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserErrorException, match=r"docker\.arguments holds"):
        run_arguments(DOCKER, ASKED, ContainerPlan((word,)))
    monkeypatch.setenv("RUNYARD_CONTAINER_ARGUMENTS", "all")
    assert word in run_arguments(DOCKER, ASKED, ContainerPlan((word,)))


def test_password_of_a_registry_is_on_no_command_line() -> None:
    registry = RegistrySpec("registry.example", "ann", "secret")
    assert login_command(DOCKER, registry) == [
        "/usr/bin/docker", "login", "--username", "ann", "--password-stdin", "registry.example",
    ]  # fmt: skip
    spec = DockerSpec(base_image="team/image:1", registry=registry)
    assert image_source(spec).base_image == "registry.example/team/image:1"
    assert image_source(replace(spec, base_image="registry.example/x:1")).base_image == "registry.example/x:1"


def test_login_is_forgotten_once_the_image_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Any) -> None:
    """Against a client that takes down what it is told, and whose registry knows one password."""
    engine = tmp_path / "docker"
    engine.write_text(
        f'#!/bin/sh\necho "$DOCKER_HOST $*" >> {tmp_path}/told\ncase $1 in\n'
        "context) echo unix:///run/mine.sock;;\n"
        'login) read -r word; [ "$word" = secret ] && echo in > $DOCKER_CONFIG/config.json;;\n'
        f"pull) echo $DOCKER_CONFIG > {tmp_path}/folder; test -f $DOCKER_CONFIG/config.json;;\nesac\n"
    )
    engine.chmod(0o755)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    found = replace(DOCKER, program=str(engine))
    registry = RegistrySpec("registry.example", "ann", "secret")
    pull(found, "registry.example/x:1", registry, log)
    assert (tmp_path / "told").read_text().splitlines() == [
        " context inspect --format {{.Endpoints.docker.Host}}",
        "unix:///run/mine.sock login --username ann --password-stdin registry.example",
        "unix:///run/mine.sock pull --quiet registry.example/x:1",
    ]
    assert not Path((tmp_path / "folder").read_text().strip()).exists()
    with pytest.raises(EnvironmentBuildError, match=r"'registry\.example' refuses the login of 'ann'"):
        pull(found, "registry.example/x:1", replace(registry, password="other"), log)
    with pytest.raises(EnvironmentBuildError, match="cannot be fetched"):
        pull(found, "x:1", None, log)
    assert "secret" not in log.text


def test_silent_engine_has_not_said_that_there_is_no_image(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text('#!/bin/sh\n[ "$2" = slow ] && exec sleep 60\nexit 1\n')
    program.chmod(0o755)
    engine = Engine(str(program), "docker")
    assert ask(engine, ["image", "missing"], 30) is None
    with pytest.raises(EnvironmentBuildError, match=r"'docker image slow' has not answered for 1 s"):
        ask(engine, ["image", "slow"], 1)
    remove(engine, ["image", "slow"], 1)


@pytest.mark.parametrize(
    ("name", "full"),
    [("ubuntu:20.04", "docker.io/library/ubuntu:20.04"), ("pytorch/pytorch:1", "docker.io/pytorch/pytorch:1"),
     ("quay.io/x/y", "quay.io/x/y"), ("localhost/x", "localhost/x"), ("host:5000/x", "host:5000/x")],
)  # fmt: skip
def test_short_name_means_docker_hub(name: str, full: str) -> None:
    assert (_docker_hub(PODMAN, name), _docker_hub(DOCKER, name)) == (full, name)


@pytest.mark.parametrize(
    ("code", "is_"), [(0, 0), (1, 1), (125, 125), (127, 127), (137, -9), (143, -15), (255, 255), (None, None)]
)
def test_exit_code_tells_the_signal(code: int | None, is_: int | None) -> None:
    assert exit_code(code) == is_


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_engine_s_help_knows_every_flag(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    plan = ContainerPlan(("--cpus=2", "--memory=4g"), "2g")
    kind = replace(DOCKER if program == "docker" else PODMAN, has_gpus=True)
    for command in (
        run_arguments(kind, ASKED, plan),
        build_arguments(replace(kind, can_mount=program == "podman"), "tag", "/c", "/c/Dockerfile", "/r"),
        login_command(kind, RegistrySpec("registry.example", "ann", "secret"))[1:],
        remove_arguments(kind, ["name"]),
        ["pull", "--quiet"],
        ["image", "inspect", "--format"],
    ):
        verbs = command[:2] if command[0] == "image" else command[:1]
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        done = subprocess.run([program, *verbs, "--help"], capture_output=True, text=True, env=environment, check=False)
        known = set(re.findall(r"--[a-z][a-z-]+", done.stdout + done.stderr))
        flags = {word.split("=")[0] for word in command if re.match(r"--[a-z]", word)} - {"--rate"}
        assert flags <= known, (program, verbs)


def test_without_an_engine_an_image_alone_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNYARD_ENGINE", "none")
    assert find_engine() is None
    own = EnvironmentSpec("x", python=PythonSpec(user_managed=True), docker=DockerSpec(base_image="mine:1"))
    with pytest.raises(EnvironmentBuildError) as caught:
        choose_builder(own)
    assert caught.value.message == (
        "The environment is only the image mine:1, and no container engine answers on this host."
    )
    packages = replace(own, python=PythonSpec(conda=CondaSpec(pip=("six",))))
    choice = choose_builder(packages)
    assert (choice.builder, [note.subject for note in choice.notes]) == (Builder.UV, ["docker.base_image"])
    silent = tmp_path / "docker"
    silent.write_text('#!/bin/sh\necho \'{"ServerErrors": ["Cannot connect"]}\'\n')
    silent.chmod(0o755)
    monkeypatch.setenv("RUNYARD_ENGINE", str(silent))
    assert find_engine() is None, "a client without its engine is none"


def test_azure_s_own_image_is_taken_where_the_host_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = tmp_path / "docker"
    engine.write_text('#!/bin/sh\n[ "$1" = info ] && echo \'{"ServerVersion": "28", "Runtimes": {}}\'\n')
    engine.chmod(0o755)
    monkeypatch.setenv("RUNYARD_ENGINE", str(engine))
    image = "mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04"
    spec = EnvironmentSpec("x", docker=DockerSpec(enabled=True, base_image=image))
    choice = choose_builder(spec)
    assert (choice.builder, choice.why) == (
        Builder.UV, "Built by uv: Azure's own images hold MPI and CUDA, and no package that the environment lists.",
    )  # fmt: skip
    monkeypatch.setenv("RUNYARD_BUILDER", "docker")
    assert choose_builder(spec).image == ImageSource(image)
    monkeypatch.setenv("RUNYARD_BUILDER", "cargo")
    with pytest.raises(EnvironmentBuildError, match="RUNYARD_BUILDER is uv, conda or docker, not 'cargo'"):
        choose_builder(spec)


def test_build_context_leads_nowhere_else(tmp_path: Path) -> None:
    import io
    import tarfile

    for name, kind in (("../evil", tarfile.REGTYPE), ("link", tarfile.SYMTYPE), ("pipe", tarfile.FIFOTYPE)):
        archive = tmp_path / "context.tar"
        with tarfile.open(archive, "w") as members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            members.addfile(member, io.BytesIO())
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises((UserErrorException, EnvironmentBuildError)):
            _unpack(str(archive), tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "--help",
        "-q",
        "ubuntu\nRUN id",
        "ubuntu --tls-verify=false",
        "dir:/etc",
        "docker-archive:/home/x.tar",
        "../x",
        "-x/y",
    ],
)
def test_base_image_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(EnvironmentBuildError, match="no image's name"):
        image_source(DockerSpec(base_image=name))


@pytest.mark.parametrize(
    "name",
    [
        "ubuntu",
        "ubuntu:18.04",
        "localhost:5000/a/b_c:x",
        "Registry.example/a-b/c__d:v1.0_X",
        "quay.io/a/b@sha256:" + "0" * 64,
        "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04:latest",
    ],
)
def test_base_image_keeps_its_name(name: str) -> None:
    assert image_source(DockerSpec(base_image=name)).base_image == name
