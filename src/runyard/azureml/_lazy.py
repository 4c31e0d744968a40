"""Names that load their module on first use (PEP 562), and one sentence for the v1 names that come later.

A script that imports `azureml.core` pays only for the nouns that it touches.
"""

from importlib import import_module
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from runyard import __version__

#: Where the state of every v1 name and rule is listed.
COVERAGE_PAGE = "docs/v1_coverage.md"


def lazy_names(
    namespace: Dict[str, Any], targets: Mapping[str, str], planned: Sequence[str] = ()
) -> Tuple[Callable[[str], Any], Callable[[], List[str]], List[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for the module whose globals are `namespace`.

    `targets` maps a v1 name to "module:name"; the module is imported when the name is first used, and the value is
    kept in `namespace`. A name in `planned` raises ImportError with a sentence; any other one AttributeError.
    """

    def get_attribute(name: str) -> Any:
        if name in targets:
            module_name, _, attribute = targets[name].partition(":")
            value = getattr(import_module(module_name), attribute)
            namespace[name] = value
            return value
        if name in planned:
            raise planned_error(f"{namespace['__name__']}.{name}")
        raise AttributeError(f"module {namespace['__name__']!r} has no attribute {name!r}")

    def list_names() -> List[str]:
        return sorted(set(namespace) | set(targets))

    return get_attribute, list_names, sorted(targets)


def planned_error(dotted_name: str) -> ImportError:
    """The error for a v1 name that comes in a later release.

    ImportError and not AttributeError: `from module import name` would replace the text of the latter.
    """
    v1_name = dotted_name[len("runyard.") :] if dotted_name.startswith("runyard.") else dotted_name
    return ImportError(
        f"{v1_name} comes in a later release than Runyard {__version__}; {COVERAGE_PAGE} lists what works today.",
        name=dotted_name,
    )
