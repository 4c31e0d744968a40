"""Experiments."""

from typing import List

from runyard.db import experiments
from runyard.protocol.experiments import Experiment
from runyard.server import names
from runyard.server.call import Call


def create_experiment(call: Call) -> Experiment:
    """The experiment, made if there is none."""
    name = names.check_experiment_name(call.path["name"])
    return call.parts.database.write(
        lambda c: experiments.create_experiment(c, call.workspace, name, call.user, call.now)
    )


def get_experiment(call: Call) -> Experiment:
    """The experiment."""
    with call.parts.database.read() as connection:
        return experiments.get_experiment(connection, call.workspace, call.path["name"])


def list_experiments(call: Call) -> List[Experiment]:
    """All of the workspace."""
    with call.parts.database.read() as connection:
        return experiments.list_experiments(connection, call.workspace)
