"""Run: what was submitted, and inside the script what it logs to.

Inside a job this module must cost next to nothing: HTTP, JSON bodies and dataclasses are loaded by the first call that
needs them (``run_record``), and ``log`` needs none of them.
"""

import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from runyard.errors import RunEnvironmentException

if TYPE_CHECKING:
    from runyard.protocol.runs import Run as RunRecord
    from runyard.sdk.experiment import Experiment
    from runyard.sdk.model import Model

#: How long a read inside the script waits until the server has what the script logged, seconds.
FLUSH_TIMEOUT_S = 300.0


class Run:
    """A run of an experiment. ``Run.get_context()`` is the one that this script belongs to."""

    def __init__(self, experiment: Any, run_id: str, outputs: Any = None, **kwargs: Any) -> None:
        self._experiment = experiment
        self._run_id = run_id
        self._cached: Optional[RunRecord] = kwargs.get("_record")
        self._writer: Any = None
        self._owns_end = bool(kwargs.get("_is_interactive"))
        if experiment is not None and self._cached is None and not kwargs.get("_is_own"):
            self._refresh()

    @classmethod
    def get_context(cls, allow_offline: bool = True, used_for_context_manager: bool = False, **_: Any) -> Any:
        """The run that this process is part of; outside one an OfflineRun, or RunEnvironmentException."""
        run_id = os.environ.get("AZUREML_RUN_ID")
        if run_id and "AZUREML_RUN_TOKEN" in os.environ:
            return cls(None, run_id, _is_own=True)
        if not allow_offline:
            raise RunEnvironmentException("This process is not part of a submitted run.")
        from runyard.sdk.offline_run import OfflineRun

        return OfflineRun()

    @staticmethod
    def get(workspace: Any, run_id: str) -> "Run":
        """The run of that id, whatever its experiment; NotFoundError if there is none."""
        record = workspace._call("get_run", run_id=run_id)
        from runyard.sdk.experiment import Experiment

        return Run(Experiment(workspace, record.experiment, _create_in_cloud=False), run_id, _record=record)

    @staticmethod
    def list(experiment: "Experiment", **kwargs: Any) -> Any:
        """The experiment's runs, newest first."""
        return experiment.get_runs(**kwargs)

    @property
    def id(self) -> str:
        """The run's id."""
        return self._run_id

    @property
    def name(self) -> str:
        """The run's display name."""
        return self.display_name

    @property
    def number(self) -> int:
        """The run's number in its experiment, from 1."""
        return self._known().number

    @property
    def attempt(self) -> int:
        """Which attempt it is, or ended, in: from 1, and one more each time it starts again on another machine."""
        record = self._known()
        return record.attempt if record.ended_at is not None else self._refresh().attempt

    @property
    def type(self) -> str:
        """v1's word for how the run came to be."""
        return "azureml.scriptrun" if self._known().spec.kind == "script" else "azureml.run"

    @property
    def status(self) -> str:
        """The state when the run was last looked at; ``get_status()`` looks again."""
        return self._known().status

    @property
    def experiment(self) -> "Experiment":
        """The experiment that it belongs to."""
        if self._experiment is None:
            from runyard.sdk.experiment import Experiment
            from runyard.sdk.workspace import Workspace

            workspace = Workspace._of_name(os.environ["AZUREML_ARM_WORKSPACE_NAME"])
            self._experiment = Experiment(workspace, os.environ["AZUREML_ARM_PROJECT_NAME"], _create_in_cloud=False)
        found: Experiment = self._experiment
        return found

    @property
    def display_name(self) -> str:
        """A name for people; set it to change it."""
        return self._known().display_name

    @display_name.setter
    def display_name(self, value: str) -> None:
        self._change(display_name=value)

    @property
    def tags(self) -> Dict[str, str]:
        """The run's tags as the server has them now."""
        return dict(self._refresh().tags)

    @property
    def properties(self) -> Dict[str, str]:
        """The run's properties as the server has them now."""
        return dict(self._refresh().properties)

    @property
    def input_datasets(self) -> Dict[str, Any]:
        """Inside the script: the path of each input, by its name; the dataset itself where it is read directly."""
        prefix = "AZUREML_DATAREFERENCE_"
        found = {name[len(prefix) :]: text for name, text in os.environ.items() if name.startswith(prefix)}
        for name in self.output_datasets:
            found.pop(name, None)
        return {name: text if os.path.isabs(text) else self._dataset(text) for name, text in found.items()}

    @property
    def output_datasets(self) -> Dict[str, str]:
        """Inside the script: the folder of each output, by its name."""
        names = os.environ.get("AZUREML_DATASET_FILE_OUTPUTS", "").split(",")
        return {name: os.environ["AZUREML_DATAREFERENCE_" + name] for name in names if name}

    def log(self, name: str, value: Any, description: str = "", step: Optional[int] = None) -> None:
        """Log a metric: a number, with its step if it has one; the same name again makes a series.

        Costs microseconds and never waits for the server; ``flush`` waits.
        """
        writer = self._writer
        if writer is None:
            writer = self._open_writer()
        writer.log(name, value, description, step)

    def flush(self, timeout_seconds: float = FLUSH_TIMEOUT_S) -> None:
        """Return once the server has everything that this process logged; TimeoutError after the time."""
        if self._writer is not None:
            self._writer.flush()
            ends_at = time.monotonic() + timeout_seconds
            while not self._writer.is_stored():
                if time.monotonic() > ends_at:
                    raise TimeoutError(f"The server has not taken all metrics within {timeout_seconds:.0f} s.")
                time.sleep(0.02)

    def get_metrics(
        self, name: Optional[str] = None, recursive: bool = False, run_type: Any = None, populate: bool = False
    ) -> Dict[str, Any]:
        """Metrics by name: one value, or the list of all; ``recursive``: of each run below too, by run id."""
        from runyard.sdk.run_record import read_metrics

        self.flush()
        return read_metrics(self, name, recursive)

    def get_metrics_by_rank(self, name: Optional[str] = None) -> Dict[Optional[int], Dict[str, Any]]:
        """As ``get_metrics``, by the rank of the process that logged them; None: by a run's only process."""
        from runyard.sdk.run_record import read_metrics_by_rank

        self.flush()
        return read_metrics_by_rank(self, name)

    def get_usage(self) -> Dict[int, Dict[str, List[Any]]]:
        """What its processes took, by node and name: (time, value) each ten seconds, apart from its metrics.

        ``cpu_percent`` (100: one core), ``memory_bytes``, and of each GPU of the run ``gpu_0_percent`` and
        ``gpu_0_memory_bytes``. Empty for a run of less than ten seconds.
        """
        from runyard.sdk.run_record import read_usage

        return read_usage(self)

    def get_status(self) -> str:
        """The state now; a run that has ended is not asked for again."""
        record = self._known()
        return record.status if record.ended_at is not None else self._refresh().status

    def get_details(self) -> Any:
        """Everything about the run in v1's keys; they are attributes too."""
        from runyard.sdk.run_record import details

        return details(self)

    def get_details_with_logs(self) -> Any:
        """As ``get_details``, with the logs' texts in place of their addresses."""
        from runyard.sdk.run_record import details_with_logs

        return details_with_logs(self)

    def wait_for_completion(
        self, show_output: bool = False, wait_post_processing: bool = False, raise_on_error: bool = True
    ) -> Any:
        """Return the details once the run has ended; ``show_output`` follows its log.

        Raises ActivityFailedException if it Failed, unless ``raise_on_error`` is False. Interrupting this leaves the
        run as it is.
        """
        from runyard.sdk.run_watch import wait_for_completion

        return wait_for_completion(self, show_output, raise_on_error)

    def cancel(self) -> None:
        """Ask the run to end: TERM to its processes, after a grace KILL; a run that has ended stays as it is."""
        self._cached = self._call("cancel_run")

    def complete(self, _set_status: bool = True) -> None:
        """End an interactive run as Completed. A submitted run ends with its script; inside it this only flushes."""
        self._end("Completed", None)

    def fail(self, error_details: Any = None, error_code: Any = None, _set_status: bool = True) -> None:
        """End an interactive run as Failed."""
        self._end("Failed", str(error_details) if error_details is not None else "It was ended by fail().")

    def tag(self, key: str, value: Any = None) -> None:
        """Set a tag; without a value it is only there."""
        self._change(tags={str(key): "" if value is None else str(value)})

    def set_tags(self, tags: Dict[str, Any]) -> None:
        """Set several tags."""
        self._change(tags={str(key): "" if value is None else str(value) for key, value in tags.items()})

    def remove_tags(self, tags: Any) -> None:
        """Remove a tag or several."""
        self._change(remove_tags=(tags,) if isinstance(tags, str) else tuple(tags))

    def get_tags(self) -> Dict[str, str]:
        """The run's tags."""
        return self.tags

    def add_properties(self, properties: Dict[str, Any]) -> None:
        """Add properties; one that exists cannot change."""
        self._change(properties={str(key): str(value) for key, value in properties.items()})

    def get_properties(self) -> Dict[str, str]:
        """The run's properties."""
        return self.properties

    def get_file_names(self) -> List[str]:
        """Paths of all files of the run's record, its logs among them."""
        from runyard.sdk.run_record import file_names

        return file_names(self)

    def download_file(
        self, name: str, output_file_path: Optional[str] = None, _validate_checksum: bool = False
    ) -> None:
        """Download one file, by default into the current folder under its own last name; its digest is checked."""
        from runyard.sdk.run_record import download_file

        download_file(self, name, output_file_path)

    def download_files(
        self,
        prefix: Optional[str] = None,
        output_directory: Optional[str] = None,
        output_paths: Any = None,
        batch_size: int = 100,
        append_prefix: bool = True,
        timeout_seconds: Optional[int] = None,
    ) -> None:
        """Download all files below ``prefix``; ``append_prefix=False`` leaves the prefix out of their paths."""
        from runyard.sdk.run_record import download_files

        download_files(self, prefix, output_directory, output_paths, append_prefix)

    def get_all_logs(self, destination: Optional[str] = None) -> List[str]:
        """Download every log into ``destination`` (default: a folder named as the run); returns their paths."""
        from runyard.sdk.run_record import download_logs

        return download_logs(self, destination)

    def upload_file(self, name: str, path_or_stream: Any, datastore_name: Any = None) -> None:
        """Add a file to the run's record under ``name``."""
        from runyard.sdk.run_record import upload_files

        upload_files(self, [name], [path_or_stream])

    def upload_folder(self, name: str, path: str, datastore_name: Any = None) -> None:
        """Add a folder's files to the run's record, below ``name``."""
        from runyard.sdk.run_record import upload_folder

        upload_folder(self, name, path)

    def register_model(
        self,
        model_name: str,
        model_path: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
        model_framework: Optional[str] = None,
        model_framework_version: Optional[str] = None,
        description: Optional[str] = None,
        datasets: Any = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Any = None,
        **_: Any,
    ) -> "Model":
        """Register files of the run's record as the next version of a model; copies nothing.

        ``model_path`` is a file or folder of the record, as 'outputs/model' (default: 'outputs/<model_name>').
        """
        from runyard.sdk.model import register_from_run

        path = model_path if model_path is not None else "outputs/" + model_name
        return register_from_run(
            self, model_name, path, tags, properties, model_framework, model_framework_version, description,
            datasets, resource_configuration,
        )  # fmt: skip

    def restore_snapshot(self, snapshot_id: Optional[str] = None, path: Optional[str] = None) -> str:
        """Download the submitted folder as a zip file into ``path`` (default: here); returns the file's path."""
        from runyard.sdk.run_snapshot import restore_snapshot

        return restore_snapshot(self, snapshot_id, path)

    def get_portal_url(self) -> str:
        """The run's page."""
        from runyard.sdk.session import current_server

        names = (current_server().address(), self.experiment.workspace.name, self._run_id)
        return "{}/workspaces/{}/runs/{}".format(*names)

    def why(self) -> str:
        """What the run waits for and what would unblock it, in a sentence or two."""
        return str(self._call("explain_run").text)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: Any, error: Any, _trace: Any) -> None:
        if kind is None:
            self.complete()
        else:
            self.fail(error_details=f"{kind.__name__}: {error}")

    def __repr__(self) -> str:
        return f"Run(Experiment: {self.experiment.name}, Id: {self._run_id}, Status: {self._known().status})"

    def _repr_html_(self) -> str:
        from runyard.sdk.run_record import as_html

        return as_html(self)

    def _call(self, request: str, body: Any = None, query: Optional[Dict[str, Any]] = None, **path: Any) -> Any:
        return self.experiment.workspace._call(request, body, query, run_id=self._run_id, **path)

    def _dataset(self, dataset_id: str) -> Any:
        from runyard.sdk.dataset import Dataset

        return Dataset.get_by_id(self.experiment.workspace, dataset_id)

    def _known(self) -> "RunRecord":
        return self._cached if self._cached is not None else self._refresh()

    def _refresh(self) -> "RunRecord":
        record: RunRecord = self._call("get_run")
        self._cached = record
        return record

    def _change(self, **fields: Any) -> None:
        from runyard.protocol.runs import RunChange

        self._cached = self._call("change_run", RunChange(**fields))

    def _open_writer(self) -> Any:
        from runyard.sdk.recorder import open_writer

        self._writer = open_writer(self)
        return self._writer

    def _end(self, status: str, error: Optional[str]) -> None:
        try:
            self.flush()
        finally:
            # Also where metrics were refused: a run whose program is done must not look as if it went on.
            if self._owns_end:
                from runyard.sdk import observer

                self._change(status=status, error=error)
                observer.forget(self._run_id)
                if self._writer is not None:
                    self._writer.close()
                    self._writer = None
