/**
 * What audit entries say of a key: what callers set of it, and how it and its versions stand.
 *
 * A key can have thousands of versions, so an entry has only those that were changed; and not even
 * those where the key itself was destroyed, which destroys them all. No bytes of key material, and
 * no seal, are said. docs/audit.md describes the members.
 */
import type { Changed } from '../core/transaction.ts';
import type { KeyStateRecord, VersionStateRecord } from './key-states.ts';
import type { KeyRecord } from './keys.ts';

/** Returns what an entry says of a change from one state of a key to another. */
export function keyChanged(before: KeyRecord | undefined, after: KeyRecord): Changed {
  const isDestroyed = after.sealed.state === 'DESTROYED';
  const versions = isDestroyed ? [] : changedVersions(before?.sealed, after.sealed);
  return {
    kind: 'key',
    before: before && keyContent(before),
    after: keyContent(after),
    ...(versions.length > 0 ? { versions } : {}),
  };
}

/** How it stands is said as it is sealed, whatever its row says besides. */
function keyContent({ description, labels, sealed }: KeyRecord): object {
  const { keyId, state, revision, primaryVersion, schedule, derivationEpoch, destroyAt } = sealed;
  return {
    keyId,
    state,
    revision: revision.toString(),
    primaryVersion,
    description,
    labels,
    rotationPeriodSeconds: numberOf(schedule.rotationPeriod),
    nextRotationTime: timeOf(schedule.nextRotationAt),
    rotationUsageLimit: numberOf(schedule.rotationUsageLimit),
    maintenancePaused: schedule.maintenancePaused,
    epochMaxMessages: derivationEpoch?.maxMessages ?? null,
    epochMaxAgeSeconds: derivationEpoch?.maxAgeSeconds ?? null,
    destroyTime: timeOf(destroyAt),
  };
}

function numberOf(amount: bigint | null): number | null {
  return amount === null ? null : Number(amount);
}

function changedVersions(
  before: KeyStateRecord | undefined,
  after: KeyStateRecord,
): readonly object[] {
  const known = new Map(before?.versions.map((each) => [each.version, each]));
  return after.versions.flatMap((each) => {
    const was = known.get(each.version);
    if (was !== undefined && was.state === each.state && was.destroyAt === each.destroyAt)
      return [];
    return [
      { version: each.version, before: was && versionContent(was), after: versionContent(each) },
    ];
  });
}

function versionContent({ state, destroyAt }: VersionStateRecord): object {
  return { state, destroyTime: timeOf(destroyAt) };
}

/** A time of the database's microseconds, as others write times. */
function timeOf(microseconds: bigint | null): string | null {
  if (microseconds === null) return null;
  const time = new Date(Number(microseconds / 1000n));
  return Number.isNaN(time.getTime()) ? null : time.toISOString();
}
