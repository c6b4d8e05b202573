/**
 * Beginnings: what there is when a tick comes.
 *
 * Made through the keyring; only times, and what no call leads to, are set behind its back.
 */
import type { JobId } from '../../src/ids.ts';
import { callOf } from '../store/database.ts';
import { TENANT, type World } from './world.ts';

const DAY_SECONDS = 86_400;
const PAST = "now() - interval '12 hours'";
/** Neither due by a clock that is a day behind nor yet by one that is right. */
const FUTURE = "now() + interval '12 hours'";

/**
 * Something of everything that a tick can bring:
 *
 * - `daily` is due by its schedule, with data keys under two versions, and the job of its last rotation isn't done;
 * - `worn` has reached its usage limit;
 * - `retired` has an old version to be destroyed, to which nothing refers any more;
 * - `held` has one that data keys still refer to: no call leads there, a restored backup may;
 * - `ended` is to be destroyed with its data keys;
 * - `leaving` is to be destroyed tomorrow, and `later` to be rotated tomorrow: nothing is done to them;
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
  await world.replica.keyring.rewrap.create(callOf(), {});
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
  await cancelJob(world, 'k');
  await world.replica.keyring.rewrap.create(callOf(), {});
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
  await cancelJob(world, 'retired');
  const { keys, destruction } = world.replica.keyring;
  const name = { tenant: TENANT, key: 'retired', version: 1 };
  const etag = (await keys.getVersion(callOf(), name)).version.revision;
  await destruction.scheduleVersion(callOf(), name, { etag, windowDays: 7, validateOnly: false });
  await setVersion(world, 'retired', 1, `destroy_at = ${PAST}`);
}

async function makeHeld(world: World): Promise<void> {
  await world.createKey('held');
  await world.createDataKeys('held', 'a');
  await world.rotate('held');
  await cancelJob(world, 'held');
  await setVersion(world, 'held', 1, `state = 'DESTROY_SCHEDULED', destroy_at = ${PAST}`);
}

async function cancelJob(world: World, key: string): Promise<void> {
  const [job] = await world.sql<{ job_id: JobId }>(
    `SELECT job_id FROM rewrap_jobs WHERE state = 'RUNNING' AND scope = $1`,
    [`tenants/${TENANT}/keys/${key}`],
  );
  if (job === undefined) throw new Error(`${key} has no job`);
  await world.replica.keyring.rewrap.cancel(callOf(), { tenant: TENANT, job: job.job_id });
}

async function setKey(world: World, key: string, assignments: string): Promise<void> {
  await world.sql(`UPDATE keys SET ${assignments} WHERE name = $1`, [key]);
}

async function setVersion(world: World, key: string, version: number, assignments: string): Promise<void> {
  await world.sql(
    `UPDATE key_versions SET ${assignments} WHERE version = $2 AND key_id = (SELECT key_id FROM keys WHERE name = $1)`,
    [key, version],
  );
}
