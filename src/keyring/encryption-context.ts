/**
 * The encryption context: what may be in it, and the digest by which ciphertexts are bound to it.
 *
 * ```
 *  D = SHA-256("keyward/v1/context" 00 ‖ u32 n ‖ n × (u32 length ‖ key ‖ u32 length ‖ value)), keys sorted by their bytes
 * ```
 *
 * Invariant: distinct contexts have distinct encodings, so what would make two of them look alike (invalid UTF-8 that
 * became U+FFFD on its way) is refused. Nothing is normalised. Held in a Map, never as an object's keys.
 */
import { hash } from 'node:crypto';

/** See this file's first paragraph. */
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
  if (context.size > MAX_ENTRIES) return `has ${context.size} entries; at most ${MAX_ENTRIES}`;
  let bytes = 0;
  for (const [key, value] of context) {
    if (key === '') return 'has an empty key';
    if (key.startsWith(RESERVED_PREFIX)) return `has a key with the prefix ${RESERVED_PREFIX}`;
    if (REFUSED.test(key) || REFUSED.test(value)) {
      return 'has a control character, U+FFFD or invalid UTF-8 in a key or value';
    }
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
  }
  return bytes > MAX_BYTES ? `has ${bytes} bytes of keys and values; at most ${MAX_BYTES}` : undefined;
}

/** D, 32 bytes, of a context in which {@link findContextProblem} finds none. */
export function contextDigest(context: EncryptionContext): Buffer {
  if (context.size === 0) return EMPTY_DIGEST;
  const entries = [...context].map(([key, value]) => [Buffer.from(key), Buffer.from(value)] as const);
  // By bytes: JavaScript's own order puts U+10000 before U+E000.
  return digest(entries.sort(([a], [b]) => Buffer.compare(a, b)));
}

function digest(entries: readonly (readonly [Buffer, Buffer])[]): Buffer {
  const parts = entries.flatMap(([key, value]) => [u32(key.length), key, u32(value.length), value]);
  return hash('sha256', Buffer.concat([LABEL, u32(entries.length), ...parts]), 'buffer');
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
