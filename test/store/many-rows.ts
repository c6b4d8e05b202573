/**
 * A database as a large environment has it: many tenants, keys, stored data keys, bindings and
 * entries of the audit log, made by the database itself, with statistics as they then are.
 *
 * Nothing in the rows was made by an HSM. What a row is called follows from its number, and its
 * UUID from its name, so that they are spread as UUIDs are.
 */
import type { KeyId, SealKeyId, TenantId } from '../../src/ids.ts';
import { recordSampleKeys, sampleVersion, type TestDatabase } from './database.ts';

/** How much of each there is. */
export interface Amounts {
  readonly tenants: number;
  readonly keys: number;
  readonly dataKeys: number;
  /** In one tenant; others have one each. */
  readonly bindings: number;
  readonly entries: number;
}

/** What of it the statements of a test are about. */
export interface Subject {
  readonly tenantId: TenantId;
  /** Has a tenth of all stored data keys. */
  readonly keyId: KeyId;
  /** Was replaced, and has nothing under it. */
  readonly formerSealKey: SealKeyId;
}

/** As SQL: the UUID of what is called so. */
const uuid = (name: string) => `md5(${name})::uuid`;
const TENANT = (n: string) => uuid(`'tenant ' || ${n}`);
const KEY = (n: string) => uuid(`'key ' || ${n}`);
/** Leaves of one partition of the log. */
const PARTITION = 2 ** 20;
/** So many hashes a tile of the log has. */
const TILE = 256;

/** Fills a new database, and has Postgres look at it. */
export async function fillWithMany(database: TestDatabase, amounts: Amounts): Promise<Subject> {
  await recordSampleKeys(database);
  // Without triggers: nothing is checked or counted, row by row.
  await database.sql(
    ['SET session_replication_role = replica', ...statements(amounts)].join(';\n'),
  );
  await database.sql('VACUUM (ANALYZE)');
  const [subject] = await database.sql<Subject & Record<string, unknown>>(
    `SELECT ${TENANT('1')} AS "tenantId", ${KEY('1')} AS "keyId",
       ${uuid("'former seal key'")} AS "formerSealKey"`,
  );
  if (subject === undefined) throw new Error('nothing was made');
  return subject;
}

