"""Environments beside bare uv: c1 new spec with cached wheels, c2 the same spec again, c3 cold; seconds, medians.

c1 comes twice: on a host that has compiled none of the packages yet, and on one that has them in another environment.
Run as `python -m bench.environments [--repeats 3]`; c3 fetches some 60 MB twice. The peer installs without byte code,
as uv does by itself, so its first import is given too.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List

from runyard.environments.pythons import find_minor, running_minor
from runyard.environments.realise import is_realised, realise
from runyard.environments.resolve import resolve
from runyard.environments.uv import find_uv, tool_environment
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, Lock, PythonSpec

PACKAGES = ("numpy", "scikit-learn", "pandas")
IMPORTS = "import numpy, sklearn, pandas"
#: One small package more makes another environment of the same large ones.
VARIANTS = ("idna", "certifi", "packaging")


def main() -> None:
    """Measure and print one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where to build; its disk decides (default: the temporary folder)")
    arguments = parser.parse_args()
    repeats = min(arguments.repeats, len(VARIANTS))
    folder = Path(tempfile.mkdtemp(prefix="runyard-bench-", dir=arguments.folder))
    try:
        cold = _cold(folder)
        _print("c3 cold", cold)
        for variant in VARIANTS:
            _ours(folder / "cache", folder / "fetching", variant)
        _ours(folder / "cache", folder / "root0")
        fresh = [_cached(folder, number, folder / f"fresh{number}") for number in range(repeats)]
        _print("c1 cached wheels, never compiled here", _medians(fresh))
        _print("c1 cached wheels", _medians([_cached(folder, number, folder / "root0") for number in range(repeats)]))
        _print("c2 same spec again", _again(folder, repeats * 100))
    finally:
        shutil.rmtree(folder)


def _cold(folder: Path) -> Dict[str, float]:
    peer = _timed(lambda: _bare_uv(folder / "cache-peer", folder / "peer-cold"))
    ours = _timed(lambda: _ours(folder / "cache", folder / "cold"))
    return {"ours_s": ours, "uv_s": peer}


def _cached(folder: Path, number: int, root: Path) -> Dict[str, float]:
    peer_folder = folder / f"peer{number}"
    shutil.rmtree(peer_folder, ignore_errors=True)
    peer = _timed(lambda: _bare_uv(folder / "cache-peer", peer_folder))
    ours = _timed(lambda: _ours(folder / "cache", root, VARIANTS[number]))
    lock = _ours(folder / "cache", root, VARIANTS[number])
    interpreter = root / "envs" / lock.digest / "bin" / "python"
    return {
        "ours_s": ours,
        "uv_s": peer,
        "ours_first_import_s": _timed(lambda: _import(interpreter)),
        "uv_first_import_s": _timed(lambda: _import(peer_folder / "bin" / "python")),
        "ours_warm_import_s": _timed(lambda: _import(interpreter)),
    }


def _again(folder: Path, repeats: int) -> Dict[str, float]:
    root = str(folder / "root0")
    lock = _ours(folder / "cache", Path(root))
    uv = find_uv()
    ours = [_timed(lambda: _discard(realise(lock, root, uv=uv, log=_silent))) for _ in range(repeats)]
    look = [_timed(lambda: _discard(is_realised(lock, root))) for _ in range(repeats)]
    peer = [_timed(lambda: _bare_uv(folder / "cache-peer", folder / "peer0", is_new=False)) for _ in range(3)]
    return {
        "ours_s": statistics.median(ours),
        "is_realised_s": statistics.median(look),
        "uv_s": statistics.median(peer),
    }


def _ours(cache: Path, root: Path, *more: str) -> Lock:
    uv = find_uv()
    spec = EnvironmentSpec(python=PythonSpec(conda=CondaSpec(pip=PACKAGES + more)))
    lock = resolve(spec, uv=uv, cache_folder=str(cache), log=_silent)
    realise(lock, str(root), uv=uv, log=_silent, cache_folder=str(cache))
    return replace(lock, notes=())


def _bare_uv(cache: Path, folder: Path, is_new: bool = True) -> None:
    python = find_minor(running_minor())
    assert python is not None
    environment = {**tool_environment(os.environ), "UV_CACHE_DIR": str(cache)}
    uv = find_uv()
    if is_new:
        subprocess.run([uv, "venv", "-q", "--python", python.path, folder], env=environment, check=True)
    install = [uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), *PACKAGES]
    subprocess.run(install, env=environment, check=True)


def _import(interpreter: Path) -> None:
    subprocess.run([interpreter, "-c", IMPORTS], env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}, check=True)


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _medians(rows: List[Dict[str, float]]) -> Dict[str, float]:
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def _print(name: str, row: Dict[str, float]) -> None:
    figures = {key: float(f"{value:.3g}") for key, value in row.items()}
    ratio = float(f"{row['ours_s'] / row['uv_s']:.3g}")
    sys.stdout.write(json.dumps({"row": name, **figures, "ratio_to_uv": ratio}) + "\n")
    sys.stdout.flush()


def _discard(value: object) -> None:
    """The measured call's answer is not wanted."""


def _silent(line: str) -> None:
    """The log is not measured."""


if __name__ == "__main__":
    main()
