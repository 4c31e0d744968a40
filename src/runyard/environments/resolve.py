"""From a spec to its lock: every package pinned for one interpreter, by uv."""

import os
import re
import sys
import tempfile
import urllib.parse
from dataclasses import replace
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from runyard.environments.blame import error_of
from runyard.environments.pins import PipWish, translate
from runyard.environments.pythons import Interpreter, find_interpreters, minor_of, probe
from runyard.environments.spec import check_day
from runyard.environments.stored_files import Fetch, bring, local_line, name_of, stored_in, stored_line
from runyard.environments.uv import Log, UvResult, dated, run_uv
from runyard.errors import EnvironmentBuildError
from runyard.files.hashing import sha256_of
from runyard.protocol.environments import Builder, EnvironmentSpec, Lock, Note, has_sealed, lock_digest
from runyard.protocol.record import record

if TYPE_CHECKING:
    from runyard.environments.journey import Journey

#: Old pins may need their sources fetched and built to learn what they depend on.
RESOLVE_TIMEOUT_S = 900.0

#: The question "what is the newest version" only serves an error's sentence.
NEWEST_TIMEOUT_S = 30.0


def resolve(
    spec: EnvironmentSpec,
    *,
    uv: str,
    cache_folder: str,
    log: Log,
    timeout_s: float = RESOLVE_TIMEOUT_S,
    interpreters: Optional[Sequence[Interpreter]] = None,
    root_folder: str = "",
    fetch: Optional[Fetch] = None,
) -> Lock:
    """The lock of ``spec`` on this host; the same spec gives the same digest all day, and with old pins for ever.

    Blocks for seconds. EnvironmentBuildError names the package that cannot be had and what would work;
    ``interpreters`` replaces the search for this host's Pythons. Stored files that the spec names come by ``fetch``,
    and are kept under ``root_folder``.
    """
    check_day(spec.python)
    # Loaded here: a node that builds from a lock has no use for it.
    from runyard.environments.choice import choose_builder

    if any(map(has_sealed, (*spec.python.conda.pip, *spec.python.conda.packages, *spec.python.conda.channels))):
        raise EnvironmentBuildError(
            "The environment's password for an index is known to the server alone.",
            hint="Build it there with environment.build(workspace), or put the password into the environment again.",
        )
    choice = choose_builder(spec)
    log(choice.why)
    if choice.builder == Builder.USER_MANAGED:
        return _finished(replace(_user_managed(spec), builder_why=choice.why))
    if choice.builder == Builder.DOCKER and spec.python.user_managed:
        path = spec.python.interpreter_path
        return _finished(
            Lock("", Builder.DOCKER, "", interpreter_path=path, image=choice.image, builder_why=choice.why)
        )
    if choice.builder == Builder.CONDA:
        from runyard.environments.with_conda import resolve_with_conda

        return _finished(resolve_with_conda(spec, choice.conda, choice.why, choice.notes, log, timeout_s))
    names = [name_of(one) for line in spec.python.conda.pip for one in stored_in(line)]
    bring([one for name in names for one in stored_in(name)], root_folder, fetch)
    conda = replace(spec.python.conda, pip=tuple(local_line(line, root_folder) for line in spec.python.conda.pip))
    spec = replace(spec, python=replace(spec.python, conda=conda))
    lock = _with_pip(spec, choice.notes, uv, cache_folder, log, timeout_s, interpreters)
    pins = tuple(sorted(stored_line(line, names, root_folder) for line in lock.requirements))
    return _finished(
        replace(lock, builder=choice.builder, builder_why=choice.why, image=choice.image, requirements=pins)
    )


def _finished(lock: Lock) -> Lock:
    return replace(lock, digest=lock_digest(lock))


def _with_pip(
    spec: EnvironmentSpec,
    image_notes: Tuple[Note, ...],
    uv: str,
    cache_folder: str,
    log: Log,
    timeout_s: float,
    interpreters: Optional[Sequence[Interpreter]],
) -> Lock:
    """Python and packages as pip knows them, pinned by uv."""
    from runyard.environments.journey import plan_journey

    wish = translate(spec.python.conda)
    available = find_interpreters() if interpreters is None else interpreters
    journey = plan_journey(spec.python, wish, available, uv, log)
    journey = replace(journey, notes=(*image_notes, *journey.notes))
    if spec.python.exact_only:
        _refuse_changes(journey.notes)
    _tell(journey.notes, log)
    minor = minor_of(journey.interpreter)
    log(f"Resolving for Python {minor}; packages asked for: {len(journey.requirements)}.")
    call = _Call(uv, _compile_arguments(journey, cache_folder, wish.options), log, timeout_s)
    try:
        requirements = _pinned(wish, journey, call)
    except EnvironmentBuildError:
        earlier = journey.back_in_time()
        if earlier is None:
            raise
        log("That cannot be resolved with the packages of today.")
        _tell(earlier.notes[-1:], log)
        call = replace(call, arguments=_compile_arguments(earlier, cache_folder, wish.options))
        requirements, journey = _pinned(wish, earlier, call), earlier
    return Lock(
        digest="",
        python=minor,
        requirements=requirements,
        options=wish.options,
        as_of=journey.as_of,
        notes=journey.notes,
        sources=journey.sources,
    )


def _tell(notes: Sequence[Note], log: Log) -> None:
    for note in notes:
        log("{}: asked {}, got {}: {}.".format(note.subject, note.asked, note.got or "nothing", note.why))


