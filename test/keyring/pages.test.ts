/**
 * Page tokens: a list is read to its end by them, and one of another list, or with anything added,
 * is refused.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decodePageToken, encodePageToken, readPage } from '../../src/keyring/pages.ts';
import type { Condition } from '../../src/store/core/conditions.ts';

const LIST = 'keys acme';
const HASH_CHARACTERS = 10;
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

const list = fc.string({ unit: 'grapheme', maxLength: 30 });
const position = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 30 }),
  fc.integer({ min: 1 }).map(String),
);

const anything = () => true;

function refuses(ofList: string, token: string): void {
  assert.throws(
    () => decodePageToken(ofList, token, anything),
    (error: unknown) => {
      assert.ok(error instanceof Error && 'reason' in error && 'fields' in error);
      assert.equal(error.reason, 'INVALID_FIELD');
      assert.deepEqual(error.fields, [
        { field: 'page_token', description: 'must be a page token of this list' },
      ]);
      return true;
    },
    JSON.stringify(token),
  );
}

describe('a page token', () => {
  it('gives back the position that it was made for', () => {
    fc.assert(
      fc.property(list, position, (ofList, at) => {
        assert.equal(decodePageToken(ofList, encodePageToken(ofList, at), anything), at);
      }),
    );
  });

  it('that is empty is the beginning of any list', () => {
    fc.assert(
      fc.property(list, (ofList) => assert.equal(decodePageToken(ofList, '', anything), undefined)),
    );
  });

  it('is never empty, which would be the beginning again', () => {
    fc.assert(fc.property(list, (ofList) => assert.notEqual(encodePageToken(ofList, ''), '')));
  });

  it('case 33: of another list is refused', () => {
    fc.assert(
      fc.property(list, list, position, (one, other, at) => {
        fc.pre(one !== other);
        refuses(other, encodePageToken(one, at));
      }),
    );
    refuses('keys acme-b', encodePageToken('keys acme', 'k'));
    refuses('versions tenants/acme/keys/k', encodePageToken('keys acme', 'k'));
  });

  it('is refused when any character of what names its list is changed', () => {
    fc.assert(
      fc.property(
        position,
        fc.nat(HASH_CHARACTERS - 1),
        fc.constantFrom(...ALPHABET),
        (at, where, instead) => {
          const token = encodePageToken(LIST, at);
          fc.pre(token[where] !== instead);
          refuses(LIST, token.slice(0, where) + instead + token.slice(where + 1));
        },
      ),
    );
  });

  it('that is cut into what names its list is refused', () => {
    const token = encodePageToken(LIST, 'orders');
    for (let length = 1; length <= HASH_CHARACTERS; length++) refuses(LIST, token.slice(0, length));
    for (let start = 1; start < token.length; start++) refuses(LIST, token.slice(start));
  });

  it('has one spelling: padding, other alphabets, white space and loose bits are refused', () => {
    fc.assert(
      fc.property(position, (at) => {
        const token = encodePageToken(LIST, at);
        for (const more of ['=', '==', ' ', '\n', '\u0000', '.', '+', '!', 'é'])
          refuses(LIST, token + more);
        refuses(LIST, ` ${token}`);
        const standard = token.replaceAll('-', '+').replaceAll('_', '/');
        if (standard !== token) refuses(LIST, standard);
        refuses(LIST, Buffer.from(token).toString('base64url'));
      }),
    );
    // "A" for the last character has all of its loose bits zero, "B" has one of them set.
    const loose = encodePageToken(LIST, 'ab');
    assert.equal(Buffer.from(loose, 'base64url').length % 3, 1);
    refuses(LIST, loose.slice(0, -1) + ALPHABET[ALPHABET.indexOf(loose.slice(-1)) + 1]);
  });

  it('with a position that the list can not have is refused', () => {
    const token = encodePageToken(LIST, 'a');
    assert.equal(
      decodePageToken(LIST, token, (text) => text === 'a'),
      'a',
    );
    assert.throws(() => decodePageToken(LIST, token, (text) => text === 'b'), {
      reason: 'INVALID_FIELD',
    });
  });

  it('that is noise is refused', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 1, maxLength: 50 }), (noise) =>
        refuses(LIST, noise),
      ),
    );
    refuses(LIST, 'A'.repeat(100_000));
  });
});

/** A page of the given rows, as a table would give it. */
function pageOf(
  rows: readonly string[],
  pageSize: number,
  pageToken: string,
  conditions: readonly Condition[] = [],
) {
  return readPage(
    LIST,
    { pageSize, pageToken, conditions },
    { positionOf: (row: string) => row, isPosition: anything },
    (query) => {
      assert.deepEqual(query.conditions, conditions);
      const rest = rows.filter((row) => query.after === undefined || row > query.after);
      return Promise.resolve(rest.slice(0, query.limit));
    },
  );
}

