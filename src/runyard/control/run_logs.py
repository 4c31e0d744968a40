"""The logs of runs as they lie on the server's disk while they grow."""

import os
from pathlib import Path

from runyard.errors import StorageFullError
from runyard.files.layout import DISK_FULL, folder_name
from runyard.protocol.attempt_logs import OWN_LOGS, log_of_attempt


def show_build_log(root: Path, run_id: str, log_path: Path) -> None:
    """Let the build's log be read as the run's own, while it grows: the same file under both names."""
    shown = root / folder_name(run_id) / "azureml-logs" / "20_image_build_log.txt"
    if not shown.exists() and log_path.exists():
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.hardlink_to(log_path)


def set_aside(root: Path, run_id: str, attempt: int) -> None:
    """Before attempt ``attempt`` writes its first line: let what is here of the logs of the one before it stay.

    Idempotent: where that is done already, what is here is the attempt's own.
    """
    try:
        _set_aside(root / folder_name(run_id), attempt)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFullError("The server's disk is full; free some space.") from None
        raise


def attempt_of_logs(root: Path, run_id: str, attempt: int) -> int:
    """Whose the logs are that lie under their own names, of a run that is in that attempt: it may not have begun."""
    folder = root / folder_name(run_id)
    is_begun = attempt == 1 or (folder / log_of_attempt(OWN_LOGS[-1], attempt - 1)).parent.exists()
    return attempt if is_begun or not any(next(folder.glob(one + "*"), None) for one in OWN_LOGS) else attempt - 1


def _set_aside(folder: Path, attempt: int) -> None:
    for start in OWN_LOGS if attempt > 1 else ():
        aside = folder / log_of_attempt(start, attempt - 1).rpartition("/")[0]
        if aside.exists():
            continue
        unfinished = aside.with_name(aside.name + ".new")
        unfinished.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(start + "*"):
            os.replace(path, unfinished / path.name)
        os.replace(unfinished, aside)
