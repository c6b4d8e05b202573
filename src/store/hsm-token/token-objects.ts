/**
 * The HSM token's objects, as rows: what is recorded of each, from before it is made to after it is
 * destroyed.
 *
 * Invariants: an object is recorded before the token makes it, and no id is used twice; of a
 * tenant's objects of one role at most one is current and at most one is on its way there; a row
 * changes its state only from the one that it must have before, and where the seal of all of them
 * follows (`token-key-set.ts`). Which is current is asked for by the ids that were verified: SQL
 * that finds none of them current refuses. Not under row-level security: every replica knows all.
 * Knows no PKCS#11.
 */
import { KeywardError } from '../../errors.ts';
import type { AnyId, JobId, SealKeyId, TenantId, TokenId } from '../../ids.ts';
import { isOver } from '../core/leases.ts';
import type { Deadline, Query, Tx } from '../core/transaction.ts';
import type { NewKeyVersion } from '../keys/key-versions.ts';
import type { Store } from '../store.ts';
import type { TenantState } from '../tenants/tenants.ts';
import { isHeldByAll } from './replicas.ts';
import type { TokenKeysTx, TokenObjectRole, TokenObjectState } from './token-key-draft.ts';
import type { TokenState } from './tokens.ts';

export type { TokenObjectRole, TokenObjectState };

export interface TokenObjectRecord {
  /** `system` for what tenants share. */
  readonly tenantId: TenantId;
  readonly tenant: string;
  readonly tenantState: TenantState;
  /** The object's CKA_ID, as a UUID's text. */
  readonly objectId: AnyId;
  /** The token that it is in, and whether that serves. */
  readonly tokenId: TokenId;
  readonly tokenState: TokenState;
  readonly role: TokenObjectRole;
  readonly state: TokenObjectState;
  /** Exactly when its state is CURRENT, unless somebody has written to the database. */
  readonly isCurrent: boolean;
  /** Empty for what `token init` made. */
  readonly caller: string;
  /** By the database's clock, as all times here. */
  readonly createdAt: Date;
  readonly activatedAt: Date | null;
  readonly retiredAt: Date | null;
  readonly destroyedAt: Date | null;
  /** The job that brings key versions under it. */
  readonly jobId: JobId | null;
}

/** A row of {@link SELECT_TOKEN_OBJECTS}, whose times may come as JSON has them. */
export interface TokenObjectRow {
  tenant_id: TenantId;
  tenant: string;
  tenant_state: TenantState;
  object_id: AnyId;
  token_id: TokenId;
  token_state: TokenState;
  role: TokenObjectRole;
  state: TokenObjectState;
  is_current: boolean;
  caller: string;
  created_at: Date;
  activated_at: Date | null;
  retired_at: Date | null;
  destroyed_at: Date | null;
  job_id: JobId | null;
}

// For each of the few objects its tenant, by its UUID: joined as tables are, the planner may read
// all tenants in their order.
const WITH_TENANT = `token_objects o CROSS JOIN LATERAL (
    SELECT name, state, dedicated_root_key FROM tenants WHERE tenant_id = o.tenant_id LIMIT 1) t`;
const SELECT = `SELECT o.tenant_id, t.name AS tenant, t.state AS tenant_state, o.object_id, o.token_id,
    p.state AS token_state, o.role, o.state, o.is_current, o.caller, o.created_at, o.activated_at, o.retired_at,
    o.destroyed_at, o.job_id
  FROM ${WITH_TENANT} JOIN tokens p ON p.token_id = o.token_id`;
/** All of them, oldest first. */
export const SELECT_TOKEN_OBJECTS: string = `${SELECT} ORDER BY o.created_at, o.role, o.object_id`;

/** An attempt at making one is another's to take up after this long. */
const ATTEMPT = "interval '2 minutes'";
export function fromTokenObjectRow(row: TokenObjectRow): TokenObjectRecord {
  const at = (time: Date | null) => time && new Date(time);
  return {
    tenantId: row.tenant_id,
    tenant: row.tenant,
    tenantState: row.tenant_state,
    objectId: row.object_id,
    tokenId: row.token_id,
    tokenState: row.token_state,
    role: row.role,
    state: row.state,
    isCurrent: row.is_current,
    caller: row.caller,
    createdAt: new Date(row.created_at),
    activatedAt: at(row.activated_at),
    retiredAt: at(row.retired_at),
    destroyedAt: at(row.destroyed_at),
    jobId: row.job_id,
  };
}

