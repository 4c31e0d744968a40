"""Which files of a source folder are not sent: v1's rules.

``.amlignore`` wins over ``.gitignore`` where both lie in the folder, and only one of them is used; its patterns are
git's, relative to the folder. v1's own list of folders is left out only where the folder has neither file: whoever
writes rules means those rules. `outputs` and `logs` at the top are left out all the same, unless a rule takes them back
in: they are the run's own, and what lies there from an earlier run would be recorded as this one's.
"""

from pathlib import Path
from typing import Any, FrozenSet, Optional, Tuple

#: Left out at the top of a folder that has no ignore file.
DEFAULT_IGNORED = (".ipynb_checkpoints", "azureml-logs", ".azureml", ".git", "outputs", "azureml-setup", "docs")
#: Left out always: never part of a program, and .git alone is often larger than the rest.
ALWAYS_IGNORED = (".git", "__pycache__")


#: Folders at the top that a run fills.
RUN_FOLDERS = ("outputs", "logs")


class IgnoreRules:
    """The rules of one folder."""

    def __init__(
        self,
        source: Optional[str],
        patterns: Any,
        wanted: FrozenSet[str] = frozenset(),
        lines: Tuple[str, ...] = (),
    ) -> None:
        #: The file that the rules came from; None: the default list.
        self.source = source
        self._patterns = patterns
        self._lines = lines
        #: Which of the run's folders the rules take back in.
        self._wanted = wanted

    def is_ignored(self, path: str, is_folder: bool) -> bool:
        """Is ``path`` (relative, '/') left out? An ignored folder is never entered, so its files are not asked for."""
        if is_folder and self._own_rule(path):
            return True
        if self._patterns is None:
            return path in DEFAULT_IGNORED
        return bool(self._patterns.match_file(path + "/" if is_folder else path))

    def why_ignored(self, path: str, is_folder: bool) -> Optional[str]:
        """The rule that leaves ``path`` out; None where it goes."""
        if not self.is_ignored(path, is_folder):
            return None
        own = self._own_rule(path) if is_folder else ""
        if own or self._patterns is None:
            return own or "the default list of a folder without an ignore file"
        found = self._patterns.check_file(path + "/" if is_folder else path)
        return f"{self.source}: {self._lines[found.index]}"

    def _own_rule(self, folder: str) -> str:
        if folder.rpartition("/")[2] in ALWAYS_IGNORED:
            return "never sent"
        return "the run's own folder" if folder in RUN_FOLDERS and folder not in self._wanted else ""


def read_rules(folder: Path) -> IgnoreRules:
    """The rules of ``folder``."""
    for name in (".amlignore", ".gitignore"):
        lines = _lines(folder / name)
        if lines is not None:
            # Only here is a third-party package needed, and only where a folder is sent.
            import pathspec

            wanted = {line.strip().lstrip("!/").rstrip("/") for line in lines if line.startswith("!")}
            return IgnoreRules(name, pathspec.GitIgnoreSpec.from_lines(lines), frozenset(wanted), lines)
    return IgnoreRules(None, None)


def _lines(path: Path) -> Optional[Tuple[str, ...]]:
    try:
        return tuple(path.read_text("utf-8-sig", "replace").splitlines())
    except OSError:
        return None
