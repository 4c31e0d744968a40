"""Has a model compiled once, in a sandbox, before it serves: what a compiler says is kept for the next deployment."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from runyard.files.tails import is_regular, read_regular
from runyard.protocol.scoring import CONSTANTS_FILE, PROGRAM_FILE, REPORT_FILE
from runyard.protocol.services import Revision
from runyard.serving.children import kill
from runyard.serving.limits import Limits
from runyard.serving.sandbox import model_cell, started

#: How long a model may take to be loaded, compiled and checked, seconds; then the original serves.
COMPILE_S = 900.0
#: Largest file of a compiled model, and of the report about it, bytes.
MADE_MAX, REPORT_MAX = 4 << 30, 1 << 20
#: The compiler's number among a revision's processes; those with the model have others.
_NUMBER = 0


class Compiler:
    """One revision's compilation, where its model may be compiled."""

    def __init__(self, folder: Path, revision: Revision, log: int, limits: Limits) -> None:
        self._folder, self._revision, self._log, self._limits = folder, revision, log, limits
        given = revision.scoring.get("compiled_folder")
        self._kept = Path(given) if given else None
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._began = 0.0
        self._made = ""

    @property
    def is_compiled(self) -> bool:
        """Is there a compiled model?"""
        return self._kept is not None and (self._kept / PROGRAM_FILE).exists()

    @property
    def compiled(self) -> Optional[Path]:
        """The folder of the compiled model; None where the original serves."""
        return self._kept if self.is_compiled else None

    @property
    def is_running(self) -> bool:
        """Is it at work?"""
        return self._process is not None

    @property
    def scoring(self) -> Dict[str, Any]:
        """What the process with the model is told."""
        if self.is_compiled:
            return {"compiled": str(self._kept)}
        return {name: value for name, value in self._revision.scoring.items() if name != "compiled_folder"}

    @property
    def places(self) -> List[str]:
        """What processes may read for it."""
        return [str(self._kept)] if self._kept is not None else []

    def step(self, now: float, say: Callable[[str], None]) -> bool:
        """Go on; True once there is nothing to wait for. A compiler that fails leaves the original to serve."""
        if self._kept is None or self.is_compiled or (self._kept / REPORT_FILE).exists():
            return True
        if self._process is None:
            self._start(now)
            return False
        if self._process.poll() is None:
            if now - self._began > COMPILE_S:
                say(f"the model was not compiled within {COMPILE_S:.0f} s; the original serves")
                kill(self._process)
            return False
        code, self._process = self._process.returncode, None
        exceeded = self._limits.exceeded(_NUMBER)
        self._limits.drop(_NUMBER)
        self._keep(code, say, exceeded)
        return True

    def end(self) -> None:
        """Give it up."""
        if self._process is not None:
            kill(self._process)
            self._process.wait()
            self._process = None
            _discard(self._made)

    def _start(self, now: float) -> None:
        assert self._kept is not None
        self._kept.mkdir(parents=True, exist_ok=True)
        self._made = tempfile.mkdtemp(prefix=".making-", dir=self._kept)
        self._began = now
        revision, scoring = self._revision, self._revision.scoring
        command = [
            revision.interpreter,
            "-u",
            "-m",
            "runyard.scoring.compile",
            scoring["framework"],
            scoring["model"],
            self._made,
        ]
        places = [str(self._folder)]
        self._process = started(model_cell(revision), command, dict(revision.variables), self._log, (), places,
                                self._made, self._limits.enter(_NUMBER, is_preparing=True))  # fmt: skip

    def _keep(self, code: int, say: Callable[[str], None], exceeded: str) -> None:
        """What it has made becomes visible with the program, which comes last."""
        made, kept = Path(self._made), self._kept
        assert kept is not None
        report = _read(made / REPORT_FILE) if code == 0 else None
        if report is None:
            # Most likely the model cannot be loaded at all: its own process says so next, with its traceback.
            say("the model could not be compiled" + (f": it {exceeded}" if exceeded else "") + "; the original serves")
        else:
            say(_sentence(report))
            for name in (CONSTANTS_FILE, REPORT_FILE, PROGRAM_FILE):
                if _is_plain(made / name, MADE_MAX):
                    os.replace(made / name, kept / name)
        _discard(self._made)
        if report is None:
            self._kept = None


# A hostile model may have written what is read here, in the place of its compiler.


def _is_plain(path: Path, size_max: int) -> bool:
    """Is that a file, no link and no pipe, and not too large?"""
    return is_regular(str(path)) and path.lstat().st_size <= size_max


def _discard(folder: str) -> None:
    # As a process: folders may lie within each other deeper than Python can follow.
    subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, check=False)


def _read(path: Path) -> Optional[Dict[str, Any]]:
    try:
        found = json.loads(read_regular(str(path), REPORT_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _sentence(report: Dict[str, Any]) -> str:
    if not report.get("compiled"):
        return f"the original model serves: {str(report.get('why'))[:1000]}"
    try:
        speeds = report["speeds_s"]
        times, apart = float(speeds["original"]) / float(speeds["compiled"]), float(report["difference"])
        return (
            f"the model is compiled: {times:.1f} times as fast for one row, at most {apart:.2g} from the original "
            f"on {int(report['rows'])} rows"
        )
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return "the model is compiled"
