"""An environment that runs share, as one of them may write to it: what its script installs is the run's own.

A virtual environment is given a layer: a folder of the run's takes its place, with copies of its programs and a
site-packages that names the shared one. Whatever installs there, pip of any age, finds an environment like any other;
a package of the shared one is not taken away but hidden by another version. What is installed for any other
interpreter goes where that looks for packages of a user.
"""

import os
from collections import deque
from glob import escape, glob
from typing import Dict, Optional, Set, Tuple

from runyard.protocol.record import record
from runyard.runner.folder import AttemptFolder

#: Programs up to this size are copied, since those of a relocatable environment find it by where they lie, bytes.
COPIED_BYTES = 64 << 10
#: Where packages put files; a folder of any other name is linked as it is.
FOLDERS = ("bin", "etc", "include", "man", "share")
#: How many files get a link each; folders beyond them are linked as they are.
LINKS_MAX = 300
#: The file that brings the shared site-packages, and all that the files of its kind there ask for.
SHARED_NAME, SHARED_TEXT = "runyard-shared.pth", "import site; site.addsitedir({!a})\n"


@record
class ShownEnvironment:
    """What a sandbox makes of an environment."""

    #: bubblewrap's word, what is bound, and where.
    binds: Tuple[Tuple[str, str, str], ...]
    #: Leads what is installed to the run's folder, where its place is not enough.
    user_base: str = ""
    is_pip_old: bool = False

    @property
    def places(self) -> Set[str]:
        """What is bound over."""
        return {place for _, _, place in self.binds}

    def complete(self, variables: Dict[str, str]) -> Dict[str, str]:
        """A job's variables, with those that this takes."""
        if not self.user_base:
            return variables
        path = os.pathsep.join([os.path.join(self.user_base, "bin"), variables.get("PATH", os.defpath)])
        found = {"PYTHONUSERBASE": self.user_base, **({"PIP_USER": "1"} if self.is_pip_old else {})}
        return {**found, **variables, "PATH": path}


def show_environment(folder: AttemptFolder, prefix: str, memory: str) -> ShownEnvironment:
    """The environment at ``prefix``, read-only where it has no pip that could install anything.

    ``memory`` is a folder of the run's in memory, where many small files are made soonest.
    """
    own, shared = folder.path / "environment", ("--ro-bind", prefix, prefix)
    site = _site_folder(prefix)
    if site is None or not os.path.isdir(os.path.join(prefix, site, "pip")):
        return ShownEnvironment((shared,))
    if not os.path.isfile(os.path.join(prefix, "pyvenv.cfg")):
        # Python looks for the folder when it starts, and not again.
        os.makedirs(str(own / site), exist_ok=True)
        return ShownEnvironment((shared, ("--bind", str(own), str(own))), str(own), _is_old(prefix, site))
    # The same for every run: some libraries keep what they compile by the path of what they compiled.
    elsewhere = os.path.join(folder.facts.home_folder, "environment", os.path.basename(prefix))
    _mirror(prefix, memory, elsewhere, "lib")
    # Packages may be large.
    _mirror(os.path.join(prefix, "lib"), str(own), os.path.join(elsewhere, "lib"), os.path.relpath(site, "lib"))
    with open(os.path.join(str(own), os.path.relpath(site, "lib"), SHARED_NAME), "w", encoding="ascii") as file:
        file.write(SHARED_TEXT.format(os.path.join(elsewhere, site)))
    layers = (("--bind", memory, prefix), ("--bind", str(own), os.path.join(prefix, "lib")))
    return ShownEnvironment((("--ro-bind", prefix, elsewhere), *layers))


