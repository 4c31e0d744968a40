"""A lost disk, a network that fails, a bucket that will not have us: nothing is lost, and what is wrong is said."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.errors import ServiceException
from runyard.protocol.digests import CHUNK_BYTES, digest_bytes
from runyard.storage import artifacts
from runyard.storage.artifacts import RemoteStore
from runyard.storage.azure_blob import AzureObjects
from runyard.storage.local import LocalStore
from runyard.storage.objects import ObjectService, StoreRefused
from runyard.storage.s3 import S3Objects
from tests.emulators.fault_proxy import DOWN, UP, start_fault_proxy
from tests.emulators.servers import S3, STORAGE, Azurite
from tests.storage.conftest import Open
from tests.storage.contents import CONTENT, OTHER, send, spec, wait

pytestmark = STORAGE


class TestLost:
    """The server's disk is gone; the bucket has everything."""

    def test_the_catalog_is_made_again_from_the_bucket(
        self, make_service: Callable[..., ObjectService], open_store: Open, tmp_path: Path
    ) -> None:
        first = open_store(make_service(), tmp_path / "catalog")
        contents = [os.urandom(size) for size in (1, 100, 64 << 10, 5 << 20)] * 2 + [
            number.to_bytes(4, "big") * 9 for number in range(3000)
        ]
        digests = first.put_many(contents)
        assert first.finish_upload(send(first, CONTENT), digest_bytes(CONTENT))
        first.close()
        second = open_store(make_service(), tmp_path / "another disk")
        assert wait(lambda: second.status().problem == "")
        assert second.has([*digests, digest_bytes(CONTENT)]) == {*digests, digest_bytes(CONTENT)}
        assert second.read_many(digests, 1 << 30) == contents
        assert second.read(digest_bytes(CONTENT)) == CONTENT

    def test_a_torn_catalog_is_made_again(
        self, make_service: Callable[..., ObjectService], open_store: Open, tmp_path: Path
    ) -> None:
        first = open_store(make_service(), tmp_path / "catalog")
        digests = first.put_many([b"one", OTHER])
        first.close()
        (tmp_path / "catalog" / "catalog.db").write_bytes(b"not a database" * 1000)
        for suffix in ("-wal", "-shm"):
            (tmp_path / "catalog" / f"catalog.db{suffix}").unlink(missing_ok=True)
        second = open_store(make_service(), tmp_path / "catalog")
        assert wait(lambda: second.status().problem == "")
        assert second.has(digests) == set(digests)

    def test_what_lay_on_the_disk_before_is_read_from_there(self, service: ObjectService, tmp_path: Path) -> None:
        older = LocalStore(tmp_path / "store")
        digests = older.put_many([b"small", OTHER])
        store = RemoteStore("bucket://here", service, tmp_path / "catalog", older)
        store.start()
        try:
            # Asked for what the bucket has, it says so: what comes again is sent there.
            assert wait(lambda: store.has(digests) == set())
            assert [store.read(one) for one in digests] == [b"small", OTHER]
            assert store.size(digests[1]) == len(OTHER)
        finally:
            store.close()

    def test_until_it_is_listed_nothing_is_called_absent(
        self, make_service: Callable[..., ObjectService], endpoint: str, open_store: Open, tmp_path: Path
    ) -> None:
        with start_fault_proxy(endpoint) as proxy:
            proxy.refuse()
            store = open_store(make_service(proxy.url), tmp_path / "catalog")
            for ask in (lambda: store.has([digest_bytes(b"x")]), lambda: store.read(digest_bytes(b"x"))):
                with pytest.raises(ServiceException, match="being listed"):
                    ask()


