"""Byte code of an environment: compiled once for each file of uv's cache, then hard-linked like the file itself."""

import os
from typing import Iterator, List, Tuple

from runyard.environments.uv import Log, run_tool

#: Packages bring their own tests, half of their files, which nobody imports at work.
_SKIPPED_FOLDERS = frozenset(("tests", "__pycache__"))


def compile_environment(interpreter: str, site_folder: str, store_folder: str, log: Log, timeout_s: float) -> None:
    """Byte-compile the modules in ``site_folder`` for ``interpreter``; files that it cannot read stay as they are.

    What was compiled for another environment comes from ``store_folder`` (one a minor version of Python), which must
    lie on the same disk. A source is known again by its inode, time and size: environments share uv's own files.
    """
    missing: List[Tuple[str, str, str]] = []
    found = 0
    for source, compiled in _modules(site_folder):
        stored = _place(source, store_folder)
        if _link(stored, compiled):
            found += 1
        else:
            missing.append((source, compiled, stored))
    if missing:
        _compile(interpreter, [source for source, _, _ in missing], site_folder, log, timeout_s)
        for _, compiled, stored in missing:
            _link(compiled, stored)
    log(f"Byte code: {len(missing)} modules compiled, {found} had been compiled before.")


def forget_unused(store_folder: str) -> int:
    """Remove the byte code that no environment links to any more; how many files."""
    removed = 0
    for parent, _, names in os.walk(store_folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                if os.lstat(path).st_nlink == 1:
                    os.unlink(path)
                    removed += 1
            except FileNotFoundError:
                continue
    return removed


def _modules(site_folder: str) -> Iterator[Tuple[str, str]]:
    """Each module's source and where its byte code belongs (PEP 3147)."""
    tag = "cpython-" + os.path.basename(os.path.dirname(site_folder))[len("python") :].replace(".", "")
    for parent, folders, names in os.walk(site_folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in names:
            if name.endswith(".py"):
                yield os.path.join(parent, name), os.path.join(parent, "__pycache__", f"{name[:-3]}.{tag}.pyc")


def _place(source: str, store_folder: str) -> str:
    facts = os.stat(source)
    name = f"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}.pyc"
    return os.path.join(store_folder, f"{facts.st_ino & 0xFF:02x}", name)


def _link(source: str, target: str) -> bool:
    for _ in range(2):
        try:
            os.link(source, target)
        except FileExistsError:
            return True
        except FileNotFoundError:
            if not os.path.exists(source):
                return False
            os.makedirs(os.path.dirname(target), exist_ok=True)
        except OSError:
            return False  # Another disk, or too many links: compiled anew, which is only slower.
        else:
            return True
    return False


def _compile(interpreter: str, sources: List[str], folder: str, log: Log, timeout_s: float) -> None:
    names = os.path.join(folder, ".runyard-modules")
    readable = [source for source in sources if "\n" not in source]
    with open(names, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write("\n".join(readable) + "\n")
    try:
        # Its exit code tells that some file is not Python for this version; templates and old syntax are common.
        command = [interpreter, "-I", "-S", "-m", "compileall", "-qq", "-j", "0", "-i", names]
        run_tool(command, folder=folder, log=log, timeout_s=timeout_s)
    finally:
        os.unlink(names)
