/**
 * Copies of key versions under another token's keys (`moved_key_versions`), while key versions move
 * to it.
 *
 * By the owner's role alone. Invariant: a copy names the seal of the row that it is of, and takes
 * that row's place only while the row is still the same. When it does is `token-migration.ts`'s to
 * say.
 */
import type { KeyId, TenantId, TokenId } from '../../ids.ts';
import { atMost } from '../core/batches.ts';
import type { OwnerConnection } from '../core/owner.ts';
import { type KeyVersionRecord, VERSION_COLUMNS } from '../keys/key-versions.ts';
import {
  IS_AS_READ,
  type KeyVersionToRewrap,
  REWRAPPED_BATCH,
  type RewrappedKeyVersion,
  type ToRewrapRow,
  toRewrap,
  valuesOf,
} from '../lifecycle/rewrapped-key-versions.ts';
import { SYSTEM_ID } from './token-objects.ts';

/** A key version's place in the order of the primary key. */
type Place = Pick<KeyVersionRecord, 'tenantId' | 'keyId' | 'version'>;

const NIL = '00000000-0000-0000-0000-000000000000';
export const BEGINNING: Place = { tenantId: NIL as TenantId, keyId: NIL as KeyId, version: 0 };

/** The keys of token $1 that a version of `tenants t` is to come under. */
const JOIN_NEXT_KEYS = `
  JOIN token_objects next_root ON next_root.token_id = $1 AND next_root.role = 'root' AND next_root.state = 'CREATED'
    AND next_root.tenant_id = CASE WHEN t.dedicated_root_key THEN t.tenant_id
      ELSE ${SYSTEM_ID} END
  JOIN token_objects next_seal ON next_seal.token_id = $1 AND next_seal.role = 'seal' AND next_seal.state = 'CREATED'`;

/**
 * Whether `moved_key_versions m` is an up-to-date copy of `key_versions v`, under keys that are to
 * be used for its tenant.
 */
const IS_COPY = `m.tenant_id = v.tenant_id AND m.key_id = v.key_id AND m.version = v.version AND m.source_seal = v.seal
  AND EXISTS (SELECT FROM token_objects o JOIN tenants of ON of.tenant_id = v.tenant_id
    WHERE o.object_id = m.root_key_id AND o.token_id = $1 AND o.state = 'CREATED' AND o.role = 'root'
      AND o.tenant_id = CASE WHEN of.dedicated_root_key THEN of.tenant_id
        ELSE ${SYSTEM_ID} END)
  AND EXISTS (SELECT FROM token_objects o WHERE o.object_id = m.seal_key_id AND o.token_id = $1 AND o.state = 'CREATED')`;

/**
 * The next at most `size` versions behind `after`, those left out that have an up-to-date copy; and
 * the place to go on behind, undefined at the end.
 */
export async function readUncopied(
  owner: OwnerConnection,
  tokenId: TokenId,
  after: Place,
  size: number,
): Promise<{ readonly versions: readonly KeyVersionToRewrap[]; readonly last: Place | undefined }> {
  const places = await owner.query<Place & { readonly [column: string]: unknown }>(
    `SELECT tenant_id AS "tenantId", key_id AS "keyId", version FROM key_versions
     WHERE (tenant_id, key_id, version) > ($1::uuid, $2::uuid, $3) ORDER BY tenant_id, key_id, version ${atMost('$4')}`,
    [after.tenantId, after.keyId, after.version, size],
  );
  const last = places.at(-1);
  if (last === undefined) return { versions: [], last };
  const versions = await selectUncopied(
    owner,
    `(v.tenant_id, v.key_id, v.version) > ($2::uuid, $3::uuid, $4)
     AND (v.tenant_id, v.key_id, v.version) <= ($5::uuid, $6::uuid, $7)`,
    [tokenId, after.tenantId, after.keyId, after.version, last.tenantId, last.keyId, last.version],
  );
  return { versions, last };
}

/** At most `limit` versions without an up-to-date copy, wherever; reads all of the table. */
export function findUncopied(
  owner: OwnerConnection,
  tokenId: TokenId,
  limit: number,
): Promise<KeyVersionToRewrap[]> {
  return selectUncopied(owner, 'true', [tokenId], limit);
}

