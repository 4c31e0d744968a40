"""Environments of conda's own packages: command lines word by word, and real solving by a stand-in of micromamba."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.choice import choose_builder
from runyard.environments.pythons import running_minor
from runyard.environments.realise import is_realised, realise, reap_unfinished
from runyard.environments.resolve import resolve
from runyard.environments.with_conda import create_command, list_command, solve_command
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import Builder, CondaSpec, EnvironmentSpec, Lock, PythonSpec
from tests.environments.conda_stand_in import make_channel
from tests.environments.packages import make_wheel, source_of

RATTLER = "py-rattler==0.28.0"


def spec_of(
    *packages: str, channels: tuple[str, ...] = (), pip: tuple[str, ...] = (), **python: Any
) -> EnvironmentSpec:
    conda = CondaSpec(packages=packages, channels=channels, pip=pip)
    return EnvironmentSpec("x", python=PythonSpec(conda=conda, **python))


def test_commands_are_those_of_conda_mamba_and_micromamba() -> None:
    assert solve_command("conda", ["python=3.8", "ffmpeg"], ["conda-forge", "defaults"]) == [
        "conda", "create", "--dry-run", "--json", "--yes", "--prefix", "/tmp/runyard-dry-run", "--override-channels",
        "--channel", "conda-forge", "--channel", "defaults", "python=3.8", "ffmpeg",
    ]  # fmt: skip
    assert create_command("mamba", "/envs/1", ["ffmpeg=4.2=h1"], []) == [
        "mamba", "create", "--quiet", "--no-deps", "--yes", "--prefix", "/envs/1", "ffmpeg=4.2=h1",
    ]  # fmt: skip
    assert list_command("conda", "/envs/1") == ["conda", "list", "--explicit", "--prefix", "/envs/1"]


@pytest.mark.parametrize(
    ("packages", "builder", "said"),
    [
        (("numpy=1.19",), Builder.UV, "every package is pip's"),
        (("numpy", "openjdk=8"), Builder.CONDA, "Built by conda: openjdk is no pip package."),
        (("numpy=1.1|1.2",), Builder.CONDA, "Built by conda: numpy is no pip package."),
    ],
)
def test_conda_is_taken_where_the_file_needs_it(
    packages: tuple[str, ...], builder: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conda").write_text("#!/bin/sh\n")
    (tmp_path / "conda").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    choice = choose_builder(spec_of(*packages))
    assert (choice.builder, said in choice.why) == (builder, True), choice.why
    monkeypatch.setenv("RUNYARD_BUILDER", "uv")
    assert choose_builder(spec_of(*packages)).builder == Builder.UV
    monkeypatch.setenv("RUNYARD_BUILDER", "conda")
    assert choose_builder(spec_of(*packages)).why.startswith("Built by conda")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(EnvironmentBuildError, match="no conda, mamba or micromamba on its PATH"):
        choose_builder(spec_of(*packages))
    monkeypatch.delenv("RUNYARD_BUILDER")
    assert choose_builder(spec_of("openjdk")).why == (
        "Built by uv, though openjdk is no pip package: this host has no conda, mamba or micromamba."
    )


@pytest.fixture(scope="module")
def micromamba(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The stand-in, first on the PATH."""
    from runyard.environments.uv import find_uv

    folder = tmp_path_factory.mktemp("rattler")
    subprocess.run([find_uv(), "venv", "-q", "--python", sys.executable, str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([find_uv(), "pip", "install", "-q", "--python", str(python), RATTLER], check=True)
    (folder / "bin").mkdir()
    script = Path(__file__).with_name("conda_stand_in.py")
    (folder / "bin" / "micromamba").write_text(f'#!/bin/sh\nexec {python} {script} "$@"\n')
    (folder / "bin" / "micromamba").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        yield folder


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Packages of a conda that has this host's Python: a program, a library that it needs, and a module."""
    folder = tmp_path_factory.mktemp("channel") / "main"
    site = f"lib/python{running_minor()}/site-packages"
    interpreter = {
        "bin/python": ("link", sys.executable),
        "pyvenv.cfg": f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n",
    }
    make_channel(
        folder,
        [
            ("python", running_minor() + ".1", [], interpreter),
            ("openjdk", "8.0", ["libjava >=1,<2"], {"bin/java": "#!/bin/sh\necho java\n"}),
            ("libjava", "1.5", [], {"lib/libjava.txt": "1.5"}),
            ("libjava", "2.0", [], {"lib/libjava.txt": "2.0"}),
            ("sciency", "3.0", [], {f"{site}/sciency.py": "VERSION = '3.0'\n"}),
        ],
    )
    return f"file://{folder}"


def lock_of(spec: EnvironmentSpec, uv: str, tmp_path: Path, log: Any) -> Lock:
    return resolve(spec, uv=uv, cache_folder=str(tmp_path / "uv"), log=log)


@pytest.mark.e2e
def test_conda_s_packages_are_solved_installed_and_listed(
    micromamba: Path, channel: str, uv: str, tmp_path: Path, log: Any
) -> None:
    (tmp_path / "wheels").mkdir()
    make_wheel(tmp_path / "wheels", "tiny", "1.0")
    pip = (*source_of(tmp_path / "wheels"), "tiny", "azureml-defaults")
    spec = spec_of(f"python={running_minor()}", "openjdk", "sciency >=2", channels=(channel,), pip=pip)
    lock = lock_of(spec, uv, tmp_path, log)
    assert (lock.builder, lock.builder_why) == (Builder.CONDA, "Built by micromamba: openjdk is no pip package.")
    assert lock.conda_packages == (
        "libjava=1.5=0", "openjdk=8.0=0", f"python={running_minor()}.1=0", "sciency=3.0=0",
    )  # fmt: skip
    assert [note.subject for note in lock.notes] == ["azureml-defaults"]
    assert lock_of(spec, uv, tmp_path, log).digest == lock.digest
    made = realise(lock, str(tmp_path), uv=uv, log=log, cache_folder=str(tmp_path / "uv"))
    code = "import sciency, tiny, sys; print(sciency.VERSION, tiny.VERSION, sys.prefix, sciency.__cached__)"
    answer = subprocess.run([made.interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    folder = tmp_path / "envs" / lock.digest
    assert answer[:3] == ["3.0", "1.0", str(folder)]
    assert os.path.exists(answer[3]), "byte code is part of being ready"
    listed = (folder / "conda-explicit.txt").read_text().splitlines()
    assert listed[0] == "@EXPLICIT"
    assert [line.rsplit("/", 1)[-1] for line in listed[1:]] == [
        "libjava-1.5-0.tar.bz2", "openjdk-8.0-0.tar.bz2", f"python-{running_minor()}.1-0.tar.bz2",
        "sciency-3.0-0.tar.bz2",
    ]  # fmt: skip
    assert realise(lock, str(tmp_path), uv="/no/uv", log=log).reused


@pytest.mark.e2e
def test_conda_s_build_counts_only_once_it_is_whole(
    micromamba: Path, channel: str, uv: str, tmp_path: Path, log: Any
) -> None:
    lock = lock_of(spec_of(f"python={running_minor()}", "openjdk", channels=(channel,)), uv, tmp_path, log)
    folder = tmp_path / "envs" / lock.digest
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    assert not is_realised(lock, str(tmp_path)), "a half-built folder at the very place of a whole one"
    assert reap_unfinished(str(tmp_path)) == 1
    assert not folder.exists()
    assert not realise(lock, str(tmp_path), uv=uv, log=log).reused


@pytest.mark.e2e
def test_what_conda_cannot_solve_is_said_in_its_words(
    micromamba: Path, channel: str, uv: str, tmp_path: Path, log: Any
) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"micromamba cannot resolve the environment: .*libjava"):
        lock_of(spec_of("openjdk", "libjava=2.0", channels=(channel,)), uv, tmp_path, log)


@pytest.mark.e2e
def test_python_that_no_run_can_use_is_replaced_and_told(
    micromamba: Path, channel: str, uv: str, tmp_path: Path, log: Any
) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"asks for Python 3\.6\.2 exactly, and there would be 3\.7"):
        lock_of(spec_of("python=3.6.2", "openjdk", channels=(channel,), exact_only=True), uv, tmp_path, log)
    with pytest.raises(EnvironmentBuildError, match=r"python"):
        lock_of(spec_of("python=3.6.2", "openjdk", channels=(channel,)), uv, tmp_path, log)
    assert "python: asked 3.6.2, got 3.7: 3.7 is the oldest Python that a run can use." in log.text
