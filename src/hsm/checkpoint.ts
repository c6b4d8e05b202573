/**
 * Checkpoints of the audit log: their text, and the signed note that they travel in (C2SP
 * tlog-checkpoint, signed-note).
 *
 * ```
 *  keyward/<environment UUID>          origin; from the second generation on, with /<generation>
 *  <tree size>
 *  <root hash, base64>
 *                                      an empty line
 *  — <origin> <base64(key hash (4) ‖ signature)>
 * ```
 *
 * The signature is ECDSA on P-256 with SHA-256 over the text up to the empty line, in ASN.1; the
 * key hash is the beginning of SHA-256 of the public key's SPKI. Knows no token and no tree.
 */
import { createPublicKey, hash, verify } from 'node:crypto';
import type { EnvironmentId } from '../ids.ts';

/** What a checkpoint says. */
export interface CheckpointClaim {
  readonly environmentId: EnvironmentId;
  /** 1, and one more each time that an operator has had the log go on shorter than it was. */
  readonly generation: number;
  readonly treeSize: number;
  /** 32 bytes. */
  readonly rootHash: Buffer;
}

/** SPKI of a P-256 key, up to the uncompressed point. */
const P256_SPKI = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex');
const POINT_BYTES = 65;
const KEY_HASH_BYTES = 4;

/** The log's name, and the name of the key that signs for it. */
export function originOf({
  environmentId,
  generation,
}: Pick<CheckpointClaim, 'environmentId' | 'generation'>) {
  return generation === 1 ? `keyward/${environmentId}` : `keyward/${environmentId}/${generation}`;
}

/** Which generation of an environment's log has that origin; undefined for none. */
export function generationOf(origin: string, environmentId: EnvironmentId): number | undefined {
  const first = originOf({ environmentId, generation: 1 });
  const generation = origin === first ? 1 : Number(origin.slice(first.length + 1));
  return origin === originOf({ environmentId, generation }) ? generation : undefined;
}

/**
 * Whether a checkpoint may be signed after another one: of a later generation, longer, or the same
 * again.
 */
export function follows(next: CheckpointClaim, last: CheckpointClaim): boolean {
  if (next.generation !== last.generation) return next.generation > last.generation;
  if (next.treeSize !== last.treeSize) return next.treeSize > last.treeSize;
  return next.rootHash.equals(last.rootHash);
}

/** What is signed. */
export function checkpointText(claim: CheckpointClaim): string {
  return `${originOf(claim)}\n${claim.treeSize}\n${claim.rootHash.toString('base64')}\n`;
}

function keyHashOf(spki: Buffer): Buffer {
  return hash('sha256', spki, 'buffer').subarray(0, KEY_HASH_BYTES);
}

/** The checkpoint with its signature. */
export function checkpointNote(claim: CheckpointClaim, spki: Buffer, signature: Buffer): string {
  return `${checkpointText(claim)}\n${signatureLine(originOf(claim), spki, signature)}`;
}

/** A note's line with the signature of this key. */
export function signatureLine(origin: string, spki: Buffer, signature: Buffer): string {
  return `— ${origin} ${Buffer.concat([keyHashOf(spki), signature]).toString('base64')}\n`;
}

/** The first signature of a note, not verified; empty where there is none. */
export function signatureOf(note: string): Buffer {
  const [line = ''] = parseNote(note)?.signatures ?? [];
  return signatureIn(line).signature;
}

/**
 * What a note says that has this key's signature and nothing besides; undefined for every other
 * text.
 */
export function signedClaim(
  note: string,
  environmentId: EnvironmentId,
  spki: Buffer,
): CheckpointClaim | undefined {
  const { text = '', signatures: [line] = [] } = parseNote(note) ?? {};
  const signed = parseCheckpointText(text);
  const generation = signed && generationOf(signed.origin, environmentId);
  if (signed === undefined || generation === undefined || line === undefined) return undefined;
  const claim = { environmentId, generation, treeSize: signed.treeSize, rootHash: signed.rootHash };
  const { signature } = signatureIn(line);
  if (note !== checkpointNote(claim, spki, signature)) return undefined;
  const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  return verify('sha256', Buffer.from(text), key, signature) ? claim : undefined;
}

