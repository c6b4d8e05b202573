/**
 * The golden vectors as they are read: `format-1.json`, made once, with random salts and IVs, and
 * fixed since.
 *
 * Every later release opens the ciphertexts that open here and refuses those that don't, of which
 * each is wrong in exactly one way and right in everything else. UUIDs are text, bytes are
 * hexadecimal. Knows no code of Keyward's.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ContextEntries, type KeyVersionAtRest, type Sealing, sealWith } from './recompute.ts';

/** Text or bytes that are the same thing many times over. */
interface Repeated {
  readonly repeat: string;
  readonly times: number;
}

/** A ciphertext that is too long for the file: its first 100 bytes, and the digest of all of it. */
interface Shortened {
  readonly start: string;
  readonly length: number;
  readonly sha256: string;
}

interface CiphertextRow {
  readonly name: string;
  readonly opens: boolean;
  readonly material: string;
  readonly tenant: string;
  readonly key: string;
  readonly version: number;
  readonly purpose: number;
  readonly subject: string;
  readonly context: readonly (readonly [string, string | Repeated])[];
  /** Of those that open, and of those that are shortened. */
  readonly plaintext?: string | Repeated;
  readonly ciphertext: string | Shortened;
}

interface KeyVersionRow extends KeyVersionAtRest {
  readonly name: string;
  readonly rootKey: string;
  readonly sealKey: string;
  readonly material: string;
  readonly wrapped: string;
  readonly checkValue: string;
  readonly seal: string;
}

/** A ciphertext, and what whoever opens it knows. */
export interface CiphertextVector extends Sealing {
  readonly name: string;
  readonly ciphertext: Buffer;
}

/** One that opens. */
export interface OpeningVector extends CiphertextVector {
  readonly plaintext: Buffer;
}

/** A key version at rest, with the keys that no HSM would give. */
export interface KeyVersionVector extends KeyVersionAtRest {
  readonly name: string;
  readonly rootKey: Buffer;
  readonly sealKey: Buffer;
  readonly material: Buffer;
  readonly wrapped: Buffer;
  readonly checkValue: Buffer;
  readonly seal: Buffer;
}

const file = join(import.meta.dirname, 'format-1.json');
const rows = JSON.parse(readFileSync(file, 'utf8')) as {
  readonly ciphertexts: readonly CiphertextRow[];
  readonly keyVersions: readonly KeyVersionRow[];
};

export const opening: readonly OpeningVector[] = rows.ciphertexts
  .filter((row) => row.opens)
  .map((row) => ({ ...toVector(row), plaintext: plaintextOf(row) }));

export const refused: readonly CiphertextVector[] = rows.ciphertexts
  .filter((row) => !row.opens)
  .map(toVector);

export const keyVersions: readonly KeyVersionVector[] = rows.keyVersions.map((row) => ({
  ...row,
  rootKey: fromHex(row.rootKey),
  sealKey: fromHex(row.sealKey),
  material: fromHex(row.material),
  wrapped: fromHex(row.wrapped),
  checkValue: fromHex(row.checkValue),
  seal: fromHex(row.seal),
}));

function toVector(row: CiphertextRow): CiphertextVector {
  const context: ContextEntries = row.context.map(([key, value]) => [key, textOf(value)]);
  const sealing = { ...row, material: fromHex(row.material), context };
  const { ciphertext } = row;
  return {
    ...sealing,
    ciphertext:
      typeof ciphertext === 'string'
        ? fromHex(ciphertext)
        : rebuild(sealing, ciphertext, plaintextOf(row)),
  };
}

/** The whole of a shortened ciphertext, from its salt and IV. */
function rebuild(
  sealing: Sealing,
  { start, length, sha256 }: Shortened,
  plaintext: Buffer,
): Buffer {
  const head = fromHex(start);
  const [salt, iv] = [head.subarray(24, 56), head.subarray(56, 68)];
  const whole = sealWith(sealing, salt, iv, plaintext, head[1]);
  const digest = createHash('sha256').update(whole).digest('hex');
  if (
    whole.length !== length ||
    digest !== sha256 ||
    !whole.subarray(0, head.length).equals(head)
  ) {
    throw new Error('a shortened golden ciphertext does not come out as it was');
  }
  return whole;
}

function plaintextOf({ plaintext = '' }: CiphertextRow): Buffer {
  return typeof plaintext === 'string'
    ? fromHex(plaintext)
    : fromHex(plaintext.repeat.repeat(plaintext.times));
}

function textOf(value: string | Repeated): string {
  return typeof value === 'string' ? value : value.repeat.repeat(value.times);
}

function fromHex(text: string): Buffer {
  return Buffer.from(text, 'hex');
}
