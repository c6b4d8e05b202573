/**
 * Beginnings: what there is when a tick comes.
 *
 * Made through the keyring; only times, and what no call leads to, are set behind its back.
 */
import type { JobId } from '../../src/ids.ts';
import { formatKeyName } from '../../src/names.ts';
import { findDueTokenKeys } from '../../src/store/hsm-token/token-objects.ts';
import { planRange } from '../../src/store/lifecycle/rewrap-ranges.ts';
import { planDataKeys } from '../../src/store/lifecycle/stale-data-keys.ts';
import { planKeyVersions } from '../../src/store/lifecycle/stale-key-versions.ts';
import { callOf } from '../store/database.ts';
import { RESEALING } from './failpoints.ts';
import { hear, type Replica, SIZES, tick } from './replica.ts';
import { nameOf, TENANT, type World } from './world.ts';

const DAY_SECONDS = 86_400;
const PAST = "now() - interval '12 hours'";
/** Neither due by a clock that is a day behind nor yet by one that is right. */
const FUTURE = "now() + interval '12 hours'";

/**
 * Something of everything that a tick can bring:
 *
 * - `daily` is due by its schedule, with data keys under two versions, and the job of its last
 *   rotation isn't done;
 * - `worn` has reached its usage limit;
 * - `retired` has an old version to be destroyed, to which nothing refers any more;
 * - `held` has one that data keys still refer to: no call leads there, a restored backup may;
 * - `ended` is to be destroyed with its data keys;
 * - `leaving` is to be destroyed tomorrow, and `later` to be rotated tomorrow: nothing is done to
 *   them;
 * - and somebody has asked for everything to be re-wrapped.
 */
export async function everything(world: World): Promise<void> {
  await makeDaily(world);
  await world.createKey('worn', { rotationUsageLimit: 1 });
  await world.createDataKeys('worn', 'a');
  await setKey(world, 'worn', `usage_limit_reached_at = ${PAST}`);
  await makeRetired(world);
  await makeHeld(world);
  await world.createKey('ended');
  await world.createDataKeys('ended', 'a', 'b');
  await world.scheduleKey('ended');
  await setKey(world, 'ended', `destroy_at = ${PAST}`);
  await world.createKey('leaving');
  await world.createDataKeys('leaving', 'a');
  await world.rotate('leaving');
  await world.scheduleKey('leaving');
  await setKey(world, 'leaving', `destroy_at = ${FUTURE}`);
  await world.createKey('later', { rotationPeriodSeconds: DAY_SECONDS });
  await world.createDataKeys('later', 'a');
  await setKey(world, 'later', `next_rotation_at = ${FUTURE}`);
  await world.replica.keyring.rewrap.create(callOf(), {}, 'data-keys');
}

/** A key that was rotated: five data keys to be re-wrapped, in two ranges and three batches. */
export async function oneJob(world: World): Promise<void> {
  await world.createKey('k');
  await world.createDataKeys('k', 'a', 'b', 'c', 'd', 'e');
  await world.rotate('k');
}

/** The same, but that the job is one for all tenants. */
export async function oneJobForAll(world: World): Promise<void> {
  await oneJob(world);
  await cancelJob(world, TENANT, formatKeyName(nameOf('k')));
  await world.replica.keyring.rewrap.create(callOf(), {}, 'data-keys');
}

/** As {@link oneJob} with three data keys: one range, two batches. */
export async function oneRange(world: World): Promise<void> {
  await world.createKey('k');
  await world.createDataKeys('k', 'a', 'b', 'c');
  await world.rotate('k');
}

/** One key that is due, with a data key. */
export async function oneDue(world: World): Promise<void> {
  await world.createKey('k', { rotationPeriodSeconds: DAY_SECONDS });
  await world.createDataKeys('k', 'a');
  await setKey(world, 'k', `next_rotation_at = ${PAST}`);
}

/**
 * A new root key and a new seal key for what tenants share, which wait to be used, and what is to
 * be brought under them:
 *
 * - `old` has two versions;
 * - `mixed` has one that is destroyed, one that is to be tomorrow, one that is disabled, and its
 *   primary;
 * - of `globex`' key, the older version doesn't verify;
 * - `sealed` has a root key of its own, which stays.
 */
