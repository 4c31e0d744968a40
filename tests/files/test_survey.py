"""What a snapshot would hold, as it is told ahead of it."""

import os
from pathlib import Path

import pytest

from runyard.errors import SnapshotException, UserErrorException
from runyard.files.snapshots import configured_limits, take_snapshot
from runyard.files.survey import survey


def _write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("rules", [None, "*.csv\n!keep.csv\n# a comment\n\ndata/\n", "!/outputs/\n"])
def test_survey_and_snapshot_see_the_same_files(tmp_path: Path, rules: str | None) -> None:
    folder = tmp_path / "source"
    names = ("train.py", "a.csv", "keep.csv", "data/deep/x.bin", "outputs/old.pkl", "logs/a.log", "docs/index.md")
    _write(folder, **dict.fromkeys(names, "text"))
    if rules is not None:
        (folder / ".amlignore").write_text(rules)
    found = survey(str(folder))
    taken = take_snapshot(str(folder), str(tmp_path / "cache"))
    assert [one.path for one in found.files] == [entry.path for entry in taken.tree.entries]
    assert (found.size_bytes, len(found.left_out)) == (taken.size_bytes, taken.ignored)


def test_each_left_out_path_is_told_with_its_rule(tmp_path: Path) -> None:
    _write(tmp_path, **{"a.csv": "", "keep.csv": "", "data/x": "", "outputs/y": "", ".git/config": ""})
    (tmp_path / ".amlignore").write_text("# rules\n*.csv\n!keep.csv\n/data\n")
    found = {one.path: one.rule for one in survey(str(tmp_path)).left_out}
    assert found == {
        ".git/": "never sent",
        "a.csv": ".amlignore: *.csv",
        "data/": ".amlignore: /data",
        "outputs/": "the run's own folder",
    }


def test_folder_without_rules_uses_the_default_list(tmp_path: Path) -> None:
    _write(tmp_path, **{"docs/index.md": "", "train.py": ""})
    found = survey(str(tmp_path))
    assert [(one.path, one.rule) for one in found.left_out] == [
        ("docs/", "the default list of a folder without an ignore file")
    ]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        (".env", "A=1", "its name is like .env"),
        ("deep/ID_RSA", "", "its name is like id_rsa"),
        ("tls.pem", "", "its name is like *.pem"),
        ("notes.txt", "x\n-----BEGIN OPENSSH PRIVATE KEY-----\n", "a private key"),
        ("config.py", "KEY = 'AKIAIOSFODNN7EXAMPLE'", "an access key of AWS"),
        ("config.py", "conn='AccountKey=" + "a" * 86 + "=='", "an account key of Azure"),
        ("get.sh", "curl 'https://a.blob.core.windows.net/c/f?sv=1&sig=" + "a%2B" * 12 + "'", "a shared access"),
    ],
)
def test_what_looks_like_a_secret_is_told(tmp_path: Path, name: str, text: str, why: str) -> None:
    _write(tmp_path, **{name: text, "train.py": "import os\nprint(os.environ['KEY'])\n"})
    (one,) = survey(str(tmp_path)).suspicions
    assert (one.path, why in one.why) == (name, True)


def test_what_a_snapshot_would_refuse_is_told(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "away")
    os.symlink("nowhere", tmp_path / "dangling")
    os.symlink("itself", tmp_path / "itself")
    os.mkfifo(tmp_path / "pipe")
    assert sorted(survey(str(tmp_path)).problems) == [
        "'away' is a link that leaves the source folder (to /etc/passwd); name it in .amlignore or copy the file.",
        "'dangling' cannot be read: No such file or directory.",
        "'itself' cannot be read: Too many levels of symbolic links.",
        "'pipe' is a device, pipe or socket and cannot be sent; name it in .amlignore.",
    ]


def test_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "source", **{"open/a.txt": "", "shut/b.txt": ""})
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("shut/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("runyard.files.walk.os.scandir", refuse)
    found = survey(str(tmp_path / "source"))
    assert found.problems == ("'shut' cannot be read: Permission denied.",)
    assert [one.path for one in found.files] == ["open/a.txt"]
    with pytest.raises(SnapshotException, match="'shut' cannot be read"):
        take_snapshot(str(tmp_path / "source"), str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (b"two\nlines", "The path 'two\\nlines' has a control character or a backslash."),
        (b"back\\slash", "The path 'back\\\\slash' has a control character or a backslash."),
        (b"latin-\xe9", "The path 'latin-\\udce9' is not valid Unicode text."),
    ],
)
def test_name_that_a_snapshot_would_refuse_is_told(tmp_path: Path, name: bytes, problem: str) -> None:
    with open(os.path.join(os.fsencode(tmp_path), name), "w"):
        pass
    assert survey(str(tmp_path)).problems == (problem,)
    with pytest.raises(UserErrorException) as refused:
        take_snapshot(str(tmp_path), str(tmp_path.parent / (tmp_path.name + "-cache")))
    assert str(refused.value) == problem


def test_two_names_that_some_disks_take_for_one_are_told(tmp_path: Path) -> None:
    composed, decomposed = "\N{LATIN SMALL LETTER E WITH ACUTE}.txt", "e\N{COMBINING ACUTE ACCENT}.txt"
    _write(tmp_path / "source", **{composed: "", decomposed: ""})
    (problem,) = survey(str(tmp_path / "source")).problems
    assert problem == f"{decomposed!r} and {composed!r} are the same path."
    with pytest.raises(UserErrorException) as refused:
        take_snapshot(str(tmp_path / "source"), str(tmp_path / "cache"))
    assert str(refused.value) == problem


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.symlink("..", tmp_path / "a" / "up")
    _write(tmp_path, **{"a/x.txt": ""})
    assert [one.path for one in survey(str(tmp_path)).files] == ["a/x.txt"]


def test_limits_are_set_by_two_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "source", **{"big.bin": "x" * 100, "small.txt": ""})
    monkeypatch.setenv("RUNYARD_SNAPSHOT_MAX_BYTES", "99")
    with pytest.raises(
        SnapshotException, match=r"the limits are 100,000 and 99\..*The largest: big\.bin \(100 bytes\)"
    ):
        take_snapshot(str(tmp_path / "source"), str(tmp_path / "cache"))
    monkeypatch.setenv("RUNYARD_SNAPSHOT_MAX_BYTES", "100")
    assert take_snapshot(str(tmp_path / "source"), str(tmp_path / "cache")).size_bytes == 100
    monkeypatch.setenv("RUNYARD_SNAPSHOT_MAX_FILES", "many")
    with pytest.raises(SnapshotException, match="is a whole number, not 'many'"):
        configured_limits()


def test_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SnapshotException, match="does not exist"):
        survey(str(tmp_path / "nowhere"))
