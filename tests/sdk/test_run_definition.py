"""The definition of a run in get_details(): v1's words for how its processes are spread."""

from typing import Any

import pytest

from runyard.protocol.runs import RunSpec
from runyard.sdk.distributed import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration, distribution_of
from runyard.sdk.run_definition import definition_of

MPI = {"processCountPerNode": 1}
TENSORFLOW = {"workerCount": 1, "parameterServerCount": 1}
PYTORCH = {"communicationBackend": "nccl", "processCount": None}


@pytest.mark.parametrize(
    ("asked", "words", "sections"),
    [
        (None, ("Python", "None", 1), {}),
        (MpiConfiguration(4, 2), ("Python", "IntelMpi", 2), {"mpi": {"processCountPerNode": 4}}),
        (
            TensorflowConfiguration(3, 2),
            ("TensorFlow", "ParameterServer", 3),
            {"tensorflow": {"workerCount": 3, "parameterServerCount": 2}},
        ),
        (
            PyTorchConfiguration("Gloo", 6, 3),
            ("PyTorch", "Gloo", 3),
            {"pyTorch": {"communicationBackend": "gloo", "processCount": 6}},
        ),
    ],
)
def test_processes_stand_in_v1s_sections(asked: Any, words: tuple[str, str, int], sections: dict[str, Any]) -> None:
    distribution, nodes = distribution_of(asked) if asked is not None else (None, 1)
    found = definition_of(RunSpec("run-1", "trial", script="t.py", distribution=distribution, node_count=nodes))
    assert (found["framework"], found["communicator"], found["nodeCount"]) == words
    expected = {"mpi": MPI, "tensorflow": TENSORFLOW, "pyTorch": PYTORCH, **sections}
    assert {name: found[name] for name in expected} == expected
