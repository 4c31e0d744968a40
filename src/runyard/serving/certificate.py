"""A service's certificate and its key: files that are renewed while fronts use them."""

import os
from contextlib import ExitStack, contextmanager
from typing import Iterator, List, Tuple


class Certificate:
    """The two files, as a supervisor reads them for its front, which can open neither."""

    def __init__(self, path: str, key_path: str) -> None:
        self.paths = (path, key_path)
        self._stamps = self._now()

    def is_renewed(self) -> bool:
        """Are there others than those that were opened last?"""
        return self._now() != self._stamps

    @contextmanager
    def opened(self) -> Iterator[List[int]]:
        """Descriptors of copies in memory, as long as the block lasts; OSError names the file that cannot be read."""
        self._stamps = self._now()
        with ExitStack() as stack:
            made = []
            for path in self.paths:
                with open(path, "rb") as file:
                    # A front runs without what lets root open others' files: these are its own.
                    copy = stack.enter_context(open(os.memfd_create("certificate"), "wb"))
                    copy.write(file.read())
                copy.flush()
                made.append(copy.fileno())
            yield made

    def _now(self) -> List[Tuple[int, ...]]:
        found: List[Tuple[int, ...]] = []
        for path in self.paths:
            try:
                state = os.stat(path)
                found.append((state.st_ctime_ns, state.st_ino, state.st_size))
            except OSError:
                found.append(())
        return found
