"""Files of a datastore on their way here: whole or not at all, whatever the network does."""

import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from runyard.azureml.core import Workspace
from runyard.client.downloads import Downloads, Received, Stopped, Wanted
from runyard.client.home import read_token, token_file
from runyard.client.http import Server
from runyard.client.local_server import connect
from runyard.errors import AzureMLException, ConflictError, NotFoundError, ServiceException
from runyard.files.cache import ContentCache
from tests.emulators.fault_proxy import DOWN, FaultProxy, start_fault_proxy
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

BIG = os.urandom(12 << 20)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads-home")


@pytest.fixture(scope="module")
def workspace(home: Path) -> Iterator[Workspace]:
    with own_server(home):
        yield Workspace.create("downloads", exist_ok=True)


@pytest.fixture(scope="module")
def files(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "big").write_bytes(BIG)
    for number in range(30):
        (folder / f"{number:02}").write_bytes(b"%d" % number)
    workspace.get_default_datastore().upload(str(folder), "in", show_progress=False)
    return folder


@pytest.fixture
def proxy(workspace: Workspace) -> Iterator[FaultProxy]:
    with start_fault_proxy(connect().address()) as found:
        yield found


@pytest.fixture
def server(home: Path, proxy: FaultProxy) -> Iterator[Server]:
    found = Server(lambda: proxy.url, read_token(token_file(home)), 0.3)
    yield found
    found.close()


def _wanted(workspace: Workspace, folder: Path, path: str = "in") -> list[Wanted]:
    store = workspace.get_default_datastore()
    return [
        Wanted(str(folder / one.path), None, store.name, one.path, one.size_bytes, one.tag) for one in store._list(path)
    ]


