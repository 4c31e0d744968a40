"""FileDataset: references to files where they lie; no copy is made until somebody reads them."""

import glob
import os
import random
import re
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import unquote, urlsplit

from runyard.errors import UserErrorException
from runyard.files.listing import is_pattern, list_source
from runyard.protocol import datasets, labels
from runyard.protocol.datasets import Source
from runyard.protocol.mounts import Layout, layout_of, url_path
from runyard.protocol.selection import Step, StepKind, select, split
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.datastore import AzureBlobDatastore


class FileDataset:
    """Files of datastores, of this machine, or of the web."""

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
    def _of(cls, workspace: Any, record: datasets.Dataset) -> "FileDataset":
        return cls(record.sources, workspace, record, record.steps)

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

    def register(
        self,
        workspace: Any,
        name: str,
        description: Optional[str] = None,
        tags: Optional[Dict[str, str]] = None,
        create_new_version: bool = False,
    ) -> "FileDataset":
        """Register it under a name; returns the registered dataset.

        The same files under the same name are the version that exists; others need ``create_new_version=True``.
        """
        spec = datasets.DatasetSpec(
            sources=self._sources,
            steps=self._steps,
            name=name,
            description=description or "",
            tags={str(key): str(value) for key, value in (tags or {}).items()},
            create_new_version=create_new_version,
        )
        return FileDataset._of(workspace, workspace._call("save_dataset", spec))

    def unregister_all_versions(self) -> None:
        """Take the name off the workspace's list; runs that read it keep it by id."""
        if self._record is not None and self._record.name is not None:
            self._workspace._call("unregister_dataset", name=self._record.name)

    def add_tags(self, tags: Dict[str, str]) -> "FileDataset":
        """Add tags to a registered dataset."""
        if self._record is None:
            raise UserErrorException("Only a registered dataset has tags; call register() first.")
        change = labels.LabelChange(tags={str(key): str(value) for key, value in tags.items()})
        self._record = self._workspace._call("change_dataset", change, dataset_id=self._record.id)
        return self

    def to_path(self) -> List[str]:
        """The files as paths below the mount, each with a leading '/'."""
        return ["/" + path for path in self._paths()]

    def download(
        self, target_path: Optional[str] = None, overwrite: bool = False, ignore_not_found: bool = False
    ) -> List[str]:
        """Download the files below ``target_path`` (default: a temporary folder); returns their local paths."""
        # Loaded only here: of no use to a job that has its data bound.
        from runyard.sdk.dataset_download import download

        return download(self._sources, self._workspace, self._steps, target_path, overwrite, ignore_not_found)

    def take(self, count: int) -> "FileDataset":
        """The first ``count`` files, in the order of sources and paths."""
        return self._with(Step(StepKind.TAKE, _count(count)))

    def skip(self, count: int) -> "FileDataset":
        """All but the first ``count`` files."""
        return self._with(Step(StepKind.SKIP, _count(count)))

    def take_sample(self, probability: float, seed: Optional[int] = None) -> "FileDataset":
        """Each file with that probability; the same seed gives the same files, everywhere."""
        return self._with(Step(StepKind.SAMPLE, 0, _share(probability), _seed(seed)))

    def random_split(self, percentage: float, seed: Optional[int] = None) -> "Tuple[FileDataset, FileDataset]":
        """Two datasets: each file is in the first with that probability (0 to 1), and else in the second."""
        first, second = split(_share(percentage), _seed(seed))
        return self._with(first), self._with(second)

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """The dataset under a name of its own in the run."""
        return DatasetConsumptionConfig(name, self)

    def as_mount(self, path_on_compute: Optional[str] = None) -> DatasetConsumptionConfig:
        """Mounted in the run: links where the files lie on its disk, else fetched before the script starts."""
        return DatasetConsumptionConfig(self._input_name(), self).as_mount(path_on_compute)

    def as_download(self, path_on_compute: Optional[str] = None) -> DatasetConsumptionConfig:
        """Downloaded before the script starts."""
        return DatasetConsumptionConfig(self._input_name(), self).as_download(path_on_compute)

    def _input_name(self) -> str:
        text = re.sub(r"[^A-Za-z0-9_]", "_", self.name or "input")
        return "input_" + text if not text[0].isalpha() else text

    def _ensure_saved(self, workspace: Any) -> str:
        if self._record is None:
            self._workspace = workspace
            self._record = workspace._call(
                "save_dataset", datasets.DatasetSpec(sources=self._sources, steps=self._steps)
            )
        return self._record.id

    def _with(self, step: Step) -> "FileDataset":
        """The same sources with one step more; a definition of its own, unnamed."""
        return FileDataset(self._sources, self._workspace, steps=(*self._steps, step))

    def _paths(self) -> List[str]:
        return [relative for _, _, relative in chosen_files(self._sources, self._workspace, self._steps)]

    def __repr__(self) -> str:
        what = ", ".join(_shown(source) for source in self._sources[:3])
        more = ", ..." if len(self._sources) > 3 else ""
        name = "" if self.name is None else f", name={self.name!r}, version={self.version}"
        return f"FileDataset([{what}{more}]{name})"


