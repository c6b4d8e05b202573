/**
 * What has to hold of keys, versions, stored data keys, jobs and the audit log: at every instant, and when all is done.
 *
 * Each invariant is a sentence and a function that names what breaks it. Reads as superuser and asks real agents; knows
 * no fault and no order of steps.
 */
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { NO_SUBJECT, PURPOSE } from '../../src/hsm/ciphertext.ts';
import { encode } from '../../src/hsm/codec.ts';
import { sealedKeyVersion } from '../../src/hsm/key-version.ts';
import { type DataKeyId, idToBytes, type JobId, type KeyId } from '../../src/ids.ts';
import { contextDigest } from '../../src/keyring/encryption-context.ts';
import { SELF } from '../../src/keyring/mutations.ts';
import {
  fromVersionRow,
  type KeyVersionRecord,
  type LifecycleState,
  VERSION_COLUMNS,
  type VersionRow,
} from '../../src/store/key-versions.ts';
import type { JobState } from '../../src/store/rewrap-jobs.ts';
import { BEGINNING, soon, TENANT, type World } from './world.ts';

const DIGEST = contextDigest(new Map());

interface KeyRow {
  readonly id: KeyId;
  readonly name: string;
  readonly state: LifecycleState;
  readonly primary: number;
  /** By its schedule or by its use. */
  readonly rotationIsDue: boolean;
  readonly destructionIsDue: boolean;
  /** Its time had come when it was destroyed. */
  readonly wasDue: boolean;
}

interface DataKeyRow {
  readonly keyId: KeyId;
  readonly name: string;
  readonly dataKeyId: DataKeyId;
  readonly digest: Buffer;
  readonly ciphertext: Buffer;
  readonly version: number;
}

interface JobRow {
  readonly id: JobId;
  readonly tenant: string;
  readonly state: JobState;
  readonly planned: boolean;
  readonly rangesMade: number;
  readonly rangesThere: number;
  readonly total: number;
  readonly done: number | null;
  readonly failed: number | null;
  readonly failures: number;
}

