-- Several tokens: the one that serves, the one to move to, those that served before.
--
-- Runs under release 0.1.0. While key versions are moved, every replica is of this release: the move waits for each to hold
-- the next token's keys, which older code can't say that it does.

-- A token as a whole. CURRENT: holds what is for new things, exactly one. NEXT: key versions are being copied under its root
-- keys, at most one. FORMER: key versions were moved away from it. What tells it from others, where it was opened since this
-- table is there; which module opens it is a setting.
CREATE TABLE tokens (
  tenant_id uuid NOT NULL REFERENCES tenants,
  token_id uuid NOT NULL DEFAULT gen_random_uuid(),
  state text NOT NULL CHECK (state IN ('CURRENT', 'NEXT', 'FORMER')),
  label text,
  serial_number text,
  profile jsonb CHECK (state = 'CURRENT' OR profile IS NOT NULL),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  activated_at timestamptz,
  retired_at timestamptz CHECK ((state = 'FORMER') = (retired_at IS NOT NULL)),
  PRIMARY KEY (tenant_id, token_id),
  UNIQUE (token_id)
);
CREATE UNIQUE INDEX tokens_one_each ON tokens (state) WHERE state IN ('CURRENT', 'NEXT');
GRANT SELECT ON tokens TO keyward_service, keyward_reconciler;

INSERT INTO tokens (tenant_id, state, profile, activated_at)
  SELECT t.tenant_id, 'CURRENT', e.token_profile, now() FROM tenants t, environment e WHERE t.name = 'system';

-- Where an object is made of which nothing else is said.
CREATE FUNCTION current_token_id() RETURNS uuid LANGUAGE sql STABLE
  BEGIN ATOMIC SELECT token_id FROM tokens WHERE state = 'CURRENT'; END;
REVOKE ALL ON FUNCTION current_token_id() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_token_id() TO keyward_service, keyward_reconciler;

ALTER TABLE token_objects
  ADD COLUMN token_id uuid NOT NULL DEFAULT current_token_id() REFERENCES tokens (token_id);
-- One replacement of each at a time, in each token. Of current ones there is one of each in all tokens together.
DROP INDEX token_objects_pending;
CREATE UNIQUE INDEX token_objects_pending ON token_objects (tenant_id, role, token_id)
  WHERE state IN ('CREATING', 'CREATED');

-- Key versions under the next token's root keys, sealed by its seal key, each a copy of the row whose seal it names. They take
-- the rows' place all at once; a copy goes when its version is destroyed. By the owner's role, which moves; nobody reads them.
CREATE TABLE moved_key_versions (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL,
  source_seal bytea NOT NULL CHECK (octet_length(source_seal) = 32),
  root_key_id uuid NOT NULL,
  wrap smallint NOT NULL CHECK (wrap IN (1, 2)),
  wrapped bytea NOT NULL CHECK (octet_length(wrapped) BETWEEN 1 AND 65535),
  check_value bytea NOT NULL CHECK (octet_length(check_value) = 16),
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL CHECK (octet_length(seal) = 32),
  PRIMARY KEY (tenant_id, key_id, version),
  FOREIGN KEY (tenant_id, key_id, version) REFERENCES key_versions
);
ALTER TABLE moved_key_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON moved_key_versions USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON moved_key_versions TO keyward_reconciler USING (true);
GRANT SELECT (tenant_id, key_id, version), DELETE ON moved_key_versions TO keyward_reconciler;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0005_tokens', '0.1.0');
