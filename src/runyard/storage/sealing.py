"""Seals a text for one host: equal texts have one sealed form, which opens for that host alone.

AES-SIV (RFC 5297), of the package cryptography, by a key that is made of the home's own.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any, Optional

from runyard.storage.vault import Vault


class HostSeal:
    """Seals and opens with the key of one home."""

    def __init__(self, key_file: Path) -> None:
        self.key_file = key_file

    def seal(self, text: str, host: str) -> str:
        """``text`` in letters that only this home can read."""
        sealed: bytes = self._cipher().encrypt(text.encode("utf-8"), [host.encode("utf-8")])
        return base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")

    def open(self, sealed: str, host: str) -> Optional[str]:
        """What ``seal`` was given for that host; None for anything else."""
        from cryptography.exceptions import InvalidTag

        try:
            data = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
            return str(self._cipher().decrypt(data, [host.encode("utf-8")]).decode("utf-8"))
        except (ValueError, InvalidTag):
            return None

    def _cipher(self) -> Any:
        # Loaded only here: most environments have no password.
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        if not self.key_file.exists():
            Vault(self.key_file).lock({"made": "now"})
        return AESSIV(hashlib.sha512(b"runyard environments\n" + self.key_file.read_bytes()).digest())
