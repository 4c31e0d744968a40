"""A package's Dockerfile, built by a real engine on an image that is made here, and the service that the image is."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sklearn.datasets import load_digits

from runyard.azureml.core import Model, Workspace
from runyard.environments.uv import find_uv
from tests.environments.containers import IMAGE, libraries_of, make_image, podman, podman_settings
from tests.serving.asking import get, post

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("containers"),
    pytest.mark.skipif(shutil.which("podman") is None, reason="tests/system-packages.sh installs podman"),
]

ROOT = Path(__file__).resolve().parents[2]
DIGITS, LABELS = load_digits(return_X_y=True)
#: With pip, and with the wheels that are needed, so that no build asks a network.
BASE = "localhost/with-pip:1"
#: Each layer on the way would copy all of the image once more here.
BUILD = ("build", "--quiet", "--layers=false")
_BASE = """FROM {image}
COPY root/ /
ENV PATH={programs}:/usr/local/bin:/usr/bin:/bin
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels UV_OFFLINE=1 UV_FIND_LINKS=/wheels
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Podman's variables; its store has IMAGE."""
    folder = tmp_path_factory.mktemp("podman")
    variables = podman_settings(folder)
    make_image(folder, variables)
    return variables


def build_wheel(folder: Path) -> Path:
    """Runyard as it is in this tree."""
    words = ["build", "--quiet", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([find_uv(), *words, "--out-dir", str(folder), str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("runyard-*.whl")
    return wheel


def make_base(folder: Path, variables: dict[str, str], wheel: Path, requirements: Path) -> None:
    """BASE: pip, the wheels of all that is installed, and what these are linked with."""
    root = folder / "root"
    words = ["download", "--quiet", "--only-binary", ":all:", "--dest", str(root / "wheels"), "pip"]
    subprocess.run(
        [sys.executable, "-m", "pip", *words, f"{wheel}[server]", "--requirement", str(requirements)],
        check=True, capture_output=True,
    )  # fmt: skip
    (pip,) = (root / "wheels").glob("pip-*.whl")
    program = root / "usr" / "local" / "bin" / "pip"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec python /wheels/{pip.name}/pip "$@"\n')
    program.chmod(0o755)
    import numpy
    import sklearn

    for module in (numpy, sklearn):
        for linked in {one for path in Path(module.__file__).parent.rglob("*.so") for one in libraries_of(path)}:
            if not linked.startswith(sys.prefix):
                target = root / linked.lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(linked, target)
    (folder / "Dockerfile").write_text(_BASE.format(image=IMAGE, programs=f"{sys.base_prefix}/bin"))
    podman(variables, *BUILD, "--tag", BASE, str(folder))


def test_the_dockerfile_of_a_package_makes_an_image_that_serves(
    workspace: Workspace, trained: dict[str, Model], engine: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "image"
    Model.package(workspace, [trained["linear"]], image_name="digits").save(str(folder))
    wheel = build_wheel(folder)
    (tmp_path / "base").mkdir()
    make_base(tmp_path / "base", engine, wheel, folder / "requirements.txt")
    # Containers have this host's own network here: any port that is free, instead of that of v1.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    wanted = folder / "service" / "wanted.json"
    wanted.write_text(json.dumps({**json.loads(wanted.read_text()), "host": "127.0.0.1", "port": port}))
    arguments = ["--build-arg", f"BASE={BASE}", "--build-arg", f"RUNYARD=/opt/{wheel.name}[server]"]
    podman(engine, *BUILD, "--tag", "digits:1", *arguments, str(folder))
    name = f"digits-{port}"
    podman(engine, "run", "--detach", "--name", name, "digits:1")
    try:
        wait_until_ready(engine, name, f"http://127.0.0.1:{port}")
        assert post(f"http://127.0.0.1:{port}/score", {"data": DIGITS[:3].tolist()}) == (
            200,
            {"predict": LABELS[:3].tolist()},
        )
        assert get(f"http://127.0.0.1:{port}/v2/models/linear")[1]["versions"] == [str(trained["linear"].version)]
    finally:
        podman(engine, "rm", "--force", "--time", "10", name)


def wait_until_ready(engine: dict[str, str], name: str, base: str) -> None:
    """Within two minutes."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            if get(base + "/v2/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(podman(engine, "logs", name))
