/**
 * What has to hold of keys, versions, stored data keys, jobs and the audit log: at every instant,
 * and when all is done.
 *
 * Each invariant is a sentence and a function that names what breaks it. Asks real agents; knows no
 * fault and no order of steps. What has to hold of token keys, of tenants and of the seals of
 * states is in `token-invariants.ts`, `tenant-invariants.ts` and `state-invariants.ts`.
 */
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { SELF } from '../../src/call.ts';
import { NO_SUBJECT, PURPOSE } from '../../src/hsm/ciphertext.ts';
import { encode } from '../../src/hsm/codec.ts';
import { sealedKeyVersion } from '../../src/hsm/key-version.ts';
import { idToBytes, type KeyId } from '../../src/ids.ts';
import { contextDigest } from '../../src/keyring/keys/encryption-context.ts';

import type { KeyVersionRecord } from '../../src/store/keys/key-versions.ts';
import {
  type DataKeyRow,
  difference,
  entriesOf,
  type Invariant,
  keyOf,
  nameOfKey,
  type Rows,
  readRows,
  type Seen,
  saidOf,
  versionName,
} from './rows.ts';
import { STATES_ALWAYS, STATES_AT_THE_END } from './state-invariants.ts';
import { TENANTS_ALWAYS, TENANTS_AT_THE_END } from './tenant-invariants.ts';
import { TOKEN_KEYS_ALWAYS, TOKEN_KEYS_AT_THE_END } from './token-invariants.ts';
import { BEGINNING, soon, type World } from './world.ts';

const DIGEST = contextDigest(new Map());

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
  {
    says: 'versions are numbered from 1 without a gap, and the newest is the primary',
    broken: misnumbered,
  },
  {
    says: 'each rotation has one row of history, one job and one audit entry',
    broken: unrecordedRotations,
  },
  {
    says: 'each thing destroyed has one audit entry, and nothing else has',
    broken: unrecordedDestructions,
  },
  {
    says: 'each job that came to its end has one audit entry, and no other has',
    broken: unrecordedEnds,
  },
  {
    says: 'a job has the ranges that it counts while it runs, and none afterwards',
    broken: strayRanges,
  },
  {
    says: 'a finished job has done, or named as failed, exactly what it had planned',
    broken: miscounted,
  },
  ...STATES_ALWAYS,
  ...TOKEN_KEYS_ALWAYS,
  ...TENANTS_ALWAYS,
];

/** When nobody is at work any more. */
const AT_THE_END: readonly Invariant[] = [
  { says: 'nothing is due but versions that data keys are under', broken: leftDue },
  {
    says: 'what was due was rotated once, and nothing else was but by callers',
    broken: misrotated,
  },
  {
    says: 'every data key of a key in use is under its primary, or named as failed',
    broken: leftBehind,
  },
  { says: 'every job has ended', broken: leftRunning },
  ...STATES_AT_THE_END,
  ...TOKEN_KEYS_AT_THE_END,
  ...TENANTS_AT_THE_END,
];

/** What doesn't hold now: sentences, each with what breaks it. */
export async function violations(world: World, when: 'always' | 'at the end'): Promise<string[]> {
  const seen = {
    world,
    now: await readRows(world, 'public'),
    first: await readRows(world, BEGINNING),
  };
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
    const version = now.versions.find(
      (each) => each.keyId === row.keyId && each.version === row.version,
    );
    if (version === undefined) return `${row.name}: version ${row.version} is not there`;
    const opened = await open(world, version, idToBytes(row.dataKeyId), row.digest, row.ciphertext);
    const same = known.get(row.dataKeyId)?.plaintext.equals(opened);
    return same ? undefined : `${row.name} under version ${row.version} holds something else`;
  });
}

function lostDataKeys({ world, now }: Seen): string[] {
  const destroyed = now.keys.filter(({ state }) => state === 'DESTROYED').map(({ id }) => id);
  const path = ({ keyId, name, dataKeyId }: Pick<DataKeyRow, 'keyId' | 'name' | 'dataKeyId'>) =>
    `${nameOfKey(now, keyId)}/${name} ${dataKeyId}`;
  const expected = [...world.dataKeys.values()]
    .filter(({ keyId }) => !destroyed.includes(keyId))
    .map(path);
  return difference(expected, now.dataKeys.map(path));
}

