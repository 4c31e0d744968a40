"""Whether files that a request names can be recorded: their contents must be here already."""

from typing import Sequence

from runyard.errors import IntegrityError
from runyard.protocol.digests import check_digest
from runyard.protocol.runs import Artifact
from runyard.protocol.trees import check_path
from runyard.storage.base import ArtifactStore


def check_contents(store: ArtifactStore, files: Sequence[Artifact]) -> None:
    """IntegrityError for a content that is not in the store, or not of that size; UserErrorException for a path.

    A missing content is no NotFoundError: to a runner, that says that its run is gone.
    """
    present = store.has({check_digest(one.digest) for one in files}) if files else set()
    for one in files:
        check_path(one.path)
        if one.digest not in present:
            raise IntegrityError(f"The content of {one.path!r} is not on the server; send it first.")
        if store.size(one.digest) != one.size_bytes:
            raise IntegrityError(f"{one.path!r} has another size than its content.")
