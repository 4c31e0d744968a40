"""AbstractDataset: what datasets of files and of tables share: sources, stored steps, registered versions."""

import operator
import random
import re
from typing import Any, Dict, List, Optional, Sequence, Tuple, TypeVar, Union

from runyard.errors import RunyardError, UserErrorException
from runyard.files.listing import totals_of
from runyard.protocol import datasets, labels
from runyard.protocol.datasets import Source
from runyard.protocol.lineage import Totals
from runyard.protocol.mounts import shown_url
from runyard.protocol.selection import Step, StepKind, split
from runyard.protocol.variables import is_reserved_variable
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.labels import label_texts
from runyard.sdk.workspace import check_belongs

D = TypeVar("D", bound="AbstractDataset")


class AbstractDataset:
    """References to data, and steps that are carried out when somebody reads them."""

    _kind = ""

    def __init__(
        self,
        sources: Sequence[Source],
        workspace: Any = None,
        _record: Optional[datasets.Dataset] = None,
        steps: Sequence[Step] = (),
    ) -> None:
        self._sources = tuple(sources)
        self._workspace = workspace
        self._record = _record
        self._steps = tuple(steps)

    @classmethod
    def _of(cls, workspace: Any, record: datasets.Dataset) -> Any:
        return cls(record.sources, workspace, record, record.steps)

    @staticmethod
    def get_by_name(workspace: Any, name: str, version: Union[int, str] = "latest", **_: Any) -> Any:
        """The registered dataset of that name, of files or a table; UserErrorException if there is none."""
        wanted = None if version in ("latest", None) else str(version)
        if wanted is not None and not (wanted.isascii() and wanted.isdigit()):
            raise UserErrorException(f"A dataset's version is a whole number or 'latest', not {version!r}.")
        return dataset_of(workspace, workspace._call("find_dataset", query={"version": wanted}, name=name))

    @staticmethod
    def get_by_id(workspace: Any, id: str, **_: Any) -> Any:
        """The dataset of that id."""
        return dataset_of(workspace, workspace._call("get_dataset", dataset_id=id))

    @staticmethod
    def get_all(workspace: Any) -> Dict[str, Any]:
        """The latest version of every registered dataset, by name."""
        found: Dict[str, Any] = workspace.datasets
        return found

    @property
    def id(self) -> Optional[str]:
        """The id once it is registered or saved by a run; else None."""
        return self._record.id if self._record else None

    @property
    def name(self) -> Optional[str]:
        """The registered name."""
        return self._record.name if self._record else None

    @property
    def version(self) -> Optional[int]:
        """The registered version, from 1."""
        return self._record.version if self._record else None

    @property
    def description(self) -> Optional[str]:
        """The registered description."""
        return self._record.description if self._record else None

    @property
    def tags(self) -> Dict[str, str]:
        """The registered tags."""
        return dict(self._record.tags) if self._record else {}

    @property
    def partition_keys(self) -> List[str]:
        """The columns that its files' paths hold; none for a dataset of files."""
        return []

    def register(
        self: D,
        workspace: Any,
        name: str,
        description: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        create_new_version: bool = False,
    ) -> D:
        """Register it under a name; returns the registered dataset.

        The same definition under the same name is the version that exists; another needs ``create_new_version=True``.
        """
        if not isinstance(name, str):
            raise UserErrorException(f"A dataset is registered under a name, a text, not {name!r}.")
        self._check_sources(workspace)
        spec = datasets.DatasetSpec(
            sources=self._sources,
            steps=self._steps,
            kind=self._kind,
            name=name,
            description=description or "",
            tags=label_texts(tags),
            create_new_version=create_new_version,
            totals=self._totals(workspace),
        )
        found: D = type(self)._of(workspace, workspace._call("save_dataset", spec))
        return found

    def unregister_all_versions(self) -> None:
        """Take the name off the workspace's list; runs that read it keep it by id."""
        if self._record is not None and self._record.name is not None:
            self._workspace._call("unregister_dataset", name=self._record.name)

    def update(self: D, description: Optional[str] = None, tags: Optional[Dict[str, str]] = None) -> D:
        """Change a registered dataset's description, and add tags."""
        return self._change(labels.LabelChange(description, label_texts(tags) if tags else None))

    def add_tags(self: D, tags: Optional[Dict[str, str]] = None) -> D:
        """Add tags to a registered dataset."""
        return self._change(labels.LabelChange(tags=label_texts(tags)))

    def remove_tags(self: D, tags: Any = None) -> D:
        """Remove tags, by their names, from a registered dataset."""
        return self._change(labels.LabelChange(remove_tags=(tags,) if isinstance(tags, str) else tuple(tags or ())))

    def take(self: D, count: int) -> D:
        """The first ``count`` files or rows, in the order of sources and paths."""
        return self._with(Step(StepKind.TAKE, self._count(count)))

    def skip(self: D, count: int) -> D:
        """All but the first ``count`` files or rows."""
        return self._with(Step(StepKind.SKIP, self._count(count)))

    def take_sample(self: D, probability: float, seed: Optional[int] = None) -> D:
        """Each file or row with that probability; the same seed gives the same ones, everywhere."""
        return self._with(Step(StepKind.SAMPLE, 0, _share(probability), _seed(seed)))

    def random_split(self: D, percentage: float, seed: Optional[int] = None) -> Tuple[D, D]:
        """Two datasets: each file or row is in the first with that probability (0 to 1), and else in the second."""
        first, second = split(_share(percentage), _seed(seed))
        return self._with(first), self._with(second)

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """The dataset under a name of its own in the run."""
        return DatasetConsumptionConfig(name, self)

    def _input_name(self) -> str:
        text = re.sub(r"[^A-Za-z0-9_]", "_", self.name or "input")
        return "input_" + text if not text[0].isalpha() or is_reserved_variable(text) else text

    def _ensure_saved(self, workspace: Any) -> str:
        if self._record is not None:
            check_belongs(f"{self!r}", self._workspace, workspace)
        else:
            self._check_sources(workspace)
            self._workspace = workspace
            spec = datasets.DatasetSpec(sources=self._sources, steps=self._steps, kind=self._kind)
            self._record = workspace._call("save_dataset", spec)
        return self._record.id

    def _totals(self, workspace: Any) -> Optional[Totals]:
        """What the sources hold now, so that a file that is gone later is missed; None where they cannot be listed."""
        from runyard.sdk.file_dataset import placed_files

        if all(source.url is not None for source in self._sources):
            return None
        try:
            return totals_of(list(placed_files(self._sources, workspace)))
        except RunyardError:
            return None

    def _check_sources(self, workspace: Any) -> None:
        """A source names its datastore, and the same name is another datastore in another workspace."""
        for source in self._sources:
            if source.datastore is not None and self._workspace is not None:
                check_belongs(f"The datastore {source.datastore!r}", self._workspace, workspace)

    def _change(self: D, change: labels.LabelChange) -> D:
        if self._record is None:
            raise UserErrorException("Only a registered dataset has tags; call register() first.")
        self._record = self._workspace._call("change_dataset", change, dataset_id=self._record.id)
        return self

    def _with(self: D, step: Step) -> D:
        """The same sources with one step more; a definition of its own, unnamed."""
        return type(self)(self._sources, self._workspace, steps=(*self._steps, step))

    def _count(self, count: int) -> int:
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            what = "rows" if self._kind == "tabular" else "files"
            raise UserErrorException(f"A dataset takes or skips a whole number of {what}, not {count!r}.")
        return count

    def __repr__(self) -> str:
        what = ", ".join(_shown(source) for source in self._sources[:3])
        more = ", ..." if len(self._sources) > 3 else ""
        name = "" if self.name is None else f", name={self.name!r}, version={self.version}"
        return f"{type(self).__name__}([{what}{more}]{name})"


def dataset_of(workspace: Any, record: datasets.Dataset) -> Any:
    """The dataset of a record: a FileDataset or a TabularDataset."""
    if record.kind == "tabular":
        from runyard.sdk.tabular_dataset import TabularDataset

        return TabularDataset._of(workspace, record)
    from runyard.sdk.file_dataset import FileDataset

    return FileDataset._of(workspace, record)


def _shown(source: Source) -> str:
    if source.url is not None:
        return shown_url(source.url) + ("?..." if "?" in source.url else "")
    return source.file or f"{source.datastore}/{source.path}"


def _share(probability: float) -> float:
    if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
        raise UserErrorException(f"A share of a dataset lies between 0 and 1, not at {probability!r}.")
    return float(probability)


def _seed(seed: Optional[int]) -> int:
    """Without one, chance itself; kept with the dataset, so that it gives the same files from then on."""
    try:
        # What numpy gives is a whole number too.
        return random.SystemRandom().getrandbits(31) if seed is None else operator.index(seed)
    except TypeError:
        raise UserErrorException(f"A seed is a whole number, not {seed!r}.") from None
