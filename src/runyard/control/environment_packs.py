"""Packs of environments for nodes of the server's own kind: made when nodes ask in vain, kept as contents of the store.

Made by the server alone: a run's token, which its script has too, must put nothing into what other runs start from.
"""

import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional, Set, Tuple

from runyard.control.builds import Builds
from runyard.environments.pack import can_be_packed, can_serve, platform_here
from runyard.environments.realise import environment_folder, is_realised, realise
from runyard.errors import NotFoundError, ServiceException
from runyard.files.layout import write_atomically
from runyard.protocol.environments import EnvironmentPack, Lock
from runyard.storage.base import ArtifactStore
from runyard.storage.whole import put_file

#: What turns packs off where it is 0.
VARIABLE = "RUNYARD_ENVIRONMENT_PACKS"
#: As many nodes have to ask for an environment before the server builds one for its pack alone.
ASKED_MIN = 2
#: Between two questions whether the store has a content, seconds.
ASK_S = 0.5

_log = logging.getLogger("runyard.packs")


class Packs:
    """The packs of one server."""

    def __init__(self, folder: Path, cache_folder: Path, store: ArtifactStore, builds: Builds, is_on: bool) -> None:
        self._folder = folder
        self._cache_folder = cache_folder
        self._store = store
        self._builds = builds
        self._is_on = is_on
        self._guard = threading.Lock()
        self._asked: Counter[str] = Counter()
        self._making: Set[Tuple[str, str]] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pack")

    def find(self, workspace: str, lock: Lock, platform: str) -> EnvironmentPack:
        """The workspace's pack of that lock for a node of that platform; NotFoundError says why it has none.

        Quick; where one can be made, it is there for a later node.
        """
        if not self._is_on:
            raise NotFoundError(f"This server gives out no packs of environments ({VARIABLE}=0).")
        if not can_be_packed(lock):
            raise NotFoundError("No pack is made of what conda or an image holds, or what is built from a source.")
        found = self._read(workspace, lock.digest)
        if found is not None and can_serve(found[0], platform) and self._store.has([found[1].digest]):
            return found[1]
        own = platform_here()
        if not can_serve(own, platform):
            raise NotFoundError(f"The server's packs are for {own} and newer, and this node is {platform[:80]}.")
        self._want(workspace, lock)
        raise NotFoundError("The server has no pack of this environment yet.")

    def close(self) -> None:
        """Begin no further one."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _want(self, workspace: str, lock: Lock) -> None:
        key = workspace, lock.digest
        with self._guard:
            self._asked[lock.digest] += 1
            is_worth = self._asked[lock.digest] >= ASKED_MIN or is_realised(lock, str(self._cache_folder))
            if key in self._making or not is_worth:
                return
            self._making.add(key)
        self._pool.submit(self._make, workspace, lock)

    def _make(self, workspace: str, lock: Lock) -> None:
        started = time.monotonic()
        try:
            if not is_realised(lock, str(self._cache_folder)):
                error = self._builds.build(f"pack-{lock.digest}", lock)
                if error:
                    _log.warning("environment %s cannot be built for a pack: %s", lock.digest[:12], error)
                    return
            # As a use: nobody prunes it meanwhile.
            realise(lock, str(self._cache_folder), uv="", log=_log.info)
            with tempfile.NamedTemporaryFile(dir=self._folder.parent / "tmp", prefix="pack-") as file:
                folder = environment_folder(lock, str(self._cache_folder))
                command = [sys.executable, "-m", "runyard.environments.pack", folder, file.name]
                subprocess.run(command, stdin=subprocess.DEVNULL, check=True, start_new_session=True)
                made = EnvironmentPack(*put_file(self._store, Path(file.name), ASK_S))
            path = self._path(workspace, lock.digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            told = {"platform": platform_here(), "digest": made.digest, "size_bytes": made.size_bytes}
            write_atomically(path, json.dumps(told).encode())
            _log.info("environment %s is packed after %.1f s", lock.digest[:12], time.monotonic() - started)
        except Exception:  # noqa: BLE001 - nodes build it themselves
            _log.exception("environment %s cannot be packed", lock.digest[:12])
        finally:
            with self._guard:
                self._making.discard((workspace, lock.digest))

    def _read(self, workspace: str, digest: str) -> Optional[Tuple[str, EnvironmentPack]]:
        """(platform, pack) of what was made before."""
        try:
            found = json.loads(self._path(workspace, digest).read_bytes())
            return str(found["platform"]), EnvironmentPack(str(found["digest"]), int(found["size_bytes"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:
            raise ServiceException(f"The server's list of packs cannot be read: {error}.") from None

    def _path(self, workspace: str, digest: str) -> Path:
        return self._folder / workspace / (digest + ".json")
