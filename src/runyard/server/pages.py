"""Plain pages for a browser until the studio comes: a run, a workspace's runs, and signing in by a link."""

import html
import os
import time
from typing import TYPE_CHECKING, Any, Awaitable, BinaryIO, Callable, List, Optional, Tuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from runyard.db import metrics, runs, workspaces
from runyard.errors import AuthenticationException, RunyardError
from runyard.files.layout import folder_name
from runyard.protocol.identity import Principal
from runyard.protocol.metrics import MetricSummary
from runyard.protocol.routes import BY_NAME
from runyard.protocol.runs import TERMINAL, Artifact, Run
from runyard.server.auth import COOKIE, COOKIE_LIFETIME_S, check_permission
from runyard.server.storage_work import in_store_thread
from runyard.server.threads import in_thread

if TYPE_CHECKING:
    from runyard.server.app import Parts

Guard = Callable[..., Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]
#: A page's body, and whether it will be another one soon.
Made = Tuple[str, bool]

#: Seconds between two loads of a page whose run still moves.
REFRESH_S = 3
#: How much of the log a page shows, bytes.
LOG_BYTES = 32_768

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top }
pre { background: #8881; padding: .8rem; overflow: auto; max-height: 30rem }
.status { font-weight: 600 } .error { border-left: 4px solid #c33; padding-left: .8rem } a { color: inherit }
"""


def make_pages(parts: "Parts", guard: Guard) -> List[Tuple[str, Endpoint]]:
    """The pages by their addresses; each needs what its data's API route needs."""

    def page(name: str, make: Callable[["Parts", Principal, Any], Made]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            async def answer() -> Response:
                try:
                    principal = await in_thread(
                        parts.keys.find, request.headers.get("authorization"), request.cookies.get(COOKIE), "GET"
                    )
                    check_permission(BY_NAME[name], principal, request.path_params)
                    text, is_moving = await in_store_thread(parts.store, make, parts, principal, request.path_params)
                    return _page(text, 200, is_moving)
                except AuthenticationException as error:
                    return _page(_sign_in(str(error)), 401)
                except RunyardError as error:
                    return _page(f"<h1>Not here</h1><p>{html.escape(str(error))}</p>", 404)

            return await guard(parts, request, answer)

        return endpoint

    async def sign_in(request: Request) -> Response:
        async def answer() -> Response:
            return _redeem(parts, request)

        return await guard(parts, request, answer)

    return [
        ("/", page("list_workspaces", _home)),
        ("/login", sign_in),
        ("/workspaces/{workspace}/runs", page("list_runs", _runs)),
        ("/workspaces/{workspace}/runs/{run_id}", page("get_run", _run)),
    ]


def _redeem(parts: "Parts", request: Request) -> Response:
    target = request.query_params.get("next", "/")
    session = parts.keys.redeem(request.query_params.get("ticket", ""))
    if session is None:
        return _page(_sign_in("This link was used or is too old."), 401)
    if not target.startswith("/") or target.startswith("//") or "\\" in target:
        target = "/"
    response = RedirectResponse(target, 303)
    is_tls = parts.url.startswith("https:")
    response.set_cookie(COOKIE, session, COOKIE_LIFETIME_S, secure=is_tls, httponly=True, samesite="strict")
    return response


def _page(body: str, status: int, is_moving: bool = False) -> HTMLResponse:
    text = "<!doctype html><html lang=en><meta charset=utf-8><title>Runyard</title>{}<style>{}</style>{}</html>"
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_S}">' if is_moving else ""
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return HTMLResponse(text.format(refresh, _STYLE, body), status, headers)


def _sign_in(why: str) -> str:
    return f"<h1>Runyard</h1><p>{html.escape(why)}</p><p>To sign in, run <code>runyard open</code> in a terminal.</p>"


def _home(parts: "Parts", principal: Principal, _path: Any) -> Made:
    with parts.database.read() as connection:
        found = [one for one in workspaces.list_workspaces(connection) if principal.workspace in (None, one.name)]
    rows = "".join('<li><a href="/workspaces/{0}/runs">{0}</a>'.format(html.escape(one.name)) for one in found)
    return "<h1>Workspaces</h1><ul>{}</ul>".format(rows or "<li>none yet"), False


def _runs(parts: "Parts", _principal: Principal, path: Any) -> Made:
    with parts.database.read() as connection:
        page = runs.list_runs(connection, path["workspace"], runs.RunQuery(limit=200))
    rows = "".join(
        '<tr><td><a href="/workspaces/{}/runs/{}">{}</a><td>{}<td class=status>{}<td>{}'.format(
            *map(
                html.escape,
                (run.workspace, run.id, run.display_name, run.experiment, run.status, _date(run.created_at)),
            )
        )
        for run in page.runs
    )
    head = "<tr><th>Run<th>Experiment<th>Status<th>Submitted (UTC)"
    return "<h1>Runs of {}</h1><table>{}{}</table>".format(html.escape(path["workspace"]), head, rows), False


def _run(parts: "Parts", _principal: Principal, path: Any) -> Made:
    with parts.database.read() as connection:
        run = runs.get_run(connection, path["workspace"], path["run_id"])
        summaries = metrics.list_summaries(connection, run.id)
        files = runs.list_artifacts(connection, run.id)
    parts_of_page = [
        f"<h1>{html.escape(run.display_name)}</h1>",
        _facts(run),
        _error(run),
        _metrics(summaries),
        _log(parts, run),
        "<h2>Files</h2><table>{}</table>".format("".join(_file(run, one) for one in files[:500])),
    ]
    return "".join(parts_of_page), run.status not in TERMINAL


def _file(run: Run, one: Artifact) -> str:
    address = BY_NAME["read_artifact"].path
    for name, value in (("{workspace}", run.workspace), ("{run_id}", run.id), ("{path:path}", one.path)):
        address = address.replace(name, quote(value))
    return f'<tr><td><a href="{address}">{html.escape(one.path)}</a><td>{one.size_bytes:,} bytes'


def _facts(run: Run) -> str:
    rows: List[Tuple[str, str]] = [
        ("Status", run.status + (": " + run.reason if run.reason and run.status not in TERMINAL else "")),
        ("Experiment", run.experiment),
        ("Run id", run.id),
        ("Target", run.target),
        ("Submitted", f"{_date(run.created_at)} by {run.created_by}"),
        ("Started", _date(run.started_at)),
        ("Ended", _date(run.ended_at)),
        ("Command", " ".join([run.spec.script or "", *run.spec.command, *run.spec.arguments])),
    ]
    rows += [("Tag " + key, value) for key, value in sorted(run.tags.items())]
    return "<table>{}</table>".format(
        "".join("<tr><th>{}<td>{}".format(html.escape(name), html.escape(text or "")) for name, text in rows if text)
    )


def _error(run: Run) -> str:
    if run.error is None:
        return ""
    return f"<div class=error><p>{html.escape(run.error.message)}</p><pre>{html.escape(run.error.details)}</pre></div>"


def _metrics(found: List[MetricSummary]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one.name)}<td>{one.last:.6g}<td>{one.minimum:.6g}<td>{one.maximum:.6g}<td>{one.count}"
        for one in found[:200]
    )
    head = "<tr><th>Metric<th>Last<th>Least<th>Greatest<th>Values"
    return f"<h2>Metrics</h2><table>{head}{rows}</table>" if rows else ""


def _log(parts: "Parts", run: Run) -> str:
    path = "user_logs/std_log.txt"
    with parts.database.read() as connection:
        stored = runs.find_artifact(connection, run.id, path)
    live = parts.logs_folder / folder_name(run.id) / path
    if stored is not None:
        data = _end(parts.store.open(stored.digest))
    else:
        data = _end(live.open("rb")) if live.exists() else b""
    return "<h2>Log</h2><pre>{}</pre>".format(html.escape(data.decode("utf-8", "replace")))


def _end(file: BinaryIO) -> bytes:
    """The last bytes of a file, however long it is."""
    with file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
        return file.read(LOG_BYTES)


def _date(at: Optional[int]) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at / 1_000_000))
