"""Each older shape of a call, from version 0.1.59 of v1 on, is taken as it was; those that are not are listed with why.

The shapes stand in older_signatures.json, as the public packages of those versions have them.
"""

import ast
import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core.compute import AmlCompute, ComputeTarget, RemoteCompute
from runyard.azureml.core.workspace import Workspace
from runyard.sdk.details import Listing
from runyard.sdk.estimator import Estimator
from tests.own_server import own_server

SHAPES = json.loads(Path(__file__).with_name("older_signatures.json").read_text())

#: What is not there, and why.
LATER = {
    "Workspace.images": "as a call; an image is known to the program alone that has created it, as a sentence says",
    "Workspace.webservices": "as a call; it is a dict, and Webservice.list takes the filters",
    "Workspace.models": "as a call; it is a dict, and Model.list takes the filters",
    "Run.get_submitted_run": "get_context() took its place in 2018, and says the same",
    "Run.get_children": "children of runs come in a later change",
    "Run.log_image": "the other kinds of metrics come in a later change",
}
#: Parameters that stood elsewhere in that version: by name they are taken, by position only as in the newest one.
BY_NAME_ONLY = {
    ("AmlCompute.provisioning_configuration", "0.1.80"): "autoscale_enabled",
    ("AmlCompute.provisioning_configuration", "1.0.2"): "vnet_resourcegroup_name",
    ("ServicePrincipalAuthentication.__init__", "0.1.59"): "username",
    ("RemoteCompute.attach_configuration", "0.1.80"): "address",
    ("RemoteCompute.attach_configuration", "1.0.85"): "address",
    ("RunConfiguration.__init__", "0.1.59"): "conda_dependencies",
    ("PyTorchConfiguration.__init__", "1.20"): "node_count",
    ("Run.__init__", "0.1.59"): "_run_dto",
    ("Model.download", "0.1.80"): "exists_ok",
    ("Model.profile", "1.0.85"): "input_data",
    ("Workspace.create", "0.1.59"): "friendly_name",
    ("Workspace.create", "1.0.2"): "friendly_name",
    ("Workspace.create", "1.0.85"): "friendly_name",
}
#: Calls that make something without a server, with what they need beside the older defaults.
MADE = {
    "InteractiveLoginAuthentication.__init__": {},
    "ServicePrincipalAuthentication.__init__": {"tenant_id": "t", "username": "u", "password": "p"},
    "AmlCompute.provisioning_configuration": {},
    "RemoteCompute.attach_configuration": {"username": "me", "address": "host"},
    "MpiConfiguration.__init__": {},
    "PyTorchConfiguration.__init__": {},
    "RunConfiguration.__init__": {},
    "TensorflowConfiguration.__init__": {},
    "ScriptRunConfig.__init__": {"source_directory": ".", "script": "t.py"},
    "DataPath.__init__": {},
    "OutputFileDatasetConfig.__init__": {},
    **{f"{name}.__init__": {"source_directory": ".", "compute_target": "cpu", "entry_script": "t.py"}
       for name in ("Estimator", "TensorFlow", "PyTorch", "Chainer", "SKLearn")},
}  # fmt: skip


def _named(shape: dict[str, str]) -> str:
    return shape["name"].partition(":")[2]


def _known(shape: dict[str, str]) -> Any:
    """What v1's name means here; a constructor is the class itself, a property the function that reads it."""
    found: Any = import_module("runyard." + shape["name"].partition(":")[0])
    for part in _named(shape).replace(".__init__", "").split("."):
        found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
    return getattr(found, "__func__", found)


def _parameters(signature: str) -> tuple[list[str], dict[str, Any], list[str]]:
    """Those without a default, those with one, and those that may be given by position."""
    inside = signature.partition("(")[2].rpartition(")")[0]
    function: Any = ast.parse(f"def f({inside}): pass").body[0]
    asked = function.args
    names = [one.arg for one in asked.args]
    needed = names[: len(names) - len(asked.defaults)]
    defaults = dict(zip(names[len(needed) :], asked.defaults, strict=True))
    for one, default in zip(asked.kwonlyargs, asked.kw_defaults, strict=True):
        if default is None:
            needed.append(one.arg)
        else:
            defaults[one.arg] = default
    # The one default that is a name stands for v1's thirty days.
    values = {name: one.value if isinstance(one, ast.Constant) else 2_592_000 for name, one in defaults.items()}
    return needed, values, names


@pytest.mark.parametrize("shape", SHAPES, ids=lambda one: f"{_named(one)}-{one['version']}")
def test_older_call_fits_what_is_there(shape: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if _named(shape) in LATER:
        with pytest.raises((AttributeError, AssertionError)):
            assert not isinstance(_known(shape), property)
        return
    found = _known(shape)
    needed, defaults, positional = _parameters(shape["signature"])
    if isinstance(found, property):
        assert (needed, defaults) == ([], {})
        return  # called, below
    signature = inspect.signature(found)
    has_self = not inspect.isclass(found) and next(iter(signature.parameters), "") in ("self", "cls")
    signature.bind(*[None] * has_self, **dict.fromkeys(needed), **defaults)
    here = [name for name, one in signature.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD][has_self:]
    moved = [old for place, old in enumerate(positional) if here[place : place + 1] != [old]]
    takes_more = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    if (_named(shape), shape["version"]) in BY_NAME_ONLY:
        assert moved[0] == BY_NAME_ONLY[_named(shape), shape["version"]]
    else:
        assert not moved or (takes_more and set(here).isdisjoint(moved[:1])), moved
    if _named(shape) in MADE:
        (tmp_path / "t.py").touch()
        monkeypatch.chdir(tmp_path)
        values = {
            **defaults,
            **{name: one for name, one in MADE[_named(shape)].items() if name in needed + [*defaults]},
        }
        assert found(**values) is not None


def test_each_reason_is_of_a_shape_that_there_is() -> None:
    known = {(_named(one), one["version"]) for one in SHAPES}
    assert {*LATER} <= {name for name, _ in known}
    assert {*MADE} <= {name for name, _ in known}
    assert {*BY_NAME_ONLY} <= known


def test_second_argument_of_a_machine_was_its_address() -> None:
    assert RemoteCompute.attach_configuration("me", "gpu7.example.org").settings["address"] == "gpu7.example.org"


def test_estimator_of_2018_needs_its_target_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Estimator(tmp_path, "cpu")  # type: ignore[misc]


@pytest.mark.e2e
def test_listings_are_called_as_in_2018_and_clusters_have_no_idle_time(tmp_path: Path) -> None:
    with own_server(tmp_path / "home"):
        workspace = Workspace.create("older", exist_ok=True)
        config = AmlCompute.provisioning_configuration(autoscale_enabled=True, idle_seconds_before_scaledown=None)
        made = ComputeTarget.create(workspace, "cpu", config)
        assert made.scale_settings.idle_seconds_before_scaledown == 1800
        targets: Any = workspace.compute_targets
        assert list(targets()) == list(targets) == ["cpu"]
        experiments: Any = workspace.experiments
        assert (experiments(), type(experiments)) == ({}, Listing)
