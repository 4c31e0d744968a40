"""Variables of the environment that no name of a user's may become. Pure."""

import re

#: What the loader of programs and Python itself act on, in any case, since a name in capitals is a variable too.
_ACTED_ON = re.compile(r"(?:LD_\w*|PYTHON[A-Z]\w*)", re.IGNORECASE)
#: What every program acts on. In small letters these are names as others.
_NEEDED = ("PATH", "HOME", "USER", "SHELL", "TMPDIR", "LANG", "TZ", "IFS", "ENV", "BASH_ENV")


def is_reserved_variable(name: str) -> bool:
    """Would an input or output of that name change how the script's process works, or not find its variable free?"""
    return name in _NEEDED or _ACTED_ON.fullmatch(name) is not None
