"""Who may do what: every route for every principal, and the checks that keep browsers honest.

The matrix is generated from the route table; who may use a route stands here once more, decided route by route, so
that a route that is added, or whose permission changes, fails until somebody decides.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from runyard.db.tables import tokens as tokens_table
from runyard.protocol.identity import Principal, PrincipalKind
from runyard.protocol.routes import BY_NAME, ROLES, TABLE, Route
from runyard.server import auth
from tests.server.application import Application, Reply, fill

#: r: reader, c: contributor, o: owner, j: the job itself by its run's token; "*": anybody, with no token at all.
DECIDED = {
    "ping": "*",
    "server_info": "o",
    "stop_server": "o",
    "create_ticket": "rco",
    "create_workspace": "o",
    "list_workspaces": "rco",
    "get_workspace": "rcoj",
    "create_token": "o",
    "create_experiment": "co",
    "get_experiment": "rcoj",
    "list_experiments": "rco",
    "submit_run": "co",
    "list_runs": "rco",
    "get_run": "rcoj",
    "change_run": "coj",
    "cancel_run": "co",
    "wait_run": "rcoj",
    "list_events": "rcoj",
    "explain_run": "rcoj",
    "list_logs": "rcoj",
    "read_log": "rcoj",
    "report": "j",
    "meet": "j",
    "read_node_file": "j",
    "find_environment_pack": "j",
    "read_replica_plan": "j",
    "read_environment_pack": "j",
    "append_log": "j",
    "add_metrics": "coj",
    "get_metrics": "rcoj",
    "get_usage": "rcoj",
    "add_artifacts": "coj",
    "list_artifacts": "rcoj",
    "read_artifact": "rcoj",
    "find_missing_blobs": "rcoj",
    "put_blobs": "coj",
    "begin_upload": "coj",
    "sign_parts": "coj",
    "append_upload": "coj",
    "finish_upload": "coj",
    "read_blob": "rco",
    "get_blob_address": "rco",
    "read_snapshot_files": "rcoj",
    "read_snapshot_file": "rcoj",
    "list_datastores": "rcoj",
    "get_datastore": "rcoj",
    "register_datastore": "co",
    "unregister_datastore": "co",
    "set_default_datastore": "co",
    "list_datastore_files": "rcoj",
    "read_datastore_file": "rcoj",
    "write_datastore_file": "co",
    "save_dataset": "co",
    "list_datasets": "rcoj",
    "get_dataset": "rcoj",
    "list_dataset_runs": "rco",
    "note_dataset_files": "j",
    "add_warnings": "j",
    "list_run_datasets": "rcoj",
    "write_output_file": "j",
    "find_dataset": "rcoj",
    "change_dataset": "co",
    "unregister_dataset": "co",
    "register_environment": "co",
    "list_environments": "rcoj",
    "get_environment": "rcoj",
    "build_environment": "co",
    "write_environment_file": "co",
    "read_environment_file": "rcoj",
    "create_cluster": "co",
    "list_clusters": "rco",
    "get_cluster": "rco",
    "change_cluster": "co",
    "delete_cluster": "co",
    "remove_node": "co",
    "register_model": "coj",
    "list_models": "rcoj",
    "get_model": "rcoj",
    "read_model_file": "rcoj",
    "change_model": "co",
    "delete_model": "co",
    "deploy_service": "co",
    "list_services": "rco",
    "get_service": "rco",
    "change_service": "co",
    "delete_service": "co",
    "list_service_revisions": "rco",
    "get_service_keys": "co",
    "change_service_key": "co",
    "create_service_token": "co",
    "read_service_log": "rco",
}
LETTERS = {"reader": "r", "contributor": "c", "owner": "o", "run": "j"}
#: What stands in the address of each parameter.
VALUES = {
    "workspace": "here",
    "run_id": "run-1",
    "name": "some",
    "path": "some.txt",
    "digest": "sha256:" + "0" * 64,
    "upload_id": "0" * 32,
    "dataset_id": "some",
    "version": "1",
}
#: Name of a token -> its principal and lifetime.
HOLDERS = {
    "reader": (Principal(PrincipalKind.SERVICE, "rita", "reader", "here"), None),
    "contributor": (Principal(PrincipalKind.SERVICE, "carl", "contributor", "here"), None),
    "workspace owner": (Principal(PrincipalKind.SERVICE, "olga", "owner", "here"), None),
    "server owner": (Principal(PrincipalKind.USER, "ann", "owner"), None),
    "contributor of another workspace": (Principal(PrincipalKind.SERVICE, "eve", "contributor", "there"), None),
    "owner of another workspace": (Principal(PrincipalKind.SERVICE, "ivan", "owner", "there"), None),
    "the run": (Principal(PrincipalKind.RUN, "run:run-1", "run", "here", "run-1"), 60),
    "another run": (Principal(PrincipalKind.RUN, "run:run-2", "run", "here", "run-2"), 60),
    "a run of another workspace": (Principal(PrincipalKind.RUN, "run:run-1", "run", "there", "run-1"), 60),
    "an expired owner": (Principal(PrincipalKind.USER, "otto", "owner"), -1),
    "an unknown role": (Principal(PrincipalKind.USER, "uma", "wizard"), None),
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    found = Application(tmp_path_factory.mktemp("home"))
    for workspace in ("here", "there"):
        found.add_workspace(workspace)
    for run_id in ("run-1", "run-2"):
        found.add_run("here", run_id)
    # The handler that stops the server signals its own process, which here is the test's.
    before = signal.signal(signal.SIGTERM, lambda _signal, _frame: None)
    yield found
    signal.signal(signal.SIGTERM, before)
    found.close()


@pytest.fixture(scope="module")
def tokens(app: Application) -> dict[str, str]:
    return {name: app.add_token(principal, lifetime) for name, (principal, lifetime) in HOLDERS.items()}


def _ask(app: Application, route: Route, token: str | None) -> Reply:
    kind = "application/octet-stream" if route.raw else "application/json"
    headers = {"content-type": kind} | ({"authorization": "Bearer " + token} if token else {})
    return app.send(route.method, fill(route.path, VALUES), headers, b"" if route.raw else b"{}")


def _may(route: Route, principal: Principal) -> bool:
    """The decision above, then the workspace's and the run's own bounds."""
    decided = DECIDED[route.name]
    if decided == "*":
        return True
    if LETTERS.get(principal.role, "-") not in decided:
        return False
    if "{workspace}" in route.path:
        if principal.workspace not in (None, VALUES["workspace"]):
            return False
    elif principal.workspace is not None and route.permission != "read":
        return False
    return principal.run_id is None or "{run_id}" not in route.path or principal.run_id == VALUES["run_id"]


def test_every_route_has_a_decision_and_every_decision_a_route() -> None:
    assert set(DECIDED) == set(BY_NAME)
    assert len(BY_NAME) == len(TABLE)


@pytest.mark.parametrize("route", TABLE, ids=lambda route: route.name)
def test_the_table_says_what_was_decided(route: Route) -> None:
    if route.permission is None:
        assert DECIDED[route.name] == "*"
    else:
        holders = {LETTERS[role] for role, permissions in ROLES.items() if route.permission in permissions}
        assert holders == set(DECIDED[route.name])


@pytest.mark.parametrize("route", TABLE, ids=lambda route: route.name)
def test_route_answers_each_principal_as_decided(route: Route, app: Application, tokens: dict[str, str]) -> None:
    for holder, (principal, lifetime) in HOLDERS.items():
        reply = _ask(app, route, tokens[holder])
        expired = lifetime is not None and lifetime < 0
        if DECIDED[route.name] == "*":
            assert reply.status == 200, holder
        elif expired:
            assert reply.status == 401, holder
        elif _may(route, principal):
            assert reply.status not in (401, 403, 500), (holder, reply.body)
        else:
            assert reply.status == 403, (holder, reply.body)
            assert reply.error["type"] == "PermissionDeniedError"


@pytest.mark.parametrize("route", TABLE, ids=lambda route: route.name)
def test_route_refuses_whoever_has_no_known_token(route: Route, app: Application) -> None:
    for token in (None, "ryt_unknown", "", "a b", "é"):
        reply = _ask(app, route, token)
        if DECIDED[route.name] == "*":
            assert reply.status == 200
        else:
            assert reply.status == 401
            assert reply.error["type"] == "AuthenticationException"
            assert reply.headers["www-authenticate"] == "Bearer"


def test_a_body_of_a_stranger_is_not_even_read(app: Application) -> None:
    reply = app.send("POST", "/api/1/workspaces/here/runs", {"content-type": "application/json"}, b"{" * 1000)
    assert reply.status == 401


def test_token_of_a_run_ends_with_its_time(app: Application) -> None:
    token = app.add_token(Principal(PrincipalKind.RUN, "run:run-1", "run", "here", "run-1"), 0)
    assert app.ask("get_run", token=token, workspace="here", run_id="run-1").status == 401


def test_created_token_has_its_role_in_its_workspace_only(app: Application) -> None:
    made = app.ask("create_token", {"name": "ci", "role": "reader", "lifetime_s": 60}, workspace="here").json
    assert app.ask("list_runs", token=made["secret"], workspace="here").status == 200
    assert app.ask("list_runs", token=made["secret"], workspace="there").status == 403
    assert app.ask("create_experiment", token=made["secret"], workspace="here", name="new").status == 403


def test_owner_of_a_workspace_sees_that_workspace_only(app: Application, tokens: dict[str, str]) -> None:
    found = app.ask("list_workspaces", token=tokens["workspace owner"])
    assert [one["name"] for one in found.json] == ["here"]


@pytest.mark.parametrize("role", ["run", "wizard", ""])
def test_token_of_a_role_that_nobody_may_have_is_refused(app: Application, role: str) -> None:
    assert app.ask("create_token", {"name": "x", "role": role}, workspace="here").status == 400


def test_secrets_are_kept_as_digests_only(app: Application, tokens: dict[str, str]) -> None:
    kept = b"".join(path.read_bytes() for path in app.home.glob("runyard.db*"))
    assert not [holder for holder, secret in tokens.items() if secret.encode() in kept]


def _ping(app: Application, **headers: str) -> Reply:
    return app.send("GET", "/api/1/ping", {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8123", "localhost:1", "LOCALHOST", "[::1]:99", "[::1]"])
def test_names_of_this_machine_pass_with_any_port(app: Application, host: str) -> None:
    assert _ping(app, host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil.example", ""]
)
def test_foreign_host_is_refused_and_told_the_setting(app: Application, host: str) -> None:
    reply = _ping(app, host=host)
    assert reply.status == 403
    assert "RUNYARD_ALLOWED_HOSTS" in reply.error["hint"]


def test_allowed_host_passes(tmp_path: Path) -> None:
    app = Application(tmp_path / "home", allowed_hosts=("ml.example",), public_url="https://runs.example/base")
    try:
        assert _ping(app, host="ml.example").status == 200
        assert _ping(app, host="ml.example:443", origin="https://ml.example").status == 200
        assert _ping(app, host="runs.example").status == 200
        assert _ping(app, host="other.example").status == 403
    finally:
        app.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://"])
def test_request_from_another_site_is_refused(app: Application, origin: str) -> None:
    assert _ping(app, origin=origin).status == 403


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8888", "http://localhost:1", "http://[::1]:5"])
def test_request_from_a_page_of_this_machine_passes(app: Application, origin: str) -> None:
    assert _ping(app, origin=origin).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_sends_for_another_site_is_refused(app: Application, site: str) -> None:
    assert _ping(app, sec_fetch_site=site).status == 403
    assert _ping(app, sec_fetch_site=site, sec_fetch_mode="no-cors", sec_fetch_dest="image").status == 403


def test_what_a_browser_sends_for_itself_or_a_followed_link_passes(app: Application) -> None:
    assert _ping(app, sec_fetch_site="same-origin").status == 200
    assert _ping(app, sec_fetch_site="none").status == 200
    assert _ping(app, sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document").status == 200


def test_session_of_a_browser_reads_and_never_writes(app: Application) -> None:
    ticket = app.ask("create_ticket").json["ticket"]
    signed_in = app.send("GET", f"/login?ticket={ticket}", {})
    cookie = signed_in.headers["set-cookie"].partition(";")[0]
    assert "httponly" in signed_in.headers["set-cookie"].lower()
    assert "samesite=strict" in signed_in.headers["set-cookie"].lower()
    assert app.send("GET", "/api/1/workspaces/here/runs", {"cookie": cookie}).status == 200
    assert app.send("PUT", "/api/1/workspaces/here/experiments/new", {"cookie": cookie}).status == 401
    assert app.send("GET", f"/login?ticket={ticket}", {}).status == 401


def test_session_of_a_browser_ends_with_its_token(app: Application) -> None:
    token = app.add_token(Principal(PrincipalKind.USER, "tim", "reader"), 60)
    cookie = _sign_in(app, token)
    assert app.send("GET", "/api/1/workspaces/here/runs", {"cookie": cookie}).status == 200
    app.parts.database.write(
        lambda c: c.execute(update(tokens_table).where(tokens_table.c.name == "tim").values(expires_at=1))
    )
    assert app.send("GET", "/api/1/workspaces/here/runs", {"cookie": cookie}).status == 401


def test_cookie_of_a_server_with_tls_travels_over_tls_only(app: Application) -> None:
    assert "secure" not in _sign_in(app, app.owner, whole=True).lower()
    app.parts.url = "https://yard.example"
    try:
        assert "secure" in _sign_in(app, app.owner, whole=True).lower()
    finally:
        app.parts.url = "http://127.0.0.1:9"


def test_tickets_may_be_made_and_used_at_once(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, count, failures = app.parts.keys, 3_000, []
    monkeypatch.setattr(auth, "SESSIONS_MAX", 50)

    def use() -> None:
        try:
            for _ in range(count):
                keys.redeem(keys.make_ticket("Bearer " + app.owner)[0])
        except Exception as error:  # noqa: BLE001 - what a thread meets is told by the test
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=use) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    sys.setswitchinterval(before)
    assert failures == []


def _sign_in(app: Application, token: str, whole: bool = False) -> str:
    ticket = app.ask("create_ticket", token=token).json["ticket"]
    found = app.send("GET", f"/login?ticket={ticket}", {}).headers["set-cookie"]
    return found if whole else found.partition(";")[0]


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", ""])
def test_link_leads_to_a_page_of_this_server_only(app: Application, target: str) -> None:
    ticket = app.ask("create_ticket").json["ticket"]
    assert app.send("GET", f"/login?ticket={ticket}&next={target}".replace("\\", "%5C"), {}).headers["location"] == "/"


@pytest.mark.parametrize("page", ["/", "/workspaces/here/runs", "/workspaces/here/runs/run-1"])
def test_pages_need_what_their_data_needs(app: Application, tokens: dict[str, str], page: str) -> None:
    assert app.send("GET", page, {}).status == 401
    assert app.send("GET", page, {"authorization": "Bearer " + tokens["reader"]}).status == 200
    if "here" in page:
        foreign = {"authorization": "Bearer " + tokens["owner of another workspace"]}
        assert app.send("GET", page, foreign).status in (401, 403)
