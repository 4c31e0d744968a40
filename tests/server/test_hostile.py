"""Hostile paths, names and bodies on every route: one clear sentence, and nothing changed."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.protocol.bundles import join_bundle
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.metrics import Batch
from runyard.protocol.routes import BY_NAME, TABLE, Route
from tests.server.application import Application, fill

#: Hostile paths and names as they stand in an address, percent-encoded where HTTP needs it.
ADDRESSES = {
    "parent": "..%2f..%2f..%2fetc%2fpasswd",
    "bare parent": "../../../etc/passwd",
    "parent at the end": "some/..",
    "encoded dots": "%2e%2e/%2e%2e/etc/passwd",
    "encoded twice": "%252e%252e%252fetc%252fpasswd",
    "dot": ".",
    "dots": "..",
    "absolute": "/etc/passwd",
    "encoded absolute": "%2fetc%2fpasswd",
    "slashes": "////",
    "backslash": "..%5c..%5cwindows%5cwin.ini",
    "UNC": "%5c%5chost%5cshare",
    "drive": "C:%5cwindows",
    "drive with a slash": "C:/windows",
    "NUL": "some%00.txt",
    "newline": "some%0a.txt",
    "escape": "some%1b%5b31m.txt",
    "not UTF-8": "%ff%fe",
    "overlong": "%c0%ae%c0%ae%c0%af",
    "surrogate": "%ed%a0%80",
    "300 characters": "a" * 300,
    "deep": "a/" * 600 + "a",
    "60,000 characters": "b" * 60_000,
    "1 MB": "c" * 1_000_000,
    "query in a path": "some%3fa=b%23c",
    "SQL": quote("x'; drop table runs; --"),
    "option": "--help",
    "home": "~root",
    "variable": "$%7BHOME%7D",
    "right to left": quote("\u202egnp.exe"),
    "emoji": quote("🧨"),
    "composed": quote("caf\u00e9"),
    "decomposed": quote("cafe\u0301"),
    "zero width": quote("a\u200bb"),
    "a blank": "%20",
    "digits that are no digits": quote("²³"),
    "a huge number": "9" * 40,
    "negative": "-1",
}
#: Those that are odd but harmless: they may name a thing in a route that makes one.
HARMLESS = {
    "SQL", "option", "home", "variable", "right to left", "emoji", "composed", "decomposed", "zero width", "a blank",
    "digits that are no digits", "a huge number", "negative", "query in a path", "encoded twice",
}  # fmt: skip
PARAMETERS = ("workspace", "run_id", "name", "path", "digest", "upload_id", "dataset_id", "version")
PLAIN = {
    "workspace": "here", "run_id": "run-1", "name": "some", "path": "some.txt", "digest": "sha256:" + "0" * 64,
    "upload_id": "0" * 32, "dataset_id": "some", "version": "1",
}  # fmt: skip
#: (route, parameter) of every parameter in an address.
PLACES = [(route, name) for route in TABLE for name in PARAMETERS if f"{{{name}" in route.path]
#: Bodies with which the routes would do something if the address were good.
BODIES: dict[str, Any] = {
    "submit_run": {"run_id": "run-9", "experiment": "trial", "command": ["true"]},
    "create_token": {"name": "ci", "role": "reader"},
    "save_dataset": {"sources": [{"url": "http://127.0.0.1/x"}], "name": "set"},
    "create_cluster": {"name": "cpu"},
    "register_datastore": {"name": "bucket", "kind": "s3", "root": "bucket", "skip_validation": True},
    "register_environment": {"spec": {"name": "env"}},
    "build_environment": {"spec": {"python": {"user_managed": True}}},
    "change_run": {"tags": {"a": "b"}},
    "change_cluster": {"max_nodes": 2},
    "change_dataset": {"tags": {"a": "b"}},
    "change_model": {"tags": {"a": "b"}},
    "meet": {"attempt": 1, "node": 0, "revision": 1},
    "report": {"reports": [{"attempt": 1, "sequence": 1, "kind": "started"}]},
    "add_artifacts": {"artifacts": []},
    "find_missing_blobs": {"digests": []},
    "finish_upload": {"digests": ["sha256:" + "0" * 64]},
    "register_model": {"name": "model", "run_id": "run-1", "path": "outputs"},
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    found = Application(tmp_path_factory.mktemp("around") / "home")
    found.add_workspace("here")
    found.add_run("here", "run-1")
    yield found
    found.close()


@pytest.fixture(scope="module")
def run_token(app: Application) -> str:
    return app.add_token(Principal(PrincipalKind.RUN, "run:run-1", "run", "here", "run-1"))


def _state(app: Application) -> tuple[dict[str, int], set[str]]:
    """Rows of every table, and every file in the home and around it."""
    connection = sqlite3.connect(app.home / "runyard.db")
    try:
        tables = [row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")]
        rows = {table: connection.execute(f'select count(*) from "{table}"').fetchone()[0] for table in tables}
    finally:
        connection.close()
    around = app.home.parent
    return rows, {str(path.relative_to(around)) for path in around.rglob("*") if path.is_file()}


def _assert_one_sentence(reply: Any, what: object) -> None:
    """A client's error, as JSON, that a person can read."""
    assert 400 <= reply.status < 500, (what, reply.status, reply.body[:300])
    if reply.headers.get("content-type", "").startswith("text/plain"):
        # The address leads to no route at all: the router's own answer.
        assert reply.body in (b"Not Found", b"Method Not Allowed"), what
        return
    message = reply.error["message"]
    assert reply.error["type"], what
    assert message.endswith("."), (what, message)
    assert 10 < len(message) < 1_000, (what, message)
    assert "\n" not in message, (what, message)
    assert "Traceback" not in message, (what, message)
    assert str(reply.body).count("/runyard/") == 0, (what, message)


