/**
 * The encryption context: two that differ never have one digest, two that are equal always have,
 * and what could make different ones look alike is refused.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { z } from 'zod';
import { encryptionContext, validate } from '../../src/faces/contract/fields.ts';
import {
  contextDigest,
  type EncryptionContext,
  findContextProblem,
} from '../../src/keyring/keys/encryption-context.ts';
import * as again from '../golden/recompute.ts';
import { opening } from '../golden/vectors.ts';

function refuses(context: EncryptionContext, problem: RegExp): void {
  assert.match(findContextProblem(context) ?? '', problem);
}

function accepts(context: EncryptionContext): void {
  assert.equal(findContextProblem(context), undefined);
}

function isAccepted(context: EncryptionContext): boolean {
  return findContextProblem(context) === undefined;
}

/** Both in the order given, so that they are unequal unless every entry is equal. */
function equal(first: EncryptionContext, second: EncryptionContext): boolean {
  return (
    first.size === second.size && [...first].every(([key, value]) => second.get(key) === value)
  );
}

/** Texts that callers send, and texts made to be taken for one another. */
const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 12 }),
  fc.string({
    unit: fc.constantFrom('a', 'b', '|', '=', '\u{10000}', '\ue000', '\u00e9'),
    maxLength: 4,
  }),
  fc.constantFrom('__proto__', 'constructor', 'toString', 'a\u0301', '\u00e1'),
);
const context: fc.Arbitrary<EncryptionContext> = fc
  .array(fc.tuple(text, text), { maxLength: 8 })
  .map((entries) => new Map(entries))
  .filter(isAccepted);

describe('the digest of an encryption context', () => {
  it('is the same for two contexts only if they are equal', () => {
    fc.assert(
      fc.property(context, context, (first, second) => {
        assert.equal(contextDigest(first).equals(contextDigest(second)), equal(first, second));
      }),
      { numRuns: 2_000 },
    );
  });

  it('case 47: differs between contexts that are alike once joined', () => {
    // All ways to cut the same characters into keys and values, by every separator that one might
    // join with.
    const alike = ['', '|', '=', '&', ',', ':', ' ', '\u00a0'].flatMap((separator) => {
      const parts = ['a', 'b', 'c', 'd'];
      return [
        [[parts.join(separator), '']],
        [[parts.slice(0, 1).join(separator), parts.slice(1).join(separator)]],
        [[parts.slice(0, 2).join(separator), parts.slice(2).join(separator)]],
        [[parts.slice(0, 3).join(separator), parts.slice(3).join(separator)]],
        [parts.slice(0, 2), parts.slice(2)],
        [parts.slice(2), parts.slice(0, 2).toReversed()],
      ] as [string, string][][];
    });
    const contexts = new Map(alike.map((entries) => [JSON.stringify(entries), new Map(entries)]));
    const digests = [...contexts.values()].map((each) => contextDigest(each).toString('hex'));
    assert.ok(contexts.size > 30);
    assert.equal(new Set(digests).size, contexts.size);
    assert.notDeepEqual(
      contextDigest(new Map([['a|b', 'c']])),
      contextDigest(new Map([['a', 'b|c']])),
    );
  });

  it('differs when bytes move between a key, its value and the next entry', () => {
    fc.assert(
      fc.property(context, fc.nat(), fc.nat(), (whole, which, at) => {
        fc.pre(whole.size > 0);
        const entries = [...whole];
        const [key, value] = entries[which % entries.length] ?? assert.fail();
        const joined = key + value;
        const cut = at % (joined.length + 1);
        const moved = new Map(
          entries.map((entry) => (entry[0] === key ? split(joined, cut) : entry)),
        );
        fc.pre(isAccepted(moved) && !equal(moved, whole));
        assert.notDeepEqual(contextDigest(moved), contextDigest(whole));
      }),
    );
  });

  it('case 52: does not depend on the order of the entries', () => {
    const shuffled = context.chain((whole) =>
      fc
        .shuffledSubarray([...whole], { minLength: whole.size, maxLength: whole.size })
        .map((entries) => ({ whole, other: new Map(entries) })),
    );
    fc.assert(
      fc.property(shuffled, ({ whole, other }) => {
        assert.deepEqual(contextDigest(other), contextDigest(whole));
      }),
      { numRuns: 500 },
    );
  });

  it('is what docs/ciphertext.md says, for any context', () => {
    fc.assert(
      fc.property(context, (whole) => {
        assert.deepEqual(contextDigest(whole), again.contextDigest([...whole]));
      }),
      { numRuns: 500 },
    );
  });

  it('leaves the context as it was', () => {
    const entries: [string, string][] = [
      ['b', '1'],
      ['a', '2'],
    ];
    const whole = new Map(entries);
    contextDigest(whole);
    assert.deepEqual([...whole], entries);
  });

  it('of no entries is not that of an empty text', () => {
    assert.notDeepEqual(contextDigest(new Map()), contextDigest(new Map([['a', '']])));
    assert.notEqual(contextDigest(new Map()).readBigUInt64BE(), 0n);
  });
});

