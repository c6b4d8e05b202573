/**
 * Mistakes that are easily made, to be planted in copies of the sources: each is caught by the
 * invariant that it breaks.
 *
 * The same runs on the sources as they are find nothing (`points.ts`, `replicas.test.ts`).
 */
import assert from 'node:assert/strict';
import { CALLS_AND_COMMITS, type Mode } from './failpoints.ts';
import { enumerate, newStage, type Outcome, run, type Stage, Victim } from './harness.ts';
import { type Edit, plant } from './planted.ts';
import {
  runByClock,
  runOvertaken,
  runUnheard,
  runWithChangedState,
  runWithCorrupted,
  runWithReplaced,
  runWithRootDestroyed,
} from './runs.ts';
import {
  everything,
  newRoot,
  oneDue,
  oneDueUnderOldRoot,
  oneJob,
  oneMoving,
  oneRange,
  rootsToMake,
  shredding,
} from './scenes.ts';
import type { World } from './world.ts';

const DAY_MS = 86_400_000;
const ROTATION = 'src/keyring/lifecycle/rotation.ts';
const MAINTENANCE = 'src/store/lifecycle/maintenance.ts';
const RANGES = 'src/store/lifecycle/rewrap-ranges.ts';
const DATA_KEYS = 'src/store/lifecycle/stale-data-keys.ts';
const KEY_SEALS = 'src/store/keys/key-seals.ts';
const KEY_VERSIONS = 'src/store/lifecycle/stale-key-versions.ts';
const REWRAPPED = 'src/store/lifecycle/rewrapped-key-versions.ts';
const SHREDDING = 'src/keyring/tenants/shredding.ts';
const TOKEN_OBJECTS = 'src/store/hsm-token/token-objects.ts';
/** Where a rotation's transaction has been committed. */
const ROTATED = `    cache.forget(tenantId, keyId);
    wake();`;

/** Where it is begun. */
const ROTATION_BEGINS = 'const rotated = await tokenObjects.withCurrent(';

/** A mistake, and what says that it was made. */
export interface Mistake {
  readonly edits: readonly Edit[];
  readonly begin: (world: World) => Promise<void>;
  /** The first outcome in which something is broken. */
  readonly find: (stage: Stage) => Promise<Outcome | undefined>;
  readonly caughtBy: string | RegExp;
}

const atAnyPoint = (mode: Mode) => async (stage: Stage) =>
  (await enumerate((at) => run(stage, { at, mode, counts: CALLS_AND_COMMITS }))).broken;

