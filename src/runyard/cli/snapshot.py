"""runyard snapshot: what would be sent of a source folder, and what would not."""

import json
from typing import Annotated

import typer

from runyard.cli.shown import show, shown_size
from runyard.files.snapshots import configured_limits
from runyard.files.survey import Survey, survey
from runyard.protocol.wire import to_wire

#: Of each list a person is shown so many.
SHOWN = 10

Folder = Annotated[str, typer.Argument(metavar="DIR", help="The source folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="The only way there is: nothing is ever sent by this.")]


def snapshot(
    folder: Folder = ".",
    dry_run: DryRun = True,
    every: Annotated[bool, typer.Option("--all", help="Show whole lists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what a submission of this folder would send, what it leaves out and by which rule, and what looks secret."""
    found = survey(folder)
    if as_json:
        # In ASCII: a name that is no Unicode has no other form.
        print(json.dumps({**to_wire(found), "size_bytes": found.size_bytes}, indent=2))
        return
    limits = configured_limits()
    print(f"{len(found.files):,} files, {shown_size(found.size_bytes)}; rules: {found.rules or 'the default list'}.")
    if len(found.files) > limits.max_files or found.size_bytes > limits.max_bytes:
        print(
            f"That is over the limit of {limits.max_files:,} files and {shown_size(limits.max_bytes)}: "
            "it would be refused."
        )
    most = None if every else SHOWN
    _table(
        "The largest",
        ("File", "Size"),
        [(_name(one.path), shown_size(one.size_bytes)) for one in found.largest(len(found.files))],
        most,
    )
    _table("Left out", ("Path", "By"), [(_name(one.path), one.rule) for one in found.left_out], most)
    _table("These look like secrets", ("File", "Why"), [(_name(one.path), one.why) for one in found.suspicions], None)
    _table("These would be refused", ("Why",), [(one,) for one in found.problems], None)
    _advise(found)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], most: int | None) -> None:
    if rows:
        print(f"\n{title}")
        show(rows, False, columns, rows[:most])
        if most is not None and len(rows) > most:
            print(f"... and {len(rows) - most} more; --all shows them.")


def _name(path: str) -> str:
    """The path on one line of any terminal: as it is, or with what cannot be shown escaped."""
    return path if path.isprintable() else repr(path)


def _advise(found: Survey) -> None:
    if found.suspicions:
        print("\nName them in .amlignore; whoever may read the run may read its snapshot.")
