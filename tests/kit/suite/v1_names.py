"""The v1 module tree: what it offers, what it says of names that come later, and what it does not load."""

import importlib
import os
import subprocess
import sys
import unittest
from typing import Any, Dict, Optional

import azureml.core
from azureml.telemetry import set_diagnostics_collection
from every_module import module_names

import runyard
import runyard.azureml.core

LATER = "comes in a later release than Runyard " + runyard.__version__


class V1Names(unittest.TestCase):
    def test_every_listed_name_is_there(self) -> None:
        for module_name in module_names():
            if not module_name.startswith("runyard.azureml."):
                continue
            module = import_unless_planned(module_name)
            for name in getattr(module, "__all__", ()):
                with self.subTest(module=module_name, name=name):
                    self.assertIsNotNone(getattr(module, name))
                    self.assertIn(name, dir(module))

    def test_both_roots_give_the_same_class(self) -> None:
        from azureml.exceptions import UserErrorException

        from runyard.azureml.exceptions import UserErrorException as Same
        from runyard.errors import UserErrorException as Origin

        self.assertIs(UserErrorException, Same)
        self.assertIs(UserErrorException, Origin)

    def test_name_that_comes_later_says_so_in_one_sentence(self) -> None:
        with self.assertRaisesRegex(ImportError, "^azureml.core.Keyvault " + LATER + "; docs/v1_coverage.md "):
            from azureml.core import Keyvault  # noqa: F401

    def test_package_that_comes_later_says_so_in_one_sentence(self) -> None:
        with self.assertRaisesRegex(ImportError, "^azureml.pipeline " + LATER):
            importlib.import_module("azureml.pipeline.steps")

    def test_unknown_name_is_an_attribute_error(self) -> None:
        with self.assertRaisesRegex(AttributeError, "'azureml.core' has no attribute 'Nonsense'"):
            azureml.core.Nonsense  # noqa: B018
        self.assertFalse(hasattr(azureml.core, "Nonsense"))

    def test_version_names_the_v1_generation_and_runyard(self) -> None:
        self.assertEqual(azureml.core.VERSION, "1.62.0+runyard." + runyard.__version__)
        self.assertEqual(azureml.core.__version__, azureml.core.VERSION)

    def test_telemetry_switch_does_nothing(self) -> None:
        for send in (True, False):
            self.assertIsNone(set_diagnostics_collection(send_diagnostics=send))


class WhatIsLoaded(unittest.TestCase):
    def test_core_loads_no_noun_before_it_is_used(self) -> None:
        self.assertEqual(loaded("sdk"), "")

    def test_core_loads_urllib_request_on_the_users_machine_only(self) -> None:
        self.assertEqual(loaded("urllib.request"), "urllib.request")
        self.assertEqual(loaded("urllib.request", AZUREML_RUN_ID="some-run"), "")


def import_unless_planned(name: str) -> Optional[Any]:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if LATER in str(error):
            return None
        raise


def loaded(what: str, **variables: str) -> str:
    """The modules whose names hold `what`, after `import azureml.core` in a fresh interpreter."""
    script = f"import azureml.core, sys; print(' '.join(sorted(n for n in sys.modules if {what!r} in n)))"
    environment: Dict[str, str] = {k: v for k, v in os.environ.items() if k != "AZUREML_RUN_ID"}
    environment.update(variables)
    output = subprocess.run([sys.executable, "-S", "-c", script], env=environment, stdout=subprocess.PIPE, check=True)
    return output.stdout.decode().strip()


if __name__ == "__main__":
    unittest.main()
