"""A dataset mounted outside of a run, for the time that a program wants it."""

import os
import subprocess
import tempfile
from typing import Optional

from runyard.protocol.mounted import MountedInput
from runyard.protocol.wire import dumps
from runyard.runner.mount import serve, unmount, wait_for_end, why_not


class ClientMount:
    """A mount, and the process that serves it."""

    def __init__(self, target: str, spec: str, process: "subprocess.Popen[bytes]") -> None:
        self._target = target
        self._spec = spec
        self._process = process

    @classmethod
    def start(cls, target: str, told: MountedInput, cache: str) -> "Optional[ClientMount]":
        """Mount it at that folder; None where this machine cannot."""
        if why_not():
            return None
        handle, spec = tempfile.mkstemp(prefix="runyard-mount-", suffix=".json")
        with os.fdopen(handle, "w") as file:
            file.write(dumps(told))
        process, _ = serve(["--client", spec, cache, target], target, {})
        if process is None:
            os.unlink(spec)
            return None
        return cls(target, spec, process)

    def stop(self) -> None:
        """Unmount it."""
        unmount(self._target)
        wait_for_end(self._process)
        os.unlink(self._spec)