@pytest.mark.parametrize(("route", "place"), PLACES, ids=lambda one: one if isinstance(one, str) else one.name)
def test_hostile_address_is_refused_and_changes_nothing(
    app: Application, run_token: str, route: Route, place: str
) -> None:
    before = _state(app)
    token = run_token if route.permission == "run.report" else app.owner
    body = b"data" if route.raw else json.dumps(BODIES.get(route.name, {})).encode()
    kind = "application/octet-stream" if route.raw else "application/json"
    headers = {"content-type": kind, "authorization": "Bearer " + token}
    makes = route.name in ("create_experiment", "append_log", "write_datastore_file") and place != "workspace"
    for title, text in ADDRESSES.items():
        if title == "1 MB" and route.name not in ("get_run", "read_artifact"):
            continue  # the router alone takes a while over it
        if makes and title in (*HARMLESS, "not UTF-8", "overlong", "surrogate"):
            continue
        reply = app.send(route.method, fill(route.path, {**PLAIN, place: text}), headers, body)
        if reply.status == 200 and route.method == "GET":
            assert _is_about_nothing(route, reply.body), (title, reply.body[:300])
            continue
        _assert_one_sentence(reply, (route.name, place, title))
    assert _state(app) == before


def _is_about_nothing(route: Route, body: bytes) -> bool:
    """May this route answer 200 about something that is not there? Listings are empty, and so is a log yet to come."""
    if route.many:
        return json.loads(body) == []
    return (route.name in ("list_runs",) and json.loads(body)["runs"] == []) or (
        route.name == "read_log" and body == b""
    )


@pytest.mark.parametrize("title", [one for one in ADDRESSES if one not in HARMLESS])
def test_hostile_path_in_a_query_is_refused(app: Application, title: str) -> None:
    before = _state(app)
    query = "path=" + ADDRESSES[title].replace("/", "%2f")
    reply = app.ask("list_datastore_files", workspace="here", name="workspaceblobstore", query=query)
    if reply.status == 200:
        assert reply.json["files"] == []
    else:
        _assert_one_sentence(reply, title)
    assert _state(app) == before


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("list_runs", "limit=0"), ("list_runs", "limit=1e3"), ("list_runs", "limit=" + "9" * 5000),
        ("list_runs", "cursor=x"), ("list_runs", "cursor=%C2%B2"), ("list_runs", "cursor=" + "9" * 30),
        ("list_runs", "tags=%7B"), ("list_runs", "tags=[]"), ("list_runs", "tags=" + "%5B" * 100_000),
        ("list_runs", "tags=%7B%22%5C%22%29%3B--%22:1%7D"), ("list_runs", "properties=NaN"),
        ("wait_run", "after=x"), ("wait_run", "wait_s=61"), ("wait_run", "wait_s=-1"), ("list_events", "after=1.5"),
        ("list_events", "after=99999999999999999999"), ("read_log", "offset=-1"), ("read_log", "limit=0"),
        ("find_dataset", "version=99999999999999999999"), ("get_model", "version=x"), ("get_model", "version=-1"),
    ],
)  # fmt: skip
def test_hostile_query_is_refused(app: Application, name: str, query: str) -> None:
    values = {key: value for key, value in PLAIN.items() if "{" + key in BY_NAME[name].path}
    reply = app.ask(name, query=query, **values)
    if name == "list_runs" and reply.status == 200:
        assert reply.json["runs"] == []
    else:
        _assert_one_sentence(reply, (name, query))


