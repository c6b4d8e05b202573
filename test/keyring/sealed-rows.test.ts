/**
 * Rows under seals, whatever they are of: which match, what says nothing against them, and which
 * are older than what was verified before.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { RECORD } from '../../src/hsm/record-seal.ts';
import { type AnyId, newId, type SealKeyId } from '../../src/ids.ts';
import { NewestRevisions, type SealCheckParts, sealsMatch } from '../../src/sealed-rows.ts';

const GOOD = Buffer.from([1]);
const BAD = Buffer.from([0]);

/** Agents that hold these keys, by whom a seal is good that says so; and seal keys in use. */
function partsWith(held: readonly SealKeyId[], inUse: readonly SealKeyId[]) {
  const asked: number[] = [];
  const parts = {
    agents: {
      held: held as readonly AnyId[] as AnyId[],
      call: async (_: string, { sealKeyId, items }: { sealKeyId: SealKeyId; items: object[] }) => {
        asked.push(items.length);
        const isGood = (item: object) =>
          held.includes(sealKeyId) && Reflect.get(item, 'seal') === GOOD;
        return { verified: Uint8Array.from(items, (item) => Number(isGood(item))) };
      },
    },
    store: {
      query: async (_: object, __: string, [id]: readonly unknown[]) =>
        inUse.includes(id as SealKeyId) ? [{}] : [],
    },
  } as unknown as SealCheckParts;
  return { parts, asked };
}

describe('seals', () => {
  const keys = Array.from({ length: 3 }, () => newId<SealKeyId>());
  const [held = newId(), lost = newId()] = keys;

  test('are told of each row, under whatever keys they are, a hundred at a time', async () => {
    const row = fc.record({ key: fc.nat(2), isGood: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.array(row, { maxLength: 350 }), async (drawn) => {
        const { parts, asked } = partsWith(keys, keys);
        const rows = drawn.map(({ key, isGood }) => ({
          content: Buffer.alloc(0),
          sealKeyId: keys[key] ?? held,
          seal: isGood ? GOOD : BAD,
        }));
        const matches = await sealsMatch(parts, RECORD.passkey, rows, 0);
        assert.deepEqual(
          matches,
          drawn.map(({ isGood }) => isGood),
        );
        assert.ok(asked.every((count) => count > 0 && count <= 100));
      }),
    );
  });

  test('under a key in use that no agent here has say nothing; under one that is in no use they do', async () => {
    const row = (sealKeyId: SealKeyId) => ({ content: Buffer.alloc(0), sealKeyId, seal: GOOD });
    const rows = [row(held), row(lost)];
    const check = (inUse: readonly SealKeyId[]) =>
      sealsMatch(partsWith([held], inUse).parts, RECORD.alertSilences, rows, 0);
    await assert.rejects(check([held, lost]), { reason: 'TOKEN_KEY_NOT_READY' });
    assert.deepEqual(await check([held]), [true, false]);
  });
});

test('a revision is refused where a newer one had been verified before its row was read, and only there', () => {
  const step = fc.record({
    id: fc.nat(2),
    revision: fc.bigInt(0n, 5n),
    isReadBefore: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const newest = new NewestRevisions<number>(10);
      const first = newest.now();
      const verified = new Map<number, bigint>();
      for (const { id, revision, isReadBefore } of steps) {
        const problem = newest.note(id, revision, isReadBefore ? first : newest.now());
        const before = verified.get(id) ?? -1n;
        const isOlder = !isReadBefore && revision < before;
        const expected = `its revision is ${revision}, and it was ${before} before`;
        assert.equal(problem, isOlder ? expected : undefined);
        if (revision > before) verified.set(id, revision);
      }
    }),
  );
});
