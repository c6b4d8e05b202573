/**
 * What has to hold of root and seal keys, and of which key versions are under which: at every
 * instant, and when all is done.
 *
 * Knows rows only; whether versions open is `invariants.ts`' to ask.
 */
import type { TenantId } from '../../src/ids.ts';
import {
  difference,
  entriesOf,
  type Invariant,
  type KeyVersionRow,
  type Rows,
  type Seen,
  type TokenKeyRow,
  versionName,
} from './rows.ts';

/** At every instant. */
export const TOKEN_KEYS_ALWAYS: readonly Invariant[] = [
  {
    says: 'of a tenant’s token keys of one role one is current, and one on its way, at the most',
    broken: crowded,
  },
  {
    says: 'every key version is under a root and a seal key that are current or retired',
    broken: underNone,
  },
  {
    says: 'a key version is under a root key of its tenant’s own if that is to have one, else under a shared one',
    broken: underAnothers,
  },
  { says: 'what is current is held by every replica that runs', broken: unheld },
  { says: 'each step of a token key has one audit entry', broken: unrecordedSteps },
  { says: 'each token key that has become current has one job of its own', broken: jobless },
  {
    says: 'a key version keeps its material, and its state unless it is destroyed',
    broken: changed,
  },
  { says: 'a row that does not verify stays as it is', broken: overwritten },
];

/** When nobody is at work any more. */
export const TOKEN_KEYS_AT_THE_END: readonly Invariant[] = [
  { says: 'no token key is on its way, but of a shredded tenant', broken: leftOnTheirWay },
  { says: 'every tenant that is to have a root key of its own has one', broken: leftWithout },
  {
    says: 'every key version is under what is current, or named as one that does not verify',
    broken: leftUnder,
  },
];

const ON_ITS_WAY: readonly string[] = ['CREATING', 'CREATED'];
const OPENS: readonly string[] = ['CURRENT', 'RETIRED'];

function crowded({ now }: Seen): string[] {
  const places = now.tokenKeys.flatMap(({ tenantId, role, state, isCurrent }) => [
    ...(isCurrent || state === 'CURRENT' ? [`${tenantId} ${role} is current`] : []),
    ...(ON_ITS_WAY.includes(state) ? [`${tenantId} ${role} is on its way`] : []),
  ]);
  return places.filter((place, index) => places.indexOf(place) !== index);
}

function underNone({ now }: Seen): string[] {
  return keptOf(now)
    .filter((version) => {
      const [root, seal] = keysOf(now, version);
      const opens = (key: TokenKeyRow | undefined, role: string) =>
        key?.role === role && OPENS.includes(key.state);
      return !opens(root, 'root') || !opens(seal, 'seal');
    })
    .map((version) => `${versionName(now, version)}: ${inWords(now, version)}`);
}

function underAnothers({ now }: Seen): string[] {
  return now.versions
    .filter((version) => {
      const [root, seal] = keysOf(now, version);
      const tenant = now.tenants.find(({ id }) => id === version.tenantId);
      const isOwn = tenant?.dedicatedRootKey ? root?.tenantId === version.tenantId : root?.ofSystem;
      return !isOwn || !seal?.ofSystem;
    })
    .map((version) => `${versionName(now, version)}: ${inWords(now, version)}`);
}

function unheld({ now }: Seen): string[] {
  return now.tokenKeys
    .filter(({ id, tenantId, isCurrent }) => {
      return (
        isCurrent && !isShredded(now, tenantId) && !now.held.every((held) => held.includes(id))
      );
    })
    .map(({ name }) => name);
}

/**
 * Recording it is one, by request or by the service; that it was made, or wasn't, is one; that it
 * is current, one.
 */