/** All of them, oldest first. */
export async function selectTokenObjects(query: Query): Promise<TokenObjectRecord[]> {
  return (await query<TokenObjectRow>(SELECT_TOKEN_OBJECTS)).map(fromTokenObjectRow);
}

/** All of them, oldest first. */
export function listTokenObjects(store: Store, call: Deadline): Promise<TokenObjectRecord[]> {
  return selectTokenObjects((text, values) => store.query(call, text, values));
}

/**
 * Whether a seal key is recorded that may have sealed something: where no agent has it, that says
 * nothing against a row.
 */
export async function isSealKeyInUse(
  store: Pick<Store, 'query'>,
  call: Deadline,
  sealKeyId: SealKeyId,
): Promise<boolean> {
  const found = await store.query(
    call,
    `SELECT 1 FROM token_objects WHERE object_id = $1 AND role = 'seal' AND state IN ('CURRENT', 'RETIRED')`,
    [sealKeyId],
  );
  return found.length > 0;
}

/** Which object, of whom. */
export type NewTokenObject = Pick<TokenObjectRecord, 'tenantId' | 'objectId' | 'role' | 'caller'>;

/**
 * Records one that is to be made in the current token; the tenant's first of its role, where there
 * must be none before. Throws TOKEN_KEY_ROTATION_UNDER_WAY while another is on its way, or is the
 * first already, and RESOURCE_NOT_FOUND for a tenant that is shredded, which this one isn't until
 * the transaction ends.
 */
export async function insertTokenObject(
  tx: TokenKeysTx,
  object: NewTokenObject,
  which: 'first' | 'next',
): Promise<void> {
  const kept = await tx.query(
    `SELECT 1 FROM tenants WHERE tenant_id = $1 AND state <> 'SHREDDED' FOR SHARE`,
    [object.tenantId],
  );
  if (kept.length === 0) throw new KeywardError('RESOURCE_NOT_FOUND');
  const tokenId = tx.keys.currentToken;
  const inserted = await tx.query(
    `INSERT INTO token_objects (tenant_id, object_id, role, token_id, is_current, state, caller, attempt_until)
     SELECT $1, $2, $3, $5, false, 'CREATING', $4, clock_timestamp() + ${ATTEMPT}
     WHERE ${which === 'next'} OR NOT EXISTS (
       SELECT FROM token_objects WHERE tenant_id = $1 AND role = $3 AND is_current)
     ON CONFLICT (tenant_id, role, token_id) WHERE state IN ('CREATING', 'CREATED') DO NOTHING RETURNING 1`,
    [object.tenantId, object.objectId, object.role, object.caller, tokenId],
  );
  if (inserted.length === 0) throw new KeywardError('TOKEN_KEY_ROTATION_UNDER_WAY');
  const { tenantId, objectId, role } = object;
  tx.keys.addObject({ tenantId, objectId, role, tokenId, state: 'CREATING' });
}

/** Changes its state, if it has the one before; returns whether it had. */
export async function moveTokenObject(
  tx: TokenKeysTx,
  objectId: AnyId,
  { from, to }: { readonly from: TokenObjectState; readonly to: 'CREATED' | 'ABANDONED' },
): Promise<boolean> {
  const moved = await tx.query(
    'UPDATE token_objects SET state = $3, attempt_until = NULL WHERE object_id = $1 AND state = $2 RETURNING 1',
    [objectId, from, to],
  );
  if (moved.length > 0) tx.keys.moveObject(objectId, to);
  return moved.length > 0;
}

/**
 * Locks a CREATED one and the one that is current, and returns whether that may take this one's
 * place: once every replica that runs holds it, and no other replica has done it. Comes before
 * anything of a job is locked: who writes key versions keeps both current keys from changing first,
 * and then counts its range on.
 */
export async function lockForActivation(
  tx: TokenKeysTx,
  { tenantId, objectId, role }: Pick<TokenObjectRecord, 'tenantId' | 'objectId' | 'role'>,
): Promise<boolean> {
  const locked = await tx.query<Pick<TokenObjectRow, 'state'>>(
    `SELECT state FROM token_objects
     WHERE (object_id = $1 AND state = 'CREATED') OR (object_id = $2 AND is_current)
     ORDER BY object_id FOR UPDATE`,
    [objectId, tx.keys.currentOf(tenantId, role) ?? null],
  );
  return locked.some(({ state }) => state === 'CREATED') && (await isHeldByAll(tx, objectId));
}

/**
 * Makes one current that was locked for that, in place of the one that is. `jobId`: what brings key
 * versions under it.
 */
