/**
 * What a tenant may use: calls per second, keys, stored data keys.
 *
 * Invariants: of each second's calls every replica lets its even share through, so that all
 * together keep to the quota without speaking of a call; a tenant that has been quiet may make one
 * second's calls at once, and whoever takes more at once than there is pays it back before the
 * next; memory is bounded. Calls are counted here, keys and data keys by the database
 * (`store/tenants/tenant-counts.ts`). Who may call isn't known here.
 */
import { monotonicNow } from '../../call.ts';
import { quotaExceeded } from '../../errors.ts';
import type { TenantId } from '../../ids.ts';
import { Lru } from '../../lru.ts';
import { SYSTEM_TENANT } from '../../names.ts';
import type { Quotas, TenantRecord } from '../../store/tenants/tenants.ts';
import type { KeyCache } from '../keys/key-cache.ts';

/** What holds where a tenant has no quota of its own; Infinity is none. */
export type QuotaDefaults = { readonly [Name in keyof Quotas]: number };

/**
 * What is left of a rate: `share` a second come in, up to one second's, and at least one.
 *
 * In any time of t seconds it gives at most `share` * t, what it held at first, and the excess of
 * the last taker.
 */
export class RateBucket {
  #left = Number.POSITIVE_INFINITY;
  #at = 0;

  /**
   * Takes `amount` at `now`, in milliseconds that never go back, and returns 0; or takes nothing
   * and returns after how many milliseconds it would. Whoever wants more than the bucket holds
   * waits until it is full, and leaves it in debt.
   */
  take(amount: number, share: number, now: number): number {
    const capacity = Math.max(1, share);
    this.#left = Math.min(capacity, this.#left + ((now - this.#at) * share) / 1000);
    this.#at = now;
    const missing = Math.min(amount, capacity) - this.#left;
    if (missing > 0) return (missing * 1000) / share;
    this.#left -= amount;
    return 0;
  }
}

export interface TenantQuotasParts {
  readonly defaults: QuotaDefaults;
  readonly cache: KeyCache;
  /** How many replicas run. */
  readonly replicas: () => number;
  /**
   * For how many tenants it is known what they have used; one that falls out is as if it had been
   * quiet.
   */
  readonly limit: number;
}

/** Limits each tenant's calls per second, keys and stored data keys. */
export class TenantQuotas {
  readonly #parts: TenantQuotasParts;
  readonly #buckets: Lru<TenantId, RateBucket>;

  constructor(parts: TenantQuotasParts) {
    this.#parts = parts;
    this.#buckets = new Lru(parts.limit);
  }

  /** What holds for the tenant. The reserved tenant, which has no keys, has no quotas. */
  of({ name, quotas }: Pick<TenantRecord, 'name' | 'quotas'>, which: keyof Quotas): number {
    if (name === SYSTEM_TENANT) return Number.POSITIVE_INFINITY;
    return quotas[which] ?? this.#parts.defaults[which];
  }

  /**
   * Counts so many calls about the tenant. Throws RESOURCE_NOT_FOUND, and QUOTA_EXCEEDED, which
   * says when there is room again.
   */
  async takeCalls(name: string, calls: number): Promise<void> {
    const tenant = await this.#parts.cache.tenant(name);
    const limit = this.of(tenant, 'callsPerSecond');
    if (limit === Number.POSITIVE_INFINITY) return;
    const waitMs = this.#bucketOf(tenant.tenantId).take(
      calls,
      limit / this.#parts.replicas(),
      monotonicNow(),
    );
    if (waitMs > 0) throw quotaExceeded('calls_per_second', limit, Math.ceil(waitMs));
  }

  #bucketOf(tenantId: TenantId): RateBucket {
    const known = this.#buckets.get(tenantId);
    if (known !== undefined) return known;
    const bucket = new RateBucket();
    this.#buckets.set(tenantId, bucket);
    return bucket;
  }
}