/**
 * Keeps copies; not of a version whose row has changed since it was read, or that was destroyed.
 * Locks rows in the order that `row-locks.ts` says.
 */
export async function writeCopies(
  owner: OwnerConnection,
  copies: readonly RewrappedKeyVersion[],
): Promise<void> {
  await owner.query(
    `INSERT INTO moved_key_versions
       (tenant_id, key_id, version, source_seal, root_key_id, wrap, wrapped, check_value, seal_key_id, seal)
     SELECT v.tenant_id, v.key_id, v.version, v.seal, b.root_key_id, b.wrap, b.wrapped, v.check_value, b.seal_key_id, b.seal
     FROM ${REWRAPPED_BATCH} JOIN key_versions v ON ${IS_AS_READ}
     ORDER BY v.tenant_id, v.key_id, v.version FOR SHARE OF v
     ON CONFLICT (tenant_id, key_id, version) DO UPDATE SET source_seal = excluded.source_seal,
       root_key_id = excluded.root_key_id, wrap = excluded.wrap, wrapped = excluded.wrapped,
       check_value = excluded.check_value, seal_key_id = excluded.seal_key_id, seal = excluded.seal`,
    valuesOf(copies),
  );
}

/**
 * How many versions there are that aren't destroyed, and how many of them have an up-to-date copy
 * for the token.
 */
export async function countCopies(
  query: OwnerConnection['query'],
  tokenId: TokenId | undefined,
): Promise<{ readonly versions: number; readonly copied: number }> {
  const [row] = await query<{ versions: number; copied: number }>(
    `SELECT count(*)::float8 AS versions,
       count(*) FILTER (WHERE EXISTS (SELECT FROM moved_key_versions m WHERE ${IS_COPY}))::float8 AS copied
     FROM key_versions v WHERE v.state <> 'DESTROYED'`,
    [tokenId ?? null],
  );
  return row ?? { versions: 0, copied: 0 };
}

/** Puts the copies in the rows' place: not of a version whose row has changed since. */
export async function placeCopies(owner: OwnerConnection, tokenId: TokenId): Promise<void> {
  await owner.query(
    `UPDATE key_versions v SET root_key_id = m.root_key_id, wrap = m.wrap, wrapped = m.wrapped,
       seal_key_id = m.seal_key_id, seal = m.seal
     FROM moved_key_versions m WHERE v.state <> 'DESTROYED' AND ${IS_COPY}`,
    [tokenId],
  );
}

/** Removes all copies. */
export async function removeCopies(owner: OwnerConnection): Promise<void> {
  await owner.query('DELETE FROM moved_key_versions');
}

/** How many versions there are that aren't destroyed, and are under other keys than the token's. */
export async function countNotUnder(owner: OwnerConnection, tokenId: TokenId): Promise<number> {
  const [row] = await owner.query<{ count: number }>(
    `SELECT count(*)::float8 AS count FROM key_versions WHERE state <> 'DESTROYED' AND NOT (
       root_key_id IN (SELECT object_id FROM token_objects WHERE token_id = $1 AND state = 'CREATED')
       AND seal_key_id IN (SELECT object_id FROM token_objects WHERE token_id = $1 AND state = 'CREATED'))`,
    [tokenId],
  );
  return row?.count ?? 0;
}

async function selectUncopied(
  owner: OwnerConnection,
  where: string,
  values: readonly unknown[],
  limit = 1_000_000,
): Promise<KeyVersionToRewrap[]> {
  const rows = await owner.query<ToRewrapRow>(
    `SELECT ${VERSION_COLUMNS}, t.name AS tenant, k.name AS key, next_root.object_id AS to_root,
       next_seal.object_id AS to_seal
     FROM key_versions v JOIN keys k ON k.tenant_id = v.tenant_id AND k.key_id = v.key_id
       JOIN tenants t ON t.tenant_id = v.tenant_id ${JOIN_NEXT_KEYS}
     WHERE v.state <> 'DESTROYED' AND ${where} AND NOT EXISTS (SELECT FROM moved_key_versions m WHERE ${IS_COPY})
     ORDER BY v.tenant_id, v.key_id, v.version LIMIT ${limit}`,
    values,
  );
  return rows.map(toRewrap);
}