function unproven({ world, now }: Seen): Promise<string[]> {
  const kept = now.versions.filter(
    (version) => version.state !== 'DESTROYED' && !world.corrupted.has(versionName(now, version)),
  );
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
    return opened.equals(plaintext)
      ? undefined
      : `${versionName(now, version)} opens to something else`;
  });
}

function unreadable({ world, now }: Seen): Promise<string[]> {
  return failing(world.ciphertexts, async ({ keyId, version: number, ciphertext, plaintext }) => {
    const version = now.versions.find((each) => each.keyId === keyId && each.version === number);
    if (version === undefined) return `version ${number} is not there`;
    if (version.state === 'DESTROYED' || world.corrupted.has(versionName(now, version)))
      return undefined;
    const opened = await open(world, version, NO_SUBJECT, DIGEST, ciphertext);
    return opened.equals(plaintext)
      ? undefined
      : `${versionName(now, version)} opens to something else`;
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
  const keys = now.keys.filter(
    ({ state, tenantState, wasDue }) =>
      state === 'DESTROYED' && tenantState !== 'SHREDDED' && !wasDue,
  );
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
  return [
    ...halves.map((version) => versionName(now, version)),
    ...orphans.map(({ name }) => name),
  ];
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
    ({ jobId }) =>
      !jobs.has(jobId) || now.rotations.filter((each) => each.jobId === jobId).length > 1,
  );
  const history = now.keys.flatMap(({ id, name }) =>
    difference(
      numbersOf(now, id)
        .slice(1)
        .map((to) => `${name} ${to - 1} → ${to}`),
      now.rotations
        .filter(({ keyId }) => keyId === id)
        .map(({ from, to }) => `${name} ${from} → ${to}`),
    ),
  );
  const audited = now.keys.flatMap(({ id, name }) => {
    const made = numbersOf(now, id).length - numbersOf(first, id).length;
    const said = entriesOf(now, 'RotateKey', name) - entriesOf(first, 'RotateKey', name);
    return made === said ? [] : [`${name}: ${made} rotations, ${said} audit entries`];
  });
  return [
    ...shared.map(({ jobId }) => `job ${jobId} is not one rotation's`),
    ...history,
    ...audited,
  ];
}

/** What a shredded tenant takes with it has none of its own. */
function unrecordedDestructions({ now, first }: Seen): string[] {
  const named = (action: string, resource: string) => `${action} ${resource}`;
  const keys = now.keys.filter(
    ({ id, state, tenantState }) =>
      state === 'DESTROYED' &&
      (tenantState !== 'SHREDDED' || keyOf(first, id)?.state === 'DESTROYED'),
  );
  const versions = now.versions.filter(
    ({ state, keyId }) => state === 'DESTROYED' && keyOf(now, keyId)?.state !== 'DESTROYED',
  );
  return difference(
    [
      ...keys.map(({ name }) => named('DestroyKey', name)),
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
    .filter(
      ({ state, rangesMade, rangesThere }) =>
        rangesThere !== (state === 'RUNNING' ? rangesMade : 0),
    )
    .map(
      ({ id, state, rangesMade, rangesThere }) =>
        `${state} job ${id}: ${rangesThere} of ${rangesMade}`,
    );
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
    const made = now.rotations.filter(
      ({ keyId, caller }) => keyId === id && caller === SELF,
    ).length;
    const wanted = keyOf(first, id)?.rotationIsDue ? 1 : 0;
    return made === wanted ? [] : [`${name}: ${made} times`];
  });
}

function leftBehind({ now }: Seen): string[] {
  return now.dataKeys.flatMap(({ keyId, name, version }) => {
    const key = keyOf(now, keyId);
    const isInUse = key?.state === 'ENABLED' && key.tenantState === 'ENABLED';
    if (!isInUse || key.primary === version) return [];
    const path = `${key.name}/dataKeys/${name}`;
    return now.failures.includes(path) ? [] : [path];
  });
}

function leftRunning({ now }: Seen): string[] {
  return now.jobs.filter(({ state }) => state === 'RUNNING').map((job) => JSON.stringify(job));
}

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
      check(item).catch(
        (error: unknown) => `${error} ${error instanceof Error ? error.cause : ''}`,
      ),
    ),
  );
  return wrong.filter((what) => what !== undefined);
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
