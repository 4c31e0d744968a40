"""Where a server's parts are put together."""

import hashlib
import socket
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Mapping
from urllib.parse import urlsplit

from runyard.compute.engines import Engines
from runyard.compute.gpus import Gpus, NvidiaGpus
from runyard.compute.local import LocalCompute
from runyard.compute.remote import Reach
from runyard.compute.service_host import ServiceHost
from runyard.control.builds import Builds
from runyard.control.environment_files import EnvironmentFiles
from runyard.control.environment_packs import Packs
from runyard.control.loop import Loop
from runyard.control.sealing import Sealer
from runyard.control.service_plan import ServingFacts
from runyard.control.services import Services
from runyard.control.sweep import Sweeper
from runyard.db import fleet
from runyard.db.engine import Database
from runyard.environments.kit import make_kit
from runyard.protocol.plan import NodeFacts
from runyard.server.auth import Keys
from runyard.server.events import Events
from runyard.server.settings import Settings
from runyard.storage.base import ArtifactStore
from runyard.storage.chosen import open_store
from runyard.storage.sealing import HostSeal
from runyard.storage.vault import Vault


@dataclass
class Parts:
    """The parts of one server."""

    settings: Settings
    database: Database
    store: ArtifactStore
    engines: Engines
    gpus: Gpus
    loop: Loop
    builds: Builds
    packs: Packs
    sweeper: Sweeper
    services: Services
    events: Events
    keys: Keys
    vault: Vault
    sealer: Sealer
    environment_files: EnvironmentFiles
    started_at: int
    #: The address for people.
    url: str = ""
    stopping: bool = False

    @property
    def logs_folder(self) -> Path:
        """Where logs lie while they grow."""
        return self.settings.home / "logs"

    @property
    def datastores_folder(self) -> Path:
        """Where the files of datastores lie."""
        return self.settings.home / "datastores"

    def is_stopping(self) -> bool:
        """Should waiting requests end now?"""
        return self.stopping

    def close(self) -> None:
        """End everything but the runs."""
        self.stopping = True
        self.events.notify()
        self.sweeper.stop()
        self.services.stop()
        self.loop.stop()
        self.builds.close()
        self.packs.close()
        self.engines.close()
        self.store.close()
        self.database.close()


def make_parts(settings: Settings, url: str, variables: Mapping[str, str] = MappingProxyType({})) -> Parts:
    """Open the home's parts and start its loop; ``url`` is where this machine's processes reach the server.

    ``variables``: those by which whoever started the server reaches storage services.
    """
    home, cache = settings.home, settings.home / "cache"
    for folder in (cache, home / "logs", home / "datastores", home / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    vault = Vault(home / "vault.key")
    store = open_store(home, settings.store, variables, vault)
    database = Database(home / "runyard.db")
    events = Events()
    facts = _node_facts(settings, url, store.is_remote)
    local = LocalCompute(home / "runs", facts)
    shown_url = settings.public_url or url
    mark = hashlib.sha256(f"{home}\n{socket.gethostname()}".encode()).hexdigest()[:12]
    seal = HostSeal(home / "vault.key")
    engines = Engines(
        local,
        Reach(
            lambda: shown_url, cache / "node-files", mark, settings.asked_isolation, home / "ssh" / "known_hosts",
            seal.seal, seal.open, home / "server.json", home / "ray",
        ),
    )  # fmt: skip
    _end_left(engines, database)

    @lru_cache(maxsize=1)
    def kit() -> str:
        return make_kit(str(cache / "kits")).version_digest

    gpus = NvidiaGpus()
    sealer = Sealer(seal)
    environment_files = EnvironmentFiles(home / "environment-files")
    builds = Builds(database, home / "builds", cache, sealer, environment_files, lambda: loop.ring())
    loop = Loop(
        database, engines, builds, kit, home / "logs", settings.local_slots, settings.allow_private_urls,
        events.notify, gpus, settings.processes_max,
    )  # fmt: skip

    def on_run(run_id: str) -> None:
        loop.ring()
        events.notify(run_id)

    serving = _serving(settings, shown_url)
    host = ServiceHost(home / "services", serving.isolation, serving.hidden)
    return Parts(
        settings=settings,
        database=database,
        store=store,
        engines=engines,
        gpus=gpus,
        loop=loop,
        builds=builds,
        packs=Packs(home / "packs", cache, store, builds, settings.environment_packs),
        sweeper=Sweeper(database, local, home, store),
        services=Services(database, host, builds, store, vault, kit, serving, on_run),
        events=events,
        keys=Keys(database),
        vault=vault,
        sealer=sealer,
        environment_files=environment_files,
        started_at=time.time_ns() // 1000,
        url=shown_url,
    )


def _node_facts(settings: Settings, url: str, is_remote: bool) -> NodeFacts:
    """What runners on this host are told."""
    home = settings.home
    return NodeFacts(
        cache_folder=str(home / "cache"),
        store_folder=None if is_remote else str(home / "store"),
        datastores_folder=str(home / "datastores"),
        server_file=str(home / "server.json"),
        server_url=url,
        node="local",
        home_folder=str(home),
        isolation=settings.isolation,
    )


def _serving(settings: Settings, url: str) -> ServingFacts:
    """Services listen where the server does, and go by the name that it has."""
    name = urlsplit(url).hostname or settings.host
    return ServingFacts(
        settings.host, name, settings.isolation, str(settings.home), str(settings.home / "cache"),
        settings.certificate, settings.certificate_key,
    )  # fmt: skip


def _end_left(engines: Engines, database: Database) -> None:
    """End what a server that was killed has started for a target that is not there."""
    with database.read() as connection:
        specs = [spec for _, spec in fleet.read_fleet(connection)[0]]
    engines.end_others(specs)