def make_file_dataset(path: Any, validate: bool) -> FileDataset:
    """A dataset of what v1 took: a URL, a local path or glob, a datastore's path, or a list of these."""
    many = path if isinstance(path, list) else [path]
    if not many:
        raise UserErrorException("A dataset needs at least one path.")
    workspace = None
    sources = []
    for one in many:
        source, found = _source(one, validate)
        workspace = workspace or found
        sources.append(source)
    # Other files are looked at when they are read; addresses are told apart by themselves.
    list(placed_files([source for source in sources if source.url is not None], workspace))
    dataset = FileDataset(sources, workspace)
    if validate and workspace is not None:
        for source in sources:
            if source.datastore is not None and not list(files_of(source, workspace, Layout(True))):
                raise UserErrorException(
                    f"Nothing in datastore {source.datastore!r} matches {source.path!r}; "
                    "upload first, or pass validate=False."
                )
    return dataset


def _source(path: Any, validate: bool) -> Any:
    """(source, workspace or None) of one path as v1 took it."""
    if isinstance(path, DataReference):
        return Source(datastore=path.datastore.name, path=path.path_on_datastore), path.datastore.workspace
    if isinstance(path, tuple) and len(path) == 2 and isinstance(path[0], AzureBlobDatastore):
        return Source(datastore=path[0].name, path=str(path[1]).strip("/")), path[0].workspace
    if isinstance(path, AzureBlobDatastore):
        return Source(datastore=path.name), path.workspace
    if not isinstance(path, (str, os.PathLike)):
        raise UserErrorException(
            f"A dataset's path is a URL, a local path, (datastore, path) or a list of these, not {path!r}."
        )
    text = os.fspath(path)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.\-]*://", text) and not text.startswith("file://"):
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserErrorException(f"{text!r} is not an address that this version can read: http or https.")
        return Source(url=text), None
    local = os.path.abspath(os.path.expanduser(unquote(text[7:]) if text.startswith("file://") else text))
    if validate and not (glob.glob(local, recursive=True) if is_pattern(local) else os.path.exists(local)):
        raise UserErrorException(f"The local path {text!r} does not exist.")
    return Source(file=local), None


def placed_files(sources: Sequence[Source], workspace: Any) -> Iterator[Tuple[Source, str, str]]:
    """(source, where it is, path below the mount) of each file; one that two sources hold comes once.

    UserErrorException names two files that have one path.
    """
    layout = layout_of(sources)
    placed: Dict[str, str] = {}
    for source in sources:
        for origin, relative in files_of(source, workspace, layout):
            known = os.path.realpath(origin) if source.file else source.url or f"{source.datastore}/{origin}"
            other = placed.get(relative)
            if other is None:
                placed[relative] = known
                yield source, origin, relative
            elif other != known:
                # A query may hold a signature, which no message should.
                both = " and ".join(re.sub(r"\?.*", "?...", one) if source.url else one for one in (other, known))
                raise UserErrorException(f"{both} have one path, {relative!r}; rename one of them.")


def chosen_files(sources: Sequence[Source], workspace: Any, steps: Sequence[Step]) -> List[Tuple[Source, str, str]]:
    """As ``placed_files``, those that the steps leave."""
    found = list(placed_files(sources, workspace))
    return [found[place] for place in select([relative for _, _, relative in found], steps)]


def files_of(source: Source, workspace: Any, layout: Layout) -> Any:
    """(where it is, path below the mount) of each file of a source."""
    if source.url is not None:
        return [(source.url, url_path(source.url))]
    if source.file is not None:
        return list_source(source.file, layout.local_base)
    files = workspace._call("list_datastore_files", query={"path": source.path}, name=source.datastore)
    paths = [one.path for one in files]
    base = layout.datastore_base(source.path, paths)
    return [(path, os.path.relpath(path, base or ".")) for path in paths]


def _shown(source: Source) -> str:
    return source.url or source.file or f"{source.datastore}/{source.path}"


def _count(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise UserErrorException(f"A dataset takes or skips a whole number of files, not {count!r}.")
    return count


def _share(probability: float) -> float:
    if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 <= probability <= 1:
        raise UserErrorException(f"A share of a dataset lies between 0 and 1, not at {probability!r}.")
    return float(probability)


def _seed(seed: Optional[int]) -> int:
    """Without one, chance itself; kept with the dataset, so that it gives the same files from then on."""
    return random.SystemRandom().getrandbits(31) if seed is None else int(seed)
