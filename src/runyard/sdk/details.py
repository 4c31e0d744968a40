"""Dicts of which the oldest scripts ask more: ``run.get_details().status``, ``workspace.compute_targets()``."""

from typing import Any, Dict


class Details(dict):  # type: ignore[type-arg]
    """``details['status']`` and ``details.status`` are one."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError("the details have no {!r}; they have {}".format(name, ", ".join(self))) from None


class Listing(Dict[str, Any]):
    """A dict by name; the scripts of 2018 call it, as ``workspace.compute_targets()``."""

    def __call__(self) -> "Listing":
        """Itself."""
        return self


def iso_time(at: int) -> str:
    """UTC microseconds as v1 wrote times: 2020-09-28T12:00:00.000000Z."""
    from datetime import datetime, timedelta

    return (datetime(1970, 1, 1) + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
