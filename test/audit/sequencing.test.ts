/**
 * The sequencer, cut off at every statement and every agent call in turn, in the manner of
 * Tessera's fault tests: whatever it was doing, another goes on, every entry that was durable
 * becomes one leaf, and nothing that was signed is ever contradicted.
 *
 * The agent is one of the test's own, with a key of its own, and remembers all that it has signed.
 * That the HSM's does as well is `checkpoints.test.ts`.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync, randomUUID, sign } from 'node:crypto';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sequencer, type SequencerParts } from '../../src/audit/sequencer.ts';
import { AuditWriter } from '../../src/audit/writer.ts';
import { monotonicNow } from '../../src/call.ts';
import { KeywardError } from '../../src/errors.ts';
import { checkpointNote, checkpointText } from '../../src/hsm/checkpoint.ts';
import type { RequestOf } from '../../src/hsm/protocol.ts';
import { type EnvironmentId, newId, type TenantId } from '../../src/ids.ts';
import type { Store } from '../../src/store/store.ts';
import {
  type Cut,
  EVERY_STEP,
  Failpoints,
  type Mode,
  mortalStore,
} from '../rotation/failpoints.ts';
import { startStatementProxy } from '../rotation/statement-proxy.ts';
import { migratedDatabase, SERVICE, systemTenant, type TestDatabase } from '../store/database.ts';
import { alertsTo, NO_ALERTS } from '../support/alerts.ts';
import { eventually } from '../support/kit.ts';
import { wholeLog } from './whole-log.ts';
import { asReplica, deriveWriterKey } from './writer-keys.ts';

const environmentId = newId<EnvironmentId>();
const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const spki = publicKey.export({ format: 'der', type: 'spki' });
/** Every root that was ever signed, by the tree's size. */
const signed = new Map<number, string>();

let database: TestDatabase;
let honest: Store;
let systemTenantId: TenantId;

before(async () => {
  database = await migratedDatabase();
  honest = asReplica(await database.open());
  systemTenantId = await systemTenant(database);
});

after(async () => {
  await honest.close();
  await database[Symbol.asyncDispose]();
});

/** Signs, and fails the test for two trees of one size. */
async function signCheckpoint({ generation, treeSize, rootHash }: RequestOf<'signCheckpoint'>) {
  assert.equal(signed.get(treeSize) ?? rootHash, rootHash, `two roots of ${treeSize}`);
  signed.set(treeSize, rootHash);
  const claim = { environmentId, generation, treeSize, rootHash: Buffer.from(rootHash, 'base64') };
  const signature = sign('sha256', Buffer.from(checkpointText(claim)), privateKey);
  return { note: checkpointNote(claim, spki, signature), spki: spki.toString('base64') };
}

/** The agent as a replica has it that is cut off at those points. */
function agentsOf(points?: Failpoints): SequencerParts['agents'] {
  const answer = (name: string, request: unknown) =>
    name === 'signCheckpoint'
      ? signCheckpoint(request as RequestOf<'signCheckpoint'>)
      : deriveWriterKey(request as RequestOf<'deriveWriterKey'>);
  const call = async (name: string, request: unknown) => {
    const mode = points?.begin({ kind: 'agent call', what: name });
    if (mode === 'before') points?.die();
    if (points?.dead) throw new KeywardError('HSM_UNAVAILABLE');
    const reply = await answer(name, request);
    if (mode === 'after') points?.die();
    if (mode === 'lost' || points?.dead) throw new KeywardError('HSM_UNAVAILABLE');
    return reply;
  };
  return { call } as unknown as SequencerParts['agents'];
}

const QUIET = { info() {}, warn() {} };
const parts = (store: Store, points?: Failpoints): SequencerParts => ({
  store,
  agents: agentsOf(points),
  environmentId,
  systemTenantId,
  checkpointPeriodMs: 1_000,
  kept: [],
  log: QUIET,
  alerts: NO_ALERTS,
});

const written: string[] = [];

/** Makes entries durable, through a writer of its own. */
async function writeEntries(count: number): Promise<void> {
  const writer = new AuditWriter({ store: honest, waitMs: 440, logOf: () => systemTenantId });
  await Promise.all(
    Array.from({ length: count }, async () => {
      const id = randomUUID();
      const call = { id, caller: 'tester', method: 'keyward.v1.Test/Call' };
      await writer.write({ call, resource: 'tenants/system', outcome: 'OK' });
      written.push(id);
    }),
  );
}

