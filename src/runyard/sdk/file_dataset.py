"""FileDataset: references to files where they lie; no copy is made until somebody reads them."""

import glob
import os
import re
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Sequence
from urllib.parse import unquote

from runyard.errors import AzureMLException, UserErrorException
from runyard.files.listing import is_pattern, list_source
from runyard.protocol.datasets import Source
from runyard.protocol.mounts import (
    DataFile,
    Layout,
    check_url,
    distinct_files,
    is_signed,
    layout_of,
    listed_files,
    shown_url,
    url_path,
)
from runyard.protocol.selection import Step, select
from runyard.sdk.abstract_dataset import AbstractDataset
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.datastore import AbstractAzureStorageDatastore, list_files
from runyard.sdk.workspace import check_belongs

if TYPE_CHECKING:
    from runyard.sdk.dataset_mount import MountContext


class FileDataset(AbstractDataset):
    """Files of datastores, of this machine, or of the web."""

    _kind = "file"

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

    def mount(self, mount_point: Optional[str] = None, **_: Any) -> "MountContext":
        """The files below a folder of this machine, for the time of a ``with``, or between ``start`` and ``stop``.

        ``mount_point``: an empty folder; without one a temporary folder is made.
        """
        from runyard.sdk.dataset_mount import MountContext

        return MountContext(chosen_files(self._sources, self._workspace, self._steps), self._workspace, mount_point)

    def as_mount(self, path_on_compute: Optional[str] = None) -> DatasetConsumptionConfig:
        """Mounted in the run: links where the files lie on its disk, else fetched before the script starts."""
        return DatasetConsumptionConfig(self._input_name(), self).as_mount(path_on_compute)

    def as_download(self, path_on_compute: Optional[str] = None) -> DatasetConsumptionConfig:
        """Downloaded before the script starts."""
        return DatasetConsumptionConfig(self._input_name(), self).as_download(path_on_compute)

    def filter(self, expression: Any) -> "FileDataset":
        """Not here; the sentence says what to do instead."""
        raise UserErrorException(
            "Files are not filtered by what is known of them: name them by a pattern, as in (datastore, 'logs/*.csv')."
        )

    def file_metadata(self, col: str) -> Any:
        """Not here; the sentence says what to do instead."""
        raise UserErrorException("What is known of a dataset's files is no column here: name files by a pattern.")

    def _paths(self) -> List[str]:
        return [one.relative for one in chosen_files(self._sources, self._workspace, self._steps)]


def make_file_dataset(path: Any, validate: bool) -> FileDataset:
    """A dataset of what v1 took: a URL, a local path or glob, a datastore's path, or a list of these."""
    many = path if isinstance(path, list) else [path]
    if not many:
        raise UserErrorException("A dataset needs at least one path.")
    workspace = None
    sources = []
    for one in many:
        source, found = _source(one, validate)
        if workspace is not None and found is not None:
            check_belongs(f"The datastore {source.datastore!r}", found, workspace)
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
    if isinstance(path, tuple) and len(path) == 2 and isinstance(path[0], AbstractAzureStorageDatastore):
        return Source(datastore=path[0].name, path=str(path[1]).strip("/")), path[0].workspace
    if isinstance(path, AbstractAzureStorageDatastore):
        return Source(datastore=path.name), path.workspace
    if not isinstance(path, (str, os.PathLike)):
        raise UserErrorException(
            f"A dataset's path is a URL, a local path, (datastore, path) or a list of these, not {path!r}."
        )
    text = os.fspath(path)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.\-]*://", text) and not text.startswith("file://"):
        if check_url(text) and validate:
            _look_at(text)
        return Source(url=text), None
    local = os.path.abspath(os.path.expanduser(unquote(text[7:]) if text.startswith("file://") else text))
    if validate and not (glob.glob(local, recursive=True) if is_pattern(local) else os.path.exists(local)):
        raise UserErrorException(f"The local path {text!r} does not exist.")
    return Source(file=local), None


def _look_at(url: str) -> None:
    """UserErrorException where the file is not there, or its server cannot be reached from here."""
    # Loaded only here: of no use to who names no address.
    from runyard.files.fetch import ask_head

    try:
        is_there = ask_head(url, allow_private=True).is_there
    except UserErrorException:
        raise
    except AzureMLException as error:
        raise UserErrorException(f"{error} Pass validate=False if only the run can reach it.") from None
    if not is_there and not is_signed(url):
        raise UserErrorException(
            f"{shown_url(url)} is not there, or its server does not say so to a HEAD request; "
            "pass validate=False if it is."
        )


def placed_files(sources: Sequence[Source], workspace: Any) -> Iterator[DataFile]:
    """Each file of these sources, in their order; UserErrorException names two files that have one path."""
    layout = layout_of(sources)
    return distinct_files(one for source in sources for one in files_of(source, workspace, layout))


def chosen_files(sources: Sequence[Source], workspace: Any, steps: Sequence[Step]) -> List[DataFile]:
    """As ``placed_files``, those that the steps leave."""
    found = list(placed_files(sources, workspace))
    return [found[place] for place in select([one.relative for one in found], steps)]


def files_of(source: Source, workspace: Any, layout: Layout) -> List[DataFile]:
    """The files of a source."""
    if source.url is not None:
        return [DataFile(source, source.url, url_path(source.url))]
    if source.file is not None:
        return [DataFile(source, path, relative) for path, relative in list_source(source.file, layout.local_base)]
    return listed_files(source, list_files(workspace, source.datastore or "", source.path), layout)
