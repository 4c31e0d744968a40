"""Tables: a million rows of CSV as a DataFrame beside pandas.read_csv, seconds and memory; and streamed to Parquet."""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import say

ROWS = 1_000_000
#: Tries of each figure; the best one counts, since other programs share the machine.
TRIES = 3

#: Prints seconds and the peak of memory that the reading added, MiB. Each runs in a process of its own.
_PROGRAM = """
import json, resource, sys, time
import pandas, pyarrow, pyarrow.compute, pyarrow.csv, pyarrow.parquet
from runyard.azureml.core import Dataset

path = sys.argv[1]
table = Dataset.Tabular.from_delimited_files(path)
pandas.read_csv(path, nrows=5, parse_dates=["at"])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, began = peak(), time.perf_counter()
{action}
print(json.dumps([time.perf_counter() - began, peak() - before]))
"""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        path = Path(folder) / "rows.csv"
        _write(path)
        print(f"{ROWS:,} rows, {path.stat().st_size >> 20} MiB: numbers, text, flags and times")
        peer, peer_mib = _measure("pandas.read_csv(path, parse_dates=['at'])", path)
        plain, _ = _measure("pandas.read_csv(path)", path)
        beside = f"pandas.read_csv {peer:.2f} s, times left as text {plain:.2f} s"
        took, mib = _measure("table.to_pandas_dataframe()", path)
        say("to_pandas_dataframe()", took, "{:.2f} s", 2 * peer, beside)
        say("  memory above the start", mib, "{:.0f} MiB", 2 * peer_mib, f"pandas {peer_mib:.0f} MiB")
        took, _ = _measure("table.keep_columns(['id', 'score']).to_pandas_dataframe()", path)
        peer, _ = _measure("pandas.read_csv(path, usecols=['id', 'score'])", path)
        say("two of eight columns", took, "{:.2f} s", 2 * peer, f"pandas with usecols {peer:.2f} s")
        took, _ = _measure("table.filter(table['age'] > 80).to_pandas_dataframe()", path)
        peer, _ = _measure("frame = pandas.read_csv(path, parse_dates=['at']); frame[frame.age > 80]", path)
        say("a filter that leaves a tenth", took, "{:.2f} s", 2 * peer, f"pandas {peer:.2f} s")
        took, mib = _measure("table.to_parquet_files()", path)
        say("to_parquet_files(), which never holds all rows", mib, "{:.0f} MiB", 256, f"{took:.2f} s")


def _write(path: Path) -> None:
    draw = random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        file.write("id,age,score,name,city,flag,at,amount\n")
        for number in range(ROWS):
            at = f"2020-01-{draw.randrange(1, 29):02}T10:00:{draw.randrange(60):02}"
            file.write(
                f'{number},{draw.randrange(90)},{draw.random():.6f},name{draw.randrange(10**6)},"City '
                f'{draw.randrange(100)}",{draw.choice(("true", "false"))},{at},{draw.random() * 1e4:.2f}\n'
            )


def _measure(action: str, path: Path) -> tuple[float, float]:
    """(seconds, MiB) of the best of some tries."""
    found = []
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory(prefix="runyard-bench-") as home:
            words = [sys.executable, "-c", _PROGRAM.replace("{action}", action), str(path)]
            environment = {**os.environ, "RUNYARD_HOME": home, "PYTHONPATH": "src"}
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(one[0] for one in found), min(one[1] for one in found)
