/**
 * Checkpoints: signed notes (C2SP signed-note) that say what the log is (C2SP tlog-checkpoint), and
 * witnesses' cosignatures on them (C2SP tlog-cosignature, Ed25519).
 *
 * Its invariants: nothing of a note is given out before a key that the caller trusts has signed it;
 * a line that claims to be of such a key and doesn't verify spoils the note; lines of other keys
 * are ignored. Knows nothing of leaves.
 */
import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto';
import { HASH_BYTES } from './tree.ts';

/** What a log says of itself. */
export interface SignedCheckpoint {
  /** Which log it is: `keyward/` and the environment's UUID. */
  readonly origin: string;
  readonly treeSize: number;
  readonly rootHash: Buffer;
  /** The signed text, and who else has signed. */
  readonly note: Note;
}

/** A witness's word that this was the log's largest tree that it had seen. */
export interface Cosignature {
  /** The witness's name. */
  readonly witness: string;
  /** When, by the witness's clock. */
  readonly time: Date;
}

/** A note that has been taken apart, and not verified. */
interface Note {
  /** What is signed, with its last newline. */
  readonly text: string;
  readonly signatures: readonly NoteSignature[];
}

interface NoteSignature {
  readonly name: string;
  readonly keyId: Buffer;
  readonly signature: Buffer;
}

/** Notes with more are refused. */
const MAX_SIGNATURES = 100;

/** The longest note that is read. */
export const MAX_NOTE_BYTES = 1_048_576;

/**
 * A signature line's parts. A name may be anything: with a space or a plus it is no name that could
 * be trusted, and is ignored as others' are.
 */
const SIGNATURE_LINE = /^\u2014 ([^\n]+) ([A-Za-z0-9+/=]+)$/u;

/** The bytes of Ed25519's public keys and signatures, and of the timestamp before a cosignature. */
const ED25519 = { key: 32, signature: 64, timestamp: 8 } as const;

/** The type of a witness's key. */
const COSIGNATURE_TYPE = Buffer.of(0x04);

/** The last second that a Date can be of. */
const LAST_SECOND = 8_640_000_000_000n;

/** A log's key, by its PEM (SPKI, P-256). Throws a TypeError for anything else. */
export function logKey(pem: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey(pem);
  } catch (cause) {
    throw new TypeError('a public key must be PEM', { cause });
  }
  if (key.asymmetricKeyDetails?.namedCurve !== 'prime256v1')
    throw new TypeError('a public key must be of the curve P-256');
  return key;
}

/**
 * The checkpoint in `bytes`, which one of `keys` must have signed, with ECDSA over SHA-256. Throws
 * an Error that says what is wrong with it.
 */
export function openCheckpoint(bytes: Uint8Array, keys: readonly KeyObject[]): SignedCheckpoint {
  const note = takeApart(bytes);
  const [origin = '', size = '', root = '', ...extensions] = note.text.split('\n').slice(0, -1);
  requireSigned(note, origin, keys);
  const rootHash = decodeBase64(root);
  const treeSize = Number(size);
  if (!/^(0|[1-9]\d*)$/.test(size) || !Number.isSafeInteger(treeSize))
    throw new Error('it has no tree size');
  if (rootHash?.length !== HASH_BYTES) throw new Error('it has no root hash');
  if (origin === '' || extensions.includes('')) throw new Error('it has an empty line');
  return { origin, treeSize, rootHash, note };
}

/**
 * The lines of a note's text, which one of `keys` must have signed by the name on that line. Throws
 * an Error that says what is wrong with it.
 */
export function openLines(
  bytes: Uint8Array,
  keys: readonly KeyObject[],
  nameLine: number,
): string[] {
  const note = takeApart(bytes);
  const lines = note.text.split('\n').slice(0, -1);
  requireSigned(note, lines[nameLine] ?? '', keys);
  return lines;
}

function requireSigned(note: Note, origin: string, keys: readonly KeyObject[]): void {
  let signed = false;
  for (const key of keys) {
    const keyId = sha256(key.export({ format: 'der', type: 'spki' })).subarray(0, 4);
    for (const { signature } of linesOf(note, origin, keyId)) {
      if (!verify('sha256', Buffer.from(note.text), key, signature))
        throw new Error('its signature does not verify');
      signed = true;
    }
  }
  if (!signed) throw new Error('it is not signed by the log’s key');
}

