"""What one server is told when it starts."""

import os
from dataclasses import field
from pathlib import Path
from typing import Optional, Tuple

from runyard.control.environment_packs import VARIABLE as PACKS_VARIABLE
from runyard.environments.confinement import VARIABLE, isolation_here, isolation_problem
from runyard.protocol.record import record

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@record
class Settings:
    """One server's settings; each has a flag of ``runyard up`` or a variable of the environment."""

    home: Path
    host: str = "127.0.0.1"
    #: 0: the port of the last time if it is free, else any.
    port: int = 0
    #: Further names under which a proxy reaches this server (RUNYARD_ALLOWED_HOSTS, comma-separated).
    allowed_hosts: Tuple[str, ...] = ()
    #: The address to show in links where a proxy stands before this server (RUNYARD_PUBLIC_URL).
    public_url: str = ""
    #: May URL datasets lie on loopback and private addresses? (RUNYARD_ALLOW_PRIVATE_URLS)
    allow_private_urls: bool = True
    #: Where contents lie: s3://bucket/prefix, az://container/prefix, gs://bucket/prefix; '': as the home says, else on
    #: its own disk (RUNYARD_STORE).
    store: str = ""
    #: What keeps jobs apart from the server: an Isolation (RUNYARD_ISOLATION); '': as each node can.
    asked_isolation: str = ""
    #: PEM files with which services speak TLS, as the server does; '': they do not.
    certificate: str = ""
    certificate_key: str = ""
    #: May nodes get environments as packs of what this server has built? (RUNYARD_ENVIRONMENT_PACKS)
    environment_packs: bool = True
    #: A node that prepares its run, or leaves, for so long is told of as stuck (RUNYARD_NODE_STUCK_MINUTES).
    node_stuck_minutes: int = 60
    #: How many runs the target 'local' carries at once (RUNYARD_LOCAL_SLOTS).
    local_slots: int = field(default_factory=lambda: max(2, os.cpu_count() or 1))
    #: How many processes and threads a run may have at once on a node (RUNYARD_PROCESSES_MAX); None: as many as the
    #: node finds wise, 0: no limit.
    processes_max: Optional[int] = None

    @property
    def isolation(self) -> str:
        """The Isolation of this host's jobs; UserErrorException where it cannot be as asked."""
        return isolation_here(self.asked_isolation, str(self.home))

    @property
    def isolation_problem(self) -> str:
        """One sentence where jobs are not kept apart on this host although nobody asked for that; '' elsewhere."""
        return isolation_problem(self.asked_isolation, str(self.home))

    @property
    def is_loopback(self) -> bool:
        """Is this server reachable from this machine only?"""
        return self.host in LOOPBACK


def read_settings(home: Path, host: str, port: int) -> Settings:
    """Settings from flags and the environment."""
    hosts = tuple(one.strip() for one in os.environ.get("RUNYARD_ALLOWED_HOSTS", "").split(",") if one.strip())
    private = os.environ.get("RUNYARD_ALLOW_PRIVATE_URLS")
    stuck = os.environ.get("RUNYARD_NODE_STUCK_MINUTES", "")
    slots, processes = os.environ.get("RUNYARD_LOCAL_SLOTS", ""), os.environ.get("RUNYARD_PROCESSES_MAX", "")
    settings = Settings(
        home=home,
        host=host,
        port=port,
        allowed_hosts=hosts,
        public_url=os.environ.get("RUNYARD_PUBLIC_URL", "").rstrip("/"),
        store=os.environ.get("RUNYARD_STORE", "").strip(),
        asked_isolation=os.environ.get(VARIABLE, "").strip(),
        node_stuck_minutes=int(stuck) if stuck.isdigit() else Settings.node_stuck_minutes,
        environment_packs=os.environ.get(PACKS_VARIABLE) != "0",
        allow_private_urls=(host in LOOPBACK) if private is None else private == "1",
        processes_max=int(processes) if processes.isdigit() else None,
    )
    return settings if not slots.isdigit() else Settings(**{**settings.__dict__, "local_slots": max(1, int(slots))})
