CREATE TABLE artifacts (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	run_id VARCHAR NOT NULL,
	path VARCHAR NOT NULL,
	digest VARCHAR NOT NULL,
	size_bytes BIGINT NOT NULL,
	PRIMARY KEY (run_id, path)
);

CREATE TABLE clusters (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	name VARCHAR NOT NULL,
	spec TEXT NOT NULL,
	modified_at BIGINT NOT NULL,
	warnings TEXT NOT NULL,
	UNIQUE (workspace, name)
);

CREATE TABLE dataset_files (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	dataset_id VARCHAR NOT NULL,
	url TEXT NOT NULL,
	size_bytes BIGINT NOT NULL,
	sha256 VARCHAR NOT NULL,
	run_id VARCHAR NOT NULL,
	PRIMARY KEY (dataset_id, url)
);

CREATE TABLE dataset_totals (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	dataset_id VARCHAR NOT NULL,
	file_count BIGINT NOT NULL,
	size_bytes BIGINT,
	names TEXT NOT NULL,
	run_id VARCHAR NOT NULL,
	PRIMARY KEY (dataset_id)
);

CREATE TABLE dataset_uses (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	run_id VARCHAR NOT NULL,
	direction VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	dataset_id VARCHAR NOT NULL,
	PRIMARY KEY (run_id, direction, name)
);

CREATE INDEX dataset_uses_by_dataset ON dataset_uses (dataset_id);

CREATE TABLE datasets (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	id VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	sources TEXT NOT NULL,
	name VARCHAR,
	version INTEGER,
	description TEXT NOT NULL,
	tags TEXT NOT NULL,
	is_registered BOOLEAN NOT NULL,
	steps TEXT DEFAULT '[]' NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (workspace, name, version)
);

CREATE TABLE datastores (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	name VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	is_default BOOLEAN NOT NULL,
	root TEXT DEFAULT '' NOT NULL,
	account TEXT DEFAULT '' NOT NULL,
	endpoint TEXT DEFAULT '' NOT NULL,
	secret TEXT DEFAULT '' NOT NULL,
	UNIQUE (workspace, name)
);

CREATE TABLE environments (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	name VARCHAR NOT NULL,
	version VARCHAR NOT NULL,
	"row" INTEGER NOT NULL,
	spec TEXT NOT NULL,
	spec_digest VARCHAR NOT NULL,
	PRIMARY KEY ("row"),
	UNIQUE (workspace, name, version)
);

CREATE TABLE experiments (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	tags TEXT NOT NULL,
	runs INTEGER NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (workspace, name)
);

CREATE TABLE locks (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	spec_digest VARCHAR NOT NULL,
	digest VARCHAR NOT NULL,
	body TEXT NOT NULL,
	PRIMARY KEY (spec_digest)
);

CREATE INDEX locks_by_digest ON locks (digest);

CREATE TABLE metric_chunks (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	id INTEGER NOT NULL,
	run_id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	writer VARCHAR NOT NULL,
	first_sequence BIGINT NOT NULL,
	length INTEGER NOT NULL,
	kind INTEGER NOT NULL,
	body BLOB NOT NULL,
	PRIMARY KEY (id)
);

CREATE INDEX metric_chunks_by_run ON metric_chunks (run_id, name, id);

CREATE TABLE metric_latest (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	run_id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	length BIGINT NOT NULL,
	last FLOAT,
	minimum FLOAT,
	maximum FLOAT,
	PRIMARY KEY (run_id, name)
);

CREATE TABLE metric_writers (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	run_id VARCHAR NOT NULL,
	writer VARCHAR NOT NULL,
	sequence BIGINT NOT NULL,
	PRIMARY KEY (run_id, writer)
);

CREATE TABLE models (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	name VARCHAR NOT NULL,
	version INTEGER NOT NULL,
	tree VARCHAR NOT NULL,
	files TEXT NOT NULL,
	description TEXT NOT NULL,
	tags TEXT NOT NULL,
	properties TEXT NOT NULL,
	framework VARCHAR NOT NULL,
	framework_version VARCHAR,
	resources TEXT,
	run_id VARCHAR,
	experiment VARCHAR,
	datasets TEXT NOT NULL,
	is_deleted BOOLEAN NOT NULL,
	UNIQUE (workspace, name, version)
);

