-- States of tenants, keys and versions, labels and descriptions, etags, and request ids.
--
-- Runs under release 0.1.0: its code reads none of the new columns, and their defaults are what it means.

ALTER TABLE tenants
  ADD COLUMN state text NOT NULL DEFAULT 'ENABLED' CHECK (state IN ('ENABLED', 'DISABLED')),
  ADD COLUMN revision bigint NOT NULL DEFAULT 1;
GRANT UPDATE (state, revision) ON tenants TO keyward_service;

ALTER TABLE keys
  ADD COLUMN state text NOT NULL DEFAULT 'ENABLED' CHECK (state IN ('ENABLED', 'DISABLED')),
  ADD COLUMN description text NOT NULL DEFAULT '' CHECK (char_length(description) <= 1024),
  ADD COLUMN labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
  ADD COLUMN revision bigint NOT NULL DEFAULT 1;
GRANT UPDATE (state, description, labels, revision) ON keys TO keyward_service;

ALTER TABLE key_versions
  DROP CONSTRAINT key_versions_state_check,
  ADD CONSTRAINT key_versions_state_check CHECK (state IN ('ENABLED', 'DISABLED')),
  ADD COLUMN revision bigint NOT NULL DEFAULT 1;
GRANT UPDATE (state, revision) ON key_versions TO keyward_service;

-- What became of a mutation that its caller may send again. `reference` names rows and holds no secret.
CREATE TABLE request_ids (
  tenant_id uuid NOT NULL REFERENCES tenants,
  caller text NOT NULL,
  method text NOT NULL,
  request_id uuid NOT NULL,
  fingerprint bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
  reference jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, caller, method, request_id)
);
CREATE INDEX request_ids_by_time ON request_ids (at);
ALTER TABLE request_ids ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON request_ids USING (tenant_id = current_tenant_id());
GRANT SELECT, INSERT ON request_ids TO keyward_service;

-- The service purges across tenants, and only what is over a day old: by a function, since its role sees one tenant's rows.
CREATE FUNCTION purge_request_ids() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public
  BEGIN ATOMIC
    WITH purged AS (DELETE FROM request_ids WHERE at < clock_timestamp() - interval '24 hours' RETURNING 1)
    SELECT count(*) FROM purged;
  END;
REVOKE ALL ON FUNCTION purge_request_ids() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION purge_request_ids() TO keyward_service;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0002_states_labels_request_ids', '0.1.0');
