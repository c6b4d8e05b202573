/**
 * What the tests of rotation, re-wrapping and destruction share: a service that looks for what is
 * due every second, the database's clock set back for a key, and jobs followed to their ends.
 *
 * Knows no test.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import type { KeywardClient, RewrapJob } from 'keyward-client';
import type pg from 'pg';
import { runSql } from '../store/database.ts';
import { type Environment, eventually, runCommand } from './kit.ts';

/** Settings with which a test needs not wait. */
export const QUICK = {
  KEYWARD_MODE: 'development',
  KEYWARD_MAINTENANCE_TICKS: '* * * * * *',
  KEYWARD_MAINTENANCE_JITTER_MS: '0',
  KEYWARD_USAGE_REPORT_MS: '100',
  KEYWARD_REWRAP_SHARE: '100',
} as const;

/** A name of its own. */
export const newId = (prefix: string) => `${prefix}-${randomBytes(6).toString('hex')}`;

/** Runs SQL as the superuser, whom no policy holds. */
export function sql<Row extends pg.QueryResultRow = Record<string, unknown>>(
  environment: Environment,
  text: string,
  values: unknown[] = [],
): Promise<Row[]> {
  return runSql<Row>(environment.urls.superuser, text, values);
}

/** The UUIDs of a key's tenant and of the key. */
export async function idsOf(
  environment: Environment,
  name: string,
): Promise<{ readonly tenantId: string; readonly keyId: string }> {
  const [, tenant, , key] = name.split('/');
  const [row] = await sql<{ tenantId: string; keyId: string }>(
    environment,
    `SELECT k.tenant_id AS "tenantId", k.key_id AS "keyId" FROM keys k JOIN tenants t USING (tenant_id)
     WHERE t.name = $1 AND k.name = $2`,
    [tenant, key],
  );
  assert.ok(row, name);
  return row;
}

/** Does it for all, a few at a time: more would wait for a database connection for too long. */
async function few<T, Made>(all: readonly T[], make: (one: T) => Promise<Made>): Promise<Made[]> {
  const made: Made[] = [];
  const rest = all.entries();
  const work = async () => {
    for (const [index, one] of rest) made[index] = await make(one);
  };
  await Promise.all(Array.from({ length: 8 }, work));
  return made;
}

/** Makes `count` data keys that are kept; returns the plaintext of each by its name. */
export async function storeDataKeys(
  keyward: KeywardClient,
  parent: string,
  count: number,
): Promise<Map<string, Buffer>> {
  const ids = Array.from({ length: count }, (_, index) => `dk-${String(index).padStart(4, '0')}`);
  const made = await few(ids, (dataKeyId) =>
    keyward.createDataKey({ parent, dataKeyId, returnPlaintext: true }),
  );
  return new Map(made.map(({ dataKey, plaintext }) => [dataKey.name, plaintext]));
}

/** Asserts that each opens to what it was made with. */
export async function assertOpen(
  keyward: KeywardClient,
  plaintexts: ReadonlyMap<string, Buffer>,
): Promise<void> {
  const names = [...plaintexts.keys()];
  const opened = await few(names, (name) => keyward.getDataKey({ name }));
  for (const [index, { plaintext }] of opened.entries())
    assert.deepEqual(plaintext, plaintexts.get(names[index] ?? ''), names[index]);
}

/** The versions that a key's data keys are under, each once, as numbers. */
export async function versionsInUse(keyward: KeywardClient, parent: string): Promise<number[]> {
  const versions = new Set<number>();
  for await (const { keyVersion } of keyward.dataKeys(parent, { pageSize: 1000 }))
    versions.add(Number(keyVersion.split('/').at(-1)));
  return [...versions].sort((a, b) => a - b);
}

/** The job that the newest rotation of a key has started. */
export async function jobOf(keyward: KeywardClient, parent: string): Promise<string> {
  const [rotation] = (await keyward.listRotations({ parent, pageSize: 1 })).rotations;
  assert.ok(rotation, 'no rotation');
  return rotation.rewrapJob;
}

/** The job, once it has ended. */
export function endOf(keyward: KeywardClient, name: string): Promise<RewrapJob> {
  let last: RewrapJob | undefined;
  return eventually(
    async () => {
      last = await keyward.getRewrapJob({ name });
      assert.notEqual(last.state, 'RUNNING');
      return last;
    },
    () => JSON.stringify(last),
  );
}

