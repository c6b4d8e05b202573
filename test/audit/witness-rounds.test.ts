/**
 * Rounds of witnesses on a real database whose checkpoints the test itself writes, so that it can
 * do what no service does: go back.
 */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { TreeEdge } from '../../src/audit/tree.ts';
import { WitnessRounds } from '../../src/audit/witness-rounds.ts';
import { parseWitnesses } from '../../src/audit/witnesses.ts';
import { monotonicNow } from '../../src/call.ts';
import { insertCheckpoint, writeTree } from '../../src/store/audit/audit-log.ts';
import type { Store } from '../../src/store/store.ts';
import { migratedDatabase, type TestDatabase } from '../store/database.ts';
import { alertsTo } from '../support/alerts.ts';
import { eventually } from '../support/kit.ts';
import { HttpWitness } from './http-witness.ts';
import { checkpointText, leafHashOf, merkleTreeHash, newLogKey, ORIGIN, signed } from './log.ts';

const LEAVES = Array.from({ length: 300 }, (_, index) => leafHashOf(String(index)));
const key = newLogKey();

let database: TestDatabase;
let store: Store;
let witness: HttpWitness;
let said: { readonly level: string; readonly message: string; readonly contradiction?: unknown }[];
let isSequencing: boolean;

before(async () => {
  database = await migratedDatabase();
  store = await database.open();
  const begun = await TreeEdge.read(0, async () => undefined);
  const { tiles } = begun.append(Buffer.concat(LEAVES));
  await inStore((tx) => writeTree(tx, LEAVES.length, tiles));
});

after(async () => {
  await store.close();
  await database[Symbol.asyncDispose]();
});

beforeEach(async () => {
  await database.sql('DELETE FROM audit_checkpoints');
  await database.sql('UPDATE audit_state SET generation = 1');
  said = [];
  isSequencing = true;
});

const inStore = <T>(work: Parameters<typeof store.reconcile<T>>[1]) =>
  store.reconcile({ deadline: monotonicNow() + 10_000 }, work);

/** The log is signed at that size, and at none other. */
async function signAt(treeSize: number, generation = 1): Promise<void> {
  const rootHash = merkleTreeHash(LEAVES.slice(0, treeSize));
  const text = checkpointText(
    treeSize,
    rootHash,
    generation === 1 ? ORIGIN : `${ORIGIN}/${generation}`,
  );
  const facts = { treeSize, generation, rootHash, publicKey: key.publicPem, signedAt: new Date() };
  await inStore(async (tx) => {
    await tx.query('DELETE FROM audit_checkpoints');
    await insertCheckpoint(tx, { ...facts, note: signed(text, key) });
  });
}

/** Rounds with a witness, while `work` goes on. */
async function withRounds(
  work: (rounds: WitnessRounds) => Promise<void>,
  through: Pick<Store, 'reconcile'> = store,
): Promise<void> {
  await using started = await HttpWitness.start('witness.test');
  witness = started;
  witness.trust(key.publicPem);
  const say =
    (level: string) =>
    ({ contradiction }: { contradiction?: unknown }, message: string) =>
      said.push({ level, message, contradiction });
  const rounds = new WitnessRounds({
    store: through,
    witnesses: parseWitnesses(witness.line),
    periodMs: 20,
    isSequencing: () => isSequencing,
    log: { info: say('info'), warn: say('warn') },
    alerts: alertsTo(say('error')),
  });
  rounds.start();
  try {
    await work(rounds);
  } finally {
    await rounds.stop();
  }
  assert.deepEqual(witness.violations, []);
}

/** What would have come would have come by now. */
const someRounds = () => sleep(300);
const cosigned = (size: number, origin = ORIGIN) =>
  eventually(() => assert.equal(witness.seen.get(origin)?.size, size));
const kept = () =>
  eventually(async () => {
    const [row] = await database.sql<{ n: number }>(
      'SELECT cardinality(cosignatures) AS n FROM audit_checkpoints',
    );
    assert.ok((row?.n ?? 0) >= 1);
  });

describe('a replica’s rounds of witnesses', () => {
  it('hand over each checkpoint, from the one before on', async () => {
    await withRounds(async () => {
      for (const size of [1, 20, 256, 300]) {
        await signAt(size);
        await cosigned(size);
        await kept();
      }
    });
    assert.deepEqual(
      witness.visits.map(({ old, size, status }) => [old, size, status]),
      [
        [0, 1, 200],
        [1, 20, 200],
        [20, 256, 200],
        [256, 300, 200],
      ],
    );
    assert.deepEqual(
      said.map(({ level }) => level),
      ['info'],
    );
  });

  it('hand over no second time what is cosigned while they read the last checkpoint', async () => {
    const read = Promise.withResolvers<void>();
    let reads = 0;
    const slow: Pick<Store, 'reconcile'> = {
      reconcile: async (call, change) => {
        const result = await store.reconcile(call, change);
        if (!(result instanceof Object && 'note' in result)) return result;
        reads += 1;
        if (reads === 2) {
          read.resolve();
          await kept();
        }
        return result;
      },
    };
    await signAt(20);
    await withRounds(async () => {
      witness.misbehave = (response, honestly) => {
        const { status, body = '' } = honestly();
        void read.promise.then(() => response.writeHead(status).end(body));
      };
      await eventually(() => assert.ok(reads > 3));
    }, slow);
    assert.deepEqual(
      witness.visits.map(({ old, size }) => [old, size]),
      [[0, 20]],
    );
  });

  it('report a database that becomes older beneath them, and ask for nothing that can not be', async () => {
    await withRounds(async () => {
      await signAt(20);
      await kept();
      await signAt(10);
      await eventually(() => assert.equal(said.at(-1)?.level, 'error'));
      assert.equal(
        said.at(-1)?.contradiction,
        'the witness has cosigned a checkpoint of 20 leaves, and the log’s last is of 10',
      );
      assert.equal(witness.seen.get(ORIGIN)?.size, 20);
      // Once the log has it all again, it is cosigned on.
      await signAt(30);
      await kept();
      assert.equal(said.at(-1)?.level, 'info');
    });
    assert.ok(witness.visits.every(({ old, size }) => old <= size));
  });

  it('begin anew with another generation, and wait for its first checkpoint', async () => {
    await withRounds(async () => {
      await signAt(20);
      await kept();
      await signAt(25);
      await kept();
      await database.sql('UPDATE audit_state SET generation = 2');
      await signAt(30);
      await someRounds();
      await signAt(30, 2);
      await cosigned(30, `${ORIGIN}/2`);
      await kept();
    });
    const [first] = witness.visits.filter(({ origin }) => origin !== ORIGIN);
    assert.deepEqual([first?.old, first?.status], [0, 200]);
    assert.equal(witness.seen.get(ORIGIN)?.size, 25);
    assert.deepEqual(
      said.map(({ level }) => level),
      ['info'],
    );
  });

  it('are not a replica’s that doesn’t lengthen the log', async () => {
    isSequencing = false;
    await withRounds(async () => {
      await signAt(20);
      await someRounds();
      assert.deepEqual(witness.visits, []);
      isSequencing = true;
      await cosigned(20);
    });
  });

  it('end at once, whatever is under way, and say nothing of it', async () => {
    await withRounds(async (rounds) => {
      const asked = new Promise<void>((resolve) => {
        witness.misbehave = () => resolve();
      });
      await signAt(20);
      await asked;
      await rounds.stop();
      // One that had been waited for would have timed out, which is said.
      assert.deepEqual(said, []);
    });
  });
});
