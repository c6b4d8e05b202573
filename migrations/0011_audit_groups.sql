-- Entries of one tenant that were made durable together are one row of the inbox: most of what an entry costs was its row.
--
-- Runs under release 0.1.0.

DROP VIEW audit_entries;
ALTER TABLE audit_inbox RENAME COLUMN leaf TO leaves;
ALTER TABLE audit_inbox RENAME COLUMN entry_number TO group_number;
ALTER TABLE audit_inbox
  ADD COLUMN entry_count integer NOT NULL DEFAULT 1 CHECK (entry_count > 0),
  DROP CONSTRAINT audit_inbox_leaf_check,
  -- Each leaf to be is a line, without its newline; that of a state change is alone.
  ADD CHECK (entry_id IS NULL OR entry_count = 1),
  ADD CHECK (entry_count > 1 OR position(E'\n' IN leaves) = 0);
ALTER TABLE audit_inbox SET (autovacuum_vacuum_threshold = 1000,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 10000, toast.autovacuum_vacuum_cost_delay = 0);

-- Adds groups: of each its tenant by name, or `system` where there is none of that name, how many entries it has, and the
-- entries, line by line; a blank line between two groups. A function, so that its statement is planned once for a session.
CREATE FUNCTION append_audit_entries(tenant_names text[], entry_counts integer[], groups text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO public.audit_inbox (tenant_id, entry_count, leaves)
    SELECT coalesce(t.tenant_id, s.tenant_id), n.entry_count, n.leaves
    FROM unnest(tenant_names, entry_counts, string_to_array(groups, E'\n\n')) AS n (tenant_name, entry_count, leaves)
      LEFT JOIN public.tenants t ON t.name = n.tenant_name, public.tenants s
    WHERE s.name = 'system';
END $$;
REVOKE ALL ON FUNCTION append_audit_entries(text[], integer[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_audit_entries(text[], integer[], text) TO keyward_service;

-- As it was, by entries.
CREATE VIEW audit_entries WITH (security_invoker = true) AS
  SELECT tenant_id, entry_id, (entry ->> 'time')::timestamptz AS at, (entry ->> 'requestId')::uuid AS request_id,
    entry ->> 'caller' AS caller, entry ->> 'method' AS method, entry ->> 'resource' AS resource,
    entry ->> 'outcome' AS outcome, coalesce(entry ->> 'detail', '') AS detail, leaf_index, entry
  FROM (
    SELECT tenant_id, entry_id, NULL AS leaf_index, leaf::jsonb AS entry
      FROM audit_inbox, string_to_table(leaves, E'\n') AS leaf
    UNION ALL SELECT tenant_id, entry_id, leaf_index, leaf::jsonb FROM audit_log) AS e;
GRANT SELECT ON audit_entries TO keyward_service, keyward_reconciler;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0011_audit_groups', '0.1.0');
