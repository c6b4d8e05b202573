/**
 * Key versions, as rows.
 *
 * Every function wants a transaction that is bound to the tenant, and names the tenant besides:
 * row-level security is the second line, not the first. Row seals are neither made nor verified
 * here.
 */
import type { KeyId, RootKeyId, SealKeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { type Condition, type FilterColumns, whereClause } from '../core/conditions.ts';
import type { Tx } from '../core/transaction.ts';
import type { LifecycleState } from './key-states.ts';
import type { StateTx } from './state-draft.ts';

/** A row of key_versions, exactly as stored: nothing in it has been verified. */
export interface KeyVersionRecord {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  /** 1, 2, … */
  readonly version: number;
  readonly state: LifecycleState;
  readonly algorithm: number;
  readonly rootKeyId: RootKeyId;
  /** 1: RFC 3394, 2: RFC 5649. */
  readonly wrap: number;
  /** Empty once it is destroyed. */
  readonly wrapped: Buffer;
  /** 16 bytes. */
  readonly checkValue: Buffer;
  readonly sealKeyId: SealKeyId;
  /** 32 bytes. */
  readonly seal: Buffer;
  /** Counts the version's changes. */
  readonly revision: string;
  /** By the database's clock, as all times here. */
  readonly createdAt: Date;
  /** When it is, or was, to be destroyed. */
  readonly destroyAt: Date | null;
  readonly destroyedAt: Date | null;
}

/** What is written of a new version; the database adds the rest. */
export type NewKeyVersion = Omit<
  KeyVersionRecord,
  'createdAt' | 'revision' | 'destroyAt' | 'destroyedAt'
>;

/** A row that {@link VERSION_COLUMNS} select. */
export interface VersionRow {
  tenant_id: TenantId;
  key_id: KeyId;
  version: number;
  state: LifecycleState;
  algorithm: number;
  root_key_id: RootKeyId;
  wrap: number;
  wrapped: Buffer;
  check_value: Buffer;
  seal_key_id: SealKeyId;
  seal: Buffer;
  revision: string;
  created_at: Date;
  destroy_at: Date | null;
  destroyed_at: Date | null;
}

/** All columns, of `key_versions v`. */
export const VERSION_COLUMNS = `v.tenant_id, v.key_id, v.version, v.state, v.algorithm, v.root_key_id, v.wrap, v.wrapped,
  v.check_value, v.seal_key_id, v.seal, v.revision, v.created_at, v.destroy_at, v.destroyed_at`;

export function fromVersionRow(row: VersionRow): KeyVersionRecord {
  return {
    tenantId: row.tenant_id,
    keyId: row.key_id,
    version: row.version,
    state: row.state,
    algorithm: row.algorithm,
    rootKeyId: row.root_key_id,
    wrap: row.wrap,
    wrapped: row.wrapped,
    checkValue: row.check_value,
    sealKeyId: row.seal_key_id,
    seal: row.seal,
    revision: row.revision,
    createdAt: row.created_at,
    destroyAt: row.destroy_at,
    destroyedAt: row.destroyed_at,
  };
}

/**
 * Adds a version, of {@link versionValues}; part of the statements that make a key or a new
 * primary.
 */
export const INSERT_VERSION = `INSERT INTO key_versions
    (tenant_id, key_id, version, state, algorithm, root_key_id, wrap, wrapped, check_value, seal_key_id, seal)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`;

export function versionValues(version: NewKeyVersion): unknown[] {
  return [
    version.tenantId,
    version.keyId,
    version.version,
    version.state,
    version.algorithm,
    version.rootKeyId,
    version.wrap,
    version.wrapped,
    version.checkValue,
    version.sealKeyId,
    version.seal,
  ];
}

/** The number of the key's newest version; 0 when there is none. */
export async function findHighestVersion(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
): Promise<number> {
  const [row] = await tx.query<{ highest: number }>(
    'SELECT coalesce(max(version), 0) AS highest FROM key_versions WHERE tenant_id = $1 AND key_id = $2',
    [tenantId, keyId],
  );
  return row?.highest ?? 0;
}

/** How many of the key's versions aren't destroyed. */
export async function countKept(tx: Tx, tenantId: TenantId, keyId: KeyId): Promise<number> {
  const [row] = await tx.query<{ count: number }>(
    `SELECT count(*)::integer AS count FROM key_versions
     WHERE tenant_id = $1 AND key_id = $2 AND state <> 'DESTROYED'`,
    [tenantId, keyId],
  );
  return row?.count ?? 0;
}

/**
 * Changes the state of a version whose key this transaction has locked, and `destroyAt` where it is
 * given.
 */
export async function setVersionState(
  tx: StateTx,
  { tenantId, keyId, version }: Pick<KeyVersionRecord, 'tenantId' | 'keyId' | 'version'>,
  state: LifecycleState,
  destroyAt: Date | null = null,
): Promise<KeyVersionRecord> {
  await tx.query(
    `UPDATE key_versions SET state = $4, destroy_at = $5, revision = revision + 1
     WHERE tenant_id = $1 AND key_id = $2 AND version = $3`,
    [tenantId, keyId, version, state, destroyAt],
  );
  await tx.query('UPDATE keys SET revision = revision + 1 WHERE tenant_id = $1 AND key_id = $2', [
    tenantId,
    keyId,
  ]);
  tx.draft.changeVersion(version, state, destroyAt);
  const changed = await findVersion(tx, tenantId, keyId, version);
  if (changed === undefined) throw new Error('a version of this transaction is gone');
  return changed;
}

/** One version; `version` may be any number of 32 bits, as it may come out of a ciphertext. */
export async function findVersion(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  version: number,
): Promise<KeyVersionRecord | undefined> {
  const [row] = await tx.query<VersionRow>(
    `SELECT ${VERSION_COLUMNS} FROM key_versions v
     WHERE v.tenant_id = $1 AND v.key_id = $2 AND v.version = $3::bigint`,
    [tenantId, keyId, version],
  );
  return row && fromVersionRow(row);
}

/**
 * Erases what of destroyed versions was copied for another token; after the rows themselves, so
 * that a copy that was made meanwhile is seen. With the reconciler's rights.
 */
export async function eraseCopies(
  tx: Tx,
  tenantId: TenantId,
  { keyId, version }: { readonly keyId?: KeyId; readonly version?: number | null } = {},
): Promise<void> {
  await tx.query(
    `DELETE FROM moved_key_versions WHERE tenant_id = $1
       AND key_id = coalesce($2, key_id) AND version = coalesce($3, version)`,
    [tenantId, keyId ?? null, version ?? null],
  );
}

const VERSION_FILTER: FilterColumns = { state: () => 'v.state' };

/** At most `limit` versions, newest first, beginning below `before`. */
export async function listVersions(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  page: {
    readonly before?: number;
    readonly limit: number;
    readonly conditions?: readonly Condition[];
  },
): Promise<KeyVersionRecord[]> {
  const values: unknown[] = [tenantId, keyId, page.before, page.limit];
  const where = whereClause(page.conditions ?? [], VERSION_FILTER, values);
  const rows = await tx.query<VersionRow>(
    `SELECT ${VERSION_COLUMNS} FROM key_versions v
     WHERE v.tenant_id = $1 AND v.key_id = $2 AND v.version < coalesce($3::bigint, 2147483648)${where}
     ORDER BY v.version DESC ${atMost('$4')}`,
    values,
  );
  return rows.map(fromVersionRow);
}
