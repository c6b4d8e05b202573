-- Which token is current, and which token keys are, whose, and in which token, is sealed: all rows
-- of tokens and token_objects together, so that none can be hidden or added; and whether
-- maintenance is paused.
--
-- From here on nothing is made, rotated or sealed where that isn't sealed, and keys' states are
-- sealed with their schedules, so run `keyward-server token seal-states` once after this, before
-- the new code serves: docs/deployment.md, "Upgrades". What ran before changes token keys without
-- sealing them; end it first.

-- One row: the HMAC over what docs/ciphertext.md says, and the seal key that it was computed by,
-- which is the current one. Whoever changes a row of tokens or token_objects locks it first. Of all
-- tenants.
CREATE TABLE token_key_seals (
  tenant_id uuid PRIMARY KEY REFERENCES tenants,
  revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
  seal_key_id uuid,
  seal bytea CHECK (octet_length(seal) = 32),
  CONSTRAINT token_key_seals_check CHECK ((seal IS NULL) = (seal_key_id IS NULL))
);
INSERT INTO token_key_seals (tenant_id) SELECT tenant_id FROM tenants WHERE name = 'system';
GRANT SELECT, UPDATE (revision, seal_key_id, seal) ON token_key_seals TO keyward_service;
GRANT SELECT ON token_key_seals TO keyward_reconciler;

-- The switch for incidents is sealed. One that doesn't verify counts as paused.
ALTER TABLE maintenance
  ADD COLUMN revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
  ADD COLUMN seal_key_id uuid,
  ADD COLUMN seal bytea CHECK (octet_length(seal) = 32),
  ADD CONSTRAINT maintenance_check CHECK ((seal IS NULL) = (seal_key_id IS NULL));
GRANT UPDATE (revision, seal_key_id, seal) ON maintenance TO keyward_service;
GRANT UPDATE (seal_key_id, seal) ON maintenance TO keyward_reconciler;

-- In which token an object is made, says the set that was verified, not a default.
GRANT INSERT (token_id) ON token_objects TO keyward_service;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0013_sealed_token_keys', '0.1.0');