#: Names that no thing may have, as they stand in a JSON body.
NAMES = {
    "empty": "", "dots": "..", "traversal": "../../etc/passwd", "absolute": "/etc/passwd", "backslash": "a\\b",
    "NUL": "a\0b", "newline": "a\nb", "trailing newline": "some\n", "surrogate": "\ud800", "300 characters": "a" * 300,
    "1 MB": "a" * 1_000_000, "right to left": "\u202egnp.exe", "emoji": "🧨", "drive": "C:/x", "markup": "<script>",
    "a number": 7, "nothing": None, "a list": ["a"], "true": True, "an object": {"a": 1},
}  # fmt: skip
#: (route, path of keys to the name, a body that would be accepted with a good name).
NAMED = {
    "create_workspace": ("create_workspace", ("name",), {"name": "good"}),
    "create_token": ("create_token", ("name",), {"name": "good", "role": "reader"}),
    "run id": ("submit_run", ("run_id",), BODIES["submit_run"]),
    "experiment": ("submit_run", ("experiment",), BODIES["submit_run"]),
    "script": ("submit_run", ("script",), {"run_id": "run-9", "experiment": "trial", "script": "x"}),
    "target": ("submit_run", ("target",), BODIES["submit_run"] | {"target": "x"}),
    "snapshot": ("submit_run", ("snapshot",), BODIES["submit_run"] | {"snapshot": "x"}),
    "kind": ("submit_run", ("kind",), BODIES["submit_run"] | {"kind": "script"}),
    "input": (
        "submit_run", ("inputs", 0, "name"),
        BODIES["submit_run"] | {"inputs": [{"name": "x", "datastore": "workspaceblobstore"}]},
    ),
    "input's dataset": (
        "submit_run", ("inputs", 0, "dataset_id"), BODIES["submit_run"] | {"inputs": [{"name": "x", "dataset_id": "x"}]}
    ),
    "input's datastore": (
        "submit_run", ("inputs", 0, "datastore"), BODIES["submit_run"] | {"inputs": [{"name": "x", "datastore": "x"}]}
    ),
    "input's path": (
        "submit_run", ("inputs", 0, "path"),
        BODIES["submit_run"] | {"inputs": [{"name": "x", "datastore": "workspaceblobstore", "path": "x"}]},
    ),
    "path on compute": (
        "submit_run", ("inputs", 0, "path_on_compute"),
        BODIES["submit_run"] | {"inputs": [{"name": "x", "datastore": "workspaceblobstore", "path_on_compute": "x"}]},
    ),
    "dataset": ("save_dataset", ("name",), {"sources": [{"url": "http://127.0.0.1/x"}], "name": "x"}),
    "dataset's path": (
        "save_dataset", ("sources", 0, "path"), {"sources": [{"datastore": "workspaceblobstore", "path": "x"}]}
    ),
    "dataset's url": ("save_dataset", ("sources", 0, "url"), {"sources": [{"url": "x"}]}),
    "environment": ("register_environment", ("spec", "name"), {"spec": {"name": "x"}}),
    "cluster": ("create_cluster", ("name",), {"name": "x"}),
    "size": ("create_cluster", ("vm_size",), {"name": "x", "vm_size": "x"}),
    "model": ("register_model", ("name",), {"name": "x", "run_id": "run-1"}),
    "model's run": ("register_model", ("run_id",), {"name": "x", "run_id": "x"}),
    "model's path": ("register_model", ("path",), {"name": "x", "run_id": "run-1", "path": "x"}),
    "artifact": (
        "add_artifacts", ("artifacts", 0, "path"),
        {"artifacts": [{"path": "x", "digest": "sha256:" + "0" * 64, "size_bytes": 0}]},
    ),
    "artifact's digest": (
        "add_artifacts", ("artifacts", 0, "digest"), {"artifacts": [{"path": "x", "digest": "x", "size_bytes": 0}]}
    ),
    "digest": ("find_missing_blobs", ("digests", 0), {"digests": ["x"]}),
}  # fmt: skip
#: Fields that may be absent: null there means nothing was said, and the rest decides.
OPTIONAL = {"script", "snapshot", "input's dataset", "input's datastore", "path on compute", "dataset", "dataset's url"}
OPTIONAL |= {"model's run", "model's path"}


def _with(body: Any, keys: tuple[Any, ...], value: Any) -> Any:
    found = json.loads(json.dumps(body))
    inner = found
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return found