class TestFaults:
    """Networks and services that fail."""

    def test_a_read_that_is_cut_goes_on(
        self, make_service: Callable[..., ObjectService], endpoint: str, open_store: Open, tmp_path: Path
    ) -> None:
        with start_fault_proxy(endpoint) as proxy:
            store = open_store(make_service(proxy.url), tmp_path / "catalog")
            assert store.finish_upload(send(store, CONTENT), digest_bytes(CONTENT))
            for politely in (False, True):
                proxy.cut_after(3_000_000, DOWN, times=2, politely=politely)
                assert store.read(digest_bytes(CONTENT)) == CONTENT
            assert proxy.cuts == 4

    def test_a_part_that_is_cut_leaves_the_others(
        self, make_service: Callable[..., ObjectService], endpoint: str, open_store: Open, tmp_path: Path
    ) -> None:
        with start_fault_proxy(endpoint) as proxy:
            store = open_store(make_service(proxy.url), tmp_path / "catalog")
            upload = send(store, CONTENT, (1,))
            proxy.cut_after(1_000_000, UP)
            with pytest.raises(ServiceException, match=r"cannot be reached|does not answer"):
                store.append_upload(upload, CHUNK_BYTES, CONTENT[CHUNK_BYTES : 2 * CHUNK_BYTES])
            proxy.heal()
            again = store.plan_upload(spec(CONTENT))
            assert (again.upload_id, again.present) == (upload, (1,))
            send(store, CONTENT, (2, 3))
            assert store.finish_upload(upload, digest_bytes(CONTENT))
            assert store.read(digest_bytes(CONTENT)) == CONTENT

    def test_a_service_that_is_away_is_said_and_comes_back(
        self, make_service: Callable[..., ObjectService], endpoint: str, open_store: Open, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(artifacts, "LOOK_S", 0.2)
        with start_fault_proxy(endpoint) as proxy:
            store = open_store(make_service(proxy.url), tmp_path / "catalog")
            (digest,) = store.put_many([OTHER])
            proxy.refuse()
            with pytest.raises(ServiceException, match="cannot be reached"):
                store.put_many([b"while it is away"])
            assert "cannot be reached" in store.status().problem
            # What is known needs no service.
            assert store.has([digest]) == {digest}
            assert store.size(digest) == len(OTHER)
            proxy.heal()
            assert wait(lambda: store.status().problem == "")
            assert store.read(digest) == OTHER

    def test_after_some_failures_the_next_ones_cost_nothing(self) -> None:
        reach = artifacts.Reach("bucket://here")
        for _ in range(artifacts.FAILURES):
            with pytest.raises(ServiceException, match="away"), reach:
                raise ServiceException("It is away.")
        calls: list[int] = []
        with pytest.raises(ServiceException, match="away"), reach:
            calls.append(1)
        assert calls == []
        reach.forgive()
        with reach:
            calls.append(1)
        assert reach.problem == ""

    def test_a_full_disk_of_the_server_is_said(
        self, remote: RemoteStore, service: ObjectService, open_store: Open, tmp_path: Path
    ) -> None:
        catalog = remote._catalog
        (pages,) = catalog._connection.execute("PRAGMA page_count").fetchone()
        catalog._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(ServiceException, match=r"The disk of .* is full; free some space"):
            remote.put_many([number.to_bytes(4, "big") * 20 for number in range(5000)])
        catalog._connection.execute("PRAGMA max_page_count = 1000000")
        # The pack is there, and is not lost: it is found by the next listing.
        store = open_store(service, tmp_path / "another disk")
        assert wait(lambda: store.status().problem == "")
        assert store.has([digest_bytes(bytes(80))]) == {digest_bytes(bytes(80))}


class TestRefused:
    """A bucket that will not have us."""

    def test_no_such_bucket(self, s3: S3, tmp_path: Path) -> None:
        known = {"key": s3.key, "secret": "canary-secret"}
        store = RemoteStore("s3://nobody", S3Objects("s3://nobody", "nobody", "", s3.endpoint, known), tmp_path)
        with pytest.raises(StoreRefused, match=r"s3://nobody refuses: .*NoSuchBucket") as failure:
            store.start()
        assert "canary" not in str(failure.value)

    def test_a_wrong_key(self, azurite: Azurite, tmp_path: Path) -> None:
        azurite.make_container("wrongkey")
        known = {"account": azurite.account_name, "key": "Canary" + azurite.account_key[6:]}
        service = AzureObjects("az://wrongkey", "wrongkey", "", azurite.endpoint, known)
        with pytest.raises(StoreRefused, match="refuses") as failure:
            RemoteStore("az://wrongkey", service, tmp_path).start()
        assert known["key"] not in str(failure.value)
