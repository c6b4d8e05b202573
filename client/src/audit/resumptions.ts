/**
 * How a generation of the log was begun, and those that it descends from: for each a note that the
 * log's key has signed at an operator's command, in the generation's first entry.
 *
 * Its invariant: a generation after the first is accepted only with its note and those of the
 * generations before, each in the entry that it claims to be, after the tree that it names.
 */
import type { KeyObject } from 'node:crypto';
import { join } from 'node:path';
import { AuditVerificationError } from './errors.ts';
import { readUpTo } from './files.ts';
import { openLines } from './note.ts';
import { TILE_WIDTH, type TiledTree } from './tiles.ts';
import { HASH_BYTES, leafHash } from './tree.ts';

/** The file with the first entries of generations, a line each, the latest first. */
export const RESUMPTIONS_FILE = 'resumptions.jsonl';

const MAX_BYTES = 16_777_216;
const HEADING = 'keyward/v1/audit-resume';

/** A tree that a note names. */
export interface AuditTreeHead {
  readonly origin: string;
  readonly treeSize: number;
  readonly rootHash: Buffer;
}

/** How a generation was begun. */
export interface AuditResumption {
  readonly origin: string;
  /** The signed checkpoint that the log was begun in spite of. */
  readonly left: AuditTreeHead;
  /** The tree from which it goes on; its first entry is the one after it. */
  readonly from: AuditTreeHead;
}

/**
 * How the log of that origin was begun, the latest generation first. Throws an
 * {@link AuditVerificationError} of the problem RESUMPTION, or TILE.
 */
export function verifyResumptions(
  folder: string,
  tree: TiledTree,
  origin: string,
  keys: readonly KeyObject[],
): AuditResumption[] {
  const leaves = readLeaves(folder);
  const chain: AuditResumption[] = [];
  for (let next = origin; generationOf(next, origin) > 1; ) {
    const leaf = leaves.shift();
    if (leaf === undefined) throw wrong(`no note has begun ${next}`);
    const resumption = read(leaf, next, keys);
    requireIn(tree, leaf, resumption);
    chain.push(resumption);
    next = resumption.from.origin;
  }
  if (leaves.length > 0) throw wrong(`${RESUMPTIONS_FILE} has more than ${origin} descends from`);
  return chain;
}

function readLeaves(folder: string): Buffer[] {
  const bytes = readUpTo(join(folder, RESUMPTIONS_FILE), MAX_BYTES) ?? Buffer.alloc(0);
  const leaves: Buffer[] = [];
  let start = 0;
  for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, start)) {
    leaves.push(bytes.subarray(start, end));
    start = end + 1;
  }
  if (start < bytes.length || bytes.length > MAX_BYTES)
    throw wrong(`${RESUMPTIONS_FILE} ends in the middle of a line, or is too long`);
  return leaves;
}

function read(leaf: Buffer, origin: string, keys: readonly KeyObject[]): AuditResumption {
  try {
    const { detail } = JSON.parse(leaf.toString()) as { detail?: { resumption?: unknown } };
    if (typeof detail?.resumption !== 'string') throw new Error('its entry has no note');
    const lines = openLines(Buffer.from(detail.resumption), keys, 1);
    const [heading, name, ...heads] = lines;
    if (heading !== HEADING || name !== origin || heads.length !== 6)
      throw new Error('it is another note');
    const left = headOf(heads.slice(0, 3));
    const from = headOf(heads.slice(3));
    const generation = generationOf(origin, origin);
    const isLater = [left, from].every((head) => {
      const earlier = generationOf(head.origin, origin);
      return earlier >= 1 && earlier < generation;
    });
    if (!isLater) throw new Error('it names no earlier generation');
    return { origin, left, from };
  } catch (cause) {
    throw wrong(`the note that has begun ${origin}: ${(cause as Error).message}`, cause);
  }
}

function headOf([origin = '', size = '', root = '']: readonly string[]): AuditTreeHead {
  const rootHash = Buffer.from(root, 'base64');
  const treeSize = Number(size);
  const isHead =
    /^(0|[1-9]\d*)$/.test(size) &&
    Number.isSafeInteger(treeSize) &&
    rootHash.length === HASH_BYTES &&
    rootHash.toString('base64') === root;
  if (!isHead) throw new Error('it names no tree');
  return { origin, treeSize, rootHash };
}

function requireIn(tree: TiledTree, leaf: Buffer, { origin, from }: AuditResumption): void {
  const { treeSize: index, rootHash } = from;
  if (index >= tree.size || !tree.rootAt(index).equals(rootHash))
    throw wrong(`the log does not begin with the tree from which ${origin} goes on`);
  const at = (index % TILE_WIDTH) * HASH_BYTES;
  const hash = tree.tile(0, Math.floor(index / TILE_WIDTH)).subarray(at, at + HASH_BYTES);
  if (!leafHash(leaf).equals(hash))
    throw wrong(`the note that has begun ${origin} is not in entry ${index}`);
}

/** Which generation of the log of `origin` an origin is of; 0 for another log's. */
function generationOf(name: string, origin: string): number {
  const [, log = '', generation = '1'] = /^(keyward\/[^/]+)(?:\/([1-9]\d{0,8}))?$/.exec(name) ?? [];
  const isSame = log !== '' && (origin === log || origin.startsWith(`${log}/`));
  return !isSame || name.endsWith('/1') ? 0 : Number(generation);
}

function wrong(message: string, cause?: unknown): AuditVerificationError {
  return new AuditVerificationError('RESUMPTION', message, { cause });
}
