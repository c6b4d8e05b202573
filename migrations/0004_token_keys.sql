-- Root keys and seal keys that are replaced, tenants with root keys of their own, tenants that are shredded.
--
-- Runs under release 0.1.0: to its code a state that it doesn't know is not ENABLED.

-- A token key's life. CREATING: recorded before the token makes it, so that no agent meets one that nobody knows; it may or
-- may not be there. CREATED: it is there, and wraps nothing until every agent sees it. CURRENT: for new things, and what
-- stored things are brought under. RETIRED: replaced; opens what is still under it. ABANDONED: its creation was cut off;
-- it may or may not be there, and is never used. DESTROYING: no longer used, and being destroyed. DESTROYED: gone.
ALTER TABLE token_objects
  ADD COLUMN state text NOT NULL DEFAULT 'CURRENT'
    CHECK (state IN ('CREATING', 'CREATED', 'CURRENT', 'RETIRED', 'ABANDONED', 'DESTROYING', 'DESTROYED')),
  ADD COLUMN caller text NOT NULL DEFAULT '',
  ADD COLUMN attempt_until timestamptz CHECK (state <> 'CREATING' OR attempt_until IS NOT NULL),
  ADD COLUMN activated_at timestamptz,
  ADD COLUMN retired_at timestamptz,
  ADD COLUMN destroyed_at timestamptz CHECK ((state = 'DESTROYED') = (destroyed_at IS NOT NULL)),
  ADD COLUMN job_id uuid,
  ADD CONSTRAINT token_objects_current_check CHECK ((state = 'CURRENT') = is_current),
  ADD FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs;
UPDATE token_objects SET activated_at = created_at;
-- One replacement of each at a time.
CREATE UNIQUE INDEX token_objects_pending ON token_objects (tenant_id, role) WHERE state IN ('CREATING', 'CREATED');
GRANT INSERT (tenant_id, object_id, role, is_current, state, caller, attempt_until),
  UPDATE (is_current, state, attempt_until, activated_at, retired_at, job_id) ON token_objects TO keyward_service;
-- So much that it may hold a row as it is while it brings key versions under it.
GRANT SELECT, UPDATE (attempt_until) ON token_objects TO keyward_reconciler;

-- Replicas that run, and which token keys all of their agents hold. Of all tenants.
CREATE TABLE replicas (
  tenant_id uuid NOT NULL REFERENCES tenants,
  replica_id uuid NOT NULL,
  seen_at timestamptz NOT NULL,
  held uuid[] NOT NULL,
  PRIMARY KEY (tenant_id, replica_id)
) WITH (fillfactor = 50);
GRANT SELECT ON replicas TO keyward_service;
GRANT SELECT, INSERT, UPDATE (seen_at, held), DELETE ON replicas TO keyward_reconciler;

-- Jobs over key versions: what isn't under its tenant's current root key, sealed by the current seal key. Their ranges
-- belong to no key: after_name and until_name are tenant, key and version, in the order of the primary key.
ALTER TABLE rewrap_jobs
  ADD COLUMN kind text NOT NULL DEFAULT 'data-keys' CHECK (kind IN ('data-keys', 'key-versions')),
  ADD CONSTRAINT rewrap_jobs_kind_check1 CHECK (kind = 'data-keys' OR scope_key_id IS NULL);
ALTER TABLE rewrap_ranges
  ALTER COLUMN key_tenant_id DROP NOT NULL,
  ALTER COLUMN key_id DROP NOT NULL;
ALTER TABLE rewrap_failures RENAME COLUMN data_key TO resource;
GRANT UPDATE (root_key_id, wrap, wrapped, seal_key_id, seal) ON key_versions TO keyward_reconciler;

-- Shredded means: every key destroyed, every root key of its own to be destroyed in the token.
ALTER TABLE tenants
  DROP CONSTRAINT tenants_state_check,
  ADD CONSTRAINT tenants_state_check CHECK (state IN ('ENABLED', 'DISABLED', 'SHRED_SCHEDULED', 'SHREDDED')),
  ADD COLUMN dedicated_root_key boolean NOT NULL DEFAULT false,
  ADD COLUMN shred_at timestamptz,
  ADD COLUMN shredded_at timestamptz,
  ADD CONSTRAINT tenants_shred_at_check CHECK (state <> 'SHRED_SCHEDULED' OR shred_at IS NOT NULL),
  ADD CONSTRAINT tenants_shredded_at_check CHECK ((state = 'SHREDDED') = (shredded_at IS NOT NULL)),
  ADD CONSTRAINT tenants_system_check CHECK (name <> 'system' OR (state IN ('ENABLED', 'DISABLED') AND NOT dedicated_root_key));
CREATE INDEX tenants_shred ON tenants (shred_at) WHERE state = 'SHRED_SCHEDULED';
GRANT UPDATE (shred_at) ON tenants TO keyward_service;
GRANT UPDATE (state, revision, shredded_at) ON tenants TO keyward_reconciler;

-- `token`: token objects. `versions`: key versions, in any number. `shredded`: a tenant with all its keys.
ALTER TABLE changes
  DROP CONSTRAINT changes_kind_check,
  ADD CONSTRAINT changes_kind_check CHECK (kind IN ('tenant', 'key', 'destroyed', 'token', 'versions', 'shredded'));

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0004_token_keys', '0.1.0');