/** What a killed replica had leased is anybody's at once, as it is 15 seconds later. */
export async function expireLeases(environment: Environment): Promise<void> {
  await sql(environment, "UPDATE rewrap_ranges SET leased_until = '-infinity'");
}

/**
 * Has an operator seal how keys stand, of `keys k`, after SQL has changed it as time or an older
 * release would have: without this the service refuses them.
 */
export async function resealStates(
  environment: Environment,
  where = 'true',
  values: unknown[] = [],
): Promise<void> {
  await sql(
    environment,
    `UPDATE keys k SET state_seal = NULL, state_seal_key_id = NULL WHERE ${where}`,
    values,
  );
  const { code, output } = await runCommand(environment, ['token', 'seal-states']);
  assert.equal(code, 0, output);
}

/**
 * As {@link resealStates}, of `tenants t`: an operator vouches for what SQL has made of them, as
 * time would have.
 */
export async function resealTenants(
  environment: Environment,
  where: string,
  values: unknown[] = [],
): Promise<void> {
  await sql(
    environment,
    `UPDATE tenants t SET seal = NULL, seal_key_id = NULL WHERE ${where}`,
    values,
  );
  const { code, output } = await runCommand(environment, ['token', 'seal-states']);
  assert.equal(code, 0, output);
}

/** The same, of token keys. */
export async function resealTokenKeys(environment: Environment): Promise<void> {
  await sql(environment, 'UPDATE token_key_seals SET seal = NULL, seal_key_id = NULL');
  const { code, output } = await runCommand(environment, ['token', 'seal-states']);
  assert.equal(code, 0, output);
}

/** Has keys' next rotations come due, in a moment: their states are to be sealed before. */
export async function makeDue(
  environment: Environment,
  ...names: readonly string[]
): Promise<void> {
  const keyIds = await Promise.all(
    names.map(async (name) => (await idsOf(environment, name)).keyId),
  );
  await sql(
    environment,
    "UPDATE keys SET next_rotation_at = now() + interval '2 s' WHERE key_id = ANY ($1)",
    [keyIds],
  );
  await resealStates(environment, 'k.key_id = ANY ($1)', [keyIds]);
}

/**
 * Waits until the service has looked for what is due since now, twice: a key that was due has been
 * rotated each time.
 */
export async function lookedForDue(
  environment: Environment,
  keyward: KeywardClient,
  parent: string,
): Promise<void> {
  const { name } = await keyward.createKey({
    parent,
    keyId: newId('control'),
    rotationPeriodSeconds: 3600,
  });
  for (const version of [2, 3]) {
    await makeDue(environment, name);
    await eventually(async () =>
      assert.equal((await keyward.getKey({ name })).primary.name, `${name}/versions/${version}`),
    );
  }
}

/** Stale data keys of a key: made, and left behind by a rotation whose job is not worked on. */
export async function leaveBehind(
  keyward: KeywardClient,
  parent: string,
  count: number,
): Promise<{ readonly plaintexts: Map<string, Buffer>; readonly job: string }> {
  await keyward.updateKey({ key: { name: parent, maintenancePaused: true } });
  const plaintexts = await storeDataKeys(keyward, parent, count);
  await keyward.rotateKey({ name: parent });
  return { plaintexts, job: await jobOf(keyward, parent) };
}

/** Lets the service go on with a key that {@link leaveBehind} has paused. */
export async function resume(keyward: KeywardClient, name: string): Promise<void> {
  await keyward.updateKey({ key: { name, maintenancePaused: false } });
}

/** Inverts the first byte of a version’s row seal; twice is none. */
export async function corruptVersion(
  environment: Environment,
  parent: string,
  version: number,
): Promise<void> {
  const { keyId } = await idsOf(environment, parent);
  await sql(
    environment,
    `UPDATE key_versions SET seal = set_byte(seal, 0, get_byte(seal, 0) # 255)
     WHERE key_id = $1 AND version = $2`,
    [keyId, version],
  );
}

/** Inverts one byte of a data key’s ciphertext behind what the schema looks at. */
export async function corrupt(
  environment: Environment,
  parent: string,
  dataKey: string,
  offset = 104,
): Promise<void> {
  const { keyId } = await idsOf(environment, parent);
  await sql(
    environment,
    `UPDATE data_keys SET ciphertext = set_byte(ciphertext, $3, get_byte(ciphertext, $3) # 255)
     WHERE key_id = $1 AND name = $2`,
    [keyId, dataKey, offset],
  );
}