export async function activateTokenObject(
  tx: TokenKeysTx,
  { tenantId, objectId, role }: Pick<TokenObjectRecord, 'tenantId' | 'objectId' | 'role'>,
  jobId: JobId,
): Promise<void> {
  const replaced = tx.keys.currentOf(tenantId, role);
  if (replaced !== undefined) {
    await tx.query(
      `UPDATE token_objects SET is_current = false, state = 'RETIRED', retired_at = clock_timestamp()
       WHERE object_id = $1 AND is_current`,
      [replaced],
    );
    tx.keys.moveObject(replaced, 'RETIRED');
  }
  await tx.query(
    `UPDATE token_objects SET is_current = true, state = 'CURRENT', activated_at = clock_timestamp(), job_id = $2
     WHERE object_id = $1`,
    [objectId, jobId],
  );
  tx.keys.moveObject(objectId, 'CURRENT');
}

/** The UUID of the tenant `system`, as SQL: whose the seal key is. A name proves nothing. */
export const SYSTEM_ID = `(SELECT tenant_id FROM token_objects WHERE role = 'seal' AND is_current)`;

/**
 * The root key that a tenant's key versions are to be under, of `tenants t`, as `current_root`; and
 * the seal key.
 */
export const JOIN_CURRENT_KEYS = `
  JOIN token_objects current_root ON current_root.role = 'root' AND current_root.is_current
    AND current_root.tenant_id = CASE WHEN t.dedicated_root_key THEN t.tenant_id
      ELSE ${SYSTEM_ID} END
  JOIN token_objects current_seal ON current_seal.role = 'seal' AND current_seal.is_current`;

/**
 * Throws TOKEN_KEY_NOT_READY unless a new version is under its tenant's current root key and sealed
 * by the current seal key; they stay so until the transaction ends.
 */
export async function requireCurrentKeys(
  tx: Tx,
  { tenantId, rootKeyId, sealKeyId }: Pick<NewKeyVersion, 'tenantId' | 'rootKeyId' | 'sealKeyId'>,
): Promise<void> {
  const rows = await tx.query(
    `SELECT 1 FROM tenants t ${JOIN_CURRENT_KEYS}
     WHERE t.tenant_id = $1 AND current_root.object_id = $2 AND current_seal.object_id = $3
     FOR SHARE OF current_root, current_seal`,
    [tenantId, rootKeyId, sealKeyId],
  );
  if (rows.length === 0) throw new KeywardError('TOKEN_KEY_NOT_READY');
}

/** Keeps a seal key current until the transaction ends. Returns false where it isn't any more. */
export async function holdSealKey(tx: Tx, sealKeyId: SealKeyId): Promise<boolean> {
  const current = await tx.query(
    `SELECT 1 FROM token_objects WHERE object_id = $1 AND role = 'seal' AND is_current FOR SHARE`,
    [sealKeyId],
  );
  return current.length > 0;
}

/**
 * The current seal key, which it stays until the transaction ends: as far as is known, or as it is
 * read now. Throws what `source` throws, and TOKEN_KEY_NOT_READY.
 */
export async function holdCurrentSealKey(
  tx: Tx,
  source: { sealKey(tx?: Tx): Promise<SealKeyId | undefined> },
): Promise<SealKeyId> {
  const known = await source.sealKey();
  if (known !== undefined && (await holdSealKey(tx, known))) return known;
  // Another has become current, perhaps only while this waited for it.
  const now = await source.sealKey(tx);
  if (now !== undefined && (await holdSealKey(tx, now))) return now;
  throw new KeywardError('TOKEN_KEY_NOT_READY');
}

/** Returns the seal key that is current. */
export async function findCurrentSealKey(query: Query): Promise<SealKeyId | undefined> {
  const [row] = await query<{ id: SealKeyId }>(
    `SELECT object_id AS id FROM token_objects WHERE role = 'seal' AND is_current`,
  );
  return row?.id;
}

/**
 * Keeps seal keys current until the transaction ends. Returns false where one isn't any more, or
 * maintenance is paused and that counts.
 */
export async function holdSealKeys(
  query: Query,
  seals: readonly { readonly sealKeyId: SealKeyId }[],
  evenIfPaused: boolean,
): Promise<boolean> {
  const wanted = [...new Set(seals.map(({ sealKeyId }) => sealKeyId))];
  const current = await query(
    `SELECT 1 FROM token_objects WHERE object_id = ANY ($1::uuid[]) AND is_current
       AND ($2 OR NOT (SELECT paused FROM maintenance))
     ORDER BY object_id FOR SHARE OF token_objects`,
    [wanted, evenIfPaused],
  );
  return current.length === wanted.length;
}

