/**
 * Masks of encryption contexts: what an audit entry has in place of a value, so that who knows the
 * value can find it and nobody else can read it.
 *
 * Invariants: a tenant's masks of one month compare with each other and with no others, since each
 * tenant and month has a key of its own, which the token derives; no value is ever in an entry,
 * also when there is no mask. Keeps the keys in memory. Knows no entry.
 */
import { createHmac, createSecretKey, type KeyObject } from 'node:crypto';
import { monotonicNow } from '../call.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { TenantId } from '../ids.ts';
import { Lru } from '../lru.ts';

/** A key that can't be had so soon isn't waited for: the entry says that there are no masks. */
const DERIVE_MS = 250;
const KEYS = 10_000;
const MASK_BYTES = 16;

export interface ContextMasksParts {
  readonly agents: Pick<Agents, 'call'>;
  /** The tenant of that name; rejects where there is none. */
  readonly tenantIdOf: (tenant: string) => Promise<TenantId>;
}

/** What an entry says of an encryption context. */
export interface MaskedContext {
  /** Null for each where the period's key can't be had. */
  readonly context: ReadonlyMap<string, string | null>;
  /** As `2026-01`; absent where there are no masks. */
  readonly maskPeriod?: string;
}

/** Masks values of encryption contexts for audit entries. */
export class ContextMasks {
  readonly #parts: ContextMasksParts;
  readonly #keys = new Lru<string, KeyObject | Promise<KeyObject | undefined>>(KEYS);
  #month: { readonly text: string; readonly startsAt: number; readonly endsAt: number } | undefined;

  constructor(parts: ContextMasksParts) {
    this.#parts = parts;
  }

  /**
   * Masks contexts of one tenant, all under one period's key; what is one context is one when
   * masked. At once, where that key is known. Never rejects.
   */
  mask(
    tenant: string,
    contexts: readonly ReadonlyMap<string, string>[],
    now: number = Date.now(),
  ): MaskedContext[] | Promise<MaskedContext[]> {
    const maskPeriod = this.#monthOf(now);
    const key = this.#keyOf(tenant, maskPeriod);
    return key instanceof Promise
      ? key.then((derived) => maskAll(contexts, derived, maskPeriod))
      : maskAll(contexts, key, maskPeriod);
  }

  /** As `2026-01`, of UTC. */
  #monthOf(now: number): string {
    const known = this.#month;
    if (known !== undefined && now < known.endsAt && now >= known.startsAt) return known.text;
    const date = new Date(now);
    const [year, month] = [date.getUTCFullYear(), date.getUTCMonth()];
    const text = date.toISOString().slice(0, 7);
    this.#month = { text, startsAt: Date.UTC(year, month), endsAt: Date.UTC(year, month + 1) };
    return text;
  }

  #keyOf(tenant: string, period: string): KeyObject | Promise<KeyObject | undefined> {
    const name = `${tenant}/${period}`;
    const known = this.#keys.get(name);
    if (known !== undefined) return known;
    const deriving = this.#derive(tenant, period).then(
      (key) => {
        this.#keys.set(name, key);
        return key;
      },
      () => {
        this.#keys.delete(name);
        return undefined;
      },
    );
    this.#keys.set(name, deriving);
    return deriving;
  }

  async #derive(tenant: string, period: string): Promise<KeyObject> {
    const { agents, tenantIdOf } = this.#parts;
    const request = { tenantId: await tenantIdOf(tenant), period: Number(period.replace('-', '')) };
    const { key } = await agents.call('deriveMaskKey', request, monotonicNow() + DERIVE_MS);
    // A copy: what came is part of a frame, which is overwritten. Made once: to tell bytes from a
    // key costs Node 6 µs each time.
    return createSecretKey(key);
  }
}

/** Without a key there are names alone. */
function maskAll(
  contexts: readonly ReadonlyMap<string, string>[],
  key: KeyObject | undefined,
  maskPeriod: string,
): MaskedContext[] {
  // Items of a batch may have one context.
  const known = new Map<ReadonlyMap<string, string>, MaskedContext>();
  return contexts.map((context) => {
    const before = known.get(context);
    if (before !== undefined) return before;
    const masks = new Map<string, string | null>();
    for (const [name, value] of context)
      masks.set(name, key === undefined ? null : maskOf(key, name, value));
    const masked = { context: masks, ...(key === undefined ? {} : { maskPeriod }) };
    known.set(context, masked);
    return masked;
  });
}

function maskOf(key: KeyObject, name: string, value: string): string {
  return createHmac('sha256', key)
    .update(`${name}\0${value}`)
    .digest()
    .toString('hex', 0, MASK_BYTES);
}
