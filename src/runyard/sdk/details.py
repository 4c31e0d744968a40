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