interface RotationRow {
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
interface Rows {
  readonly keys: readonly KeyRow[];
  readonly versions: readonly (KeyVersionRecord & Pick<KeyRow, 'destructionIsDue' | 'wasDue'>)[];
  readonly dataKeys: readonly DataKeyRow[];
  readonly jobs: readonly JobRow[];
  readonly rotations: readonly RotationRow[];
  readonly entries: readonly Entry[];
  /** Data keys that a job has named as failed, by their full names. */
  readonly failures: readonly string[];
}

/** What an invariant is judged by. */
interface Seen {
  readonly world: World;
  readonly now: Rows;
  readonly first: Rows;
}

interface Invariant {
  readonly says: string;
  /** What breaks it. */
  readonly broken: (seen: Seen) => readonly string[] | Promise<readonly string[]>;
}

/** At every instant. */
const ALWAYS: readonly Invariant[] = [
  {
    says: 'every stored data key opens, under the version that it names, to what was in it',
    broken: unopened,
  },
  { says: 'data keys come and go only by callers and with their key', broken: lostDataKeys },
  { says: 'every version that is not destroyed loads and proves itself', broken: unproven },
  { says: 'what was encrypted opens until its version is destroyed', broken: unreadable },
  {
    says: 'no version is destroyed alone while it is the primary or a data key is under it',
    broken: destroyedInUse,
  },
  { says: 'nothing is destroyed before its time', broken: destroyedEarly },
  {
    says: 'destroyed means erased: a key with all its versions and data keys',
    broken: destroyedByHalves,
  },
  { says: 'versions are numbered from 1 without a gap, and the newest is the primary', broken: misnumbered },
  {
    says: 'each rotation has one row of history, one job and one audit entry',
    broken: unrecordedRotations,
  },
  { says: 'each thing destroyed has one audit entry, and nothing else has', broken: unrecordedDestructions },
  { says: 'each job that came to its end has one audit entry, and no other has', broken: unrecordedEnds },
  { says: 'a job has the ranges that it counts while it runs, and none afterwards', broken: strayRanges },
  { says: 'a finished job has done, or named as failed, exactly what it had planned', broken: miscounted },
];

/** When nobody is at work any more. */
const AT_THE_END: readonly Invariant[] = [
  { says: 'nothing is due but versions that data keys are under', broken: leftDue },
  { says: 'what was due was rotated once, and nothing else was but by callers', broken: misrotated },
  { says: 'every data key of a key in use is under its primary, or named as failed', broken: leftBehind },
  { says: 'every job has ended', broken: leftRunning },
];

/** What doesn't hold now: sentences, each with what breaks it. */
export async function violations(world: World, when: 'always' | 'at the end'): Promise<string[]> {
  const seen = { world, now: await readRows(world, 'public'), first: await readRows(world, BEGINNING) };
  const invariants = when === 'always' ? ALWAYS : [...ALWAYS, ...AT_THE_END];
  const found = await Promise.all(
    invariants.map(async ({ says, broken }) =>
      (await broken(seen)).map((what) => `not so: ${says} (${what})`),
    ),
  );
  return found.flat();
}

async function unopened({ world, now }: Seen): Promise<string[]> {
  const known = new Map([...world.dataKeys.values()].map((each) => [each.dataKeyId, each]));
  return failing(now.dataKeys, async (row) => {
    const version = now.versions.find((each) => each.keyId === row.keyId && each.version === row.version);
    if (version === undefined) return `${row.name}: version ${row.version} is not there`;
    const opened = await open(world, version, idToBytes(row.dataKeyId), row.digest, row.ciphertext);
    const same = known.get(row.dataKeyId)?.plaintext.equals(opened);
    return same ? undefined : `${row.name} under version ${row.version} holds something else`;
  });
}

function lostDataKeys({ world, now }: Seen): string[] {
  const destroyed = now.keys.filter(({ state }) => state === 'DESTROYED').map(({ id }) => id);
  const path = ({ keyId, name, dataKeyId }: Pick<DataKeyRow, 'keyId' | 'name' | 'dataKeyId'>) =>
    `${nameOf(now, keyId)}/${name} ${dataKeyId}`;
  const expected = [...world.dataKeys.values()].filter(({ keyId }) => !destroyed.includes(keyId)).map(path);
  return difference(expected, now.dataKeys.map(path));
}

function unproven({ world, now }: Seen): Promise<string[]> {
  const kept = now.versions.filter(({ state }) => state !== 'DESTROYED');
  return failing(kept, async (version) => {
    const plaintext = randomBytes(16);
    const { ciphertext } = await world.agents.call(
      'seal',
      {
        keyVersion: encode(sealedKeyVersion, version),
        purpose: PURPOSE.payload,
        subject: NO_SUBJECT,
        contextDigest: DIGEST,
        plaintext: Buffer.from(plaintext),
      },
      soon(),
    );
    const opened = await open(world, version, NO_SUBJECT, DIGEST, ciphertext);
    return opened.equals(plaintext) ? undefined : `${versionName(now, version)} opens to something else`;
  });
}

function unreadable({ world, now }: Seen): Promise<string[]> {
  return failing(world.ciphertexts, async ({ keyId, version: number, ciphertext, plaintext }) => {
    const version = now.versions.find((each) => each.keyId === keyId && each.version === number);
    if (version?.state === 'DESTROYED') return undefined;
    if (version === undefined) return `version ${number} is not there`;
    const opened = await open(world, version, NO_SUBJECT, DIGEST, ciphertext);
    return opened.equals(plaintext) ? undefined : `${versionName(now, version)} opens to something else`;
  });
}

function destroyedInUse({ now }: Seen): string[] {
  return now.versions
    .filter(({ keyId, version, state }) => {
      const key = keyOf(now, keyId);
      if (state !== 'DESTROYED' || key?.state === 'DESTROYED') return false;
      return key?.primary === version || referenced(now, { keyId, version });
    })
    .map((version) => versionName(now, version));
}

function destroyedEarly({ now }: Seen): string[] {
  const keys = now.keys.filter(({ state, wasDue }) => state === 'DESTROYED' && !wasDue);
  const versions = now.versions.filter(
    ({ keyId, state, wasDue }) =>
      state === 'DESTROYED' && keyOf(now, keyId)?.state !== 'DESTROYED' && !wasDue,
  );
  return [...keys.map(({ name }) => name), ...versions.map((version) => versionName(now, version))];
}

function destroyedByHalves({ now }: Seen): string[] {
  const halves = now.versions.filter(
    ({ state, wrapped, keyId }) =>
      (state === 'DESTROYED') !== (wrapped.length === 0) ||
      (keyOf(now, keyId)?.state === 'DESTROYED' && state !== 'DESTROYED'),
  );
  const orphans = now.dataKeys.filter(({ keyId }) => keyOf(now, keyId)?.state === 'DESTROYED');
  return [...halves.map((version) => versionName(now, version)), ...orphans.map(({ name }) => name)];
}

function misnumbered({ now }: Seen): string[] {
  return now.keys.flatMap(({ id, name, primary }) => {
    const numbers = numbersOf(now, id);
    const expected = numbers.map((_, index) => index + 1);
    const right = isDeepStrictEqual(numbers, expected) && primary === numbers.length;
    return right ? [] : [`${name}: versions ${numbers}, primary ${primary}`];
  });
}

function unrecordedRotations({ now, first }: Seen): string[] {
  const jobs = new Set(now.jobs.map(({ id }) => id));
  const shared = now.rotations.filter(
    ({ jobId }) => !jobs.has(jobId) || now.rotations.filter((each) => each.jobId === jobId).length > 1,
  );
  const history = now.keys.flatMap(({ id, name }) =>
    difference(
      numbersOf(now, id)
        .slice(1)
        .map((to) => `${name} ${to - 1} → ${to}`),
      now.rotations.filter(({ keyId }) => keyId === id).map(({ from, to }) => `${name} ${from} → ${to}`),
    ),
  );
  const audited = now.keys.flatMap(({ id, name }) => {
    const made = numbersOf(now, id).length - numbersOf(first, id).length;
    const resource = `tenants/${TENANT}/keys/${name}`;
    const said = entriesOf(now, 'RotateKey', resource) - entriesOf(first, 'RotateKey', resource);
    return made === said ? [] : [`${name}: ${made} rotations, ${said} audit entries`];
  });
  return [...shared.map(({ jobId }) => `job ${jobId} is not one rotation's`), ...history, ...audited];
}

function unrecordedDestructions({ now }: Seen): string[] {
  const named = (action: string, resource: string) => `${action} ${resource}`;
  const keys = now.keys.filter(({ state }) => state === 'DESTROYED');
  const versions = now.versions.filter(
    ({ state, keyId }) => state === 'DESTROYED' && keyOf(now, keyId)?.state !== 'DESTROYED',
  );
  return difference(
    [
      ...keys.map(({ name }) => named('DestroyKey', `tenants/${TENANT}/keys/${name}`)),
      ...versions.map((version) => named('DestroyKeyVersion', versionName(now, version))),
    ],
    saidOf(now, ['DestroyKey', 'DestroyKeyVersion']),
  );
}

function unrecordedEnds({ now }: Seen): string[] {
  const ended = now.jobs.filter(({ state }) => state === 'SUCCEEDED' || state === 'PARTIAL');
  return difference(
    ended.map(({ tenant, id }) => `EndRewrapJob tenants/${tenant}/rewrapJobs/${id}`),
    saidOf(now, ['EndRewrapJob']),
  );
}

function strayRanges({ now }: Seen): string[] {
  return now.jobs
    .filter(({ state, rangesMade, rangesThere }) => rangesThere !== (state === 'RUNNING' ? rangesMade : 0))
    .map(({ id, state, rangesMade, rangesThere }) => `${state} job ${id}: ${rangesThere} of ${rangesMade}`);
}

function miscounted({ now }: Seen): string[] {
  return now.jobs
    .filter(({ state, total, done, failed, failures, planned }) => {
      if (state === 'RUNNING' || state === 'CANCELLED' || state === 'SUPERSEDED') return false;
      const right = planned && (failed ?? 0) === failures && (state === 'PARTIAL') === failures > 0;
      return !right || (done ?? 0) + (failed ?? 0) !== total;
    })
    .map((job) => JSON.stringify(job));
}

function leftDue({ now }: Seen): string[] {
  const rotations = now.keys.filter(({ rotationIsDue }) => rotationIsDue).map(({ name }) => name);
  const keys = now.keys.filter(({ destructionIsDue }) => destructionIsDue).map(({ name }) => name);
  const versions = now.versions.filter((each) => each.destructionIsDue && !referenced(now, each));
  return [...rotations, ...keys, ...versions.map((version) => versionName(now, version))];
}

/** No beginning holds a rotation that the service made by itself. */
function misrotated({ now, first }: Seen): string[] {
  return now.keys.flatMap(({ id, name }) => {
    const made = now.rotations.filter(({ keyId, caller }) => keyId === id && caller === SELF).length;
    const wanted = keyOf(first, id)?.rotationIsDue ? 1 : 0;
    return made === wanted ? [] : [`${name}: ${made} times`];
  });
}

function leftBehind({ now }: Seen): string[] {
  return now.dataKeys.flatMap(({ keyId, name, version }) => {
    const key = keyOf(now, keyId);
    if (key === undefined || key.state !== 'ENABLED' || key.primary === version) return [];
    const path = `tenants/${TENANT}/keys/${key.name}/dataKeys/${name}`;
    return now.failures.includes(path) ? [] : [path];
  });
}

function leftRunning({ now }: Seen): string[] {
  return now.jobs.filter(({ state }) => state === 'RUNNING').map((job) => JSON.stringify(job));
}

async function readRows({ superuser }: World, schema: string): Promise<Rows> {
  const read = async <Row extends object>(text: string) => (await superuser.query<Row>(text)).rows;
  await superuser.query(
    `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ${schema}, pg_catalog`,
  );
  const rows = {
    keys: await read<KeyRow>(SELECT_KEYS),
    versions: (await read<VersionRow & { due: boolean; was_due: boolean }>(SELECT_VERSIONS)).map((row) => ({
      ...fromVersionRow(row),
      destructionIsDue: row.due,
      wasDue: row.was_due,
    })),
    dataKeys: await read<DataKeyRow>(SELECT_DATA_KEYS),
    jobs: await read<JobRow>(SELECT_JOBS),
    rotations: await read<RotationRow>(
      'SELECT key_id AS "keyId", from_version AS "from", to_version AS "to", job_id AS "jobId", caller FROM rotations',
    ),
    entries: await read<Entry>(
      `SELECT split_part(method, '/', 2) AS action, resource, count(*)::int AS count FROM audit_entries
       WHERE outcome = 'OK' GROUP BY 1, 2`,
    ),
    failures: (
      await read<{ data_key: string }>('SELECT DISTINCT data_key FROM rewrap_failures ORDER BY 1')
    ).map((row) => row.data_key),
  };
  await superuser.query('COMMIT');
  return rows;
}

const SELECT_KEYS = `SELECT key_id AS id, name, state, primary_version AS "primary",
    (state = 'ENABLED' AND (next_rotation_at <= now() OR usage_limit_reached_at IS NOT NULL)) IS TRUE AS "rotationIsDue",
    (state = 'DESTROY_SCHEDULED' AND destroy_at <= now()) IS TRUE AS "destructionIsDue",
    (destroy_at <= destroyed_at) IS TRUE AS "wasDue"
  FROM keys ORDER BY name`;
const SELECT_VERSIONS = `SELECT ${VERSION_COLUMNS},
    (state = 'DESTROY_SCHEDULED' AND destroy_at <= now()) IS TRUE AS due,
    (destroy_at <= destroyed_at) IS TRUE AS was_due
  FROM key_versions v ORDER BY key_id, version`;
const SELECT_DATA_KEYS = `SELECT key_id AS "keyId", name, data_key_id AS "dataKeyId", context_digest AS digest, ciphertext,
    version
  FROM data_keys ORDER BY key_id, name`;
const SELECT_JOBS = `SELECT job_id AS id, t.name AS tenant, j.state, planned, ranges AS "rangesMade",
    total::float8, done::float8, failed::float8,
    (SELECT count(*)::int FROM rewrap_ranges g WHERE g.job_id = j.job_id) AS "rangesThere",
    (SELECT count(*)::int FROM rewrap_failures f WHERE f.job_id = j.job_id) AS failures
  FROM rewrap_jobs j JOIN tenants t USING (tenant_id) ORDER BY job_id`;

async function open(
  { agents }: World,
  version: KeyVersionRecord,
  subject: Buffer,
  digest: Buffer,
  ciphertext: Buffer,
): Promise<Buffer> {
  const keyVersion = encode(sealedKeyVersion, version);
  const request = { keyVersion, subject, contextDigest: digest, ciphertext };
  return (await agents.call('open', request, soon())).plaintext;
}

/** What is wrong with the items, as `check` says or throws. */
async function failing<Item>(
  items: readonly Item[],
  check: (item: Item) => Promise<string | undefined>,
): Promise<string[]> {
  const wrong = await Promise.all(
    items.map((item) =>
      check(item).catch((error: unknown) => `${error} ${error instanceof Error ? error.cause : ''}`),
    ),
  );
  return wrong.filter((what) => what !== undefined);
}

function keyOf({ keys }: Rows, keyId: KeyId): KeyRow | undefined {
  return keys.find(({ id }) => id === keyId);
}

function nameOf(rows: Rows, keyId: KeyId): string {
  return keyOf(rows, keyId)?.name ?? keyId;
}

function versionName(rows: Rows, { keyId, version }: Pick<KeyVersionRecord, 'keyId' | 'version'>): string {
  return `tenants/${TENANT}/keys/${nameOf(rows, keyId)}/versions/${version}`;
}

function numbersOf({ versions }: Rows, keyId: KeyId): number[] {
  return versions.filter((each) => each.keyId === keyId).map(({ version }) => version);
}

function referenced(
  { dataKeys }: Rows,
  { keyId, version }: Pick<KeyVersionRecord, 'keyId' | 'version'>,
): boolean {
  return dataKeys.some((each) => each.keyId === keyId && each.version === version);
}

function entriesOf({ entries }: Rows, action: string, resource: string): number {
  return entries.find((each) => each.action === action && each.resource === resource)?.count ?? 0;
}

/** What the audit log says of these actions, as often as it says it. */
function saidOf({ entries }: Rows, actions: readonly string[]): string[] {
  return entries
    .filter(({ action }) => actions.includes(action))
    .flatMap(({ action, resource, count }) => Array.from({ length: count }, () => `${action} ${resource}`));
}

/** What is missing and what is too much, each as often as it is. */
function difference(expected: readonly string[], actual: readonly string[]): string[] {
  const left = [...actual];
  const missing = expected.filter((each) => {
    const index = left.indexOf(each);
    if (index !== -1) left.splice(index, 1);
    return index === -1;
  });
  return [...missing.map((each) => `missing: ${each}`), ...left.map((each) => `too much: ${each}`)];
}
