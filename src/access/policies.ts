/**
 * Loads tenants' policies, verifies them, and keeps them in memory.
 *
 * - A policy that fails verification, or is older than one that this replica has applied, is never
 *   applied.
 * - A change drops its policy at once, even while it is being loaded.
 * - A replica that no longer receives changes answers nothing from here; nor is a policy kept for
 *   longer than its age unless the database still has its revision (`keyring/keys/cache-age.ts`).
 * - What a policy allows is decided in `policy.ts`.
 */
import { monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { RECORD } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { TenantId } from '../ids.ts';
import { type CacheFigures, Lru } from '../lru.ts';
import type { Alerts } from '../signals/alerts.ts';
import { findPolicy, type PolicyRecord } from '../store/access/policies.ts';
import { isSealKeyInUse } from '../store/hsm-token/token-objects.ts';
import type { Remembered } from '../store/revisions.ts';
import type { Store } from '../store/store.ts';
import type { VerifiedTenant } from '../store/tenants/tenants.ts';
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
  readonly alerts: Alerts;
}

/** Identifies a tenant whose seal was verified: no policy is asked for by another's name. */
export type TenantIdentity = VerifiedTenant;

/** Loads tenants' policies, verifies them, and keeps them in memory. */
export class Policies {
  readonly #parts: PoliciesParts;
  readonly #policies: Lru<TenantId, Promise<Policy>>;
  /** What loads have found, of which tenant. */
  readonly #found = new WeakMap<object, { tenant: TenantIdentity; revision: bigint }>();
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
      this.#parts.alerts.raise('policy-corrupt', name, { tenant: name, problem });
      throw new KeywardError('POLICY_CORRUPT');
    }
    this.#parts.alerts.clear('policy-corrupt', name);
    if (revision > (this.#newest.get(tenantId) ?? 0n)) this.#newest.set(tenantId, revision);
    const { bindings, roles } = record;
    return { policy: new Policy({ tenant: name, revision, bindings, roles }), record };
  }

  /** How many policies are kept, and how often one was asked for. */
  get figures(): CacheFigures {
    return this.#policies.figures;
  }

  /** Forgets a tenant's policy; the next use reads it again. */
  forget(tenantId: TenantId): void {
    this.#policies.delete(tenantId);
  }

  /** Forgets everything but how new it was. */
  clear(): void {
    this.#policies.clear();
  }

  /** Returns what is loaded, at this moment. */
  *remembered(): Iterable<Remembered> {
    for (const entry of this.#policies.values()) {
      const found = this.#found.get(entry);
      if (found === undefined) continue;
      const { tenantId } = found.tenant;
      yield { kind: 'access', tenantId, subjectId: tenantId, revision: found.revision, entry };
    }
  }

  /** Returns whether it still has this very policy. */
  keeps({ tenantId, entry }: Remembered): boolean {
    return this.#policies.peek(tenantId) === entry;
  }

  /** Reads a policy again that was forgotten. Throws as {@link Policies.of}. */
  async reload({ entry }: Remembered): Promise<void> {
    const found = this.#found.get(entry);
    if (found !== undefined) await this.of(found.tenant);
  }

  /** Reads and verifies a policy beside the one that is kept. Throws as {@link Policies.of}. */
  async verifyAgain({ entry }: Remembered): Promise<void> {
    const found = this.#found.get(entry);
    if (found !== undefined) await this.#read(found.tenant);
  }

  async #read(tenant: TenantIdentity): Promise<Policy> {
    const { tenantId } = tenant;
    const deadline = monotonicNow() + LOAD_MS;
    const read = () =>
      this.#parts.store.read({ deadline }, tenantId, (tx) => findPolicy(tx, tenantId));
    return (await this.verified(tenant, deadline, read)).policy;
  }

  #load(tenant: TenantIdentity): Promise<Policy> {
    const { tenantId } = tenant;
    const loading = this.#read(tenant);
    this.#policies.set(tenantId, loading);
    loading.then(
      ({ revision }) => this.#found.set(loading, { tenant, revision }),
      () => {},
    );
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