describe('an encryption context', () => {
  it('case 46: has up to 64 entries', () => {
    const entries = (count: number) =>
      new Map(Array.from({ length: count }, (_, i) => [`k${i}`, 'v']));
    for (const count of [0, 1, 64]) accepts(entries(count));
    refuses(entries(65), /64 entries.*65/);
  });

  it('case 46: has up to 8,192 bytes of keys and values together, in UTF-8', () => {
    accepts(new Map([['k', 'v'.repeat(8_191)]]));
    accepts(new Map([['k'.repeat(8_192), '']]));
    refuses(new Map([['k', 'v'.repeat(8_192)]]), /8192 bytes.*8193/);
    refuses(new Map([['k'.repeat(8_192), 'v']]), /8192 bytes.*8193/);
    // Two, three and four bytes a character; the last also has two UTF-16 code units.
    for (const [character, size] of [
      ['\u00e9', 2],
      ['\u20ac', 3],
      ['\u{1f511}', 4],
    ] as const) {
      const value = character.repeat(Math.floor(8_188 / size));
      const rest = 8_192 - Buffer.byteLength(value);
      accepts(new Map([['k'.repeat(rest), value]]));
      refuses(new Map([['k'.repeat(rest + 1), value]]), /8193/);
    }
    const many = Array.from(
      { length: 64 },
      (_, i) => [`${i}`.padStart(2, '0'), 'v'.repeat(126)] as const,
    );
    accepts(new Map(many));
    refuses(new Map([...many.slice(1), ['00', 'v'.repeat(127)]]), /8193/);
  });

  it('case 46: has no empty key, but may have empty values', () => {
    accepts(new Map([['k', '']]));
    refuses(new Map([['', 'v']]), /empty key/);
    refuses(
      new Map([
        ['k', 'v'],
        ['', ''],
      ]),
      /empty key/,
    );
  });

  it('case 46: has no key with the prefix keyward:, which is the service’s own', () => {
    for (const key of ['keyward:', 'keyward:tenant', 'keyward::']) {
      refuses(new Map([[key, 'v']]), /reserved prefix keyward:/);
    }
    for (const key of ['keyward', 'keyward/', 'Keyward:', ' keyward:', 'a:keyward:'])
      accepts(new Map([[key, 'v']]));
    accepts(new Map([['k', 'keyward:']]));
  });

  it('case 46: may have __proto__ and the like for keys, each with its own digest', () => {
    const keys = [
      '__proto__',
      'constructor',
      'prototype',
      'toString',
      'hasOwnProperty',
      '0',
      'length',
    ];
    const digests = keys.map((key) => {
      const one = new Map([[key, 'v']]);
      accepts(one);
      return contextDigest(one).toString('hex');
    });
    assert.equal(
      new Set([...digests, contextDigest(new Map()).toString('hex')]).size,
      keys.length + 1,
    );
  });

  it('case 46: has no control character, U+FFFD or lone surrogate anywhere in a key or value', () => {
    const controls = [...Array(0x20).keys(), ...Array.from({ length: 0x21 }, (_, i) => 0x7f + i)];
    const surrogates = [0xd800, 0xdbff, 0xdc00, 0xdfff];
    for (const code of [...controls, 0xfffd, ...surrogates]) {
      const bad = String.fromCharCode(code);
      for (const around of [
        bad,
        `${bad}a`,
        `a${bad}`,
        `a${bad}a`,
        `\u{1f511}${bad}`,
        `${bad}\u{1f511}`,
      ]) {
        refuses(new Map([[around, 'v']]), /control character, U\+FFFD or invalid UTF-8/);
        refuses(new Map([['k', around]]), /control character, U\+FFFD or invalid UTF-8/);
      }
    }
    refuses(
      new Map([
        ['first', 'fine'],
        ['second', 'not\u0000fine'],
      ]),
      /control character/,
    );
  });

  it('case 46: that breaks a rule is INVALID_FIELD, naming the field', () => {
    const request = z.object({ encryptionContext });
    const broken = [
      { '': 'v' },
      { 'keyward:k': 'v' },
      { k: '\ufffd' },
      { k: '\u0000' },
      { k: 'v'.repeat(8_192) },
    ];
    for (const context of [
      ...broken,
      Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`k${i}`, ''])),
    ]) {
      assert.throws(
        () => validate(request, { encryptionContext: context }),
        (error: unknown) => {
          assert.ok(error instanceof Error && 'reason' in error && 'fields' in error);
          assert.equal(error.reason, 'INVALID_FIELD');
          const fields = error.fields as readonly {
            readonly field: string;
            readonly description: string;
          }[];
          assert.deepEqual(
            fields.map(({ field }) => field),
            ['encryption_context'],
          );
          return true;
        },
      );
    }
    const proto = JSON.parse('{"__proto__": "v"}') as Record<string, string>;
    const read = validate(request, { encryptionContext: proto });
    assert.deepEqual(read.encryptionContext, new Map([['__proto__', 'v']]));
  });

  it('of a golden ciphertext is one that callers may send', () => {
    for (const { context: golden } of opening) accepts(new Map(golden));
  });

  it('may have every other character', () => {
    const allowed = fc.string({ unit: 'binary', maxLength: 20 }).filter((each) => {
      const points = [...each].map((character) => character.codePointAt(0) ?? 0);
      return points.every(
        (point) =>
          point > 0x1f &&
          (point < 0x7f || point > 0x9f) &&
          point !== 0xfffd &&
          (point < 0xd800 || point > 0xdfff),
      );
    });
    fc.assert(
      fc.property(allowed, allowed, (key, value) => {
        fc.pre(key !== '' && !key.startsWith('keyward:'));
        accepts(new Map([[key, value]]));
      }),
      { numRuns: 1_000 },
    );
    for (const each of [
      ' ',
      '\u00a0',
      '\u2028',
      '\u202e',
      '\ufeff',
      '\ufffc',
      '\ufffe',
      '\u{10ffff}',
    ]) {
      accepts(new Map([[each, each]]));
    }
  });
});

/** A text as two. */
function split(joined: string, at: number): [string, string] {
  return [joined.slice(0, at), joined.slice(at)];
}
