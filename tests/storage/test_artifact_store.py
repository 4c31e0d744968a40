"""The artifact store keeps one contract on this disk, on S3 and on Azure Blob: real services, real bytes."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.errors import ConflictError, IntegrityError, NotFoundError, UserErrorException
from runyard.protocol.blobs import UploadSpec
from runyard.protocol.digests import CHUNK_BYTES, digest_bytes
from runyard.storage import artifacts, recount
from runyard.storage.artifacts import RemoteStore
from runyard.storage.base import ArtifactStore
from runyard.storage.catalog import Catalog
from runyard.storage.objects import ObjectService
from runyard.storage.packed import make_pack, pack_key
from tests.emulators.servers import STORAGE
from tests.storage.conftest import Open
from tests.storage.contents import CONTENT, OTHER, put_at, read_at, reads, send, spec, wait

pytestmark = STORAGE


class TestContract:
    """What every artifact store does, wherever it lies."""

    def test_what_was_put_is_there_whole_and_in_ranges(self, store: ArtifactStore) -> None:
        contents = [b"", b"small", os.urandom(1000), OTHER, os.urandom(3 << 20)]
        digests = store.put_many(contents)
        assert digests == [digest_bytes(one) for one in contents]
        assert store.has(digests) == set(digests)
        for digest, content in zip(digests, contents, strict=True):
            assert store.size(digest) == len(content)
            assert store.read(digest) == content
            with store.open(digest) as file:
                file.seek(len(content) // 2)
                assert file.read(100) == content[len(content) // 2 :][:100]
                assert file.seek(0, os.SEEK_END) == len(content)
                assert file.read() == b""

    def test_what_was_never_put_is_not_there(self, store: ArtifactStore) -> None:
        digest = digest_bytes(b"never")
        assert store.has([digest]) == set()
        for ask in (store.size, store.open, store.read):
            with pytest.raises(NotFoundError, match=digest):
                ask(digest)

    def test_many_are_read_at_once_up_to_a_size(self, store: ArtifactStore) -> None:
        contents = [bytes([number]) * 1000 for number in range(50)] + [OTHER]
        digests = store.put_many(contents)
        assert store.read_many(digests, 1 << 20) == contents
        assert store.read_many(digests, 3500) == contents[:3]
        assert store.read_many([digests[-1], digests[0]], 10) == [OTHER]

    def test_parts_become_the_content(self, store: ArtifactStore) -> None:
        digest = digest_bytes(CONTENT)
        upload = send(store, CONTENT)
        assert store.has([digest]) == set()
        assert store.finish_upload(upload, digest) == digest
        assert store.read(digest) == CONTENT
        assert store.finish_upload(upload, digest) == digest

    def test_an_upload_that_is_unknown_is_over(self, store: ArtifactStore) -> None:
        for upload_id in ("0" * 32, os.urandom(16).hex()):
            with pytest.raises(NotFoundError, match="is over or was never begun"):
                store.append_upload(upload_id, 0, b"x")
            with pytest.raises(NotFoundError, match="is over or was never begun"):
                store.finish_upload(upload_id, digest_bytes(b"x"))


class TestSmallContents:
    """Packs."""

    def test_a_batch_is_one_object(self, remote: RemoteStore, service: ObjectService) -> None:
        remote.put_many([os.urandom(500) for _ in range(2000)])
        keys = [one.key for one in service.list("")]
        assert len(keys) == 1
        assert keys[0].startswith("packs/")

    def test_what_is_there_is_not_sent_again(self, remote: RemoteStore, service: ObjectService) -> None:
        for _ in range(2):
            remote.put_many([b"one", b"two", OTHER])
        assert len(list(service.list(""))) == 2

    def test_small_packs_are_merged_and_nothing_is_lost(
        self, remote: RemoteStore, service: ObjectService, open_store: Open, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr(recount, "MERGE_COUNT", 5)
        contents = [os.urandom(300 + number) for number in range(12)]
        digests = [remote.put_many([one])[0] for one in contents]
        # Another server's catalog, from before.
        other = open_store(service, tmp_path / "other")
        assert wait(lambda: other.status().problem == "")
        remote.tidy(time.time())
        assert len(list(service.list("packs/"))) == 1
        assert [remote.read(one) for one in digests] == contents
        fresh = open_store(service, tmp_path / "fresh")
        assert wait(lambda: fresh.has(digests) == set(digests))
        assert fresh.read_many(digests, 1 << 20) == contents
        # The other one finds out, and then the new place.
        with pytest.raises(IntegrityError):
            other.read(digests[0])
        assert wait(lambda: reads(other, digests[0]))

    def test_content_of_two_packs_is_found_while_one_is_left(self, service: ObjectService, tmp_path: Path) -> None:
        digest, catalog = digest_bytes(b"twice"), Catalog(tmp_path / "catalog.db", "here")
        for content in (b"one", b"two"):
            name, data, _ = make_pack({digest: b"twice", digest_bytes(content): content})
            service.put(pack_key(name), data)
        for _ in range(2):
            recount.recount(service, catalog, artifacts.blob_prefix, artifacts.digest_of)
            found = catalog.find(digest)
            assert found is not None, "the other pack has it"
            service.delete([pack_key(found.pack)])
        recount.recount(service, catalog, artifacts.blob_prefix, artifacts.digest_of)
        assert catalog.find(digest) is None
        catalog.close()


class TestVerified:
    """Nothing is stored under a digest that is not its own."""

    def test_a_part_that_is_not_the_chunk_is_refused(self, remote: RemoteStore) -> None:
        upload = remote.plan_upload(spec(CONTENT))
        with pytest.raises(IntegrityError, match="Part 2"):
            remote.append_upload(upload.upload_id, CHUNK_BYTES, bytes(CHUNK_BYTES))

    def test_parts_of_another_size_are_refused(self, remote: RemoteStore) -> None:
        upload = remote.plan_upload(spec(CONTENT))
        for offset, data in ((1, CONTENT[1 : 1 + CHUNK_BYTES]), (0, CONTENT[:100]), (24 << 20, b"x")):
            with pytest.raises(UserErrorException):
                remote.append_upload(upload.upload_id, offset, data)

    def test_chunks_that_do_not_make_the_digest_are_refused(self, remote: RemoteStore) -> None:
        told = spec(CONTENT)
        with pytest.raises(IntegrityError, match="do not make"):
            remote.plan_upload(UploadSpec(told.digest, told.size_bytes, told.chunks[::-1]))

    def test_a_missing_part_is_named_and_nothing_is_there(self, remote: RemoteStore) -> None:
        upload = send(remote, CONTENT, (1, 3))
        with pytest.raises(ConflictError, match="Part 2 of 3"):
            remote.finish_upload(upload, digest_bytes(CONTENT))
        assert remote.has([digest_bytes(CONTENT)]) == set()

    def test_wrong_bytes_past_us_are_found_out(self, remote: RemoteStore, service: ObjectService) -> None:
        """By the service, or by reading back what it took."""
        upload = remote.plan_upload(spec(CONTENT, direct=True))
        assert upload.is_direct
        for part in remote.sign_parts(upload.upload_id, (1, 2, 3)):
            offset = (part.number - 1) * CHUNK_BYTES
            data = CONTENT[offset : offset + CHUNK_BYTES]
            assert put_at(part, bytes(len(data)) if part.number == 2 else data) in (200, 201)
        with pytest.raises(IntegrityError, match="part 2 differs"):
            remote.finish_upload(upload.upload_id, digest_bytes(CONTENT))
        assert remote.has([digest_bytes(CONTENT)]) == set()
        assert list(service.list("")) == []

    def test_what_the_service_lost_or_changed_is_no_content(self, remote: RemoteStore, service: ObjectService) -> None:
        (changed, lost) = remote.put_many([OTHER, OTHER[1:]])
        service.put(artifacts.blob_key(changed), bytes(len(OTHER)))
        service.delete([artifacts.blob_key(lost)])
        with pytest.raises(IntegrityError, match="is damaged"):
            remote.read(changed)
        with pytest.raises(IntegrityError, match="has lost"):
            remote.read(lost)


class TestDirect:
    """Bytes that go past the server."""

    def test_parts_go_straight_to_the_service_and_come_straight_from_it(self, remote: RemoteStore) -> None:
        digest = digest_bytes(CONTENT)
        upload = remote.plan_upload(spec(CONTENT, direct=True))
        for part in remote.sign_parts(upload.upload_id, (1, 2, 3)):
            offset = (part.number - 1) * CHUNK_BYTES
            assert put_at(part, CONTENT[offset : offset + CHUNK_BYTES]) in (200, 201)
        assert remote.finish_upload(upload.upload_id, digest) == digest
        assert remote.read(digest) == CONTENT
        address = remote.find_address(digest)
        assert address is not None
        assert read_at(address) == (200, CONTENT)

    def test_an_address_is_for_that_content_alone(self, remote: RemoteStore) -> None:
        digest, other = remote.put_many([OTHER, OTHER[1:]])
        address = remote.find_address(digest)
        assert address is not None
        name = digest.partition(":")[2]
        forged = address.replace(name, other.partition(":")[2]).replace(f"/{name[:2]}/", f"/{other[7:9]}/")
        if "X-Amz" in address or "X-Goog" in address:
            pytest.skip("neither moto nor the emulator of Google checks a signature")
        assert read_at(forged)[0] == 403

    def test_small_contents_have_no_address(self, remote: RemoteStore) -> None:
        assert remote.find_address(remote.put_many([b"small"])[0]) is None

    def test_parts_of_an_upload_through_us_are_not_signed(self, remote: RemoteStore) -> None:
        upload = remote.plan_upload(spec(CONTENT))
        with pytest.raises(ConflictError):
            remote.sign_parts(upload.upload_id, [1])


class TestResumed:
    """What broke off is gone on with."""

    @pytest.mark.parametrize("direct", [False, True])
    def test_a_second_try_needs_the_missing_parts_only(
        self, make_service: Callable[..., ObjectService], open_store: Open, tmp_path: Path, direct: bool
    ) -> None:
        first = open_store(make_service(), tmp_path / "catalog")
        upload = first.plan_upload(spec(CONTENT, direct))
        for number in (1, 3):
            offset = (number - 1) * CHUNK_BYTES
            first.append_upload(upload.upload_id, offset, CONTENT[offset : offset + CHUNK_BYTES])
        first.close()
        # The server was killed: another one, on the same disk.
        second = open_store(make_service(), tmp_path / "catalog")
        again = second.plan_upload(spec(CONTENT, direct))
        assert (again.upload_id, again.present) == (upload.upload_id, (1, 3))
        second.append_upload(again.upload_id, CHUNK_BYTES, CONTENT[CHUNK_BYTES : 2 * CHUNK_BYTES])
        assert second.finish_upload(again.upload_id, digest_bytes(CONTENT))
        assert second.read(digest_bytes(CONTENT)) == CONTENT

    def test_a_server_killed_before_it_noted_the_end_finds_it(
        self, remote: RemoteStore, service: ObjectService, tmp_path: Path
    ) -> None:
        upload_id = send(remote, CONTENT)
        upload = Catalog(tmp_path / "catalog" / "catalog.db", "bucket://here").find_upload(upload_id)
        assert upload is not None
        service.finish_parts(upload.key, upload.token, [upload.chunk(number) for number in (1, 2, 3)])
        assert remote.plan_upload(spec(CONTENT)).present == (1, 2, 3)
        assert remote.finish_upload(upload_id, digest_bytes(CONTENT))
        assert remote.read(digest_bytes(CONTENT)) == CONTENT

    def test_an_upload_that_the_service_forgot_begins_anew(
        self, remote: RemoteStore, service: ObjectService, tmp_path: Path
    ) -> None:
        upload_id = remote.plan_upload(spec(CONTENT)).upload_id
        known = Catalog(tmp_path / "catalog" / "catalog.db", "bucket://here").find_upload(upload_id)
        assert known is not None
        service.abort_parts(known.key, known.token)
        assert remote.plan_upload(spec(CONTENT)).upload_id != upload_id

    def test_what_nobody_goes_on_with_is_swept(
        self, remote: RemoteStore, service: ObjectService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = [send(remote, CONTENT, (1,))]
        direct = remote.plan_upload(spec(CONTENT, direct=True)).upload_id
        service.put("staging/of-another-server", b"left")
        # A fresh one is gone on with.
        remote.tidy(time.time())
        assert remote.plan_upload(spec(CONTENT)).upload_id == left[0]
        remote.tidy(time.time() + 2 * artifacts.UNFINISHED_S)
        assert list(service.list("")) == []
        assert list(service.list_unfinished()) == []
        for upload_id in (left[0], direct):
            with pytest.raises(NotFoundError):
                remote.append_upload(upload_id, 0, CONTENT[:CHUNK_BYTES])
