"""Files of a dataset that cannot all be there."""

import pytest

from runyard.errors import UserErrorException
from runyard.protocol.datasets import Source
from runyard.protocol.mounts import DataFile, distinct_files, shown_url

BUCKET = Source(datastore="bucket", path="in")


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a/b/c", "a/bb", "a"], ["x/y", "x/y/z/w"]])
def test_key_that_is_a_file_and_a_folder_is_named(paths: list[str]) -> None:
    files = [DataFile(BUCKET, f"in/{one}", one) for one in paths]
    with pytest.raises(UserErrorException, match="is a file, and has files below it"):
        list(distinct_files(files))


def test_file_that_two_sources_hold_comes_once_and_another_of_its_path_is_named() -> None:
    folder, here = Source(file="/data"), DataFile(Source(datastore="own", path="a"), "/data/a", "a")
    assert list(distinct_files([here, DataFile(folder, "/data/a", "a")])) == [here]
    with pytest.raises(UserErrorException, match="have one path, 'a'; rename one of them"):
        list(distinct_files([here, DataFile(BUCKET, "a", "a")]))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.csv", "https://host/a/b.csv"),
        ("https://me:canary@host:1/a@b?sig=canary", "https://host:1/a@b"),
        ("ftp://me:c@nary@host?x", "ftp://host"),
        ("https://host", "https://host"),
        ("https://host/a#canary", "https://host/a"),
        ("https://host#canary?x=1", "https://host"),
        ("https://host/" + "a" * 1_000, "https://host/" + "a" * 287),
    ],
)
def test_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_names_that_only_begin_alike_are_all_there() -> None:
    paths = ["a", "ab/c", "a.d/e", "ab.c"]
    assert [one.relative for one in distinct_files(DataFile(BUCKET, one, one) for one in paths)] == paths
