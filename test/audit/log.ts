/**
 * An audit log of a test's own: entries, the tree over them by the words of RFC 6962, checkpoints,
 * and the folder that an export is, written here a second time from docs/audit.md and not by the
 * code under test.
 */
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** A log's signing key, and its public half in PEM. */
export interface LogKey {
  readonly privateKey: KeyObject;
  readonly publicPem: string;
  readonly keyId: Buffer;
}

/** A new log key. */
export function newLogKey(): LogKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    privateKey,
    publicPem: publicKey.export({ format: 'pem', type: 'spki' }) as string,
    keyId: sha256(publicKey.export({ format: 'der', type: 'spki' })).subarray(0, 4),
  };
}

export const ENVIRONMENT = '018f0000-0000-4000-8000-0000000000ee';
export const ORIGIN = `keyward/${ENVIRONMENT}`;

/** An entry's line. */
export function entryLine(index: number, facts: object = {}): string {
  const entry = {
    v: 1,
    id: `018f0000-0000-4000-8000-${index.toString(16).padStart(12, '0')}`,
    time: new Date(1_800_000_000_000 + index).toISOString(),
    tenant: 'acme',
    requestId: `r${index}`,
    replica: 'replica-1',
    caller: 'spiffe://example.org/orders',
    address: '192.0.2.7',
    method: 'keyward.v1.EncryptionService/Encrypt',
    resource: 'tenants/acme/keys/orders',
    keyVersion: 'tenants/acme/keys/orders/versions/3',
    decision: 'allowed',
    outcome: 'OK',
    durationMs: 1.25,
    ...facts,
  };
  return JSON.stringify(entry);
}

/** `count` lines, each different. */
export function entryLines(count: number): string[] {
  return Array.from({ length: count }, (_, index) => entryLine(index));
}

export function sha256(...parts: readonly Uint8Array[]): Buffer {
  return createHash('sha256').update(Buffer.concat(parts)).digest();
}

export function leafHashOf(line: string | Uint8Array): Buffer {
  return sha256(Buffer.of(0), Buffer.from(line));
}

/** MTH of RFC 6962, section 2.1, over leaves by their hashes. */
export function merkleTreeHash(hashes: readonly Buffer[]): Buffer {
  const [only] = hashes;
  if (only === undefined) return sha256();
  if (hashes.length === 1) return only;
  const k = split(hashes.length);
  return sha256(Buffer.of(1), merkleTreeHash(hashes.slice(0, k)), merkleTreeHash(hashes.slice(k)));
}

/** PATH of RFC 6962, section 2.1.1. */
export function inclusionPath(index: number, hashes: readonly Buffer[]): Buffer[] {
  if (hashes.length <= 1) return [];
  const k = split(hashes.length);
  return index < k
    ? [...inclusionPath(index, hashes.slice(0, k)), merkleTreeHash(hashes.slice(k))]
    : [...inclusionPath(index - k, hashes.slice(k)), merkleTreeHash(hashes.slice(0, k))];
}

/** PROOF of RFC 6962, section 2.1.2. */
export function consistencyPath(from: number, hashes: readonly Buffer[], isWhole = true): Buffer[] {
  if (from === hashes.length) return isWhole ? [] : [merkleTreeHash(hashes)];
  const k = split(hashes.length);
  return from <= k
    ? [...consistencyPath(from, hashes.slice(0, k), isWhole), merkleTreeHash(hashes.slice(k))]
    : [...consistencyPath(from - k, hashes.slice(k), false), merkleTreeHash(hashes.slice(0, k))];
}

/** The largest power of two that is smaller than `n`. */
function split(n: number): number {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
}

/** A tile's file and bytes. */
export interface TileFile {
  readonly path: string;
  readonly level: number;
  readonly index: number;
  readonly hashes: readonly Buffer[];
}