def own_environment(folder: AttemptFolder, interpreter: str) -> Tuple[str, ShownEnvironment]:
    """The interpreter as a job runs it that may not write to where it is: of a virtual environment with pip, a layer's.

    Nothing can take a place here, so the layer is a place of its own, and the job's Python runs there.
    """
    own, prefix = folder.path / "environment", os.path.dirname(os.path.dirname(interpreter))
    site = _site_folder(prefix)
    if site is None or not os.path.isdir(os.path.join(prefix, site, "pip")):
        return interpreter, ShownEnvironment(())
    if not os.path.isfile(os.path.join(prefix, "pyvenv.cfg")):
        os.makedirs(str(own / site), exist_ok=True)
        return interpreter, ShownEnvironment((), str(own), _is_old(prefix, site))
    _mirror(prefix, str(own), prefix, site)
    _lead(str(own / "bin"), os.path.join(prefix, "bin"))
    with open(str(own / site / SHARED_NAME), "w", encoding="ascii") as file:
        file.write(SHARED_TEXT.format(os.path.join(prefix, site)))
    return os.path.join(str(own), os.path.relpath(interpreter, prefix)), ShownEnvironment(())


def _lead(programs: str, shared: str) -> None:
    """Let copied programs that name the Python of the shared environment in their first lines name the layer's."""
    before, after = (os.fsencode(os.path.join(one, "python")) for one in (shared, programs))
    for name in os.listdir(programs):
        path = os.path.join(programs, name)
        if os.path.islink(path):
            continue
        with open(path, "r+b") as file:
            text = file.read()
            # A path that is long or has a blank stands in the second line, behind a shell's exec.
            if text.startswith(b"#!") and before in b"".join(text.splitlines()[:2]):
                file.seek(0)
                file.write(text.replace(before, after, 1))
                file.truncate()


def _site_folder(prefix: str) -> Optional[str]:
    """Its site-packages, by the path below it; None where there is not one."""
    found = glob(os.path.join(escape(prefix), "lib", "python*", "site-packages"))
    return os.path.relpath(found[0], prefix) if len(found) == 1 else None


def _is_old(prefix: str, site: str) -> bool:
    """Is it a pip that does not install for the user by itself where it may not write?"""
    found = [os.path.basename(one).split("-")[1] for one in glob(os.path.join(escape(prefix), site, "pip-*-info"))]
    return any(one.split(".")[0].isdigit() and int(one.split(".")[0]) < 20 for one in found)


def _mirror(top: str, layer: str, elsewhere: str, bare: str) -> None:
    """Make a layer: folders of its own, links to files that will lie ``elsewhere``, copies of small programs.

    The folder ``bare`` is there, and nothing below it.
    """
    left, count = deque([""]), 0
    while left:
        parent = left.popleft()
        if count > LINKS_MAX and not _leads_to(parent, bare):
            os.symlink(f"{elsewhere}/{parent}", f"{layer}/{parent}")
            continue
        os.mkdir(f"{layer}/{parent}")
        with os.scandir(f"{top}/{parent}") as entries:
            for entry in [] if parent == bare else entries:
                path, count = f"{parent}/{entry.name}" if parent else entry.name, count + 1
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), f"{layer}/{path}")
                elif entry.is_dir() and (path.split("/", 1)[0] in FOLDERS or _leads_to(path, bare)):
                    left.append(path)
                elif path == "pyvenv.cfg" or (parent == "bin" and entry.stat().st_size <= COPIED_BYTES):
                    _copy(entry.path, f"{layer}/{path}", entry.stat().st_mode)
                else:
                    os.symlink(f"{elsewhere}/{path}", f"{layer}/{path}")


def _leads_to(path: str, bare: str) -> bool:
    return (bare + os.sep).startswith(os.path.join(path, ""))


def _copy(path: str, target: str, mode: int) -> None:
    """Without Python's file objects, which take longer than the copy: there may be a hundred programs."""
    source = os.open(path, os.O_RDONLY)
    try:
        content = os.read(source, COPIED_BYTES)
    finally:
        os.close(source)
    copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o777)
    try:
        os.write(copy, content)
    finally:
        os.close(copy)