export async function newRoot(world: World): Promise<void> {
  await makeOtherTenants(world);
  await world.createKey('old');
  await world.createDataKeys('old', 'a');
  await world.rotate('old');
  await makeMixed(world);
  await world.createKey('globex/k');
  await world.rotate('globex/k');
  await world.createKey('sealed/k');
  // Ends all jobs.
  await tick(world.replica);
  await world.corrupt('globex/k', 1);
  await world.createTokenKey('root');
  await world.createTokenKey('seal');
  await hear(world.replica);
}

/**
 * A tenant that is to have a root key of its own and has none; and somebody has asked for a new
 * root key for what tenants share, but whoever was about to make it has died.
 */
export async function rootsToMake(world: World): Promise<void> {
  await world.createTenant('sealed', { dedicatedRootKey: true });
  await world.createKey('k');
  await abandonAttempt(world, 'system');
}

/**
 * - `doomed`, with a root key of its own, is to be shredded: it has a key with data keys under two
 *   versions, one that was destroyed before, jobs, and a root key that was about to be made;
 * - `empty` is too, and hasn't got its root key yet;
 * - `leaving` is to be tomorrow;
 * - and nothing happens to the tenant beside them, but that its data keys are re-wrapped.
 */
export async function shredding(world: World): Promise<void> {
  for (const tenant of ['doomed', 'leaving'])
    await world.createTenant(tenant, { dedicatedRootKey: true });
  await tick(world.replica);
  await world.createKey('doomed/gone');
  await world.scheduleKey('doomed/gone');
  await setKey(world, 'doomed/gone', `destroy_at = ${PAST}`);
  await tick(world.replica);
  for (const key of ['doomed/k', 'leaving/k', 'k']) {
    await world.createKey(key);
    await world.createDataKeys(key, 'a', 'b');
  }
  await world.rotate('doomed/k');
  await world.rotate('k');
  const { rewrap } = world.replica.keyring;
  await rewrap.create(callOf(), {}, 'data-keys');
  await planAll(world);
  await abandonAttempt(world, 'doomed');
  await world.createTenant('empty', { dedicatedRootKey: true });
  await scheduleShredding(world, 'doomed', PAST);
  await scheduleShredding(world, 'empty', PAST);
  await scheduleShredding(world, 'leaving', FUTURE);
  await rewrap.create(callOf(), nameOf('doomed/k'), 'data-keys');
}

/**
 * A key version that is under an older root key than the current one, under which there is nothing,
 * and a job of its tenant to bring it there.
 */
export async function oneMoving(world: World): Promise<void> {
  await world.createKey('k');
  await replaceRoot(world);
  await cancelJob(world, 'system', 'tenants/-');
  await world.replica.keyring.rewrap.create(callOf(), { tenant: TENANT }, 'key-versions');
}

/**
 * The same, but that the job is the one of the root key, for all tenants, and that the key has
 * three versions.
 */
export async function threeMoving(world: World): Promise<void> {
  await world.createKey('k');
  await world.rotate('k');
  await world.rotate('k');
  await tick(world.replica);
  await replaceRoot(world);
}

/** As {@link oneMoving}, but that instead of a job there is a rotation to be done. */
export async function oneDueUnderOldRoot(world: World): Promise<void> {
  await oneDue(world);
  await replaceRoot(world);
  await cancelJob(world, 'system', 'tenants/-');
}

/**
 * A new root key for what tenants share, current once the replicas have heard of it; nothing is
 * brought under it yet.
 */
export async function replaceRoot(world: World, others: readonly Replica[] = []): Promise<void> {
  await world.createTokenKey('root');
  for (const replica of [world.replica, ...others]) await hear(replica);
  const { keyring, warn } = world.replica;
  const due = await world.store.reconcile(callOf(), (tx) => findDueTokenKeys(tx, 1));
  await keyring.tokenKeys.advance(due, (err, resource) => warn({ err, resource }, 'a step failed'));
}

/** What replicas are cut off in, by what it is about. */
export const SCENES: Readonly<Record<string, (world: World) => Promise<void>>> = {
  'keys and data keys': everything,
  [RESEALING]: newRoot,
  'root keys to be made': rootsToMake,
  'tenants to be shredded': shredding,
};

