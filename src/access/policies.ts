/**
 * Loads tenants' policies, verifies them, and keeps them in memory.
 *
 * - A policy that fails verification, or is older than one that this replica has applied, is never
 *   applied.
 * - A change drops its policy at once, even while it is being loaded.
 * - A replica that no longer receives changes answers nothing from here.
 * - What a policy allows is decided in `policy.ts`.
 */
import type { Logger } from 'pino';
import { monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { TenantId } from '../ids.ts';
import { Lru } from '../lru.ts';
import { findPolicy, type PolicyRecord } from '../store/access/policies.ts';
import { isSealKeyInUse } from '../store/hsm-token/token-objects.ts';
import type { Store } from '../store/store.ts';
import { Policy } from './policy.ts';
import { policyContent } from './policy-seal.ts';

/** How long a load may take; each call that waits for it still ends at its own deadline. */
const LOAD_MS = 5_000;
/**
 * How soon a policy that failed verification is verified again, so that its callers cannot keep the
 * HSM busy.
 */
const CORRUPT_MS = 1_000;

export interface PoliciesParts {
  readonly store: Pick<Store, 'read' | 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  /** Returns whether this replica receives changes. */
  readonly isFresh: () => boolean;
  /** How many are remembered. */
  readonly limit: number;
  readonly log: Pick<Logger, 'error'>;
}

/** Identifies a tenant. */
export interface TenantIdentity {
  readonly tenantId: TenantId;
  /** The last part of its name. */
  readonly name: string;
}

/** Loads tenants' policies, verifies them, and keeps them in memory. */
export class Policies {
  readonly #parts: PoliciesParts;
  readonly #policies: Lru<TenantId, Promise<Policy>>;
  /** The newest revision of each that was applied here. */
  readonly #newest = new Map<TenantId, bigint>();

  constructor(parts: PoliciesParts) {
    this.#parts = parts;
    this.#policies = new Lru(parts.limit);
  }

  /**
   * Returns the tenant's policy. Throws POLICY_CORRUPT, TOKEN_KEY_NOT_READY, REPLICA_STALE, and
   * what the store and the agents throw.
   */
  of(tenant: TenantIdentity): Promise<Policy> {
    if (!this.#parts.isFresh()) return Promise.reject(new KeywardError('REPLICA_STALE'));
    return this.#policies.get(tenant.tenantId) ?? this.#load(tenant);
  }

  /**
   * Returns the policy that `read` reads from the database, if it verifies. Throws POLICY_CORRUPT,
   * and what `read` and the agents throw.
   */
  async verified<Record extends PolicyRecord>(
    tenant: TenantIdentity,
    deadline: number,
    read: () => Promise<Record>,
  ): Promise<{ readonly policy: Policy; readonly record: Record }> {
    const { tenantId, name } = tenant;
    // As of before it is read: a newer one may be obeyed meanwhile.
    const newest = this.#newest.get(tenantId) ?? 0n;
    const record = await read();
    const revision = record.sealed?.revision ?? 0n;
    const problem =
      revision < newest
        ? 'its revision is older than one read before'
        : (await this.#isSealed(tenantId, record, deadline))
          ? undefined
          : 'its seal does not match';
    if (problem !== undefined) {
      this.#parts.log.error(
        { alert: 'policy-corrupt', tenant: name, problem },
        'a tenant’s access policy failed verification',
      );
      throw new KeywardError('POLICY_CORRUPT');
    }
    if (revision > (this.#newest.get(tenantId) ?? 0n)) this.#newest.set(tenantId, revision);
    const { bindings, roles } = record;
    return { policy: new Policy({ tenant: name, revision, bindings, roles }), record };
  }

  /** Forgets a tenant's policy; the next use reads it again. */
  forget(tenantId: TenantId): void {
    this.#policies.delete(tenantId);
  }

  /** Forgets everything but how new it was. */
  clear(): void {
    this.#policies.clear();
  }

  #load(tenant: TenantIdentity): Promise<Policy> {
    const { tenantId } = tenant;
    const deadline = monotonicNow() + LOAD_MS;
    const read = () =>
      this.#parts.store.read({ deadline }, tenantId, (tx) => findPolicy(tx, tenantId));
    const loading = this.verified(tenant, deadline, read).then(({ policy }) => policy);
    this.#policies.set(tenantId, loading);
    loading.catch((error: unknown) => {
      const forget = () => {
        if (this.#policies.get(tenantId) === loading) this.#policies.delete(tenantId);
      };
      const isCorrupt = error instanceof KeywardError && error.reason === 'POLICY_CORRUPT';
      if (isCorrupt) setTimeout(forget, CORRUPT_MS).unref();
      else forget();
    });
    return loading;
  }

  async #isSealed(tenantId: TenantId, record: PolicyRecord, deadline: number): Promise<boolean> {
    const { sealed, bindings, roles } = record;
    if (sealed === undefined) return bindings.length === 0 && roles.length === 0;
    const content = policyContent(tenantId, sealed.revision, record);
    const { verified } = await this.#parts.agents.call(
      'verifyRecords',
      { sealKeyId: sealed.sealKeyId, kind: RECORD.policy, items: [{ content, seal: sealed.seal }] },
      deadline,
    );
    if (verified[0] === 1) return true;
    const { store, agents } = this.#parts;
    if (agents.held.some((id) => id === `${sealed.sealKeyId}`)) return false;
    // A seal key that is in use and that no agent here has says nothing against the policy.
    if (await isSealKeyInUse(store, { deadline }, sealed.sealKeyId))
      throw new KeywardError('TOKEN_KEY_NOT_READY');
    return false;
  }
}
