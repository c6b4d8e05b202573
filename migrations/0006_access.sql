-- Who may do what: role bindings and roles, and the seal over all of a tenant's.
--
-- Runs under release 0.1.0, whose code lets every certificate do everything: upgrade all replicas.

-- A role, given. What of it decides is under the tenant's policy seal, so is what tells who gave it.
CREATE TABLE role_bindings (
  tenant_id uuid NOT NULL REFERENCES tenants,
  binding_id text COLLATE "C" NOT NULL CHECK (binding_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  member_kind text NOT NULL CHECK (member_kind IN ('principal', 'group')),
  member text NOT NULL,
  role text NOT NULL,
  key_pattern text NOT NULL,
  all_tenants boolean NOT NULL,
  expires_at timestamptz,
  conditions jsonb NOT NULL CHECK (jsonb_typeof(conditions) = 'array'),
  overrides_separation boolean NOT NULL,
  description text NOT NULL,
  created_at timestamptz NOT NULL,
  creator text NOT NULL,
  PRIMARY KEY (tenant_id, binding_id)
);
CREATE INDEX role_bindings_by_member ON role_bindings (member);

-- A role of a tenant's own.
CREATE TABLE roles (
  tenant_id uuid NOT NULL REFERENCES tenants,
  role_id text COLLATE "C" NOT NULL CHECK (role_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'),
  permissions text[] NOT NULL,
  description text NOT NULL,
  created_at timestamptz NOT NULL,
  creator text NOT NULL,
  PRIMARY KEY (tenant_id, role_id)
);

-- The seal over a tenant's bindings and roles, and how often they have changed. Without a row there are none.
CREATE TABLE access_policies (
  tenant_id uuid NOT NULL REFERENCES tenants,
  revision bigint NOT NULL CHECK (revision > 0),
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL CHECK (octet_length(seal) = 32),
  PRIMARY KEY (tenant_id)
);

ALTER TABLE role_bindings ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON role_bindings USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON role_bindings TO keyward_reconciler USING (true);
ALTER TABLE roles ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON roles USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON roles TO keyward_reconciler USING (true);
ALTER TABLE access_policies ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON access_policies USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON access_policies TO keyward_reconciler USING (true);
GRANT SELECT, INSERT, DELETE ON role_bindings, roles TO keyward_service;
GRANT SELECT, INSERT, UPDATE (revision, seal_key_id, seal) ON access_policies TO keyward_service;
GRANT SELECT ON role_bindings, roles TO keyward_reconciler;
GRANT SELECT, UPDATE (seal_key_id, seal) ON access_policies TO keyward_reconciler;

ALTER TABLE changes
  DROP CONSTRAINT changes_kind_check,
  ADD CONSTRAINT changes_kind_check
    CHECK (kind IN ('tenant', 'key', 'destroyed', 'token', 'versions', 'shredded', 'access'));

-- What else there is to say of a call: which permission was missing, that separation of duties was overridden.
ALTER TABLE audit_entries ADD COLUMN detail text NOT NULL DEFAULT '';

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0006_access', '0.1.0');
