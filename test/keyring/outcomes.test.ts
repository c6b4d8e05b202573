/**
 * Many things done in groups: each outcome in its place, no group larger than an agent may be busy
 * with, and no more groups at once than one caller may have.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { KeywardError } from '../../src/errors.ts';
import { inGroups, loadEach, type Outcome } from '../../src/keyring/keys/outcomes.ts';

interface Item {
  readonly group: number;
  readonly bytes: number;
  readonly derivation: string | undefined;
  readonly fails: 'never' | 'before' | 'in its group' | 'with its group';
}

const item: fc.Arbitrary<Item> = fc.record({
  group: fc.nat(2),
  bytes: fc.oneof({ weight: 5, arbitrary: fc.nat(300) }, { weight: 1, arbitrary: fc.nat(70_000) }),
  derivation: fc.option(
    fc.nat(40).map((number) => `epoch ${number}`),
    { nil: undefined },
  ),
  fails: fc.constantFrom('never', 'never', 'never', 'before', 'in its group'),
});

const failure = (message: string) => new KeywardError('DECRYPTION_FAILED', { message });

/** Has the items done, and returns what became of each and the groups that were. */
async function done(items: readonly Item[]) {
  const groups: (readonly Item[])[] = [];
  let underWay = 0;
  let most = 0;
  const outcomes = await inGroups(
    items.map((each, index) => ({ ...each, index })),
    (each) => {
      if (each.fails === 'before') throw failure(`before ${each.index}`);
      return each;
    },
    async (group, members): Promise<readonly Outcome<string>[]> => {
      underWay += 1;
      most = Math.max(most, underWay);
      await turn();
      underWay -= 1;
      groups.push(members);
      assert.ok(members.every((each) => each.group === group));
      if (members.some(({ fails }) => fails === 'with its group')) throw failure(`group ${group}`);
      return members.map(({ index, fails }) =>
        fails === 'in its group' ? { error: failure(`in ${index}`) } : { answer: `done ${index}` },
      );
    },
  );
  const texts = outcomes.map((each) => ('error' in each ? each.error.message : each.answer));
  return { texts, groups, most };
}

describe('items that are done in groups', () => {
  it('have each its own outcome, in their places', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(item, { maxLength: 600 }), async (items) => {
        const { texts } = await done(items);
        const expected = { never: 'done', before: 'before', 'in its group': 'in' } as const;
        assert.deepEqual(
          texts,
          items.map(({ fails }, index) => `${expected[fails as keyof typeof expected]} ${index}`),
        );
      }),
    );
  });

  it('are in groups of at most 256, 256 KiB and 32 derivations, and at most four at once', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(item, { minLength: 300, maxLength: 1_000 }), async (items) => {
        const { groups, most } = await done(items);
        for (const members of groups) {
          assert.ok(members.length <= 256);
          assert.ok(members.reduce((sum, { bytes }) => sum + bytes, 0) <= 262_144);
          const alone = members.filter(({ derivation }) => derivation === undefined).length;
          const shared = new Set(members.flatMap(({ derivation }) => derivation ?? []));
          assert.ok(alone + shared.size <= 32);
        }
        assert.ok(most <= 4);
      }),
      { numRuns: 30 },
    );
  });

  it('are one group where they fit, however they are mixed with others', async () => {
    const items = Array.from(
      { length: 200 },
      (_, index): Item => ({
        ...{ group: index % 2, bytes: 32, derivation: 'one', fails: 'never' },
      }),
    );
    assert.equal((await done(items)).groups.length, 2);
  });

  it('fail all where their group does, and no others', async () => {
    const items = Array.from(
      { length: 6 },
      (_, index): Item => ({
        ...{ group: index % 2, bytes: 32, derivation: 'one' },
        fails: index === 3 ? 'with its group' : 'never',
      }),
    );
    const { texts } = await done(items);
    assert.deepEqual(texts, ['done 0', 'group 1', 'done 2', 'group 1', 'done 4', 'group 1']);
  });
});

describe('things that many items need', () => {
  it('are loaded once each, and one that cannot be loaded fails those that need it', async () => {
    const loads: string[] = [];
    const of = await loadEach(['a', 'b', 'a', 'c', 'b'], async (key) => {
      loads.push(key);
      if (key === 'b') throw failure('no b');
      return key.toUpperCase();
    });
    assert.deepEqual(loads, ['a', 'b', 'c']);
    assert.deepEqual([of('a'), of('c')], ['A', 'C']);
    assert.throws(() => of('b'), { reason: 'DECRYPTION_FAILED' });
  });
});