/** Whether a note's first signature names this key; it may be forged. */
export function isSignedBy(note: string, spki: Buffer): boolean {
  const [line = ''] = parseNote(note)?.signatures ?? [];
  return signatureIn(line).keyHash.equals(keyHashOf(spki));
}

/**
 * Which log, and which key of it, the first signature of a note is of, in words that are equal
 * where both are.
 */
export function signerOf(note: string): string {
  const [line = ''] = parseNote(note)?.signatures ?? [];
  const { name, keyHash } = signatureIn(line);
  return `${name} ${keyHash.toString('hex')}`;
}

function signatureIn(line: string) {
  const [, name = '', encoded = ''] = line.split(' ');
  const signed = Buffer.from(encoded, 'base64');
  return {
    name,
    keyHash: signed.subarray(0, KEY_HASH_BYTES),
    signature: signed.subarray(KEY_HASH_BYTES),
  };
}

/** A note's text, with its last newline, and the lines under it. */
export interface SignedNote {
  readonly text: string;
  readonly signatures: readonly string[];
}

/** Undefined for what is no note. */
export function parseNote(note: string): SignedNote | undefined {
  const end = note.lastIndexOf('\n\n');
  if (end < 0 || !note.endsWith('\n')) return undefined;
  const signatures = note.slice(end + 2, -1).split('\n');
  if (!signatures.every((line) => /^— \S+ [A-Za-z0-9+/]+={0,2}$/.test(line))) return undefined;
  return { text: note.slice(0, end + 1), signatures };
}

/** What a checkpoint's text says; undefined for what is none. */
export function parseCheckpointText(
  text: string,
): { readonly origin: string; readonly treeSize: number; readonly rootHash: Buffer } | undefined {
  const [origin = '', size = '', root = ''] = text.split('\n');
  const treeSize = Number(size);
  const rootHash = Buffer.from(root, 'base64');
  const wellFormed = /^(0|[1-9]\d{0,15})$/.test(size) && Number.isSafeInteger(treeSize);
  if (
    !wellFormed ||
    origin === '' ||
    rootHash.length !== 32 ||
    rootHash.toString('base64') !== root
  )
    return undefined;
  return { origin, treeSize, rootHash };
}

/**
 * The SPKI of a public key as a token shows it: CKA_EC_POINT, in a DER octet string or bare.
 * Undefined for another.
 */
export function spkiOfPoint(ecPoint: Buffer): Buffer | undefined {
  const isWrapped =
    ecPoint.length === POINT_BYTES + 2 && ecPoint[0] === 0x04 && ecPoint[1] === POINT_BYTES;
  const point = isWrapped ? ecPoint.subarray(2) : ecPoint;
  return point.length === POINT_BYTES && point[0] === 0x04
    ? Buffer.concat([P256_SPKI, point])
    : undefined;
}

/** An ECDSA signature in ASN.1, of r ‖ s as PKCS#11 has it. */
export function asn1Signature(raw: Buffer): Buffer {
  const half = raw.length / 2;
  const content = Buffer.concat([
    asn1Integer(raw.subarray(0, half)),
    asn1Integer(raw.subarray(half)),
  ]);
  return Buffer.concat([Buffer.from([0x30, content.length]), content]);
}

/** A positive INTEGER, without needless zeros. */
function asn1Integer(bytes: Buffer): Buffer {
  const start = bytes.findIndex((byte) => byte !== 0);
  const digits = start < 0 ? Buffer.from([0]) : bytes.subarray(start);
  const padded = (digits[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.from([0]), digits]) : digits;
  return Buffer.concat([Buffer.from([0x02, padded.length]), padded]);
}
