"""The route table: every request that the server answers, whom it asks for, and what travels in it.

The server builds its dispatcher and its authorisation from this table; the client calls by it.
"""

from typing import Dict, FrozenSet, Optional, Tuple

from runyard.protocol import (
    blobs,
    compute,
    datasets,
    datastores,
    environments,
    experiments,
    identity,
    labels,
    lineage,
    meeting,
    metrics,
    models,
    plan,
    runs,
    server,
    services,
    workspaces,
)
from runyard.protocol.record import record

PREFIX = "/api/1"


@record
class Route:
    """One request: ``name`` is also the name of its handler."""

    name: str
    method: str
    path: str
    #: The permission that the principal must hold; None: open to anyone who reaches the server.
    permission: Optional[str]
    #: Dataclass of the JSON body; None: no body, or raw bytes (see ``raw``).
    request: Optional[type] = None
    #: Dataclass of the JSON reply; None: no content, or raw bytes.
    response: Optional[type] = None
    #: The reply is a JSON list of ``response``.
    many: bool = False
    #: The reply is bytes and not JSON, and the body too where there is no ``request``.
    raw: bool = False
    #: Names of the query parameters; the dispatcher passes any, a test holds these to what the handlers read.
    query: Tuple[str, ...] = ()


class Permission:
    """What a role may hold; ``ROLES`` says which does. A run's token reaches its own run only."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    #: Change a run's labels, add to its record, send contents and register models: users who write, and the run itself.
    RUN_OWN = "run.own"
    #: Read a run and its record: users, and the run itself.
    RUN_READ = "run.read"
    ASSETS_READ = "assets.read"
    #: Reports of a runner; no user holds it.
    RUN_REPORT = "run.report"


ROLES: Dict[str, FrozenSet[str]] = {
    "reader": frozenset((Permission.READ, Permission.RUN_READ, Permission.ASSETS_READ)),
    "contributor": frozenset(
        (Permission.READ, Permission.WRITE, Permission.RUN_OWN, Permission.RUN_READ, Permission.ASSETS_READ)
    ),
    "owner": frozenset(
        (
            Permission.READ,
            Permission.WRITE,
            Permission.ADMIN,
            Permission.RUN_OWN,
            Permission.RUN_READ,
            Permission.ASSETS_READ,
        )
    ),
    #: The role of a run's own token.
    "run": frozenset((Permission.RUN_OWN, Permission.RUN_READ, Permission.RUN_REPORT, Permission.ASSETS_READ)),
}

_W = PREFIX + "/workspaces/{workspace}"
_R = _W + "/runs/{run_id}"

_OPEN = None
_READ, _WRITE, _ADMIN = Permission.READ, Permission.WRITE, Permission.ADMIN
_OWN, _RUN_READ, _REPORT, _ASSETS = (
    Permission.RUN_OWN,
    Permission.RUN_READ,
    Permission.RUN_REPORT,
    Permission.ASSETS_READ,
)

TABLE: Tuple[Route, ...] = (
    Route("ping", "GET", PREFIX + "/ping", _OPEN, None, server.Ping),
    Route("server_info", "GET", PREFIX + "/server", _ADMIN, None, server.ServerInfo),
    Route("stop_server", "POST", PREFIX + "/server/stop", _ADMIN),
    Route("create_ticket", "POST", PREFIX + "/tickets", _READ, None, identity.Ticket),
    # workspaces
    Route("create_workspace", "POST", PREFIX + "/workspaces", _ADMIN, workspaces.WorkspaceSpec, workspaces.Workspace),
    Route("list_workspaces", "GET", PREFIX + "/workspaces", _READ, None, workspaces.Workspace, many=True),
    Route("get_workspace", "GET", _W, _ASSETS, None, workspaces.Workspace),
    Route("create_token", "POST", _W + "/tokens", _ADMIN, identity.TokenSpec, identity.Token),
    # experiments
    Route("create_experiment", "PUT", _W + "/experiments/{name}", _WRITE, None, experiments.Experiment),
    Route("get_experiment", "GET", _W + "/experiments/{name}", _ASSETS, None, experiments.Experiment),
    Route("list_experiments", "GET", _W + "/experiments", _READ, None, experiments.Experiment, many=True),
    # runs, for users
    Route("submit_run", "POST", _W + "/runs", _WRITE, runs.RunSpec, runs.Run),
    Route(
        "list_runs",
        "GET",
        _W + "/runs",
        _READ,
        None,
        runs.RunPage,
        query=("experiment", "status", "tags", "properties", "parent", "limit", "cursor"),
    ),
    Route("get_run", "GET", _R, _RUN_READ, None, runs.Run),
    Route("change_run", "PATCH", _R, _OWN, runs.RunChange, runs.Run),
    Route("cancel_run", "POST", _R + "/cancel", _WRITE, None, runs.Run),
    Route("wait_run", "GET", _R + "/wait", _RUN_READ, None, runs.Run, query=("after", "ended", "wait_s")),
    Route("list_events", "GET", _R + "/events", _RUN_READ, None, runs.RunEvent, many=True, query=("after",)),
    Route("explain_run", "GET", _R + "/why", _RUN_READ, None, runs.Explanation),
    Route("list_logs", "GET", _R + "/logs", _RUN_READ, None, datastores.DatastoreFile, many=True),
    Route(
        "read_log", "GET", _R + "/logs/{path:path}", _RUN_READ, raw=True, query=("offset", "wait_s", "limit", "attempt")
    ),
    # runs, for runners and jobs
    Route("report", "POST", _R + "/reports", _REPORT, plan.ReportBatch, plan.ReportReply),
    Route("meet", "POST", _R + "/nodes", _REPORT, meeting.NodeReport, meeting.Meeting, query=("after", "wait_s")),
    Route("read_node_file", "GET", _R + "/node-files/{name}", _REPORT, raw=True),
    Route(
        "find_environment_pack",
        "GET",
        _R + "/environment-pack",
        _REPORT,
        None,
        environments.EnvironmentPack,
        query=("platform",),
    ),
    Route("read_replica_plan", "GET", _R + "/replica", _REPORT, None, services.ReplicaPlan),
    Route("read_environment_pack", "GET", _R + "/environment-pack/bytes", _REPORT, raw=True, query=("platform",)),
    Route("read_snapshot_files", "POST", _R + "/snapshot", _RUN_READ, blobs.DigestList, raw=True),
    Route("read_snapshot_file", "GET", _R + "/snapshot/{digest}", _RUN_READ, raw=True),
    Route(
        "append_log",
        "POST",
        _R + "/logs/{path:path}",
        _REPORT,
        None,
        blobs.Offset,
        raw=True,
        query=("offset", "attempt"),
    ),
    Route("add_metrics", "POST", _R + "/metrics", _OWN, None, metrics.MetricsReply, raw=True),
    Route("get_metrics", "GET", _R + "/metrics", _RUN_READ, raw=True, query=("name", "recursive")),
    Route("get_usage", "GET", _R + "/usage", _RUN_READ, raw=True),
    Route("add_artifacts", "POST", _R + "/artifacts", _OWN, runs.ArtifactList, runs.Count),
    Route("list_artifacts", "GET", _R + "/artifacts", _RUN_READ, None, runs.Artifact, many=True, query=("prefix",)),
    Route("read_artifact", "GET", _R + "/artifacts/{path:path}", _RUN_READ, raw=True),
    Route(
        "note_dataset_files",
        "POST",
        _R + "/datasets/{dataset_id}/files",
        _REPORT,
        lineage.SeenFiles,
        lineage.Sentences,
    ),
    Route("add_warnings", "POST", _R + "/warnings", _REPORT, lineage.Sentences),
    Route("list_run_datasets", "GET", _R + "/datasets", _RUN_READ, None, lineage.DatasetUse, many=True),
    Route(
        "write_output_file",
        "PUT",
        _R + "/outputs/{name}/{path:path}",
        _REPORT,
        None,
        datastores.DatastoreFile,
        raw=True,
    ),
    # bytes
    Route("find_missing_blobs", "POST", _W + "/blobs/missing", _ASSETS, blobs.DigestList, blobs.DigestList),
    Route("put_blobs", "POST", _W + "/blobs", _OWN, None, blobs.DigestList, raw=True),
    Route("begin_upload", "POST", _W + "/uploads", _OWN, blobs.UploadSpec, blobs.Upload),
    Route("sign_parts", "POST", _W + "/uploads/{upload_id}/parts", _OWN, blobs.PartList, blobs.SignedPart, many=True),
    Route("append_upload", "PUT", _W + "/uploads/{upload_id}", _OWN, None, blobs.Offset, raw=True, query=("offset",)),
    Route("finish_upload", "POST", _W + "/uploads/{upload_id}/finish", _OWN, blobs.DigestList, blobs.DigestList),
    Route("read_blob", "GET", _W + "/blobs/{digest}", _READ, raw=True),
    Route("get_blob_address", "GET", _W + "/blobs/{digest}/address", _READ, None, blobs.BlobAddress),
    # datastores
    Route("list_datastores", "GET", _W + "/datastores", _ASSETS, None, datastores.Datastore, many=True),
    Route("get_datastore", "GET", _W + "/datastores/{name}", _ASSETS, None, datastores.Datastore),
    Route("register_datastore", "POST", _W + "/datastores", _WRITE, datastores.DatastoreSpec, datastores.Datastore),
    Route("unregister_datastore", "DELETE", _W + "/datastores/{name}", _WRITE),
    Route("set_default_datastore", "PUT", _W + "/datastores/{name}/default", _WRITE, None, datastores.Datastore),
    Route(
        "list_datastore_files",
        "GET",
        _W + "/datastores/{name}/files",
        _ASSETS,
        None,
        datastores.Listing,
        query=("path",),
    ),
    Route(
        "read_datastore_file",
        "GET",
        _W + "/datastores/{name}/files/{path:path}",
        _ASSETS,
        raw=True,
        query=("offset", "length", "tag"),
    ),
    Route(
        "write_datastore_file",
        "PUT",
        _W + "/datastores/{name}/files/{path:path}",
        _WRITE,
        None,
        datastores.DatastoreFile,
        raw=True,
        query=("overwrite",),
    ),
    # datasets
    Route("save_dataset", "POST", _W + "/datasets", _WRITE, datasets.DatasetSpec, datasets.Dataset),
    Route("list_datasets", "GET", _W + "/datasets", _ASSETS, None, datasets.Dataset, many=True, query=("name",)),
    Route("get_dataset", "GET", _W + "/datasets/{dataset_id}", _ASSETS, None, datasets.Dataset),
    Route("find_dataset", "GET", _W + "/dataset-names/{name}", _ASSETS, None, datasets.Dataset, query=("version",)),
    Route("list_dataset_runs", "GET", _W + "/datasets/{dataset_id}/runs", _READ, None, lineage.DatasetUse, many=True),
    Route("change_dataset", "PATCH", _W + "/datasets/{dataset_id}", _WRITE, labels.LabelChange, datasets.Dataset),
    Route("unregister_dataset", "DELETE", _W + "/dataset-names/{name}", _WRITE),
    # environments
    Route(
        "register_environment",
        "POST",
        _W + "/environments",
        _WRITE,
        environments.EnvironmentBody,
        environments.Environment,
    ),
    Route("list_environments", "GET", _W + "/environments", _ASSETS, None, environments.Environment, many=True),
    Route(
        "get_environment",
        "GET",
        _W + "/environments/{name}",
        _ASSETS,
        None,
        environments.Environment,
        query=("version",),
    ),
    Route(
        "build_environment",
        "POST",
        _W + "/environment-builds",
        _WRITE,
        environments.EnvironmentBody,
        environments.EnvironmentBuild,
        query=("look",),
    ),
    Route(
        "write_environment_file",
        "PUT",
        _W + "/environment-files/{sha256}/{name}",
        _WRITE,
        None,
        environments.StoredFile,
        raw=True,
        query=("exist_ok",),
    ),
    Route("read_environment_file", "GET", _W + "/environment-files/{sha256}/{name}", _ASSETS, raw=True),
    # compute
    Route("create_cluster", "POST", _W + "/clusters", _WRITE, compute.ClusterSpec, compute.Cluster),
    Route("list_clusters", "GET", _W + "/clusters", _READ, None, compute.Cluster, many=True),
    Route("get_cluster", "GET", _W + "/clusters/{name}", _READ, None, compute.Cluster),
    Route("change_cluster", "PATCH", _W + "/clusters/{name}", _WRITE, compute.ClusterChange, compute.Cluster),
    Route("delete_cluster", "DELETE", _W + "/clusters/{name}", _WRITE, None, runs.Count, query=("force",)),
    Route(
        "remove_node",
        "DELETE",
        _W + "/clusters/{name}/nodes/{node}",
        _WRITE,
        None,
        compute.Cluster,
        query=("evict",),
    ),
    # models
    Route("register_model", "POST", _W + "/models", _OWN, models.ModelSpec, models.Model),
    Route(
        "list_models",
        "GET",
        _W + "/models",
        _ASSETS,
        None,
        models.Model,
        many=True,
        query=("name", "latest", "run_id"),
    ),
    Route("get_model", "GET", _W + "/models/{name}", _ASSETS, None, models.Model, query=("version",)),
    Route("read_model_file", "GET", _W + "/models/{name}/{version}/files/{path:path}", _ASSETS, raw=True),
    Route("change_model", "PATCH", _W + "/models/{name}/{version}", _WRITE, models.ModelChange, models.Model),
    Route("delete_model", "DELETE", _W + "/models/{name}/{version}", _WRITE),
    # services
    Route("deploy_service", "POST", _W + "/services", _WRITE, services.ServiceSpec, services.Service),
    Route("list_services", "GET", _W + "/services", _READ, None, services.Service, many=True),
    Route("get_service", "GET", _W + "/services/{name}", _READ, None, services.Service),
    Route("change_service", "PATCH", _W + "/services/{name}", _WRITE, services.ServiceChange, services.Service),
    Route("delete_service", "DELETE", _W + "/services/{name}", _WRITE),
    Route(
        "list_service_revisions",
        "GET",
        _W + "/services/{name}/revisions",
        _READ,
        None,
        services.ServiceRevision,
        many=True,
    ),
    Route("get_service_keys", "GET", _W + "/services/{name}/keys", _WRITE, None, services.ServiceKeys),
    Route("change_service_key", "POST", _W + "/services/{name}/keys", _WRITE, services.KeyChange, services.ServiceKeys),
    Route("create_service_token", "POST", _W + "/services/{name}/tokens", _WRITE, None, services.ServiceToken),
    Route("read_service_log", "GET", _W + "/services/{name}/log", _READ, raw=True, query=("lines",)),
)

BY_NAME: Dict[str, Route] = {route.name: route for route in TABLE}

#: Requests that may be sent again although they are no GET, PUT or DELETE: a second one changes nothing more.
REPEATABLE: FrozenSet[str] = frozenset(
    (
        "submit_run",
        "cancel_run",
        "report",
        "meet",
        "append_log",
        "add_metrics",
        "add_artifacts",
        "note_dataset_files",
        "add_warnings",
        "find_missing_blobs",
        "put_blobs",
        "begin_upload",
        "sign_parts",
        "finish_upload",
        "read_snapshot_files",
        "create_workspace",
        "change_run",
        "change_cluster",
        "create_cluster",
        "change_model",
        "change_dataset",
        "stop_server",
    )
)
