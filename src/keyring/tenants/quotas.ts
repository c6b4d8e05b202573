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
import { KeywardError, quotaExceeded } from '../../errors.ts';
import type { TenantId } from '../../ids.ts';
import { Lru } from '../../lru.ts';
import { SYSTEM_TENANT } from '../../names.ts';
import type { Quotas, TenantRecord } from '../../store/tenants/tenants.ts';
import type { KeyCache } from '../keys/key-cache.ts';

/** So many calls a second that need no permission one caller may make, of all replicas together. */
const CALLS_OF_CALLER = 100;

/** So little is missing only because sums of fractions are rounded. */
const ROUNDING = 1e-6;

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
    if (missing > ROUNDING) return (missing * 1000) / share;
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
  readonly #callers: Lru<string, RateBucket>;

  constructor(parts: TenantQuotasParts) {
    this.#parts = parts;
    this.#buckets = new Lru(parts.limit);
    this.#callers = new Lru(parts.limit);
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
    const waitMs = bucketIn(this.#buckets, tenant.tenantId).take(
      calls,
      limit / this.#parts.replicas(),
      monotonicNow(),
    );
    if (waitMs > 0) throw quotaExceeded('calls_per_second', limit, Math.ceil(waitMs));
  }

  /**
   * Counts a call that needs no permission, and so is in no tenant's quota. Throws QUOTA_EXCEEDED
   * for a caller who makes too many.
   */
  async takeCallOf(caller: string): Promise<void> {
    const bucket = bucketIn(this.#callers, caller);
    const waitMs = bucket.take(1, CALLS_OF_CALLER / this.#parts.replicas(), monotonicNow());
    if (waitMs > 0)
      throw new KeywardError('QUOTA_EXCEEDED', {
        message: `cannot perform the call: the caller’s quota of such calls is used up (${CALLS_OF_CALLER} per second)`,
        metadata: { quota: 'caller_calls_per_second', limit: String(CALLS_OF_CALLER) },
        retryAfterMs: Math.ceil(waitMs),
      });
  }
}

function bucketIn<Key>(buckets: Lru<Key, RateBucket>, key: Key): RateBucket {
  const known = buckets.get(key);
  if (known !== undefined) return known;
  const bucket = new RateBucket();
  buckets.set(key, bucket);
  return bucket;
}
