"""Rows written as files: to a datastore where there is one to write to, else on this machine; within bounded memory."""

import csv
import itertools
import os
import tempfile
import uuid
from typing import Any, Dict, Iterator, List, Optional, Tuple
from urllib.parse import quote

from runyard.client.home import home_folder
from runyard.errors import UserErrorException
from runyard.sdk.data_reference import DataReference
from runyard.sdk.datastore import AbstractAzureStorageDatastore
from runyard.sdk.file_dataset import make_file_dataset
from runyard.sdk.session import is_in_run
from runyard.sdk.tabular_engine import arrow, arrow_parquet, arrow_parts, dask_frames

#: Rows that are kept in memory until they are written to their folders; most folders of one partition_by.
BUFFER_ROWS, PARTITIONS_MAX = 500_000, 10_000


def to_files(scan: Any, workspace: Any, ending: str, separator: str = ",") -> Any:
    """A FileDataset of the scan's rows."""
    if workspace is None or is_in_run():
        folder = tempfile.mkdtemp(prefix="runyard-table-") if is_in_run() else str(_own_folder())
        _write(scan, os.path.join(folder, "part-00000." + ending), separator)
        return make_file_dataset(folder, validate=True)
    with tempfile.TemporaryDirectory(prefix="runyard-table-") as folder:
        _write(scan, os.path.join(folder, "part-00000." + ending), separator)
        target = f"tables/{uuid.uuid4()}"
        store = workspace.get_default_datastore()
        store.upload(folder, target, show_progress=False)
        return make_file_dataset((store, target), validate=False)


def to_dask(scan: Any) -> Any:
    """A Dask DataFrame over Parquet files of the scan's rows, on this machine."""
    frames = dask_frames()
    folder = tempfile.mkdtemp(prefix="runyard-table-") if is_in_run() else str(_own_folder())
    _write(scan, os.path.join(folder, "part-00000.parquet"), ",")
    return frames.read_parquet(folder)


