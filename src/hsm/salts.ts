/**
 * Salts and IVs of messages: random, and hedged, so that a process that is run twice from one
 * snapshot (of a virtual machine, say) makes no two messages of one salt.
 *
 * - A salt is a digest of random bytes, of a secret of this process, and of all that the message
 *   is: with fresh random bytes it is as good as they are; with bytes that were drawn before, two
 *   messages have one salt only if they are the same message, under the same key.
 * - Drawing for each message would not do: after a snapshot OpenSSL's generator repeats itself too.
 * - The salt of a batch, which many messages share, is a digest of all that each of them is. That
 *   of an epoch which is kept is as a message's, of its first; there each IV is such a digest
 *   besides, since the messages that follow have the same salt.
 * - Knows no format but the lengths that it is given.
 */
import { createCipheriv, createSecretKey, hash, randomBytes, randomFillSync } from 'node:crypto';
import { IV_BYTES } from './aes-gcm.ts';

export const SALT_BYTES = 32;
const LABEL = Buffer.from('keyward/v1/salt\0', 'latin1');
const IV_LABEL = Buffer.from('keyward/v1/iv\0', 'latin1');
/** No header begins with it, which is what stands in its place for one message. */
const EPOCH_LABEL = Buffer.from('keyward/v1/epoch-salt\0', 'latin1');
const SECRET = randomBytes(32);
const LONG_KEY = createSecretKey(randomBytes(32));
/**
 * A longer plaintext is represented by its GMAC under a secret key, which nobody ever sees: 13 µs
 * for 64 KiB, where SHA-256 takes 146; of 1 KiB the digest takes 2.2 µs and a GMAC 5.1 (measured).
 */
const LONG_BYTES = 2_048;
/**
 * Fills `target` with a salt and an IV (44 bytes) for one message. `parts` is all that the message
 * is but its plaintext, each of a length that it always has.
 */
export function drawSaltAndIv(
  target: Buffer,
  parts: readonly Uint8Array[],
  plaintext: Uint8Array,
): void {
  drawRandom(target);
  hedge(target, [...parts, ...digestible(plaintext, target)]);
}

/**
 * Fills `target` with a salt and what IVs begin with (44 bytes) for a tenant's messages that share
 * them. The `parts` of each are as those of {@link drawSaltAndIv}.
 */
export function drawEpochSalt(
  target: Buffer,
  tenant: Uint8Array,
  messages: readonly {
    readonly parts: readonly Uint8Array[];
    readonly plaintext: Uint8Array;
  }[],
): void {
  drawRandom(target);
  const all = [EPOCH_LABEL, tenant];
  for (const message of messages)
    all.push(...message.parts, ...digestible(message.plaintext, target));
  hedge(target, all);
}

/**
 * Fills `target` with an IV for one of the messages that share a salt. `parts` is all that the
 * message is but its plaintext, the salt included, each of a length that it always has.
 */
export function drawIv(target: Buffer, parts: readonly Uint8Array[], plaintext: Uint8Array): void {
  const drawn = Buffer.alloc(SALT_BYTES + IV_BYTES);
  drawRandom(drawn);
  const own = digestible(plaintext, drawn);
  const input = Buffer.concat([IV_LABEL, SECRET, drawn, ...parts, ...own]);
  hash('sha256', input, 'buffer').copy(target, 0, 0, IV_BYTES);
  input.fill(0);
}

/** Makes the random salt a digest of itself, of this process' secret, and of `parts`. */
function hedge(target: Buffer, parts: readonly Uint8Array[]): void {
  const input = Buffer.concat([LABEL, SECRET, target, ...parts]);
  hash('sha256', input, 'buffer').copy(target, 0, 0, SALT_BYTES);
  input.fill(0);
}

/** Returns what stands for a plaintext in a digest: no two have the same, but by chance. */
function digestible(plaintext: Uint8Array, drawn: Buffer): [Uint8Array, Uint8Array] {
  const length = Buffer.allocUnsafe(4);
  length.writeUInt32BE(plaintext.length);
  return [
    length,
    plaintext.length <= LONG_BYTES ? plaintext : macOf(plaintext, drawn.subarray(SALT_BYTES)),
  ];
}

/** Another for another plaintext, but for a chance of 2^−116, even under an IV that was used. */
function macOf(plaintext: Uint8Array, iv: Uint8Array): Buffer {
  const cipher = createCipheriv('aes-256-gcm', LONG_KEY, iv);
  cipher.setAAD(plaintext);
  cipher.final();
  return cipher.getAuthTag();
}

// One draw from the system costs 2.5 µs whatever its size (measured), so 4 KiB at a time; a byte is
// given out once.
const randomPool = Buffer.alloc(4096);
let randomUsed = randomPool.length;

/** Fills `target` (at most 4 KiB) with random bytes of the system's generator. */
export function drawRandom(target: Buffer): void {
  if (randomUsed + target.length > randomPool.length) {
    randomFillSync(randomPool);
    randomUsed = 0;
  }
  randomPool.copy(target, 0, randomUsed, randomUsed + target.length);
  randomPool.fill(0, randomUsed, randomUsed + target.length);
  randomUsed += target.length;
}
