"""runyard env ...: what environments there are, and what a conda file comes to on this machine."""

import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from runyard.cli.place import find_workspace
from runyard.cli.server import Json, WorkspaceName
from runyard.cli.shown import say, show, show_facts, shown_size
from runyard.client.home import home_folder
from runyard.environments.choice import choose_builder
from runyard.environments.realise import built_environments, prune, realise
from runyard.environments.resolve import resolve
from runyard.environments.uv import find_uv, uv_cache_folder
from runyard.errors import UserErrorException
from runyard.protocol.environments import EnvironmentSpec, Lock, without_credentials, without_passwords
from runyard.sdk.environment import Environment
from runyard.sdk.environment_build import stored_pieces

commands = typer.Typer(no_args_is_help=True, help="Environments: registered, curated, or a conda file's.")

Wanted = Annotated[str, typer.Argument(metavar="ENV", help="A conda file, or an environment's name or name:version.")]
AsOf = Annotated[Optional[str], typer.Option(help="Resolve as if it were that day, YYYY-MM-DD.")]
Exact = Annotated[bool, typer.Option("--exact", help="Refuse another Python than the one that is asked for.")]
GIB = 1 << 30


@commands.command("list")
def list_environments(
    built: Annotated[bool, typer.Option("--built", help="Those that are built on this machine.")] = False,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """List environments."""
    if built:
        here = built_environments(str(home_folder() / "cache"))
        built_rows = [(one.digest[:12], one.python, shown_size(one.size_bytes), _ago(one.used_at)) for one in here]
        show(here, as_json, ("Built", "Python", "Size", "Last used"), built_rows)
        return
    found = find_workspace(workspace)._call("list_environments")
    rows = [(e.name, e.version, "curated" if e.is_curated else e.created_by) for e in found]
    show(found, as_json, ("Environment", "Version", "By"), rows)


@commands.command("show")
def show_environment(
    name: str,
    version: Annotated[Optional[str], typer.Option(help="Else the latest.")] = None,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Show an environment's conda file."""
    found = Environment.get(find_workspace(workspace), name, version)
    if as_json:
        show(without_passwords(found._spec()), True)
    else:
        print(without_credentials(found.python.conda_dependencies.serialize_to_string()), end="")
        print("# " + choose_builder(found._spec()).why)


@commands.command()
def solve(
    env: Wanted, as_of: AsOf = None, exact: Exact = False, workspace: WorkspaceName = None, as_json: Json = False
) -> None:
    """Say what would be installed, what is changed against the file and why, or which pin cannot be had."""
    lock = _solve(_spec(env, workspace, as_of, exact))
    if as_json:
        show(without_passwords(lock), True)
        return
    _show_lock(lock)
    show(lock, False, ("Package", "Version"), map(_name_and_version, _pins(lock)))


@commands.command()
def build(
    env: Wanted, as_of: AsOf = None, exact: Exact = False, workspace: WorkspaceName = None, as_json: Json = False
) -> None:
    """Build an environment on this machine now, ahead of the run that needs it."""
    lock = _solve(_spec(env, workspace, as_of, exact))
    done = realise(lock, str(home_folder() / "cache"), uv=find_uv(), log=say, fetch=stored_pieces)
    facts = [
        ("Environment", lock.digest[:12]),
        ("Image", done.image),
        ("Python", done.interpreter),
        ("Was there", "yes" * done.reused),
    ]
    show_facts(done, as_json, facts)


@commands.command()
def diff(
    first: Wanted,
    second: Wanted,
    workspace: WorkspaceName = None,
    as_json: Json = False,
) -> None:
    """Say in which packages two environments differ, once they are resolved."""
    before, after = _solve(_spec(first, workspace)), _solve(_spec(second, workspace))
    left, right = _versions(before), _versions(after)
    changed = [
        {"package": name, "first": left.get(name), "second": right.get(name)}
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]
    show(changed, as_json, ("Package", Path(first).name, Path(second).name), [tuple(one.values()) for one in changed])


@commands.command("prune")
def prune_environments(
    days: Annotated[float, typer.Option(help="Remove those unused for so many days ...")] = 30,
    keep_gib: Annotated[
        float, typer.Option(help="... then the longest unused until the rest fits in so many GiB.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """Remove environments that are built on this machine and not used any more; a later run builds them again."""
    for option, value in (("--days", days), ("--keep-gib", keep_gib)):
        if not (math.isfinite(value) and value >= 0):
            raise UserErrorException(f"{option} is a number from 0 up, not {value}.")
    root = str(home_folder() / "cache")
    removed = prune(root, days, int(keep_gib * GIB), now=time.time(), in_use=_in_use())
    show(removed, as_json, ("Removed",), [(digest[:12],) for digest in removed])


def _spec(wanted: str, workspace: Optional[str], as_of: Optional[str] = None, exact: bool = False) -> EnvironmentSpec:
    """A file's environment, or the registered or curated one of that name."""
    if os.path.exists(wanted):
        found = Environment.from_conda_specification(Path(wanted).stem, wanted)
    else:
        name, _, version = wanted.partition(":")
        found = Environment.get(find_workspace(workspace), name, version or None)
    found.python.as_of = as_of or found.python.as_of
    found.python.exact_only = exact or found.python.exact_only
    return found._spec()


def _solve(spec: EnvironmentSpec) -> Lock:
    root = str(home_folder() / "cache")
    cache = uv_cache_folder(root)
    places: dict[str, Any] = {"uv": find_uv(), "cache_folder": cache, "root_folder": root, "fetch": stored_pieces}
    if not sys.stderr.isatty():
        return resolve(spec, log=lambda _line: None, **places)
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(f"Resolving {spec.name}") as status:
        return resolve(spec, log=lambda line: status.update(line[:100]), **places)


def _show_lock(lock: Lock) -> None:
    facts = [("Python", lock.python or lock.interpreter_path), ("As of", lock.as_of), ("Key", lock.digest[:12])]
    show_facts(lock, False, facts)
    print(lock.builder_why)
    for note in lock.notes:
        print(f"{note.subject}: {note.asked} -> {note.got or 'left out'}; {note.why}.")
    for source in lock.sources:
        print(f"{source.requirement} is built from its source; that needs {', '.join(source.programs)}.")


def _pins(lock: Lock) -> list[str]:
    return sorted([*lock.conda_packages, *lock.requirements, *(source.requirement for source in lock.sources)])


def _name_and_version(pin: str) -> tuple[str, str]:
    """Of a pin: pip's "six==1.17.0" and "six @ URL", conda's "six=1.17.0=py_0"."""
    name, *rest = re.split(r"==| @ |=", without_credentials(pin), maxsplit=1)
    return name, "".join(rest)


def _versions(lock: Lock) -> dict[str, str]:
    return {"python": lock.python, **dict(map(_name_and_version, _pins(lock)))}


def _in_use() -> set[str]:
    """The environments that processes of this machine run in.

    A run's own command names its Python as "python": its variables tell which one that is.
    """
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            found.update(re.findall(r"/envs/([0-9a-f]{64})/bin/", _read(entry / "cmdline")))
            variables = _read(entry / "environ").split("\0")
            named = [one for one in variables if one.startswith(("VIRTUAL_ENV=", "PATH="))]
            for text in (*named, _link(entry / "exe")):
                found.update(re.findall(r"/envs/([0-9a-f]{64})(?=[/:]|$)", text))
    return found


def _read(path: Path) -> str:
    """A file of a process; nothing where the process is gone or another user's."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _ago(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
