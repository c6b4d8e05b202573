-- What every replica asks again and again is found by an index, however many tenants, bindings and
-- jobs there are.
--
-- Runs under release 0.2.0.

-- Tenants that are to have a root key of their own: asked for at every tick.
CREATE INDEX tenants_dedicated ON tenants (tenant_id) WHERE dedicated_root_key;
-- Whether a policy is sealed by a seal key that was replaced: asked for at every tick.
CREATE INDEX access_policies_seal_key ON access_policies (seal_key_id, tenant_id);
-- Bindings that expire soon: asked for every ten minutes.
CREATE INDEX role_bindings_expiring ON role_bindings (expires_at) WHERE expires_at IS NOT NULL;
-- The newest job of a key: asked for by whoever starts one.
CREATE INDEX rewrap_jobs_by_scope ON rewrap_jobs (tenant_id, scope, kind, job_id);
-- The job of a key that runs: ended by whatever rotates the key again.
CREATE INDEX rewrap_jobs_of_key ON rewrap_jobs (tenant_id, scope_key_id) WHERE state = 'RUNNING';

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0025_many_keys', '0.2.0');
