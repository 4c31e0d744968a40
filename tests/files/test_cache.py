"""The cache of downloaded files: shared, bounded, and never wrong."""

import os
import threading
from hashlib import sha256
from pathlib import Path

from runyard.files.cache import ContentCache, Entry, cache_key


def _keep(cache: ContentCache, key: str, data: bytes) -> Entry:
    path = cache.new_file()
    Path(path).write_bytes(data)
    return cache.keep(key, path, Entry(path, len(data), sha256(data).hexdigest(), "tag"))


def test_content_comes_back_with_what_is_known_of_it(tmp_path: Path) -> None:
    cache, key = ContentCache(str(tmp_path)), cache_key("a", "b")
    assert cache.find(key) is None
    _keep(cache, key, b"data")
    found = ContentCache(str(tmp_path)).find(key)
    assert found is not None
    assert (Path(found.path).read_bytes(), found.size_bytes, found.etag) == (b"data", 4, "tag")
    assert cache_key("ab", "") != cache_key("a", "b")


def test_damaged_content_is_dropped_and_a_touched_one_is_hashed_again(tmp_path: Path) -> None:
    cache, key, other = ContentCache(str(tmp_path)), cache_key("a"), cache_key("b")
    os.utime(_keep(cache, key, b"data").path, (1, 1))
    assert cache.find(key) is not None
    for damage in (b"evil", b"short"[:2], b""):
        kept = Path(_keep(cache, other, b"data").path)
        kept.unlink()
        kept.write_bytes(damage)
        assert cache.find(other) is None
        assert not kept.exists()
    cache.drop(key)
    assert cache.find(key) is None


def test_half_an_entry_is_none(tmp_path: Path) -> None:
    cache, key = ContentCache(str(tmp_path)), cache_key("a")
    kept = _keep(cache, key, b"data").path
    for text in ("", "{", "[]", '{"size": 4}'):
        Path(kept + ".json").write_text(text)
        assert cache.find(key) is None
    os.unlink(kept + ".json")
    assert cache.find(key) is None


def test_what_was_used_last_stays_when_room_is_short(tmp_path: Path) -> None:
    cache = ContentCache(str(tmp_path), max_bytes=30)
    keys = [cache_key(str(number)) for number in range(3)]
    for number, key in enumerate(keys):
        entry = _keep(cache, key, b"x" * 10)
        os.utime(entry.path, ns=(number + 1, os.stat(entry.path).st_mtime_ns))
    assert cache.find(keys[0]) is not None
    _keep(cache, cache_key("new"), b"y" * 15)
    assert [cache.find(key) is not None for key in keys] == [True, False, False]
    assert cache.find(cache_key("new")) is not None


def test_left_over_beginnings_go(tmp_path: Path) -> None:
    cache = ContentCache(str(tmp_path))
    old, young = cache.new_file(), cache.new_file()
    os.utime(old, (1, 1))
    cache.make_room(1)
    assert not os.path.exists(old)
    assert os.path.exists(young)


def test_one_at_a_time_brings_a_content(tmp_path: Path) -> None:
    cache, key, inside, most = ContentCache(str(tmp_path)), cache_key("a"), [0], [0]

    def bring() -> None:
        with cache.lock(key):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            if cache.find(key) is None:
                _keep(cache, key, b"data")
            inside[0] -= 1

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert most == [1]


def test_two_processes_fill_it_no_further_than_one(tmp_path: Path) -> None:
    first, second = ContentCache(str(tmp_path), 3200), ContentCache(str(tmp_path), 3200)
    for number in range(40):
        for one, name in ((first, "a"), (second, "b")):
            _keep(one, cache_key(name, str(number)), b"x" * 100)
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json")
    assert kept <= 3200 + 3200 // 16 + 100
