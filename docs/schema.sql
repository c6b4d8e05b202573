-- The schema after all migrations, written from the catalog by test/store/schema.test.ts; not meant to be run.

CREATE OR REPLACE FUNCTION public.current_tenant_id()
 RETURNS uuid
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN (NULLIF(current_setting('keyward.tenant_id'::text, true), ''::text))::uuid
;
CREATE OR REPLACE FUNCTION public.purge_request_ids()
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public'
BEGIN ATOMIC
 WITH purged AS (
          DELETE FROM request_ids
           WHERE (request_ids.at < (clock_timestamp() - '24:00:00'::interval))
           RETURNING 1 AS "?column?"
         )
  SELECT count(*) AS count
    FROM purged;
END
;
GRANT EXECUTE ON FUNCTION current_tenant_id TO keyward_service;
GRANT EXECUTE ON FUNCTION purge_request_ids TO keyward_service;

CREATE TABLE audit_entries (
  tenant_id uuid NOT NULL,
  entry_id uuid NOT NULL DEFAULT gen_random_uuid(),
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  request_id uuid NOT NULL,
  caller text NOT NULL,
  method text NOT NULL,
  resource text NOT NULL,
  outcome text NOT NULL,
  CONSTRAINT audit_entries_pkey PRIMARY KEY (tenant_id, entry_id),
  CONSTRAINT audit_entries_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
ALTER TABLE audit_entries ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON audit_entries AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON audit_entries TO keyward_service;

CREATE TABLE changes (
  tenant_id uuid NOT NULL,
  change_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  kind text NOT NULL,
  subject_id uuid NOT NULL,
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT changes_pkey PRIMARY KEY (tenant_id, change_id),
  CONSTRAINT changes_kind_check CHECK ((kind = ANY (ARRAY['tenant'::text, 'key'::text]))),
  CONSTRAINT changes_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX changes_by_xid ON public.changes USING btree (xid);
GRANT DELETE, INSERT, SELECT ON changes TO keyward_service;

CREATE TABLE environment (
  singleton boolean NOT NULL DEFAULT true,
  environment_id uuid NOT NULL DEFAULT gen_random_uuid(),
  token_profile jsonb,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT environment_pkey PRIMARY KEY (singleton),
  CONSTRAINT environment_singleton_check CHECK (singleton)
);
GRANT SELECT ON environment TO keyward_service;

CREATE TABLE key_versions (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL,
  state text NOT NULL,
  algorithm smallint NOT NULL,
  root_key_id uuid NOT NULL,
  wrap smallint NOT NULL,
  wrapped bytea NOT NULL,
  check_value bytea NOT NULL,
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  revision bigint NOT NULL DEFAULT 1,
  CONSTRAINT key_versions_pkey PRIMARY KEY (tenant_id, key_id, version),
  CONSTRAINT key_versions_algorithm_check CHECK ((algorithm >= 1)),
  CONSTRAINT key_versions_check_value_check CHECK ((octet_length(check_value) = 16)),
  CONSTRAINT key_versions_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT key_versions_state_check CHECK ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text]))),
  CONSTRAINT key_versions_version_check CHECK ((version >= 1)),
  CONSTRAINT key_versions_wrap_check CHECK ((wrap = ANY (ARRAY[1, 2]))),
  CONSTRAINT key_versions_wrapped_check CHECK (((octet_length(wrapped) >= 1) AND (octet_length(wrapped) <= 65535))),
  CONSTRAINT key_versions_tenant_id_key_id_fkey FOREIGN KEY (tenant_id, key_id) REFERENCES keys(tenant_id, key_id)
);
ALTER TABLE key_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON key_versions AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON key_versions TO keyward_service;
GRANT UPDATE (revision) ON key_versions TO keyward_service;
GRANT UPDATE (state) ON key_versions TO keyward_service;

CREATE TABLE keys (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  name text COLLATE "C" NOT NULL,
  primary_version integer NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  state text NOT NULL DEFAULT 'ENABLED'::text,
  description text NOT NULL DEFAULT ''::text,
  labels jsonb NOT NULL DEFAULT '{}'::jsonb,
  revision bigint NOT NULL DEFAULT 1,
  CONSTRAINT keys_pkey PRIMARY KEY (tenant_id, key_id),
  CONSTRAINT keys_key_id_key UNIQUE (key_id),
  CONSTRAINT keys_tenant_id_name_key UNIQUE (tenant_id, name),
  CONSTRAINT keys_description_check CHECK ((char_length(description) <= 1024)),
  CONSTRAINT keys_labels_check CHECK ((jsonb_typeof(labels) = 'object'::text)),
  CONSTRAINT keys_name_check CHECK ((name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT keys_state_check CHECK ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text]))),
  CONSTRAINT keys_primary_version_fkey FOREIGN KEY (tenant_id, key_id, primary_version) REFERENCES key_versions(tenant_id, key_id, version) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
ALTER TABLE keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON keys AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON keys TO keyward_service;
GRANT UPDATE (description) ON keys TO keyward_service;
GRANT UPDATE (labels) ON keys TO keyward_service;
GRANT UPDATE (primary_version) ON keys TO keyward_service;
GRANT UPDATE (revision) ON keys TO keyward_service;
GRANT UPDATE (state) ON keys TO keyward_service;

CREATE TABLE request_ids (
  tenant_id uuid NOT NULL,
  caller text NOT NULL,
  method text NOT NULL,
  request_id uuid NOT NULL,
  fingerprint bytea NOT NULL,
  reference jsonb NOT NULL,
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT request_ids_pkey PRIMARY KEY (tenant_id, caller, method, request_id),
  CONSTRAINT request_ids_fingerprint_check CHECK ((octet_length(fingerprint) = 32)),
  CONSTRAINT request_ids_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX request_ids_by_time ON public.request_ids USING btree (at);
ALTER TABLE request_ids ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON request_ids AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON request_ids TO keyward_service;

CREATE TABLE schema_releases (
  migration text NOT NULL,
  oldest_release text NOT NULL,
  applied_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT schema_releases_pkey PRIMARY KEY (migration),
  CONSTRAINT schema_releases_oldest_release_check CHECK ((oldest_release ~ '^\d+\.\d+\.\d+$'::text))
);
GRANT SELECT ON schema_releases TO keyward_service;

CREATE TABLE tenants (
  tenant_id uuid NOT NULL,
  name text COLLATE "C" NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  state text NOT NULL DEFAULT 'ENABLED'::text,
  revision bigint NOT NULL DEFAULT 1,
  CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT tenants_name_key UNIQUE (name),
  CONSTRAINT tenants_name_check CHECK ((name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT tenants_state_check CHECK ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text])))
);
GRANT INSERT, SELECT ON tenants TO keyward_service;
GRANT UPDATE (revision) ON tenants TO keyward_service;
GRANT UPDATE (state) ON tenants TO keyward_service;

CREATE TABLE token_objects (
  tenant_id uuid NOT NULL,
  object_id uuid NOT NULL,
  role text NOT NULL,
  is_current boolean NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT token_objects_pkey PRIMARY KEY (tenant_id, object_id),
  CONSTRAINT token_objects_object_id_key UNIQUE (object_id),
  CONSTRAINT token_objects_role_check CHECK ((role = ANY (ARRAY['root'::text, 'seal'::text, 'mask'::text, 'audit-signing'::text]))),
  CONSTRAINT token_objects_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE UNIQUE INDEX token_objects_current ON public.token_objects USING btree (tenant_id, role) WHERE is_current;
GRANT SELECT ON token_objects TO keyward_service;
