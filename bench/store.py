"""Files into and out of a bucket (a moto server on this machine): beside s3fs sending and reading the same bytes."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import say, seconds

LARGE_BYTES = 1 << 30
SMALL_COUNT, SMALL_BYTES = 5_000, 4_096


def main() -> None:
    """Print the figures."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.emulators.servers import start_s3

    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder, start_s3() as s3:
        s3.make_bucket("bench-ours")
        s3.make_bucket("bench-theirs")
        place = Path(folder)
        os.environ.update(
            RUNYARD_HOME=str(place / "home"),
            RUNYARD_STORE="s3://bench-ours/here",
            RUNYARD_STORE_ENDPOINT=s3.endpoint,
            AWS_ACCESS_KEY_ID=s3.key,
            AWS_SECRET_ACCESS_KEY=s3.secret,
        )
        _measure(place, s3)


def _measure(place: Path, s3: Any) -> None:
    import s3fs

    from runyard.client.local_server import connect
    from runyard.protocol.workspaces import WorkspaceSpec

    server = connect()
    peer = s3fs.S3FileSystem(
        key=s3.key, secret=s3.secret, endpoint_url=s3.endpoint, use_listings_cache=False, default_block_size=8 << 20
    )
    try:
        server.call("create_workspace", WorkspaceSpec("bench"))
        _small(place, server, peer)
        _large(place, server, peer)
    finally:
        server.call("stop_server")
        server.close()


def _large(place: Path, server: Any, peer: Any) -> None:
    from runyard.client.transfer import receive_blob, send_blobs
    from runyard.files.hashing import hash_file

    source, target = place / "large", place / "back"
    piece = os.urandom(1 << 20)
    with open(source, "wb") as file:
        for number in range(LARGE_BYTES >> 20):
            file.write(number.to_bytes(8, "little") + piece[8:])
    theirs = seconds(lambda: peer.put_file(str(source), "bench-theirs/large"))
    back = seconds(lambda: peer.get_file("bench-theirs/large", str(target)))
    peer.rm("bench-theirs/large")
    target.unlink()
    digest = hash_file(str(source))[0]
    took = seconds(lambda: send_blobs(server, "bench", {digest: str(source)}))
    say("1 GiB into S3 by signed addresses, verified", took, "{:.1f} s", None, f"s3fs.put_file {theirs:.1f} s")

    def receive() -> None:
        receive_blob(
            server, "bench", digest, str(target), lambda: server.stream("read_blob", workspace="bench", digest=digest)
        )

    took = seconds(receive)
    say("1 GiB from S3 by a signed address, verified", took, "{:.1f} s", None, f"s3fs.get_file {back:.1f} s")


def _small(place: Path, server: Any, peer: Any) -> None:
    from runyard.client.transfer import find_missing, send_blobs
    from runyard.files.hashing import hash_file

    (place / "small").mkdir()
    paths = [place / "small" / str(number) for number in range(SMALL_COUNT)]
    for path in paths:
        path.write_bytes(os.urandom(SMALL_BYTES))
    names = [f"bench-theirs/small/{path.name}" for path in paths]
    theirs = seconds(lambda: peer.put([str(path) for path in paths], names))
    sources = {hash_file(str(path))[0]: str(path) for path in paths}
    took = seconds(lambda: send_blobs(server, "bench", sources))
    say("5,000 files of 4 KiB into S3", took, "{:.2f} s", None, f"s3fs.put {theirs:.1f} s")
    took = seconds(lambda: find_missing(server, "bench", list(sources)))
    say("which of 5,000 contents are there", took * 1e3, "{:.0f} ms", None, "no request to S3")
