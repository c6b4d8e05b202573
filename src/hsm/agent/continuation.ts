/**
 * What the next checkpoint must continue: the agent's memory of the log.
 *
 * Invariants: a checkpoint passes only if each that is remembered is the same one, an earlier
 * generation's, or smaller and proven to be its beginning (RFC 6962, 2.1.2); and, of a generation
 * after the first, only with the note of an operator that this key has signed, which is in the
 * tree, right after the tree from which the note says that the log goes on. Earlier notes are in
 * that tree, and it is in the signed one that they are vouched for: the key that signed them may
 * have been left behind. What was remembered is forgotten only for a signed checkpoint that
 * continues it. What is heeded besides can make it refuse more, never less. Knows no token.
 */
import type { EnvironmentId } from '../../ids.ts';
import {
  type CheckpointClaim,
  generationOf,
  isSignedBy,
  parseCheckpointText,
  parseNote,
  signedClaim,
} from '../checkpoint.ts';
import { leafHash, verifyConsistency, verifyInclusion } from '../merkle.ts';
import type { CheckpointReply, CheckpointRequest } from '../protocol.ts';
import { noteInLeaf, signedResumption } from '../resumption.ts';

/** A checkpoint that must be continued, and the note that it is in. */
export interface KnownCheckpoint {
  readonly claim: CheckpointClaim;
  readonly note: string;
}

type Obstacle = Exclude<CheckpointReply, { readonly spki: string }>;

/** Remembers checkpoints, and says what stands against signing the next. */
export class Continuation {
  #known: KnownCheckpoint[] = [];
  /** What was given as known and can be continued by nothing, while it is given. */
  #refused: string | undefined;
  /** The latest generation of which it was shown how it was begun. */
  #generation = 1;

  /** Whether nothing is remembered yet. */
  get isEmpty(): boolean {
    return this.#known.length === 0;
  }

  /** Remembers a checkpoint whose signature is verified. */
  add(checkpoint: KnownCheckpoint): void {
    const { claim } = checkpoint;
    const isKnown = this.#known.some(
      (each) =>
        each.claim.generation === claim.generation &&
        each.claim.treeSize === claim.treeSize &&
        each.claim.rootHash.equals(claim.rootHash),
    );
    if (!isKnown) this.#known.push(checkpoint);
  }

  /**
   * Remembers checkpoints that the server knows of. One of this token's key must verify; one of
   * another key, which a token had that the environment has left, is heeded as it is.
   */
  heed(notes: readonly string[], environmentId: EnvironmentId, spki: Buffer): void {
    this.#refused = undefined;
    for (const note of notes) {
      const claim = isSignedBy(note, spki)
        ? signedClaim(note, environmentId, spki)
        : claimIn(note, environmentId);
      if (claim === undefined) this.#refused = note;
      else this.add({ claim, note });
    }
  }

  /** Returns what stands against signing the claim; undefined if it may be signed. */
  obstacleTo(
    claim: CheckpointClaim,
    request: Pick<CheckpointRequest, 'proofs' | 'resumption'>,
    spki: Buffer,
  ): Obstacle | undefined {
    if (this.#refused !== undefined) return { conflictsWith: 0, conflictingNote: this.#refused };
    const isShown = claim.generation === 1 || claim.generation === this.#generation;
    const unshown = isShown ? undefined : objectionTo(claim, request, spki);
    if (unshown !== undefined) return unshown;
    for (const known of this.#known) {
      const relation = relationOf(claim, known.claim, request.proofs);
      if (relation === 'unproven') return { needsProofFrom: known.claim.treeSize };
      if (relation === 'contradicted')
        return { conflictsWith: known.claim.treeSize, conflictingNote: known.note };
    }
    return undefined;
  }

  /** Remembers what was signed, in place of all that it continues. */
  signed(checkpoint: KnownCheckpoint): void {
    this.#known = [checkpoint];
    this.#generation = checkpoint.claim.generation;
  }
}

/** What a note says that another key has signed; undefined for no checkpoint of this log. */
function claimIn(note: string, environmentId: EnvironmentId): CheckpointClaim | undefined {
  const signed = parseCheckpointText(parseNote(note)?.text ?? '');
  const generation = signed && generationOf(signed.origin, environmentId);
  if (signed === undefined || generation === undefined) return undefined;
  return { environmentId, generation, treeSize: signed.treeSize, rootHash: signed.rootHash };
}

/** What stands against the generation of a checkpoint, by what is shown of how it was begun. */
function objectionTo(
  claim: CheckpointClaim,
  { proofs, resumption: shown }: Pick<CheckpointRequest, 'proofs' | 'resumption'>,
  spki: Buffer,
): Obstacle | undefined {
  if (shown === undefined) return { resumption: 'needed' };
  const { environmentId, treeSize, rootHash } = claim;
  const note = signedResumption(noteInLeaf(shown.leaf) ?? '', environmentId, spki);
  if (note?.generation !== claim.generation) return { resumption: 'refused' };
  const isLeaf = verifyInclusion({
    leafHash: leafHash(Buffer.from(shown.leaf)),
    leafIndex: note.from.treeSize,
    treeSize,
    rootHash,
    hashes: shown.inclusion.map((hash) => Buffer.from(hash, 'base64')),
  });
  if (!isLeaf) return { resumption: 'refused' };
  const relation =
    note.from.treeSize === 0
      ? 'continued'
      : relationOf(claim, { ...note.from, generation: claim.generation }, proofs);
  if (relation === 'unproven') return { needsProofFrom: note.from.treeSize };
  return relation === 'continued' ? undefined : { resumption: 'refused' };
}

function relationOf(
  claim: CheckpointClaim,
  known: CheckpointClaim,
  proofs: CheckpointRequest['proofs'],
): 'continued' | 'unproven' | 'contradicted' {
  if (claim.generation !== known.generation)
    return claim.generation > known.generation ? 'continued' : 'contradicted';
  if (claim.treeSize < known.treeSize) return 'contradicted';
  if (claim.treeSize === known.treeSize)
    return claim.rootHash.equals(known.rootHash) ? 'continued' : 'contradicted';
  const proof = proofs.find(({ fromSize }) => fromSize === known.treeSize);
  if (proof === undefined) return 'unproven';
  const isProven = verifyConsistency({
    fromSize: known.treeSize,
    fromRootHash: known.rootHash,
    toSize: claim.treeSize,
    toRootHash: claim.rootHash,
    hashes: proof.hashes.map((hash) => Buffer.from(hash, 'base64')),
  });
  return isProven ? 'continued' : 'contradicted';
}
