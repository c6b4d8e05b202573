/**
 * What has to hold of tenants that are shredded, and of what is counted of all: at every instant,
 * and when all is done.
 *
 * That nothing is erased besides, is in `invariants.ts`.
 */
import type { KeywardError } from '../../src/errors.ts';
import { callOf } from '../store/database.ts';
import {
  difference,
  type Invariant,
  nameOfKey,
  type Seen,
  saidOf,
  type TenantRow,
  versionName,
} from './rows.ts';

/** At every instant. */
export const TENANTS_ALWAYS: readonly Invariant[] = [
  { says: 'no tenant is shredded before its time', broken: shreddedEarly },
  {
    says: 'shredded means erased: all keys, all versions, all data keys',
    broken: shreddedByHalves,
  },
  {
    says: 'each tenant that is shredded has one audit entry, and no other has',
    broken: unrecordedShreddings,
  },
  {
    says: 'a shredded tenant answers as if it had never been, and every other is there',
    broken: misanswered,
  },
  { says: 'no token key is begun for a tenant that has been shredded', broken: begunTooLate },
  {
    says: 'what is counted of a tenant is how many keys that are not destroyed, and data keys, it has',
    broken: miscounted,
  },
];

/** When nobody is at work any more. */
export const TENANTS_AT_THE_END: readonly Invariant[] = [
  { says: 'no tenant is due to be shredded', broken: leftDue },
  { says: 'no agent holds a root key of a shredded tenant', broken: leftHeld },
];

function shreddedOf({ tenants }: Seen['now']): readonly TenantRow[] {
  return tenants.filter(({ state }) => state === 'SHREDDED');
}

function shreddedEarly({ now }: Seen): string[] {
  return shreddedOf(now)
    .filter(({ wasDue }) => !wasDue)
    .map(({ name }) => name);
}

function shreddedByHalves({ now }: Seen): string[] {
  const ids = shreddedOf(now).map(({ id }) => id);
  const keys = now.keys.filter(
    ({ tenantId, state }) => ids.includes(tenantId) && state !== 'DESTROYED',
  );
  const versions = now.versions.filter(
    ({ tenantId, state }) => ids.includes(tenantId) && state !== 'DESTROYED',
  );
  const dataKeys = now.dataKeys.filter(({ tenantId }) => ids.includes(tenantId));
  return [
    ...keys.map(({ name }) => name),
    ...versions.map((version) => versionName(now, version)),
    ...dataKeys.map(({ keyId, name }) => `${nameOfKey(now, keyId)}/dataKeys/${name}`),
  ];
}

function unrecordedShreddings({ now }: Seen): string[] {
  return difference(
    shreddedOf(now).map(({ name }) => `ShredTenant tenants/${name}`),
    saidOf(now, ['ShredTenant']),
  );
}

async function misanswered({ world, now }: Seen): Promise<string[]> {
  const answers = await Promise.all(
    now.tenants.map(async ({ name, state }) => {
      const { tenants } = world.replica.keyring;
      const answer = await tenants.get(callOf(), { tenant: name }).then(
        () => 'there',
        (error: unknown) => (error as KeywardError).reason,
      );
      return answer === (state === 'SHREDDED' ? 'RESOURCE_NOT_FOUND' : 'there') ? [] : [name];
    }),
  );
  return answers.flat();
}

function begunTooLate({ now }: Seen): string[] {
  return now.tokenKeys.filter(({ isTooLate }) => isTooLate).map(({ name }) => name);
}

function miscounted({ now }: Seen): string[] {
  return now.tenants.flatMap(({ id, name, countedKeys, countedDataKeys }) => {
    const keys = now.keys.filter(
      ({ tenantId, state }) => tenantId === id && state !== 'DESTROYED',
    ).length;
    const dataKeys = now.dataKeys.filter(({ tenantId }) => tenantId === id).length;
    return [
      ...(keys === countedKeys ? [] : [`${name}: ${keys} keys, counted ${countedKeys}`]),
      ...(dataKeys === countedDataKeys
        ? []
        : [`${name}: ${dataKeys} data keys, counted ${countedDataKeys}`]),
    ];
  });
}

function leftDue({ now }: Seen): string[] {
  return now.tenants.filter(({ shreddingIsDue }) => shreddingIsDue).map(({ name }) => name);
}

function leftHeld({ world, now }: Seen): string[] {
  const ids = shreddedOf(now).map(({ id }) => id);
  const held = [...world.agents.held, ...world.otherAgents.held];
  return now.tokenKeys
    .filter(({ id, tenantId }) => ids.includes(tenantId) && held.includes(id))
    .map(({ name }) => name);
}
