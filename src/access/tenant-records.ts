/**
 * Loads sealed records of tenants, verifies them, and keeps them in memory: one of a kind for each
 * tenant, as its policy.
 *
 * - A record that fails verification, or is older than one that this replica has applied, is never
 *   applied.
 * - A change drops its record at once, even while it is being loaded.
 * - A replica that no longer receives changes answers nothing from here; nor is a record kept for
 *   longer than its age unless the database still has its revision (`keyring/keys/cache-age.ts`).
 * - What a record means is its kind's to know.
 */
import { monotonicNow } from '../call.ts';
import { KeywardError, type Reason } from '../errors.ts';
import type { RecordKind } from '../hsm/record-seal.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { SealKeyId, TenantId } from '../ids.ts';
import { type CacheFigures, Lru } from '../lru.ts';
import { sealMatches } from '../sealed-rows.ts';
import type { AlertId, Alerts } from '../signals/alerts.ts';
import type { Query } from '../store/core/transaction.ts';
import type { Remembered } from '../store/revisions.ts';
import type { Store } from '../store/store.ts';
import type { VerifiedTenant } from '../store/tenants/tenants.ts';

/** How long a load may take; each call that waits for it still ends at its own deadline. */
const LOAD_MS = 5_000;
/**
 * How soon a record that failed verification is verified again, so that its callers cannot keep the
 * HSM busy.
 */
const CORRUPT_MS = 1_000;

export interface TenantRecordsParts {
  readonly store: Pick<Store, 'readAlone' | 'query'>;
  readonly agents: Pick<Agents, 'call' | 'held'>;
  /** Returns whether this replica receives changes. */
  readonly isFresh: () => boolean;
  /** How many are remembered. */
  readonly limit: number;
  readonly alerts: Alerts;
}

/** Identifies a tenant whose seal was verified: no record is asked for by another's name. */
export type TenantIdentity = VerifiedTenant;

/** A record as the database has it, not verified. */
interface SealedRow {
  /** Absent where there was never anything. */
  readonly sealed?: {
    /** Counts the record's changes. */
    readonly revision: bigint;
    readonly sealKeyId: SealKeyId;
    readonly seal: Buffer;
  };
}

/** One kind of record: where it is kept, what its seal covers, and what it becomes in memory. */
export interface TenantRecordKind<Row extends SealedRow, Value> {
  /** As the feed of changes names it. */
  readonly kind: Remembered['kind'];
  readonly record: RecordKind;
  /** What is raised about the tenant, and thrown, where a record fails verification. */
  readonly alert: AlertId;
  readonly corrupt: Reason;
  find(tx: { readonly query: Query }, tenantId: TenantId): Promise<Row>;
  /** Whether a record without a seal says nothing. */
  isEmpty(row: Row): boolean;
  /** Returns the revision that the tenant's own row says its record has at least. */
  leastRevision(tenant: TenantIdentity): bigint;
  contentOf(tenantId: TenantId, revision: bigint, row: Row): Buffer;
  /** Returns what a verified record means; `revision` is 0 where there is none. */
  valueOf(tenant: TenantIdentity, revision: bigint, row: Row): Value;
}

/** Loads tenants' records of one kind, verifies them, and keeps them in memory. */
export class TenantRecords<Row extends SealedRow, Value extends { readonly revision: bigint }> {
  readonly #parts: TenantRecordsParts;
  readonly #kind: TenantRecordKind<Row, Value>;
  readonly #records: Lru<TenantId, Promise<Value>>;
  /** What loads have found, of which tenant. */
  readonly #found = new WeakMap<object, { tenant: TenantIdentity; value: Value }>();
  /** The newest revision of each that was applied here. */
  readonly #newest = new Map<TenantId, bigint>();

  constructor(parts: TenantRecordsParts, kind: TenantRecordKind<Row, Value>) {
    this.#parts = parts;
    this.#kind = kind;
    this.#records = new Lru(parts.limit);
  }

