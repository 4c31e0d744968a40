"""An Arrow table as a pandas DataFrame of the same types with every release of either."""

from datetime import datetime
from typing import Any

from runyard.errors import UserErrorException
from runyard.sdk.tabular_engine import arrow_parts, pandas

#: What a time of nanoseconds since 1970 can hold.
_FIRST, _LAST = datetime(1677, 9, 21, 0, 12, 44), datetime(2262, 4, 11, 23, 47, 16)
#: Whole numbers up to here are floats without loss.
_EXACT = 2**53


def to_pandas(table: Any, out_of_range_datetime: str) -> Any:
    """The table's rows; its own memory is given up on the way."""
    if out_of_range_datetime not in ("null", "fail"):
        raise UserErrorException(f"out_of_range_datetime is 'null' or 'fail', not {out_of_range_datetime!r}.")
    pandas()
    pa, _ = arrow_parts()
    exact = []
    arrays = []
    for name, values in zip(table.schema.names, table.columns):
        if pa.types.is_timestamp(values.type):
            values = _in_range(values, name, out_of_range_datetime)
        elif pa.types.is_int64(values.type) and values.null_count and _is_large(values):
            exact.append(name)
        arrays.append(values)
    large = {name: arrays[table.schema.names.index(name)].to_pylist() for name in exact}
    table = pa.Table.from_arrays(arrays, names=table.schema.names)
    del arrays
    frame = table.to_pandas(split_blocks=True, self_destruct=True, timestamp_as_object=False)
    for name, whole in large.items():
        # A float would change the last digits of a number beside which one is missing.
        frame[name] = pandas().array(whole, dtype="Int64")
    return frame


def _in_range(values: Any, name: str, out_of_range: str) -> Any:
    """Times in nanoseconds, as every pandas has them; those outside are null, or refused."""
    pa, pc = arrow_parts()
    wanted = pa.timestamp("ns", values.type.tz)
    if values.type == wanted:
        return values
    bounds = [pa.scalar(one, pa.timestamp("us")).cast(values.type) for one in (_FIRST, _LAST)]
    inside = pc.fill_null(pc.and_(pc.greater(values, bounds[0]), pc.less(values, bounds[1])), True)
    if not pc.all(inside).as_py():
        if out_of_range == "fail":
            wrong = values.filter(pc.invert(inside))[0].as_py()
            raise UserErrorException(
                f"Column {name!r} holds {wrong}, a time that pandas cannot hold; out_of_range_datetime='null' drops it."
            )
        values = pc.if_else(inside, values, pa.scalar(None, values.type))
    return pc.cast(values, wanted)


def _is_large(values: Any) -> bool:
    _, pc = arrow_parts()
    ends = pc.min_max(values).as_py()
    return ends["max"] is not None and max(abs(ends["min"]), abs(ends["max"])) > _EXACT
