"""Versions under concurrency: unique and without gaps, from threads and from processes, over HTTP."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runyard.client.transfer import send_bytes
from runyard.protocol.datasets import DatasetSpec, Source
from runyard.protocol.models import ModelSpec
from runyard.protocol.runs import Artifact
from tests.faults.house import WORKSPACE, House

pytestmark = pytest.mark.e2e

COUNT = 100
#: Registers 25 versions from a process of its own.
PROCESS = """
import sys
from runyard.client.http import Server
from runyard.protocol.models import ModelSpec
from runyard.protocol.runs import Artifact
url, token, digest = sys.argv[1:]
server = Server(lambda: url, token)
for i in range(25):
    spec = ModelSpec("shared", files=(Artifact("model.bin", digest, 7),))
    print(server.call("register_model", spec, workspace="house").version)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    found = House(tmp_path_factory.mktemp("versions"))
    yield found
    found.clean()


@pytest.fixture(scope="module")
def digest(house: House) -> str:
    return send_bytes(house.server, WORKSPACE, [b"weights"])[0]


def test_hundred_models_registered_at_once_have_the_versions_1_to_100(house: House, digest: str) -> None:
    spec = ModelSpec("threads", files=(Artifact("model.bin", digest, 7),))
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: house.server.call("register_model", spec, workspace=WORKSPACE), range(COUNT)))
    assert sorted(one.version for one in found) == list(range(1, COUNT + 1))
    listed = house.server.call("list_models", query={"name": "threads"}, workspace=WORKSPACE)
    assert [one.version for one in listed] == list(range(COUNT, 0, -1))


def test_processes_that_register_at_once_share_the_numbers(house: House, digest: str) -> None:
    token = (house.home / "token").read_text().strip()
    words = [sys.executable, "-c", PROCESS, house.server.address(), token, digest]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    versions = [int(line) for one in started for line in one.communicate()[0].split()]
    assert sorted(versions) == list(range(1, COUNT + 1))


def test_hundred_definitions_of_a_dataset_saved_at_once_have_the_versions_1_to_100(house: House) -> None:
    def save(i: int) -> int:
        spec = DatasetSpec((Source(url=f"http://127.0.0.1/{i}"),), name="data", create_new_version=True)
        version: int = house.server.call("save_dataset", spec, workspace=WORKSPACE).version
        return version

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(save, range(COUNT))) == list(range(1, COUNT + 1))


def test_same_definition_saved_at_once_is_one_version(house: House) -> None:
    spec = DatasetSpec((Source(url="http://127.0.0.1/same"),), name="same")
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: house.server.call("save_dataset", spec, workspace=WORKSPACE).id, range(40)))
    assert len(set(found)) == 1


def test_deleted_version_is_never_given_again(house: House, digest: str) -> None:
    spec = ModelSpec("deleted", files=(Artifact("model.bin", digest, 7),))
    for _ in range(2):
        house.server.call("register_model", spec, workspace=WORKSPACE)
    house.server.call("delete_model", workspace=WORKSPACE, name="deleted", version=2)
    assert house.server.call("register_model", spec, workspace=WORKSPACE).version == 3


def test_experiment_made_by_many_at_once_is_one(house: House) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = pool.map(
            lambda _: house.server.call("create_experiment", workspace=WORKSPACE, name="many").id, range(40)
        )
        assert len(set(found)) == 1


def test_second_server_on_one_home_refuses_with_one_sentence(house: House, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runyard.server", "--home", str(house.home)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(house.home) in done.stderr
    assert house.server.call("ping").name == "runyard"
    assert house.server_pid() > 0