function unrecordedSteps({ now }: Seen): string[] {
  return now.tokenKeys
    .filter(({ isFirst, name, role, state, wasActivated }) => {
      const requested = entriesOf(now, role === 'root' ? 'RotateRootKey' : 'RotateSealKey', name);
      const begun = requested + entriesOf(now, 'CreateTokenKey', name);
      const activated = entriesOf(now, 'ActivateTokenKey', name);
      if (isFirst) return begun + activated > 0;
      // Of one that is given up because another is made in its place, that one's entry tells.
      const steps = { CREATING: [1], ABANDONED: [1, 2] }[state as string] ?? [2];
      return requested > 1 || !steps.includes(begun) || activated !== (wasActivated ? 1 : 0);
    })
    .map(({ name, state }) => `${name} is ${state}`);
}

function jobless({ now }: Seen): string[] {
  const activated = now.tokenKeys.filter(({ isFirst, state }) => !isFirst && OPENS.includes(state));
  return activated
    .filter(({ jobId, wasActivated }) => {
      const job = now.jobs.find(({ id }) => id === jobId);
      return (
        !wasActivated ||
        job?.kind !== 'key-versions' ||
        activated.filter((each) => each.jobId === jobId).length !== 1
      );
    })
    .map(({ name }) => name);
}

function changed({ now, first }: Seen): string[] {
  return first.versions
    .filter((before) => {
      const version = now.versions.find(
        (each) => each.keyId === before.keyId && each.version === before.version,
      );
      const isSame = version?.checkValue.equals(before.checkValue);
      return !isSame || (version?.state !== 'DESTROYED' && version?.state !== before.state);
    })
    .map((version) => versionName(first, version));
}

function overwritten({ world, now }: Seen): string[] {
  return [...world.corrupted].flatMap(([name, seal]) => {
    const version = now.versions.find((each) => versionName(now, each) === name);
    return version?.seal.equals(seal) ? [] : [name];
  });
}

function leftOnTheirWay({ now }: Seen): string[] {
  return now.tokenKeys
    .filter(({ tenantId, state }) => ON_ITS_WAY.includes(state) && !isShredded(now, tenantId))
    .map(({ name, state }) => `${name} is ${state}`);
}

function leftWithout({ now }: Seen): string[] {
  return now.tenants
    .filter(({ id, state, dedicatedRootKey }) => {
      const has = now.tokenKeys.some(
        (each) => each.tenantId === id && each.role === 'root' && each.isCurrent,
      );
      return dedicatedRootKey && state !== 'SHREDDED' && !has;
    })
    .map(({ name }) => name);
}

/**
 * One that was corrupted while it was worked on isn't under what is current, and may be named by a
 * later job only.
 */
function leftUnder({ world, now, first }: Seen): string[] {
  const stale = keptOf(now).filter((version) =>
    keysOf(now, version).some((key) => !key?.isCurrent),
  );
  const isCorruptFrom = (rows: Rows, name: string) =>
    rows.versions.some(
      (each) => versionName(rows, each) === name && world.corrupted.get(name)?.equals(each.seal),
    );
  const excused = [...world.corrupted.keys()].filter(
    (name) => now.failures.includes(name) || !isCorruptFrom(first, name),
  );
  return difference(
    [],
    stale.map((version) => versionName(now, version)).filter((name) => !excused.includes(name)),
  );
}

function isShredded({ tenants }: Rows, tenantId: TenantId): boolean {
  return tenants.find(({ id }) => id === tenantId)?.state === 'SHREDDED';
}

function keptOf({ versions }: Rows): readonly KeyVersionRow[] {
  return versions.filter(({ state }) => state !== 'DESTROYED');
}

/** The root key and the seal key that its row names. */
function keysOf(
  { tokenKeys }: Rows,
  { rootKeyId, sealKeyId }: KeyVersionRow,
): [root: TokenKeyRow | undefined, seal: TokenKeyRow | undefined] {
  const find = (objectId: string) => tokenKeys.find(({ id }) => id === objectId);
  return [find(rootKeyId), find(sealKeyId)];
}

function inWords(rows: Rows, version: KeyVersionRow): string {
  return keysOf(rows, version)
    .map((key) => (key === undefined ? 'unknown' : `${key.name}, ${key.state}`))
    .join('; ');
}