/** As if so much time had passed that the lease is over. */
const endLease = () => database.sql("UPDATE audit_state SET leased_until = '-infinity'");

async function isDrained(): Promise<boolean> {
  const [row] = await database.sql<{ drained: boolean }>(
    `SELECT NOT EXISTS (SELECT FROM audit_inbox)
       AND tree_size = coalesce((SELECT max(tree_size) FROM audit_checkpoints), 0) AS drained FROM audit_state`,
  );
  return row?.drained ?? false;
}

async function assertEverythingLogged(): Promise<void> {
  const ids = (await wholeLog(database.url())).map(
    (line) => (JSON.parse(line) as { requestId: string }).requestId,
  );
  assert.equal(new Set(ids).size, ids.length, 'no entry twice');
  assert.deepEqual(new Set(ids), new Set(written));
}

/** Runs a sequencer with a cut. Returns whether it came so far. */
async function cutOff(cut: Cut): Promise<boolean> {
  const points = new Failpoints();
  points.arm();
  await using proxy = await startStatementProxy(database.url(SERVICE), points);
  const store = await database.open({ url: proxy.through(database.url(SERVICE)) });
  points.arm(cut);
  await writeEntries(3);
  const victim = new Sequencer(parts(mortalStore(store, points), points));
  victim.start();
  const until = monotonicNow() + 20_000;
  while (points.reached === undefined && !(await isDrained()) && monotonicNow() < until)
    await sleep(10);
  const isReached = points.reached !== undefined;
  if (isReached) {
    // One that was overtaken while it lives finds out, and writes nothing.
    await endLease();
    await writeEntries(2);
    const successor = new Sequencer(parts(honest));
    successor.start();
    await eventually(async () => assert.ok(await isDrained()));
    await successor.stop();
  }
  await victim.stop();
  await store.close();
  await endLease();
  return isReached;
}

describe('a sequencer', () => {
  afterEach(assertEverythingLogged);

  for (const mode of ['before', 'after', 'lost'] satisfies Mode[])
    test(`that is cut off at any step (${mode}) leaves nothing to repair`, {
      timeout: 300_000,
    }, async () => {
      let at = 1;
      while (await cutOff({ at, mode, counts: EVERY_STEP })) at += 1;
      // Taking over, lengthening and signing are more than that.
      assert.ok(at > 12, `${at} steps`);
    });

  test('takes turns with others, and together they make one log while entries come', async () => {
    const stores = await Promise.all([database.open(), database.open()]);
    const sequencers = [honest, ...stores].map((store) => new Sequencer(parts(store)));
    for (const sequencer of sequencers) sequencer.start();
    for (let round = 0; round < 10; round++) {
      await Promise.all([writeEntries(200), endLease()]);
    }
    await eventually(async () => assert.ok(await isDrained()));
    await Promise.all(sequencers.map((sequencer) => sequencer.stop()));
    await Promise.all(stores.map((store) => store.close()));
  });

  test('reports what is not signed and why, once each, and that it is signed again', async () => {
    const replies = [
      () => Promise.resolve({ conflictsWith: 7 }),
      () => Promise.resolve({ conflictsWith: 7 }),
      () => Promise.reject(new KeywardError('HSM_UNAVAILABLE')),
    ];
    const agents = agentsOf();
    const call: typeof agents.call = (name, request, deadline) =>
      (name === 'signCheckpoint' ? (replies.shift()?.() as never) : undefined) ??
      agents.call(name, request, deadline);
    const said: unknown[] = [];
    const say = (fields: { readonly alert?: string }, message: string) =>
      said.push(fields.alert ?? message);
    const sequencer = new Sequencer({
      ...parts(honest),
      agents: { call } as unknown as SequencerParts['agents'],
      checkpointPeriodMs: 1,
      log: { info: say, warn: say },
      alerts: alertsTo(say),
    });
    await writeEntries(1);
    sequencer.start();
    await eventually(async () => assert.ok(await isDrained()));
    await writeEntries(1);
    await eventually(async () => assert.ok(await isDrained()));
    await sequencer.stop();
    assert.deepEqual(said, [
      'audit-log-contradicted',
      'cannot sign a checkpoint',
      'the audit log is signed again',
    ]);
  });
});
