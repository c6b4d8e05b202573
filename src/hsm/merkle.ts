/**
 * Merkle trees as RFC 6962 hashes them, and its proofs (the algorithms of RFC 9162, sections
 * 2.1.3.2 and 2.1.4.2).
 *
 * Its invariant: whatever numbers and lengths come in, a proof that doesn't prove it exactly is
 * `false`, never an exception. Knows nothing of what leaves are.
 */
import { createHash } from 'node:crypto';

/** The length of a hash, in bytes. */
export const HASH_BYTES = 32;

const LEAF = Buffer.of(0);
const NODE = Buffer.of(1);

/** The root of a tree without leaves. */
export const EMPTY_ROOT = createHash('sha256').digest();

/** SHA-256(00 ‖ leaf). */
export function leafHash(leaf: Uint8Array): Buffer {
  return createHash('sha256').update(LEAF).update(leaf).digest();
}

/** SHA-256(01 ‖ left ‖ right). */
export function nodeHash(left: Uint8Array, right: Uint8Array): Buffer {
  return createHash('sha256').update(NODE).update(left).update(right).digest();
}

/**
 * The hash of the tree over `hashes`, which stand one beside the other, at least one. They may be
 * of leaves, or of trees of one size, a power of two, of which only the last may be smaller.
 */
export function treeHash(hashes: Uint8Array): Buffer {
  const level = Buffer.from(hashes);
  const pair = Buffer.alloc(1 + 2 * HASH_BYTES, NODE);
  for (let count = level.length / HASH_BYTES; count > 1; count = Math.ceil(count / 2)) {
    for (let i = 0; i + 1 < count; i += 2) {
      level.copy(pair, 1, i * HASH_BYTES, (i + 2) * HASH_BYTES);
      createHash('sha256')
        .update(pair)
        .digest()
        .copy(level, (i / 2) * HASH_BYTES);
    }
    // One without a neighbour goes up as it is.
    if (count % 2 === 1)
      level.copy(level, ((count - 1) / 2) * HASH_BYTES, (count - 1) * HASH_BYTES);
  }
  return level.subarray(0, HASH_BYTES);
}

/** That a leaf is in a tree. */
export interface InclusionClaim {
  readonly leafHash: Uint8Array;
  readonly leafIndex: number;
  readonly treeSize: number;
  readonly rootHash: Uint8Array;
  /** The audit path, from the leaf's sibling up. */
  readonly hashes: readonly Uint8Array[];
}

/** Whether the path proves that the leaf is in the tree, at its place. */
export function verifyInclusion({
  leafHash,
  leafIndex,
  treeSize,
  rootHash,
  hashes,
}: InclusionClaim): boolean {
  if (!isCount(leafIndex) || !isCount(treeSize) || leafIndex >= treeSize) return false;
  if (![leafHash, rootHash, ...hashes].every(isHash)) return false;
  const place = new Place(leafIndex, treeSize - 1);
  let hash = leafHash;
  for (const sibling of hashes) {
    if (place.isAtTop) return false;
    hash = place.goUp() === 'left' ? nodeHash(sibling, hash) : nodeHash(hash, sibling);
  }
  return place.isAtTop && equal(hash, rootHash);
}

/** That a tree begins with another. */
export interface ConsistencyClaim {
  readonly fromSize: number;
  readonly fromRootHash: Uint8Array;
  readonly toSize: number;
  readonly toRootHash: Uint8Array;
  readonly hashes: readonly Uint8Array[];
}

/** Whether the hashes prove that the larger tree begins with the smaller one. */
export function verifyConsistency(claim: ConsistencyClaim): boolean {
  const { fromSize, fromRootHash, toSize, toRootHash, hashes } = claim;
  if (!isCount(fromSize) || !isCount(toSize) || fromSize > toSize) return false;
  if (![fromRootHash, toRootHash, ...hashes].every(isHash)) return false;
  if (fromSize === toSize) return hashes.length === 0 && equal(fromRootHash, toRootHash);
  if (fromSize === 0) return hashes.length === 0 && equal(fromRootHash, EMPTY_ROOT);
  if (hashes.length === 0) return false;
  const [first, ...rest] = isPowerOfTwo(fromSize) ? [fromRootHash, ...hashes] : hashes;
  if (first === undefined) return false;
  const place = new Place(fromSize - 1, toSize - 1);
  place.skipWhileRight();
  let from: Uint8Array = first;
  let to: Uint8Array = first;
  for (const sibling of rest) {
    if (place.isAtTop) return false;
    if (place.goUp() === 'left') {
      from = nodeHash(sibling, from);
      to = nodeHash(sibling, to);
    } else {
      to = nodeHash(to, sibling);
    }
  }
  return place.isAtTop && equal(from, fromRootHash) && equal(to, toRootHash);
}

/** A node on its way up, and the last node of its level (`fn` and `sn` of RFC 9162). */
class Place {
  #node: number;
  #last: number;

  constructor(node: number, last: number) {
    this.#node = node;
    this.#last = last;
  }

  get isAtTop(): boolean {
    return this.#last === 0;
  }

  /** To the next node that has a sibling; says on which side that sibling is. */
  goUp(): 'left' | 'right' {
    const isRight = this.#node % 2 === 1;
    const side = isRight || this.#node === this.#last ? 'left' : 'right';
    // The last of its level, without a neighbour, is itself the node above.
    if (side === 'left' && !isRight) while (this.#node % 2 === 0 && this.#node !== 0) this.#halve();
    this.#halve();
    return side;
  }

  skipWhileRight(): void {
    while (this.#node % 2 === 1) this.#halve();
  }

  #halve(): void {
    this.#node = Math.floor(this.#node / 2);
    this.#last = Math.floor(this.#last / 2);
  }
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function isHash(value: Uint8Array): boolean {
  return value.length === HASH_BYTES;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
