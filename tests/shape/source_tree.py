"""The project's source files as the shape tests see them: path, text and syntax tree, read once."""

import ast
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Where code lives that the shape rules hold for.
FOLDERS = ("src", "packages", "tests", "examples", "bench")


@dataclass(frozen=True)
class SourceFile:
    """One Python file."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def name(self) -> str:
        """The path as a report shows it."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def room(self) -> str | None:
        """The room of src/runyard that the file belongs to ("sdk", "errors"), or None outside it."""
        parts = self.path.relative_to(ROOT).parts
        if parts[:2] != ("src", "runyard"):
            return None
        return parts[2].removesuffix(".py")

    def at(self, node: ast.AST, what: str) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 1)}: {what}"


@lru_cache(maxsize=1)
def source_files() -> tuple[SourceFile, ...]:
    """Every Python file of the project, in the order of their paths."""
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return tuple(SourceFile(path) for path in paths)


def library_files() -> tuple[SourceFile, ...]:
    """The files of src/runyard."""
    return tuple(file for file in source_files() if file.room is not None)
