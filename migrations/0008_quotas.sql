-- Quotas of tenants: calls per second, keys, stored data keys.
--
-- Runs under release 0.1.0: its code reads none of this, and what it inserts and deletes is counted all the same.

-- Null: the service's default.
ALTER TABLE tenants
  ADD COLUMN quota_calls_per_second bigint CHECK (quota_calls_per_second > 0),
  ADD COLUMN quota_keys bigint CHECK (quota_keys > 0),
  ADD COLUMN quota_stored_data_keys bigint CHECK (quota_stored_data_keys > 0);
GRANT UPDATE (quota_calls_per_second, quota_keys, quota_stored_data_keys) ON tenants TO keyward_service;

-- How many keys that are not destroyed, and how many stored data keys each tenant has: the sum of its parts. A transaction
-- changes a part that no other one is changing, and adds a part when there is none; so nobody waits for a count, no two
-- transactions can block each other by one, and a tenant has about as many parts as it ever had transactions at once.
-- Adding a data key took a tenth longer for it, deleting a million no longer than before.
CREATE TABLE tenant_counts (
  tenant_id uuid NOT NULL REFERENCES tenants,
  kind text NOT NULL CHECK (kind IN ('keys', 'stored-data-keys')),
  part uuid NOT NULL DEFAULT gen_random_uuid(),
  count bigint NOT NULL,
  PRIMARY KEY (tenant_id, kind, part)
) WITH (fillfactor = 50);
ALTER TABLE tenant_counts ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_current_tenant ON tenant_counts USING (tenant_id = current_tenant_id());
GRANT SELECT ON tenant_counts TO keyward_service;

-- With the owner's rights, as all that counts: the service can't make a count say anything else than what there is.
CREATE FUNCTION add_to_count(of_tenant uuid, of_kind text, difference bigint) RETURNS void LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, public AS $$
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
END $$;

-- What came and what went in one statement, in the transaction that it is part of. A key that is destroyed has gone.
CREATE FUNCTION count_keys() RETURNS trigger LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, public AS $$
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
END $$;

CREATE FUNCTION count_data_keys() RETURNS trigger LANGUAGE plpgsql
  SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM add_to_count(tenant_id, 'stored-data-keys', count(*)) FROM came GROUP BY tenant_id;
  ELSE
    PERFORM add_to_count(tenant_id, 'stored-data-keys', -count(*)) FROM gone GROUP BY tenant_id;
  END IF;
  RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION add_to_count(uuid, text, bigint), count_keys(), count_data_keys() FROM PUBLIC;

-- Nobody deletes a key's row. Making these keeps others from writing until all of this is committed, so that nothing comes or
-- goes between here and the count below.
CREATE TRIGGER count_new AFTER INSERT ON keys REFERENCING NEW TABLE AS came
  FOR EACH STATEMENT EXECUTE FUNCTION count_keys();
CREATE TRIGGER count_destroyed AFTER UPDATE ON keys REFERENCING OLD TABLE AS gone NEW TABLE AS came
  FOR EACH STATEMENT EXECUTE FUNCTION count_keys();
CREATE TRIGGER count_new AFTER INSERT ON data_keys REFERENCING NEW TABLE AS came
  FOR EACH STATEMENT EXECUTE FUNCTION count_data_keys();
CREATE TRIGGER count_deleted AFTER DELETE ON data_keys REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION count_data_keys();

INSERT INTO tenant_counts (tenant_id, kind, count)
  SELECT tenant_id, 'keys', count(*) FROM keys WHERE state <> 'DESTROYED' GROUP BY tenant_id
  UNION ALL SELECT tenant_id, 'stored-data-keys', count(*) FROM data_keys GROUP BY tenant_id;

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;

INSERT INTO schema_releases (migration, oldest_release) VALUES ('0008_quotas', '0.1.0');
