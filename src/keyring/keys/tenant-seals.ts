/**
 * Whether a tenant is what its row says: seals of tenants, verified and made by the agents.
 *
 * Invariants: nothing becomes a `TenantRecord` but here and in the transaction that seals it; what
 * doesn't verify, or isn't sealed, or is older than what this replica has verified of that tenant,
 * or has a name that was another's, is refused (TENANT_CORRUPT) with an alert, whoever asks.
 * Remembers revisions and names only, and not for ever: an older row that was put back with its
 * seal while no replica remembers a newer one verifies. Where seals are kept and when they are made
 * is in `store/tenants/tenant-seals.ts`.
 */
import { type Call, monotonicNow, type SealedContent } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import { encodeTenantState } from '../../hsm/tenant-state.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { SealKeyId, TenantId } from '../../ids.ts';
import { Lru } from '../../lru.ts';
import type { Alerts } from '../../signals/alerts.ts';
import { isSealKeyInUse } from '../../store/hsm-token/token-objects.ts';
import type { Store } from '../../store/store.ts';
import type { TenantSealer } from '../../store/tenants/tenant-seals.ts';
import {
  findTenant,
  type StoredTenant,
  type TenantClaims,
  type TenantRecord,
  tenantRecord,
} from '../../store/tenants/tenants.ts';
import { type SealKeySource, sealKeyFrom } from './seal-key-source.ts';

/** So many an agent verifies at once: callers wait for at most 2 ms. */
const AT_ONCE = 100;
/** Of so many tenants name and revision are remembered: 10 MB or so. */
const REMEMBERED = 50_000;
/** A change waits no longer for an agent while it holds its tenant's row and a connection. */
const CHANGE_MS = 5_000;

export interface TenantSealsParts {
  readonly store: Pick<Store, 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  readonly sealKeys: SealKeySource;
  readonly alerts: Alerts;
}

/** A tenant that is to be made: the UUID that an agent has drawn for its name. */
export interface NewTenant extends Pick<TenantClaims, 'tenantId'> {
  readonly named: SealedContent;
}

/** A moment before something is read. */
export type Moment = number & { readonly kind: 'moment' };

/** When what is verified was read, and how long that may take. */
export interface Reading {
  readonly readAfter: Moment;
  readonly deadline: number;
}

/** What was verified of a tenant, and when. */
interface Seen {
  readonly revision: bigint;
  readonly at: Moment;
}

/** Verifies and makes the seals of tenants. */
export class TenantSeals {
  readonly #parts: TenantSealsParts;
  readonly #seen = new Lru<TenantId, Seen>(REMEMBERED);
  readonly #ids = new Lru<string, TenantId>(REMEMBERED);
  #moment = 0;

  constructor(parts: TenantSealsParts) {
    this.#parts = parts;
  }

  /**
   * To be asked for before rows are read that are verified then: what is seen only later says
   * nothing against them.
   */
  now(): Moment {
    this.#moment += 1;
    return this.#moment as Moment;
  }

  /** The UUID of a tenant that was verified here under this name, whatever became of it since. */
  idOf(name: string): TenantId | undefined {
    return this.#ids.get(name);
  }

  /**
   * Returns the tenants, if all of these rows verify. Throws TENANT_CORRUPT, naming the first that
   * doesn't, TOKEN_KEY_NOT_READY, and what agents throw.
   */
  async verify(stored: readonly StoredTenant[], reading: Reading): Promise<TenantRecord[]> {
    for (const [sealKeyId, some] of Map.groupBy(stored, (each) => each.sealKeyId)) {
      const [first] = some;
      if (sealKeyId === null && first !== undefined)
        throw this.#corrupt(first.claims, 'it is not sealed');
      for (let start = 0; start < some.length && sealKeyId !== null; start += AT_ONCE)
        await this.#verifySome(sealKeyId, some.slice(start, start + AT_ONCE), reading.deadline);
    }
    for (const { claims } of stored) {
      this.#requireNewest(claims, reading.readAfter);
      this.#parts.alerts.clear('tenant-corrupt', subjectOf(claims.tenantId));
    }
    return stored.map(({ claims }) => tenantRecord(claims));
  }

  /** As {@link TenantSeals.verify}, of one. */
  async verifyOne(stored: StoredTenant, reading: Reading): Promise<TenantRecord> {
    const [tenant] = await this.verify([stored], reading);
    if (tenant === undefined) throw new Error('nothing was verified');
    return tenant;
  }

  /**
   * Throws TENANT_CORRUPT if a tenant was verified here under a name that no row has any more: rows
   * of tenants stay for ever.
   */
  requireNeverSeen(name: string): void {
    const tenantId = this.#ids.get(name);
    if (tenantId !== undefined) throw this.#corrupt({ tenantId, name }, 'its row is gone');
  }

