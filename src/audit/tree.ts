/**
 * The Merkle tree over the log (RFC 6962, 2.1): how it grows, its root, and proofs, all from hash
 * tiles.
 *
 * A tile holds up to 256 hashes of a level; each hash of level n + 1 stands for a full tile of
 * level n, so 256^n leaves (C2SP tlog-tiles, height 8). A tile only grows: what it held for a
 * smaller tree is a prefix of what it holds now, and so proofs for every size are read from the
 * same tiles. Knows no entry and no SQL.
 */
import { hash } from 'node:crypto';

/** Hashes in a full tile. */
export const TILE_WIDTH = 256;
export const HASH_BYTES = 32;
const TILE_HEIGHT = 8;
const NODE_PREFIX = Buffer.from([1]);

/** A tile with as many hashes as there are. */
export interface TreeTile {
  readonly level: number;
  readonly index: number;
  readonly hashes: Buffer;
}

/** Reads a tile with as many hashes as it has by now; undefined for one that there is not. */
export type ReadTile = (level: number, index: number) => Promise<Buffer | undefined>;

/** The hash of the empty tree. */
export const EMPTY_ROOT: Buffer = hash('sha256', '', 'buffer');

function nodeHash(left: Buffer, right: Buffer): Buffer {
  return hash('sha256', Buffer.concat([NODE_PREFIX, left, right]), 'buffer');
}

/** How many hashes a level has in a tree of so many leaves. */
function widthOfLevel(level: number, treeSize: number): number {
  return Math.floor(treeSize / TILE_WIDTH ** level);
}

/** The tiles of a tree: for each level, the full ones and the one that isn't. */
export function tilesOf(
  treeSize: number,
): { readonly level: number; readonly index: number; readonly width: number }[] {
  const tiles = [];
  for (let level = 0; widthOfLevel(level, treeSize) > 0; level++) {
    const width = widthOfLevel(level, treeSize);
    for (let index = 0; index * TILE_WIDTH < width; index++)
      tiles.push({ level, index, width: Math.min(TILE_WIDTH, width - index * TILE_WIDTH) });
  }
  return tiles;
}

/**
 * The tree as whoever lengthens it needs it: its size, and of each level the tile that isn't full.
 */
export class TreeEdge {
  /** How many leaves there are. */
  readonly size: number;
  /** Of each level, from 0 on, the hashes of the last tile, as long as it isn't full. */
  readonly #partial: readonly Buffer[];

  private constructor(size: number, partial: readonly Buffer[]) {
    this.size = size;
    this.#partial = partial;
  }

  /** The edge of a tree of that size. Throws an Error when a tile is missing. */
  static async read(size: number, readTile: ReadTile): Promise<TreeEdge> {
    const partial: Buffer[] = [];
    for (let level = 0; widthOfLevel(level, size) > 0; level++) {
      const width = widthOfLevel(level, size);
      const count = width % TILE_WIDTH;
      partial.push(
        count === 0
          ? Buffer.alloc(0)
          : await hashesOf(readTile, level, Math.floor(width / TILE_WIDTH), count),
      );
    }
    return new TreeEdge(size, partial);
  }

  /**
   * The edge with these leaf hashes (side by side) after what there is, and every tile that this
   * has changed.
   */
  append(leafHashes: Buffer): { readonly edge: TreeEdge; readonly tiles: readonly TreeTile[] } {
    const partial = [...this.#partial];
    const tiles: TreeTile[] = [];
    let added = leafHashes;
    for (let level = 0; added.length > 0; level++) {
      const before = widthOfLevel(level, this.size);
      const all = Buffer.concat([partial[level] ?? Buffer.alloc(0), added]);
      let index = Math.floor(before / TILE_WIDTH);
      const above: Buffer[] = [];
      let offset = 0;
      for (
        ;
        all.length - offset >= TILE_WIDTH * HASH_BYTES;
        offset += TILE_WIDTH * HASH_BYTES, index++
      ) {
        const hashes = all.subarray(offset, offset + TILE_WIDTH * HASH_BYTES);
        tiles.push({ level, index, hashes });
        above.push(fullRoot(hashes));
      }
      const rest = all.subarray(offset);
      if (rest.length > 0) tiles.push({ level, index, hashes: rest });
      partial[level] = Buffer.from(rest);
      added = Buffer.concat(above);
    }
    const size = this.size + leafHashes.length / HASH_BYTES;
    return { edge: new TreeEdge(size, partial), tiles };
  }

  /** The tree's hash: that of its full subtrees, the smallest ones first joined. */
  root(): Buffer {
    const peaks = this.#partial.toReversed().flatMap(peaksOf);
    return (
      peaks.reduceRight(
        (right: Buffer | undefined, left) => (right ? nodeHash(left, right) : left),
        undefined,
      ) ?? EMPTY_ROOT
    );
  }
}

/** The roots of the largest full subtrees over the hashes, from the left. */
function peaksOf(hashes: Buffer): Buffer[] {
  const peaks: Buffer[] = [];
  const count = hashes.length / HASH_BYTES;
  let start = 0;
  for (let size = TILE_WIDTH / 2; size >= 1; size /= 2) {
    if ((count & size) === 0) continue;
    peaks.push(fullRoot(hashes.subarray(start * HASH_BYTES, (start + size) * HASH_BYTES)));
    start += size;
  }
  return peaks;
}

/** The root over a power of two of hashes. */
function fullRoot(hashes: Buffer): Buffer {
  let level = hashes;
  while (level.length > HASH_BYTES) {
    const next = Buffer.allocUnsafe(level.length / 2);
    for (let offset = 0; offset < level.length; offset += 2 * HASH_BYTES) {
      const middle = offset + HASH_BYTES;
      const above = nodeHash(
        level.subarray(offset, middle),
        level.subarray(middle, middle + HASH_BYTES),
      );
      above.copy(next, offset / 2);
    }
    level = next;
  }
  return level;
}

/** A log whose rows someone else has changed, or keeps from being written as they are. */
export class TamperedLog extends Error {
  override readonly name = 'TamperedLog';
}

/** Reads hashes of a tree from its tiles, each tile once. */
export class TreeReader {
  readonly #readTile: ReadTile;

