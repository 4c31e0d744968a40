"""Old pins on today's index: which Python, which day, and what the user is told."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.index import Index, index_urls
from runyard.environments.journey import Journey, plan_journey
from runyard.environments.pins import translate
from runyard.environments.pythons import Interpreter, running_minor
from runyard.environments.resolve import resolve
from runyard.environments.time_machine import find_pins
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import CondaSpec, EnvironmentSpec, PythonSpec
from tests.environments.old_index import OldIndex, serving
from tests.environments.packages import make_wheel

HERE = tuple(Interpreter(f"/pythons/3.{minor}", (3, minor, 4)) for minor in (11, 7, 8, 13))
YESTERDAY = (datetime.date.today() - datetime.timedelta(days=1)).isoformat()


@pytest.fixture(params=["json", "html"])
def index(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OldIndex]:
    folder = tmp_path / "index"
    folder.mkdir()
    found = OldIndex(folder, is_json=request.param == "json")
    for name, version, day, tags in (
        ("flow", "2.2.0", "2020-05-06", ["cp35-cp35m", "cp36-cp36m", "cp37-cp37m", "cp38-cp38"]),
        ("flow", "2.19.0", YESTERDAY, ["cp311-cp311", "cp313-cp313"]),
        ("deep", "1.0", "2019-01-01", ["cp37-cp37m"]),
        ("pure", "1.5", "2020-06-10", ["py3-none-any"]),
    ):
        for tag in tags:
            whole = tag if tag.endswith("any") else tag + "-manylinux2010_x86_64"
            found.add(make_wheel(folder, name, version, tag=whole), day)
    found.add(make_wheel(folder, "horovod", "0.19.5", tag="cp27-none-win32"), "2020-06-24")
    (folder / "horovod-0.19.5.tar.gz").write_bytes(b"a source")
    found.add(folder / "horovod-0.19.5.tar.gz", "2020-06-24")
    with serving(found):
        yield found


def _journey(index: OldIndex, log: Any, *pip: str, python: str = "", here: Any = HERE, **spec: Any) -> Journey:
    options = ("--index-url " + index.url + "/simple",)
    conda = CondaSpec(packages=(f"python{python}",) if python else (), pip=options + pip)
    return plan_journey(PythonSpec(conda=conda, **spec), translate(conda), here, "/no/uv", log)


@pytest.fixture(autouse=True)
def _stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_FETCH_PYTHON", "0")


def test_python_that_is_gone_becomes_the_nearest_that_every_pin_fits(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "flow==2.2.0", python="=3.6.2")
    assert found.interpreter.version[:2] == (3, 7)
    assert (found.notes[0].asked, found.notes[0].got) == ("3.6.2", "3.7")
    assert "3.7 is the oldest" in found.notes[0].why


def test_python_that_is_missing_here_becomes_the_nearest(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "pure<2", python="=3.9")
    assert found.interpreter.version[:2] == (3, 8)
    assert "this host has no Python 3.9" in found.notes[0].why


def test_file_without_a_python_gets_one_that_its_pins_fit(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "flow==2.2.0")
    assert found.interpreter.version[:2] == (3, 8)
    assert found.notes[0].why == "flow==2.2.0 has wheels for Python 3.7, 3.8"


def test_exact_python_stays_although_a_pin_does_not_fit_it(index: OldIndex, log: Any) -> None:
    assert _journey(index, log, "flow==2.2.0", python="=3.11").interpreter.version[:2] == (3, 11)


def test_pins_that_no_python_fits_together_are_named_with_theirs(index: OldIndex, log: Any) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"No Python fits every pin: flow==2\.19\.0 has 3\.11, 3\.13; deep"):
        _journey(index, log, "flow==2.19.0", "deep==1.0", python="=3.6")


def test_python_that_would_fit_is_named_where_this_host_lacks_it(index: OldIndex, log: Any) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"the pins need Python 3\.7, and this host has 3\.11"):
        _journey(index, log, "deep==1.0", python="=3.6", here=HERE[:1])


def test_old_pins_are_resolved_as_of_the_newest_of_them(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "flow==2.2.0", "pure<=1.5", "open", python="=3.8")
    assert found.as_of == "2020-07-10"
    assert "pure<=1.5, is of 2020-06-10" in found.notes[-1].why


def test_new_pins_and_open_lines_are_resolved_as_of_today(index: OldIndex, log: Any) -> None:
    assert _journey(index, log, "flow==2.19.0", "deep").as_of is None
    assert _journey(index, log, "flow==2.19.0", "deep==1.0", python="=3.11").as_of is None


def test_day_that_the_user_names_goes_before(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "flow==2.2.0", python="=3.8", as_of="2021-01-01")
    assert (found.as_of, found.notes[1:]) == ("2021-01-01", ())


def test_only_pins_are_asked_about(index: OldIndex, log: Any) -> None:
    _journey(index, log, "open", "flow>=2")
    assert index.requests == []


def test_package_with_a_recipe_is_built_beside_what_it_must_see(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "flow==2.2.0", "tensorflow-gpu", "horovod==0.19.5", "psutil==5.7.2", python="=3.8")
    assert "horovod" not in " ".join(found.requirements)
    assert {"cloudpickle", "cffi>=1.4.0", "psutil==5.7.2"} <= set(found.requirements)
    assert "psutil" not in found.requirements, "the file's own pin goes before the recipe's line"
    (source,) = found.sources
    assert source.requirement == "horovod==0.19.5"
    assert source.variables["HOROVOD_WITH_TENSORFLOW"] == source.variables["HOROVOD_WITHOUT_PYTORCH"] == "1"
    assert found.as_of == "2020-07-24"


def test_recipe_line_with_a_url_is_the_resolver_s(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "horovod[pytorch] @ https://x/h.tar.gz", python="=3.8")
    assert (found.requirements, found.sources) == (("horovod[pytorch] @ https://x/h.tar.gz",), ())


def test_recipe_line_counts_only_where_its_marker_does(index: OldIndex, log: Any) -> None:
    line = "horovod[pytorch]==0.19.5; python_version<'3.8'"
    assert _journey(index, log, line, "open", python="=3.8").requirements == ("open",)
    assert _journey(index, log, line, "open", python="=3.8").sources == ()
    found = _journey(index, log, line, python="=3.7")
    assert [one.requirement for one in found.sources] == ["horovod[pytorch]==0.19.5"]
    assert "torch" in found.requirements, "what the extra means is installed with it"
    assert found.sources[0].variables["HOROVOD_WITH_PYTORCH"] == "1"


def test_source_with_digests_is_built_from_a_file_that_has_one(index: OldIndex, log: Any) -> None:
    line = "horovod==0.19.5 --hash=sha256:" + "0" * 64 + " --hash=sha256:" + "1" * 64
    (source,) = _journey(index, log, line, python="=3.8").sources
    assert source.requirement == "horovod==0.19.5"
    assert source.hashes == ("sha256:" + "0" * 64, "sha256:" + "1" * 64)


def test_recipe_line_may_have_a_comment(index: OldIndex, log: Any) -> None:
    found = _journey(index, log, "horovod==0.19.5 # why @ all", python="=3.8")
    assert [one.requirement for one in found.sources] == ["horovod==0.19.5"]


def test_pin_whose_marker_does_not_apply_decides_nothing(index: OldIndex, log: Any) -> None:
    line = "flow==2.2.0; python_version<'3.8'"
    assert _journey(index, log, line, "open", python="=3.11").as_of is None
    assert _journey(index, log, line, "open", python="=3.7").as_of == "2020-06-05"
    gone = _journey(index, log, "pure==1.5; python_full_version<'3.7'", python="=3.6.2")
    assert (gone.interpreter.version[:2], gone.as_of) == ((3, 7), None), "it does not count for the one that was found"


def test_pin_whose_marker_does_not_apply_leaves_the_python(index: OldIndex, log: Any) -> None:
    here = [Interpreter("/mine", (*map(int, running_minor().split(".")), 1)), *HERE]
    older = f"deep==1.0; python_version<'{running_minor()}'"
    assert _journey(index, log, older, here=here).interpreter == here[0]


def test_yanked_and_foreign_files_are_no_releases(index: OldIndex, log: Any) -> None:
    index.days["flow_extras-9.0-py3-none-any.whl"] = "2020-01-01"
    (index.folder / "flow_extras-9.0-py3-none-any.whl").write_bytes(b"")
    found = Index([index.url + "/simple"], log).releases("flow")
    assert [str(one.version) for one in found] == ["2.19.0", "2.2.0"]


def test_index_that_cannot_be_asked_is_said_and_stands_in_nobody_s_way(log: Any) -> None:
    secret = Index(["http://user:canary@127.0.0.1:9/simple"], log)
    assert find_pins(["flow==2.2.0"], secret) == ()
    assert "What http://***@127.0.0.1:9/simple has of flow is not known" in log.text
    assert "canary" not in log.text


@pytest.mark.parametrize("body", ["[1,2,3]", "5", "{}", '{"files": {"a": 1}}', "[" * 200_000, "no JSON"])
def test_answer_that_is_no_page_is_said_and_stands_in_nobody_s_way(body: str, tmp_path: Path, log: Any) -> None:
    with serving(OldIndex(tmp_path, body=body)) as garbage:
        assert find_pins(["flow==2.2.0"], Index([garbage.url], log)) == ()
    assert "has of flow is not known: " in log.text


def test_entries_that_cannot_be_read_are_passed_over(tmp_path: Path, log: Any) -> None:
    entries: list[Any] = [1, None, {}, {"filename": None}, {"filename": ["x"]}, {"filename": "flow-2" + "0" * 5000}]
    days = ["gar", 12345, None, "2020-W01-1", "2020-13-01", "9999-12-31T00:00:00Z"]
    for number, day in enumerate(days):
        wheel = f"flow-1.{number}-py3-none-any.whl"
        entries.append({"filename": wheel, "upload-time": day, "requires-python": day, "yanked": 0})
    entries.append({"filename": "flow-" + "9" * 5000 + ".tar.gz", "requires-python": ">=" + "9" * 5000})
    with serving(OldIndex(tmp_path, body=json.dumps({"files": entries}))) as garbage:
        found = _journey(garbage, log, "flow<2", "flow==1.0", python="=3.8")
        releases = Index([garbage.url], log).releases("flow")
    assert found.as_of is None
    assert [one.uploaded for one in releases] == ["9999-12-31", *[None] * 5]


@pytest.mark.parametrize("body", ['<a href="http://[x">y</a><a href>z</a><a href="/flow-1.0.tar.gz">w</a>', "<![x"])
def test_markup_that_cannot_be_read_is_passed_over(body: str, tmp_path: Path, log: Any) -> None:
    with serving(OldIndex(tmp_path, is_json=False, body=body)) as garbage:
        found = Index([garbage.url], log).releases("flow")
    assert [str(one.version) for one in found] == ["1.0"] * ("flow" in body)


def test_credentials_of_an_index_are_sent_as_such(index: OldIndex, log: Any) -> None:
    Index([index.url.replace("http://", "http://us%40er:pass@") + "/simple"], log).releases("flow")
    assert index.requests == [("/simple/flow/", "Basic dXNAZXI6cGFzcw==")]


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        ((), {}, ("https://pypi.org/simple",)),
        ((), {"UV_DEFAULT_INDEX": "https://a/simple", "UV_INDEX": "b=https://b/s https://c/s?x=1"},
         ("https://b/s", "https://c/s?x=1", "https://a/simple")),
        (("-i https://mine",), {"UV_DEFAULT_INDEX": "https://a"}, ("https://mine",)),
        (("--index-url=https://mine", "--extra-index-url https://more"), {}, ("https://more", "https://mine")),
        (("--no-index", "--find-links /wheels"), {}, ()),
    ],
)  # fmt: skip
def test_indexes_are_those_that_uv_would_ask(options: Any, settings: Any, expected: Any) -> None:
    assert index_urls(options, settings) == expected


def test_what_old_pins_leave_open_is_taken_as_of_their_day(uv: str, tmp_path: Path, log: Any) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    index = OldIndex(folder)
    index.add(make_wheel(folder, "pinned", "1.0", needs=["beneath"]), "2020-06-10")
    index.add(make_wheel(folder, "beneath", "1.0"), "2020-06-20")
    index.add(make_wheel(folder, "beneath", "2.0"), "2023-01-01")
    with serving(index):
        conda = CondaSpec(packages=(f"python={running_minor()}",), pip=(f"-i {index.url}/simple", "pinned==1.0"))
        spec = EnvironmentSpec("old", python=PythonSpec(conda=conda))
        lock = resolve(spec, uv=uv, cache_folder=str(tmp_path / "cache"), log=log)
    assert lock.requirements == ("beneath==1.0", "pinned==1.0")
    assert lock.as_of == "2020-07-10"
    assert "as of 2020-07-10" in log.text


def test_pins_that_are_not_old_go_back_only_where_today_does_not_fit_them(uv: str, tmp_path: Path, log: Any) -> None:
    days = [(datetime.date.today() - datetime.timedelta(days=ago)).isoformat() for ago in (365, 350, 20)]
    folder = tmp_path / "index"
    folder.mkdir()
    index = OldIndex(folder)
    index.add(make_wheel(folder, "pinned", "1.0", needs=["beneath"]), days[0])
    index.add(make_wheel(folder, "beneath", "1.0"), days[1])
    with serving(index):
        conda = CondaSpec(packages=(f"python={running_minor()}",), pip=(f"-i {index.url}/simple", "pinned==1.0"))
        spec = EnvironmentSpec("young", python=PythonSpec(conda=conda))
        today = resolve(spec, uv=uv, cache_folder=str(tmp_path / "one"), log=log)
        assert (today.as_of, today.requirements) == (None, ("beneath==1.0", "pinned==1.0"))
        (folder / "beneath-2.0.tar.gz").write_bytes(b"no archive at all")
        index.add(folder / "beneath-2.0.tar.gz", days[2])
        back = resolve(spec, uv=uv, cache_folder=str(tmp_path / "two"), log=log)
    assert back.requirements == today.requirements
    assert back.as_of is not None
    assert "cannot be resolved with the packages of today" in log.text
    assert back.notes[-1].got == f"as of {back.as_of}"
