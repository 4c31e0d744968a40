"""Files whose names or kinds no record expects: the run ends as its script did, and says what became of them."""

import pytest

from runyard.protocol.runs import Artifact, RunStatus
from tests.faults.house import WORKSPACE, House

pytestmark = pytest.mark.e2e


def _artifacts(house: House, run_id: str) -> dict[str, Artifact]:
    found: list[Artifact] = house.server.call("list_artifacts", workspace=WORKSPACE, run_id=run_id)
    return {one.path: one for one in found}


def test_odd_names_below_logs_end_no_run(house: House) -> None:
    run_id = house.submit(
        r"""
os.makedirs("logs/deep")
for name in (b"logs/a\\b.txt", b"logs/\xff\xfe.txt", b"logs/line\nbreak.txt", b"logs/100%.txt", b"logs/" + b"x" * 255):
    with open(name, "wb") as file:
        file.write(b"said\n")
open("logs/changing", "w").write("a file")
time.sleep(0.5)  # sent by now
os.remove("logs/changing")
os.makedirs("logs/changing")
open("logs/changing/inner.txt", "w").write("now a folder")
time.sleep(0.5)
run.log("survived", 1)
"""
    )
    assert house.wait(run_id).status == RunStatus.COMPLETED
    assert house.metric(run_id, "survived") == [1]
    found = _artifacts(house, run_id)
    assert {"logs/a%5Cb.txt", "logs/line%0Abreak.txt", "logs/changing/inner.txt"} <= set(found)
    assert {"logs/100%.txt", "logs/" + "x" * 255} <= set(found)


def test_name_that_is_too_long_once_it_is_quoted_is_cut_and_kept(house: House) -> None:
    run_id = house.submit('open("outputs/" + "%41" * 81 + ".bin", "wb").write(b"1234")')
    assert house.wait(run_id).status == RunStatus.COMPLETED
    (path,) = (one for one in _artifacts(house, run_id) if one.startswith("outputs/"))
    assert path.startswith("outputs/%2541%2541")
    assert path.endswith(".bin")
    data = house.server.call("read_artifact", workspace=WORKSPACE, run_id=run_id, path=path)
    assert data == b"1234"


def test_path_that_no_record_can_hold_is_left_out_and_the_rest_is_stored(house: House) -> None:
    run_id = house.submit(
        """
os.chdir("outputs")
for _ in range(12):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
open("deep.txt", "w").write("too deep")
os.chdir(os.environ["AZUREML_OUTPUT_DIRECTORY"])
open("kept.txt", "w").write("kept")
"""
    )
    assert house.wait(run_id).status == RunStatus.COMPLETED
    assert [one for one in _artifacts(house, run_id) if one.startswith("outputs/")] == ["outputs/kept.txt"]
    assert "Runyard: A path has at most" in house.log(run_id)


@pytest.mark.parametrize("top", ["outputs", "logs"])
def test_link_in_place_of_a_folder_of_the_record_takes_nothing_from_where_it_leads(house: House, top: str) -> None:
    mine = house.stage / "mine"
    mine.mkdir()
    (mine / "big.bin").write_bytes(b"1" * (3 << 20))
    run_id = house.submit(f'os.rmdir("{top}"); os.symlink({str(mine)!r}, "{top}")')
    assert house.wait(run_id).status == RunStatus.COMPLETED
    assert (mine / "big.bin").stat().st_size == 3 << 20
    assert not [path for path in _artifacts(house, run_id) if path.startswith(top)]
    assert f"Runyard: {top!r} was replaced by a link" in house.log(run_id)


def test_pipes_and_sockets_are_no_files_and_hold_nothing_up(house: House) -> None:
    run_id = house.submit(
        """
import socket
for folder in ("logs", "outputs"):
    os.mkfifo(folder + "/pipe")
    socket.socket(socket.AF_UNIX).bind(folder + "/socket")
time.sleep(0.5)
run.log("survived", 1)
"""
    )
    assert house.wait(run_id).status == RunStatus.COMPLETED
    assert house.metric(run_id, "survived") == [1]
    assert not [path for path in _artifacts(house, run_id) if path.startswith(("logs", "outputs"))]


def test_link_to_a_folder_is_not_followed_and_said(house: House) -> None:
    run_id = house.submit('os.mkdir("outputs/ck-1"); os.symlink("ck-1", "outputs/latest")')
    assert house.wait(run_id).status == RunStatus.COMPLETED
    assert "Runyard: 'outputs/latest' is a link to a folder" in house.log(run_id)
