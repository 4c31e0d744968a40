"""Every module of the kit is imported on this Python, with nothing but the standard library beside it."""

import importlib
import os
import sys
import unittest
from typing import List

import runyard

PLANNED = "comes in a later release"


class EveryModule(unittest.TestCase):
    def test_imports_with_the_standard_library_alone(self) -> None:
        for name in module_names():
            with self.subTest(module=name):
                try:
                    importlib.import_module(name)
                except ImportError as error:
                    self.assertIn(PLANNED, str(error))

    def test_lies_in_the_kit(self) -> None:
        self.assertEqual(os.path.dirname(os.path.dirname(runyard.__file__)), os.environ["PYTHONPATH"])
        self.assertFalse([entry for entry in sys.path if entry.rstrip("/").endswith("-packages")])


def module_names() -> List[str]:
    """The dotted names of all files below the kit's `runyard` folder."""
    top = os.path.dirname(runyard.__file__)
    names = []
    for folder, _, files in os.walk(top):
        package = ".".join(["runyard"] + os.path.relpath(folder, top).split(os.sep)).replace("..", "").rstrip(".")
        for file in files:
            if file == "__init__.py":
                names.append(package)
            elif file.endswith(".py") and file != "__main__.py":
                names.append(package + "." + file[: -len(".py")])
    return sorted(names)


if __name__ == "__main__":
    unittest.main()