/** A witness: its name and key. */
export interface Witness {
  readonly name: string;
  readonly keyId: Buffer;
  readonly key: KeyObject;
}

/**
 * A witness by its verifier key, `name+keyid+base64`, as C2SP tlog-cosignature has them for
 * Ed25519. Throws a TypeError for anything else.
 */
export function witnessOf(verifierKey: string): Witness {
  const [, name, id, text] = /^([^\s+]+)\+([0-9a-f]{8})\+(\S+)$/.exec(verifierKey) ?? [];
  const typed = text === undefined ? undefined : decodeBase64(text);
  if (name === undefined || typed?.length !== 1 + ED25519.key || typed[0] !== COSIGNATURE_TYPE[0])
    throw new TypeError('a witness must be name+keyid+base64, of an Ed25519 key for cosignatures');
  const keyId = sha256(Buffer.from(`${name}\n`), typed).subarray(0, 4);
  if (keyId.toString('hex') !== id)
    throw new TypeError(`the key of the witness ${name} is not ${id}`);
  const x = typed.subarray(1).toString('base64url');
  return {
    name,
    keyId,
    key: createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' }),
  };
}

/**
 * The witness's cosignature on a checkpoint, the latest of several; undefined for none. Throws
 * where one doesn't verify.
 */
export function cosignatureOf(
  { note }: SignedCheckpoint,
  witness: Witness,
): Cosignature | undefined {
  let latest: Cosignature | undefined;
  for (const { signature } of linesOf(note, witness.name, witness.keyId)) {
    const time = cosignedAt(note.text, signature, witness.key);
    if (time === undefined) throw new Error(`the cosignature of ${witness.name} does not verify`);
    if (latest === undefined || time > latest.time) latest = { witness: witness.name, time };
  }
  return latest;
}

function cosignedAt(text: string, stamped: Buffer, key: KeyObject): Date | undefined {
  if (stamped.length !== ED25519.timestamp + ED25519.signature) return undefined;
  const seconds = stamped.readBigUInt64BE();
  if (seconds > LAST_SECOND) return undefined;
  const message = Buffer.from(`cosignature/v1\ntime ${seconds}\n${text}`);
  const valid = verify(null, message, key, stamped.subarray(ED25519.timestamp));
  return valid ? new Date(Number(seconds) * 1000) : undefined;
}

function linesOf({ signatures }: Note, name: string, keyId: Buffer): NoteSignature[] {
  return signatures.filter((line) => line.name === name && line.keyId.equals(keyId));
}

function takeApart(bytes: Uint8Array): Note {
  if (bytes.length > MAX_NOTE_BYTES) throw new Error('it is too long');
  const whole = utf8(bytes);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/.test(whole))
    throw new Error('it has control characters');
  const at = whole.lastIndexOf('\n\n');
  if (at < 0 || !whole.endsWith('\n')) throw new Error('it is not a signed note');
  const lines = whole.slice(at + 2, -1).split('\n');
  if (lines.length > MAX_SIGNATURES) throw new Error('it has too many signatures');
  return { text: whole.slice(0, at + 1), signatures: lines.map(signatureIn) };
}

function signatureIn(line: string): NoteSignature {
  const [, name, text = ''] = SIGNATURE_LINE.exec(line) ?? [];
  const bytes = decodeBase64(text);
  if (name === undefined || bytes === undefined || bytes.length < 5)
    throw new Error('it has a line that is no signature');
  return { name, keyId: bytes.subarray(0, 4), signature: bytes.subarray(4) };
}

function utf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new Error('it is not UTF-8', { cause });
  }
}

/** Padded standard base64 with nothing left over; undefined for anything else. */
function decodeBase64(text: string): Buffer | undefined {
  const decoded = Buffer.from(text, 'base64');
  return decoded.toString('base64') === text ? decoded : undefined;
}

function sha256(...parts: readonly Uint8Array[]): Buffer {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
}
