"""Keeps credentials: encrypted in the database, by a key in a file of its own beside it.

A copy of the database alone tells none of them. Fernet: AES-128-CBC with HMAC-SHA256, of the package cryptography.
"""

import json
import os
from pathlib import Path
from typing import Any, Dict

from runyard.errors import ServiceException


class Vault:
    """The secrets of one home."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file

    def lock(self, secrets: Dict[str, str]) -> str:
        """``secrets`` as text that only this home can read; '' for none."""
        return self._cipher().encrypt(json.dumps(secrets).encode()).decode() if secrets else ""

    def unlock(self, text: str) -> Dict[str, str]:
        """What ``lock`` was given; ServiceException where the home's key is another one."""
        if not text:
            return {}
        from cryptography.fernet import InvalidToken

        try:
            found: Dict[str, str] = json.loads(self._cipher().decrypt(text.encode()))
        except InvalidToken:
            raise ServiceException(
                f"The credentials cannot be read with {self._key_file.name}; register the datastore again."
            ) from None
        return found

    def _cipher(self) -> Any:
        # Loaded only here: 40 ms that a server without such datastores need not spend.
        from cryptography.fernet import Fernet

        if not self._key_file.exists():
            self._write(Fernet.generate_key())
        return Fernet(self._key_file.read_bytes())

    def _write(self, key: bytes) -> None:
        new = self._key_file.with_name(self._key_file.name + ".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        # As a link it never replaces a key that another thread has made meanwhile.
        try:
            os.link(new, self._key_file)
        except FileExistsError:
            pass
        os.unlink(new)
