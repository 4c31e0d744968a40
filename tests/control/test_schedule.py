"""The queue: who gets which node, which nodes come and leave. The function is pure, so nothing here runs anything."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.control.places import PASSED_S, ClusterView, GpuView, Waiting
from runyard.control.schedule import LOCAL, Decision, NodeView, decide
from runyard.protocol.runs import PRIORITY_STEP_S, turn_of

SECOND = 1_000_000
NOW = 1_000 * SECOND
CPU = ClusterView("ws", "cpu", 0, 2, 60)


def _wait(*names: str, target: str = "cpu", workspace: str = "ws") -> list[Waiting]:
    return [Waiting(name, workspace, target) for name in names]


def _node(number: int, run_id: str | None = None, idle_s: int = 0) -> NodeView:
    return NodeView(f"ws/cpu/node-{number}", "ws", "cpu", run_id, NOW - idle_s * SECOND)


def _decide(
    waiting: list[Waiting], nodes: list[NodeView] | None = None, cluster: ClusterView = CPU, running: int = 0
) -> Decision:
    return decide(waiting, nodes or [], [cluster], running, 2, NOW)


def test_runs_get_new_nodes_in_the_order_of_their_submission() -> None:
    found = _decide(_wait("a", "b", "c"))
    assert [node for node, _, _ in found.added] == ["ws/cpu/node-0", "ws/cpu/node-1"]
    assert found.assigned == (("a", ("ws/cpu/node-0",)), ("b", ("ws/cpu/node-1",)))
    assert found.reasons == {"c": "Waits for a node of 'cpu': all 2 are busy."}


def test_idle_node_is_used_before_another_comes() -> None:
    found = _decide(_wait("a"), [_node(0, "other"), _node(1)])
    assert (found.added, found.removed, found.assigned) == ((), (), (("a", ("ws/cpu/node-1",)),))


def test_minimum_of_nodes_is_there_without_any_run() -> None:
    assert len(_decide([], cluster=replace(CPU, min_nodes=2)).added) == 2


def test_idle_node_leaves_after_its_time_and_not_before() -> None:
    assert _decide([], [_node(0, idle_s=59)]).removed == ()
    assert _decide([], [_node(0, idle_s=60)]).removed == ("ws/cpu/node-0",)


def test_idle_node_of_the_minimum_stays() -> None:
    assert _decide([], [_node(0, idle_s=1000)], replace(CPU, min_nodes=1)).removed == ()


def test_node_that_a_run_needs_does_not_leave() -> None:
    found = _decide(_wait("a"), [_node(0, idle_s=1000)])
    assert (found.removed, found.assigned) == ((), (("a", ("ws/cpu/node-0",)),))


def test_busy_node_beyond_a_lowered_maximum_stays_until_its_run_ends() -> None:
    nodes = [_node(0, "a"), _node(1, "b"), _node(2)]
    found = _decide([], nodes, replace(CPU, max_nodes=1))
    assert found.removed == ("ws/cpu/node-2",)


def test_lowered_maximum_holds_for_runs_that_wait() -> None:
    found = _decide(_wait("a", "b", "c", "d"), [_node(number) for number in range(4)], replace(CPU, max_nodes=1))
    assert found.assigned == (("a", ("ws/cpu/node-0",)),)
    assert sorted(found.removed) == ["ws/cpu/node-1", "ws/cpu/node-2", "ws/cpu/node-3"]


def _large(name: str, nodes: int, waited_s: int = 0) -> Waiting:
    return Waiting(name, "ws", "cpu", nodes, NOW - waited_s * SECOND)


def test_run_gets_all_of_its_nodes_or_none() -> None:
    wide = replace(CPU, max_nodes=3)
    found = _decide([_large("a", 2), _large("b", 2)], cluster=wide)
    assert found.assigned == (("a", ("ws/cpu/node-0", "ws/cpu/node-1")),)
    assert found.reasons == {"b": "Waits for 2 of the 3 nodes of 'cpu' to be free at once."}
    assert len(found.added) == 2


def test_small_run_passes_a_large_one_for_some_time_only() -> None:
    busy = [_node(0, "x")]
    assert dict(_decide([_large("a", 2), *_wait("b")], busy).assigned) == {"b": ("ws/cpu/node-1",)}
    found = _decide([_large("a", 2, waited_s=PASSED_S), *_wait("b")], busy)
    assert (found.assigned, found.added) == ((), ())
    assert found.reasons["b"] == "Waits behind 'a', which has long waited for 2 nodes at once."


def test_run_that_is_larger_than_its_cluster_holds_nobody_up() -> None:
    found = _decide([_large("a", 3, waited_s=PASSED_S), *_wait("b")])
    assert dict(found.assigned) == {"b": ("ws/cpu/node-0",)}
    assert "update(max_nodes=...)" in found.reasons["a"]


def test_node_that_is_to_leave_takes_no_run_and_goes_when_it_is_idle() -> None:
    leaving, busy = replace(_node(0), is_leaving=True), replace(_node(1, "x"), is_leaving=True)
    found = _decide(_wait("a"), [leaving, busy])
    assert (found.removed, found.assigned) == (("ws/cpu/node-0",), (("a", ("ws/cpu/node-2",)),))


def test_run_of_a_higher_priority_comes_first_and_waiting_counts_as_much() -> None:
    step = PRIORITY_STEP_S * SECOND
    early, late = turn_of(NOW - step - 1, 0), turn_of(NOW - step + 1, 0)
    high = Waiting("high", "ws", "cpu", 1, NOW, turn_of(NOW, 1))
    for turn, first in ((early, "low"), (late, "high")):
        low = Waiting("low", "ws", "cpu", 1, NOW, turn)
        found = _decide([low, high], cluster=replace(CPU, max_nodes=1))
        assert [run_id for run_id, _ in found.assigned] == [first]


def test_priorities_order_local_runs_and_those_that_another_queue_gets() -> None:
    high = Waiting("high", "ws", LOCAL, 1, NOW, -1)
    assert _decide([*_wait("a", "b", target=LOCAL), high], running=1).assigned == (("high", ()),)
    elsewhere = replace(CPU, has_own_queue=True)
    asked = [*_wait("a"), high._replace(target="cpu")]
    assert [run_id for run_id, _ in _decide(asked, cluster=elsewhere).assigned] == ["high", "a"]


def test_large_run_is_kept_its_nodes_though_one_of_a_higher_priority_waits_before_it() -> None:
    busy = [_node(0, "x")]
    high = _large("high", 2)._replace(turn=-1)
    found = _decide([_large("a", 2, waited_s=PASSED_S), *_wait("b"), high], busy)
    assert (found.assigned, "b" in found.reasons) == ((), True)
    assert "behind 'a'" in found.reasons["b"]


def test_stream_of_high_runs_lets_a_low_one_through_in_time() -> None:
    """One node, a run of priority 3 each minute: the one of priority 0 starts after half an hour."""
    low = Waiting("low", "ws", "cpu", 1, 0, turn_of(0, 0))
    queue, minute = [low], 0
    while low in queue:
        now = minute * 60 * SECOND
        queue.append(Waiting(f"high-{minute}", "ws", "cpu", 1, now, turn_of(now, 3)))
        found = decide(queue, [], [replace(CPU, max_nodes=1)], 0, 1, now)
        queue = [run for run in queue if run.run_id not in dict(found.assigned)]
        minute += 1
        assert minute <= 3 * PRIORITY_STEP_S // 60 + 2
    assert minute >= 3 * PRIORITY_STEP_S // 60


GPU = ClusterView("ws", "gpu", 0, 4, 60, gpus=1)
LARGE = ClusterView("ws", "large", 0, 4, 60, gpus=2)
FOUR = GpuView((0, 1, 2, 3))


def _decide_gpus(waiting: list[Waiting], gpus: GpuView, *clusters: ClusterView) -> Decision:
    return decide(waiting, [], list(clusters or (GPU, LARGE, CPU)), 0, 2, NOW, gpus)


def test_nodes_of_all_clusters_share_the_gpus_and_none_is_given_twice() -> None:
    waiting = [*_wait("a", target="gpu"), Waiting("b", "ws", "gpu", 2, NOW), Waiting("c", "ws", "large", 1, NOW)]
    found = _decide_gpus([*waiting, *_wait("d")], FOUR)
    assert found.gpus == {"a": "0", "b": "1;2", "d": ""}, "a run on a size without GPUs sees none"
    assert found.reasons == {"c": "Waits for 2 GPUs of this machine's 4 to be free."}
    assert _decide_gpus(_wait("c", target="large"), FOUR).gpus == {"c": "0,1"}


def test_gpu_that_something_else_uses_is_not_given_out_and_the_reason_says_so() -> None:
    held = GpuView((0, 1), held=((0, "process 4242"),))
    assert _decide_gpus(_wait("a", target="gpu"), held).gpus == {"a": "1"}
    found = _decide_gpus(_wait("a", target="large"), held)
    assert found.reasons["a"] == (
        "Waits for 2 GPUs of this machine's 2 to be free; GPU 0 is used by process 4242, which is no run here."
    )


def test_run_that_needs_more_gpus_than_there_are_waits_and_holds_nobody_up() -> None:
    long_ago = Waiting("a", "ws", "large", 1, 0)
    found = _decide_gpus([long_ago, *_wait("b", target="gpu")], GpuView((0,)))
    assert found.reasons["a"].startswith("Waits for 2 GPUs, and this machine has 1: ")
    assert found.gpus == {"b": "0"}


def test_host_without_gpus_emulates_them_and_isolates_nothing() -> None:
    found = _decide_gpus([*_wait("a", target="large"), *_wait("b", target=LOCAL)], GpuView())
    assert ([run_id for run_id, _ in found.assigned], found.gpus) == (["b", "a"], {})


def test_nodes_of_another_machine_take_none_of_this_host_s_gpus() -> None:
    there = replace(LARGE, gpus=None)
    assert (_decide_gpus(_wait("a", target="large"), GpuView((0,)), there).gpus) == {}


def test_run_that_has_long_waited_for_gpus_is_kept_them_by_those_of_other_clusters() -> None:
    gpus = GpuView((0, 1), given=frozenset((1,)))
    for waited_s, started in ((PASSED_S - 1, {"b": "0"}), (PASSED_S, {})):
        long = Waiting("a", "ws", "large", 1, NOW - waited_s * SECOND)
        found = _decide_gpus([long, *_wait("b", target="gpu")], gpus)
        assert found.gpus == started
    assert found.reasons["b"] == "Waits behind 'a', which has long waited for GPUs."


def test_local_runs_share_what_no_cluster_s_run_has_and_take_none_that_one_waits_for() -> None:
    gpus = GpuView((0, 1, 2), given=frozenset((0,)))
    assert _decide_gpus(_wait("a", "b", target=LOCAL), gpus).gpus == {"a": "1,2", "b": "1,2"}
    seen = replace(gpus, shared=frozenset((1, 2)))
    found = _decide_gpus([*_wait("a", target=LOCAL), *_wait("b", target="gpu")], seen)
    assert (found.gpus, list(found.reasons)) == ({"a": ""}, ["b"])


def test_local_runs_share_the_places_the_places_of_this_machine() -> None:
    found = _decide(_wait("a", "b", target=LOCAL), running=1)
    assert found.assigned == (("a", ()),)
    assert found.reasons == {"b": "Waits for one of this machine's 2 places for local runs."}


def test_run_whose_target_is_gone_says_so() -> None:
    assert "does not exist" in _decide(_wait("a", target="gone")).reasons["a"]


def test_clusters_of_one_name_in_two_workspaces_are_two() -> None:
    clusters = [CPU, replace(CPU, workspace="other", max_nodes=1)]
    waiting = _wait("a", "b", workspace="other") + _wait("c")
    found = decide(waiting, [], clusters, 0, 2, NOW)
    assert found.assigned == (("c", ("ws/cpu/node-0",)), ("a", ("other/cpu/node-0",)))
    assert set(found.reasons) == {"b"}


_clusters = st.lists(
    st.builds(
        lambda workspace, name, least, more, idle_s: ClusterView(workspace, name, least, max(1, least + more), idle_s),
        st.sampled_from(["ws", "other"]), st.sampled_from(["cpu", "gpu"]), st.integers(0, 3), st.integers(0, 3),
        st.sampled_from([0, 1, 60]),
    ),
    unique_by=lambda one: (one.workspace, one.name), max_size=3,
)  # fmt: skip


@st.composite
def _scenes(draw: Callable[..., object]) -> tuple[list[Waiting], list[NodeView], list[ClusterView], int, int]:
    """Clusters, nodes on them (also more than a lowered maximum allows), and runs of any target."""
    clusters: list[ClusterView] = draw(_clusters)  # type: ignore[assignment]
    nodes = []
    for one in clusters:
        for number in sorted(draw(st.sets(st.integers(0, 7), max_size=7))):  # type: ignore[call-overload]
            busy, idle_s = draw(st.booleans()), draw(st.integers(0, 120))
            node = f"{one.workspace}/{one.name}/node-{number}"
            nodes.append(
                NodeView(node, one.workspace, one.name, "on " + node if busy else None, NOW - idle_s * SECOND)  # type: ignore[operator]
            )
    places = [(one.workspace, one.name) for one in clusters] + [("ws", LOCAL), ("ws", "gone")]
    chosen: list[tuple[str, str]] = draw(st.lists(st.sampled_from(places), max_size=12))  # type: ignore[assignment]
    sizes: list[int] = draw(st.lists(st.integers(1, 4), min_size=12, max_size=12))  # type: ignore[assignment]
    since: list[int] = draw(st.lists(st.sampled_from([0, NOW]), min_size=12, max_size=12))  # type: ignore[assignment]
    turns: list[int] = draw(st.lists(st.integers(0, 2), min_size=12, max_size=12))  # type: ignore[assignment]
    waiting = [
        Waiting(f"run-{i:02}", workspace, target, 1 if target == LOCAL else sizes[i], since[i], turns[i])
        for i, (workspace, target) in enumerate(chosen)
    ]
    return waiting, nodes, clusters, draw(st.integers(0, 4)), draw(st.integers(1, 4))  # type: ignore[return-value]


@settings(max_examples=150, deadline=None)
@given(_scenes())
def test_every_decision_keeps_the_promises_of_the_queue(
    scene: tuple[list[Waiting], list[NodeView], list[ClusterView], int, int],
) -> None:
    waiting, nodes, clusters, running, slots = scene
    waiting.sort(key=lambda run: run.turn)
    found = decide(waiting, nodes, clusters, running, slots, NOW)
    assigned = dict(found.assigned)
    _assert_each_run_once(waiting, found)
    for one in clusters:
        here = {node.id: node for node in nodes if (node.workspace, node.cluster) == (one.workspace, one.name)}
        new = [node for node, workspace, name in found.added if (workspace, name) == (one.workspace, one.name)]
        removed = [node for node in found.removed if node in here]
        queue = [run for run in waiting if (run.workspace, run.target) == (one.workspace, one.name)]
        assert all(len(assigned[run.run_id]) == run.nodes for run in queue if run.run_id in assigned), "all or none"
        used = [node for run in queue for node in assigned.get(run.run_id, ())]
        assert not set(new) & set(here), "a new node has a name of its own"
        assert all(node in new or here[node].run_id is None for node in used), "a node carries one run at a time"
        assert not set(used) & set(removed), "a node that leaves gets no run"
        busy = sum(1 for node in here.values() if node.run_id is not None)
        assert busy + len(used) <= max(one.max_nodes, busy), "a lowered maximum holds for what starts"
        assert len(here) + len(new) <= max(one.max_nodes, len(here)), "never more nodes than the maximum"
        assert len(here) + len(new) - len(removed) >= min(one.min_nodes, len(here) + len(new))
        assert len(here) + len(new) >= one.min_nodes
        _assert_fair(queue, assigned, one.max_nodes - busy, one.max_nodes)
        for node in removed:
            is_old = NOW - here[node].since >= one.idle_s * SECOND
            assert here[node].run_id is None
            assert is_old or len(here) > one.max_nodes


def _assert_fair(queue: list[Waiting], assigned: dict[str, tuple[str, ...]], free: int, most: int) -> None:
    """Whoever starts found room behind those before it, and passed nobody who had waited long."""
    passed: list[Waiting] = []
    for run in queue:
        if run.run_id in assigned:
            assert all(NOW - other.since < PASSED_S * SECOND for other in passed)
            assert all(other.nodes > free for other in passed[:1]), "the first that waits had not enough"
            free -= run.nodes
        elif run.nodes <= most:
            passed.append(run)
    assert free >= 0 or not any(run.run_id in assigned for run in queue)


def _assert_each_run_once(waiting: list[Waiting], found: Decision) -> None:
    assigned = [run_id for run_id, _ in found.assigned]
    places = [node for _, nodes in found.assigned for node in nodes]
    assert max(Counter(assigned).values(), default=1) == 1
    assert max(Counter(places).values(), default=1) == 1
    for run in waiting:
        assert (run.run_id in assigned) != (run.run_id in found.reasons), "a run gets a node, or is told why not"
        assert run.run_id in assigned or found.reasons[run.run_id].startswith("Waits ")


@settings(max_examples=50, deadline=None)
@given(_scenes())
def test_same_view_gives_the_same_decision(
    scene: tuple[list[Waiting], list[NodeView], list[ClusterView], int, int],
) -> None:
    waiting, nodes, clusters, running, slots = scene
    assert decide(waiting, nodes, clusters, running, slots, NOW) == decide(
        waiting, nodes, clusters, running, slots, NOW
    )
