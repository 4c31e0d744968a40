"""Names that are near to one that is not there: of the same kind and the same workspace, and of no other one."""

from difflib import get_close_matches
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

#: So many names are offered at most.
OFFERED_MAX = 3
#: Of so many names, and so many characters of each: how alike two texts are takes the product of their lengths.
NAMES_MAX, CHARACTERS_MAX = 500, 64


def did_you_mean(
    connection: Connection, table: Any, workspace: str, name: str, *conditions: ColumnElement[bool]
) -> str:
    """ " Did you mean 'digits'?", to stand behind a sentence that says that ``name`` is not there; "" where none is
    near, or where the name is there and a version of it is not. ``conditions``: which rows of the table count.
    """
    statement = select(table.c.name).where(table.c.workspace == workspace, *conditions).distinct()
    known = connection.execute(statement.order_by(table.c.name).limit(NAMES_MAX)).scalars().all()
    if name in known:
        return ""
    # Whoever writes in other cases means the same.
    spelled: dict[str, list[str]] = {}
    for one in known:
        spelled.setdefault(one.lower()[:CHARACTERS_MAX], []).append(one)
    alike = get_close_matches(name.lower()[:CHARACTERS_MAX], spelled, OFFERED_MAX)
    near = [one for text in alike for one in spelled[text]][:OFFERED_MAX]
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
