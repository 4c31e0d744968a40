"""What a builder is handed: a lock, a folder to fill, and whom to tell."""

from runyard.environments.uv import Log
from runyard.protocol.environments import Lock
from runyard.protocol.record import record


@record
class BuildTask:
    """One build."""

    lock: Lock
    #: To be filled; it becomes the environment once it is whole.
    folder: str
    #: Holds envs/ and the caches.
    root_folder: str
    #: Path of the uv program; empty where the builder needs none.
    uv: str
    #: uv's cache.
    cache_folder: str
    log: Log
    timeout_s: float
