-- How a key stands is sealed: its name, its state, its primary version, and the states of all its versions.
--
-- From here on a key whose state isn't sealed is refused, so run `keyward-server token seal-states` once after this, before
-- the new code serves: docs/deployment.md, "Upgrades". What ran before changes states without sealing them; end it first.

-- The HMAC over what docs/ciphertext.md says, and the seal key that it was computed by. Neither where the tenant is shredded:
-- its keys are refused whatever becomes of its row.
ALTER TABLE keys
  ADD COLUMN state_seal_key_id uuid,
  ADD COLUMN state_seal bytea CHECK (octet_length(state_seal) = 32),
  ADD CONSTRAINT keys_state_seal_check1 CHECK ((state_seal IS NULL) = (state_seal_key_id IS NULL));
-- What is still under a seal key that was replaced, in the order in which it is walked.
CREATE INDEX keys_state_seal_key ON keys (state_seal_key_id, tenant_id, key_id);
GRANT UPDATE (state_seal_key_id, state_seal) ON keys TO keyward_service, keyward_reconciler;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0007_sealed_states', '0.1.0');
