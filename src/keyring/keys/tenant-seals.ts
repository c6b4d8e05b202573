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
import type { Call, SealedContent } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import { encodeTenantState } from '../../hsm/tenant-state.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { TenantId } from '../../ids.ts';
import { Lru } from '../../lru.ts';
import {
  changeDeadline,
  type Moment,
  NewestRevisions,
  type Reading,
  sealsMatch,
} from '../../sealed-rows.ts';
import type { Alerts } from '../../signals/alerts.ts';
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

/** Of so many tenants name and revision are remembered: 10 MB or so. */
const REMEMBERED = 50_000;

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

/** Verifies and makes the seals of tenants. */
export class TenantSeals {
  readonly #parts: TenantSealsParts;
  readonly #newest = new NewestRevisions<TenantId>(REMEMBERED);
  readonly #ids = new Lru<string, TenantId>(REMEMBERED);

  constructor(parts: TenantSealsParts) {
    this.#parts = parts;
  }

  /**
   * To be asked for before rows are read that are verified then: what is seen only later says
   * nothing against them.
   */
  now(): Moment {
    return this.#newest.now();
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
    const rows = stored.map((each) => this.#sealedRow(each));
    const matches = await sealsMatch(this.#parts, RECORD.tenant, rows, reading.deadline);
    for (const [index, { claims }] of stored.entries()) {
      if (!matches[index]) throw this.#corrupt(claims, 'its seal does not match');
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
    const soon = () => changeDeadline(call);
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

  #sealedRow(stored: StoredTenant): SealedContent {
    const sealed = this.#sealedContent(stored);
    if (sealed === undefined) throw this.#corrupt(stored.claims, 'it is not sealed');
    return sealed;
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
    const problem = this.#newest.note(tenantId, revision, readAfter);
    if (problem !== undefined) throw this.#corrupt(claims, problem);
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
