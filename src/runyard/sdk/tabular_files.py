"""A table's files: in their order, with the columns that their paths hold, and on this disk while they are read."""

import contextlib
import os
import re
import shutil
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Sequence
from urllib.parse import unquote, urlsplit

from runyard.client.downloads import Downloads, Wanted
from runyard.protocol.datasets import Source
from runyard.protocol.record import record
from runyard.sdk.file_dataset import placed_files
from runyard.sdk.session import current_server
from runyard.sdk.tabular_columns import arrow_type
from runyard.sdk.tabular_engine import arrow
from runyard.sdk.tabular_partitions import PartitionFormat

#: The column of a row's file, where it is asked for.
PATH_COLUMN = "Path"


@record
class TableFile:
    """One file of a table."""

    source: Source
    #: Where it is: an address, a local path, a path of the datastore.
    origin: str
    #: Its path below the dataset's mount: the same wherever the dataset is read.
    relative: str
    #: What stands in messages.
    label: str
    #: Values of the columns that its path holds.
    values: Dict[str, Any]
    #: What its datastore said of it, checked where it is fetched; None and "": nothing.
    size_bytes: Optional[int] = None
    tag: str = ""


def table_files(
    sources: Sequence[Source], workspace: Any, partition_format: Optional[str], include_path: bool
) -> List[TableFile]:
    """Every file of the table, in the order of sources and paths; empty ones and other kinds included."""
    partitions = PartitionFormat(partition_format) if partition_format else None
    found = []
    for one in placed_files(sources, workspace):
        source, origin, relative = one.source, one.origin, one.relative
        if _is_aside(source, relative):
            continue
        values = partitions.values(_whole_path(source, origin)) if partitions else {}
        if include_path:
            values = {PATH_COLUMN: "/" + relative, **values}
        found.append(TableFile(source, origin, relative, _label(source, origin), values, one.size_bytes, one.tag))
    return found


@contextlib.contextmanager
def on_disk(file: TableFile, workspace: Any) -> Iterator[str]:
    """The file's path on this disk, for the time of the block: its own, or a copy that is removed afterwards."""
    if file.source.file is not None:
        yield file.origin
        return
    folder = tempfile.mkdtemp(prefix="runyard-table-")
    try:
        # Its name tells how it is compressed.
        target = os.path.join(folder, re.sub(r"[^A-Za-z0-9._-]", "_", os.path.basename(file.relative))[-100:] or "file")
        wanted = Wanted(target, file.source.url, file.source.datastore or "", file.origin, file.size_bytes, file.tag)
        server = None if file.source.url is not None else current_server()
        downloads = Downloads(server, "" if workspace is None else workspace.name, allow_private=True)
        downloads.carry_out([wanted])
        yield target
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_aside(source: Source, relative: str) -> bool:
    """A file beside a table's own, such as _SUCCESS or .crc: left out, unless it is asked for by its very name."""
    name = os.path.basename(relative)
    is_named = source.url is not None or os.path.basename(source.file or source.path) == name
    return name[:1] in ("_", ".") and not is_named


def _whole_path(source: Source, origin: str) -> str:
    return unquote(urlsplit(source.url).path) if source.url is not None else "/" + origin.lstrip("/")


def _label(source: Source, origin: str) -> str:
    if source.url is not None:
        # A query may hold a signature, which no message should.
        return re.sub(r"\?.*", "?...", source.url)
    return origin if source.file is not None else f"{source.datastore}/{origin}"


def constant(value: Any, count: int, kind: str) -> Any:
    """A column that has one value in all rows of a file."""
    return arrow().array([value] * count, arrow_type(kind))
