-- Tenants are sealed: name, state, root key of its own, times of creation and shredding, quotas,
-- and a revision.
--
-- From here on a tenant that isn't sealed is refused, `system` among them, so run `keyward-server
-- token seal-states` once after this, before the new code serves: docs/deployment.md, "Upgrades".
-- What ran before changes tenants without sealing them; end it first.

-- The HMAC over what docs/ciphertext.md says, and the seal key that it was computed by. Null only
-- in rows that nobody has sealed yet: what `migrate` makes, `token init` seals.
ALTER TABLE tenants
  ADD COLUMN seal_key_id uuid,
  ADD COLUMN seal bytea CHECK (octet_length(seal) = 32),
  ADD CONSTRAINT tenants_seal_check1 CHECK ((seal IS NULL) = (seal_key_id IS NULL));
-- What is still under a seal key that was replaced, in the order in which it is walked.
CREATE INDEX tenants_seal_key ON tenants (seal_key_id, tenant_id);
GRANT UPDATE (seal_key_id, seal) ON tenants TO keyward_service, keyward_reconciler;

-- Whose an audit entry is, the service says by the UUID of a tenant that it has verified: a name in
-- the database proves nothing.
DROP FUNCTION append_audit_entries(text[], integer[], text);
-- Adds groups: of each its tenant, how many entries it has, and the entries, line by line; a blank
-- line between two groups. A function, so that its statement is planned once for a session.
CREATE FUNCTION append_audit_entries(tenant_ids uuid[], entry_counts integer[], groups text)
  RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO public.audit_inbox (tenant_id, entry_count, leaves)
    SELECT n.tenant_id, n.entry_count, n.leaves
    FROM unnest(tenant_ids, entry_counts, string_to_array(groups, E'\n\n'))
      AS n (tenant_id, entry_count, leaves);
END $$;
REVOKE ALL ON FUNCTION append_audit_entries(uuid[], integer[], text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_audit_entries(uuid[], integer[], text) TO keyward_service;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0012_sealed_tenants', '0.1.0');
