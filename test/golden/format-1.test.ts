/**
 * What was encrypted by the first release opens, in Keyward's code and in a second implementation
 * written from docs/ciphertext.md; what is wrong in one way is refused by both. Row seals and check
 * values likewise.
 */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { KeywardError } from '../../src/errors.ts';
import { open, PURPOSE, parseHeader } from '../../src/hsm/ciphertext.ts';
import { CHECK_VALUE_BYTES, checkInput, SEAL_BYTES, sealInput } from '../../src/hsm/key-version.ts';
import {
  type AnyId,
  type EnvironmentId,
  idToBytes,
  type KeyId,
  type RootKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { contextDigest } from '../../src/keyring/keys/encryption-context.ts';
import * as again from './recompute.ts';
import {
  type CiphertextVector,
  type KeyVersionVector,
  keyVersions,
  opening,
  refused,
} from './vectors.ts';

/** Opens as the server and its agent do together: header, then key and version, then the rest. */
function openByKeyward(vector: CiphertextVector): Buffer {
  const purposes = Object.values(PURPOSE).filter((purpose) => purpose === vector.purpose);
  const header = parseHeader(vector.ciphertext, purposes);
  if (header.keyId !== vector.key || header.version !== vector.version) {
    throw new KeywardError('DECRYPTION_FAILED');
  }
  const binding = {
    tenant: idToBytes(vector.tenant as AnyId),
    subject: idToBytes(vector.subject as AnyId),
    contextDigest: contextDigest(new Map(vector.context)),
  };
  return open(vector.ciphertext, binding, (input) =>
    createHmac('sha512', vector.material).update(input).digest(),
  );
}

function identityOf(vector: KeyVersionVector) {
  return {
    tenantId: vector.tenant as TenantId,
    keyId: vector.key as KeyId,
    version: vector.version,
    algorithm: vector.algorithm,
  };
}

describe('case 58: a golden ciphertext', () => {
  for (const vector of opening) {
    it(`opens: ${vector.name}`, () => {
      assert.deepEqual(openByKeyward(vector), vector.plaintext);
      assert.deepEqual(again.open(vector, vector.ciphertext), vector.plaintext);
    });

    it(`comes out of the documented steps byte for byte: ${vector.name}`, () => {
      const { ciphertext } = vector;
      const [salt, iv] = [ciphertext.subarray(24, 56), ciphertext.subarray(56, 68)];
      const made = again.sealWith(vector, salt, iv, vector.plaintext, ciphertext[1]);
      assert.deepEqual(made, ciphertext);
    });
  }

  for (const vector of refused) {
    it(`is refused: ${vector.name}`, () => {
      assert.throws(() => openByKeyward(vector), {
        name: 'KeywardError',
        reason: 'DECRYPTION_FAILED',
      });
      assert.equal(again.open(vector, vector.ciphertext), undefined);
    });
  }

  it('is in the file, of both kinds, every purpose and both suites', () => {
    assert.ok(opening.length >= 30, `${opening.length} that open`);
    assert.ok(refused.length >= 100, `${refused.length} that are refused`);
    for (const suite of [1, 2]) {
      const ofSuite = opening.filter(({ ciphertext }) => ciphertext[1] === suite);
      assert.deepEqual(new Set(ofSuite.map(({ purpose }) => purpose)), new Set([1, 2, 3]));
    }
    const names = [...opening, ...refused].map(({ name }) => name);
    assert.equal(new Set(names).size, names.length, 'two vectors have one name');
  });
});

describe('a golden key version', () => {
  for (const vector of keyVersions) {
    const { sealKey, material, wrapped } = vector;
    const environment = vector.environment as EnvironmentId;

    it(`has its row seal: ${vector.name}`, () => {
      assert.deepEqual(again.rowSeal(sealKey, vector, vector.checkValue, wrapped), vector.seal);
      const row = { ...vector, ...identityOf(vector), rootKeyId: vector.root as RootKeyId };
      const whole = createHmac('sha512', sealKey).update(sealInput(environment, row)).digest();
      assert.deepEqual(whole.subarray(0, SEAL_BYTES), vector.seal);
    });

    it(`has its check value: ${vector.name}`, () => {
      assert.deepEqual(again.checkValue(material, vector), vector.checkValue);
      const input = checkInput(environment, identityOf(vector));
      const whole = createHmac('sha512', material).update(input).digest();
      assert.deepEqual(whole.subarray(0, CHECK_VALUE_BYTES), vector.checkValue);
    });

    it(`has its wrapped material: ${vector.name}`, () => {
      assert.deepEqual(again.wrap(vector.rootKey, vector.wrap, material), wrapped);
      assert.equal(wrapped.length, 72);
    });
  }

  it('is in the file for both ways of wrapping', () => {
    assert.deepEqual(new Set(keyVersions.map(({ wrap }) => wrap)), new Set([1, 2]));
  });
});

describe('the second implementation', () => {
  it('is written with node:crypto alone', () => {
    const source = readFileSync(join(import.meta.dirname, 'recompute.ts'), 'utf8');
    const imported = [...source.matchAll(/(?:from|import\()\s*'([^']+)'/g)].map(
      ([, module]) => module,
    );
    assert.deepEqual(imported, ['node:crypto']);
  });
});

describe('the worked example in docs/ciphertext.md', () => {
  const document = readFileSync(join(import.meta.dirname, '../../docs/ciphertext.md'), 'utf8');
  const shown = readExample(document);

  it('is the golden vectors of that name, step by step', () => {
    const vector = named(opening, 'a text with a context, as in the worked example');
    const version = named(keyVersions, 'as in the worked example');
    const { ciphertext, material } = vector;
    const header = ciphertext.subarray(0, 68);
    const binding = again.bindingOf(vector);
    const derived = again.derive(material, header, binding);
    const inEpoch = named(opening, 'a message of an epoch, as in the worked example');
    const epochHeader = inEpoch.ciphertext.subarray(0, 68);
    const epoch = again.deriveEpoch(inEpoch.material, epochHeader, inEpoch.tenant);
    const rowInput = Buffer.concat([
      Buffer.from('keyward/v1/seal/key-version\0'),
      again.identity(version),
      Buffer.from(version.root.replaceAll('-', ''), 'hex'),
      Buffer.from([version.wrap]),
      version.checkValue,
      Buffer.from([0, version.wrapped.length]),
      version.wrapped,
    ]);
    const expected: Record<string, Buffer> = {
      material,
      plaintext: vector.plaintext,
      D: again.contextDigest(vector.context),
      H: header,
      B: binding,
      'HMAC input': Buffer.concat([
        Buffer.from('00000001', 'hex'),
        Buffer.from('keyward/v1/message\0'),
        header,
        binding,
        Buffer.from('00000200', 'hex'),
      ]),
      K: derived.subarray(0, 32),
      commitment: derived.subarray(32),
      AAD: Buffer.concat([header, derived.subarray(32), binding]),
      encrypted: ciphertext.subarray(100, -16),
      tag: ciphertext.subarray(-16),
      ciphertext,
      'epoch material': inEpoch.material,
      'epoch header': epochHeader,
      'epoch input': Buffer.concat([
        Buffer.from('00000001', 'hex'),
        Buffer.from('keyward/v1/epoch\0'),
        epochHeader.subarray(1, 2),
        epochHeader.subarray(4, 24),
        Buffer.from(inEpoch.tenant.replaceAll('-', ''), 'hex'),
        epochHeader.subarray(24, 56),
        Buffer.from('00000200', 'hex'),
      ]),
      E: epoch,
      'K in the epoch': again.derive(epoch, epochHeader, again.bindingOf(inEpoch)).subarray(0, 32),
      'epoch message': inEpoch.ciphertext,
      identity: again.identity(version),
      'check input': Buffer.concat([Buffer.from('keyward/v1/check\0'), again.identity(version)]),
      'check value': version.checkValue,
      'root key': version.rootKey,
      wrapped: version.wrapped,
      'seal key': version.sealKey,
      'seal input': rowInput,
      seal: version.seal,
    };
    const inHex = Object.entries(expected).map(
      ([name, bytes]) => [name, bytes.toString('hex')] as const,
    );
    assert.deepEqual(shown, new Map(inHex));
  });
});

function named<T extends { readonly name: string }>(vectors: readonly T[], end: string): T {
  const vector = vectors.find(({ name }) => name.endsWith(end));
  return vector ?? assert.fail('no golden vector is the worked example');
}

/**
 * Lines `name = hex`, and the lines of hex that continue them, of the example's section; the state
 * of its key aside, which has a test of its own.
 */
function readExample(document: string): Map<string, string> {
  const whole = document.split(/^## /m).find((part) => part.startsWith('Worked example')) ?? '';
  const [section = ''] = whole.split('\nThe state of that key');
  const values = new Map<string, string>();
  let name = '';
  for (const line of section.split('\n')) {
    const [, newName, hex = ''] = /^(?:([A-Za-z][A-Za-z ]*?) +=)? +([0-9a-f]+)$/.exec(line) ?? [];
    if (newName !== undefined) name = newName;
    if (hex !== '') values.set(name, (values.get(name) ?? '') + hex);
  }
  return values;
}
