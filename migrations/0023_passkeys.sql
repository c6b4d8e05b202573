-- Passkeys: the public keys by which people decide on pending operations. Each row is under a seal
-- of its own, with a revision.
--
-- Runs under release 0.2.0, whose code knows no passkeys.

-- A person's passkey, of all tenants, so its tenant is `system`. `content` is what is sealed; the
-- columns beside it repeat of it what rows are found by, and count only where they agree with it.
-- Rows stay: one that was removed says so under its seal.
CREATE TABLE passkeys (
  tenant_id uuid NOT NULL REFERENCES tenants,
  credential_id bytea NOT NULL CHECK (octet_length(credential_id) BETWEEN 1 AND 1023),
  principal text NOT NULL,
  is_removed boolean NOT NULL,
  revision bigint NOT NULL CHECK (revision > 0),
  content bytea NOT NULL CHECK (octet_length(content) <= 16384),
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL CHECK (octet_length(seal) = 32),
  PRIMARY KEY (tenant_id, credential_id),
  CONSTRAINT passkeys_credential_id_key UNIQUE (credential_id)
);
CREATE INDEX passkeys_by_principal ON passkeys (principal, credential_id) WHERE NOT is_removed;

GRANT SELECT, INSERT, UPDATE (is_removed, revision, content, seal_key_id, seal) ON passkeys
  TO keyward_service;
GRANT SELECT, UPDATE (seal_key_id, seal) ON passkeys TO keyward_reconciler;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0023_passkeys', '0.2.0');
