/**
 * Wycheproof's vectors for JSON Web Signatures and Keys, through what verifies tokens (case 27).
 *
 * The service takes asymmetric algorithms only, requires a `kid`, and believes a key's `alg`: what
 * the vectors call valid otherwise is refused, and is listed here.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readCompact, verifySigned } from '../../src/access/compact-bearer.ts';
import { ALGORITHMS, readKeySet } from '../../src/access/public-keys.ts';
import { KeywardError } from '../../src/errors.ts';
import { groupsOf, skip, tally } from './wycheproof.ts';

interface Group {
  readonly public?: object;
  readonly private: object;
  readonly tests: readonly {
    readonly tcId: number;
    readonly jws: unknown;
    readonly result: string;
  }[];
}

/** The group's keys as an issuer publishes them; a symmetric one has no public part. */
function keysOf(group: Group) {
  const keys = group.public ?? group.private;
  return readKeySet(
    Buffer.from(JSON.stringify('keys' in keys ? keys : { keys: [keys] })),
    ALGORITHMS,
  );
}

async function verifies(jws: unknown, group: Group): Promise<boolean> {
  try {
    const token = readCompact(typeof jws === 'string' ? jws : JSON.stringify(jws));
    await verifySigned(token, keysOf(group).get(token.header.kid));
    return true;
  } catch (error) {
    if (error instanceof KeywardError) return false;
    throw error;
  }
}

async function run(file: string) {
  const ran = tally();
  const stricter: number[] = [];
  for (const group of groupsOf<Group>(file)) {
    for (const { tcId, jws, result } of group.tests) {
      const isAccepted = await verifies(jws, group);
      ran(`${result}, ${isAccepted ? 'accepted' : 'refused'}`);
      if (result === 'valid' && !isAccepted && group.public !== undefined) stricter.push(tcId);
    }
  }
  return { counts: ran.counts, stricter };
}

test('case 27: JSON Web Signatures', { skip }, async () => {
  const { counts, stricter } = await run('json_web_signature_test.json');
  assert.deepEqual(counts, {
    'invalid, refused': 355,
    'valid, accepted': 32,
    'valid, refused': 14,
  });
  // Their keys say PS256, or ES521, which is none, and their headers PS384 and ES512.
  assert.deepEqual(stricter, [346, 347, 350, 351]);
});

test('case 27: JSON Web Keys', { skip }, async () => {
  const { counts, stricter } = await run('json_web_key_test.json');
  assert.deepEqual(counts, { 'invalid, refused': 21, 'valid, accepted': 1, 'valid, refused': 4 });
  assert.deepEqual(stricter, []);
});
