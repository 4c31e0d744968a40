"""Where a run goes: a compute target by name, or the cluster that v1 made for one run, by its size."""

import re
from typing import Any

from runyard.errors import ComputeTargetException, UserErrorException
from runyard.protocol.compute import VmPriority
from runyard.sdk.notices import say_once
from runyard.sdk.run_configuration import RunConfiguration
from runyard.sdk.run_sections import AmlComputeConfiguration
from runyard.sdk.whole_number import whole_number

#: v1's name of a target that is a cluster made for the run.
ONE_RUN = "amlcompute"


def target_of(config: RunConfiguration, workspace: Any) -> str:
    """The target's name; a cluster for one run is found or made, and serves later runs of its size too.

    UserErrorException for what is no target or no number, ComputeTargetException where the cluster cannot be made.
    """
    name = getattr(config.target, "name", config.target)
    if not isinstance(name, str):
        raise UserErrorException(f"A run's target is a compute target or its name, not {config.target!r}.")
    if name != ONE_RUN or not config.amlcompute.vm_size:
        return name
    return _cluster_of_size(config, workspace)


def _cluster_of_size(config: RunConfiguration, workspace: Any) -> str:
    from runyard.sdk.aml_compute import AmlCompute
    from runyard.sdk.compute_target import ComputeTarget

    asked = config.amlcompute
    priority = asked.vm_priority or VmPriority.DEDICATED
    name = asked.name or re.sub(r"[^a-z0-9]+", "-", f"{asked.vm_size}-{priority}".lower()).strip("-")
    given = asked.cluster_max_node_count or config.node_count
    nodes = whole_number(given)
    if nodes is None:
        raise UserErrorException(
            f"cluster_max_node_count, or node_count where it is not set, is a whole number, not {given!r}."
        )
    try:
        found = AmlCompute(workspace, name)
    except ComputeTargetException:
        wanted = AmlCompute.provisioning_configuration(asked.vm_size or "", priority, max_nodes=nodes)
        ComputeTarget.create(workspace, name, wanted)
        return name
    _say_what_differs(found, asked)
    if found.scale_settings.maximum_node_count < nodes:
        found.update(max_nodes=nodes)
    return name


def _say_what_differs(found: Any, asked: AmlComputeConfiguration) -> None:
    """A cluster of that name is used as it is, as v1 did; whoever asked for another size should know."""
    has, wanted = [], []
    for name, there, here in (
        ("vm_size", found.vm_size, asked.vm_size),
        ("vm_priority", found._record.spec.vm_priority, asked.vm_priority),
    ):
        if here and here.lower() != there.lower():
            has.append(f"{name} {there}")
            wanted.append(here)
    if has:
        say_once(
            "Cluster {!r} exists with {} and is used as it is, not with {}; another name makes another cluster.".format(
                found.name, " and ".join(has), " and ".join(wanted)
            )
        )
