"""What a confined script installs while it runs: as in an environment of its own, which no other run sees."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from glob import glob
from pathlib import Path

import pytest

from runyard.environments.kit import Kit
from runyard.environments.pythons import Interpreter, find_interpreters
from runyard.environments.uv import find_uv
from runyard.protocol.plan import Isolation
from runyard.runner.folder import AttemptFolder
from runyard.runner.sandbox import confined, shared_memory
from runyard.runner.writable import LINKS_MAX, show_environment
from tests.environments.packages import make_wheel
from tests.runner.conftest import MakeAttempt

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="tests/system-packages.sh installs bubblewrap")


def bundled_pips(python: Interpreter) -> list[str]:
    """The pips that come with a Python, the oldest first."""
    top = Path(python.path).resolve().parents[1]
    return sorted(glob(str(top / "lib" / "python3*" / "ensurepip" / "_bundled" / "pip-*.whl")))


FOUND = sorted((one for one in find_interpreters() if bundled_pips(one)), key=lambda one: one.version)
USABLE = [one for one in FOUND if one.version >= (3, 7)]
#: Pythons and pips of different ages; one that is too old for a run may still lend its pip to the oldest that is not.
OLD, NEW = (USABLE[0].path, bundled_pips(FOUND[0])[0]), (USABLE[-1].path, bundled_pips(USABLE[-1])[-1])


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        make_wheel(folder, "base", version)
        make_wheel(folder, "below", version)
    make_wheel(folder, "app", "1.0", needs=["below"])
    return folder


class Sandbox:
    """Scripts that run confined in an environment of the cache."""

    def __init__(self, folder: AttemptFolder, prefix: Path, *names: str) -> None:
        self.prefix = prefix
        self.folder = folder
        self.inputs = str(folder.inputs / "data")
        data = {name: str(folder.inputs / name) for name in names}
        for path in data.values():
            os.mkdir(path)
        (Path(folder.facts.cache_folder) / "kits" / "kit").mkdir(parents=True, exist_ok=True)
        kit = Kit("kit", str(Path(folder.facts.cache_folder) / "kits" / "kit"))
        self.launch = confined(folder, str(prefix / "bin" / "python"), kit, data)

    def run(self, script: str) -> str:
        """What it prints; it must succeed."""
        (self.folder.work / "script.py").write_text(script)
        variables = {"PATH": f"{self.prefix / 'bin'}:{os.defpath}", "HOME": str(self.folder.path / "tmp")}
        command = [str(self.prefix / "bin" / "python"), "script.py"]
        self.folder.log.write_text("")
        done = self.launch(command, variables, self.folder.work, self.folder.log)
        code = done.wait(60)
        done.close()
        said = self.folder.log.read_text()
        assert code == 0, said
        return said


Confine = Callable[..., Sandbox]


@pytest.fixture
def confine(make_attempt: MakeAttempt, tmp_path: Path) -> Iterator[Confine]:
    """A function that confines an attempt to an environment; called again, another attempt."""
    folders = []

    def make(prefix: Path, *names: str) -> Sandbox:
        folder = make_attempt(attempt=len(folders) + 1)
        facts = {"home_folder": str(tmp_path / "home"), "isolation": Isolation.HIDDEN}
        folder.facts = replace(folder.facts, **facts)
        folders.append(folder)
        return Sandbox(folder, prefix, *names)

    yield make
    for one in folders:
        shutil.rmtree(shared_memory(one))


def make_environment(tmp_path: Path, python: str, pip: str, wheels: Path, how: str) -> Path:
    """An environment in the cache with that pip, and the first version of everything."""
    prefix = tmp_path / "home" / "cache" / "envs" / "digest"
    prefix.parent.mkdir(parents=True)
    if how == "no venv":
        copy_python(python, prefix)
    elif how == "relocatable":
        subprocess.run([find_uv(), "venv", "-q", "--relocatable", "--python", python, str(prefix)], check=True)
    else:
        subprocess.run([python, "-m", "venv", "--without-pip", str(prefix)], check=True)
    (site,) = prefix.glob("lib/python*/site-packages")
    for wheel in (pip, *(str(wheels / f"{one}-1.0-py3-none-any.whl") for one in ("base", "below"))):
        install = [find_uv(), "pip", "install", "-q", "--offline", "--no-index", "--no-deps", "--python"]
        subprocess.run([*install, str(prefix / "bin" / "python"), wheel], check=True)
    assert (site / "pip").is_dir()
    return prefix


def copy_python(python: str, prefix: Path) -> None:
    """A Python with a site-packages of its own that is no virtual environment, as conda makes them."""
    program = Path(python).resolve()
    library = prefix / "lib" / program.name
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(program, prefix / "bin" / "python")
    (library / "site-packages").mkdir(parents=True)
    for one in (program.parents[1] / "lib" / program.name).iterdir():
        if one.name != "site-packages":
            (library / one.name).symlink_to(one)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and its content, but for byte code."""
    found = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return {str(one.relative_to(folder)): one.read_bytes() for one in found if one.suffix != ".pyc"}


