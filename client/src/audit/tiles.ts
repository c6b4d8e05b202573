/**
 * A tree kept as tiles (C2SP tlog-tiles): 256 hashes a file, each the hash over a tile of the level
 * below.
 *
 * Owns the tiles' names and sizes. Its invariant: a hash is given out only when it is under the
 * root that the tree was opened with. Knows nothing of entries.
 */
import { join } from 'node:path';
import { AuditVerificationError } from './errors.ts';
import { readUpTo } from './files.ts';
import { EMPTY_ROOT, HASH_BYTES, treeHash } from './tree.ts';

/** How many hashes a whole tile has. */
export const TILE_WIDTH = 256;

/**
 * `tile/0/x001/234` for level 0, index 1234; `tile/0/x001/234.p/7` where only 7 of its hashes are
 * there.
 */
export function tilePath(level: number, index: number, width: number): string {
  const digits = String(index);
  const groups = digits.padStart(Math.ceil(digits.length / 3) * 3, '0').match(/\d{3}/g) ?? [];
  const place = groups.map((group, i) => (i < groups.length - 1 ? `x${group}` : group)).join('/');
  return `tile/${level}/${place}${width === TILE_WIDTH ? '' : `.p/${width}`}`;
}

/** How many hashes the level has, in a tree of `size` leaves. */
function hashesIn(size: number, level: number): number {
  return Math.floor(size / TILE_WIDTH ** level);
}

/**
 * The tree of `size` leaves in a folder with `tile/`, of which nothing is believed that is not
 * under the root.
 */
export class TiledTree {
  readonly size: number;
  readonly #folder: string;
  /** Of each level, the hashes in its last tile, where that isn't a whole one. */
  readonly #edges: readonly Buffer[];
  /** Of each level, the whole tile that was looked at last. */
  readonly #whole = new Map<number, { readonly index: number; readonly hashes: Buffer }>();

  /**
   * Throws an {@link AuditVerificationError} of the problem ROOT when the last tiles of all levels
   * aren't under `root`.
   */
  constructor(folder: string, { size, root }: { readonly size: number; readonly root: Buffer }) {
    this.size = size;
    this.#folder = folder;
    this.#edges = Array.from({ length: levelsOf(size) }, (_, level) => this.#readEdge(level));
    if (!rootOver(this.#edges).equals(root))
      throw new AuditVerificationError(
        'ROOT',
        'the last tiles of all levels are not under the signed root',
      );
  }

  /**
   * The hashes of a tile: of as many as the tree has. Throws an {@link AuditVerificationError} of
   * the problem TILE when it isn't under the root.
   */
  tile(level: number, index: number): Buffer {
    if (index === Math.floor(hashesIn(this.size, level) / TILE_WIDTH))
      return this.#edges[level] ?? Buffer.alloc(0);
    const known = this.#whole.get(level);
    if (known?.index === index) return known.hashes;
    const hashes = this.#read(level, index, TILE_WIDTH);
    if (!treeHash(hashes).equals(this.above(level, index)))
      throw damaged(tilePath(level, index, TILE_WIDTH), 'is not under the signed root');
    this.#whole.set(level, { index, hashes });
    return hashes;
  }

  /** What a whole tile must hash to: its hash in the level above. */
  above(level: number, index: number): Buffer {
    const parent = this.tile(level + 1, Math.floor(index / TILE_WIDTH));
    const at = (index % TILE_WIDTH) * HASH_BYTES;
    return parent.subarray(at, at + HASH_BYTES);
  }

  /** The root that the tree had at an earlier size. */
  rootAt(size: number): Buffer {
    const edges = Array.from({ length: levelsOf(size) }, (_, level) => {
      const count = hashesIn(size, level);
      const width = count % TILE_WIDTH;
      return width === 0
        ? Buffer.alloc(0)
        : this.tile(level, Math.floor(count / TILE_WIDTH)).subarray(0, width * HASH_BYTES);
    });
    return rootOver(edges);
  }

  #readEdge(level: number): Buffer {
    const count = hashesIn(this.size, level);
    const width = count % TILE_WIDTH;
    return width === 0 ? Buffer.alloc(0) : this.#read(level, Math.floor(count / TILE_WIDTH), width);
  }

  #read(level: number, index: number, width: number): Buffer {
    const path = tilePath(level, index, width);
    const hashes = readUpTo(join(this.#folder, path), width * HASH_BYTES);
    if (hashes === undefined) throw damaged(path, 'is missing');
    if (hashes.length !== width * HASH_BYTES)
      throw damaged(path, `is not ${width * HASH_BYTES} bytes long`);
    return hashes;
  }
}

function damaged(file: string, what: string): AuditVerificationError {
  return new AuditVerificationError('TILE', `${file} ${what}`, { file });
}

/** How many levels have hashes. */
function levelsOf(size: number): number {
  let levels = 0;
  while (hashesIn(size, levels) > 0) levels += 1;
  return levels;
}

/**
 * The root over what isn't in whole tiles, level by level from the leaves up: what is over of a
 * level is the last, smaller tree in the level above.
 */
function rootOver(edges: readonly Buffer[]): Buffer {
  let rest: Buffer = Buffer.alloc(0);
  for (const edge of edges) {
    const hashes = Buffer.concat([edge, rest]);
    rest = hashes.length === 0 ? hashes : treeHash(hashes);
  }
  return edges.length === 0 ? EMPTY_ROOT : rest;
}
