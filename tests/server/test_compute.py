"""Clusters: changed by several at once, each change holds."""

import threading
from pathlib import Path
from types import MappingProxyType

from runyard.protocol.compute import ClusterChange
from runyard.protocol.routes import BY_NAME
from runyard.server.call import Call
from runyard.server.handlers import compute
from tests.server.application import Application


def test_two_changes_of_a_cluster_at_once_both_hold(tmp_path: Path) -> None:
    app = Application(tmp_path / "home")
    app.add_workspace("here")
    path = MappingProxyType({"workspace": "here", "name": "small"})
    assert app.ask("create_cluster", {"name": "small"}, workspace="here").status == 200
    for number in range(2, 40):
        both_are_here = threading.Barrier(2)

        def change(body: ClusterChange, both_are_here: threading.Barrier = both_are_here) -> None:
            both_are_here.wait()
            compute.change_cluster(Call(BY_NAME["change_cluster"], None, path, MappingProxyType({}), body, app.parts))

        changes = [ClusterChange(max_nodes=number), ClusterChange(idle_seconds_before_scaledown=number)]
        threads = [threading.Thread(target=change, args=(one,)) for one in changes]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        spec = app.ask("get_cluster", workspace="here", name="small").json["spec"]
        assert (spec["max_nodes"], spec["idle_seconds_before_scaledown"]) == (number, number)
    app.close()
