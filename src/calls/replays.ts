/**
 * Requests that come again: what each did is kept with its request id, and is the answer of the
 * same request for a day.
 *
 * Invariants:
 * - a request that has had its effect is answered by what that was then, and changes nothing more;
 * - nothing secret is kept: what was returned once is returned again by the caller's rights of
 *   today alone;
 * - what is kept counts only if its HMAC verifies, whose key the HSM derives;
 * - this replica forgets what the effect made replicas forget, before it answers.
 * Knows no operation and no message.
 */
import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from 'node:crypto';
import { addDetail, type Call, type Effect, type KeptEffect, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { Agents } from '../hsm/token-router.ts';
import { type AnyId, idToBytes, type TenantId } from '../ids.ts';
import type { Alerts } from '../signals/alerts.ts';
import type { Change } from '../store/changes.ts';
import { findEffect } from '../store/request-ids.ts';
import type { Store } from '../store/store.ts';

/** Whose key it is that proves what is kept: no replica's, and the same for all of them. */
const REQUESTS = '00000000-0000-0000-0000-000000000001' as AnyId;
/** Names the kind of record that the HMAC is over. */
const LABEL = 'keyward/v1/request-effect\0';
/** How often it is looked whether the mask key is another: the one before is good meanwhile. */
const RENEW_MS = 60_000;

/** What {@link Replays} stands on. */
export interface ReplaysParts {
  readonly store: Pick<Store, 'read'>;
  readonly agents: Pick<Agents, 'call'>;
  /** Has this replica forget what has changed. */
  readonly onChange: (change: Change) => void;
  readonly alerts: Alerts;
}

/** What a request did when it came first. */
export interface Replay extends Pick<Effect, 'reference'> {
  /** The answer as it was kept; undefined where it is made again from `reference`. */
  readonly answer: Buffer | undefined;
}

/** An effect as it is written down. */
interface Written extends Pick<Effect, 'keyId' | 'reference'> {
  readonly change?: Pick<Change, 'kind' | 'subjectId'>;
  /** In base64. */
  readonly answer?: string;
}

interface EffectKey {
  readonly key: KeyObject;
  readonly maskKeyId: AnyId;
}

/** Keeps what requests did, and finds it when they come again. */
export class Replays {
  readonly #parts: ReplaysParts;
  readonly #keys = new Map<AnyId, EffectKey>();
  #current: EffectKey | undefined;
  #renewedAt = Number.NEGATIVE_INFINITY;

  constructor(parts: ReplaysParts) {
    this.#parts = parts;
  }

  /**
   * Returns what is to be kept of an effect; `encode` turns its answer into bytes. Throws
   * HSM_UNAVAILABLE.
   */
  async keep(
    call: Call,
    { tenantId, answer, ...rest }: Effect,
    encode: (answer: unknown) => Buffer,
  ): Promise<KeptEffect> {
    const { change, keyId, reference } = rest;
    const encoded = answer && encode(answer.content).toString('base64');
    const effect = JSON.stringify({ change, keyId, reference, answer: encoded });
    const { key, maskKeyId } = await this.#currentKey(call);
    return { effect, maskKeyId, mac: macOf(key, call, tenantId, effect) };
  }

  /**
   * Returns what the call's request did when it came before; undefined where it did nothing. Throws
   * REQUEST_ID_REUSED, REPLAY_UNKNOWN, STORED_ROW_CORRUPT, and what reading throws.
   */
  async find(call: Call, tenantId: TenantId): Promise<Replay | undefined> {
    if (call.idempotency === undefined) return undefined;
    const kept = await this.#parts.store.read(call, tenantId, (tx) =>
      findEffect(tx, tenantId, call),
    );
    if (kept === undefined) return undefined;
    const { change, keyId, answer, reference } = await this.#verified(call, tenantId, kept);
    if (change !== undefined) this.#parts.onChange({ tenantId, ...change });
    if (call.audit !== undefined) {
      addDetail(call.audit, { repeated: true });
      if (keyId !== undefined) call.audit.keyId = keyId;
    }
    return { reference, answer: answer === undefined ? undefined : Buffer.from(answer, 'base64') };
  }

  async #verified(call: Call, tenantId: TenantId, kept: KeptEffect | null): Promise<Written> {
    const key = kept && (await this.#keyOf(call, kept.maskKeyId));
    // Performed by an earlier release, or proven by a token that was left since.
    if (kept === null || key == null) throw new KeywardError('REPLAY_UNKNOWN');
    const { effect, mac } = kept;
    const expected = macOf(key.key, call, tenantId, effect);
    if (mac.length === expected.length && timingSafeEqual(mac, expected)) return JSON.parse(effect);
    const request = `request id ${call.idempotency?.requestId}`;
    this.#parts.alerts.raise('stored-row-corrupt', request, {
      detail: `${request} of ${call.caller}, ${call.method}`,
    });
    throw new KeywardError('STORED_ROW_CORRUPT', {
      message:
        'cannot answer the request again: what is stored of its effect failed verification; ' +
        'operators have been alerted',
    });
  }

  async #currentKey(call: Call): Promise<EffectKey> {
    const known = this.#current;
    if (known !== undefined && monotonicNow() - this.#renewedAt < RENEW_MS) return known;
    this.#renewedAt = monotonicNow();
    // While the token is away the key is good.
    const derived = await this.#derive(call).catch((error: unknown) => {
      if (known === undefined) throw error;
      return known;
    });
    if (derived === undefined) throw new KeywardError('HSM_UNAVAILABLE');
    this.#current = derived;
    return derived;
  }

  /** Undefined where no token that is open here has that mask key. */
  async #keyOf(call: Call, maskKeyId: AnyId): Promise<EffectKey | undefined> {
    const known = this.#keys.get(maskKeyId);
    if (known !== undefined) return known;
    return this.#derive(call, maskKeyId).catch((error: unknown) => {
      if (error instanceof KeywardError && error.reason === 'TOKEN_KEY_NOT_READY') return undefined;
      throw error;
    });
  }

  async #derive({ deadline }: Call, maskKeyId?: AnyId): Promise<EffectKey | undefined> {
    const wanted = maskKeyId === undefined ? Buffer.alloc(0) : idToBytes(maskKeyId);
    const request = { replicaId: REQUESTS, maskKeyId: wanted };
    const derived = await this.#parts.agents.call('deriveWriterKey', request, deadline);
    if (derived.key.length === 0) return undefined;
    // A copy: what came is part of a frame, which is overwritten.
    const key = createSecretKey(Buffer.from(derived.key));
    const found = { key, maskKeyId: derived.maskKeyId };
    this.#keys.set(found.maskKeyId, found);
    return found;
  }
}

/** Over whose effect it is, of which request, and what it was. */
function macOf(key: KeyObject, call: Call, tenantId: TenantId, effect: string): Buffer {
  const { caller, method, idempotency } = call;
  const fingerprint = idempotency?.fingerprint.toString('base64');
  const content = [tenantId, caller, method, idempotency?.requestId, fingerprint, effect];
  return createHmac('sha256', key).update(LABEL).update(JSON.stringify(content)).digest();
}
