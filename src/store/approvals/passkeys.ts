/**
 * Passkeys as rows: each with the content that was sealed, and what rows are found by.
 *
 * Invariants: a row is written only with its seal, by the seal key that is current and stays so
 * until the transaction ends; none is ever deleted. Nothing that is read here has been verified.
 */
import type { SealKeyId, TenantId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import { lockedInOrder } from '../core/row-locks.ts';
import type { Query, Tx } from '../core/transaction.ts';
import { holdSealKeys } from '../hsm-token/token-objects.ts';

/** A passkey, as its row has it. */
export interface PasskeyRow {
  readonly credentialId: Buffer;
  readonly principal: string;
  readonly isRemoved: boolean;
  readonly revision: bigint;
  /** What was sealed. */
  readonly content: Buffer;
  readonly sealKeyId: SealKeyId;
  readonly seal: Buffer;
}

interface Row {
  credential_id: Buffer;
  principal: string;
  is_removed: boolean;
  revision: string;
  content: Buffer;
  seal_key_id: SealKeyId;
  seal: Buffer;
}

const COLUMNS = `p.credential_id, p.principal, p.is_removed, p.revision::text, p.content,
  p.seal_key_id, p.seal`;

function rowOf(row: Row): PasskeyRow {
  return {
    credentialId: row.credential_id,
    principal: row.principal,
    isRemoved: row.is_removed,
    revision: BigInt(row.revision),
    content: row.content,
    sealKeyId: row.seal_key_id,
    seal: row.seal,
  };
}

/** Returns the passkey of that id, removed or not. */
export async function findPasskey(
  query: Query,
  credentialId: Buffer,
): Promise<PasskeyRow | undefined> {
  const [row] = await query<Row>(`SELECT ${COLUMNS} FROM passkeys p WHERE p.credential_id = $1`, [
    credentialId,
  ]);
  return row && rowOf(row);
}

/** As {@link findPasskey}; keeps everyone else from changing it until the transaction ends. */
export async function lockPasskey(tx: Tx, credentialId: Buffer): Promise<PasskeyRow | undefined> {
  await tx.query('SELECT FROM passkeys WHERE credential_id = $1 FOR UPDATE', [credentialId]);
  // In a statement of its own: one that had to wait would read what was there before.
  return findPasskey((text, values) => tx.query(text, values), credentialId);
}

/** Which passkeys are listed, of those that were not removed. */
export interface PasskeyList {
  /** Whose; everyone's if absent. */
  readonly principal?: string | undefined;
  /** Behind which, by the bytes of credential ids. */
  readonly after?: Buffer | undefined;
  readonly limit: number;
}

/** Returns passkeys that were not removed, ordered by their credential ids. */
export async function listPasskeys(
  query: Query,
  { principal, after, limit }: PasskeyList,
): Promise<PasskeyRow[]> {
  const rows = await query<Row>(
    `SELECT ${COLUMNS} FROM passkeys p
     WHERE NOT p.is_removed AND ($1::text IS NULL OR p.principal = $1)
       AND ($2::bytea IS NULL OR p.credential_id > $2)
     ORDER BY p.credential_id ${atMost('$3')}`,
    [principal ?? null, after ?? null, limit],
  );
  return rows.map(rowOf);
}

/** Returns how many passkeys there are that were not removed. */
export async function countPasskeys(query: Query): Promise<number> {
  const [row] = await query<{ count: number }>(
    'SELECT count(*)::integer AS count FROM passkeys WHERE NOT is_removed',
  );
  return row?.count ?? 0;
}

/**
 * Returns how many people other than `besides` have passkeys that were not removed: of those named,
 * or of all where none are.
 */
export async function countPeopleWithPasskeys(
  query: Query,
  { besides, named }: { readonly besides: string; readonly named?: readonly string[] | undefined },
): Promise<number> {
  const [row] = await query<{ count: number }>(
    `SELECT count(DISTINCT principal)::integer AS count FROM passkeys
     WHERE NOT is_removed AND principal <> $1 AND ($2::text[] IS NULL OR principal = ANY ($2))`,
    [besides, named ?? null],
  );
  return row?.count ?? 0;
}

/** Keeps everyone else from registering passkeys for a caller until the transaction ends. */
export async function lockPasskeysOf(tx: Tx, principal: string): Promise<void> {
  await tx.query("SELECT pg_advisory_xact_lock(hashtextextended('passkeys ' || $1, 0))", [
    principal,
  ]);
}

/** Adds a passkey. Returns false, having added none, where there is or was one of its id. */
export async function insertPasskey(
  tx: Tx,
  systemTenantId: TenantId,
  row: PasskeyRow,
): Promise<boolean> {
  const added = await tx.query(
    `INSERT INTO passkeys
       (tenant_id, credential_id, principal, is_removed, revision, content, seal_key_id, seal)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING 1`,
    [
      systemTenantId,
      row.credentialId,
      row.principal,
      row.isRemoved,
      row.revision.toString(),
      row.content,
      row.sealKeyId,
      row.seal,
    ],
  );
  return added.length === 1;
}

/** Writes a passkey that this transaction has locked. */
export async function updatePasskey(tx: Tx, row: Omit<PasskeyRow, 'principal'>): Promise<void> {
  await tx.query(
    `UPDATE passkeys SET is_removed = $2, revision = $3, content = $4, seal_key_id = $5, seal = $6
     WHERE credential_id = $1`,
    [
      row.credentialId,
      row.isRemoved,
      row.revision.toString(),
      row.content,
      row.sealKeyId,
      row.seal,
    ],
  );
}

/** Returns the database's time, in whole milliseconds. */
export async function decisionTime(tx: Tx): Promise<Date> {
  const [row] = await tx.query<{ now: Date }>(
    "SELECT date_trunc('milliseconds', clock_timestamp()) AS now",
  );
  if (row === undefined) throw new Error('the database tells no time');
  return row.now;
}

/** Seal keys, as `o`, that were replaced and have passkeys under them. */
const FROM_FORMER_KEYS = `FROM token_objects o WHERE o.role = 'seal' AND NOT o.is_current AND o.state <> 'DESTROYED'
  AND EXISTS (SELECT FROM passkeys p WHERE p.seal_key_id = o.object_id)`;
/** Whether {@link findFormerPasskeyKeys} finds any. */
export const HAS_STALE_PASSKEYS = `EXISTS (SELECT ${FROM_FORMER_KEYS})`;

/** Returns the seal keys that were replaced and have passkeys under them. */
export async function findFormerPasskeyKeys(query: Query): Promise<SealKeyId[]> {
  const rows = await query<{ id: SealKeyId }>(`SELECT o.object_id AS id ${FROM_FORMER_KEYS}`);
  return rows.map(({ id }) => id);
}

/** A passkey under a seal key that was replaced, and the key that is current. */
export interface StalePasskey {
  readonly row: PasskeyRow;
  readonly sealKeyId: SealKeyId;
}

/** Returns the next passkeys under a seal key that was replaced, removed ones too. */
export async function readStalePasskeys(
  query: Query,
  former: SealKeyId,
  after: Buffer | undefined,
  size: number,
): Promise<StalePasskey[]> {
  const rows = await query<Row & { to_seal: SealKeyId }>(
    `SELECT ${COLUMNS}, current_seal.object_id AS to_seal FROM passkeys p
       JOIN token_objects current_seal ON current_seal.role = 'seal' AND current_seal.is_current
     WHERE p.seal_key_id = $1 AND ($2::bytea IS NULL OR p.credential_id > $2)
     ORDER BY p.credential_id ${atMost('$3')}`,
    [former, after ?? null, size],
  );
  return rows.map((row) => ({ row: rowOf(row), sealKeyId: row.to_seal }));
}

/** Whether `passkeys p` has the seal that `b` is to replace. */
const IS_AS_BEFORE = 'p.credential_id = b.credential_id AND p.seal = b.before';
const RESEALED = lockedInOrder({
  batch:
    'unnest($1::bytea[], $2::bytea[], $3::uuid[], $4::bytea[]) AS b (credential_id, before, seal_key_id, seal)',
  primaryKey: 'credential_id',
  rows: 'passkeys p',
  where: IS_AS_BEFORE,
});

/**
 * Writes seals in the place of those that were verified, where the rows still have them. In a
 * transaction, with the rights of the reconciler or the owner. Writes nothing and returns false
 * when the seal key isn't current any more, or maintenance is paused and that counts.
 */
export async function rewritePasskeySeals(
  query: Query,
  passkeys: readonly {
    readonly before: PasskeyRow;
    readonly sealKeyId: SealKeyId;
    readonly seal: Buffer;
  }[],
  { evenIfPaused }: { readonly evenIfPaused: boolean },
): Promise<boolean> {
  if (!(await holdSealKeys(query, passkeys, evenIfPaused))) return false;
  await query(
    `WITH ${RESEALED}
     UPDATE passkeys p SET seal_key_id = b.seal_key_id, seal = b.seal FROM locked b WHERE ${IS_AS_BEFORE}`,
    [
      passkeys.map(({ before }) => before.credentialId),
      passkeys.map(({ before }) => before.seal),
      passkeys.map(({ sealKeyId }) => sealKeyId),
      passkeys.map(({ seal }) => seal),
    ],
  );
  return true;
}
