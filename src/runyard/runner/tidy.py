"""What a node of another machine keeps for later runs, held to a bound: environments, downloads, versions, logs."""

import fcntl
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional

import runyard
from runyard.environments.realise import prune, reap_unfinished, size_of
from runyard.environments.uv import find_uv, run_uv
from runyard.errors import RunyardError
from runyard.files.layout import write_atomically
from runyard.protocol.plan import LAUNCH_FILE
from runyard.runner.folder import AttemptFolder

#: How much environments may take, GiB; without it so much, or a part of the disk if that is less.
KEEP_VARIABLE, KEEP_GIB, KEEP_PART = "RUNYARD_NODE_KEEP_GIB", 50.0, 0.1
#: Between two times that a node tidies up, seconds.
EVERY_S = 3_600.0
#: How long a log stays, and something that was being made when its maker died, seconds.
LOG_KEPT_S, UNFINISHED_KEPT_S = 14 * 86_400.0, 86_400.0
#: How many versions of the runner, of kits and of uv stay in any case.
VERSIONS_KEPT = 2
#: An attempt's folder and what it uses are marked within this time, seconds.
MARKED_S = 3_600.0
#: Logs that engines have this node's programs write.
LOGS = ("runyard-slurm-*.log", "runyard-ray-*.log")
#: In the node's folder: what the last tidying has found.
KEPT_FILE = "kept.json"

_UV_TIMEOUT_S = 600.0


def is_elsewhere(folder: AttemptFolder) -> bool:
    """Is this node another machine than the server's, so that nobody else tidies up here?"""
    # A node has one folder for all that is Runyard's there (runner/supervise.py); the server's host has a cache beside.
    return folder.facts.home_folder == folder.facts.cache_folder


def mark_used(folder: AttemptFolder) -> None:
    """Note that an attempt begins with this version of the runner and this kit: neither goes while it lives."""
    own = Path(runyard.__file__).resolve().parents[1]
    for path in (own, Path(folder.facts.cache_folder) / "kits" / folder.plan.kit):
        if path.parent.name in ("runners", "kits") and path.exists():
            os.utime(path)


def tidy_node(root: Path, say: Callable[[str], None], now: float, logs_folder: Path = Path("/tmp")) -> None:
    """Remove what is beyond the bounds, unless that was done within the hour or is being done; never what is in use."""
    try:
        with open(root / "tidy.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if now - float(read_kept(root).get("at", -math.inf)) >= EVERY_S:
                _tidy(root, say, now, logs_folder)
    except BlockingIOError:
        pass
    except (OSError, RunyardError) as error:
        say(f"{root} could not be tidied up: {error}")


def _tidy(root: Path, say: Callable[[str], None], now: float, logs_folder: Path) -> None:
    limit = limit_bytes(root)
    reap_unfinished(str(root))
    removed = prune(str(root), math.inf, limit, now=now)
    _tidy_fetched(root, limit, say)
    live = [path.stat().st_mtime for path in root.glob(f"runs-*/*/*/{LAUNCH_FILE}")]
    for name in ("runners", "kits", "tools"):
        _forget_versions(root / name, min([now, *live]) - MARKED_S, now)
    for pattern in LOGS:
        for path in logs_folder.glob(pattern):
            _forget_log(path, now)
    found = {"at": now, "limit_bytes": limit, "environments_bytes": size_of(str(root / "envs")), "removed": removed}
    write_atomically(root / KEPT_FILE, json.dumps(found).encode())
    if removed:
        say(f"{len(removed)} environments that were not used for longest are removed from {root}")


def read_kept(root: Path) -> Dict[str, Any]:
    """What the last tidying has found; empty before the first."""
    try:
        found = json.loads((root / KEPT_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def limit_bytes(root: Path) -> int:
    """What environments may take in that folder."""
    try:
        asked = float(os.environ[KEEP_VARIABLE])
    except (KeyError, ValueError):
        asked = math.nan
    if math.isfinite(asked) and asked >= 0:
        return int(asked * (1 << 30))
    return int(min(KEEP_GIB * (1 << 30), shutil.disk_usage(root).total * KEEP_PART))


def _tidy_fetched(root: Path, limit: int, say: Callable[[str], None]) -> None:
    """Empty uv's cache once it alone holds more than half of what environments may take; not while uv itself works."""
    cache = root / "caches" / "uv"
    if sum(_sizes_alone(cache)) <= limit / 2:
        return
    uv = _find_uv(root)
    if uv is not None:
        arguments = ["cache", "clean", "--cache-dir", str(cache)]
        run_uv(uv, arguments, folder=str(root), log=say, timeout_s=_UV_TIMEOUT_S)


def _sizes_alone(folder: Path) -> Iterator[int]:
    """The size of each file that no environment has too."""
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                facts = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            if facts.st_nlink == 1:
                yield facts.st_size


def _find_uv(root: Path) -> Optional[str]:
    try:
        return find_uv()
    except RunyardError:
        return next((str(one) for one in (root / "tools").glob("*/uv")), None)


def _forget_versions(folder: Path, before: float, now: float) -> None:
    """Remove all but the newest that no attempt which lives can have begun with, and what was never made whole."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith("."):
            found.append((path.stat().st_mtime, path))
        elif path.is_dir() and path.stat().st_mtime < now - UNFINISHED_KEPT_S:
            shutil.rmtree(path, ignore_errors=True)
    for used_at, path in sorted(found, reverse=True)[VERSIONS_KEPT:]:
        if used_at < before:
            shutil.rmtree(path, ignore_errors=True)


def _forget_log(path: Path, now: float) -> None:
    try:
        facts = path.lstat()
        if facts.st_uid == os.geteuid() and facts.st_mtime < now - LOG_KEPT_S:
            path.unlink()
    except OSError:
        pass  # Another node of this host was first.
