"""OfflineRun: what ``Run.get_context()`` gives outside a run; it says what it would have recorded."""

import uuid
from typing import Any, Dict, Optional

from runyard.errors import RunEnvironmentException


class OfflineRun:
    """A run that nobody records: a script works on a desk as it does when submitted."""

    def __init__(self, run_id: Optional[str] = None) -> None:
        self._run_id = run_id or f"OfflineRun_{uuid.uuid4()}"
        self._tags: Dict[str, str] = {}
        self._properties: Dict[str, str] = {}
        self._metrics: Dict[str, Any] = {}

    @property
    def id(self) -> str:
        """An id of its own."""
        return self._run_id

    @property
    def status(self) -> str:
        """It always runs."""
        return "Running"

    def get_status(self) -> str:
        """It always runs."""
        return self.status

    @property
    def attempt(self) -> int:
        """It never starts again."""
        return 1

    @property
    def experiment(self) -> Any:
        """It belongs to none: RunEnvironmentException."""
        raise RunEnvironmentException(
            "This run is offline and belongs to no experiment; Workspace.from_config() finds the workspace."
        )

    @property
    def input_datasets(self) -> Dict[str, str]:
        """None are bound."""
        return {}

    def log(self, name: str, value: Any, description: str = "", step: Optional[int] = None) -> None:
        """Print the metric."""
        print(f"Attempted to log scalar metric {name}:\n{value}")
        self._metrics.setdefault(name, []).append(value)

    def get_metrics(self, name: Optional[str] = None, **_: Any) -> Dict[str, Any]:
        """What was logged in this process."""
        found = self._metrics if name is None else {name: self._metrics[name]} if name in self._metrics else {}
        return {key: values[0] if len(values) == 1 else list(values) for key, values in found.items()}

    def tag(self, key: str, value: Any = None) -> None:
        """Print the tag."""
        print(f"Attempted to set tag {key}:\n{value}")
        self._tags[str(key)] = "" if value is None else str(value)

    def get_tags(self) -> Dict[str, str]:
        """Tags set in this process."""
        return dict(self._tags)

    def set_tags(self, tags: Dict[str, Any]) -> None:
        """Print the tags."""
        for key, value in tags.items():
            self.tag(key, value)

    @property
    def tags(self) -> Dict[str, str]:
        """Tags set in this process."""
        return self.get_tags()

    def add_properties(self, properties: Dict[str, Any]) -> None:
        """Print the properties."""
        print(f"Attempted to add properties:\n{properties}")
        self._properties.update({str(key): str(value) for key, value in properties.items()})

    def get_properties(self) -> Dict[str, str]:
        """Properties added in this process."""
        return dict(self._properties)

    @property
    def properties(self) -> Dict[str, str]:
        """Properties added in this process."""
        return self.get_properties()

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: Any = None) -> None:
        """Print what would be uploaded."""
        print(f"Attempted to upload file {name}:\n{path_or_stream}")

    def upload_folder(self, name: str, path: str, datastore_name: Any = None) -> None:
        """Print what would be uploaded."""
        print(f"Attempted to upload folder {name}:\n{path}")

    def child_run(self, name: Optional[str] = None, run_id: Optional[str] = None, outputs: Any = None) -> "OfflineRun":
        """Another that belongs to this one."""
        return OfflineRun(f"{self._run_id}.{run_id or name or uuid.uuid4()}")

    def flush(self, timeout_seconds: float = 300) -> None:
        """Nothing waits to be sent."""
        print("Attempted to flush.")

    def complete(self, _set_status: bool = True) -> None:
        """Nothing ends."""

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """Print why."""
        print(f"Attempted to fail the run:\n{error_details}")

    def cancel(self) -> None:
        """Nothing ends."""

    def __enter__(self) -> "OfflineRun":
        return self

    def __exit__(self, kind: Any, error: Any, _trace: Any) -> None:
        if kind is not None:
            self.fail(f"{kind.__name__}: {error}")

    def __repr__(self) -> str:
        return f"OfflineRun({self._run_id})"