CREATE INDEX models_by_run ON models (run_id);

CREATE TABLE node_reports (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	run_id VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	node INTEGER NOT NULL,
	revision INTEGER NOT NULL,
	body TEXT NOT NULL,
	PRIMARY KEY (run_id, attempt, node)
);

CREATE TABLE nodes (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	id VARCHAR NOT NULL,
	cluster VARCHAR NOT NULL,
	state VARCHAR NOT NULL,
	run_id VARCHAR,
	since BIGINT NOT NULL,
	PRIMARY KEY (id)
);

CREATE TABLE reports (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	run_id VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	sequence INTEGER NOT NULL,
	body TEXT NOT NULL,
	PRIMARY KEY (run_id, attempt, sequence)
);

CREATE TABLE run_events (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	run_id VARCHAR NOT NULL,
	at BIGINT NOT NULL,
	status VARCHAR NOT NULL,
	reason TEXT
);

CREATE INDEX run_events_by_run ON run_events (run_id, seq);

CREATE TABLE runs (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	"row" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	id VARCHAR NOT NULL,
	experiment VARCHAR NOT NULL,
	number INTEGER NOT NULL,
	kind VARCHAR NOT NULL,
	status VARCHAR NOT NULL,
	attempt INTEGER NOT NULL,
	retries INTEGER NOT NULL,
	target VARCHAR NOT NULL,
	parent VARCHAR,
	display_name VARCHAR NOT NULL,
	started_at BIGINT,
	ended_at BIGINT,
	reason TEXT,
	reason_at BIGINT,
	node VARCHAR,
	"key" VARCHAR,
	cancel_requested BOOLEAN NOT NULL,
	exit_code INTEGER,
	error TEXT,
	warnings TEXT NOT NULL,
	tags TEXT NOT NULL,
	properties TEXT NOT NULL,
	lock VARCHAR,
	event_seq INTEGER NOT NULL,
	report_seq INTEGER NOT NULL,
	heard_at BIGINT,
	spec TEXT NOT NULL,
	node_count INTEGER DEFAULT '1' NOT NULL,
	gpus TEXT,
	turn BIGINT DEFAULT '0' NOT NULL,
	queued_at BIGINT,
	UNIQUE (id)
);

CREATE INDEX runs_active ON runs (status, target, turn) WHERE ended_at IS NULL;

CREATE INDEX runs_by_experiment ON runs (workspace, experiment, "row");

CREATE INDEX runs_by_parent ON runs (parent);

CREATE TABLE schema_number (
	number INTEGER NOT NULL,
	PRIMARY KEY (number)
);

CREATE TABLE service_replicas (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	run_id VARCHAR NOT NULL,
	service VARCHAR NOT NULL,
	revision INTEGER NOT NULL,
	ready_at BIGINT,
	PRIMARY KEY (run_id)
);

CREATE INDEX service_replicas_by_service ON service_replicas (service);

CREATE TABLE service_revisions (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	service VARCHAR NOT NULL,
	number INTEGER NOT NULL,
	spec TEXT NOT NULL,
	answered_at BIGINT,
	PRIMARY KEY (service, number)
);

CREATE TABLE services (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	spec TEXT NOT NULL,
	revision INTEGER NOT NULL,
	good_revision INTEGER NOT NULL,
	serving_revision INTEGER NOT NULL,
	state VARCHAR NOT NULL,
	reason TEXT NOT NULL,
	error TEXT NOT NULL,
	how TEXT NOT NULL,
	port INTEGER NOT NULL,
	secret TEXT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (workspace, name)
);

CREATE TABLE tokens (
	workspace VARCHAR NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	secret_digest VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	role VARCHAR NOT NULL,
	run_id VARCHAR,
	expires_at BIGINT,
	PRIMARY KEY (secret_digest)
);

CREATE TABLE workspaces (
	id VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	subscription_id VARCHAR NOT NULL,
	resource_group VARCHAR NOT NULL,
	location VARCHAR NOT NULL,
	friendly_name VARCHAR NOT NULL,
	description TEXT NOT NULL,
	tags TEXT NOT NULL,
	created_by VARCHAR NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (name)
);

INSERT INTO schema_number (number) VALUES (5);