/** All tiles of a tree, as C2SP tlog-tiles names them. */
export function tilesOf(leafHashes: readonly Buffer[]): TileFile[] {
  const tiles: TileFile[] = [];
  let hashes = leafHashes;
  for (let level = 0; hashes.length > 0; level += 1) {
    const above: Buffer[] = [];
    for (let index = 0; index * 256 < hashes.length; index += 1) {
      const own = hashes.slice(index * 256, (index + 1) * 256);
      if (own.length === 256) above.push(merkleTreeHash(own));
      tiles.push({ path: tileFile(level, index, own.length), level, index, hashes: own });
    }
    hashes = above;
  }
  return tiles;
}

function tileFile(level: number, index: number, width: number): string {
  let name = String(index % 1000).padStart(3, '0');
  for (let rest = Math.floor(index / 1000); rest > 0; rest = Math.floor(rest / 1000))
    name = `x${String(rest % 1000).padStart(3, '0')}/${name}`;
  return `tile/${level}/${name}${width < 256 ? `.p/${width}` : ''}`;
}

/** A checkpoint's text, which is what is signed. */
export function checkpointText(size: number, root: Buffer, origin = ORIGIN): string {
  return `${origin}\n${size}\n${root.toString('base64')}\n`;
}

/** A line of a signed note. */
export function signatureLine(name: string, keyId: Buffer, signature: Buffer): string {
  return `\u2014 ${name} ${Buffer.concat([keyId, signature]).toString('base64')}\n`;
}

/** A text as a note, signed by the log. */
export function signed(text: string, key: LogKey, name = text.split('\n')[0] ?? ''): string {
  return `${text}\n${signatureLine(name, key.keyId, sign('sha256', Buffer.from(text), key.privateKey))}`;
}

/** The signed checkpoint over these lines. */
export function checkpointOver(lines: readonly string[], key: LogKey, origin = ORIGIN): string {
  return signed(checkpointText(lines.length, merkleTreeHash(lines.map(leafHashOf)), origin), key);
}

/** A witness, and its verifier key. */
export interface TestWitness {
  readonly name: string;
  readonly verifierKey: string;
  /** Its line for a note's text. */
  cosign(text: string, seconds: number): string;
}

export function newWitness(name: string): TestWitness {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  const typed = Buffer.concat([
    Buffer.of(4),
    Buffer.from(publicKey.export({ format: 'jwk' }).x ?? '', 'base64url'),
  ]);
  const keyId = sha256(Buffer.from(`${name}\n`), typed).subarray(0, 4);
  return {
    name,
    verifierKey: `${name}+${keyId.toString('hex')}+${typed.toString('base64')}`,
    cosign(text, seconds) {
      const stamp = Buffer.alloc(8);
      stamp.writeBigUInt64BE(BigInt(seconds));
      const signature = sign(
        null,
        Buffer.from(`cosignature/v1\ntime ${seconds}\n${text}`),
        privateKey,
      );
      return signatureLine(name, keyId, Buffer.concat([stamp, signature]));
    },
  };
}

/** What an export is to hold. */
export interface ExportFacts {
  readonly lines: readonly string[];
  readonly key: LogKey;
  /** The first entry that it has; 0 unless given. */
  readonly first?: number;
  /** The note, unless it is {@link checkpointOver} the lines. */
  readonly checkpoint?: string;
}

/** Writes an export's folder. */
export function writeExport(
  folder: string,
  { lines, key, first = 0, checkpoint }: ExportFacts,
): void {
  const put = (path: string, bytes: string | Uint8Array) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), bytes);
  };
  for (const { path, hashes } of tilesOf(lines.map(leafHashOf))) put(path, Buffer.concat(hashes));
  for (let begin = first; begin < lines.length; begin = (Math.floor(begin / 65_536) + 1) * 65_536) {
    const end = (Math.floor(begin / 65_536) + 1) * 65_536;
    put(
      `entries/${begin}.jsonl`,
      lines
        .slice(begin, end)
        .map((line) => `${line}\n`)
        .join(''),
    );
  }
  put('checkpoint', checkpoint ?? checkpointOver(lines, key));
  const description = {
    format: 1,
    environment: ENVIRONMENT,
    origin: ORIGIN,
    firstLeafIndex: first,
    treeSize: lines.length,
    publicKey: key.publicPem,
  };
  put('export.json', JSON.stringify(description));
}
