"""An attempt's folder as the compute target writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runyard.files.blobs import BlobStore
from runyard.protocol.environments import Lock
from runyard.protocol.plan import LAUNCH_FILE, Launch, LaunchPlan, NodeFacts
from runyard.protocol.wire import dumps
from runyard.runner.folder import AttemptFolder

MakeAttempt = Callable[..., AttemptFolder]


@pytest.fixture
def make_attempt(tmp_path: Path) -> MakeAttempt:
    """A function that makes the folder of an attempt; its arguments are fields of the plan."""

    def make(**plan: Any) -> AttemptFolder:
        home, path = tmp_path / "home", tmp_path / "home" / "runs" / "trial" / str(plan.get("attempt", 1))
        path.mkdir(parents=True)
        BlobStore(home / "store")
        facts = NodeFacts(
            cache_folder=str(home / "cache"),
            store_folder=str(home / "store"),
            datastores_folder=str(home / "datastores"),
            server_file=None,
            server_url="http://127.0.0.1:1",
            node="local",
        )
        values: dict[str, Any] = {
            "run_id": "trial",
            "workspace": "ws",
            "experiment": "exp",
            "attempt": 1,
            "kit": "kit",
            "lock": Lock("digest"),
            "script": "train.py",
            "command": (),
            "arguments": (),
        }
        (path / LAUNCH_FILE).write_text(dumps(Launch(LaunchPlan(**{**values, **plan}), facts, "secret")))
        folder = AttemptFolder(str(path))
        folder.make()
        return folder

    return make
