"""A cache on a disk that is too small for what it is asked to hold, in a mount namespace of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runyard.client.downloads import Downloads, Wanted
from runyard.errors import StorageFullError
from runyard.files.cache import ContentCache
from tests.emulators.site import serving_folder


def main(folder: Path) -> None:
    """Bring two files that fit one after the other, then one that fits never."""
    disk, site = folder / "disk", folder / "site"
    disk.mkdir()
    site.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    for name, size in (("first", 5), ("second", 6), ("never", 9)):
        (site / name).write_bytes(os.urandom(size << 20))
    cache = ContentCache(str(disk / "cache"))
    with serving_folder(site) as address:
        for name in ("first", "second"):
            target = folder / "got" / name
            Downloads(None, "", True, cache).carry_out([Wanted(str(target), f"{address}/{name}")])
            assert target.read_bytes() == (site / name).read_bytes()
        with pytest.raises(StorageFullError, match="is full"):
            Downloads(None, "", True, cache).carry_out([Wanted(str(folder / "got" / "never"), f"{address}/never")])
    assert sorted(os.listdir(folder / "got")) == ["first", "second"]
    assert os.listdir(disk / "cache" / "tmp") == []
    print("survived")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
