"""What one environment has compiled, another one links; what somebody has changed is found out."""

import errno
import os
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from runyard.environments import realise as realise_module
from runyard.environments.layers import Layers, forget_unused_layers, is_fixed, layers_folder
from runyard.environments.pythons import running_minor
from runyard.environments.realise import Realised, prune, realise
from runyard.environments.resolve import resolve
from runyard.errors import StorageFullError
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, Lock, PythonSpec
from tests.environments.packages import source_of


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("one", "two", "three"):
        whole_wheel(folder, name, {f"{name}/__init__.py": f"NAME = {name!r}\n"})
    return folder


def whole_wheel(folder: Path, name: str, files: dict[str, str]) -> None:
    """A wheel whose RECORD lists what it holds, as those of every build tool do."""
    info = f"{name}-1.0.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {name}:NAME.upper\n",
    }
    listed = "".join(f"{path},,\n" for path in (*content, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in {**content, f"{info}/RECORD": listed}.items():
            wheel.writestr(path, text)


class Builder:
    def __init__(self, index: Path, root: Path, uv: str, log: Any) -> None:
        self.index, self.root, self.uv, self.log = index, root, uv, log

    def lock(self, *names: str) -> Lock:
        conda = CondaSpec(packages=(f"python={running_minor()}",), pip=(*source_of(self.index), *names))
        spec = EnvironmentSpec("x", python=PythonSpec(conda=conda))
        return resolve(spec, uv=self.uv, cache_folder=str(self.root / "uv"), log=self.log)

    def build(self, *names: str, uv: str | None = None) -> Realised:
        self.log.clear()
        found = self.uv if uv is None else uv
        return realise(self.lock(*names), str(self.root), uv=found, log=self.log, cache_folder=str(self.root / "uv"))


@pytest.fixture
def builder(index: Path, tmp_path: Path, uv: str, log: Any) -> Builder:
    return Builder(index, tmp_path / "root", uv, log)


def answer(made: Realised, code: str) -> str:
    done = subprocess.run([made.interpreter, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


def test_packages_of_other_environments_are_linked_without_uv(builder: Builder) -> None:
    builder.build("one")
    builder.build("two")
    both = builder.build("one", "two", uv="/no/uv")
    assert "Packages that other environments have too: 2." in builder.log.text
    assert answer(both, "import one, two; print(one.NAME, two.NAME)") == "one two"
    assert answer(both, "import one; print(one.__cached__, __import__('os').path.exists(one.__cached__))").endswith(
        "True"
    )
    folder = os.path.dirname(both.interpreter)
    done = subprocess.run([os.path.join(folder, "one-tool")], capture_output=True, text=True, check=False)
    assert "ONE" in done.stderr + done.stdout, "a package's programs start in the environment that they lie in"
    assert answer(both, "import sys; print(sys.prefix)") == os.path.dirname(folder)


def test_only_what_is_new_is_installed(builder: Builder) -> None:
    builder.build("one", "two")
    three = builder.build("one", "three")
    assert "Packages that other environments have too: 1." in builder.log.text
    assert answer(three, "import one, three; print(three.NAME)") == "three"
    assert "No module" in answer(three, "import two")


def test_changed_file_is_found_out_and_fetched_again(builder: Builder) -> None:
    first = builder.build("one")
    (module,) = (Path(first.interpreter).parent.parent / "lib").rglob("one/__init__.py")
    with open(module, "a") as stream:
        stream.write("NAME = 'changed by a script'\n")
    again = builder.build("one", "two")
    assert "one==1.0 was changed on this disk since it was kept; it is fetched again." in builder.log.text
    assert answer(again, "import one; print(one.NAME)") == "one"


def test_half_written_layer_counts_for_nothing(builder: Builder) -> None:
    builder.build("one")
    for path in Path(layers_folder(str(builder.root))).rglob("files.json"):
        path.write_text("[[")
    assert answer(builder.build("one", "two"), "import one; print(one.NAME)") == "one"
    for path in Path(layers_folder(str(builder.root))).rglob("__init__.py"):
        path.unlink()
    assert answer(builder.build("one", "three"), "import one, three; print(one.NAME)") == "one"


def test_nothing_is_kept_where_some_file_is_nobody_s(builder: Builder, tmp_path: Path) -> None:
    folder = Path(builder.build("one").interpreter).parent.parent
    layers = Layers(str(tmp_path / "other"), running_minor(), (), None)
    layers.keep(["one==1.0"], str(folder))
    assert len(list(Path(layers_folder(str(tmp_path / "other"))).rglob("files.json"))) == 1
    shutil.rmtree(tmp_path / "other")
    (folder / "lib" / f"python{running_minor()}" / "site-packages" / "stray.py").write_text("")
    layers.keep(["one==1.0"], str(folder))
    assert not list((tmp_path / "other").rglob("files.json"))


def test_two_packages_with_one_file_are_left_to_the_installer(builder: Builder, index: Path) -> None:
    for name in ("left", "right"):
        whole_wheel(index, name, {"shared/__init__.py": f"NAME = {name!r}\n", f"{name}/__init__.py": ""})
    builder.build("left")
    builder.build("right")
    both = builder.build("left", "right", "one")
    assert "Packages that other environments have too: 0." in builder.log.text
    assert answer(both, "import shared; print(shared.NAME)") in ("left", "right")


def test_layers_go_with_the_last_environment_that_has_them(builder: Builder) -> None:
    builder.build("one")
    kept = builder.build("two").interpreter
    later = os.stat(kept).st_mtime + 100 * 86400 + 1e9
    digest = os.path.basename(os.path.dirname(os.path.dirname(kept)))
    prune(str(builder.root), 30, 0, now=later, in_use={digest})
    left = {path.name for path in Path(layers_folder(str(builder.root))).rglob("*.dist-info")}
    assert left == {"two-1.0.dist-info"}


@pytest.mark.parametrize(
    ("pin", "is_it"),
    [
        ("six==1.17.0", True),
        ("six==1.*", False),
        ("six @ https://x/six.whl", False),
        ("six @ file:///x/six.whl#sha256=0", True),
        ("six @ runyard://ws/files/0/six.whl", True),
    ],
)
def test_pin_that_may_mean_other_bytes_is_not_kept(pin: str, is_it: bool) -> None:
    assert is_fixed(pin) == is_it


def test_layer_changed_behind_its_metadata_is_installed_whole(builder: Builder, index: Path) -> None:
    # "deep/part" sorts behind "deep-1.0.dist-info", by which the installer knows what is there already.
    whole_wheel(index, "deep", {"deep/__init__.py": "", "deep/part/__init__.py": "NAME = 'deep'\n"})
    first = builder.build("deep")
    (module,) = (Path(first.interpreter).parent.parent / "lib").rglob("part/__init__.py")
    with open(module, "a") as stream:
        stream.write("NAME = 'changed by a script'\n")
    again = builder.build("deep", "one")
    assert answer(again, "import deep.part; print(deep.part.NAME)") == "deep"
    third = builder.build("deep", "one", "two")
    assert answer(third, "import deep.part; print(deep.part.NAME)") == "deep"


def test_layer_that_cannot_be_linked_to_its_end_leaves_nothing(builder: Builder, tmp_path: Path) -> None:
    builder.build("one")
    layers = Layers(str(builder.root), running_minor(), builder.lock("one").options, None)
    target = tmp_path / "target"
    blocked = target / "lib" / f"python{running_minor()}" / "site-packages" / "one-1.0.dist-info" / "METADATA"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    assert layers.place(["one==1.0"], str(target)) == (["one==1.0"], [])
    assert [path for path in target.rglob("*") if not path.is_dir()] == [blocked]
    assert not list(target.rglob("one")), "an empty folder may count as a package"


def test_package_without_some_of_its_files_is_not_kept(builder: Builder, tmp_path: Path) -> None:
    folder = Path(builder.build("one").interpreter).parent.parent
    (module,) = (folder / "lib").rglob("one/__init__.py")
    module.unlink()
    Layers(str(tmp_path / "other"), running_minor(), (), None).keep(["one==1.0"], str(folder))
    assert not list((tmp_path / "other").rglob("files.json"))


def test_skeleton_that_somebody_has_changed_is_made_anew(builder: Builder) -> None:
    first = builder.build("one")
    with open(Path(first.interpreter).parent.parent / "pyvenv.cfg", "a") as stream:
        stream.write("changed = by a script\n")
    again = builder.build("two")
    assert answer(again, "import two; print(two.NAME)") == "two"
    assert "by a script" not in (Path(again.interpreter).parent.parent / "pyvenv.cfg").read_text()
    assert "by a script" in (Path(first.interpreter).parent.parent / "pyvenv.cfg").read_text()


def test_pruning_beside_a_build_goes_on(builder: Builder) -> None:
    builder.build("one")
    folder = builder.root / "envs" / ".building-x"
    folder.mkdir()
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            for name in map(str, range(300)):
                (folder / name).write_text("")
            for path in folder.iterdir():
                path.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        removed = [forget_unused_layers(str(builder.root)) for _ in range(200)]
    finally:
        is_over.set()
        other.join()
    assert sum(removed) == 0


def test_environment_that_a_run_takes_while_others_are_weighed_stays(builder: Builder, monkeypatch: Any) -> None:
    made = builder.build("one")
    weigh = realise_module.size_of

    def weighed_while_used(folder: str) -> int:
        size = weigh(folder)
        builder.build("one")
        return size

    monkeypatch.setattr(realise_module, "size_of", weighed_while_used)
    later = os.stat(made.interpreter).st_mtime + 100 * 86400 + 1e9
    assert prune(str(builder.root), 30, 0, now=later) == []
    assert answer(made, "import one; print(one.NAME)") == "one"


def test_disk_that_is_full_before_the_installer_starts_is_told_as_such(builder: Builder, monkeypatch: Any) -> None:
    lock, opened = builder.lock("one"), os.open

    def full(path: Any, *arguments: Any, **names: Any) -> int:
        if str(path).endswith("runyard-requirements.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *arguments, **names)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(StorageFullError, match="no space left"):
        realise(lock, str(builder.root), uv=builder.uv, log=builder.log, cache_folder=str(builder.root / "uv"))


def test_layers_that_killed_builds_began_are_removed(builder: Builder) -> None:
    builder.build("one")
    layer = next(Path(layers_folder(str(builder.root))).rglob("files.json")).parent
    old, new = (layer.with_name(f".making-{name}") for name in ("old", "new"))
    for one in (old, new):
        (one / "files" / "lib").mkdir(parents=True)
    os.utime(old, (0, 0))
    assert forget_unused_layers(str(builder.root)) == 1
    assert (old.exists(), new.exists(), layer.exists()) == (False, True, True)
