-- Rotation that finishes: stored data keys, schedules, history, re-wrap jobs, use, destruction.
--
-- Wants the role keyward_reconciler, which keyward_service may become and does not inherit from: what the service does by
-- itself is done across tenants, and what it does for callers never is.
-- Runs under release 0.1.0: to its code a state that it doesn't know is not ENABLED, and it reads none of the rest.

GRANT USAGE ON SCHEMA public TO keyward_reconciler;
GRANT EXECUTE ON FUNCTION current_tenant_id() TO keyward_reconciler;

ALTER TABLE keys
  DROP CONSTRAINT keys_state_check,
  ADD CONSTRAINT keys_state_check CHECK (state IN ('ENABLED', 'DISABLED', 'DESTROY_SCHEDULED', 'DESTROYED')),
  ADD COLUMN rotation_period_seconds bigint CHECK (rotation_period_seconds > 0),
  ADD COLUMN next_rotation_at timestamptz CHECK (next_rotation_at IS NULL OR rotation_period_seconds IS NOT NULL),
  ADD COLUMN rotation_usage_limit bigint CHECK (rotation_usage_limit > 0),
  ADD COLUMN usage_limit_reached_at timestamptz,
  ADD COLUMN maintenance_paused boolean NOT NULL DEFAULT false,
  ADD COLUMN destroy_at timestamptz,
  ADD COLUMN destroyed_at timestamptz,
  ADD CONSTRAINT keys_destroy_at_check CHECK (state <> 'DESTROY_SCHEDULED' OR destroy_at IS NOT NULL),
  ADD CONSTRAINT keys_destroyed_at_check CHECK ((state = 'DESTROYED') = (destroyed_at IS NOT NULL));
CREATE INDEX keys_next_rotation ON keys (next_rotation_at) WHERE next_rotation_at IS NOT NULL;
CREATE INDEX keys_usage_limit ON keys (usage_limit_reached_at) WHERE usage_limit_reached_at IS NOT NULL;
CREATE INDEX keys_destroy ON keys (destroy_at) WHERE state = 'DESTROY_SCHEDULED';
GRANT UPDATE (rotation_period_seconds, next_rotation_at, rotation_usage_limit, usage_limit_reached_at,
  maintenance_paused, destroy_at) ON keys TO keyward_service;
CREATE POLICY of_all_tenants ON keys TO keyward_reconciler USING (true);
GRANT SELECT, UPDATE (state, revision, destroyed_at, usage_limit_reached_at) ON keys TO keyward_reconciler;

-- Destroyed means erased: neither without the other.
ALTER TABLE key_versions
  DROP CONSTRAINT key_versions_state_check,
  DROP CONSTRAINT key_versions_wrapped_check,
  ADD CONSTRAINT key_versions_state_check CHECK (state IN ('ENABLED', 'DISABLED', 'DESTROY_SCHEDULED', 'DESTROYED')),
  ADD CONSTRAINT key_versions_wrapped_check CHECK (octet_length(wrapped) <= 65535),
  ADD CONSTRAINT key_versions_erased_check CHECK ((state = 'DESTROYED') = (octet_length(wrapped) = 0)),
  ADD COLUMN destroy_at timestamptz,
  ADD COLUMN destroyed_at timestamptz,
  ADD CONSTRAINT key_versions_destroy_at_check CHECK (state <> 'DESTROY_SCHEDULED' OR destroy_at IS NOT NULL),
  ADD CONSTRAINT key_versions_destroyed_at_check CHECK ((state = 'DESTROYED') = (destroyed_at IS NOT NULL));
CREATE INDEX key_versions_destroy ON key_versions (destroy_at) WHERE state = 'DESTROY_SCHEDULED';
GRANT UPDATE (destroy_at) ON key_versions TO keyward_service;
CREATE POLICY of_all_tenants ON key_versions TO keyward_reconciler USING (true);
GRANT SELECT, UPDATE (state, revision, destroyed_at, wrapped) ON key_versions TO keyward_reconciler;