def _refuse_changes(notes: Sequence[Note]) -> None:
    """Another Python is a change; packages are what the file pins, or were left open by it."""
    for note in notes:
        if note.subject == "python":
            raise EnvironmentBuildError(
                f"The environment asks for Python {note.asked} exactly, and there would be {note.got}: {note.why}."
            )


def user_interpreter(interpreter_path: str) -> str:
    """The program that ``interpreter_path`` means on this host; EnvironmentBuildError if there is none.

    v1's default "python" is the interpreter that Runyard itself runs on, since that is where its user installs things
    (a notebook's PATH need not name it); another bare name is looked up on the PATH; a path stays as it is.
    """
    if interpreter_path == "python":
        return sys.executable
    found = _on_path(os.path.expanduser(interpreter_path))
    if found is None:
        raise EnvironmentBuildError(f"The environment's interpreter '{interpreter_path}' does not exist on this host.")
    return found


def _on_path(name: str) -> Optional[str]:
    if os.sep in name:
        return name if os.access(name, os.X_OK) else None
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if folder and os.access(os.path.join(folder, name), os.X_OK):
            return os.path.join(folder, name)
    return None


def _user_managed(spec: EnvironmentSpec) -> Lock:
    path = user_interpreter(spec.python.interpreter_path)
    found = probe(path)
    if found is None:
        raise EnvironmentBuildError(f"The environment's interpreter '{path}' does not start, or is not CPython.")
    if found.version[:2] < (3, 7):
        raise EnvironmentBuildError(
            f"The environment's interpreter '{path}' is Python {minor_of(found)}; 3.7 or newer is needed."
        )
    return Lock(digest="", builder=Builder.USER_MANAGED, interpreter_path=spec.python.interpreter_path)


@record
class _Call:
    """One way of calling uv: the program, its arguments, who hears it."""

    uv: str
    arguments: List[str]
    log: Log
    timeout_s: float


def _pinned(wish: PipWish, journey: "Journey", call: _Call) -> Tuple[str, ...]:
    if not journey.requirements:
        return ()
    options = [line for line in wish.options if line != "--pre"]
    with tempfile.TemporaryDirectory(prefix="runyard-resolve-") as folder:
        result = _compile(call, options + [_with_content(line) for line in journey.requirements], folder)
        if result.code:
            raise error_of(
                result,
                minor_of(journey.interpreter),
                newest=lambda name: _newest(call, options, name, folder),
                from_conda=dict(wish.from_conda),
            )
    pins = (line.strip() for line in result.output.splitlines())
    return tuple(sorted(pin for pin in pins if pin and not pin.startswith(("#", "-"))))


def _compile_arguments(journey: "Journey", cache_folder: str, options: Sequence[str]) -> List[str]:
    arguments = ["pip", "compile", "--no-header", "--no-annotate", "--no-python-downloads"]
    arguments += ["--python", journey.interpreter.path, "--cache-dir", cache_folder]
    arguments += dated(journey.as_of, journey.requirements)
    if "--pre" in options:
        arguments += ["--prerelease", "allow"]
    return arguments + index_arguments(options)


def index_arguments(options: Sequence[str]) -> List[str]:
    """How uv must search a file's own indexes: like pip, for which it was written, all of them for the best version."""
    has_index = any(re.match(r"-i\b|--index-url|--extra-index-url", option) for option in options)
    return ["--index-strategy", "unsafe-best-match"] if has_index else []


def _compile(call: _Call, lines: Sequence[str], folder: str) -> UvResult:
    path = os.path.join(folder, "requirements.in")
    # The file may hold an index's password.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")
    return run_uv(call.uv, [*call.arguments, "--", path], folder=folder, log=call.log, timeout_s=call.timeout_s)


def _newest(call: _Call, options: Sequence[str], name: str, folder: str) -> Optional[str]:
    """The newest version of a package that this Python can have; None if that is not known either."""
    only_wheels = [*call.arguments, "--no-deps", "--only-binary", ":all:"]
    question = replace(call, arguments=only_wheels, log=_discard, timeout_s=NEWEST_TIMEOUT_S)
    try:
        result = _compile(question, [*options, name], folder)
    except EnvironmentBuildError:
        return None
    match = re.search(r"^[^#\s=]+==(\S+)", result.output, re.MULTILINE)
    return match.group(1) if match and not result.code else None


def _discard(line: str) -> None:
    """The log of a question whose answer is enough."""


def _with_content(line: str) -> str:
    """A requirement on a file of this host gets the file's sha256: another content is another environment."""
    match = re.match(r"^(?:([A-Za-z0-9._\-]+(?:\[[^\]]*\])?)\s*@\s*)?(file:\S+|[.~/]\S*)\s*$", line)
    if match is None or "#sha256=" in line:
        return line
    name, place = match.groups()
    path = urllib.parse.unquote(urllib.parse.urlsplit(place).path) if place.startswith("file:") else place
    path = os.path.expanduser(path)
    if not os.path.isabs(path) or not os.path.isfile(path):
        raise EnvironmentBuildError(
            f"The requirement '{line}' names no file on this host.", hint="Give a wheel's absolute path."
        )
    if name is None and path.endswith(".whl"):
        name = os.path.basename(path).split("-")[0]
    url = f"file://{urllib.parse.quote(path)}#sha256={sha256_of(path)}"
    return url if name is None else f"{name} @ {url}"
