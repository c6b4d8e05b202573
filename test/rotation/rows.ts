/**
 * All that there is in a world's database, as of one instant, in the form in which it is judged.
 *
 * Reads as superuser. Names are full, as `tenants/acme/keys/daily`. Knows what the rows are, and
 * not what has to hold.
 */
import type { AnyId, DataKeyId, JobId, KeyId, TenantId } from '../../src/ids.ts';
import type { TokenObjectRole, TokenObjectState } from '../../src/store/hsm-token/token-objects.ts';
import {
  fromStateRow,
  type KeyStateRecord,
  type LifecycleState,
  STATES,
  type StateRow,
} from '../../src/store/keys/key-states.ts';
import {
  fromVersionRow,
  type KeyVersionRecord,
  VERSION_COLUMNS,
  type VersionRow,
} from '../../src/store/keys/key-versions.ts';
import type { JobKind, JobState } from '../../src/store/lifecycle/rewrap-jobs.ts';
import type { TenantState } from '../../src/store/tenants/tenants.ts';
import type { World } from './world.ts';

export interface TenantRow {
  readonly id: TenantId;
  readonly name: string;
  readonly state: TenantState;
  readonly dedicatedRootKey: boolean;
  readonly shreddingIsDue: boolean;
  /** Its time had come when it was shredded. */
  readonly wasDue: boolean;
  /** How many keys and stored data keys it has, as they are counted. */
  readonly countedKeys: number;
  readonly countedDataKeys: number;
}

/** A root or seal key. */
export interface TokenKeyRow {
  readonly id: AnyId;
  readonly name: string;
  readonly tenantId: TenantId;
  readonly ofSystem: boolean;
  readonly role: TokenObjectRole;
  readonly state: TokenObjectState;
  readonly isCurrent: boolean;
  /** Made by `token init`. */
  readonly isFirst: boolean;
  readonly wasActivated: boolean;
  /** Its tenant had been shredded when it was recorded. */
  readonly isTooLate: boolean;
  readonly jobId: JobId | null;
}

export interface KeyRow {
  readonly id: KeyId;
  readonly name: string;
  readonly tenantId: TenantId;
  readonly tenantState: TenantState;
  readonly state: LifecycleState;
  readonly primary: number;
  /** By its schedule or by its use. */
  readonly rotationIsDue: boolean;
  readonly destructionIsDue: boolean;
  /** Its time had come when it was destroyed. */
  readonly wasDue: boolean;
}

export type KeyVersionRow = KeyVersionRecord & Pick<KeyRow, 'destructionIsDue' | 'wasDue'>;

export interface DataKeyRow {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly name: string;
  readonly dataKeyId: DataKeyId;
  readonly digest: Buffer;
  readonly ciphertext: Buffer;
  readonly version: number;
}

export interface JobRow {
  readonly id: JobId;
  readonly tenant: string;
  readonly kind: JobKind;
  readonly state: JobState;
  readonly planned: boolean;
  readonly rangesMade: number;
  readonly rangesThere: number;
  readonly total: number;
  readonly done: number | null;
  readonly failed: number | null;
  readonly failures: number;
}

export interface RotationRow {
  readonly keyId: KeyId;
  readonly from: number;
  readonly to: number;
  readonly jobId: JobId;
  readonly caller: string;
}

/** What the audit log says was done, and how often. */
interface Entry {
  /** The method's last part. */
  readonly action: string;
  readonly resource: string;
  readonly count: number;
}

/** All of it, as of one instant. */
export interface Rows {
  readonly tenants: readonly TenantRow[];
  readonly tokenKeys: readonly TokenKeyRow[];
  /** What each replica that runs says that it holds, now. */
  readonly held: readonly (readonly AnyId[])[];
  readonly keys: readonly KeyRow[];
  readonly versions: readonly KeyVersionRow[];
  /** How each key stands, and the seal of that. */
  readonly states: readonly KeyStateRecord[];
  readonly dataKeys: readonly DataKeyRow[];
  readonly jobs: readonly JobRow[];
  readonly rotations: readonly RotationRow[];
  readonly entries: readonly Entry[];
  /** Data keys and key versions that a job has named as failed. */
  readonly failures: readonly string[];
}

/** What an invariant is judged by. */
export interface Seen {
  readonly world: World;
  readonly now: Rows;
  readonly first: Rows;
}

export interface Invariant {
  readonly says: string;
  /** What breaks it. */
  readonly broken: (seen: Seen) => readonly string[] | Promise<readonly string[]>;
}

/** All there is in that schema. */
export async function readRows({ superuser }: World, schema: string): Promise<Rows> {
  const read = async <Row extends object>(text: string) => (await superuser.query<Row>(text)).rows;
  await superuser.query(
    `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ${schema}, pg_catalog`,
  );
  const rows = {
    tenants: await read<TenantRow>(SELECT_TENANTS),
    tokenKeys: await read<TokenKeyRow>(SELECT_TOKEN_KEYS),
    held: (await read<{ held: AnyId[] }>(SELECT_HELD)).map(({ held }) => held),
    keys: await read<KeyRow>(SELECT_KEYS),
    versions: (await read<VersionRow & { due: boolean; was_due: boolean }>(SELECT_VERSIONS)).map(
      (row) => ({
        ...fromVersionRow(row),
        destructionIsDue: row.due,
        wasDue: row.was_due,
      }),
    ),
    states: (await read<StateRow>(SELECT_STATES)).map(fromStateRow),
    dataKeys: await read<DataKeyRow>(SELECT_DATA_KEYS),
    jobs: await read<JobRow>(SELECT_JOBS),
    rotations: await read<RotationRow>(SELECT_ROTATIONS),
    entries: await read<Entry>(SELECT_ENTRIES),
    failures: (await read<{ resource: string }>(SELECT_FAILURES)).map(({ resource }) => resource),
  };
  await superuser.query('COMMIT');
  return rows;
}

