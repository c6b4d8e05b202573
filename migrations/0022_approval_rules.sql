-- Approval rules: which calls want a fresh proof or the approval of others, a row for each tenant
-- that has any.
--
-- Runs under release 0.2.0, whose code does not look at it, and takes a tenant that has rules for
-- corrupt: upgrade all replicas before rules are set.

CREATE TABLE approval_rules (
  tenant_id uuid NOT NULL REFERENCES tenants,
  -- How often they were changed.
  revision bigint NOT NULL CHECK (revision > 0),
  -- All of the tenant's rules, in JSON.
  content text NOT NULL CHECK (octet_length(content) <= 262144),
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL CHECK (octet_length(seal) = 32),
  PRIMARY KEY (tenant_id)
);

-- Under the tenant's own seal, so that rules that are taken away are missed. A tenant without any
-- has the seal that it had.
ALTER TABLE tenants
  ADD COLUMN approval_rules_revision bigint CHECK (approval_rules_revision > 0);
GRANT UPDATE (approval_rules_revision) ON tenants TO keyward_service;

ALTER TABLE approval_rules ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON approval_rules USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON approval_rules TO keyward_reconciler USING (true);
GRANT SELECT, INSERT, UPDATE (revision, content, seal_key_id, seal) ON approval_rules
  TO keyward_service;
GRANT SELECT, UPDATE (seal_key_id, seal) ON approval_rules TO keyward_reconciler;

ALTER TABLE changes
  DROP CONSTRAINT changes_kind_check,
  ADD CONSTRAINT changes_kind_check CHECK (
    kind IN ('tenant', 'key', 'destroyed', 'token', 'versions', 'shredded', 'access', 'canaries',
      'approvalRules')
  );

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0022_approval_rules', '0.2.0');