def store_dataframe(
    dataframe: Any, target: Any, show_progress: bool, row_group_size: Optional[int], unique: bool
) -> Any:
    """Write a pandas DataFrame below ``target``; returns the (datastore, path) of its file."""
    pa, parquet = arrow(), arrow_parquet()

    if not hasattr(dataframe, "columns"):
        raise UserErrorException(f"A pandas DataFrame is registered here, not {dataframe!r:.80}.")
    names = [str(name) for name in dataframe.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserErrorException(f"The DataFrame has the column {twice!r} more than once; a table has each name once.")
    if not names:
        raise UserErrorException("The DataFrame has no columns; a table has one at least.")
    if row_group_size is not None and (not isinstance(row_group_size, int) or row_group_size < 1):
        raise UserErrorException(f"row_group_size is a number of rows, not {row_group_size!r}.")
    store, path = place_of(target)
    try:
        table = pa.Table.from_pandas(dataframe.set_axis(names, axis=1), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise UserErrorException(
            f"The DataFrame cannot be kept as a table: {'; '.join(map(str, error.args))[:300]}."
        ) from None
    path = "/".join(part for part in (path, str(uuid.uuid4()) if unique else "") if part)
    with tempfile.TemporaryDirectory(prefix="runyard-table-") as folder:
        file = os.path.join(folder, "data.parquet")
        parquet.write_table(table.replace_schema_metadata(None), file, row_group_size=row_group_size)
        store.upload_files([file], folder, path, overwrite=True, show_progress=show_progress)
    return store, f"{path}/data.parquet" if path else "data.parquet"


def partition_by(
    scan: Any, keys: List[str], target: Any, name: Optional[str], show_progress: bool, as_files: bool
) -> Any:
    """The dataset of the scan's rows in a folder for each value of the keys, below a new folder of ``target``."""
    from runyard.sdk.tabular_factory import TabularDatasetFactory

    store, path = place_of(target)
    path = "/".join(part for part in (path, str(uuid.uuid4())) if part)
    with tempfile.TemporaryDirectory(prefix="runyard-table-") as folder:
        _write_partitions(scan, keys, folder)
        store.upload(folder, path, overwrite=True, show_progress=show_progress)
    if as_files:
        found: Any = make_file_dataset((store, path), validate=False)
    else:
        form = "/" + "/".join("{" + key + "}" for key in keys) + "/*.parquet"
        found = TabularDatasetFactory.from_parquet_files((store, path + "/**"), partition_format=form)
    return found.register(store.workspace, name, create_new_version=True) if name is not None else found


def place_of(target: Any) -> Tuple[Any, str]:
    """(datastore, path) of what v1 took as a target."""
    if isinstance(target, DataReference):
        return target.datastore, target.path_on_datastore.strip("/")
    store, path = target if isinstance(target, tuple) and len(target) == 2 else (target, "")
    if not isinstance(store, AbstractAzureStorageDatastore):
        raise UserErrorException(f"A target is a datastore, or a datastore and a path in it, not {target!r}.")
    return store, str(path or "").strip("/")


def _own_folder() -> str:
    folder = home_folder() / "tables" / str(uuid.uuid4())
    folder.mkdir(parents=True)
    return str(folder)


def _write(scan: Any, path: str, separator: str) -> None:
    if len(separator) != 1:
        raise UserErrorException(f"A separator is one character, not {separator!r}.")
    schema = scan.settle()
    if path.endswith(".parquet"):
        with arrow_parquet().ParquetWriter(path, schema) as writer:
            for batch in scan.stream():
                writer.write_table(arrow().Table.from_batches([batch]))
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, delimiter=separator, lineterminator="\n")
        rows.writerow(schema.names)
        for batch in scan.stream():
            rows.writerows(zip(*(values.to_pylist() for values in batch.columns)))


def _write_partitions(scan: Any, keys: List[str], folder: str) -> None:
    pa, parquet = arrow(), arrow_parquet()

    schema = scan.settle()
    missing = [key for key in keys if key not in schema.names]
    if missing or len(keys) == len(schema.names):
        raise UserErrorException(
            f"Partition keys are some of the columns {', '.join(map(repr, schema.names))}, and not all of them: {keys}."
        )
    kept: Dict[Tuple[str, ...], List[Any]] = {}
    seen: Dict[Tuple[str, ...], None] = {}
    count, part = 0, itertools.count()

    def flush() -> None:
        for values, pieces in kept.items():
            place = os.path.join(folder, *values)
            os.makedirs(place, exist_ok=True)
            parquet.write_table(pa.Table.from_batches(pieces), os.path.join(place, f"part-{next(part):05}.parquet"))
        kept.clear()

    for batch in scan.stream():
        for values, rows in _parted(batch, keys):
            kept.setdefault(values, []).append(rows)
            seen[values] = None
        if len(seen) > PARTITIONS_MAX:
            raise UserErrorException(f"{keys} have more than {PARTITIONS_MAX:,} values; partition by fewer columns.")
        count += batch.num_rows
        if count >= BUFFER_ROWS:
            flush()
            count = 0
    flush()
    if not seen:
        raise UserErrorException("There is no row to partition.")


def _parted(batch: Any, keys: List[str]) -> Iterator[Tuple[Tuple[str, ...], Any]]:
    """(folder names, rows without the keys) for each combination of the keys' values in a batch."""
    pa, _ = arrow_parts()
    columns = dict(zip(batch.schema.names, batch.columns))
    places: Dict[Tuple[str, ...], List[int]] = {}
    for number, values in enumerate(zip(*(columns[key].to_pylist() for key in keys))):
        places.setdefault(values, []).append(number)
    left = [name for name in batch.schema.names if name not in keys]
    for values, rows in places.items():
        chosen = pa.array(rows, pa.int64())
        yield (
            tuple(map(_folder_name, values)),
            pa.RecordBatch.from_arrays([columns[n].take(chosen) for n in left], left),
        )


def _folder_name(value: Any) -> str:
    text = "null" if value is None else str(value)
    # A folder cannot be called '.', and no name is longer than 255 bytes.
    found = quote(text, safe=" ") if text.strip(".") else "".join(f"%{ord(one):02X}" for one in text) or "%20"
    if len(found) > 255:
        raise UserErrorException(f"{text[:40]!r}... is too long for the name of a partition's folder.")
    return found
