"""From locks to interpreters: once per host, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.build import BuildResult, read_result
from runyard.environments.pythons import running_minor
from runyard.environments.realise import environment_folder, is_realised, prune, realise, reap_unfinished
from runyard.environments.resolve import resolve
from runyard.environments.uv import uv_cache_folder
from runyard.errors import EnvironmentBuildError, StorageFullError
from runyard.protocol import wire
from runyard.protocol.environments import (
    Builder,
    CondaSpec,
    EnvironmentSpec,
    Lock,
    PythonSpec,
    SourceBuild,
    lock_digest,
)
from tests.environments.packages import make_copying_source, make_waiting_source, make_wheel, source_of

#: Longer than any of these builds takes on a busy machine.
PATIENCE_S = 60.0


def lock_of(folder: Path, *requirements: str) -> Lock:
    lock = Lock("", python=running_minor(), requirements=requirements, options=source_of(folder))
    return replace(lock, digest=lock_digest(lock))


@pytest.fixture
def build(uv: str, cache_folder: str, log: Any, tmp_path: Path) -> Any:
    def make(lock: Lock) -> Any:
        return realise(lock, str(tmp_path), uv=uv, log=log, cache_folder=cache_folder, timeout_s=PATIENCE_S)

    return make


def start_build(lock: Lock, root: Path, number: int, **variables: str) -> tuple["subprocess.Popen[bytes]", Path, Path]:
    lock_file, log_file, result_file = (root / f"{number}.{end}" for end in ("lock", "log", "result"))
    lock_file.write_text(wire.dumps(lock))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **variables}
    command = [sys.executable, "-m", "runyard.environments.build", lock_file, root, log_file, result_file]
    return subprocess.Popen(command, env=environment, start_new_session=True), log_file, result_file


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def left_over(root: Path) -> list[str]:
    return [name for name in os.listdir(root / "envs") if not name.endswith((".lock", ".use"))]


def test_an_environment_is_built_once_and_then_reused(build: Any, wheels: Path, log: Any, tmp_path: Path) -> None:
    lock = lock_of(wheels, "tiny==1.0")
    assert not is_realised(lock, str(tmp_path))
    first = build(lock)
    said = len(log)
    second = build(lock)
    assert (first.reused, second.reused) == (False, True)
    assert first.interpreter == second.interpreter
    assert len(log) == said
    assert is_realised(lock, str(tmp_path))
    code = "import tiny, sys; print(tiny.VERSION, sys.prefix, tiny.__cached__)"
    answer = subprocess.run([first.interpreter, "-I", "-c", code], stdout=subprocess.PIPE, check=True)
    version, prefix, compiled = answer.stdout.decode().split()
    assert (version, prefix) == ("1.0", environment_folder(lock, str(tmp_path)))
    assert os.path.exists(compiled)


def test_byte_code_is_made_even_where_python_is_told_not_to(
    build: Any, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    done = build(lock_of(wheels, "tiny==1.1"))
    assert _compiled(done.interpreter, "tiny")


def _compiled(interpreter: str, name: str) -> list[Path]:
    return list(Path(interpreter).parent.parent.glob(f"lib/python*/site-packages/__pycache__/{name}.*.pyc"))


def test_byte_code_of_a_package_is_made_once_for_all_environments(build: Any, wheels: Path, log: Any) -> None:
    first = build(lock_of(wheels, "tiny==1.0")).interpreter
    second = build(lock_of(wheels, "tiny==1.0", "below==2.0")).interpreter
    assert _compiled(first, "tiny")[0].samefile(_compiled(second, "tiny")[0])
    assert [line for line in log if "Byte code" in line] == [
        "Byte code: 1 modules compiled, 0 had been compiled before.",
        "Byte code: 1 modules compiled, 1 had been compiled before.",
    ]
    trace = [second, "-I", "-c", "import tiny; print(tiny.__loader__.get_code('tiny').co_filename == tiny.__file__)"]
    assert subprocess.run(trace, stdout=subprocess.PIPE, check=True).stdout == b"True\n"


def test_byte_code_of_another_version_is_not_taken(build: Any, wheels: Path) -> None:
    for version in ("1.0", "1.1"):
        done = build(lock_of(wheels, f"tiny=={version}"))
        answer = subprocess.run(
            [done.interpreter, "-I", "-c", "import tiny; print(tiny.VERSION)"], stdout=subprocess.PIPE
        )
        assert answer.stdout.decode().strip() == version


def test_a_module_that_this_python_cannot_read_does_not_fail_the_build(build: Any, tmp_path: Path) -> None:
    make_wheel(tmp_path, "ancient", "1.0", body="print 'hello'\n")
    done = build(lock_of(tmp_path, "ancient==1.0"))
    assert _compiled(done.interpreter, "ancient") == []


def test_a_package_of_the_index_is_resolved_built_and_imported(uv: str, tmp_path: Path, log: Any) -> None:
    spec = EnvironmentSpec(python=PythonSpec(conda=CondaSpec(pip=("six==1.16.0", "azureml-defaults"))))
    cache = uv_cache_folder(str(tmp_path))
    lock = resolve(spec, uv=uv, cache_folder=cache, log=log)
    assert lock.requirements == ("six==1.16.0",)
    done = realise(lock, str(tmp_path), uv=uv, log=log)
    answer = subprocess.run([done.interpreter, "-c", "import six; print(six.__version__)"], stdout=subprocess.PIPE)
    assert answer.stdout == b"1.16.0\n"


def test_a_package_that_is_built_is_built_for_what_it_is_installed_beside(build: Any, tmp_path: Path) -> None:
    """As Horovod is for a TensorFlow: the wheel of one is no wheel for the other."""
    make_copying_source(tmp_path)
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path, "base", version)
        lock = lock_of(tmp_path, f"base=={version}")
        lock = replace(lock, digest=version[0] * 64, sources=(SourceBuild("copies==1.0"),))
        done = build(lock)
        said = subprocess.run(
            [done.interpreter, "-c", "import copies; print(copies.BUILT_WITH)"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == version


def test_a_lock_without_packages_is_a_bare_interpreter(build: Any, wheels: Path) -> None:
    done = build(lock_of(wheels))
    assert subprocess.run([done.interpreter, "-I", "-c", "pass"]).returncode == 0


def test_a_user_managed_lock_builds_nothing(build: Any, tmp_path: Path) -> None:
    done = build(Lock("d", Builder.USER_MANAGED, interpreter_path="python"))
    assert (done.interpreter, done.reused) == (sys.executable, True)
    assert not (tmp_path / "envs").exists()


def test_a_failed_build_names_the_package_and_leaves_nothing(build: Any, wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"tiny==7\.0"):
        build(lock_of(wheels, "tiny==7.0"))
    assert left_over(tmp_path) == []


def test_after_a_failure_the_next_attempt_is_free(build: Any, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    lock = lock_of(folder, "late==1.0")
    with pytest.raises(EnvironmentBuildError, match=r"late==1\.0"):
        build(lock)
    make_wheel(folder, "late", "1.0")
    assert not build(lock).reused


def test_a_changed_local_wheel_is_not_installed(build: Any, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "local", "1.0")
    with pytest.raises(EnvironmentBuildError, match=r"[Hh]ash"):
        build(lock_of(tmp_path, f"local @ {wheel.as_uri()}#sha256={'0' * 64}"))


def test_a_python_that_is_not_here_is_named(build: Any) -> None:
    lock = Lock("d" * 64, python="3.99")
    with pytest.raises(EnvironmentBuildError, match=r"Python 3\.99"):
        build(lock)


def test_eight_processes_at_once_build_once(wheels: Path, tmp_path: Path, cache_folder: str) -> None:
    lock = lock_of(wheels, "above==1.0", "below==2.0")
    builds = [start_build(lock, tmp_path, number, UV_CACHE_DIR=cache_folder) for number in range(8)]
    assert [process.wait(PATIENCE_S) for process, _, _ in builds] == [0] * 8
    results = [read_result(str(path)) for _, _, path in builds]
    assert all(result is not None and result.ok for result in results)
    assert sum(not result.reused for result in results if result) == 1
    logs = [path.read_text() for _, path, _ in builds]
    assert sum("Building environment" in text for text in logs) == 1
    assert left_over(tmp_path) == [lock.digest]


def test_a_killed_builder_leaves_nothing_in_the_way(wheels: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    make_waiting_source(gate)
    lock = lock_of(gate, "waits==1.0")
    variables = {"PIP_TEST_GATE": str(gate), "UV_CACHE_DIR": str(tmp_path / "cache")}
    process, _, result_file = start_build(lock, tmp_path, 1, **variables)
    wait_for(gate / "started")
    assert not is_realised(lock, str(tmp_path))
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)
    assert read_result(str(result_file)) is None
    (gate / "go").touch()
    again, _, result_file = start_build(lock, tmp_path, 2, **variables)
    assert again.wait(PATIENCE_S) == 0
    assert read_result(str(result_file)) == BuildResult(True, *_facts(result_file))
    # What the killed one had started may end, and write into its folder, while that is being removed.
    ends_at = time.monotonic() + PATIENCE_S
    while left_over(tmp_path) != [lock.digest]:
        assert time.monotonic() < ends_at
        reap_unfinished(str(tmp_path))
        time.sleep(0.1)


def _facts(path: Path) -> tuple[str, float, bool]:
    data = json.loads(path.read_text())
    return data["interpreter"], data["seconds"], False


def test_term_ends_a_build_with_its_processes_and_its_folder(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    make_waiting_source(gate)
    lock = lock_of(gate, "waits==1.0")
    variables = {"PIP_TEST_GATE": str(gate), "UV_CACHE_DIR": str(tmp_path / "cache")}
    process, log_file, result_file = start_build(lock, tmp_path, 1, **variables)
    wait_for(gate / "started")
    process.terminate()
    assert process.wait(PATIENCE_S) == 1
    result = read_result(str(result_file))
    assert result is not None
    assert (result.ok, result.message) == (False, "The build was cancelled.")
    assert "cancelled" in log_file.read_text()
    assert left_over(tmp_path) == []


def test_a_failed_build_process_writes_its_sentence(wheels: Path, tmp_path: Path, cache_folder: str) -> None:
    process, log_file, result_file = start_build(lock_of(wheels, "tiny==7.0"), tmp_path, 1, UV_CACHE_DIR=cache_folder)
    assert process.wait(PATIENCE_S) == 1
    result = read_result(str(result_file))
    assert result is not None
    assert "tiny==7.0" in result.message
    assert "uv" in result.details
    assert result.message in log_file.read_text()


def test_leftovers_of_killed_builds_are_reaped_and_running_builds_are_not(tmp_path: Path) -> None:
    (tmp_path / "envs" / ".building-abc-xyz" / "lib").mkdir(parents=True)
    (tmp_path / "envs" / ".leaving-1").mkdir()
    (tmp_path / "envs" / ".building-held-xyz").mkdir()
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
    )
    held = str(tmp_path / "envs" / "held.lock")
    with subprocess.Popen([sys.executable, "-c", code, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert reap_unfinished(str(tmp_path)) == 2
        assert left_over(tmp_path) == [".building-held-xyz"]
    assert reap_unfinished(str(tmp_path)) == 1


def test_a_half_built_folder_is_never_taken_for_ready(build: Any, wheels: Path, tmp_path: Path) -> None:
    lock = lock_of(wheels, "tiny==1.0")
    broken = Path(environment_folder(lock, str(tmp_path)))
    (broken / "bin").mkdir(parents=True)
    (broken / "bin" / "python").touch()
    assert not is_realised(lock, str(tmp_path))
    assert not build(lock).reused
    (broken / "runyard-ready").write_text("another digest\n")
    assert not is_realised(lock, str(tmp_path))


def test_pruning_takes_the_longest_unused_and_spares_what_runs_hold(build: Any, wheels: Path, tmp_path: Path) -> None:
    first, second, third = (lock_of(wheels, one) for one in ("tiny==1.0", "tiny==1.1", "below==2.0"))
    for lock in (first, second, third):
        build(lock)
    now = time.time()
    for lock, days in ((first, 40), (second, 50), (third, 2)):
        marker = os.path.join(environment_folder(lock, str(tmp_path)), "runyard-ready")
        os.utime(marker, (now - days * 86400, now - days * 86400))
    assert prune(str(tmp_path), 30, 1 << 40, now=now, in_use={second.digest}) == [first.digest]
    assert prune(str(tmp_path), 30, 0, now=now, in_use={second.digest}) == [third.digest]
    assert len(list((tmp_path / "caches" / "bytecode").rglob("*.pyc"))) == 1
    assert left_over(tmp_path) == [second.digest]


def test_use_is_remembered_against_pruning(build: Any, wheels: Path, tmp_path: Path) -> None:
    lock = lock_of(wheels, "tiny==1.0")
    build(lock)
    marker = os.path.join(environment_folder(lock, str(tmp_path)), "runyard-ready")
    os.utime(marker, (1, 1))
    build(lock)
    assert prune(str(tmp_path), 30, 0, now=time.time()) == []


def test_a_full_disk_is_a_storage_error(uv: str, wheels: Path, log: Any, tmp_path: Path) -> None:
    code = (
        "import sys; from runyard.environments.realise import realise; from runyard.protocol import wire;"
        "from runyard.protocol.environments import Lock\n"
        "lock = wire.loads(Lock, sys.argv[2])\n"
        "try: realise(lock, sys.argv[1], uv=sys.argv[3], log=print, cache_folder=sys.argv[1] + '/c')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    big = make_wheel(tmp_path, "big", "1.0", body="X = '" + "x" * 3_000_000 + "'\n")
    script = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$1" "$4" "$5"'
    disk = tmp_path / "disk"
    disk.mkdir()
    lock = lock_of(big.parent, "big==1.0")
    answer = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, code, wire.dumps(lock), uv],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = answer.stdout.decode()
    if "unshare:" in said or "mount:" in said:
        pytest.skip("this host lets no user mount a small disk")
    assert StorageFullError.__name__ in said