def test_transfer_is_taken_up_where_it_broke_off(
    workspace: Workspace, files: Path, server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.cut_after(5 << 20, DOWN, times=2)
    (found,) = Downloads(server, "downloads", False).carry_out(_wanted(workspace, tmp_path, "in/big"))
    assert (found.size_bytes, found.sha256) == (len(BIG), sha256(BIG).hexdigest())
    assert (tmp_path / "in" / "big").read_bytes() == BIG
    assert proxy.cuts == 2
    assert proxy.bytes_passed[DOWN] < 1.5 * len(BIG), "what was here did not come again"
    assert os.listdir(tmp_path / "in") == ["big"]


def test_many_files_come_and_are_counted(workspace: Workspace, files: Path, server: Server, tmp_path: Path) -> None:
    sizes: list[int] = []
    done: list[Received] = []
    found = Downloads(server, "downloads", False).carry_out(_wanted(workspace, tmp_path), sizes.append, done.append)
    assert [one.wanted.path for one in found] == sorted(one.wanted.path for one in found)
    assert sum(sizes) == sum(one.size_bytes for one in found) == len(BIG) + 50
    assert len(done) == len(found) == 31
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == {
        path.name: path.read_bytes() for path in files.iterdir()
    }


def test_network_that_is_gone_is_said_and_leaves_no_file(
    workspace: Workspace, files: Path, server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    wanted = _wanted(workspace, tmp_path, "in/big")
    proxy.cut_after(1 << 20, DOWN, times=1)
    downloads = Downloads(server, "downloads", False, patience_s=1.0)
    proxy.refuse()
    with pytest.raises(ServiceException, match=r"does not answer|broke off"):
        downloads.carry_out(wanted)
    assert os.listdir(tmp_path / "in") == []


def test_file_that_changes_between_two_tries_is_never_made_of_both(
    workspace: Workspace, server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    (tmp_path / "v").write_bytes(BIG)
    store = workspace.get_default_datastore()
    store.upload_files([str(tmp_path / "v")], str(tmp_path), "change", show_progress=False)
    (wanted,) = _wanted(workspace, tmp_path / "got", "change")
    proxy.cut_after(5 << 20, DOWN, times=1)
    proxy.stall()

    def change() -> None:
        (tmp_path / "v").write_bytes(BIG[::-1])
        store.upload_files([str(tmp_path / "v")], str(tmp_path), "change", overwrite=True, show_progress=False)

    downloads = Downloads(server, "downloads", False)
    work = threading.Thread(target=lambda: failures.append(_failure(downloads, wanted)))
    failures: list[Exception | None] = []
    work.start()
    change()
    proxy.heal()
    work.join()
    assert isinstance(failures[0], ConflictError)
    assert "has changed since it was listed" in str(failures[0])
    assert not (tmp_path / "got" / "change" / "v").exists()


def _failure(downloads: Downloads, wanted: Wanted) -> Exception | None:
    try:
        downloads.carry_out([wanted])
    except Exception as error:  # noqa: BLE001 - looked at by the test
        return error
    return None


def test_missing_file_is_named_or_left_out(workspace: Workspace, files: Path, server: Server, tmp_path: Path) -> None:
    missing = Wanted(str(tmp_path / "gone"), None, "workspaceblobstore", "in/gone")
    with pytest.raises(NotFoundError, match="in/gone"):
        Downloads(server, "downloads", False).carry_out([missing, *_wanted(workspace, tmp_path)])
    kept = Downloads(server, "downloads", False, skip=(NotFoundError,)).carry_out(
        [missing, *_wanted(workspace, tmp_path / "again")]
    )
    assert len(kept) == 31


def test_listed_size_must_arrive(workspace: Workspace, files: Path, server: Server, tmp_path: Path) -> None:
    short = Wanted(str(tmp_path / "x"), None, "workspaceblobstore", "in/00", size_bytes=7)
    with pytest.raises(AzureMLException, match="arrived with 1 bytes and was listed with 7"):
        Downloads(server, "downloads", False).carry_out([short])
    assert os.listdir(tmp_path) == []


def test_cache_serves_the_second_time_and_never_a_damaged_content(
    workspace: Workspace, files: Path, server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    cache = ContentCache(str(tmp_path / "cache"))
    Downloads(server, "downloads", False, cache).carry_out(_wanted(workspace, tmp_path / "a"))
    passed = proxy.bytes_passed[DOWN]
    linked = Downloads(server, "downloads", False, cache, may_link=True)
    linked.carry_out(_wanted(workspace, tmp_path / "b"))
    assert proxy.bytes_passed[DOWN] == passed
    assert (tmp_path / "b" / "in" / "big").read_bytes() == BIG
    # A script writes to its link, as the server's own user may.
    os.chmod(tmp_path / "b" / "in" / "00", 0o644)
    (tmp_path / "b" / "in" / "00").write_bytes(b"9")
    Downloads(server, "downloads", False, cache).carry_out(_wanted(workspace, tmp_path / "c"))
    assert (tmp_path / "c" / "in" / "00").read_bytes() == b"0"


@pytest.mark.parametrize("is_cached", [False, True])
def test_file_of_the_longest_name_comes(workspace: Workspace, server: Server, tmp_path: Path, is_cached: bool) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / ("n" * 255)).write_bytes(b"long")
    workspace.get_default_datastore().upload(str(tmp_path / "up"), "long", overwrite=True, show_progress=False)
    cache = ContentCache(str(tmp_path / "cache")) if is_cached else None
    Downloads(server, "downloads", False, cache).carry_out(_wanted(workspace, tmp_path, "long"))
    assert [(one.name, one.read_bytes()) for one in (tmp_path / "long").iterdir()] == [("n" * 255, b"long")]


def test_cache_that_holds_two_files_serves_many_at_once(
    workspace: Workspace, files: Path, server: Server, tmp_path: Path
) -> None:
    cache = ContentCache(str(tmp_path / "cache"), 4)
    for turn in range(10):
        wanted = _wanted(workspace, tmp_path / f"to{turn}")
        small = [one for one in wanted if (one.size_bytes or 0) <= 2]
        Downloads(server, "downloads", False, cache, may_link=True).carry_out(small)
        assert [Path(one.target).read_bytes() for one in small] == [b"%d" % number for number in range(30)]


def test_stop_ends_the_wait_for_what_another_brings(
    workspace: Workspace, files: Path, server: Server, tmp_path: Path
) -> None:
    cache = ContentCache(str(tmp_path / "cache"))
    downloads = Downloads(server, "downloads", False, cache)
    wanted = _wanted(workspace, tmp_path, "in/00")

    def stop() -> None:
        raise Stopped

    with cache.lock(downloads.key(wanted[0])), pytest.raises(Stopped):
        downloads.carry_out(wanted, on_tick=stop)
    assert not (tmp_path / "in" / "00").exists()


def test_stop_ends_what_is_on_its_way(
    workspace: Workspace, files: Path, server: Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.slow_to(1 << 20)
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        raise Stopped

    with pytest.raises(Stopped):
        Downloads(server, "downloads", False).carry_out(_wanted(workspace, tmp_path, "in/big"), on_tick=tick)
    assert ticks == [1]
    assert os.listdir(tmp_path / "in") == []