function statements({ tenants, keys, dataKeys, bindings, entries }: Amounts): string[] {
  const each = (count: number) => `FROM generate_series(1, ${count}) n`;
  const bytes = (length: number) => `decode(repeat('07', ${length}), 'hex')`;
  const version = sampleVersion('' as TenantId, '' as KeyId);
  const ofTenant = TENANT(`1 + (n - 1) % ${tenants}`);
  // Every tenth data key is of the first key.
  const ofKey = `CASE WHEN n % 10 = 0 THEN 1 ELSE 1 + n % ${keys} END`;
  const partitions = Array.from(
    { length: Math.ceil(entries / PARTITION) },
    (_, index) => `SELECT make_audit_partition(${index * PARTITION})`,
  );
  return [
    // A seal key that was replaced, under which nothing is any more.
    `INSERT INTO token_objects (tenant_id, object_id, role, token_id, is_current, state)
     SELECT tenant_id, ${uuid("'former seal key'")}, role, token_id, false, 'RETIRED'
     FROM token_objects WHERE role = 'seal'`,
    `INSERT INTO tenants (tenant_id, name, seal_key_id, seal)
     SELECT ${TENANT('n')}, 't-' || n, '${version.sealKeyId}', ${bytes(32)} ${each(tenants)}`,
    `INSERT INTO access_policies (tenant_id, revision, seal_key_id, seal)
     SELECT ${TENANT('n')}, 1, '${version.sealKeyId}', ${bytes(32)} ${each(tenants)}`,
    `INSERT INTO role_bindings (tenant_id, binding_id, member_kind, member, role, key_pattern,
       all_tenants, conditions, overrides_separation, description, created_at, creator)
     SELECT CASE WHEN n > ${tenants} THEN ${TENANT('1')} ELSE ${TENANT('n')} END, 'b-' || n,
       'principal', 'service-' || n, 'roles/encrypter', '', false, '[]', false, '', now(), 'test'
     ${each(tenants + bindings)}`,
    `INSERT INTO keys (tenant_id, key_id, name, primary_version, rotation_period_seconds,
       next_rotation_at, rotation_usage_limit, state_seal_key_id, state_seal)
     SELECT ${ofTenant}, ${KEY('n')}, 'k-' || n, 1, 7776000,
       now() + interval '1 day' * (1 + n % 90), 1000000, '${version.sealKeyId}', ${bytes(32)}
     ${each(keys)}`,
    `INSERT INTO key_versions (tenant_id, key_id, version, state, algorithm, root_key_id, wrap,
       wrapped, check_value, seal_key_id, seal)
     SELECT ${ofTenant}, ${KEY('n')}, 1, 'ENABLED', 1, '${version.rootKeyId}', 1, ${bytes(72)},
       ${bytes(16)}, '${version.sealKeyId}', ${bytes(32)} ${each(keys)}`,
    `INSERT INTO key_version_usage
     SELECT ${ofTenant}, ${KEY('n')}, 1, n, now(), n, now() ${each(keys)}`,
    `INSERT INTO rewrap_jobs (tenant_id, job_id, scope, scope_tenant_id, scope_key_id, cause, caller,
       state, ended_at, planned, done, failed)
     SELECT ${ofTenant}, ${uuid("'job ' || n")}, 'tenants/t/keys/k-' || n, ${ofTenant}, ${KEY('n')},
       'schedule', 'service', CASE WHEN n % 100 = 0 THEN 'RUNNING' ELSE 'SUCCEEDED' END,
       CASE WHEN n % 100 > 0 THEN now() END, true, CASE WHEN n % 100 > 0 THEN 0 END,
       CASE WHEN n % 100 > 0 THEN 0 END ${each(keys)}`,
    `INSERT INTO rotations (tenant_id, key_id, from_version, to_version, cause, caller, duration_ms,
       job_id)
     SELECT ${ofTenant}, ${KEY('n')}, 0, 1, 'schedule', 'service', 1, ${uuid("'job ' || n")}
     ${each(keys)}`,
    `INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
     SELECT ${TENANT(`1 + (k - 1) % ${tenants}`)}, ${KEY('k')}, 'd-' || n, ${uuid("'data key ' || n")},
       ${bytes(32)}, '\\x01010300'::bytea || uuid_send(${KEY('k')}) || '\\x00000001'::bytea
         || ${bytes(128)}
     FROM (SELECT n, ${ofKey} AS k ${each(dataKeys)}) d`,
    `INSERT INTO tenant_counts (tenant_id, kind, count)
     SELECT ${TENANT('n')}, kind, 1000 ${each(tenants)}, unnest(ARRAY['keys', 'stored-data-keys']) kind`,
    `INSERT INTO changes (tenant_id, kind, subject_id)
     SELECT ${ofTenant}, 'key', ${KEY('n')} ${each(keys)}`,
    `INSERT INTO request_ids (tenant_id, caller, method, request_id, fingerprint)
     SELECT ${ofTenant}, 'service-' || n, 'CreateKey', ${uuid("'request ' || n")}, ${bytes(32)}
     ${each(keys)}`,
    `INSERT INTO caller_hours
     SELECT 'service-' || n % ${tenants}, date_trunc('hour', now()) - interval '1 hour' * (n / ${tenants}),
       1, 1, 1, 0, 0 ${each(Math.min(keys, tenants * 500))}`,
    `INSERT INTO caller_keys (caller, key)
     SELECT 'service-' || n % ${tenants}, 'k-' || n ${each(keys)}`,
    ...partitions,
    `INSERT INTO audit_log (tenant_id, leaf_index, leaf)
     SELECT ${ofTenant}, n - 1, '{"time":"2026-01-01T00:00:00.000Z","caller":"service-' || n || '"}'
     ${each(entries)}`,
    `INSERT INTO audit_tiles (level, tile_index, hashes)
     SELECT 0, n - 1, ${bytes(32 * TILE)} ${each(Math.floor(entries / TILE))}`,
    `UPDATE audit_state SET tree_size = ${entries}`,
    `INSERT INTO audit_checkpoints (tree_size, generation, root_hash, note, public_key, cosignatures,
       signed_at)
     SELECT n, 1, ${bytes(32)}, 'note ' || n, '', '{}', now() ${each(10)}`,
    `INSERT INTO audit_inbox (tenant_id, leaves) SELECT ${ofTenant}, '{}' ${each(100)}`,
  ];
}
