"""The rules for what a model's process may be asked to have; each refusal is one sentence."""

from typing import Mapping, Optional

from runyard.errors import UserErrorException

#: Most cores, GB and GPUs that anything asks for.
NEEDS_MAX = 1_000_000_000


def check_needs(amounts: Mapping[str, Optional[float]], gpus: Mapping[str, Optional[int]]) -> None:
    """Refuse amounts that are no number above 0, and counts of GPUs below 0; each by its name."""
    for name, amount in amounts.items():
        if amount is not None and not 0 < amount <= NEEDS_MAX:
            raise UserErrorException(f"{name} is a number above 0, not {amount}.")
    for name, count in gpus.items():
        if count is not None and not 0 <= count <= NEEDS_MAX:
            raise UserErrorException(f"{name} is a whole number of at least 0, not {count}.")