async function makeOtherTenants(world: World): Promise<void> {
  await world.createTenant('globex');
  await world.createTenant('sealed', { dedicatedRootKey: true });
  await tick(world.replica);
}

async function makeMixed(world: World): Promise<void> {
  await world.createKey('mixed');
  for (let version = 2; version <= 4; version++) await world.rotate('mixed');
  for (const version of [1, 2]) await scheduleVersion(world, 'mixed', version);
  await setVersion(world, 'mixed', 1, `destroy_at = ${PAST}`);
  const third = { ...nameOf('mixed'), version: 3 };
  await world.replica.keyring.keys.setVersionState(callOf(), third, '', 'DISABLED');
}

/**
 * Somebody asks for a new root key, and whoever is about to make it dies before, two minutes ago.
 */
async function abandonAttempt(world: World, tenant: string): Promise<void> {
  const objectId = await world.requestTokenKey('root', tenant);
  await world.sql(`UPDATE token_objects SET attempt_until = ${PAST} WHERE object_id = $1`, [
    objectId,
  ]);
}

/** Plans all jobs to their ends. */
async function planAll({ store }: World): Promise<void> {
  const planners = { 'data-keys': planDataKeys, 'key-versions': planKeyVersions };
  while (await planRange(store, callOf(), SIZES.range, planners));
}

async function scheduleShredding(world: World, tenant: string, at: string): Promise<void> {
  const { tenants, shredding } = world.replica.keyring;
  const { revision: etag } = await tenants.get(callOf(), { tenant });
  await shredding.schedule(callOf(), { tenant }, { etag, windowDays: 7, validateOnly: false });
  await world.sql(`UPDATE tenants SET shred_at = ${at} WHERE name = $1`, [tenant]);
  await world.sealTenant(tenant);
}

async function makeDaily(world: World): Promise<void> {
  await world.createKey('daily', { rotationPeriodSeconds: DAY_SECONDS });
  await world.createDataKeys('daily', 'a', 'b', 'c');
  await world.rotate('daily');
  await world.createDataKeys('daily', 'd', 'e');
  await setKey(world, 'daily', `next_rotation_at = ${PAST}`);
}

async function makeRetired(world: World): Promise<void> {
  await world.createKey('retired');
  await world.rotate('retired');
  await world.createDataKeys('retired', 'a');
  await cancelJob(world, TENANT, formatKeyName(nameOf('retired')));
  await scheduleVersion(world, 'retired', 1);
  await setVersion(world, 'retired', 1, `destroy_at = ${PAST}`);
}

async function makeHeld(world: World): Promise<void> {
  await world.createKey('held');
  await world.createDataKeys('held', 'a');
  await world.rotate('held');
  await cancelJob(world, TENANT, formatKeyName(nameOf('held')));
  await setVersion(world, 'held', 1, `state = 'DESTROY_SCHEDULED', destroy_at = ${PAST}`);
}

async function scheduleVersion(world: World, key: string, version: number): Promise<void> {
  const { keys, destruction } = world.replica.keyring;
  const name = { ...nameOf(key), version };
  const etag = (await keys.getVersion(callOf(), name)).version.revision;
  await destruction.scheduleVersion(callOf(), name, { etag, windowDays: 7, validateOnly: false });
}

async function cancelJob(world: World, tenant: string, scope: string): Promise<void> {
  const [job] = await world.sql<{ job_id: JobId }>(
    `SELECT job_id FROM rewrap_jobs WHERE state = 'RUNNING' AND scope = $1`,
    [scope],
  );
  if (job === undefined) throw new Error(`${scope} has no job`);
  await world.replica.keyring.rewrap.cancel(callOf(), { tenant, job: job.job_id });
}

async function setKey(world: World, key: string, assignments: string): Promise<void> {
  const { keyId } = await world.replica.keyring.keys.get(nameOf(key));
  await world.sql(`UPDATE keys SET ${assignments} WHERE key_id = $1`, [keyId]);
  await world.sealState(key);
}

async function setVersion(
  world: World,
  key: string,
  version: number,
  assignments: string,
): Promise<void> {
  const { keyId } = await world.replica.keyring.keys.get(nameOf(key));
  await world.sql(`UPDATE key_versions SET ${assignments} WHERE version = $2 AND key_id = $1`, [
    keyId,
    version,
  ]);
  await world.sealState(key);
}