describe('a page', () => {
  it('after another leads through the whole list, each item once and in order', async () => {
    const names = fc.uniqueArray(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 8 }), {
      maxLength: 40,
    });
    await fc.assert(
      fc.asyncProperty(names, fc.integer({ min: 1, max: 12 }), async (unsorted, pageSize) => {
        const rows = unsorted.toSorted();
        const seen: string[] = [];
        let token = '';
        let pages = 0;
        do {
          const page = await pageOf(rows, pageSize, token);
          assert.ok(page.items.length <= pageSize);
          seen.push(...page.items);
          token = page.nextPageToken;
          pages++;
        } while (token !== '' && pages < 100);
        assert.deepEqual(seen, rows);
        assert.equal(pages, Math.max(1, Math.ceil(rows.length / pageSize)));
      }),
    );
  });

  it('that is full and the last has no next one', async () => {
    assert.deepEqual(await pageOf(['a', 'b'], 2, ''), { items: ['a', 'b'], nextPageToken: '' });
  });

  it('of a list under a filter has a token for that filter only', async () => {
    const filters: readonly (readonly Condition[])[] = [
      [],
      [{ field: 'state', operator: '=', value: 'ENABLED' }],
      [{ field: 'state', operator: '!=', value: 'ENABLED' }],
      [{ field: 'labels', member: 'state', operator: '=', value: 'ENABLED' }],
    ];
    const rows = ['a', 'b', 'c'];
    for (const [made, conditions] of filters.entries()) {
      const { nextPageToken } = await pageOf(rows, 1, '', conditions);
      for (const [used, others] of filters.entries()) {
        const next = pageOf(rows, 1, nextPageToken, others);
        if (made === used) assert.deepEqual((await next).items, ['b']);
        else await assert.rejects(next, { reason: 'INVALID_FIELD' });
      }
    }
  });

  it('ends early where its rows would be too many bytes for an answer, and has one in any case', async () => {
    const MAX = 4_000_000;
    const sizes = fc.oneof(fc.nat(1_000), fc.nat(MAX), fc.constantFrom(MAX, MAX + 1, 3 * MAX));
    await fc.assert(
      fc.asyncProperty(
        fc.array(sizes, { maxLength: 30 }),
        fc.integer({ min: 1, max: 10 }),
        async (list, pageSize) => {
          const rows = list.map((bytes, index) => ({ bytes, at: String(index).padStart(3, '0') }));
          const found: typeof rows = [];
          let pageToken = '';
          do {
            const { items, nextPageToken } = await readPage<(typeof rows)[number]>(
              LIST,
              { pageSize, pageToken, conditions: [] },
              {
                positionOf: ({ at }) => at,
                isPosition: anything,
                bytesOf: ({ bytes }) => bytes,
              },
              async ({ after = '', limit }) => rows.filter(({ at }) => at > after).slice(0, limit),
            );
            const total = items.reduce((sum, { bytes }) => sum + bytes, 0);
            assert.ok(items.length <= pageSize && (total <= MAX || items.length === 1));
            const next = rows[found.length + items.length];
            if (next !== undefined && items.length < pageSize) assert.ok(total + next.bytes > MAX);
            found.push(...items);
            pageToken = nextPageToken;
          } while (pageToken !== '');
          assert.deepEqual(found, rows);
        },
      ),
    );
  });
});
