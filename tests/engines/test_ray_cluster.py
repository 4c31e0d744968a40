"""The cluster that the tests of Ray stand on does what they build on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.ray_cluster import RAY, RayCluster, ray_cluster
from tests.engines.ray_nodes import ELASTIC, STEADY, processes_of, wait_until

pytestmark = RAY

#: Longest wait for a node to come, go or be replaced, seconds.
NODE_LIMIT_S = 60.0

#: Holds one processor on each of so many nodes, each of which says where it is.
GANG = """
import json, os, sys, ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as In

ray.init(log_to_driver=False)
count = int(sys.argv[1])
group = placement_group([{"CPU": 1}] * count, strategy="STRICT_SPREAD")
assert group.wait(60)
place = ray.remote(lambda: [ray.util.get_node_ip_address(), os.readlink("/proc/self/ns/net")])
tasks = [place.options(num_cpus=1, scheduling_strategy=In(group, n)).remote() for n in range(count)]
print(json.dumps(ray.get(tasks, timeout=60)))
"""

#: An actor on the node with the address that it is given; what becomes of a call, and when the node counts as lost.
LOSS = """
import sys, time, ray
from ray.exceptions import RayActorError

@ray.remote(num_cpus=1, resources={f"node:{sys.argv[1]}": 0.001})
class Actor:
    def begin(self):
        return "begun"

    def go_on(self):
        time.sleep(600)

ray.init(log_to_driver=False)
actor = Actor.remote()
print(ray.get(actor.begin.remote(), timeout=60), flush=True)
try:
    ray.get(actor.go_on.remote(), timeout=60)
except RayActorError:
    print("lost")
while any(node["Alive"] and node["NodeManagerAddress"] == sys.argv[1] for node in ray.nodes()):
    time.sleep(0.1)
"""

NODES = """
import json, ray
ray.init(log_to_driver=False)
print(json.dumps(sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path_factory.mktemp("ray")) as started:
        yield started


def gang(cluster: RayCluster, count: int) -> dict[str, str]:
    """The network namespace of each node that the members of a gang find themselves on, by its address."""
    return dict(json.loads(cluster.run(GANG, str(count))))


def test_it_has_a_head_and_its_steady_nodes(cluster: RayCluster) -> None:
    assert [node.kind for node in cluster.nodes()] == [STEADY, STEADY]
    addresses = [cluster.site.head, *(node.address for node in cluster.nodes())]
    assert json.loads(cluster.run(NODES)) == sorted(addresses)


def test_members_of_a_gang_are_on_nodes_of_their_own(cluster: RayCluster) -> None:
    found = gang(cluster, 2)
    assert sorted(found) == sorted(node.address for node in cluster.nodes())
    assert len(set(found.values())) == 2


def test_a_node_comes_on_demand_and_goes_when_it_is_idle(cluster: RayCluster) -> None:
    assert len(gang(cluster, 3)) == 3
    assert [node.kind for node in cluster.nodes()].count(ELASTIC) == 1
    wait_until("the node is gone", lambda: len(cluster.nodes()) == 2, NODE_LIMIT_S)
    assert [node.kind for node in cluster.nodes()] == [STEADY, STEADY]


def test_nobody_speaks_with_it_who_lacks_its_token(cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("0" * 64)
    with pytest.raises(AssertionError, match="AuthenticationError"):
        cluster.run(NODES, RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"), RAY_NUM_REDIS_GET_RETRIES="1")


def test_a_raylet_that_was_killed_is_seen_and_its_node_replaced(cluster: RayCluster) -> None:
    lost = cluster.nodes()[0]
    with cluster.begin(LOSS, lost.address) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "begun\n"
        cluster.kill_raylet(lost)
        assert lost not in cluster.nodes()
        output, errors = watching.communicate(timeout=NODE_LIMIT_S)
    # Ray prints its own reports between.
    assert "lost" in output.splitlines(), errors
    wait_until("the node is replaced", lambda: len(cluster.nodes()) == 2, NODE_LIMIT_S)
    assert len(gang(cluster, 2)) == 2


def test_a_head_that_was_killed_finds_its_nodes_again(cluster: RayCluster) -> None:
    nodes = cluster.nodes()
    cluster.kill_head()
    assert cluster.nodes() == nodes
    cluster.restart_head()
    assert sorted(gang(cluster, 2)) == sorted(node.address for node in nodes)


def test_nothing_outlives_the_cluster(cluster: RayCluster) -> None:
    nodes = cluster.nodes()
    cluster.close()
    assert not any(processes_of(node.name) for node in nodes)
    named = [path.name for folder in ("/sys/class/net", "/run/netns") for path in Path(folder).iterdir()]
    assert not [name for name in named if name.partition("-")[0] == cluster.site.network]
    assert not Path(cluster.site.sessions).exists()
