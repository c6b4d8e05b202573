-- Pending operations: calls that wait for the approval of others, and what these decided.
--
-- Runs under release 0.2.0, whose code knows no rule that makes a call wait.

-- A call that waits, or has waited. `content` is what is sealed; the columns beside it repeat of it
-- what rows are found by, and count only where they agree with it.
CREATE TABLE pending_operations (
  tenant_id uuid NOT NULL REFERENCES tenants,
  operation_id uuid NOT NULL,
  revision bigint NOT NULL CHECK (revision > 0),
  state text NOT NULL CHECK (
    state IN ('PENDING', 'APPROVED', 'DONE', 'FAILED', 'REJECTED', 'CANCELLED', 'EXPIRED')
  ),
  method text NOT NULL CHECK (length(method) <= 256),
  requester text NOT NULL,
  -- SHA-256 of `request`, which is the canonical request.
  request_digest bytea NOT NULL CHECK (octet_length(request_digest) = 32),
  request bytea NOT NULL CHECK (octet_length(request) <= 65536),
  -- What a call that only looks was answered when this was asked for, in JSON; null where there is
  -- no such call.
  preview bytea CHECK (octet_length(preview) <= 65536),
  -- Both in whole milliseconds, by the database's clock.
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  content bytea NOT NULL CHECK (octet_length(content) <= 262144),
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL CHECK (octet_length(seal) = 32),
  -- How it ended.
  ended_at timestamptz,
  error_reason text NOT NULL DEFAULT '',
  error_message text NOT NULL DEFAULT '',
  -- While it is approved and not done: until when no other replica does it.
  attempt_after timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, operation_id),
  CONSTRAINT pending_operations_ended_check
    CHECK ((ended_at IS NULL) = (state IN ('PENDING', 'APPROVED')))
);
CREATE INDEX pending_operations_by_time
  ON pending_operations (tenant_id, created_at DESC, operation_id DESC);
CREATE INDEX pending_operations_open ON pending_operations (expires_at) WHERE ended_at IS NULL;
CREATE INDEX pending_operations_ended ON pending_operations (ended_at) WHERE ended_at IS NOT NULL;

-- What one person decided on one of them. `content` is what an agent sealed.
CREATE TABLE operation_decisions (
  tenant_id uuid NOT NULL,
  operation_id uuid NOT NULL,
  approver text NOT NULL,
  content bytea NOT NULL CHECK (octet_length(content) <= 65536),
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL CHECK (octet_length(seal) = 32),
  -- What the authenticator signed with, and what it signed.
  credential_id bytea NOT NULL,
  client_data_json bytea NOT NULL,
  authenticator_data bytea NOT NULL,
  signature bytea NOT NULL,
  public_key bytea NOT NULL,
  PRIMARY KEY (tenant_id, operation_id, approver),
  FOREIGN KEY (tenant_id, operation_id) REFERENCES pending_operations ON DELETE CASCADE
);

ALTER TABLE pending_operations ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON pending_operations USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON pending_operations TO keyward_reconciler USING (true);
ALTER TABLE operation_decisions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON operation_decisions USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON operation_decisions TO keyward_reconciler USING (true);
GRANT SELECT, INSERT, UPDATE (revision, state, expires_at, content, seal_key_id, seal, ended_at,
  error_reason, error_message) ON pending_operations TO keyward_service;
GRANT SELECT, INSERT, DELETE ON operation_decisions TO keyward_service;
GRANT SELECT, DELETE, UPDATE (seal_key_id, seal, attempt_after) ON pending_operations
  TO keyward_reconciler;
GRANT SELECT ON operation_decisions TO keyward_reconciler;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0024_pending_operations', '0.2.0');
