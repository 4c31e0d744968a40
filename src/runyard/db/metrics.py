"""Metrics: sealed column chunks, one row of summary per name, and a high-water mark per writer."""

import math
from array import array
from typing import Dict, List, Optional, Tuple

from sqlalchemy import ColumnElement, Connection, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from runyard.db.tables import metric_chunks, metric_latest, metric_writers
from runyard.errors import UserErrorException
from runyard.protocol.metrics import (
    KIND_TEXT,
    USAGE_PREFIX,
    Batch,
    Columns,
    MetricSummary,
    decode_columns,
    encode_columns,
)

#: Most names of metrics in one run.
NAMES_MAX = 20_000


def writer_sequence(connection: Connection, run_id: str, writer: str) -> int:
    """The last sequence of that writer which is stored; 0: none."""
    found = connection.execute(
        select(metric_writers.c.sequence).where(metric_writers.c.run_id == run_id, metric_writers.c.writer == writer)
    ).scalar()
    return found or 0


def add_batch(connection: Connection, run_id: str, workspace: str, batch: Batch, now: int) -> int:
    """Store a writer's next values and its new mark in one go; returns the mark.

    A batch that was stored before changes nothing; one that overlaps its predecessor, or leaves a gap, is refused by
    returning the present mark, from which the runner sends again.
    """
    mark = writer_sequence(connection, run_id, batch.writer)
    if batch.first != mark + 1:
        return mark
    owned = {"workspace": workspace, "created_by": "run:" + run_id, "created_at": now}
    if batch.columns:
        _check_names(connection, run_id, batch)
        connection.execute(
            insert(metric_chunks),
            [
                {
                    "run_id": run_id, "name": c.key, "writer": c.writer, "first_sequence": c.first_sequence,
                    "length": len(c), "kind": c.kind, "body": encode_columns(c), **owned,
                }
                for c in batch.columns
            ],
        )  # fmt: skip
    for columns in batch.columns:
        _summarise(connection, run_id, columns, owned)
    statement = upsert(metric_writers).values(run_id=run_id, writer=batch.writer, sequence=batch.last, **owned)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["run_id", "writer"], set_={"sequence": batch.last})
    )
    return batch.last


def read_metrics(connection: Connection, run_id: str, name: Optional[str] = None) -> List[Columns]:
    """The chunks of the run's own metrics, by name, in the order in which they were stored."""
    if name is None:
        return _read(connection, run_id, ~metric_chunks.c.name.startswith(USAGE_PREFIX))
    return _read(connection, run_id, metric_chunks.c.name == name)


def read_usage(connection: Connection, run_id: str) -> List[Columns]:
    """What its runners have recorded of their nodes."""
    return _read(connection, run_id, metric_chunks.c.name.startswith(USAGE_PREFIX))


def _read(connection: Connection, run_id: str, which: "ColumnElement[bool]") -> List[Columns]:
    statement = select(metric_chunks).where(metric_chunks.c.run_id == run_id, which)
    rows = connection.execute(statement.order_by(metric_chunks.c.id))
    return [decode_columns(r.body, 0, r.name, r.writer, r.first_sequence, r.length, r.kind)[0] for r in rows]


def list_summaries(connection: Connection, run_id: str) -> List[MetricSummary]:
    """Count, last, least and greatest value of each of the run's own metrics that has numbers."""
    own = ~metric_latest.c.name.startswith(USAGE_PREFIX)
    rows = connection.execute(
        select(metric_latest).where(metric_latest.c.run_id == run_id, own).order_by(metric_latest.c.name)
    )
    return [MetricSummary(r.name, r.length, r.last, r.minimum, r.maximum) for r in rows if r.last is not None]


def _check_names(connection: Connection, run_id: str, batch: Batch) -> None:
    known = set(connection.execute(select(metric_latest.c.name).where(metric_latest.c.run_id == run_id)).scalars())
    known.update(columns.key for columns in batch.columns)
    if len(known) > NAMES_MAX:
        raise UserErrorException(f"A run has at most {NAMES_MAX} names of metrics.")


def _summarise(connection: Connection, run_id: str, columns: Columns, owned: Dict[str, object]) -> None:
    last, minimum, maximum = _extremes(columns.values) if columns.kind != KIND_TEXT else (None, None, None)
    row = connection.execute(
        select(metric_latest).where(metric_latest.c.run_id == run_id, metric_latest.c.name == columns.key)
    ).first()
    if row is not None:
        last = row.last if last is None else last
        minimum = _least(minimum, row.minimum)
        maximum = _greatest(maximum, row.maximum)
    count = len(columns) + (row.length if row is not None else 0)
    values = {"length": count, "last": last, "minimum": minimum, "maximum": maximum}
    statement = upsert(metric_latest).values(run_id=run_id, name=columns.key, **values, **owned)
    connection.execute(statement.on_conflict_do_update(index_elements=["run_id", "name"], set_=values))


def _extremes(values: "array[float]") -> Tuple[Optional[float], Optional[float], Optional[float]]:
    """Last, least and greatest; NaN, which SQLite cannot hold, counts as absent."""
    # One NaN makes the sum NaN, and so do two opposite infinities; only then is each value looked at.
    finite = values if not math.isnan(sum(values)) else [value for value in values if value == value]
    if not finite:
        return None, None, None
    return finite[-1], min(finite), max(finite)


def _least(one: Optional[float], other: Optional[float]) -> Optional[float]:
    return other if one is None else one if other is None else min(one, other)


def _greatest(one: Optional[float], other: Optional[float]) -> Optional[float]:
    return other if one is None else one if other is None else max(one, other)