-- Data keys that the service keeps. What a ciphertext says of itself can't be said otherwise by its row: the version is
-- read off it, purpose and key are compared (docs/ciphertext.md has the bytes). Walked by its primary key, which is its
-- only index: a second one that re-wrapping changes would cost more than it saves. Names' grammar is left to the service:
-- an expression for it here is looked at with every re-wrap, and was a third of what that costs Postgres (measured).
CREATE TABLE data_keys (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  name text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 63),
  data_key_id uuid NOT NULL,
  context_digest bytea NOT NULL CHECK (octet_length(context_digest) = 32),
  ciphertext bytea NOT NULL CHECK (
    octet_length(ciphertext) BETWEEN 117 AND 1140
    AND substring(ciphertext FROM 1 FOR 4) = '\x01010300' AND substring(ciphertext FROM 5 FOR 16) = uuid_send(key_id)),
  version integer NOT NULL GENERATED ALWAYS AS (
    get_byte(ciphertext, 20) << 24 | get_byte(ciphertext, 21) << 16
    | get_byte(ciphertext, 22) << 8 | get_byte(ciphertext, 23)) STORED,
  created_at timestamptz NOT NULL DEFAULT now(),
  rewrapped_at timestamptz,
  PRIMARY KEY (tenant_id, key_id, name),
  FOREIGN KEY (tenant_id, key_id) REFERENCES keys
);
ALTER TABLE data_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON data_keys USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON data_keys TO keyward_reconciler USING (true);
GRANT SELECT, INSERT, DELETE ON data_keys TO keyward_service;
GRANT SELECT, DELETE, UPDATE (ciphertext, rewrapped_at) ON data_keys TO keyward_reconciler;

-- Jobs that bring stored data keys under their keys' primary versions. Job ids are in the order of time.
-- A job is planned into ranges by whoever comes first: up to where, says its frontier.
CREATE TABLE rewrap_jobs (
  tenant_id uuid NOT NULL REFERENCES tenants,
  job_id uuid NOT NULL,
  scope text NOT NULL,
  scope_tenant_id uuid REFERENCES tenants,
  scope_key_id uuid CHECK (scope_key_id IS NULL OR scope_tenant_id IS NOT NULL),
  cause text NOT NULL CHECK (cause IN ('schedule', 'request', 'usage')),
  caller text NOT NULL,
  state text NOT NULL DEFAULT 'RUNNING'
    CHECK (state IN ('RUNNING', 'SUCCEEDED', 'PARTIAL', 'CANCELLED', 'SUPERSEDED')),
  created_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz CHECK ((state = 'RUNNING') = (ended_at IS NULL)),
  planned boolean NOT NULL DEFAULT false,
  frontier_tenant_id uuid,
  frontier_key_id uuid,
  frontier_name text COLLATE "C",
  ranges integer NOT NULL DEFAULT 0,
  total bigint NOT NULL DEFAULT 0,
  done bigint,
  failed bigint CHECK ((state = 'RUNNING') = (done IS NULL AND failed IS NULL)),
  PRIMARY KEY (tenant_id, job_id)
);
CREATE INDEX rewrap_jobs_running ON rewrap_jobs (job_id) WHERE state = 'RUNNING';
ALTER TABLE rewrap_jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON rewrap_jobs USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON rewrap_jobs TO keyward_reconciler USING (true);
GRANT SELECT, INSERT, UPDATE (state, ended_at, done, failed) ON rewrap_jobs TO keyward_service;
GRANT SELECT, UPDATE (planned, frontier_tenant_id, frontier_key_id, frontier_name, ranges, total)
  ON rewrap_jobs TO keyward_reconciler;

-- What one replica works on at a time: a key's data keys above after_name up to until_name. Whoever leases a range counts
-- its fence up, and writes nothing under an older one. Gone when its job has ended.
CREATE TABLE rewrap_ranges (
  tenant_id uuid NOT NULL,
  job_id uuid NOT NULL,
  range integer NOT NULL,
  key_tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  after_name text COLLATE "C" NOT NULL,
  until_name text COLLATE "C" NOT NULL,
  total bigint NOT NULL,
  done bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0,
  finished boolean NOT NULL DEFAULT false,
  fence bigint NOT NULL DEFAULT 0,
  leased_until timestamptz NOT NULL DEFAULT '-infinity',
  PRIMARY KEY (tenant_id, job_id, range),
  FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs
);
CREATE INDEX rewrap_ranges_open ON rewrap_ranges (job_id, range) WHERE NOT finished;
ALTER TABLE rewrap_ranges ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON rewrap_ranges USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON rewrap_ranges TO keyward_reconciler USING (true);
GRANT SELECT, DELETE ON rewrap_ranges TO keyward_service;
GRANT SELECT, INSERT, UPDATE (after_name, done, failed, finished, fence, leased_until)
  ON rewrap_ranges TO keyward_reconciler;