/** One whose making was cut off, or that waits to be used, or that a tenant lacks. */
export type DueTokenKey =
  | ({ readonly due: 'create' | 'activate' } & TokenObjectRecord)
  | { readonly due: 'add'; readonly tenantId: TenantId; readonly tenant: string };

/**
 * Of `token_objects o`: whether it is in the token that serves. What is in the next one is the
 * command's that moves.
 */
const IS_IN_CURRENT = `o.token_id = (SELECT token_id FROM tokens WHERE state = 'CURRENT')`;
/**
 * Of `token_objects o` and their `tenants t`: whether a step is due. A shredded tenant's are no
 * longer used.
 */
const IS_DUE = `t.state <> 'SHREDDED' AND ${IS_IN_CURRENT}
  AND (o.state = 'CREATED' OR (o.state = 'CREATING' AND ${isOver('o.attempt_until', ATTEMPT)}))`;
/** Of `tenants t`: whether it is to have a root key of its own and hasn't. */
const LACKS_ROOT = `t.dedicated_root_key AND t.state <> 'SHREDDED' AND NOT EXISTS (
  SELECT FROM token_objects o WHERE o.tenant_id = t.tenant_id AND o.role = 'root'
    AND ${IS_IN_CURRENT} AND o.state IN ('CREATING', 'CREATED', 'CURRENT'))`;
/** Whether {@link findDueTokenKeys} finds anything. */
export const HAS_DUE_TOKEN_KEYS = `EXISTS (SELECT FROM ${WITH_TENANT} WHERE ${IS_DUE})
  OR EXISTS (SELECT FROM tenants t WHERE ${LACKS_ROOT})`;

/** What there is to do about token keys. */
export async function findDueTokenKeys(tx: Tx, limit: number): Promise<DueTokenKey[]> {
  const pending = await tx.query<TokenObjectRow>(`${SELECT} WHERE ${IS_DUE} LIMIT $1`, [limit]);
  const lacking = await tx.query<{ tenant_id: TenantId; tenant: string }>(
    `SELECT t.tenant_id, t.name AS tenant FROM tenants t WHERE ${LACKS_ROOT} LIMIT $1`,
    [limit],
  );
  return [
    ...pending.map((row): DueTokenKey => {
      const record = fromTokenObjectRow(row);
      return { due: record.state === 'CREATED' ? 'activate' : 'create', ...record };
    }),
    ...lacking.map(
      ({ tenant_id: tenantId, tenant }): DueTokenKey => ({ due: 'add', tenantId, tenant }),
    ),
  ];
}

/** What is under a root or seal key. */
export interface UnderTokenKey {
  /** Destroyed ones aside. */
  readonly keyVersions: number;
  /** Records that are sealed by it and are no key versions. */
  readonly sealedRecords: number;
}

/** How much is under each root and seal key, by its id, in all tenants. */
export function countUnderTokenKeys(
  store: Store,
  call: Deadline,
): Promise<ReadonlyMap<string, UnderTokenKey>> {
  return store.reconcile(call, async (tx) => {
    const rows = await tx.query<UnderTokenKey & { readonly id: string }>(
      `SELECT id, sum(versions)::float8 AS "keyVersions", sum(records)::float8 AS "sealedRecords" FROM (
         SELECT unnest(ARRAY[root_key_id, seal_key_id]) AS id, count(*) AS versions, 0 AS records FROM key_versions
         WHERE state <> 'DESTROYED' GROUP BY root_key_id, seal_key_id
         UNION ALL
         SELECT state_seal_key_id, 0, count(*) FROM keys WHERE state_seal_key_id IS NOT NULL GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM access_policies GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM tenants WHERE seal_key_id IS NOT NULL GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM maintenance WHERE seal_key_id IS NOT NULL GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM canary_seals WHERE seal_key_id IS NOT NULL GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM alert_silences WHERE seal_key_id IS NOT NULL GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM approval_rules GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM passkeys GROUP BY 1
         UNION ALL
         SELECT seal_key_id, 0, count(*) FROM pending_operations GROUP BY 1
         UNION ALL
         SELECT d.seal_key_id, 0, count(*) FROM operation_decisions d
           JOIN pending_operations USING (tenant_id, operation_id)
         WHERE ended_at IS NULL GROUP BY 1) counted
       GROUP BY 1`,
    );
    return new Map(rows.map((row) => [row.id, row]));
  });
}
