-- Canaries: ciphertexts and data keys that are made to be found and never to be opened, and the
-- callers that were suspended in a tenant. One seal of one row covers all of them.
--
-- Runs under the releases before, whose code opens no canary either, reports none, and refuses no
-- caller for being suspended.

-- A canary. What it is recognised by is in `record`, encrypted under the version that the canary
-- itself is under, so that a copy of the database does not tell which ciphertexts are canaries.
CREATE TABLE canaries (
  tenant_id uuid NOT NULL REFERENCES tenants,
  canary_id text COLLATE "C" NOT NULL CHECK (canary_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  uid uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL CHECK (version > 0),
  record bytea NOT NULL,
  PRIMARY KEY (tenant_id, canary_id)
);

-- A caller that is refused in a tenant, or, in the tenant `system`, everywhere.
CREATE TABLE suspensions (
  tenant_id uuid NOT NULL REFERENCES tenants,
  suspension_id text COLLATE "C" NOT NULL
    CHECK (suspension_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  caller text NOT NULL,
  canary_id text NOT NULL,
  request_id text NOT NULL,
  description text NOT NULL,
  created_at timestamptz NOT NULL,
  creator text NOT NULL,
  PRIMARY KEY (tenant_id, suspension_id),
  CONSTRAINT suspensions_caller_key UNIQUE (tenant_id, caller)
);

-- One row, of all tenants: for each tenant with canaries or suspensions the digest of its rows, and
-- the seal over all digests. Whoever changes a row of the two tables locks it first. Never sealed
-- before the first change.
CREATE TABLE canary_seals (
  tenant_id uuid PRIMARY KEY REFERENCES tenants,
  revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
  digests jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(digests) = 'object'),
  seal_key_id uuid,
  seal bytea CHECK (octet_length(seal) = 32),
  CONSTRAINT canary_seals_check CHECK ((seal IS NULL) = (seal_key_id IS NULL))
);
INSERT INTO canary_seals (tenant_id) SELECT tenant_id FROM tenants WHERE name = 'system';

ALTER TABLE canaries ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON canaries USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON canaries TO keyward_reconciler USING (true);
ALTER TABLE suspensions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON suspensions USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON suspensions TO keyward_reconciler USING (true);
GRANT SELECT, INSERT, DELETE ON canaries, suspensions TO keyward_service;
GRANT SELECT ON canaries, suspensions TO keyward_reconciler;
GRANT SELECT, UPDATE (revision, digests, seal_key_id, seal) ON canary_seals TO keyward_service;
GRANT SELECT, UPDATE (seal_key_id, seal) ON canary_seals TO keyward_reconciler;

ALTER TABLE changes
  DROP CONSTRAINT changes_kind_check,
  ADD CONSTRAINT changes_kind_check CHECK (
    kind IN ('tenant', 'key', 'destroyed', 'token', 'versions', 'shredded', 'access', 'canaries')
  );

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0018_canaries', '0.2.0');
