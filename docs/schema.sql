-- The schema after all migrations, written from the catalog by test/store/schema.test.ts; not meant to be run.

CREATE OR REPLACE FUNCTION public.add_to_count(of_tenant uuid, of_kind text, difference bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public'
AS $function$
DECLARE
  free_part uuid;
BEGIN
  SELECT part INTO free_part FROM tenant_counts WHERE tenant_id = of_tenant AND kind = of_kind
    FOR UPDATE SKIP LOCKED LIMIT 1;
  IF FOUND THEN
    UPDATE tenant_counts SET count = count + difference
      WHERE tenant_id = of_tenant AND kind = of_kind AND part = free_part;
  ELSE
    INSERT INTO tenant_counts (tenant_id, kind, count) VALUES (of_tenant, of_kind, difference);
  END IF;
END $function$
;
CREATE OR REPLACE FUNCTION public.append_audit_rows(replica_id uuid, stream bigint, first_number bigint, mask_key_id uuid, tenant_ids uuid[], entry_counts integer[], macs bytea[], rows text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  added bigint;
BEGIN
  INSERT INTO public.audit_inbox
      (tenant_id, entry_count, leaves, replica_id, stream, row_number, mask_key_id, mac)
    SELECT n.tenant_id, n.entry_count, coalesce(n.leaves, ''), append_audit_rows.replica_id,
      append_audit_rows.stream, first_number + n.place - 1, append_audit_rows.mask_key_id, n.mac
    FROM unnest(tenant_ids, entry_counts, macs, string_to_array(rows, E'\n\n'))
      WITH ORDINALITY AS n (tenant_id, entry_count, mac, leaves, place);
  GET DIAGNOSTICS added = ROW_COUNT;
  IF added <> cardinality(tenant_ids) THEN
    RAISE EXCEPTION 'audit_inbox has taken % of % rows', added, cardinality(tenant_ids);
  END IF;
END $function$
;
CREATE OR REPLACE FUNCTION public.count_data_keys()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public'
AS $function$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM add_to_count(tenant_id, 'stored-data-keys', count(*)) FROM came GROUP BY tenant_id;
  ELSE
    PERFORM add_to_count(tenant_id, 'stored-data-keys', -count(*)) FROM gone GROUP BY tenant_id;
  END IF;
  RETURN NULL;
END $function$
;
CREATE OR REPLACE FUNCTION public.count_keys()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public'
AS $function$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM add_to_count(tenant_id, 'keys', count(*)) FROM came WHERE state <> 'DESTROYED' GROUP BY tenant_id;
  ELSE
    PERFORM add_to_count(tenant_id, 'keys', sum(difference)::bigint) FROM (
      SELECT tenant_id, 1 AS difference FROM came WHERE state <> 'DESTROYED'
      UNION ALL SELECT tenant_id, -1 FROM gone WHERE state <> 'DESTROYED') changed
      GROUP BY tenant_id HAVING sum(difference) <> 0;
  END IF;
  RETURN NULL;
END $function$
;
CREATE OR REPLACE FUNCTION public.current_tenant_id()
 RETURNS uuid
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN (NULLIF(current_setting('keyward.tenant_id'::text, true), ''::text))::uuid
;
CREATE OR REPLACE FUNCTION public.current_token_id()
 RETURNS uuid
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 SELECT tokens.token_id
    FROM tokens
   WHERE (tokens.state = 'CURRENT'::text);
END
;
CREATE OR REPLACE FUNCTION public.make_audit_partition(leaf_index bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
  number bigint := leaf_index >> 20;
  name text := 'audit_log_' || number;
BEGIN
  IF to_regclass('public.' || name) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE public.%I (LIKE public.audit_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', name);
  EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('CREATE POLICY of_current_tenant ON public.%I USING (tenant_id = public.current_tenant_id())', name);
  EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC', name);
  EXECUTE format('ALTER TABLE public.audit_log ATTACH PARTITION public.%I FOR VALUES FROM (%s) TO (%s)',
    name, number << 20, (number + 1) << 20);
END $function$
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
CREATE OR REPLACE FUNCTION public.readable_entry(leaf text)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE STRICT
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
  RETURN leaf::jsonb;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $function$
;
GRANT EXECUTE ON FUNCTION append_audit_rows TO keyward_service;
GRANT EXECUTE ON FUNCTION current_tenant_id TO keyward_reconciler;
GRANT EXECUTE ON FUNCTION current_tenant_id TO keyward_service;
GRANT EXECUTE ON FUNCTION current_token_id TO keyward_reconciler;
GRANT EXECUTE ON FUNCTION current_token_id TO keyward_service;
GRANT EXECUTE ON FUNCTION make_audit_partition TO keyward_reconciler;
GRANT EXECUTE ON FUNCTION purge_request_ids TO keyward_service;
GRANT EXECUTE ON FUNCTION readable_entry TO PUBLIC;

CREATE TABLE access_policies (
  tenant_id uuid NOT NULL,
  revision bigint NOT NULL,
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL,
  CONSTRAINT access_policies_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT access_policies_revision_check CHECK ((revision > 0)),
  CONSTRAINT access_policies_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT access_policies_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX access_policies_seal_key ON public.access_policies USING btree (seal_key_id, tenant_id);
ALTER TABLE access_policies ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON access_policies AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON access_policies AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON access_policies TO keyward_reconciler;
GRANT INSERT, SELECT ON access_policies TO keyward_service;
GRANT UPDATE (seal) ON access_policies TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON access_policies TO keyward_reconciler;
GRANT UPDATE (revision) ON access_policies TO keyward_service;
GRANT UPDATE (seal) ON access_policies TO keyward_service;
GRANT UPDATE (seal_key_id) ON access_policies TO keyward_service;

CREATE TABLE alert_deliveries (
  tenant_id uuid NOT NULL,
  alert_id uuid NOT NULL,
  event text NOT NULL,
  receiver text NOT NULL,
  state text NOT NULL DEFAULT 'PENDING'::text,
  attempts integer NOT NULL DEFAULT 0,
  created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  next_attempt_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamp with time zone,
  failure text NOT NULL DEFAULT ''::text,
  CONSTRAINT alert_deliveries_pkey PRIMARY KEY (tenant_id, alert_id, event, receiver),
  CONSTRAINT alert_deliveries_event_check CHECK ((event = ANY (ARRAY['raised'::text, 'resolved'::text]))),
  CONSTRAINT alert_deliveries_failure_check CHECK ((length(failure) <= 512)),
  CONSTRAINT alert_deliveries_state_check CHECK ((state = ANY (ARRAY['PENDING'::text, 'DELIVERED'::text, 'DEAD'::text]))),
  CONSTRAINT alert_deliveries_tenant_id_alert_id_fkey FOREIGN KEY (tenant_id, alert_id) REFERENCES alerts(tenant_id, alert_id) ON DELETE CASCADE
);
CREATE INDEX alert_deliveries_pending ON public.alert_deliveries USING btree (next_attempt_at) WHERE (state = 'PENDING'::text);
GRANT DELETE, INSERT, SELECT ON alert_deliveries TO keyward_reconciler;
GRANT SELECT ON alert_deliveries TO keyward_service;
GRANT UPDATE (attempts) ON alert_deliveries TO keyward_reconciler;
GRANT UPDATE (ended_at) ON alert_deliveries TO keyward_reconciler;
GRANT UPDATE (failure) ON alert_deliveries TO keyward_reconciler;
GRANT UPDATE (next_attempt_at) ON alert_deliveries TO keyward_reconciler;
GRANT UPDATE (state) ON alert_deliveries TO keyward_reconciler;

CREATE TABLE alert_silences (
  tenant_id uuid NOT NULL,
  revision bigint NOT NULL DEFAULT 0,
  content text NOT NULL DEFAULT '[]'::text,
  seal_key_id uuid,
  seal bytea,
  CONSTRAINT alert_silences_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT alert_silences_check CHECK (((seal IS NULL) = (seal_key_id IS NULL))),
  CONSTRAINT alert_silences_content_check CHECK ((octet_length(content) <= 262144)),
  CONSTRAINT alert_silences_revision_check CHECK ((revision >= 0)),
  CONSTRAINT alert_silences_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT alert_silences_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
GRANT SELECT ON alert_silences TO keyward_reconciler;
GRANT SELECT ON alert_silences TO keyward_service;
GRANT UPDATE (seal) ON alert_silences TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON alert_silences TO keyward_reconciler;
GRANT UPDATE (content) ON alert_silences TO keyward_service;
GRANT UPDATE (revision) ON alert_silences TO keyward_service;
GRANT UPDATE (seal) ON alert_silences TO keyward_service;
GRANT UPDATE (seal_key_id) ON alert_silences TO keyward_service;

CREATE TABLE alerts (
  tenant_id uuid NOT NULL,
  alert_id uuid NOT NULL,
  condition text NOT NULL,
  subject text NOT NULL,
  severity text NOT NULL,
  state text NOT NULL DEFAULT 'ACTIVE'::text,
  count bigint NOT NULL,
  first_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  last_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  replica text NOT NULL,
  fields text NOT NULL,
  resolved_at timestamp with time zone,
  raised_is_planned boolean NOT NULL DEFAULT false,
  resolved_is_planned boolean NOT NULL DEFAULT false,
  CONSTRAINT alerts_pkey PRIMARY KEY (tenant_id, alert_id),
  CONSTRAINT alerts_condition_check CHECK ((condition ~ '^[a-z][a-z0-9-]{0,62}$'::text)),
  CONSTRAINT alerts_count_check CHECK ((count > 0)),
  CONSTRAINT alerts_fields_check CHECK ((length(fields) <= 8192)),
  CONSTRAINT alerts_resolved_at_check CHECK (((state = 'RESOLVED'::text) = (resolved_at IS NOT NULL))),
  CONSTRAINT alerts_severity_check CHECK ((severity = ANY (ARRAY['critical'::text, 'warning'::text, 'info'::text]))),
  CONSTRAINT alerts_state_check CHECK ((state = ANY (ARRAY['ACTIVE'::text, 'RESOLVED'::text]))),
  CONSTRAINT alerts_subject_check CHECK ((length(subject) <= 512)),
  CONSTRAINT alerts_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE UNIQUE INDEX alerts_active ON public.alerts USING btree (tenant_id, condition, subject) WHERE (state = 'ACTIVE'::text);
CREATE INDEX alerts_unplanned ON public.alerts USING btree (tenant_id) WHERE ((NOT raised_is_planned) OR (NOT resolved_is_planned));
GRANT DELETE, INSERT, SELECT ON alerts TO keyward_reconciler;
GRANT SELECT ON alerts TO keyward_service;
GRANT UPDATE (count) ON alerts TO keyward_reconciler;
GRANT UPDATE (fields) ON alerts TO keyward_reconciler;
GRANT UPDATE (last_at) ON alerts TO keyward_reconciler;
GRANT UPDATE (raised_is_planned) ON alerts TO keyward_reconciler;
GRANT UPDATE (replica) ON alerts TO keyward_reconciler;
GRANT UPDATE (resolved_at) ON alerts TO keyward_reconciler;
GRANT UPDATE (resolved_is_planned) ON alerts TO keyward_reconciler;
GRANT UPDATE (state) ON alerts TO keyward_reconciler;

CREATE TABLE approval_rules (
  tenant_id uuid NOT NULL,
  revision bigint NOT NULL,
  content text NOT NULL,
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL,
  CONSTRAINT approval_rules_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT approval_rules_content_check CHECK ((octet_length(content) <= 262144)),
  CONSTRAINT approval_rules_revision_check CHECK ((revision > 0)),
  CONSTRAINT approval_rules_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT approval_rules_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
ALTER TABLE approval_rules ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON approval_rules AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON approval_rules AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON approval_rules TO keyward_reconciler;
GRANT INSERT, SELECT ON approval_rules TO keyward_service;
GRANT UPDATE (seal) ON approval_rules TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON approval_rules TO keyward_reconciler;
GRANT UPDATE (content) ON approval_rules TO keyward_service;
GRANT UPDATE (revision) ON approval_rules TO keyward_service;
GRANT UPDATE (seal) ON approval_rules TO keyward_service;
GRANT UPDATE (seal_key_id) ON approval_rules TO keyward_service;

CREATE TABLE audit_checkpoints (
  tree_size bigint NOT NULL,
  generation integer NOT NULL,
  root_hash bytea NOT NULL,
  note text NOT NULL,
  public_key text NOT NULL,
  cosignatures text[] NOT NULL DEFAULT '{}'::text[],
  signed_at timestamp with time zone NOT NULL,
  CONSTRAINT audit_checkpoints_pkey PRIMARY KEY (tree_size, generation),
  CONSTRAINT audit_checkpoints_root_hash_check CHECK ((octet_length(root_hash) = 32))
);
GRANT DELETE, INSERT, SELECT ON audit_checkpoints TO keyward_reconciler;
GRANT SELECT ON audit_checkpoints TO keyward_service;
GRANT UPDATE (cosignatures) ON audit_checkpoints TO keyward_reconciler;

CREATE TABLE audit_generations (
  generation integer NOT NULL,
  leaf text NOT NULL,
  CONSTRAINT audit_generations_pkey PRIMARY KEY (generation),
  CONSTRAINT audit_generations_generation_check CHECK ((generation > 1))
);
GRANT SELECT ON audit_generations TO keyward_reconciler;
GRANT SELECT ON audit_generations TO keyward_service;

CREATE TABLE audit_inbox (
  tenant_id uuid NOT NULL,
  group_number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  entry_id uuid,
  leaves text NOT NULL,
  entry_count integer NOT NULL DEFAULT 1,
  replica_id uuid,
  stream bigint,
  row_number bigint,
  mask_key_id uuid,
  mac bytea,
  CONSTRAINT audit_inbox_entry_number_key UNIQUE (group_number),
  CONSTRAINT audit_inbox_check CHECK (((entry_id IS NULL) OR (entry_count = 1))),
  CONSTRAINT audit_inbox_check1 CHECK (((entry_count > 1) OR (POSITION(('
'::text) IN (leaves)) = 0))),
  CONSTRAINT audit_inbox_entry_count_check CHECK ((entry_count >= 0))
);
CREATE INDEX audit_inbox_changes ON public.audit_inbox USING btree (entry_id) WHERE (entry_id IS NOT NULL);
ALTER TABLE audit_inbox ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON audit_inbox AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_any_tenant ON audit_inbox AS PERMISSIVE FOR INSERT TO public USING () WITH CHECK (true);
CREATE POLICY of_current_tenant ON audit_inbox AS PERMISSIVE FOR SELECT TO public USING ((tenant_id = current_tenant_id()));
GRANT DELETE, INSERT, SELECT ON audit_inbox TO keyward_reconciler;
GRANT INSERT, SELECT ON audit_inbox TO keyward_service;

CREATE TABLE audit_log (
  tenant_id uuid NOT NULL,
  leaf_index bigint NOT NULL,
  entry_id uuid,
  leaf text NOT NULL,
  CONSTRAINT audit_log_pkey PRIMARY KEY (tenant_id, leaf_index),
  CONSTRAINT audit_log_leaf_index_check CHECK ((leaf_index >= 0))
);
CREATE UNIQUE INDEX audit_log_by_leaf_index ON ONLY public.audit_log USING btree (leaf_index);
CREATE INDEX audit_log_changes ON ONLY public.audit_log USING btree (entry_id) WHERE (entry_id IS NOT NULL);
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON audit_log AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON audit_log AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON audit_log TO keyward_reconciler;
GRANT SELECT ON audit_log TO keyward_service;

CREATE TABLE audit_log_0 (
  tenant_id uuid NOT NULL,
  leaf_index bigint NOT NULL,
  entry_id uuid,
  leaf text NOT NULL,
  CONSTRAINT audit_log_0_pkey PRIMARY KEY (tenant_id, leaf_index),
  CONSTRAINT audit_log_leaf_index_check CHECK ((leaf_index >= 0))
);
CREATE INDEX audit_log_0_entry_id_idx ON public.audit_log_0 USING btree (entry_id) WHERE (entry_id IS NOT NULL);
CREATE UNIQUE INDEX audit_log_0_leaf_index_idx ON public.audit_log_0 USING btree (leaf_index);
ALTER TABLE audit_log_0 ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON audit_log_0 AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));

CREATE TABLE audit_state (
  singleton boolean NOT NULL DEFAULT true,
  tree_size bigint NOT NULL DEFAULT 0,
  first_leaf_index bigint NOT NULL DEFAULT 0,
  generation integer NOT NULL DEFAULT 1,
  fence bigint NOT NULL DEFAULT 0,
  leased_until timestamp with time zone NOT NULL DEFAULT '-infinity'::timestamp with time zone,
  CONSTRAINT audit_state_pkey PRIMARY KEY (singleton),
  CONSTRAINT audit_state_check CHECK ((first_leaf_index <= tree_size)),
  CONSTRAINT audit_state_singleton_check CHECK (singleton)
);
GRANT SELECT ON audit_state TO keyward_reconciler;
GRANT SELECT ON audit_state TO keyward_service;
GRANT UPDATE (fence) ON audit_state TO keyward_reconciler;
GRANT UPDATE (leased_until) ON audit_state TO keyward_reconciler;
GRANT UPDATE (tree_size) ON audit_state TO keyward_reconciler;

CREATE TABLE audit_tiles (
  level smallint NOT NULL,
  tile_index bigint NOT NULL,
  hashes bytea NOT NULL,
  CONSTRAINT audit_tiles_pkey PRIMARY KEY (level, tile_index),
  CONSTRAINT audit_tiles_hashes_check CHECK ((((octet_length(hashes) >= 32) AND (octet_length(hashes) <= 8192)) AND ((octet_length(hashes) % 32) = 0))),
  CONSTRAINT audit_tiles_level_check CHECK (((level >= 0) AND (level <= 7))),
  CONSTRAINT audit_tiles_tile_index_check CHECK ((tile_index >= 0))
);
GRANT INSERT, SELECT ON audit_tiles TO keyward_reconciler;
GRANT SELECT ON audit_tiles TO keyward_service;
GRANT UPDATE (hashes) ON audit_tiles TO keyward_reconciler;

CREATE TABLE audit_writers (
  singleton boolean NOT NULL DEFAULT true,
  content text NOT NULL,
  mask_key_id uuid NOT NULL,
  mac bytea NOT NULL,
  CONSTRAINT audit_writers_pkey PRIMARY KEY (singleton),
  CONSTRAINT audit_writers_singleton_check CHECK (singleton)
);
GRANT INSERT, SELECT ON audit_writers TO keyward_reconciler;
GRANT UPDATE (content) ON audit_writers TO keyward_reconciler;
GRANT UPDATE (mac) ON audit_writers TO keyward_reconciler;
GRANT UPDATE (mask_key_id) ON audit_writers TO keyward_reconciler;

CREATE TABLE caller_hours (
  caller text NOT NULL,
  hour timestamp with time zone NOT NULL,
  encrypts bigint NOT NULL,
  decrypts bigint NOT NULL,
  others bigint NOT NULL,
  failures bigint NOT NULL,
  new_keys bigint NOT NULL,
  CONSTRAINT caller_hours_pkey PRIMARY KEY (caller, hour)
);
CREATE INDEX caller_hours_by_hour ON public.caller_hours USING btree (hour);
GRANT DELETE, INSERT, SELECT, UPDATE ON caller_hours TO keyward_reconciler;

CREATE TABLE caller_keys (
  caller text NOT NULL,
  key text NOT NULL,
  last_used_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT caller_keys_pkey PRIMARY KEY (caller, key)
);
CREATE INDEX caller_keys_by_use ON public.caller_keys USING btree (last_used_at);
GRANT DELETE, INSERT, SELECT, UPDATE ON caller_keys TO keyward_reconciler;

CREATE TABLE canaries (
  tenant_id uuid NOT NULL,
  canary_id text COLLATE "C" NOT NULL,
  uid uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL,
  record bytea NOT NULL,
  CONSTRAINT canaries_pkey PRIMARY KEY (tenant_id, canary_id),
  CONSTRAINT canaries_canary_id_check CHECK ((canary_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT canaries_version_check CHECK ((version > 0)),
  CONSTRAINT canaries_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
ALTER TABLE canaries ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON canaries AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON canaries AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON canaries TO keyward_reconciler;
GRANT DELETE, INSERT, SELECT ON canaries TO keyward_service;

CREATE TABLE canary_seals (
  tenant_id uuid NOT NULL,
  revision bigint NOT NULL DEFAULT 0,
  digests jsonb NOT NULL DEFAULT '{}'::jsonb,
  seal_key_id uuid,
  seal bytea,
  CONSTRAINT canary_seals_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT canary_seals_check CHECK (((seal IS NULL) = (seal_key_id IS NULL))),
  CONSTRAINT canary_seals_digests_check CHECK ((jsonb_typeof(digests) = 'object'::text)),
  CONSTRAINT canary_seals_revision_check CHECK ((revision >= 0)),
  CONSTRAINT canary_seals_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT canary_seals_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
GRANT SELECT ON canary_seals TO keyward_reconciler;
GRANT SELECT ON canary_seals TO keyward_service;
GRANT UPDATE (seal) ON canary_seals TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON canary_seals TO keyward_reconciler;
GRANT UPDATE (digests) ON canary_seals TO keyward_service;
GRANT UPDATE (revision) ON canary_seals TO keyward_service;
GRANT UPDATE (seal) ON canary_seals TO keyward_service;
GRANT UPDATE (seal_key_id) ON canary_seals TO keyward_service;

CREATE TABLE changes (
  tenant_id uuid NOT NULL,
  change_id bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  kind text NOT NULL,
  subject_id uuid NOT NULL,
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT changes_pkey PRIMARY KEY (tenant_id, change_id),
  CONSTRAINT changes_kind_check CHECK ((kind = ANY (ARRAY['tenant'::text, 'key'::text, 'destroyed'::text, 'token'::text, 'versions'::text, 'shredded'::text, 'access'::text, 'canaries'::text, 'approvalRules'::text]))),
  CONSTRAINT changes_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX changes_by_xid ON public.changes USING btree (xid);
GRANT INSERT, SELECT ON changes TO keyward_reconciler;
GRANT DELETE, INSERT, SELECT ON changes TO keyward_service;

CREATE TABLE data_keys (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  name text COLLATE "C" NOT NULL,
  data_key_id uuid NOT NULL,
  context_digest bytea NOT NULL,
  ciphertext bytea NOT NULL,
  version integer NOT NULL DEFAULT ((((((get_byte(ciphertext, 20) << 24) | get_byte(ciphertext, 21)) << 16) | get_byte(ciphertext, 22)) << 8) | get_byte(ciphertext, 23)),
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  rewrapped_at timestamp with time zone,
  CONSTRAINT data_keys_pkey PRIMARY KEY (tenant_id, key_id, name),
  CONSTRAINT data_keys_check CHECK ((((octet_length(ciphertext) >= 117) AND (octet_length(ciphertext) <= 1140)) AND (SUBSTRING(ciphertext FROM 1 FOR 4) = '\x01010300'::bytea) AND (SUBSTRING(ciphertext FROM 5 FOR 16) = uuid_send(key_id)))),
  CONSTRAINT data_keys_context_digest_check CHECK ((octet_length(context_digest) = 32)),
  CONSTRAINT data_keys_name_check CHECK (((octet_length(name) >= 1) AND (octet_length(name) <= 63))),
  CONSTRAINT data_keys_tenant_id_key_id_fkey FOREIGN KEY (tenant_id, key_id) REFERENCES keys(tenant_id, key_id)
);
ALTER TABLE data_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON data_keys AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON data_keys AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT DELETE, SELECT ON data_keys TO keyward_reconciler;
GRANT DELETE, INSERT, SELECT ON data_keys TO keyward_service;
GRANT UPDATE (ciphertext) ON data_keys TO keyward_reconciler;
GRANT UPDATE (rewrapped_at) ON data_keys TO keyward_reconciler;

CREATE TABLE environment (
  singleton boolean NOT NULL DEFAULT true,
  environment_id uuid NOT NULL DEFAULT gen_random_uuid(),
  token_profile jsonb,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  mode text,
  CONSTRAINT environment_pkey PRIMARY KEY (singleton),
  CONSTRAINT environment_mode_check CHECK ((mode = ANY (ARRAY['production'::text, 'development'::text]))),
  CONSTRAINT environment_singleton_check CHECK (singleton)
);
GRANT SELECT ON environment TO keyward_reconciler;
GRANT SELECT ON environment TO keyward_service;

CREATE TABLE key_version_usage (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL,
  encrypt_operations bigint NOT NULL,
  last_encrypt_at timestamp with time zone,
  decrypt_operations bigint NOT NULL,
  last_decrypt_at timestamp with time zone,
  CONSTRAINT key_version_usage_pkey PRIMARY KEY (tenant_id, key_id, version),
  CONSTRAINT key_version_usage_tenant_id_key_id_version_fkey FOREIGN KEY (tenant_id, key_id, version) REFERENCES key_versions(tenant_id, key_id, version)
);
ALTER TABLE key_version_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON key_version_usage AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON key_version_usage AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON key_version_usage TO keyward_reconciler;
GRANT SELECT ON key_version_usage TO keyward_service;
GRANT UPDATE (decrypt_operations) ON key_version_usage TO keyward_reconciler;
GRANT UPDATE (encrypt_operations) ON key_version_usage TO keyward_reconciler;
GRANT UPDATE (last_decrypt_at) ON key_version_usage TO keyward_reconciler;
GRANT UPDATE (last_encrypt_at) ON key_version_usage TO keyward_reconciler;

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
  destroy_at timestamp with time zone,
  destroyed_at timestamp with time zone,
  CONSTRAINT key_versions_pkey PRIMARY KEY (tenant_id, key_id, version),
  CONSTRAINT key_versions_algorithm_check CHECK ((algorithm >= 1)),
  CONSTRAINT key_versions_check_value_check CHECK ((octet_length(check_value) = 16)),
  CONSTRAINT key_versions_destroy_at_check CHECK (((state <> 'DESTROY_SCHEDULED'::text) OR (destroy_at IS NOT NULL))),
  CONSTRAINT key_versions_destroyed_at_check CHECK (((state = 'DESTROYED'::text) = (destroyed_at IS NOT NULL))),
  CONSTRAINT key_versions_erased_check CHECK (((state = 'DESTROYED'::text) = (octet_length(wrapped) = 0))),
  CONSTRAINT key_versions_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT key_versions_state_check CHECK ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text, 'DESTROY_SCHEDULED'::text, 'DESTROYED'::text]))),
  CONSTRAINT key_versions_version_check CHECK ((version >= 1)),
  CONSTRAINT key_versions_wrap_check CHECK ((wrap = ANY (ARRAY[1, 2]))),
  CONSTRAINT key_versions_wrapped_check CHECK ((octet_length(wrapped) <= 65535)),
  CONSTRAINT key_versions_tenant_id_key_id_fkey FOREIGN KEY (tenant_id, key_id) REFERENCES keys(tenant_id, key_id)
);
CREATE INDEX key_versions_destroy ON public.key_versions USING btree (destroy_at) WHERE (state = 'DESTROY_SCHEDULED'::text);
ALTER TABLE key_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON key_versions AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON key_versions AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON key_versions TO keyward_reconciler;
GRANT INSERT, SELECT ON key_versions TO keyward_service;
GRANT UPDATE (destroyed_at) ON key_versions TO keyward_reconciler;
GRANT UPDATE (revision) ON key_versions TO keyward_reconciler;
GRANT UPDATE (root_key_id) ON key_versions TO keyward_reconciler;
GRANT UPDATE (seal) ON key_versions TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON key_versions TO keyward_reconciler;
GRANT UPDATE (state) ON key_versions TO keyward_reconciler;
GRANT UPDATE (wrap) ON key_versions TO keyward_reconciler;
GRANT UPDATE (wrapped) ON key_versions TO keyward_reconciler;
GRANT UPDATE (destroy_at) ON key_versions TO keyward_service;
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
  rotation_period_seconds bigint,
  next_rotation_at timestamp with time zone,
  rotation_usage_limit bigint,
  usage_limit_reached_at timestamp with time zone,
  maintenance_paused boolean NOT NULL DEFAULT false,
  destroy_at timestamp with time zone,
  destroyed_at timestamp with time zone,
  state_seal_key_id uuid,
  state_seal bytea,
  epoch_max_messages integer,
  epoch_max_age_seconds integer,
  CONSTRAINT keys_pkey PRIMARY KEY (tenant_id, key_id),
  CONSTRAINT keys_key_id_key UNIQUE (key_id),
  CONSTRAINT keys_tenant_id_name_key UNIQUE (tenant_id, name),
  CONSTRAINT keys_check CHECK (((next_rotation_at IS NULL) OR (rotation_period_seconds IS NOT NULL))),
  CONSTRAINT keys_description_check CHECK ((char_length(description) <= 1024)),
  CONSTRAINT keys_destroy_at_check CHECK (((state <> 'DESTROY_SCHEDULED'::text) OR (destroy_at IS NOT NULL))),
  CONSTRAINT keys_destroyed_at_check CHECK (((state = 'DESTROYED'::text) = (destroyed_at IS NOT NULL))),
  CONSTRAINT keys_epoch_check CHECK (((epoch_max_messages IS NULL) = (epoch_max_age_seconds IS NULL))),
  CONSTRAINT keys_epoch_max_age_seconds_check CHECK (((epoch_max_age_seconds >= 1) AND (epoch_max_age_seconds <= 3600))),
  CONSTRAINT keys_epoch_max_messages_check CHECK (((epoch_max_messages >= 1) AND (epoch_max_messages <= 100000))),
  CONSTRAINT keys_labels_check CHECK ((jsonb_typeof(labels) = 'object'::text)),
  CONSTRAINT keys_name_check CHECK ((name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT keys_rotation_period_seconds_check CHECK ((rotation_period_seconds > 0)),
  CONSTRAINT keys_rotation_usage_limit_check CHECK ((rotation_usage_limit > 0)),
  CONSTRAINT keys_state_check CHECK ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text, 'DESTROY_SCHEDULED'::text, 'DESTROYED'::text]))),
  CONSTRAINT keys_state_seal_check CHECK ((octet_length(state_seal) = 32)),
  CONSTRAINT keys_state_seal_check1 CHECK (((state_seal IS NULL) = (state_seal_key_id IS NULL))),
  CONSTRAINT keys_primary_version_fkey FOREIGN KEY (tenant_id, key_id, primary_version) REFERENCES key_versions(tenant_id, key_id, version) DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX keys_destroy ON public.keys USING btree (destroy_at) WHERE (state = 'DESTROY_SCHEDULED'::text);
CREATE INDEX keys_next_rotation ON public.keys USING btree (next_rotation_at) WHERE (next_rotation_at IS NOT NULL);
CREATE INDEX keys_state_seal_key ON public.keys USING btree (state_seal_key_id, tenant_id, key_id);
CREATE INDEX keys_usage_limit ON public.keys USING btree (usage_limit_reached_at) WHERE (usage_limit_reached_at IS NOT NULL);
ALTER TABLE keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON keys AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON keys AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON keys TO keyward_reconciler;
GRANT INSERT, SELECT ON keys TO keyward_service;
GRANT UPDATE (destroyed_at) ON keys TO keyward_reconciler;
GRANT UPDATE (revision) ON keys TO keyward_reconciler;
GRANT UPDATE (state) ON keys TO keyward_reconciler;
GRANT UPDATE (state_seal) ON keys TO keyward_reconciler;
GRANT UPDATE (state_seal_key_id) ON keys TO keyward_reconciler;
GRANT UPDATE (usage_limit_reached_at) ON keys TO keyward_reconciler;
GRANT UPDATE (description) ON keys TO keyward_service;
GRANT UPDATE (destroy_at) ON keys TO keyward_service;
GRANT UPDATE (epoch_max_age_seconds) ON keys TO keyward_service;
GRANT UPDATE (epoch_max_messages) ON keys TO keyward_service;
GRANT UPDATE (labels) ON keys TO keyward_service;
GRANT UPDATE (maintenance_paused) ON keys TO keyward_service;
GRANT UPDATE (next_rotation_at) ON keys TO keyward_service;
GRANT UPDATE (primary_version) ON keys TO keyward_service;
GRANT UPDATE (revision) ON keys TO keyward_service;
GRANT UPDATE (rotation_period_seconds) ON keys TO keyward_service;
GRANT UPDATE (rotation_usage_limit) ON keys TO keyward_service;
GRANT UPDATE (state) ON keys TO keyward_service;
GRANT UPDATE (state_seal) ON keys TO keyward_service;
GRANT UPDATE (state_seal_key_id) ON keys TO keyward_service;
GRANT UPDATE (usage_limit_reached_at) ON keys TO keyward_service;

CREATE TABLE maintenance (
  tenant_id uuid NOT NULL,
  paused boolean NOT NULL DEFAULT false,
  changed_at timestamp with time zone,
  caller text NOT NULL DEFAULT ''::text,
  revision bigint NOT NULL DEFAULT 0,
  seal_key_id uuid,
  seal bytea,
  CONSTRAINT maintenance_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT maintenance_check CHECK (((seal IS NULL) = (seal_key_id IS NULL))),
  CONSTRAINT maintenance_revision_check CHECK ((revision >= 0)),
  CONSTRAINT maintenance_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT maintenance_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
GRANT SELECT ON maintenance TO keyward_reconciler;
GRANT SELECT ON maintenance TO keyward_service;
GRANT UPDATE (seal) ON maintenance TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON maintenance TO keyward_reconciler;
GRANT UPDATE (caller) ON maintenance TO keyward_service;
GRANT UPDATE (changed_at) ON maintenance TO keyward_service;
GRANT UPDATE (paused) ON maintenance TO keyward_service;
GRANT UPDATE (revision) ON maintenance TO keyward_service;
GRANT UPDATE (seal) ON maintenance TO keyward_service;
GRANT UPDATE (seal_key_id) ON maintenance TO keyward_service;

CREATE TABLE moved_key_versions (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  version integer NOT NULL,
  source_seal bytea NOT NULL,
  root_key_id uuid NOT NULL,
  wrap smallint NOT NULL,
  wrapped bytea NOT NULL,
  check_value bytea NOT NULL,
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL,
  CONSTRAINT moved_key_versions_pkey PRIMARY KEY (tenant_id, key_id, version),
  CONSTRAINT moved_key_versions_check_value_check CHECK ((octet_length(check_value) = 16)),
  CONSTRAINT moved_key_versions_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT moved_key_versions_source_seal_check CHECK ((octet_length(source_seal) = 32)),
  CONSTRAINT moved_key_versions_wrap_check CHECK ((wrap = ANY (ARRAY[1, 2]))),
  CONSTRAINT moved_key_versions_wrapped_check CHECK (((octet_length(wrapped) >= 1) AND (octet_length(wrapped) <= 65535))),
  CONSTRAINT moved_key_versions_tenant_id_key_id_version_fkey FOREIGN KEY (tenant_id, key_id, version) REFERENCES key_versions(tenant_id, key_id, version)
);
ALTER TABLE moved_key_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON moved_key_versions AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON moved_key_versions AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT DELETE ON moved_key_versions TO keyward_reconciler;
GRANT SELECT (key_id) ON moved_key_versions TO keyward_reconciler;
GRANT SELECT (tenant_id) ON moved_key_versions TO keyward_reconciler;
GRANT SELECT (version) ON moved_key_versions TO keyward_reconciler;

CREATE TABLE operation_decisions (
  tenant_id uuid NOT NULL,
  operation_id uuid NOT NULL,
  approver text NOT NULL,
  content bytea NOT NULL,
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL,
  credential_id bytea NOT NULL,
  client_data_json bytea NOT NULL,
  authenticator_data bytea NOT NULL,
  signature bytea NOT NULL,
  public_key bytea NOT NULL,
  CONSTRAINT operation_decisions_pkey PRIMARY KEY (tenant_id, operation_id, approver),
  CONSTRAINT operation_decisions_content_check CHECK ((octet_length(content) <= 65536)),
  CONSTRAINT operation_decisions_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT operation_decisions_tenant_id_operation_id_fkey FOREIGN KEY (tenant_id, operation_id) REFERENCES pending_operations(tenant_id, operation_id) ON DELETE CASCADE
);
ALTER TABLE operation_decisions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON operation_decisions AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON operation_decisions AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON operation_decisions TO keyward_reconciler;
GRANT DELETE, INSERT, SELECT ON operation_decisions TO keyward_service;

CREATE TABLE passkeys (
  tenant_id uuid NOT NULL,
  credential_id bytea NOT NULL,
  principal text NOT NULL,
  is_removed boolean NOT NULL,
  revision bigint NOT NULL,
  content bytea NOT NULL,
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL,
  CONSTRAINT passkeys_pkey PRIMARY KEY (tenant_id, credential_id),
  CONSTRAINT passkeys_credential_id_key UNIQUE (credential_id),
  CONSTRAINT passkeys_content_check CHECK ((octet_length(content) <= 16384)),
  CONSTRAINT passkeys_credential_id_check CHECK (((octet_length(credential_id) >= 1) AND (octet_length(credential_id) <= 1023))),
  CONSTRAINT passkeys_revision_check CHECK ((revision > 0)),
  CONSTRAINT passkeys_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT passkeys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX passkeys_by_principal ON public.passkeys USING btree (principal, credential_id) WHERE (NOT is_removed);
GRANT SELECT ON passkeys TO keyward_reconciler;
GRANT INSERT, SELECT ON passkeys TO keyward_service;
GRANT UPDATE (seal) ON passkeys TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON passkeys TO keyward_reconciler;
GRANT UPDATE (content) ON passkeys TO keyward_service;
GRANT UPDATE (is_removed) ON passkeys TO keyward_service;
GRANT UPDATE (revision) ON passkeys TO keyward_service;
GRANT UPDATE (seal) ON passkeys TO keyward_service;
GRANT UPDATE (seal_key_id) ON passkeys TO keyward_service;

CREATE TABLE pending_operations (
  tenant_id uuid NOT NULL,
  operation_id uuid NOT NULL,
  revision bigint NOT NULL,
  state text NOT NULL,
  method text NOT NULL,
  requester text NOT NULL,
  request_digest bytea NOT NULL,
  request bytea NOT NULL,
  preview bytea,
  created_at timestamp with time zone NOT NULL,
  expires_at timestamp with time zone NOT NULL,
  content bytea NOT NULL,
  seal_key_id uuid NOT NULL,
  seal bytea NOT NULL,
  ended_at timestamp with time zone,
  error_reason text NOT NULL DEFAULT ''::text,
  error_message text NOT NULL DEFAULT ''::text,
  attempt_after timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT pending_operations_pkey PRIMARY KEY (tenant_id, operation_id),
  CONSTRAINT pending_operations_content_check CHECK ((octet_length(content) <= 262144)),
  CONSTRAINT pending_operations_ended_check CHECK (((ended_at IS NULL) = (state = ANY (ARRAY['PENDING'::text, 'APPROVED'::text])))),
  CONSTRAINT pending_operations_method_check CHECK ((length(method) <= 256)),
  CONSTRAINT pending_operations_preview_check CHECK ((octet_length(preview) <= 65536)),
  CONSTRAINT pending_operations_request_check CHECK ((octet_length(request) <= 65536)),
  CONSTRAINT pending_operations_request_digest_check CHECK ((octet_length(request_digest) = 32)),
  CONSTRAINT pending_operations_revision_check CHECK ((revision > 0)),
  CONSTRAINT pending_operations_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT pending_operations_state_check CHECK ((state = ANY (ARRAY['PENDING'::text, 'APPROVED'::text, 'DONE'::text, 'FAILED'::text, 'REJECTED'::text, 'CANCELLED'::text, 'EXPIRED'::text]))),
  CONSTRAINT pending_operations_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX pending_operations_by_time ON public.pending_operations USING btree (tenant_id, created_at DESC, operation_id DESC);
CREATE INDEX pending_operations_ended ON public.pending_operations USING btree (ended_at) WHERE (ended_at IS NOT NULL);
CREATE INDEX pending_operations_open ON public.pending_operations USING btree (expires_at) WHERE (ended_at IS NULL);
ALTER TABLE pending_operations ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON pending_operations AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON pending_operations AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT DELETE, SELECT ON pending_operations TO keyward_reconciler;
GRANT INSERT, SELECT ON pending_operations TO keyward_service;
GRANT UPDATE (attempt_after) ON pending_operations TO keyward_reconciler;
GRANT UPDATE (seal) ON pending_operations TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON pending_operations TO keyward_reconciler;
GRANT UPDATE (content) ON pending_operations TO keyward_service;
GRANT UPDATE (ended_at) ON pending_operations TO keyward_service;
GRANT UPDATE (error_message) ON pending_operations TO keyward_service;
GRANT UPDATE (error_reason) ON pending_operations TO keyward_service;
GRANT UPDATE (expires_at) ON pending_operations TO keyward_service;
GRANT UPDATE (revision) ON pending_operations TO keyward_service;
GRANT UPDATE (seal) ON pending_operations TO keyward_service;
GRANT UPDATE (seal_key_id) ON pending_operations TO keyward_service;
GRANT UPDATE (state) ON pending_operations TO keyward_service;

CREATE TABLE replicas (
  tenant_id uuid NOT NULL,
  replica_id uuid NOT NULL,
  seen_at timestamp with time zone NOT NULL,
  held uuid[] NOT NULL,
  name text,
  release text,
  started_at timestamp with time zone DEFAULT clock_timestamp(),
  agents integer,
  agents_ready integer,
  problems text[],
  CONSTRAINT replicas_pkey PRIMARY KEY (tenant_id, replica_id),
  CONSTRAINT replicas_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
GRANT DELETE, INSERT, SELECT ON replicas TO keyward_reconciler;
GRANT SELECT ON replicas TO keyward_service;
GRANT UPDATE (agents) ON replicas TO keyward_reconciler;
GRANT UPDATE (agents_ready) ON replicas TO keyward_reconciler;
GRANT UPDATE (held) ON replicas TO keyward_reconciler;
GRANT UPDATE (name) ON replicas TO keyward_reconciler;
GRANT UPDATE (problems) ON replicas TO keyward_reconciler;
GRANT UPDATE (release) ON replicas TO keyward_reconciler;
GRANT UPDATE (seen_at) ON replicas TO keyward_reconciler;

CREATE TABLE request_ids (
  tenant_id uuid NOT NULL,
  caller text NOT NULL,
  method text NOT NULL,
  request_id uuid NOT NULL,
  fingerprint bytea NOT NULL,
  reference jsonb NOT NULL DEFAULT '{}'::jsonb,
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  effect text,
  mask_key_id uuid,
  mac bytea,
  CONSTRAINT request_ids_pkey PRIMARY KEY (tenant_id, caller, method, request_id),
  CONSTRAINT request_ids_fingerprint_check CHECK ((octet_length(fingerprint) = 32)),
  CONSTRAINT request_ids_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX request_ids_by_time ON public.request_ids USING btree (at);
ALTER TABLE request_ids ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON request_ids AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON request_ids TO keyward_service;
GRANT UPDATE (effect) ON request_ids TO keyward_service;
GRANT UPDATE (mac) ON request_ids TO keyward_service;
GRANT UPDATE (mask_key_id) ON request_ids TO keyward_service;

CREATE TABLE rewrap_failures (
  tenant_id uuid NOT NULL,
  job_id uuid NOT NULL,
  resource text COLLATE "C" NOT NULL,
  reason text NOT NULL,
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT rewrap_failures_pkey PRIMARY KEY (tenant_id, job_id, resource),
  CONSTRAINT rewrap_failures_tenant_id_job_id_fkey FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs(tenant_id, job_id)
);
ALTER TABLE rewrap_failures ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON rewrap_failures AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON rewrap_failures AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON rewrap_failures TO keyward_reconciler;
GRANT SELECT ON rewrap_failures TO keyward_service;

CREATE TABLE rewrap_jobs (
  tenant_id uuid NOT NULL,
  job_id uuid NOT NULL,
  scope text NOT NULL,
  scope_tenant_id uuid,
  scope_key_id uuid,
  cause text NOT NULL,
  caller text NOT NULL,
  state text NOT NULL DEFAULT 'RUNNING'::text,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  ended_at timestamp with time zone,
  planned boolean NOT NULL DEFAULT false,
  frontier_tenant_id uuid,
  frontier_key_id uuid,
  frontier_name text COLLATE "C",
  ranges integer NOT NULL DEFAULT 0,
  total bigint NOT NULL DEFAULT 0,
  done bigint,
  failed bigint,
  kind text NOT NULL DEFAULT 'data-keys'::text,
  CONSTRAINT rewrap_jobs_pkey PRIMARY KEY (tenant_id, job_id),
  CONSTRAINT rewrap_jobs_cause_check CHECK ((cause = ANY (ARRAY['schedule'::text, 'request'::text, 'usage'::text]))),
  CONSTRAINT rewrap_jobs_check CHECK (((scope_key_id IS NULL) OR (scope_tenant_id IS NOT NULL))),
  CONSTRAINT rewrap_jobs_check1 CHECK (((state = 'RUNNING'::text) = (ended_at IS NULL))),
  CONSTRAINT rewrap_jobs_check2 CHECK (((state = 'RUNNING'::text) = ((done IS NULL) AND (failed IS NULL)))),
  CONSTRAINT rewrap_jobs_kind_check CHECK ((kind = ANY (ARRAY['data-keys'::text, 'key-versions'::text]))),
  CONSTRAINT rewrap_jobs_kind_check1 CHECK (((kind = 'data-keys'::text) OR (scope_key_id IS NULL))),
  CONSTRAINT rewrap_jobs_state_check CHECK ((state = ANY (ARRAY['RUNNING'::text, 'SUCCEEDED'::text, 'PARTIAL'::text, 'CANCELLED'::text, 'SUPERSEDED'::text]))),
  CONSTRAINT rewrap_jobs_scope_tenant_id_fkey FOREIGN KEY (scope_tenant_id) REFERENCES tenants(tenant_id),
  CONSTRAINT rewrap_jobs_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX rewrap_jobs_by_scope ON public.rewrap_jobs USING btree (tenant_id, scope, kind, job_id);
CREATE INDEX rewrap_jobs_of_key ON public.rewrap_jobs USING btree (tenant_id, scope_key_id) WHERE (state = 'RUNNING'::text);
CREATE INDEX rewrap_jobs_running ON public.rewrap_jobs USING btree (job_id) WHERE (state = 'RUNNING'::text);
CREATE INDEX rewrap_jobs_unplanned ON public.rewrap_jobs USING btree (job_id) WHERE ((state = 'RUNNING'::text) AND (NOT planned));
ALTER TABLE rewrap_jobs ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON rewrap_jobs AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON rewrap_jobs AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON rewrap_jobs TO keyward_reconciler;
GRANT INSERT, SELECT ON rewrap_jobs TO keyward_service;
GRANT UPDATE (frontier_key_id) ON rewrap_jobs TO keyward_reconciler;
GRANT UPDATE (frontier_name) ON rewrap_jobs TO keyward_reconciler;
GRANT UPDATE (frontier_tenant_id) ON rewrap_jobs TO keyward_reconciler;
GRANT UPDATE (planned) ON rewrap_jobs TO keyward_reconciler;
GRANT UPDATE (ranges) ON rewrap_jobs TO keyward_reconciler;
GRANT UPDATE (total) ON rewrap_jobs TO keyward_reconciler;
GRANT UPDATE (done) ON rewrap_jobs TO keyward_service;
GRANT UPDATE (ended_at) ON rewrap_jobs TO keyward_service;
GRANT UPDATE (failed) ON rewrap_jobs TO keyward_service;
GRANT UPDATE (state) ON rewrap_jobs TO keyward_service;

CREATE TABLE rewrap_ranges (
  tenant_id uuid NOT NULL,
  job_id uuid NOT NULL,
  range integer NOT NULL,
  key_tenant_id uuid,
  key_id uuid,
  after_name text COLLATE "C" NOT NULL,
  until_name text COLLATE "C" NOT NULL,
  total bigint NOT NULL,
  done bigint NOT NULL DEFAULT 0,
  failed bigint NOT NULL DEFAULT 0,
  finished boolean NOT NULL DEFAULT false,
  fence bigint NOT NULL DEFAULT 0,
  leased_until timestamp with time zone NOT NULL DEFAULT '-infinity'::timestamp with time zone,
  CONSTRAINT rewrap_ranges_pkey PRIMARY KEY (tenant_id, job_id, range),
  CONSTRAINT rewrap_ranges_tenant_id_job_id_fkey FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs(tenant_id, job_id)
);
CREATE INDEX rewrap_ranges_open ON public.rewrap_ranges USING btree (job_id, range) WHERE (NOT finished);
ALTER TABLE rewrap_ranges ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON rewrap_ranges AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON rewrap_ranges AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON rewrap_ranges TO keyward_reconciler;
GRANT DELETE, SELECT ON rewrap_ranges TO keyward_service;
GRANT UPDATE (after_name) ON rewrap_ranges TO keyward_reconciler;
GRANT UPDATE (done) ON rewrap_ranges TO keyward_reconciler;
GRANT UPDATE (failed) ON rewrap_ranges TO keyward_reconciler;
GRANT UPDATE (fence) ON rewrap_ranges TO keyward_reconciler;
GRANT UPDATE (finished) ON rewrap_ranges TO keyward_reconciler;
GRANT UPDATE (leased_until) ON rewrap_ranges TO keyward_reconciler;

CREATE TABLE role_bindings (
  tenant_id uuid NOT NULL,
  binding_id text COLLATE "C" NOT NULL,
  member_kind text NOT NULL,
  member text NOT NULL,
  role text NOT NULL,
  key_pattern text NOT NULL,
  all_tenants boolean NOT NULL,
  expires_at timestamp with time zone,
  conditions jsonb NOT NULL,
  overrides_separation boolean NOT NULL,
  description text NOT NULL,
  created_at timestamp with time zone NOT NULL,
  creator text NOT NULL,
  CONSTRAINT role_bindings_pkey PRIMARY KEY (tenant_id, binding_id),
  CONSTRAINT role_bindings_binding_id_check CHECK ((binding_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT role_bindings_conditions_check CHECK ((jsonb_typeof(conditions) = 'array'::text)),
  CONSTRAINT role_bindings_member_kind_check CHECK ((member_kind = ANY (ARRAY['principal'::text, 'group'::text]))),
  CONSTRAINT role_bindings_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE INDEX role_bindings_by_member ON public.role_bindings USING btree (member);
CREATE INDEX role_bindings_expiring ON public.role_bindings USING btree (expires_at) WHERE (expires_at IS NOT NULL);
ALTER TABLE role_bindings ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON role_bindings AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON role_bindings AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON role_bindings TO keyward_reconciler;
GRANT DELETE, INSERT, SELECT ON role_bindings TO keyward_service;

CREATE TABLE roles (
  tenant_id uuid NOT NULL,
  role_id text COLLATE "C" NOT NULL,
  permissions text[] NOT NULL,
  description text NOT NULL,
  created_at timestamp with time zone NOT NULL,
  creator text NOT NULL,
  CONSTRAINT roles_pkey PRIMARY KEY (tenant_id, role_id),
  CONSTRAINT roles_role_id_check CHECK ((role_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT roles_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
ALTER TABLE roles ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON roles AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON roles AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON roles TO keyward_reconciler;
GRANT DELETE, INSERT, SELECT ON roles TO keyward_service;

CREATE TABLE rotations (
  tenant_id uuid NOT NULL,
  key_id uuid NOT NULL,
  to_version integer NOT NULL,
  from_version integer NOT NULL,
  cause text NOT NULL,
  caller text NOT NULL,
  rotated_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  duration_ms double precision NOT NULL,
  job_id uuid NOT NULL,
  CONSTRAINT rotations_pkey PRIMARY KEY (tenant_id, key_id, to_version),
  CONSTRAINT rotations_cause_check CHECK ((cause = ANY (ARRAY['schedule'::text, 'request'::text, 'usage'::text]))),
  CONSTRAINT rotations_duration_ms_check CHECK ((duration_ms >= (0)::double precision)),
  CONSTRAINT rotations_tenant_id_job_id_fkey FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs(tenant_id, job_id),
  CONSTRAINT rotations_tenant_id_key_id_from_version_fkey FOREIGN KEY (tenant_id, key_id, from_version) REFERENCES key_versions(tenant_id, key_id, version),
  CONSTRAINT rotations_tenant_id_key_id_to_version_fkey FOREIGN KEY (tenant_id, key_id, to_version) REFERENCES key_versions(tenant_id, key_id, version)
);
ALTER TABLE rotations ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON rotations AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT INSERT, SELECT ON rotations TO keyward_service;

CREATE TABLE schema_releases (
  migration text NOT NULL,
  oldest_release text NOT NULL,
  applied_at timestamp with time zone NOT NULL DEFAULT now(),
  CONSTRAINT schema_releases_pkey PRIMARY KEY (migration),
  CONSTRAINT schema_releases_oldest_release_check CHECK ((oldest_release ~ '^\d+\.\d+\.\d+$'::text))
);
GRANT SELECT ON schema_releases TO keyward_service;

CREATE TABLE suspensions (
  tenant_id uuid NOT NULL,
  suspension_id text COLLATE "C" NOT NULL,
  caller text NOT NULL,
  canary_id text NOT NULL,
  request_id text NOT NULL,
  description text NOT NULL,
  created_at timestamp with time zone NOT NULL,
  creator text NOT NULL,
  CONSTRAINT suspensions_pkey PRIMARY KEY (tenant_id, suspension_id),
  CONSTRAINT suspensions_caller_key UNIQUE (tenant_id, caller),
  CONSTRAINT suspensions_suspension_id_check CHECK ((suspension_id ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT suspensions_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
ALTER TABLE suspensions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON suspensions AS PERMISSIVE FOR ALL TO keyward_reconciler USING (true);
CREATE POLICY of_current_tenant ON suspensions AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON suspensions TO keyward_reconciler;
GRANT DELETE, INSERT, SELECT ON suspensions TO keyward_service;

CREATE TABLE tenant_counts (
  tenant_id uuid NOT NULL,
  kind text NOT NULL,
  part uuid NOT NULL DEFAULT gen_random_uuid(),
  count bigint NOT NULL,
  CONSTRAINT tenant_counts_pkey PRIMARY KEY (tenant_id, kind, part),
  CONSTRAINT tenant_counts_kind_check CHECK ((kind = ANY (ARRAY['keys'::text, 'stored-data-keys'::text]))),
  CONSTRAINT tenant_counts_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
ALTER TABLE tenant_counts ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON tenant_counts AS PERMISSIVE FOR ALL TO public USING ((tenant_id = current_tenant_id()));
GRANT SELECT ON tenant_counts TO keyward_service;

CREATE TABLE tenants (
  tenant_id uuid NOT NULL,
  name text COLLATE "C" NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  state text NOT NULL DEFAULT 'ENABLED'::text,
  revision bigint NOT NULL DEFAULT 1,
  dedicated_root_key boolean NOT NULL DEFAULT false,
  shred_at timestamp with time zone,
  shredded_at timestamp with time zone,
  quota_calls_per_second bigint,
  quota_keys bigint,
  quota_stored_data_keys bigint,
  seal_key_id uuid,
  seal bytea,
  approval_rules_revision bigint,
  CONSTRAINT tenants_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT tenants_name_key UNIQUE (name),
  CONSTRAINT tenants_approval_rules_revision_check CHECK ((approval_rules_revision > 0)),
  CONSTRAINT tenants_name_check CHECK ((name ~ '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$'::text)),
  CONSTRAINT tenants_quota_calls_per_second_check CHECK ((quota_calls_per_second > 0)),
  CONSTRAINT tenants_quota_keys_check CHECK ((quota_keys > 0)),
  CONSTRAINT tenants_quota_stored_data_keys_check CHECK ((quota_stored_data_keys > 0)),
  CONSTRAINT tenants_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT tenants_seal_check1 CHECK (((seal IS NULL) = (seal_key_id IS NULL))),
  CONSTRAINT tenants_shred_at_check CHECK (((state <> 'SHRED_SCHEDULED'::text) OR (shred_at IS NOT NULL))),
  CONSTRAINT tenants_shredded_at_check CHECK (((state = 'SHREDDED'::text) = (shredded_at IS NOT NULL))),
  CONSTRAINT tenants_state_check CHECK ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text, 'SHRED_SCHEDULED'::text, 'SHREDDED'::text]))),
  CONSTRAINT tenants_system_check CHECK (((name <> 'system'::text) OR ((state = ANY (ARRAY['ENABLED'::text, 'DISABLED'::text])) AND (NOT dedicated_root_key))))
);
CREATE INDEX tenants_dedicated ON public.tenants USING btree (tenant_id) WHERE dedicated_root_key;
CREATE INDEX tenants_seal_key ON public.tenants USING btree (seal_key_id, tenant_id);
CREATE INDEX tenants_shred ON public.tenants USING btree (shred_at) WHERE (state = 'SHRED_SCHEDULED'::text);
GRANT SELECT ON tenants TO keyward_reconciler;
GRANT INSERT, SELECT ON tenants TO keyward_service;
GRANT UPDATE (revision) ON tenants TO keyward_reconciler;
GRANT UPDATE (seal) ON tenants TO keyward_reconciler;
GRANT UPDATE (seal_key_id) ON tenants TO keyward_reconciler;
GRANT UPDATE (shredded_at) ON tenants TO keyward_reconciler;
GRANT UPDATE (state) ON tenants TO keyward_reconciler;
GRANT UPDATE (approval_rules_revision) ON tenants TO keyward_service;
GRANT UPDATE (quota_calls_per_second) ON tenants TO keyward_service;
GRANT UPDATE (quota_keys) ON tenants TO keyward_service;
GRANT UPDATE (quota_stored_data_keys) ON tenants TO keyward_service;
GRANT UPDATE (revision) ON tenants TO keyward_service;
GRANT UPDATE (seal) ON tenants TO keyward_service;
GRANT UPDATE (seal_key_id) ON tenants TO keyward_service;
GRANT UPDATE (shred_at) ON tenants TO keyward_service;
GRANT UPDATE (state) ON tenants TO keyward_service;

CREATE TABLE token_key_seals (
  tenant_id uuid NOT NULL,
  revision bigint NOT NULL DEFAULT 0,
  seal_key_id uuid,
  seal bytea,
  CONSTRAINT token_key_seals_pkey PRIMARY KEY (tenant_id),
  CONSTRAINT token_key_seals_check CHECK (((seal IS NULL) = (seal_key_id IS NULL))),
  CONSTRAINT token_key_seals_revision_check CHECK ((revision >= 0)),
  CONSTRAINT token_key_seals_seal_check CHECK ((octet_length(seal) = 32)),
  CONSTRAINT token_key_seals_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
GRANT SELECT ON token_key_seals TO keyward_reconciler;
GRANT SELECT ON token_key_seals TO keyward_service;
GRANT UPDATE (revision) ON token_key_seals TO keyward_service;
GRANT UPDATE (seal) ON token_key_seals TO keyward_service;
GRANT UPDATE (seal_key_id) ON token_key_seals TO keyward_service;

CREATE TABLE token_objects (
  tenant_id uuid NOT NULL,
  object_id uuid NOT NULL,
  role text NOT NULL,
  is_current boolean NOT NULL,
  created_at timestamp with time zone NOT NULL DEFAULT now(),
  state text NOT NULL DEFAULT 'CURRENT'::text,
  caller text NOT NULL DEFAULT ''::text,
  attempt_until timestamp with time zone,
  activated_at timestamp with time zone,
  retired_at timestamp with time zone,
  destroyed_at timestamp with time zone,
  job_id uuid,
  token_id uuid NOT NULL DEFAULT current_token_id(),
  CONSTRAINT token_objects_pkey PRIMARY KEY (tenant_id, object_id),
  CONSTRAINT token_objects_object_id_key UNIQUE (object_id),
  CONSTRAINT token_objects_check CHECK (((state <> 'CREATING'::text) OR (attempt_until IS NOT NULL))),
  CONSTRAINT token_objects_check1 CHECK (((state = 'DESTROYED'::text) = (destroyed_at IS NOT NULL))),
  CONSTRAINT token_objects_current_check CHECK (((state = 'CURRENT'::text) = is_current)),
  CONSTRAINT token_objects_role_check CHECK ((role = ANY (ARRAY['root'::text, 'seal'::text, 'mask'::text, 'audit-signing'::text]))),
  CONSTRAINT token_objects_state_check CHECK ((state = ANY (ARRAY['CREATING'::text, 'CREATED'::text, 'CURRENT'::text, 'RETIRED'::text, 'ABANDONED'::text, 'DESTROYING'::text, 'DESTROYED'::text]))),
  CONSTRAINT token_objects_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id),
  CONSTRAINT token_objects_tenant_id_job_id_fkey FOREIGN KEY (tenant_id, job_id) REFERENCES rewrap_jobs(tenant_id, job_id),
  CONSTRAINT token_objects_token_id_fkey FOREIGN KEY (token_id) REFERENCES tokens(token_id)
);
CREATE UNIQUE INDEX token_objects_current ON public.token_objects USING btree (tenant_id, role) WHERE is_current;
CREATE UNIQUE INDEX token_objects_pending ON public.token_objects USING btree (tenant_id, role, token_id) WHERE (state = ANY (ARRAY['CREATING'::text, 'CREATED'::text]));
GRANT SELECT ON token_objects TO keyward_reconciler;
GRANT SELECT ON token_objects TO keyward_service;
GRANT UPDATE (attempt_until) ON token_objects TO keyward_reconciler;
GRANT UPDATE (activated_at) ON token_objects TO keyward_service;
GRANT INSERT (attempt_until) ON token_objects TO keyward_service;
GRANT UPDATE (attempt_until) ON token_objects TO keyward_service;
GRANT INSERT (caller) ON token_objects TO keyward_service;
GRANT INSERT (is_current) ON token_objects TO keyward_service;
GRANT UPDATE (is_current) ON token_objects TO keyward_service;
GRANT UPDATE (job_id) ON token_objects TO keyward_service;
GRANT INSERT (object_id) ON token_objects TO keyward_service;
GRANT UPDATE (retired_at) ON token_objects TO keyward_service;
GRANT INSERT (role) ON token_objects TO keyward_service;
GRANT INSERT (state) ON token_objects TO keyward_service;
GRANT UPDATE (state) ON token_objects TO keyward_service;
GRANT INSERT (tenant_id) ON token_objects TO keyward_service;
GRANT INSERT (token_id) ON token_objects TO keyward_service;

CREATE TABLE tokens (
  tenant_id uuid NOT NULL,
  token_id uuid NOT NULL DEFAULT gen_random_uuid(),
  state text NOT NULL,
  label text,
  serial_number text,
  profile jsonb,
  created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
  activated_at timestamp with time zone,
  retired_at timestamp with time zone,
  CONSTRAINT tokens_pkey PRIMARY KEY (tenant_id, token_id),
  CONSTRAINT tokens_token_id_key UNIQUE (token_id),
  CONSTRAINT tokens_check CHECK (((state = 'CURRENT'::text) OR (profile IS NOT NULL))),
  CONSTRAINT tokens_check1 CHECK (((state = 'FORMER'::text) = (retired_at IS NOT NULL))),
  CONSTRAINT tokens_state_check CHECK ((state = ANY (ARRAY['CURRENT'::text, 'NEXT'::text, 'FORMER'::text]))),
  CONSTRAINT tokens_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
CREATE UNIQUE INDEX tokens_one_each ON public.tokens USING btree (state) WHERE (state = ANY (ARRAY['CURRENT'::text, 'NEXT'::text]));
GRANT SELECT ON tokens TO keyward_reconciler;
GRANT SELECT ON tokens TO keyward_service;

CREATE TABLE usage_reports (
  tenant_id uuid NOT NULL,
  replica_id uuid NOT NULL,
  sequence bigint NOT NULL,
  complete_at timestamp with time zone NOT NULL,
  CONSTRAINT usage_reports_pkey PRIMARY KEY (tenant_id, replica_id),
  CONSTRAINT usage_reports_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(tenant_id)
);
GRANT DELETE, INSERT, SELECT ON usage_reports TO keyward_reconciler;
GRANT SELECT ON usage_reports TO keyward_service;
GRANT UPDATE (complete_at) ON usage_reports TO keyward_reconciler;
GRANT UPDATE (sequence) ON usage_reports TO keyward_reconciler;

-- view audit_entries

CREATE TRIGGER count_deleted AFTER DELETE ON public.data_keys REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION count_data_keys();

CREATE TRIGGER count_destroyed AFTER UPDATE ON public.keys REFERENCING OLD TABLE AS gone NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION count_keys();

CREATE TRIGGER count_new AFTER INSERT ON public.data_keys REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION count_data_keys();

CREATE TRIGGER count_new AFTER INSERT ON public.keys REFERENCING NEW TABLE AS came FOR EACH STATEMENT EXECUTE FUNCTION count_keys();
