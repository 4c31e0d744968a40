"""The wire's decoder and the error tree behave alike on every Python."""

import unittest

from runyard.errors import ConflictError, NotFoundError, UserErrorException
from runyard.protocol.runs import InputSpec, RunSpec
from runyard.protocol.wire import dumps, from_wire, loads

SPEC = RunSpec(
    run_id="tf-mnist_1600000000_0a1b2c3d",
    experiment="tf-mnist",
    script="train.py",
    arguments=("--batch-size", "64", "--name", "žluť 数字"),
    inputs=(InputSpec(name="mnist", dataset_id="d1"),),
    tags={"a": "1"},
    max_run_duration_s=3600,
)


class Wire(unittest.TestCase):
    def test_spec_comes_back_as_it_was_sent(self) -> None:
        self.assertEqual(loads(RunSpec, dumps(SPEC)), SPEC)

    def test_reports_ignore_fields_of_a_newer_version_and_requests_refuse_them(self) -> None:
        data = {"name": "mnist", "from_the_future": 1}
        self.assertEqual(from_wire(InputSpec, data), InputSpec(name="mnist"))
        with self.assertRaisesRegex(UserErrorException, "from_the_future"):
            from_wire(InputSpec, data, strict=True)

    def test_a_value_that_does_not_fit_names_its_field(self) -> None:
        with self.assertRaisesRegex(UserErrorException, "arguments"):
            from_wire(RunSpec, {"run_id": "r", "experiment": "e", "arguments": 7})


class Errors(unittest.TestCase):
    def test_the_docstring_is_the_message_when_none_is_given(self) -> None:
        self.assertEqual(str(NotFoundError()), "What was asked for does not exist.")

    def test_a_hint_follows_the_message(self) -> None:
        error = ConflictError("The run has ended.", hint="Submit it again.")
        self.assertEqual(str(error), "The run has ended. Submit it again.")
        self.assertEqual((error.message, error.hint), ("The run has ended.", "Submit it again."))


if __name__ == "__main__":
    unittest.main()
