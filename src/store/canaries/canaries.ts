/**
 * Canaries and suspensions, as rows, and the one seal over all of them.
 *
 * Invariants:
 * - all rows and their seal are read in one statement, so that they are of one moment;
 * - who changes any has locked the row of the seal.
 *
 * Nothing that is read here has been verified. What a canary's record holds, and what the seal is
 * computed over, isn't known here.
 */
import { KeywardError } from '../../errors.ts';
import type { AnyId, KeyId, SealKeyId, TenantId } from '../../ids.ts';
import type { Query, Tx } from '../core/transaction.ts';
import { onlyRowSeal } from '../hsm-token/only-row-seal.ts';
import { findCurrentSealKey, holdSealKey } from '../hsm-token/token-objects.ts';

/** A canary as it is kept. */
export interface CanaryRow {
  readonly tenantId: TenantId;
  /** The last part of its name. */
  readonly canaryId: string;
  /** What its record is bound to. */
  readonly uid: AnyId;
  readonly keyId: KeyId;
  /** The version that it was made under, and its record with it. */
  readonly version: number;
  /** Encrypted. */
  readonly record: Buffer;
}

/** A caller that is refused. */
export interface SuspensionRow {
  readonly tenantId: TenantId;
  /** The last part of its name. */
  readonly suspensionId: string;
  /** As audit entries name it. */
  readonly caller: string;
  /** The canary that it wanted opened, by the last part of its name; empty where there was none. */
  readonly canaryId: string;
  /** The call by which it did. */
  readonly requestId: string;
  readonly description: string;
  /** By the database's clock, in milliseconds. */
  readonly createdAt: Date;
  readonly creator: string;
}

/** What of some tenants there is. */
export interface CanaryRows {
  readonly canaries: readonly CanaryRow[];
  readonly suspensions: readonly SuspensionRow[];
}

/** The row of the seal. */
export interface CanarySeal {
  /** Counts the changes of all tenants. */
  readonly revision: bigint;
  /** Of each tenant that has rows, by its UUID, the digest of them, base64. */
  readonly digests: Readonly<Record<string, string>>;
  /** Both null where nothing was ever changed. */
  readonly sealKeyId: SealKeyId | null;
  readonly seal: Buffer | null;
}

/** All rows, or those that a tenant's transaction sees, with the seal; undefined without that. */
export type StoredCanaries = CanaryRows & { readonly sealed: CanarySeal | undefined };

interface Row {
  revision: string | null;
  digests: Record<string, string>;
  seal_key_id: SealKeyId | null;
  seal: Buffer | null;
  canaries: (Omit<CanaryRow, 'record'> & { readonly record: string })[];
  suspensions: (Omit<SuspensionRow, 'createdAt'> & { readonly createdAt: number })[];
}

const SELECT_ALL = `SELECT s.revision, s.digests, s.seal_key_id, s.seal,
    (SELECT coalesce(json_agg(c), '[]')
     FROM (SELECT tenant_id AS "tenantId", canary_id AS "canaryId", uid, key_id AS "keyId", version,
             encode(record, 'base64') AS record FROM canaries) c) AS canaries,
    (SELECT coalesce(json_agg(x), '[]')
     FROM (SELECT tenant_id AS "tenantId", suspension_id AS "suspensionId", caller,
             canary_id AS "canaryId", request_id AS "requestId", description,
             (extract(epoch FROM created_at) * 1000)::float8 AS "createdAt", creator
           FROM suspensions) x) AS suspensions
  FROM (SELECT 1) one LEFT JOIN canary_seals s ON true`;

/** Returns what the transaction sees of it: by the reconciler, of all tenants. */
export async function findCanaries(tx: { readonly query: Query }): Promise<StoredCanaries> {
  const [row] = await tx.query<Row & Record<string, unknown>>(SELECT_ALL);
  if (row === undefined) throw new Error('a query for canaries returned no row');
  const { revision, digests, seal_key_id: sealKeyId, seal } = row;
  return {
    sealed:
      revision === null ? undefined : { revision: BigInt(revision), digests, sealKeyId, seal },
    canaries: row.canaries.map((each) => ({
      ...each,
      record: Buffer.from(each.record, 'base64'),
    })),
    suspensions: row.suspensions.map((each) => ({ ...each, createdAt: new Date(each.createdAt) })),
  };
}

