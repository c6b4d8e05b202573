-- What Keyward keeps, from the first day: environment, tenants, keys, their versions, who changed what.
--
-- Rules that every migration follows (CONTRIBUTING.md has the why):
--   * Plain SQL, forward only, all in one transaction; a file that was released is never edited.
--   * It states the oldest release that may run on its outcome, by a row in schema_releases. Older code refuses to
--     start; so expand first (the oldest release stays), and contract a release later.
--   * tenant_id leads every primary key.
--   * A table of tenants' rows enables row-level security with the one policy below, in the migration that makes it.
--   * The service role is granted, table by table, only what the code does. Objects belong to whoever migrates.

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO keyward_service;

-- The tenant that the current transaction is bound to; null, and so no rows, when it is bound to none.
CREATE FUNCTION current_tenant_id() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  RETURN nullif(current_setting('keyward.tenant_id', true), '')::uuid;
REVOKE ALL ON FUNCTION current_tenant_id() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_tenant_id() TO keyward_service;

CREATE TABLE schema_releases (
  migration text PRIMARY KEY,
  oldest_release text NOT NULL CHECK (oldest_release ~ '^\d+\.\d+\.\d+$'),
  applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON schema_releases TO keyward_service;

-- One row: which environment this is. The token carries the same UUID, and every row seal covers it.
CREATE TABLE environment (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  environment_id uuid NOT NULL DEFAULT gen_random_uuid(),
  token_profile jsonb,
  created_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON environment TO keyward_service;

CREATE TABLE tenants (
  tenant_id uuid PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  created_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT ON tenants TO keyward_service;

-- What `token init` made in the HSM. Objects that all tenants share belong to the tenant `system`.
CREATE TABLE token_objects (
  tenant_id uuid NOT NULL REFERENCES tenants,
  object_id uuid NOT NULL,
  role text NOT NULL CHECK (role IN ('root', 'seal', 'mask', 'audit-signing')),
  is_current boolean NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, object_id),
  UNIQUE (object_id)
);
CREATE UNIQUE INDEX token_objects_current ON token_objects (tenant_id, role) WHERE is_current;
GRANT SELECT ON token_objects TO keyward_service;

CREATE TABLE keys (
  tenant_id uuid NOT NULL REFERENCES tenants,
  key_id uuid NOT NULL,
  name text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  primary_version integer NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, key_id),
  UNIQUE (tenant_id, name),
  UNIQUE (key_id)
);
ALTER TABLE keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON keys USING (tenant_id = current_tenant_id());
GRANT SELECT, INSERT, UPDATE (primary_version) ON keys TO keyward_service;

-- `seal` covers every column that means anything (docs: "Row seal"); created_at and state are not under it.
CREATE TABLE key_versions (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL CHECK (version >= 1),
  state text NOT NULL CHECK (state IN ('ENABLED')),
  algorithm smallint NOT NULL CHECK (algorithm >= 1),
  root_key_id uuid NOT NULL,
  wrap smallint NOT NULL CHECK (wrap IN (1, 2)),
  wrapped bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 1 AND 65535),
  check_value bytea NOT NULL CHECK (octet_length(check_value) = 16),
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL CHECK (octet_length(seal) = 32),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, key_id, version),
  FOREIGN KEY (tenant_id, key_id) REFERENCES keys
);
ALTER TABLE key_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON key_versions USING (tenant_id = current_tenant_id());
GRANT SELECT, INSERT ON key_versions TO keyward_service;

-- A key and its first version are inserted together, so the reference is checked at COMMIT.
ALTER TABLE keys ADD CONSTRAINT keys_primary_version_fkey
  FOREIGN KEY (tenant_id, key_id, primary_version) REFERENCES key_versions DEFERRABLE INITIALLY DEFERRED;

-- Append-only: nobody but the owner may change or delete an entry.
CREATE TABLE audit_entries (
  tenant_id uuid NOT NULL REFERENCES tenants,
  entry_id uuid NOT NULL DEFAULT gen_random_uuid(),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  request_id uuid NOT NULL,
  caller text NOT NULL,
  method text NOT NULL,
  resource text NOT NULL,
  outcome text NOT NULL,
  PRIMARY KEY (tenant_id, entry_id)
);
ALTER TABLE audit_entries ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON audit_entries USING (tenant_id = current_tenant_id());
GRANT SELECT, INSERT ON audit_entries TO keyward_service;

-- What replicas must forget, read by all of them and across tenants, so not under row-level security. Read by xid:
-- identities are handed out in another order than transactions commit in.
CREATE TABLE changes (
  tenant_id uuid NOT NULL REFERENCES tenants,
  change_id bigint GENERATED ALWAYS AS IDENTITY,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  kind text NOT NULL CHECK (kind IN ('tenant', 'key')),
  subject_id uuid NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, change_id)
);
CREATE INDEX changes_by_xid ON changes (xid);
GRANT SELECT, INSERT, DELETE ON changes TO keyward_service;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO environment DEFAULT VALUES;
INSERT INTO tenants (tenant_id, name) VALUES (gen_random_uuid(), 'system');
INSERT INTO schema_releases (migration, oldest_release) VALUES ('0001_first', '0.1.0');
