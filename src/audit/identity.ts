/**
 * Whose the rows are that a process adds to the audit log's inbox: a UUID of its own, and the key
 * that the HSM derives for it.
 *
 * Invariant: a process has one UUID, which has the time of its start. Knows no row.
 */
import { monotonicNow } from '../call.ts';
import type { Agents } from '../hsm/token-router.ts';
import { type AnyId, newOrderedId } from '../ids.ts';
import type { WriterIdentity } from '../store/audit/streams.ts';

/** Whose key it is that proves what is remembered of writers: no replica's. */
export const NO_REPLICA = '00000000-0000-0000-0000-000000000000' as AnyId;

const STEP_MS = 10_000;

/** Returns the UUID of a process that starts now. */
export function newReplicaId(): AnyId {
  return newOrderedId(Date.now());
}

/** Returns how a replica of that UUID proves what it writes. Throws HSM_UNAVAILABLE. */
export async function identityOf(
  agents: Pick<Agents, 'call'>,
  replicaId: AnyId,
): Promise<WriterIdentity> {
  const { key, maskKeyId } = await agents.call(
    'deriveWriterKey',
    { replicaId, maskKeyId: Buffer.alloc(0) },
    monotonicNow() + STEP_MS,
  );
  return { replicaId, maskKeyId, key: Buffer.from(key) };
}
