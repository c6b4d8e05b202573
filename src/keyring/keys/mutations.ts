/**
 * What all changes to a tenant's keys have in common: which key it is, what its mutation announces,
 * and what is refused because of a state.
 *
 * Decides nothing about a particular change.
 */
import { addDetail, type Call } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import type { KeyId, TenantId } from '../../ids.ts';
import type { KeyName } from '../../names.ts';
import type { Tx } from '../../store/core/transaction.ts';
import { changeStates } from '../../store/keys/key-seals.ts';
import type { LifecycleState } from '../../store/keys/key-states.ts';
import { findVersion, type KeyVersionRecord } from '../../store/keys/key-versions.ts';
import { findKey, type KeyRecord } from '../../store/keys/keys.ts';
import type { StateTx } from '../../store/keys/state-draft.ts';
import type { Mutation, Store } from '../../store/store.ts';
import type { KeyCache } from './key-cache.ts';
import type { KeyStates } from './key-states.ts';

/** Which key, once its name is looked up. */
export interface KeyIdentity {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
}

/** Finds a key, and notes its UUID for the call's entry. Throws RESOURCE_NOT_FOUND. */
export async function identify(
  cache: KeyCache,
  { audit }: Pick<Call, 'audit'>,
  name: KeyName,
): Promise<KeyIdentity> {
  const { tenantId, keyId } = (await cache.named(name)).record;
  if (audit !== undefined) audit.keyId = keyId;
  return { tenantId, keyId };
}

/** A change to a key or to what belongs to it, announced to all replicas. */
export function keyMutation(resource: string, { tenantId, keyId }: KeyIdentity): Mutation {
  return { tenantId, resource, ids: { keyId }, change: { kind: 'key', subjectId: keyId } };
}

/** A change to a key that is there. */
export interface KeyChange<T> {
  readonly name: KeyName;
  /** What is changed, by its full name: the key, or something of it. */
  readonly resource: string;
  /** Does it; the key is locked, and as it is. Throws what forbids it. */
  apply(tx: StateTx, key: KeyRecord, identity: KeyIdentity): Promise<T>;
}

/**
 * Changes a key that is there: locked meanwhile, its state verified before and sealed after,
 * announced, forgotten here. Throws RESOURCE_NOT_FOUND, KEY_STATE_CORRUPT, HSM_UNAVAILABLE.
 */
export async function changeKey<T>(
  {
    store,
    cache,
    states,
  }: { readonly store: Store; readonly cache: KeyCache; readonly states: KeyStates },
  call: Call,
  { name, resource, apply }: KeyChange<T>,
): Promise<T> {
  const identity = await identify(cache, call, name);
  const { tenantId, keyId } = identity;
  const changed = await store.mutate(call, keyMutation(resource, identity), (tx) =>
    changeStates(tx, identity, states.sealer(call), (stateTx, { key }) =>
      apply(stateTx, key, identity),
    ),
  );
  cache.forget(tenantId, keyId);
  return changed;
}

/** How a destruction is asked for. */
export interface DestructionRequest {
  /** Empty only to validate. */
  readonly etag: string;
  readonly windowDays: number;
  /** Only look. */
  readonly validateOnly: boolean;
}

/** Notes for the call's entry that it only looks at what it would do. */
export function noteValidateOnly({ audit }: Pick<Call, 'audit'>): void {
  if (audit !== undefined) addDetail(audit, { validateOnly: true });
}

/** Throws DESTRUCTION_UNDER_WAY for what is scheduled for destruction, or destroyed. */
export function requireKept({ state }: { readonly state: LifecycleState }): void {
  if (state === 'DESTROY_SCHEDULED' || state === 'DESTROYED')
    throw new KeywardError('DESTRUCTION_UNDER_WAY', { metadata: { state } });
}

/** The key as it is. Throws RESOURCE_NOT_FOUND. */
export async function expectKey(tx: Tx, { tenantId, keyId }: KeyIdentity): Promise<KeyRecord> {
  const key = await findKey(tx, tenantId, keyId);
  if (key === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  return key;
}

/** The version as it is. Throws RESOURCE_NOT_FOUND. */
export async function expectVersion(
  tx: Tx,
  { tenantId, keyId }: KeyIdentity,
  number: number,
): Promise<KeyVersionRecord> {
  const version = await findVersion(tx, tenantId, keyId, number);
  if (version === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
  return version;
}
