/**
 * What the seal of canaries and suspensions is computed over:
 *
 * ```
 *  content = revision (8) ‖ SHA-256(a line of JSON for each tenant that has any, by its UUID)
 *  line    = [tenant UUID, digest of the tenant, base64]
 *  digest  = SHA-256(a line of JSON for each canary, by id, then one for each suspension, by id)
 * ```
 *
 * So a change within one tenant needs that tenant's rows alone, and no row of any tenant can be
 * changed, added or taken away unseen.
 *
 * Invariant: rows that differ in anything have different lines. Holds no key: the agent computes
 * the HMAC in the token (`hsm/record-seal.ts`).
 */
import { createHash } from 'node:crypto';
import { RECORD } from '../../hsm/record-seal.ts';
import type { TenantId } from '../../ids.ts';
import {
  CANARIES_SEAL,
  type CanaryRow,
  type CanaryRows,
  type CanarySeal,
  readStaleCanarySeal,
  type StaleCanarySeal,
  type StoredCanaries,
  type SuspensionRow,
} from '../../store/canaries/canaries.ts';
import type { SealedRecords } from '../seals/reseal.ts';

/** Returns the content of the seal. */
export function canaryContent({
  revision,
  digests,
}: Pick<CanarySeal, 'revision' | 'digests'>): Buffer {
  const hash = createHash('sha256');
  for (const [tenantId, digest] of Object.entries(digests).sort(byFirst))
    hash.update(`${JSON.stringify([tenantId, digest])}\n`);
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(revision);
  return Buffer.concat([number, hash.digest()]);
}

/** Returns the digest of one tenant's rows, base64; undefined where there are none. */
export function digestOf({ canaries, suspensions }: CanaryRows): string | undefined {
  if (canaries.length + suspensions.length === 0) return undefined;
  const hash = createHash('sha256');
  const lines = [
    ...canaries.map((each) => [each.canaryId, canaryLine(each)] as const).sort(byFirst),
    ...suspensions.map((each) => [each.suspensionId, suspensionLine(each)] as const).sort(byFirst),
  ];
  for (const [, line] of lines) hash.update(`${JSON.stringify(line)}\n`);
  return hash.digest('base64');
}

/** Returns why the rows of all tenants are not what the digests say; undefined where they are. */
export function problemWithRows({ sealed, canaries, suspensions }: StoredCanaries) {
  const rows = new Map<TenantId, { canaries: CanaryRow[]; suspensions: SuspensionRow[] }>();
  const of = (tenantId: TenantId) => {
    const known = rows.get(tenantId) ?? { canaries: [], suspensions: [] };
    rows.set(tenantId, known);
    return known;
  };
  for (const each of canaries) of(each.tenantId).canaries.push(each);
  for (const each of suspensions) of(each.tenantId).suspensions.push(each);
  const digests = new Map(Object.entries(sealed?.digests ?? {}));
  const wrong = [...new Set([...rows.keys(), ...digests.keys()])].find((tenantId) => {
    const own = rows.get(tenantId as TenantId);
    return (own && digestOf(own)) !== digests.get(tenantId);
  });
  return wrong === undefined
    ? undefined
    : `rows of the tenant ${wrong} are not as they were sealed`;
}

function canaryLine({ canaryId, uid, keyId, version, record }: CanaryRow): unknown[] {
  return ['canary', canaryId, uid, keyId, version, record.toString('base64')];
}

function suspensionLine(suspension: SuspensionRow): unknown[] {
  return [
    'suspension',
    suspension.suspensionId,
    suspension.caller,
    suspension.canaryId,
    suspension.requestId,
    suspension.description,
    suspension.createdAt.getTime(),
    suspension.creator,
  ];
}

/** By the bytes of ids, which are ASCII. */
function byFirst([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** The seal, as a kind of record for `seals/reseal.ts`. */
export const CANARIES: SealedRecords<StaleCanarySeal> = {
  kind: RECORD.canaries,
  findFormer: CANARIES_SEAL.findFormerKeys,
  readStale: async (query, former, after) => {
    const row = after === undefined ? await readStaleCanarySeal(query, former) : undefined;
    if (row === undefined || row.sealed.seal === null) return [];
    const { sealed, sealKeyId } = row;
    return [
      {
        row,
        resource: 'canaries',
        content: canaryContent(sealed),
        seal: row.sealed.seal,
        sealKeyId,
      },
    ];
  },
  write: (query, seals, options) => {
    const all = seals.map(({ before, ...seal }) => ({ before: before.sealed, ...seal }));
    return CANARIES_SEAL.rewrite(query, all, options);
  },
};
