/** What comes twice among many messages (case 57), and among numbers. */
import { NO_SUBJECT, PURPOSE, seal } from '../../../src/hsm/ciphertext.ts';
import { type KeyId, newId } from '../../../src/ids.ts';

/** Returns how many of the numbers are there twice; sorts them. */
export function repeated(numbers: BigUint64Array): number {
  numbers.sort();
  let count = 0;
  for (let index = 1; index < numbers.length; index++) {
    if (numbers[index] === numbers[index - 1]) count++;
  }
  return count;
}

/**
 * Returns how many salts and IVs are there twice among so many messages.
 *
 * Eight bytes of each are compared: if those differ, all of it does, and by chance two are equal
 * once in 18 million runs of a million messages.
 */
export function repeatedAmong(messages: number): { readonly salts: number; readonly ivs: number } {
  const header = { purpose: PURPOSE.payload, keyId: newId<KeyId>(), version: 1 };
  const binding = {
    tenant: Buffer.alloc(16),
    subject: NO_SUBJECT,
    contextDigest: Buffer.alloc(32),
  };
  const nothing = Buffer.alloc(0);
  // The token's part is left out: what it answers has no bearing on salt and IV.
  const derived = Buffer.alloc(64);
  const salts = new BigUint64Array(messages);
  const ivs = new BigUint64Array(messages);
  for (let index = 0; index < messages; index++) {
    const ciphertext = seal(header, binding, nothing, () => derived);
    salts[index] = ciphertext.readBigUInt64BE(24);
    ivs[index] = ciphertext.readBigUInt64BE(60);
  }
  return { salts: repeated(salts), ivs: repeated(ivs) };
}
