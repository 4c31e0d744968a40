"""Small tables for tests: written as files, and read as plain values."""

from pathlib import Path
from typing import Any

from runyard.azureml.data import TabularDataset

PEOPLE = (
    "id,age,height,name,member,joined\n"
    '1,31,1.80,"Ann, Dr.",true,2020-01-02\n'
    "2,,1.62,Bob,false,2020-01-03T04:05:06\n"
    "3,54,NA,,true,2021-06-07\n"
)


def csv(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def rows(dataset: TabularDataset, **options: Any) -> list[dict[str, Any]]:
    frame = dataset.to_pandas_dataframe(**options)
    found = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert isinstance(found, list)
    return found


def dtypes(dataset: TabularDataset) -> dict[str, str]:
    found = {str(name): str(kind) for name, kind in dataset.to_pandas_dataframe().dtypes.items()}
    return {name: "text" if kind in ("object", "str") else kind for name, kind in found.items()}
