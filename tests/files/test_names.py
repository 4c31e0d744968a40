"""Digests, trees and paths: the names of contents, and what cannot be one."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.errors import UserErrorException
from runyard.files.inside import join_inside
from runyard.protocol.digests import CHUNK_BYTES, Hasher, check_digest, digest_bytes
from runyard.protocol.trees import Tree, TreeEntry, check_path, decode_tree, encode_tree

DIGEST = digest_bytes(b"content")


def test_content_of_a_chunk_or_less_is_named_by_its_sha256() -> None:
    assert digest_bytes(b"abc") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
    whole = bytes(CHUNK_BYTES)
    assert digest_bytes(whole) == "sha256:" + hashlib.sha256(whole).hexdigest()


def test_longer_content_is_named_by_the_digests_of_its_chunks() -> None:
    data = bytes(CHUNK_BYTES) + b"x"
    chunks = hashlib.sha256(bytes(CHUNK_BYTES)).digest() + hashlib.sha256(b"x").digest()
    assert digest_bytes(data) == "sha256-8m:" + hashlib.sha256(chunks).hexdigest()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
@pytest.mark.parametrize("piece", [CHUNK_BYTES, 3_000_001])
def test_stream_has_the_digest_of_its_whole(size: int, piece: int) -> None:
    data = os.urandom(1) * size
    hasher = Hasher()
    for start in range(0, size, piece):
        hasher.update(data[start : start + piece])
    assert (hasher.digest(), hasher.size_bytes) == (digest_bytes(data), size)


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, DIGEST + "\n", "md5:" + "0" * 64, "../" + DIGEST]
)
def test_nothing_but_a_digest_is_one(text: str) -> None:
    assert check_digest(DIGEST) == DIGEST
    with pytest.raises(UserErrorException, match="is not a digest"):
        check_digest(text)


HOSTILE = [
    "",
    "/etc/passwd",
    "../secret",
    "a/../../b",
    "a//b",
    "a/./b",
    "a/",
    "C:\\x",
    "C:/x",
    "a\\b",
    "a\0b",
    "a\nb",
    "\x7f",
    "\ud800",
    "x" * 256,
    "a/" * 600 + "b",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_path_is_refused_with_one_sentence(path: str) -> None:
    with pytest.raises(UserErrorException) as caught:
        check_path(path)
    assert caught.value.message.endswith(".")
    assert len(caught.value.message) < 300


@given(st.text(min_size=1, max_size=40))
def test_accepted_path_stays_below_its_root(path: str) -> None:
    try:
        check_path(path)
    except UserErrorException:
        return
    joined = os.path.normpath(os.path.join("/root", path))
    assert joined.startswith("/root/")


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True), st.booleans(), max_size=8))
def test_tree_comes_back_from_its_bytes(files: dict[str, bool]) -> None:
    tree = Tree(tuple(TreeEntry(path, DIGEST, 7, mode) for path, mode in sorted(files.items())))
    assert decode_tree(encode_tree(tree)) == tree


@pytest.mark.parametrize(
    "data",
    [b"x", b"\xff", f'{DIGEST} 7 - "../a"\n'.encode(), f'{DIGEST} 7 - "b"\n{DIGEST} 7 - "a"\n'.encode()],
)
def test_what_is_not_a_canonical_tree_is_refused(data: bytes) -> None:
    with pytest.raises(UserErrorException):
        decode_tree(data)


def test_two_spellings_of_one_path_are_refused() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    tree = Tree((TreeEntry(decomposed, DIGEST, 7), TreeEntry(composed, DIGEST, 7)))
    with pytest.raises(UserErrorException, match="same path"):
        decode_tree(encode_tree(tree))


def test_link_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    assert join_inside(tmp_path / "root", "a/b") == tmp_path.resolve() / "root" / "a" / "b"
    for path in ("out/x", "../x", "a/../../x"):
        with pytest.raises(UserErrorException, match="leads out"):
            join_inside(tmp_path / "root", path)
