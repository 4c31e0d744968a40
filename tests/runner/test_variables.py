"""What a script finds in its environment."""

import os
import time

import pytest

from runyard.protocol.plan import ContainerPlan
from runyard.runner.variables import expand, job_command, job_variables
from tests.runner.conftest import MakeAttempt


def test_machine_s_own_environment_is_scrubbed(make_attempt: MakeAttempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("RUNYARD_TOKEN", "the server's own")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = job_variables(make_attempt(), "/env/bin/python", {})({})
    assert not {"AWS_SECRET_ACCESS_KEY", "PYTHONDONTWRITEBYTECODE", "RUNYARD_TOKEN"} & set(found)
    assert found["PYTHONPATH"].endswith("/cache/kits/kit")
    assert (found["HTTPS_PROXY"], found["CUDA_VISIBLE_DEVICES"]) == ("http://proxy", "1")
    assert found["PATH"].split(os.pathsep)[0] == "/env/bin"


@pytest.mark.parametrize(("gpus", "seen"), [("1,3", ("1,3", "1,3")), ("", ("", "none"))])
def test_run_sees_the_gpus_that_are_its_own_whatever_its_user_says(
    make_attempt: MakeAttempt, gpus: str, seen: tuple[str, str]
) -> None:
    folder = make_attempt(gpus=(gpus,), variables={"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    found = job_variables(folder, "/env/bin/python", {})({})
    assert (found["CUDA_VISIBLE_DEVICES"], found["NVIDIA_VISIBLE_DEVICES"]) == seen
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_container_counts_its_own_gpus_from_zero(make_attempt: MakeAttempt) -> None:
    folder = make_attempt(gpus=("1,3",), container=ContainerPlan())
    assert job_variables(folder, "/env/bin/python", {})({})["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_input_is_found_under_each_of_v1_s_names(make_attempt: MakeAttempt) -> None:
    found = job_variables(make_attempt(), "/env/bin/python", {"mnist": "/data/mnist"})({})
    assert {found[name] for name in ("mnist", "MNIST", "AZUREML_DATAREFERENCE_mnist")} == {"/data/mnist"}


@pytest.mark.parametrize("name", ["path", "home", "pythonpath", "tmpdir", "azureml_run_id", "runyard_spool"])
def test_input_s_name_replaces_no_variable_that_the_script_needs(make_attempt: MakeAttempt, name: str) -> None:
    folder = make_attempt()
    before = job_variables(folder, "/env/bin/python", {})({})
    after = job_variables(folder, "/env/bin/python", {name: "/data"})({})
    # It counts from the second of the call.
    del before["AZUREML_RUN_TOKEN_EXPIRY"]
    assert {key: after[key] for key in before} == before
    assert after[name] == after["AZUREML_DATAREFERENCE_" + name] == "/data"


def test_names_that_differ_in_their_case_have_each_its_own_path(make_attempt: MakeAttempt) -> None:
    found = job_variables(make_attempt(), "/env/bin/python", {"data": "/small", "DATA": "/large", "Data": "/mixed"})({})
    assert (found["data"], found["DATA"], found["Data"]) == ("/small", "/large", "/mixed")


def test_user_s_variables_come_last_and_may_name_others(make_attempt: MakeAttempt) -> None:
    folder = make_attempt(variables={"OUT": "$AZUREML_OUTPUT_DIRECTORY/model", "AZUREML_FRAMEWORK": "Mine"})
    found = job_variables(folder, "/env/bin/python", {})({})
    assert found["OUT"] == str(folder.work / "outputs" / "model")
    assert found["AZUREML_FRAMEWORK"] == "Mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", "1"),
        ("${A}b", "1b"),
        ("$Ab", "$Ab"),
        ("$$A", "$1"),
        ("${A", "${A"),
        ("$(A)", "$(A)"),
        ("price: 5$", "price: 5$"),
        ("$A;rm -rf $B", "1;rm -rf $A"),
    ],
)
def test_only_known_variables_are_expanded_and_only_once(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "$A"}) == expected


def test_command_is_words_and_never_a_shell_s_line(make_attempt: MakeAttempt) -> None:
    plan = make_attempt(arguments=("--data", "$DATA", "a b; c", "")).plan
    assert job_command(plan, "/env/bin/python", {"DATA": "/d e"}) == [
        "/env/bin/python", "train.py", "--data", "/d e", "a b; c", "",
    ]  # fmt: skip


def test_user_s_pythonpath_goes_before_the_kit_and_does_not_replace_it(make_attempt: MakeAttempt) -> None:
    found = job_variables(make_attempt(variables={"PYTHONPATH": "./lib"}), "/env/bin/python", {})({})
    first, kit = found["PYTHONPATH"].split(os.pathsep)
    assert first == "./lib"
    assert kit.endswith("/kits/kit")


def test_variables_that_the_record_decides_are_there(make_attempt: MakeAttempt) -> None:
    folder = make_attempt(v1_variables={"AZUREML_GIT_COMMIT": "abc", "AZUREML_ARM_SUBSCRIPTION": "1b2"})
    found = job_variables(folder, "/env/bin/python", {})({})
    assert (found["AZUREML_GIT_COMMIT"], found["AZUREML_ARM_SUBSCRIPTION"]) == ("abc", "1b2")
    assert float(found["AZUREML_RUN_TOKEN_EXPIRY"]) > time.time() + 86_400
    assert found["AZ_BATCHAI_JOB_TEMP"] == found["TMPDIR"]