@pytest.mark.parametrize("field", NAMED)
def test_hostile_name_in_a_body_is_refused_and_changes_nothing(app: Application, field: str) -> None:
    route, keys, body = NAMED[field]
    values = {name: PLAIN[name] for name in PARAMETERS if "{" + name in BY_NAME[route].path}
    before = _state(app)
    for title, name in NAMES.items():
        if title == "300 characters" and field == "run id":
            continue
        if title in ("nothing", "empty") and field in (*OPTIONAL, "input's path", "dataset's path"):
            continue
        if field in ("dataset's path", "path on compute", "input's path", "script") and title in (
            "right to left", "emoji", "markup", "absolute",
        ):  # fmt: skip
            continue
        reply = app.ask(route, _with(body, keys, name), **values)
        _assert_one_sentence(reply, (field, title))
    assert _state(app) == before


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"", "JSON"), (b"{", "JSON"), (b"\xff\xfe", "JSON"), (b"[" * 200_000, "JSON"), (b"null", "object"),
        (b"[]", "object"), (b'"x"', "object"), (b"NaN", "object"), (b'{"run_id": NaN}', "run_id"),
        (b'{"unknown": 1}', "unknown"), (b'{"run_id": 1, "experiment": "x"}', "run_id"), (b"{}", "run_id"),
        (b'{"run_id": "x", "experiment": "x", "node_count": true}', "node_count"),
        (b'{"run_id": "x", "experiment": "x", "node_count": 1.5}', "node_count"),
        (b'{"run_id": "x", "experiment": "x", "node_count": 1e999}', "node_count"),
        (b'{"run_id": "x", "experiment": "x", "tags": {"a": 1}}', "tags"),
        (b'{"run_id": "x", "experiment": "x", "tags": {"\\ud800": "x"}}', "tags"),
        (b'{"run_id": "x", "experiment": "x", "tags": {"a\\u0000": "x"}}', "tags"),
        (b'{"run_id": "x", "experiment": "x", "arguments": ["\\ud800"]}', "arguments"),
        (b'{"run_id": "x", "experiment": "x", "command": ["a\\u0000"]}', "command"),
        (b'{"run_id": "x", "experiment": "x", "environment": {"variables": {"a=b": "x"}}, "command": ["x"]}', "a=b"),
        (b'{"run_id": "x", "experiment": "x", "environment_variables": {"a=b": "x"}, "command": ["x"]}', "a=b"),
        (b'{"run_id": "x", "experiment": "x", "environment_variables": {"": "x"}, "command": ["x"]}', "variable"),
        (b'{"run_id": "x", "experiment": "x", "max_run_duration_s": 0, "command": ["x"]}', "max_run_duration"),
        (
            b'{"run_id":"x","experiment":"x","max_run_duration_s":' + b"9" * 40 + b',"command":["x"]}',
            "max_run_duration",
        ),
        (b'{"run_id":"x","experiment":"x","node_count":' + b"9" * 40 + b',"command":["x"]}', "node_count"),
        (b'{"run_id":"x","experiment":"x","node_count":' + b"9" * 5000 + b"}", "JSON"),
        (b'{"run_id": "x", "experiment": "x", "command": ["x"], "parent_run_id": "none"}', "none"),
        (b'{"run_id": "x", "experiment": "x", "command": ["x"], "display_name": "' + b"x" * 100_000 + b'"}', "display"),
        (b'{"run_id": "x", "experiment": "x", "command": ["x"], "schema": 2}', "schema"),
    ],
    ids=lambda one: repr(one)[:60],
)  # fmt: skip
def test_hostile_body_is_refused_with_its_field_named(app: Application, body: bytes, hint: str) -> None:
    before = _state(app)
    reply = app.ask("submit_run", body, workspace="here")
    _assert_one_sentence(reply, body[:80])
    assert hint in reply.error["message"]
    assert _state(app) == before