  /**
   * Returns the tenant's record, at once where it is in memory. Rejects with the kind's reason for
   * a corrupt one, TOKEN_KEY_NOT_READY, REPLICA_STALE, and what the store and the agents throw.
   */
  of(tenant: TenantIdentity): Value | Promise<Value> {
    if (!this.#parts.isFresh()) return Promise.reject(new KeywardError('REPLICA_STALE'));
    const loading = this.#records.get(tenant.tenantId) ?? this.#load(tenant);
    return this.#found.get(loading)?.value ?? loading;
  }

  /**
   * Returns the record that `read` reads from the database, if it verifies. Throws the kind's
   * reason for a corrupt one, and what `read` and the agents throw.
   */
  async verified<Read extends Row>(
    tenant: TenantIdentity,
    deadline: number,
    read: () => Promise<Read>,
  ): Promise<{ readonly value: Value; readonly record: Read }> {
    const { tenantId, name } = tenant;
    const { alert, corrupt } = this.#kind;
    // As of before it is read: a newer one may be obeyed meanwhile.
    const newest = this.#newest.get(tenantId) ?? 0n;
    const record = await read();
    const revision = record.sealed?.revision ?? 0n;
    const problem =
      revision < newest
        ? 'its revision is older than one read before'
        : revision < this.#kind.leastRevision(tenant)
          ? 'its revision is older than the tenant’s row has it'
          : (await this.#isSealed(tenantId, record, deadline))
            ? undefined
            : 'its seal does not match';
    if (problem !== undefined) {
      this.#parts.alerts.raise(alert, name, { tenant: name, problem });
      throw new KeywardError(corrupt);
    }
    this.#parts.alerts.clear(alert, name);
    if (revision > (this.#newest.get(tenantId) ?? 0n)) this.#newest.set(tenantId, revision);
    return { value: this.#kind.valueOf(tenant, revision, record), record };
  }

  /** How many records are kept, and how often one was asked for. */
  get figures(): CacheFigures {
    return this.#records.figures;
  }

  /** Forgets a tenant's record; the next use reads it again. */
  forget(tenantId: TenantId): void {
    this.#records.delete(tenantId);
  }

  /** Forgets everything but how new it was. */
  clear(): void {
    this.#records.clear();
  }

  /** Returns what is loaded, at this moment. */
  *remembered(): Iterable<Remembered> {
    const { kind } = this.#kind;
    for (const entry of this.#records.values()) {
      const found = this.#found.get(entry);
      if (found === undefined) continue;
      const { tenantId } = found.tenant;
      yield { kind, tenantId, subjectId: tenantId, revision: found.value.revision, entry };
    }
  }

  /** Returns whether it still has this very record. */
  keeps({ tenantId, entry }: Remembered): boolean {
    return this.#records.peek(tenantId) === entry;
  }

  /** Reads a record again that was forgotten. Throws as {@link TenantRecords.of}. */
  async reload({ entry }: Remembered): Promise<void> {
    const found = this.#found.get(entry);
    if (found !== undefined) await this.of(found.tenant);
  }

  /**
   * Reads and verifies a record beside the one that is kept. Throws as {@link TenantRecords.of}.
   */
  async verifyAgain({ entry }: Remembered): Promise<void> {
    const found = this.#found.get(entry);
    if (found !== undefined) await this.#read(found.tenant);
  }

  async #read(tenant: TenantIdentity): Promise<Value> {
    const { tenantId } = tenant;
    const deadline = monotonicNow() + LOAD_MS;
    const read = () =>
      this.#parts.store.readAlone({ deadline }, tenantId, (tx) => this.#kind.find(tx, tenantId));
    return (await this.verified(tenant, deadline, read)).value;
  }

  #load(tenant: TenantIdentity): Promise<Value> {
    const { tenantId } = tenant;
    const loading = this.#read(tenant);
    this.#records.set(tenantId, loading);
    loading.then(
      (value) => this.#found.set(loading, { tenant, value }),
      () => {},
    );
    loading.catch((error: unknown) => {
      const forget = () => {
        if (this.#records.get(tenantId) === loading) this.#records.delete(tenantId);
      };
      const isCorrupt = error instanceof KeywardError && error.reason === this.#kind.corrupt;
      if (isCorrupt) setTimeout(forget, CORRUPT_MS).unref();
      else forget();
    });
    return loading;
  }

  async #isSealed(tenantId: TenantId, row: Row, deadline: number): Promise<boolean> {
    const { sealed } = row;
    const { record: kind, isEmpty, contentOf } = this.#kind;
    if (sealed === undefined) return isEmpty(row);
    const { revision, sealKeyId, seal } = sealed;
    const content = contentOf(tenantId, revision, row);
    return sealMatches(this.#parts, kind, { content, sealKeyId, seal }, deadline);
  }
}
