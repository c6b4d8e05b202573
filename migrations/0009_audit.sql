-- The audit log: entries become leaves of a Merkle tree (RFC 6962), whose checkpoints the HSM signs.
--
-- Runs under release 0.1.0. What was in audit_entries goes into the log before everything else; the name stays, for a view.

-- Entries that are durable and no leaves yet, as they were written: each a line of JSON, the leaf to be. Tenants are not
-- referred to: that would lock a tenant's row for every entry.
CREATE TABLE audit_inbox (
  tenant_id uuid NOT NULL,
  entry_number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  entry_id uuid,
  leaf text NOT NULL CHECK (position(E'\n' IN leaf) = 0)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0);
-- Entries of state changes, by which it is told whether one was committed.
CREATE INDEX audit_inbox_changes ON audit_inbox (entry_id) WHERE entry_id IS NOT NULL;
ALTER TABLE audit_inbox ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON audit_inbox FOR SELECT USING (tenant_id = current_tenant_id());
-- Of calls of all tenants at once.
CREATE POLICY of_any_tenant ON audit_inbox FOR INSERT WITH CHECK (true);
CREATE POLICY of_all_tenants ON audit_inbox TO keyward_reconciler USING (true);
GRANT SELECT, INSERT ON audit_inbox TO keyward_service, keyward_reconciler;
GRANT DELETE ON audit_inbox TO keyward_reconciler;

-- The leaves. In partitions of 2^20, so that old ones can be dropped, by the owner's role.
CREATE TABLE audit_log (
  tenant_id uuid NOT NULL,
  leaf_index bigint NOT NULL CHECK (leaf_index >= 0),
  entry_id uuid,
  leaf text NOT NULL,
  PRIMARY KEY (tenant_id, leaf_index)
) PARTITION BY RANGE (leaf_index);
CREATE UNIQUE INDEX audit_log_by_leaf_index ON audit_log (leaf_index);
CREATE INDEX audit_log_changes ON audit_log (entry_id) WHERE entry_id IS NOT NULL;
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON audit_log USING (tenant_id = current_tenant_id());
CREATE POLICY of_all_tenants ON audit_log TO keyward_reconciler USING (true);
GRANT SELECT ON audit_log TO keyward_service;
GRANT SELECT, INSERT ON audit_log TO keyward_reconciler;

-- Makes the partition of a leaf, unless it is there. Attached, since creating it in place would wait for every reader.
CREATE FUNCTION make_audit_partition(leaf_index bigint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp AS $$
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
END $$;
REVOKE ALL ON FUNCTION make_audit_partition(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_audit_partition(bigint) TO keyward_reconciler;
SELECT make_audit_partition(0);

-- Hash tiles (C2SP tlog-tiles, height 8), each with as many hashes as there are. Kept for ever: proofs need them.
CREATE TABLE audit_tiles (
  level smallint NOT NULL CHECK (level BETWEEN 0 AND 7),
  tile_index bigint NOT NULL CHECK (tile_index >= 0),
  hashes bytea NOT NULL CHECK (octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0),
  PRIMARY KEY (level, tile_index)
);
-- Hashes don't shrink.
ALTER TABLE audit_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;
GRANT SELECT ON audit_tiles TO keyward_service;
GRANT SELECT, INSERT, UPDATE (hashes) ON audit_tiles TO keyward_reconciler;

-- One row: how long the log is, and which replica lengthens it. A holder that was overtaken writes nothing: the fence has
-- grown. `generation`: 1, and one more each time that an operator had the log go on after it was found shorter than signed.
CREATE TABLE audit_state (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  tree_size bigint NOT NULL DEFAULT 0,
  first_leaf_index bigint NOT NULL DEFAULT 0 CHECK (first_leaf_index <= tree_size),
  generation integer NOT NULL DEFAULT 1,
  fence bigint NOT NULL DEFAULT 0,
  leased_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO audit_state DEFAULT VALUES;
GRANT SELECT ON audit_state TO keyward_service;
GRANT SELECT, UPDATE (tree_size, fence, leased_until) ON audit_state TO keyward_reconciler;

-- Signed checkpoints: the last hour's, and those that witnesses have cosigned.
CREATE TABLE audit_checkpoints (
  tree_size bigint NOT NULL,
  generation integer NOT NULL,
  root_hash bytea NOT NULL CHECK (octet_length(root_hash) = 32),
  note text NOT NULL,
  public_key text NOT NULL,
  cosignatures text[] NOT NULL DEFAULT '{}',
  signed_at timestamptz NOT NULL,
  PRIMARY KEY (tree_size, generation)
);
GRANT SELECT ON audit_checkpoints TO keyward_service;
GRANT SELECT, INSERT, UPDATE (cosignatures), DELETE ON audit_checkpoints TO keyward_reconciler;

INSERT INTO audit_inbox (tenant_id, entry_id, leaf)
  SELECT e.tenant_id, entry_id, concat('{"v":1,"id":', to_json(entry_id), ',"time":',
      to_json(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')), ',"tenant":', to_json(t.name),
      ',"requestId":', to_json(request_id), ',"caller":', to_json(caller), ',"method":', to_json(method),
      ',"resource":', to_json(resource), ',"outcome":', to_json(outcome),
      CASE WHEN detail <> '' THEN concat(',"detail":', to_json(detail)) END, '}')
  FROM audit_entries e JOIN tenants t USING (tenant_id) ORDER BY at;
DROP TABLE audit_entries;

-- All entries, leaves or about to be, in columns; for people with SQL. Those of state changes have an entry_id.
CREATE VIEW audit_entries WITH (security_invoker = true) AS
  SELECT tenant_id, entry_id, (entry ->> 'time')::timestamptz AS at, (entry ->> 'requestId')::uuid AS request_id,
    entry ->> 'caller' AS caller, entry ->> 'method' AS method, entry ->> 'resource' AS resource,
    entry ->> 'outcome' AS outcome, coalesce(entry ->> 'detail', '') AS detail, leaf_index, entry
  FROM (
    SELECT tenant_id, entry_id, NULL AS leaf_index, leaf::jsonb AS entry FROM audit_inbox
    UNION ALL SELECT tenant_id, entry_id, leaf_index, leaf::jsonb FROM audit_log) AS e;
GRANT SELECT ON audit_entries TO keyward_service, keyward_reconciler;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0009_audit', '0.1.0');
