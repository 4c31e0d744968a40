"""docs/howto/deploy.md as a newcomer follows it: its blocks, word by word, in an empty folder with its own home."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "deploy.md"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("examples")]


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Those of a shell whose ``python`` and ``runyard`` are the tests'."""
    programs = os.path.dirname(sys.executable)
    found = {**os.environ, "RUNYARD_HOME": str(tmp_path / "home"), "PATH": f"{programs}:{os.environ['PATH']}"}
    yield found
    subprocess.run([sys.executable, "-m", "runyard.cli", "down"], env=found, check=False, capture_output=True)


def test_the_page_about_deploying_can_be_followed_word_by_word(tmp_path: Path, variables: dict[str, str]) -> None:
    page = PAGE.read_text("utf-8").partition("## On a cluster")
    package = BLOCK.findall(page[2].partition("## Elsewhere")[2])[0][1]
    typed = tmp_path / "newcomer"
    typed.mkdir()
    # Blocks of Python share their names, so that each is run with those before it: commands come in between.
    pieces = ["import subprocess"]
    for kind, text in BLOCK.findall(page[0]):
        shell = f"subprocess.run(['bash', '-euo', 'pipefail', '-c', {text!r}], check=True)"
        pieces.append(text if kind == "python" else shell)
    pieces += [package, *(f"workspace.webservices[{name!r}].delete()" for name in ("digits-service", "scripted"))]
    done = subprocess.run(
        [sys.executable, "-u", "-c", "\n".join(pieces)],
        cwd=typed, env=variables, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "{'predict': [0, 1, 2]}" in done.stdout
    assert done.stdout.count('{"predict":[0,1,2]}') == 2
    assert "\n[0, 1, 2]\n" in done.stdout
    assert "digits-too deleted." in done.stdout
    assert (typed / "image" / "Dockerfile").exists()