-- What a job could not open: the first hundred.
CREATE TABLE rewrap_failures (
  tenant_id uuid NOT NULL,
  job_id uuid NOT NULL,
  data_key text COLLATE "C" NOT NULL,
  reason text NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, job_id, data_key),
  FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs
);
ALTER TABLE rewrap_failures ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON rewrap_failures USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON rewrap_failures TO keyward_reconciler USING (true);
GRANT SELECT ON rewrap_failures TO keyward_service;
GRANT SELECT, INSERT ON rewrap_failures TO keyward_reconciler;

-- The history of rotations: kept for ever, only added to.
CREATE TABLE rotations (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  to_version integer NOT NULL,
  from_version integer NOT NULL,
  cause text NOT NULL CHECK (cause IN ('schedule', 'request', 'usage')),
  caller text NOT NULL,
  rotated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  duration_ms double precision NOT NULL CHECK (duration_ms >= 0),
  job_id uuid NOT NULL,
  PRIMARY KEY (tenant_id, key_id, to_version),
  FOREIGN KEY (tenant_id, key_id, to_version) REFERENCES key_versions,
  FOREIGN KEY (tenant_id, key_id, from_version) REFERENCES key_versions,
  FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs
);
ALTER TABLE rotations ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON rotations USING (tenant_id = current_tenant_id());
GRANT SELECT, INSERT ON rotations TO keyward_service;

-- How versions are used, added up from what replicas report.
CREATE TABLE key_version_usage (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL,
  encrypt_operations bigint NOT NULL,
  last_encrypt_at timestamptz,
  decrypt_operations bigint NOT NULL,
  last_decrypt_at timestamptz,
  PRIMARY KEY (tenant_id, key_id, version),
  FOREIGN KEY (tenant_id, key_id, version) REFERENCES key_versions
) WITH (fillfactor = 50);
ALTER TABLE key_version_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON key_version_usage USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON key_version_usage TO keyward_reconciler USING (true);
GRANT SELECT ON key_version_usage TO keyward_service;
GRANT SELECT, INSERT, UPDATE (encrypt_operations, last_encrypt_at, decrypt_operations, last_decrypt_at)
  ON key_version_usage TO keyward_reconciler;

-- What each replica has reported last, so that no report counts twice, and up to when it has. Of all tenants.
CREATE TABLE usage_reports (
  tenant_id uuid NOT NULL REFERENCES tenants,
  replica_id uuid NOT NULL,
  sequence bigint NOT NULL,
  complete_at timestamptz NOT NULL,
  PRIMARY KEY (tenant_id, replica_id)
);
GRANT SELECT ON usage_reports TO keyward_service;
GRANT SELECT, INSERT, UPDATE (sequence, complete_at), DELETE ON usage_reports TO keyward_reconciler;

-- The switch for incidents. Of all tenants.
CREATE TABLE maintenance (
  tenant_id uuid PRIMARY KEY REFERENCES tenants,
  paused boolean NOT NULL DEFAULT false,
  changed_at timestamptz,
  caller text NOT NULL DEFAULT ''
);
INSERT INTO maintenance (tenant_id) SELECT tenant_id FROM tenants WHERE name = 'system';
GRANT SELECT, UPDATE (paused, changed_at, caller) ON maintenance TO keyward_service;
GRANT SELECT ON maintenance TO keyward_reconciler;

GRANT SELECT ON tenants, environment TO keyward_reconciler;
CREATE POLICY of_all_tenants ON audit_entries TO keyward_reconciler USING (true);
GRANT SELECT, INSERT ON audit_entries TO keyward_reconciler;

-- `destroyed`: besides what a change to a key asks for, agents must forget the key's handles.
ALTER TABLE changes
  DROP CONSTRAINT changes_kind_check,
  ADD CONSTRAINT changes_kind_check CHECK (kind IN ('tenant', 'key', 'destroyed'));
GRANT SELECT, INSERT ON changes TO keyward_reconciler;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0003_rotation', '0.1.0');