/** Mistakes that are easily made, by what they are. */
export const MISTAKES: Readonly<Record<string, Mistake>> = {
  'a version that is retired before it is asked what refers to it': {
    edits: [
      {
        file: MAINTENANCE,
        from: ` AND NOT EXISTS (
             SELECT FROM data_keys d WHERE d.tenant_id = $1 AND d.key_id = $2 AND d.version = $3)`,
        to: '',
      },
    ],
    begin: everything,
    find: (stage) => run(stage),
    caughtBy: 'no version is destroyed alone while it is the primary or a data key is under it',
  },
  // The service's role may not change a version's bytes, the reconciler's may: so can this mistake
  // be made at all.
  'a version that is the primary before its bytes are proven': {
    edits: [
      {
        file: ROTATION,
        from: 'const key = await insertPrimaryVersion(stateTx, version);',
        to: `later = version;
        const wrapped = Buffer.alloc(version.wrapped.length, 1);
        const key = await insertPrimaryVersion(stateTx, { ...version, wrapped });`,
      },
      {
        file: ROTATION,
        from: ROTATED,
        to: `    await store.reconcile(call, (tx) =>
      tx.query('UPDATE key_versions SET wrapped = $1 WHERE tenant_id = $2 AND key_id = $3 AND version = $4', [
        later.wrapped, tenantId, keyId, later.version]));
${ROTATED}`,
      },
      { file: ROTATION, from: ROTATION_BEGINS, to: `let later; ${ROTATION_BEGINS}` },
    ],
    begin: oneDue,
    find: atAnyPoint('after'),
    caughtBy: 'every version that is not destroyed loads and proves itself',
  },
  'a data key that is written over whatever its row has become': {
    edits: [{ file: DATA_KEYS, from: ' AND d.xmin = b.before', to: '' }],
    begin: oneJob,
    find: async (stage) => (await enumerate((at) => runWithReplaced(stage, at))).broken,
    caughtBy: 'every stored data key opens, under the version that it names, to what was in it',
  },
  'a stale lease holder that writes': {
    edits: [
      {
        file: RANGES,
        from: 'AND fence = $4 AND NOT finished',
        to: 'AND $4::bigint IS NOT NULL AND NOT finished',
      },
    ],
    begin: oneRange,
    find: async (stage) => {
      await using second = await Victim.open(stage.world, stage.modules);
      return (await enumerate((at) => runOvertaken(stage, second, { at, secondAt: 2 }))).broken;
    },
    caughtBy: 'a stale lease holder removed or changed: rewrap_ranges',
  },
  'a rotation whose history is written in a later transaction': {
    edits: [
      {
        file: ROTATION,
        from: 'await this.#record(tx, call, { name, before: locked.key, cause, startedAt, highest });',
        to: 'later = { name, before: locked.key, cause, startedAt, highest };',
      },
      { file: ROTATION, from: ROTATION_BEGINS, to: `let later; ${ROTATION_BEGINS}` },
      {
        file: ROTATION,
        from: ROTATED,
        to: `    await store.mutate(call, { tenantId, resource: '' }, (tx) => this.#record(tx, call, later));
${ROTATED}`,
      },
    ],
    begin: oneDue,
    find: atAnyPoint('after'),
    caughtBy: 'each rotation has one row of history, one job and one audit entry',
  },
  'a rotation that is not asked for again under the lock': {
    edits: [
      {
        file: ROTATION,
        from: 'const decide: Decision = (tx) => findRotationCause(tx, tenantId, keyId);',
        to: "const decide: Decision = async () => 'schedule';",
      },
    ],
    begin: oneDue,
    find: atAnyPoint('frozen'),
    // Two others that tick at once may do it before it.
    caughtBy:
      /a replica that was thawed when all was done wrote: rotations|what was due was rotated once/,
  },
  'a range that is counted on before what was re-wrapped is written': {
    edits: [
      {
        file: DATA_KEYS,
        from: 'await moveOn(tx, lease, progress)',
        to: 'await store.reconcile(call, (other) => moveOn(other, lease, progress))',
      },
    ],
    begin: oneJob,
    find: atAnyPoint('after'),
    caughtBy: 'every data key of a key in use is under its primary, or named as failed',
  },
  'a replica that goes by its own clock': {
    edits: [
      {
        file: MAINTENANCE,
        from: '(SELECT_ROTATIONS, [limit])',
        to: `(SELECT_ROTATIONS.replaceAll('now()', "'" + new Date().toISOString() + "'"), [limit])`,
      },
      {
        file: MAINTENANCE,
        from: 'AND (k.next_rotation_at <= now()',
        to: `AND (k.next_rotation_at <= '\${new Date().toISOString()}'`,
      },
    ],
    begin: everything,
    find: (stage) => runByClock(stage, DAY_MS),
    caughtBy:
      'what was due was rotated once, and nothing else was but by callers (tenants/acme/keys/later: 1 times)',
  },
  'a root key that is made current before every replica holds it': {
    edits: [{ file: TOKEN_OBJECTS, from: ' && (await isHeldByAll(tx, objectId))', to: '' }],
    begin: rootsToMake,
    find: runUnheard,
    caughtBy: 'every version that is not destroyed loads and proves itself',
  },
  'a token key that was given up and comes back': {
    edits: [
      {
        file: TOKEN_OBJECTS,
        from: 'WHERE object_id = $1 AND state = $2 RETURNING 1',
        to: 'WHERE object_id = $1 AND $2::text IS NOT NULL RETURNING 1',
      },
    ],
    begin: rootsToMake,
    find: atAnyPoint('frozen'),
    caughtBy: 'a replica that was thawed when all was done removed or changed: token_objects',
  },
  'a key version that is written over whatever its row has become': {
    edits: [{ file: REWRAPPED, from: 'AND v.seal = b.seal_before AND v.state', to: 'AND v.state' }],
    begin: oneMoving,
    find: async (stage) => (await enumerate((at) => runWithCorrupted(stage, at))).broken,
    caughtBy: 'a row that does not verify stays as it is (tenants/acme/keys/k/versions/1)',
  },
  'a key version that is brought under what is no longer current': {
    edits: [
      { file: KEY_VERSIONS, from: "if (current.length < targets.length) return 'moved';", to: '' },
    ],
    begin: oneMoving,
    find: (stage) => runWithRootDestroyed(stage, 'transfer'),
    caughtBy: 'every key version is under a root and a seal key that are current or retired',
  },
  'a new key version under what is no longer current': {
    edits: [
      {
        file: TOKEN_OBJECTS,
        from: "if (rows.length === 0) throw new KeywardError('TOKEN_KEY_NOT_READY');",
        to: '',
      },
    ],
    begin: oneDueUnderOldRoot,
    find: (stage) => runWithRootDestroyed(stage, 'createKeyVersion'),
    caughtBy: 'every key version is under a root and a seal key that are current or retired',
  },
  'a key version that is put under the root key that all share': {
    edits: [
      {
        file: TOKEN_OBJECTS,
        from: 'CASE WHEN t.dedicated_root_key THEN t.tenant_id',
        to: 'CASE WHEN t.tenant_id IS NULL THEN t.tenant_id',
      },
      {
        file: 'src/keyring/hsm-token/token-objects.ts',
        from: 'ownsRoot ? tenantId : systemTenantId,',
        to: 'systemTenantId,',
      },
    ],
    begin: newRoot,
    find: (stage) => run(stage),
    caughtBy:
      'a key version is under a root key of its tenant’s own if that is to have one, else under a shared one',
  },
  'a state that is sealed as it was before it changed': {
    edits: [
      {
        file: KEY_SEALS,
        from: 'sealer.seal(state, sealKeyId)',
        to: 'sealer.seal(locked.key.sealed, sealKeyId)',
      },
    ],
    begin: oneDue,
    find: (stage) => run(stage),
    caughtBy: 'how every key stands is what its seal is of',
  },
  'a state that is sealed anew over whatever its seal has become': {
    edits: [
      { file: KEY_SEALS, from: " AND k.state_seal = b.before'", to: " AND b.before IS NOT NULL'" },
    ],
    begin: newRoot,
    find: async (stage) => (await enumerate((at) => runWithChangedState(stage, at))).broken,
    caughtBy: 'how every key stands is what its seal is of',
  },
  'a tenant that is shredded before its time': {
    edits: [
      {
        file: MAINTENANCE,
        from: "'SHRED_SCHEDULED' AND shred_at <= now() ORDER",
        to: "'SHRED_SCHEDULED' ORDER",
      },
      { file: SHREDDING, from: ' && tenant.shredAt < now && !paused', to: ' && !paused' },
    ],
    begin: shredding,
    find: (stage) => run(stage),
    caughtBy: 'no tenant is shredded before its time (leaving)',
  },
  'a tenant that is marked as shredded in a transaction of its own': {
    edits: [
      { file: SHREDDING, from: 'erased = await eraseTenant(tx, tenantId);', to: '' },
      {
        file: SHREDDING,
        from: 'if (deleted !== undefined) cache.forgetAllOf(tenantId);',
        to: 'if (deleted !== undefined) await store.reconcile(call, (tx) => eraseTenant(tx, tenantId));',
      },
    ],
    begin: shredding,
    find: atAnyPoint('after'),
    // Where agents are slow to be replaced, one may hold the root key still.
    caughtBy:
      /shredded means erased: all keys, all versions, all data keys|no agent holds a root key of a shredded tenant/,
  },
  'data keys that go without being counted': {
    edits: [],
    begin: async (world) => {
      await everything(world);
      await world.sql('ALTER TABLE data_keys DISABLE TRIGGER count_deleted');
    },
    find: (stage) => run(stage),
    caughtBy:
      'what is counted of a tenant is how many keys that are not destroyed, and data keys, it has (acme: ',
  },
  'a root key that is made for a tenant that has been shredded': {
    edits: [{ file: TOKEN_OBJECTS, from: " AND state <> 'SHREDDED' FOR SHARE", to: '' }],
    begin: shredding,
    find: (stage) => run(stage),
    caughtBy: 'no token key is begun for a tenant that has been shredded',
  },
};

/** Plants the mistake, and fails unless it is caught by what it is to be caught by. */
export async function assertCaught({ edits, begin, find, caughtBy }: Mistake): Promise<void> {
  await using stage = await newStage(begin, await plant(...edits));
  const said = (await find(stage))?.violations.join('\n') ?? 'nothing is broken';
  const isCaught = typeof caughtBy === 'string' ? said.includes(caughtBy) : caughtBy.test(said);
  assert.ok(isCaught, said);
}
