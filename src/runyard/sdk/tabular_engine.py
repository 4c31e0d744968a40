"""The libraries that read tables: loaded by the first call that needs them, and named where they are missing.

Nothing of them is stored: a dataset is plain data, and a Python without them can register it, pass it on and list it.
"""

import sys
from functools import lru_cache
from typing import Any, Tuple

from runyard.errors import UserErrorException

#: The oldest Arrow whose readers and kernels are used here; the newest for Python 3.6.
OLDEST_ARROW = 6


@lru_cache(maxsize=1)
def arrow() -> Any:
    """pyarrow; UserErrorException says how to get it."""
    try:
        import pyarrow
    except ImportError:
        raise _missing("pyarrow") from None
    if _major(pyarrow.__version__) < OLDEST_ARROW:
        raise UserErrorException(
            f"Tables are read by pyarrow {OLDEST_ARROW} or newer, and {sys.executable} has {pyarrow.__version__}; "
            "raise its pin in the environment."
        )
    return pyarrow


@lru_cache(maxsize=1)
def arrow_parts() -> Tuple[Any, Any]:
    """(pyarrow, pyarrow.compute)."""
    found = arrow()
    import pyarrow.compute

    return found, pyarrow.compute


def arrow_csv() -> Any:
    """pyarrow.csv."""
    arrow()
    import pyarrow.csv

    return pyarrow.csv


def arrow_parquet() -> Any:
    """pyarrow.parquet."""
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet


def pandas() -> Any:
    """pandas; UserErrorException says how to get it."""
    try:
        import pandas
    except ImportError:
        raise _missing("pandas") from None
    return pandas


def dask_frames() -> Any:
    """dask.dataframe; UserErrorException says how to get it."""
    try:
        import dask.dataframe
    except ImportError:
        raise UserErrorException("This needs the package dask[dataframe], which is not installed here.") from None
    return dask.dataframe


def _missing(package: str) -> UserErrorException:
    return UserErrorException(
        f"Reading a table here needs the package {package}, which {sys.executable} lacks: add {package} to the "
        "environment's pip packages, or on your own machine pip install 'runyard[tabular]'."
    )


def _major(version: str) -> int:
    first = version.split(".", 1)[0]
    return int(first) if first.isdigit() else OLDEST_ARROW