/**
 * Keeps everyone else from changing any until the transaction ends. Returns what there then is of
 * the tenant that it is bound to, and the time.
 */
export async function lockCanaries(tx: Tx): Promise<StoredCanaries & { readonly now: Date }> {
  // In a statement of its own: one that had to wait would read what was there before.
  const [row] = await tx.query<{ now: Date }>(
    `SELECT date_trunc('milliseconds', clock_timestamp()) AS now FROM canary_seals FOR UPDATE`,
  );
  return { ...(await findCanaries(tx)), now: row?.now ?? new Date(Number.NaN) };
}

/** Throws RESOURCE_EXISTS when the id is taken. */
export async function insertCanary(tx: Tx, canary: CanaryRow): Promise<void> {
  const inserted = await tx.query(
    `INSERT INTO canaries (tenant_id, canary_id, uid, key_id, version, record)
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING 1`,
    [canary.tenantId, canary.canaryId, canary.uid, canary.keyId, canary.version, canary.record],
  );
  if (inserted.length === 0) throw new KeywardError('RESOURCE_EXISTS');
}

/** Deletes a canary, if it is there. */
export async function deleteCanary(tx: Tx, tenantId: TenantId, canaryId: string): Promise<void> {
  await tx.query('DELETE FROM canaries WHERE tenant_id = $1 AND canary_id = $2', [
    tenantId,
    canaryId,
  ]);
}

/** Throws RESOURCE_EXISTS when the caller is suspended in the tenant. */
export async function insertSuspension(tx: Tx, suspension: SuspensionRow): Promise<void> {
  const inserted = await tx.query(
    `INSERT INTO suspensions
       (tenant_id, suspension_id, caller, canary_id, request_id, description, created_at, creator)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING 1`,
    [
      suspension.tenantId,
      suspension.suspensionId,
      suspension.caller,
      suspension.canaryId,
      suspension.requestId,
      suspension.description,
      suspension.createdAt.toISOString(),
      suspension.creator,
    ],
  );
  if (inserted.length === 0) throw new KeywardError('RESOURCE_EXISTS');
}

/** Deletes a suspension, if it is there. */
export async function deleteSuspension(
  tx: Tx,
  tenantId: TenantId,
  suspensionId: string,
): Promise<void> {
  await tx.query('DELETE FROM suspensions WHERE tenant_id = $1 AND suspension_id = $2', [
    tenantId,
    suspensionId,
  ]);
}

/**
 * Puts the seal of what this transaction has locked and changed. The seal key stays current until
 * the transaction ends. Throws TOKEN_KEY_NOT_READY where it isn't.
 */
export async function writeCanarySeal(
  tx: Tx,
  { revision, digests, sealKeyId, seal }: CanarySeal & { readonly sealKeyId: SealKeyId },
): Promise<void> {
  if (!(await holdSealKey(tx, sealKeyId))) throw new KeywardError('TOKEN_KEY_NOT_READY');
  await tx.query(
    'UPDATE canary_seals SET revision = $1, digests = $2, seal_key_id = $3, seal = $4',
    [revision.toString(), JSON.stringify(digests), sealKeyId, seal],
  );
}

/** How the seal comes under another seal key. */
export const CANARIES_SEAL = onlyRowSeal('canary_seals');

/** The seal, under a seal key that was replaced. */
export interface StaleCanarySeal {
  readonly sealed: CanarySeal;
  /** The current seal key. */
  readonly sealKeyId: SealKeyId;
}

/** Returns the seal, if it is under that key. With the reconciler's rights, or the owner's. */
export async function readStaleCanarySeal(
  query: Query,
  former: SealKeyId,
): Promise<StaleCanarySeal | undefined> {
  const { sealed } = await findCanaries({ query });
  const sealKeyId = await findCurrentSealKey(query);
  if (sealed === undefined || sealed.sealKeyId !== former || sealKeyId === undefined)
    return undefined;
  return { sealed, sealKeyId };
}
