/**
 * The encryption context: what may be in it, and the digest by which ciphertexts are bound to it.
 *
 * ```
 *  D = SHA-256("keyward/v1/context" 00 ‖ u32 n ‖ n × (u32 length ‖ key ‖ u32 length ‖ value))
 * ```
 *
 * Keys are sorted by their bytes.
 *
 * Invariant: distinct contexts have distinct encodings, so what would make two of them look alike
 * (invalid UTF-8 that became U+FFFD on its way) is refused. Nothing is normalised. Held in a Map,
 * never as an object's keys.
 */
import { hash } from 'node:crypto';

/** Maps the keys of an encryption context to their values. */
export type EncryptionContext = ReadonlyMap<string, string>;

const MAX_ENTRIES = 64;
const MAX_BYTES = 8_192;
const RESERVED_PREFIX = 'keyward:';
/** U+FFFD, controls (C0, DEL, C1), and lone surrogates, which have no UTF-8. */
const REFUSED = /[\ufffd\p{Cc}\p{Cs}]/u;
const LABEL = Buffer.from('keyward/v1/context\0', 'latin1');

const EMPTY_DIGEST = digest([]);

/** What keeps the context from being one, in words for the caller; undefined when nothing does. */
export function findContextProblem(context: EncryptionContext): string | undefined {
  if (context.size > MAX_ENTRIES)
    return `must have at most ${MAX_ENTRIES} entries, and has ${context.size}`;
  let bytes = 0;
  for (const [key, value] of context) {
    if (key === '') return 'must not have an empty key';
    if (key.startsWith(RESERVED_PREFIX))
      return `must not have a key with the reserved prefix ${RESERVED_PREFIX}`;
    if (REFUSED.test(key) || REFUSED.test(value)) {
      return 'must not have a control character, U+FFFD or invalid UTF-8 in a key or value';
    }
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  return bytes > MAX_BYTES
    ? `must have at most ${MAX_BYTES} bytes of keys and values, and has ${bytes}`
    : undefined;
}

/** D, 32 bytes, of a context in which {@link findContextProblem} finds none. */
export function contextDigest(context: EncryptionContext): Buffer {
  return context.size === 0
    ? EMPTY_DIGEST
    : digest([...context].sort(([a], [b]) => compareUtf8(a, b)));
}

function digest(entries: readonly (readonly [string, string])[]): Buffer {
  let size = LABEL.length + 4;
  for (const [key, value] of entries) size += 8 + Buffer.byteLength(key) + Buffer.byteLength(value);
  const encoding = Buffer.allocUnsafe(size);
  LABEL.copy(encoding);
  let offset = encoding.writeUInt32BE(entries.length, LABEL.length);
  for (const entry of entries) {
    for (const text of entry) {
      const length = encoding.write(text, offset + 4);
      encoding.writeUInt32BE(length, offset);
      offset += 4 + length;
    }
  }
  return hash('sha256', encoding, 'buffer');
}

/**
 * The order of two texts by their UTF-8 bytes. JavaScript's own, by UTF-16 units, is the same but
 * for surrogates, which stand for U+10000 and above and yet are smaller numbers than U+E000.
 */
function compareUtf8(a: string, b: string): number {
  const end = Math.min(a.length, b.length);
  for (let index = 0; index < end; index++) {
    const [unitA, unitB] = [a.charCodeAt(index), b.charCodeAt(index)];
    if (unitA === unitB) continue;
    const isSurrogate = [unitA, unitB].map((unit) => unit >= 0xd800 && unit <= 0xdfff);
    return isSurrogate[0] === isSurrogate[1] ? unitA - unitB : isSurrogate[0] ? 1 : -1;
  }
  return a.length - b.length;
}