  constructor(readTile: ReadTile) {
    const known = new Map<string, Promise<Buffer | undefined>>();
    this.#readTile = (level, index) => {
      const name = `${level}/${index}`;
      const reading = known.get(name) ?? readTile(level, index);
      known.set(name, reading);
      return reading;
    };
  }

  /** The root of the tree of that size. */
  async root(size: number): Promise<Buffer> {
    return size === 0 ? EMPTY_ROOT : this.#subtree(0, size);
  }

  /** The hash of one leaf. */
  leafHash(index: number): Promise<Buffer> {
    return this.#subtree(index, index + 1);
  }

  /** The audit path of a leaf in the tree of that size (RFC 6962, 2.1.1). */
  inclusionProof(index: number, size: number): Promise<Buffer[]> {
    return this.#path(index, 0, size);
  }

  /**
   * That the tree of size `to` begins with that of size `from`, 1 ≤ from ≤ to (RFC 6962, 2.1.2).
   */
  consistencyProof(from: number, to: number): Promise<Buffer[]> {
    return this.#subproof(from, 0, to, true);
  }

  async #path(index: number, start: number, end: number): Promise<Buffer[]> {
    if (end - start === 1) return [];
    const middle = start + largestPowerBelow(end - start);
    return index < middle
      ? [...(await this.#path(index, start, middle)), await this.#subtree(middle, end)]
      : [...(await this.#path(index, middle, end)), await this.#subtree(start, middle)];
  }

  async #subproof(from: number, start: number, end: number, isWhole: boolean): Promise<Buffer[]> {
    if (from === end) return isWhole ? [] : [await this.#subtree(start, end)];
    const middle = start + largestPowerBelow(end - start);
    return from <= middle
      ? [...(await this.#subproof(from, start, middle, isWhole)), await this.#subtree(middle, end)]
      : [...(await this.#subproof(from, middle, end, false)), await this.#subtree(start, middle)];
  }

  /** The hash over the leaves from `start` up to `end`, which is a subtree of RFC 6962's. */
  async #subtree(start: number, end: number): Promise<Buffer> {
    const size = end - start;
    const isFull = Number.isInteger(Math.log2(size));
    if (isFull) return this.#fullSubtree(start, size);
    const middle = start + largestPowerBelow(size);
    return nodeHash(await this.#subtree(start, middle), await this.#subtree(middle, end));
  }

  async #fullSubtree(start: number, size: number): Promise<Buffer> {
    const level = Math.floor(Math.log2(size) / TILE_HEIGHT);
    const unit = TILE_WIDTH ** level;
    const first = start / unit;
    const offset = first % TILE_WIDTH;
    const hashes = await hashesOf(
      this.#readTile,
      level,
      Math.floor(first / TILE_WIDTH),
      offset + size / unit,
    );
    return fullRoot(hashes.subarray(offset * HASH_BYTES));
  }
}

/** The first `count` hashes of a tile. */
async function hashesOf(
  readTile: ReadTile,
  level: number,
  index: number,
  count: number,
): Promise<Buffer> {
  const hashes = await readTile(level, index);
  if (hashes === undefined || hashes.length < count * HASH_BYTES)
    throw new TamperedLog(
      `cannot read the log’s tree: tile ${index} of level ${level} lacks hashes`,
    );
  return hashes.subarray(0, count * HASH_BYTES);
}

/** The largest power of two below `size`, which is at least 2. */
function largestPowerBelow(size: number): number {
  return 2 ** Math.ceil(Math.log2(size) - 1);
}