  /**
   * Has an agent draw the UUID of a tenant that is to be made, and say that it goes with the name.
   * Throws TOKEN_KEY_NOT_READY, and what agents throw.
   */
  async newTenant({ deadline }: Pick<Call, 'deadline'>, name: string): Promise<NewTenant> {
    const { agents, sealKeys } = this.#parts;
    const sealKeyId = sealKeys.currentSealKey();
    const reply = await agents.call('nameTenant', { sealKeyId, name }, deadline);
    const { tenantId } = reply;
    const [content, seal] = [Buffer.from(reply.content), Buffer.from(reply.seal)];
    return { tenantId, named: { content, sealKeyId, seal } };
  }

  /** For one change, which begins now: of a tenant, or one that makes it. */
  sealer(call: Pick<Call, 'deadline'>, made?: NewTenant): TenantSealer {
    const readAfter = this.now();
    const soon = () => Math.min(call.deadline, monotonicNow() + CHANGE_MS);
    let before = made?.named;
    return {
      verify: async (stored) => {
        const verified = await this.verifyOne(stored, { readAfter, deadline: soon() });
        before = this.#sealedContent(stored);
        return verified;
      },
      sealKey: sealKeyFrom(this.#parts.sealKeys, soon),
      seal: async (claims, sealKeyId) => {
        const content = encodeTenantState(claims);
        const request = { sealKeyId, kind: RECORD.tenant, before, content, warrant: undefined };
        const { seal } = await this.#parts.agents.call('sealRecordChange', request, soon());
        return Buffer.from(seal);
      },
    };
  }

  /** Returns what shows which UUID the tenant's name has. Throws RESOURCE_NOT_FOUND. */
  async evidenceOf(
    { deadline }: Pick<Call, 'deadline'>,
    { tenantId }: Pick<TenantClaims, 'tenantId'>,
  ): Promise<SealedContent> {
    const stored = await findTenant(this.#parts.store, { deadline }, tenantId);
    const sealed = stored && this.#sealedContent(stored);
    if (sealed === undefined) throw new KeywardError('RESOURCE_NOT_FOUND');
    return sealed;
  }

  #sealedContent({ claims, sealKeyId, seal }: StoredTenant): SealedContent | undefined {
    if (sealKeyId === null || seal === null) return undefined;
    return { content: this.#encode(claims), sealKeyId, seal };
  }

  async #verifySome(
    sealKeyId: SealKeyId,
    stored: readonly StoredTenant[],
    deadline: number,
  ): Promise<void> {
    const items = stored.map(({ claims, seal }) => ({
      content: this.#encode(claims),
      seal: seal as Buffer,
    }));
    const request = { sealKeyId, kind: RECORD.tenant, items };
    const { verified } = await this.#parts.agents.call('verifyRecords', request, deadline);
    const bad = stored.find((_, index) => verified[index] !== 1);
    if (bad === undefined) return;
    await this.#requireHeld(sealKeyId, deadline);
    throw this.#corrupt(bad.claims, 'its seal does not match');
  }

  /**
   * Throws TOKEN_KEY_NOT_READY for a seal key that is in use and that no agent here has: it says
   * nothing against a row.
   */
  async #requireHeld(sealKeyId: SealKeyId, deadline: number): Promise<void> {
    const { store, agents } = this.#parts;
    if (agents.held.some((id) => id === `${sealKeyId}`)) return;
    if (await isSealKeyInUse(store, { deadline }, sealKeyId))
      throw new KeywardError('TOKEN_KEY_NOT_READY');
  }

  #encode(claims: TenantClaims): Buffer {
    try {
      return encodeTenantState(claims);
    } catch (error) {
      if (error instanceof RangeError) throw this.#corrupt(claims, error.message);
      throw error;
    }
  }

  #requireNewest(claims: TenantClaims, readAfter: Moment): void {
    const { tenantId, name, revision } = claims;
    const known = this.#ids.get(name);
    if (known !== undefined && known !== tenantId)
      throw this.#corrupt(claims, `its name was that of the tenant ${known}`);
    this.#ids.set(name, tenantId);
    const seen = this.#seen.get(tenantId);
    if (seen !== undefined && seen.at < readAfter && revision < seen.revision)
      throw this.#corrupt(
        claims,
        `its revision is ${revision}, and it was ${seen.revision} before`,
      );
    if (seen === undefined || revision > seen.revision)
      this.#seen.set(tenantId, { revision, at: this.now() });
  }

  #corrupt({ tenantId, name }: Pick<TenantClaims, 'tenantId' | 'name'>, why: string): KeywardError {
    const detail = `tenant ${JSON.stringify(name)}, ${tenantId}: ${why}`;
    this.#parts.alerts.raise('tenant-corrupt', subjectOf(tenantId), { detail });
    return new KeywardError('TENANT_CORRUPT', {
      metadata: { tenant: name },
      cause: new Error(detail),
    });
  }
}

/** What alerts about a tenant’s record are about. */
function subjectOf(tenantId: TenantId): string {
  return `tenant ${tenantId}`;
}
