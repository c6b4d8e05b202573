/**
 * The checkpoint that the token keeps itself, in a data object: what outlives every process, and
 * isn't restored with a database.
 *
 * Invariants: nothing is kept but what the token's own key has signed, and nothing in place of what
 * is later; the new object is there before an older one goes, so that whoever ends in between
 * leaves two. Of several the latest counts, and the next that is kept has the others go. Knows no
 * log.
 */
import type { Session, SessionObject } from 'graphene-pk11';
import type { EnvironmentId } from '../../ids.ts';
import { type CheckpointClaim, follows, signedClaim } from '../checkpoint.ts';
import type { TokenProfile } from '../token-profile.ts';
import { AgentFailure } from './failure.ts';
import { keptCheckpointSearch, keptCheckpointTemplate } from './templates.ts';
import { labelOf } from './token-objects.ts';

/** Whose checkpoints. */
interface Keeper {
  readonly session: Session;
  readonly environmentId: EnvironmentId;
  /** The public half of the token's audit signing key. */
  readonly spki: Buffer;
}

interface Kept {
  readonly claim: CheckpointClaim;
  readonly note: string;
}

/**
 * The latest checkpoint in the token that its own key has signed; undefined where there is none.
 */
export function latestKept(keeper: Keeper): Kept | undefined {
  return latestOf(listObjects(keeper));
}

/**
 * Keeps a checkpoint; one that is kept already isn't written again. Throws `refused` for what this
 * token's key hasn't signed, and for one that a later one is kept of. Needs a session that can
 * write.
 */
export function keepCheckpoint(
  keeper: Keeper,
  profile: Pick<TokenProfile, 'unsupported'>,
  note: string,
) {
  const { session, environmentId, spki } = keeper;
  const claim = signedClaim(note, environmentId, spki);
  if (claim === undefined)
    throw new AgentFailure(
      'refused',
      'cannot keep the checkpoint: the token’s own key has not signed it',
    );
  const before = latestKept(keeper);
  if (before !== undefined && !follows(claim, before.claim))
    throw new AgentFailure(
      'refused',
      `cannot keep the checkpoint of ${claim.treeSize} leaves: it does not follow the kept one of ${before.claim.treeSize} leaves`,
    );
  if (before === undefined || !follows(before.claim, claim))
    session.create(
      keptCheckpointTemplate(labelOf('checkpoint', environmentId), Buffer.from(note), profile),
    );
  destroyEarlier(listObjects(keeper), claim);
}

/**
 * Those that are earlier than the latest, which must be this one, or a later one that another
 * process keeps.
 */
function destroyEarlier(objects: readonly KeptObject[], claim: CheckpointClaim): void {
  const latest = latestOf(objects);
  if (latest === undefined || !follows(latest.claim, claim))
    throw new AgentFailure(
      'token',
      'cannot keep the checkpoint: the token does not return what was written',
    );
  // Of two that say the same both stay: two processes must not each destroy the other's.
  for (const { kept, object } of objects)
    if (kept === undefined || !follows(kept.claim, latest.claim)) object.destroy();
}

interface KeptObject {
  readonly object: SessionObject;
  /** Undefined for what isn't a checkpoint that the token's key has signed. */
  readonly kept: Kept | undefined;
}

function listObjects({ session, environmentId, spki }: Keeper): KeptObject[] {
  const found = session.find(keptCheckpointSearch(labelOf('checkpoint', environmentId)));
  return Array.from({ length: found.length }, (_, index) => {
    const object = found.items(index);
    const note = String(object.get('value'));
    const claim = signedClaim(note, environmentId, spki);
    return { object, kept: claim && { claim, note } };
  });
}

function latestOf(objects: readonly KeptObject[]): Kept | undefined {
  let latest: Kept | undefined;
  for (const { kept } of objects)
    if (kept !== undefined && (latest === undefined || follows(kept.claim, latest.claim)))
      latest = kept;
  return latest;
}