INSTALLS = """
import os, subprocess, sys
install = ["install", "--disable-pip-version-check", "--no-index", "--find-links", {!r}]
def version(name):
    code = "import {{0}}; print({{0}}.VERSION)".format(name)
    return subprocess.check_output([sys.executable, "-c", code]).decode().strip()
subprocess.check_call([sys.executable, "-m", "pip", *install, "app"])
import app, below
print("needs", below.VERSION)
assert os.system("pip " + " ".join(install) + " --upgrade base") == 0
print("upgraded", version("base"))
subprocess.check_call([sys.executable, "-m", "pip", *install, "base==1.0"])
print("back", version("base"))
subprocess.check_call([sys.executable, "-m", "pip", "uninstall", "--yes", "app"])
print("prefix", sys.prefix)
"""


@pytest.mark.parametrize(
    ("age", "how"), [(OLD, "relocatable"), (OLD, "no venv"), (NEW, "at its place"), (NEW, "no venv")],
    ids=["old-relocatable", "old-no-venv", "new-at-its-place", "new-no-venv"],
)  # fmt: skip
def test_pip_installs_upgrades_and_removes(
    confine: Confine, tmp_path: Path, wheels: Path, age: tuple[str, str], how: str
) -> None:
    prefix = make_environment(tmp_path, *age, wheels, how)
    before = tree(prefix)
    said = confine(prefix).run(INSTALLS.format(str(wheels)))
    assert "needs 1.0" in said, "what is there already is not fetched again"
    assert "upgraded 2.0" in said
    assert "back 1.0" in said
    assert f"prefix {prefix}\n" in said
    assert tree(prefix) == before
    assert "no app, 1.0" in confine(prefix).run(
        "import base\ntry:\n    import app\nexcept ImportError:\n    print('no app,', base.VERSION)"
    ), "another run finds the environment as it was"


def test_environment_without_pip_is_as_it_is(confine: Confine, tmp_path: Path) -> None:
    prefix = tmp_path / "home" / "cache" / "envs" / "digest"
    prefix.parent.mkdir(parents=True)
    subprocess.run([USABLE[0].path, "-m", "venv", "--without-pip", str(prefix)], check=True)
    before = tree(prefix)
    said = confine(prefix).run(
        "import site\ntry:\n    open(site.getsitepackages()[0] + '/x', 'w')\nexcept OSError as error:\n    print(error)"
    )
    assert "Read-only file system" in said
    assert tree(prefix) == before


def test_links_of_a_running_script_open_nothing_to_what_starts_later(confine: Confine, tmp_path: Path) -> None:
    """A distributed run's processes start one after the other; what an input's links lead to is bound for each."""
    prefix = tmp_path / "home" / "cache" / "envs" / "digest"
    prefix.parent.mkdir(parents=True)
    subprocess.run([USABLE[0].path, "-m", "venv", "--without-pip", str(prefix)], check=True)
    (tmp_path / "home" / "token").write_text("the owner's")
    sandbox = confine(prefix, "data")
    sandbox.run(f"import os; os.symlink({str(tmp_path / 'home' / 'token')!r}, {sandbox.inputs!r} + '/link')")
    assert "False" in sandbox.run(f"import os; print(os.path.exists({str(tmp_path / 'home' / 'token')!r}))")


def test_environment_of_many_files_is_linked_by_the_folder(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    prefix, folder = tmp_path / "env", make_attempt()
    (prefix / "lib" / "python3.9" / "site-packages" / "pip").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\n")
    for number in range(LINKS_MAX + 50):
        (prefix / "share" / "icons" / str(number)).mkdir(parents=True)
        (prefix / "share" / "icons" / str(number) / "x.png").write_text("x")
    (prefix / "node" / "bin").mkdir(parents=True)
    show_environment(folder, str(prefix), str(tmp_path / "memory"))
    layer = tmp_path / "memory"
    assert (layer / "node").is_symlink()
    assert not (layer / "share" / "icons").is_symlink()
    assert len([one for one in (layer / "share" / "icons").iterdir() if one.is_symlink()]) >= LINKS_MAX
    assert not (layer / "pyvenv.cfg").is_symlink()
    assert (folder.path / "environment" / "python3.9" / "site-packages" / "runyard-shared.pth").exists()
