"""runyard up, down, status, doctor, open."""

import json
import os
import sys
import time
from typing import Annotated, Optional
from urllib.parse import quote

import typer

from runyard import __version__
from runyard.cli.place import find_run, find_workspace
from runyard.cli.shown import say, show_facts, tell
from runyard.client.home import home_folder, read_server_file, server_file
from runyard.client.local_server import connect, ensure_running, find_server_info, is_running
from runyard.errors import ServerUnreachableError, UserErrorException
from runyard.protocol.words import counted

#: How long a server may take to end, seconds.
DOWN_TIMEOUT_S = 20.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WorkspaceName = Annotated[Optional[str], typer.Option("--workspace", "-w", help="The workspace.")]


def up(
    foreground: Annotated[bool, typer.Option(help="Stay, and end with Ctrl-C.")] = False,
    port: Annotated[Optional[int], typer.Option(help="The port; else the last one, or any that is free.")] = None,
    host: Annotated[str, typer.Option(help="The address to serve on.")] = "127.0.0.1",
    certificate: Annotated[Optional[str], typer.Option(help="PEM file for TLS.")] = None,
    key: Annotated[Optional[str], typer.Option(help="Key of the certificate.")] = None,
    insecure: Annotated[bool, typer.Option(help="Serve beyond this machine without TLS, behind a proxy.")] = False,
    store: Annotated[
        Optional[str],
        typer.Option(help="Where files lie: s3://bucket/prefix, az://container/prefix, gs://bucket/prefix; kept."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start this home's server, unless it runs; returns once it answers."""
    home = home_folder()
    if store is not None:
        os.environ["RUNYARD_STORE"] = store
    if foreground:
        words = [sys.executable, "-m", "runyard.server", "--home", str(home), "--host", host, "--port", str(port or 0)]
        words += ["--certificate", certificate, "--key", str(key)] if certificate else []
        os.execv(sys.executable, words + (["--insecure"] if insecure else []))
    if host != "127.0.0.1" or certificate or insecure:
        raise UserErrorException("Serving beyond this machine stays in the foreground; add --foreground.")
    began = time.monotonic()
    started = ensure_running(home, port)
    found = read_server_file(server_file(home)) or {}
    if not started and store is not None:
        _check_store(store)
    seconds = round(time.monotonic() - began, 1)
    what = f"started in {seconds} s" if started else "runs already"
    record = {"started": started, "seconds": seconds, "url": found.get("url"), "home": str(home)}
    tell(record, as_json, f"Server {what} at {found.get('url')} (home {home})")
    info = find_server_info()
    if info is not None and info.isolation_problem:
        say(info.isolation_problem)


def _check_store(store: str) -> None:
    """UserErrorException where the server that runs keeps files elsewhere."""
    found = find_server_info()
    status = found.store if found else None
    if status is not None and status.place != store.rstrip("/"):
        raise UserErrorException(f"A server runs already, and keeps files in {status.place}; stop it: runyard down")


def down(as_json: Json = False) -> None:
    """Stop this home's server. Runs go on, and the next server finds them."""
    home = home_folder()
    if not is_running(home):
        tell({"stopped": False, "active_runs": 0, "home": str(home)}, as_json, f"No server runs for {home}.")
        return
    server = connect(start=False)
    active = server.call("server_info").active_runs
    server.call("stop_server")
    ends_at = time.monotonic() + DOWN_TIMEOUT_S
    while is_running(home):
        if time.monotonic() > ends_at:
            raise ServerUnreachableError(f"The server has not ended within {DOWN_TIMEOUT_S:.0f} s.")
        time.sleep(0.05)
    record = {"stopped": True, "active_runs": active, "home": str(home)}
    left = f"{counted(active, 'run')} {'goes' if active == 1 else 'go'} on without it."
    tell(record, as_json, f"Server stopped. {left}" if active else "Server stopped.")


def status(as_json: Json = False) -> None:
    """Say where the server is."""
    home = home_folder()
    found = read_server_file(server_file(home)) if is_running(home) else None
    info = find_server_info() if found else None
    store = info.store if info else None
    record = {
        "running": found is not None,
        "url": found["url"] if found else None,
        "pid": found["pid"] if found else None,
        "home": str(home),
        "version": found["version"] if found else __version__,
        "store": store.place if store else None,
        "store_problem": store.problem if store else None,
        "isolation": info.isolation if info else None,
        "isolation_problem": info.isolation_problem if info else None,
    }
    if as_json:
        print(json.dumps(record, indent=2))
    else:
        show_facts(record, False, [("Server", "running" if found else "not running; start it with: runyard up")])
        names = ("url", "pid", "home", "version", "store", "isolation")
        show_facts(record, False, [(name.capitalize(), record[name]) for name in names])
        for problem in (store.problem if store else "", info.isolation_problem if info else ""):
            if problem:
                say(problem)
    if found is None:
        raise typer.Exit(3)


def doctor(as_json: Json = False) -> None:
    """Look at everything that a first run needs, and say what to do where it is not so."""
    # Its checks load what other commands do not need.
    from runyard.cli.checks import all_checks

    found = all_checks()
    if as_json:
        print(json.dumps([one.__dict__ for one in found], indent=2))
    else:
        for one in found:
            print(f"{one.state:<5} {one.what}: {one.text}")
    if any(one.state == "fail" for one in found):
        raise typer.Exit(1)


def open_page(
    run: Annotated[Optional[str], typer.Argument(help="A run; else the list of workspaces.")] = None,
    workspace: WorkspaceName = None,
    browser: Annotated[bool, typer.Option(help="Open it in a browser.")] = False,
) -> None:
    """Print a link that signs a browser in; it works once, for some minutes."""
    server = connect()
    target = "/"
    if run is not None:
        place = find_workspace(workspace)
        target = f"/workspaces/{place.name}/runs/{find_run(place, run).id}"
    ticket = server.call("create_ticket").ticket
    url = f"{server.address()}/login?ticket={quote(ticket)}&next={quote(target)}"
    print(url)
    if browser:
        import webbrowser

        webbrowser.open(url)
        say("Opened in the browser.")
