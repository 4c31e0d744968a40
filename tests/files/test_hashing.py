"""What tells a file from others."""

import hashlib
from pathlib import Path

from runyard.files.hashing import PIECE_BYTES, sha256_of


def test_sha256_is_that_of_all_bytes(tmp_path: Path) -> None:
    for data in (b"", b"x", b"x" * (PIECE_BYTES + 1)):
        (tmp_path / "file").write_bytes(data)
        assert sha256_of(str(tmp_path / "file")) == hashlib.sha256(data).hexdigest()
