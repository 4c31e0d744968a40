"""The rules for names, in one place; each refusal is one sentence."""

import re
from typing import Iterable, Mapping, Pattern

from runyard.errors import ExperimentNameError, UserErrorException
from runyard.protocol.trees import check_path
from runyard.protocol.variables import is_reserved_variable

#: Longest parameter of an address that is no path, in characters.
PARAMETER_MAX = 320

_EXPERIMENT = re.compile(r"^[A-Za-z0-9][\w\-]{0,254}$", re.ASCII)
_WORKSPACE = re.compile(r"^[A-Za-z0-9][\w\-.]{1,63}$", re.ASCII)
_RUN = re.compile(r"^[A-Za-z0-9][\w\-.]{0,319}$", re.ASCII)
_ASSET = re.compile(r"^[\w][\w\-. ]{0,254}$")
_COMPUTE = re.compile(r"^[A-Za-z][A-Za-z0-9\-]{0,30}[A-Za-z0-9]$|^[A-Za-z]$", re.ASCII)
_SERVICE = re.compile(r"^[a-z][a-z0-9\-]{1,30}[a-z0-9]$", re.ASCII)
_INPUT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,254}$", re.ASCII)


def check_address(values: Mapping[str, str]) -> None:
    """Refuse parameters of an address that can be no name and no path."""
    for name, text in values.items():
        if name == "path":
            check_path(text)
        elif len(text) > PARAMETER_MAX or not text.isprintable():
            raise UserErrorException(
                f"The {name} in the address is too long or has characters that cannot be shown: {text[:80]!r}."
            )


def check_experiment_name(name: str) -> str:
    """The name if it can be an experiment's."""
    if not _EXPERIMENT.fullmatch(name):
        raise ExperimentNameError(
            f"{name[:80]!r} cannot be an experiment's name: it has 1 to 255 letters, digits, '_' or '-' "
            "and starts with a letter or digit."
        )
    return name


def check_workspace_name(name: str) -> str:
    """The name if it can be a workspace's."""
    return _check(_WORKSPACE, name, "a workspace's name: it has 2 to 64 letters, digits, '_', '-' or '.'")


def check_run_id(name: str) -> str:
    """The id if it can be a run's."""
    return _check(_RUN, name, "a run's id: it has 1 to 320 letters, digits, '_', '-' or '.'")


def check_asset_name(name: str) -> str:
    """The name if it can be a dataset's, model's, environment's or datastore's."""
    return _check(_ASSET, name, "a name here: it has 1 to 255 letters, digits, blanks, '_', '-' or '.'")


def check_service_name(name: str) -> str:
    """The name if it can be a service's, by v1's rule."""
    return _check(_SERVICE, name, "a service's name: it has 3 to 32 lower-case letters, digits or '-', begins with a "
                  "letter and ends with no '-'")  # fmt: skip


def check_compute_name(name: str) -> str:
    """The name if it can be a cluster's; 'local' is taken."""
    if name.lower() == "local":
        raise UserErrorException("'local' is this machine itself; choose another name for a cluster.")
    return _check(_COMPUTE, name, "a compute target's name: 1 to 32 letters, digits or '-', first a letter")


def check_input_name(name: str) -> str:
    """The name if it can be an input's or output's; it becomes a variable of the environment."""
    _check(_INPUT, name, "an input's name: letters, digits and '_', not first a digit")
    if is_reserved_variable(name):
        raise UserErrorException(
            f"{name!r} cannot be an input's or output's name: the script gets its path in a variable of that name, and "
            f"{name.upper()} means something else to programs; choose another by as_named_input('...')."
        )
    return name


def check_variables(variables: Iterable[str]) -> None:
    """Refuse names of variables that no process can have."""
    for name in variables:
        if not name or "=" in name:
            raise UserErrorException(f"{name[:80]!r} cannot be the name of an environment variable.")


def _check(rule: Pattern[str], name: str, sentence: str) -> str:
    if not rule.fullmatch(name):
        raise UserErrorException(f"{name[:80]!r} cannot be {sentence}.")
    return name
