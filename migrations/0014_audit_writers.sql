-- Rows of the inbox are proven: each has the replica that wrote it, the number that it has in one
-- of the replica's streams, and an HMAC under a key that the HSM derives for that replica
-- (docs/audit.md). And a generation of the log begins with a note that the token has signed.
--
-- Runs under release 0.1.0, whose code writes rows without a proof: end it before. What waits in
-- the inbox now has none, and is taken once, which is recorded in the log itself.

ALTER TABLE audit_inbox
  -- Null in rows from before, and in those of a command without the token.
  ADD COLUMN replica_id uuid,
  ADD COLUMN stream bigint,
  ADD COLUMN row_number bigint,
  -- By which of the token's keys the replica's key was derived.
  ADD COLUMN mask_key_id uuid,
  ADD COLUMN mac bytea,
  DROP CONSTRAINT audit_inbox_entry_count_check,
  -- One without entries says that its stream had no more rows than those before it.
  ADD CHECK (entry_count >= 0);

-- What the sequencer remembers of each replica: the last number of each of its streams. Under an
-- HMAC of the HSM's, together with the size of the tree that it goes with.
CREATE TABLE audit_writers (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  content text NOT NULL,
  mask_key_id uuid NOT NULL,
  mac bytea NOT NULL
);
REVOKE ALL ON audit_writers FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE (content, mask_key_id, mac) ON audit_writers TO keyward_reconciler;

-- How each generation of the log after the first was begun: the entry that is its first leaf, with
-- the note that the token has signed at an operator's command.
CREATE TABLE audit_generations (
  generation integer PRIMARY KEY CHECK (generation > 1),
  leaf text NOT NULL
);
REVOKE ALL ON audit_generations FROM PUBLIC;
GRANT SELECT ON audit_generations TO keyward_service, keyward_reconciler;

DROP FUNCTION IF EXISTS append_audit_entries(text[], integer[], text);
DROP FUNCTION IF EXISTS append_audit_entries(uuid[], integer[], text);
-- Adds rows of one stream, numbered from `first_number` on: of each its tenant, how many entries it
-- has, its HMAC, and the entries, line by line; a blank line between two rows. Fails unless all of
-- them were added. A function, so that its statement is planned once for a session.
CREATE FUNCTION append_audit_rows(replica_id uuid, stream bigint, first_number bigint,
    mask_key_id uuid, tenant_ids uuid[], entry_counts integer[], macs bytea[], rows text)
  RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
END $$;
REVOKE ALL ON FUNCTION append_audit_rows FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_audit_rows TO keyward_service;

-- An entry, or null where a line is no JSON that can be read: one that was put there by someone
-- else must not keep the others from being read.
CREATE FUNCTION readable_entry(leaf text) RETURNS jsonb
  LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN leaf::jsonb;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $$;

-- As it was, and with what is not readable: its columns are null.
DROP VIEW audit_entries;
CREATE VIEW audit_entries WITH (security_invoker = true) AS
  SELECT tenant_id, entry_id, (entry ->> 'time')::timestamptz AS at,
    (entry ->> 'requestId')::uuid AS request_id,
    entry ->> 'caller' AS caller, entry ->> 'method' AS method, entry ->> 'resource' AS resource,
    entry ->> 'outcome' AS outcome, coalesce(entry ->> 'detail', '') AS detail, leaf_index, entry
  FROM (
    SELECT tenant_id, entry_id, NULL AS leaf_index, readable_entry(leaf) AS entry
      FROM audit_inbox, string_to_table(leaves, E'\n') AS leaf
    UNION ALL SELECT tenant_id, entry_id, leaf_index, readable_entry(leaf) FROM audit_log) AS e;
GRANT SELECT ON audit_entries TO keyward_service, keyward_reconciler;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0014_audit_writers', '0.1.0');
