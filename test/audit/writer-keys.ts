/**
 * The keys that prove who wrote a row of the inbox, without a token: derived from nothing secret.
 */
import { createHash } from 'node:crypto';
import { newReplicaId } from '../../src/audit/identity.ts';
import type { ReplyOf, RequestOf } from '../../src/hsm/protocol.ts';
import { type AnyId, newId } from '../../src/ids.ts';
import type { Store } from '../../src/store/store.ts';

const MASK_KEY = newId<AnyId>();

/** As an agent answers. */
export function deriveWriterKey({
  replicaId,
}: Pick<RequestOf<'deriveWriterKey'>, 'replicaId'>): ReplyOf<'deriveWriterKey'> {
  return { key: createHash('sha256').update(replicaId).digest(), maskKeyId: MASK_KEY };
}

/** Has a store write as a replica that has just been started. Returns the store. */
export function asReplica(store: Store): Store {
  const replicaId = newReplicaId();
  store.streams.use({ replicaId, ...deriveWriterKey({ replicaId }) });
  return store;
}
