"""Frameworks that need no code: what installs one, and who loads its models."""

from pathlib import Path

import runyard.scoring
from runyard.protocol.scoring import BESIDE, DISTRIBUTIONS
from runyard.scoring.model import LOADERS


def test_each_framework_can_be_installed_and_is_loaded_by_a_module_that_is_there() -> None:
    assert set(LOADERS) == set(DISTRIBUTIONS)
    assert set(BESIDE) <= set(DISTRIBUTIONS)
    folder = Path(runyard.scoring.__file__).parent
    assert {name for name in LOADERS.values() if not (folder / f"{name}.py").is_file()} == set()