def test_body_beyond_the_limit_is_refused(app: Application) -> None:
    headers = {"content-type": "application/json", "authorization": "Bearer " + app.owner}
    reply = app.send("POST", "/api/1/workspaces/here/runs", headers | {"content-length": str(1 << 40)}, b"{}")
    assert reply.status in (400, 413)
    reply = app.send("POST", "/api/1/workspaces/here/runs", headers, b" " * ((32 << 20) + 1))
    assert reply.status in (400, 413)
    assert "larger than" in reply.error["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_body_that_a_web_form_could_send_is_refused(app: Application, kind: str) -> None:
    headers = {"content-type": kind, "authorization": "Bearer " + app.owner}
    reply = app.send("POST", "/api/1/workspaces", headers, b'{"name": "form"}')
    assert reply.status == 400


def test_twins_that_differ_in_composition_are_one_path(app: Application) -> None:
    files = [{"path": one, "digest": "sha256:" + "0" * 64, "size_bytes": 0} for one in ("caf\u00e9", "cafe\u0301")]
    reply = app.ask("register_model", {"name": "twins", "files": files}, workspace="here")
    _assert_one_sentence(reply, "twins")


@pytest.mark.parametrize("path", ["a/../../b", "/etc/passwd", "a\\b", "a\0", ".."])
def test_model_of_hostile_paths_is_refused(app: Application, path: str) -> None:
    (digest,) = app.ask("put_blobs", join_bundle([b"x"]), workspace="here").json["digests"]
    before = _state(app)
    files = [{"path": path, "digest": digest, "size_bytes": 1}]
    _assert_one_sentence(app.ask("register_model", {"name": "m", "files": files}, workspace="here"), path)
    assert _state(app) == before


def test_model_with_one_path_twice_is_refused(app: Application) -> None:
    (digest,) = app.ask("put_blobs", join_bundle([b"x"]), workspace="here").json["digests"]
    files = [{"path": "model.h5", "digest": digest, "size_bytes": 1}] * 2
    _assert_one_sentence(app.ask("register_model", {"name": "m", "files": files}, workspace="here"), "twice")


def test_model_of_files_with_a_wrong_size_is_refused(app: Application) -> None:
    (digest,) = app.ask("put_blobs", join_bundle([b"x"]), workspace="here").json["digests"]
    files = [{"path": "model.h5", "digest": digest, "size_bytes": 2}]
    _assert_one_sentence(app.ask("register_model", {"name": "m", "files": files}, workspace="here"), "size")


def test_link_in_a_datastore_leads_nowhere(app: Application, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    root = app.parts.datastores_folder / "here" / "workspaceblobstore"
    root.mkdir(parents=True, exist_ok=True)
    (root / "out").symlink_to(tmp_path)
    names = {"workspace": "here", "name": "workspaceblobstore"}
    _assert_one_sentence(app.ask("read_datastore_file", path="out/secret.txt", **names), "read")
    _assert_one_sentence(app.ask("write_datastore_file", b"x", path="out/new.txt", **names), "write")
    listed = app.ask("list_datastore_files", query="path=out/*", **names)
    assert listed.status >= 400 or listed.json["files"] == []
    assert (
        sorted(path.name for path in tmp_path.rglob("*")) == ["home", "secret.txt"]
        or not (tmp_path / "new.txt").exists()
    )
    (root / "out").unlink()


def test_names_that_differ_in_case_or_letters_only_are_kept_apart(app: Application) -> None:
    for name in ("set", "SET", "se\u0442"):
        found = app.ask(
            "save_dataset", {"sources": [{"url": "http://127.0.0.1/" + quote(name)}], "name": name}, workspace="here"
        )
        assert found.json["version"] == 1, name


def test_metrics_that_are_none_are_refused(app: Application) -> None:
    heads = [
        b'{"writer":"w","attempt":1e999,"first":1,"last":1,"columns":[]}',
        b'{"writer":"\\ud800","attempt":1,"first":1,"last":1,"columns":[]}',
        b'{"writer":"w","attempt":1,"first":1,"last":' + b"9" * 30 + b',"columns":[]}',
        b"[" * 100_000,
    ]
    framed = [b"RYCOLS1\n" + len(head).to_bytes(4, "little") + head for head in heads]
    for body in (*framed, b"", b"RYCOLS1\n", b"RYCOLS1\n\xff\xff\xff\xff", b"RYCOLS1\n\x02\x00\x00\x00{}", b"x" * 1000):
        _assert_one_sentence(app.ask("add_metrics", body, workspace="here", run_id="run-1"), body[:20])


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([route for route in TABLE if route.request is not None]),
)
def test_no_json_at_all_makes_a_route_fail(app: Application, body: Any, route: Route) -> None:
    if route.name == "create_workspace" and isinstance(body, dict) and "name" in body:
        return
    values = {name: PLAIN[name] for name in PARAMETERS if "{" + name in route.path}
    token = app.owner
    reply = app.ask(route.name, json.dumps(body).encode(), token, **values)
    assert reply.status < 500, (route.name, reply.body)


def test_batch_of_another_attempt_is_a_conflict(app: Application, run_token: str) -> None:
    from runyard.protocol.metrics import encode_batch

    body = encode_batch(Batch("w" * 16, 2, 1, 1, ()))
    assert app.ask("add_metrics", body, run_token, workspace="here", run_id="run-1").status == 409