function countedAs(kind: string): string {
  return `(SELECT coalesce(sum(count), 0)::int FROM tenant_counts c WHERE c.tenant_id = t.tenant_id AND c.kind = '${kind}')`;
}

const SELECT_TENANTS = `SELECT tenant_id AS id, name, state, dedicated_root_key AS "dedicatedRootKey",
    (state = 'SHRED_SCHEDULED' AND shred_at <= now()) IS TRUE AS "shreddingIsDue",
    (shred_at <= shredded_at) IS TRUE AS "wasDue",
    ${countedAs('keys')} AS "countedKeys", ${countedAs('stored-data-keys')} AS "countedDataKeys"
  FROM tenants t ORDER BY name`;
const SELECT_TOKEN_KEYS = `SELECT o.object_id AS id, 'tenants/' || t.name || '/tokenKeys/' || o.object_id AS name,
    o.tenant_id AS "tenantId", t.name = 'system' AS "ofSystem", o.role, o.state, o.is_current AS "isCurrent",
    o.caller = '' AS "isFirst", o.activated_at IS NOT NULL AS "wasActivated",
    (o.created_at > t.shredded_at) IS TRUE AS "isTooLate", o.job_id AS "jobId"
  FROM token_objects o JOIN tenants t USING (tenant_id)
  WHERE o.role IN ('root', 'seal') ORDER BY o.created_at, o.object_id`;
// Of the beginning nothing is kept.
const SELECT_HELD = `SELECT held FROM public.replicas WHERE seen_at > clock_timestamp() - interval '10 seconds'`;
const SELECT_KEYS = `SELECT k.key_id AS id, 'tenants/' || t.name || '/keys/' || k.name AS name,
    k.tenant_id AS "tenantId", t.state AS "tenantState", k.state, k.primary_version AS "primary",
    (k.state = 'ENABLED' AND (k.next_rotation_at <= now() OR k.usage_limit_reached_at IS NOT NULL)) IS TRUE
      AS "rotationIsDue",
    (k.state = 'DESTROY_SCHEDULED' AND k.destroy_at <= now()) IS TRUE AS "destructionIsDue",
    (k.destroy_at <= k.destroyed_at) IS TRUE AS "wasDue"
  FROM keys k JOIN tenants t USING (tenant_id) ORDER BY 2`;
const SELECT_VERSIONS = `SELECT ${VERSION_COLUMNS},
    (state = 'DESTROY_SCHEDULED' AND destroy_at <= now()) IS TRUE AS due,
    (destroy_at <= destroyed_at) IS TRUE AS was_due
  FROM key_versions v ORDER BY key_id, version`;
const SELECT_STATES = `SELECT ${STATES} FROM keys k`;
const SELECT_DATA_KEYS = `SELECT tenant_id AS "tenantId", key_id AS "keyId", name, data_key_id AS "dataKeyId",
    context_digest AS digest, ciphertext, version
  FROM data_keys ORDER BY key_id, name`;
const SELECT_JOBS = `SELECT job_id AS id, t.name AS tenant, j.kind, j.state, planned, ranges AS "rangesMade",
    total::float8, done::float8, failed::float8,
    (SELECT count(*)::int FROM rewrap_ranges g WHERE g.job_id = j.job_id) AS "rangesThere",
    (SELECT count(*)::int FROM rewrap_failures f WHERE f.job_id = j.job_id) AS failures
  FROM rewrap_jobs j JOIN tenants t USING (tenant_id) ORDER BY job_id`;
const SELECT_ROTATIONS = `SELECT key_id AS "keyId", from_version AS "from", to_version AS "to", job_id AS "jobId", caller
  FROM rotations`;
// Nobody makes leaves of them here.
const SELECT_ENTRIES = `SELECT split_part(leaf::json ->> 'method', '/', 2) AS action, leaf::json ->> 'resource' AS resource,
    count(*)::int AS count
  FROM audit_inbox, string_to_table(leaves, E'\\n') AS leaf WHERE leaf::json ->> 'outcome' = 'OK' GROUP BY 1, 2`;
const SELECT_FAILURES = 'SELECT DISTINCT resource FROM rewrap_failures ORDER BY 1';

export function keyOf({ keys }: Rows, keyId: KeyId): KeyRow | undefined {
  return keys.find(({ id }) => id === keyId);
}

/** Its key's full name. */
export function nameOfKey(rows: Rows, keyId: KeyId): string {
  return keyOf(rows, keyId)?.name ?? keyId;
}

export function versionName(
  rows: Rows,
  { keyId, version }: Pick<KeyVersionRecord, 'keyId' | 'version'>,
): string {
  return `${nameOfKey(rows, keyId)}/versions/${version}`;
}

/** How often the audit log says so. */
export function entriesOf({ entries }: Rows, action: string, resource: string): number {
  return entries.find((each) => each.action === action && each.resource === resource)?.count ?? 0;
}

/** What the audit log says of these actions, as often as it says it. */
export function saidOf({ entries }: Rows, actions: readonly string[]): string[] {
  return entries
    .filter(({ action }) => actions.includes(action))
    .flatMap(({ action, resource, count }) =>
      Array.from({ length: count }, () => `${action} ${resource}`),
    );
}

/** What is missing and what is too much, each as often as it is. */
export function difference(expected: readonly string[], actual: readonly string[]): string[] {
  const left = [...actual];
  const missing = expected.filter((each) => {
    const index = left.indexOf(each);
    if (index !== -1) left.splice(index, 1);
    return index === -1;
  });
  return [...missing.map((each) => `missing: ${each}`), ...left.map((each) => `too much: ${each}`)];
}
