/**
 * Moving to another token, as rows: the next token and its objects, the copies of key versions under its keys, and the switch.
 *
 * By the owner's role alone. Invariants: a copy names the seal of the row that it is of, and takes that row's place only while
 * the row is still the same; all rows and the tokens' states change in one transaction, while nothing new can come under
 * the keys that are left; each change of a token's or object's state brings its audit entry. Knows no PIN and no key.
 */
import { randomUUID } from 'node:crypto';
import type { AnyId, KeyId, RootKeyId, SealKeyId, TenantId, TokenId } from '../ids.ts';
import { insertAuditEntry } from './audit.ts';
import { fromVersionRow, type KeyVersionRecord, VERSION_COLUMNS, type VersionRow } from './key-versions.ts';
import type { OwnerConnection } from './owner.ts';
import type { RewrappedKeyVersion } from './stale-key-versions.ts';
import { SILENCE, type TokenObjectRole } from './token-objects.ts';

/** Who moves, by which command, for the audit log. */
export interface Operator {
  readonly caller: string;
  readonly method: string;
}

/** A key version that has no up-to-date copy, and what its copy is to be under. */
export interface UncopiedKeyVersion {
  readonly record: KeyVersionRecord;
  /** The last parts of its key's name. */
  readonly tenant: string;
  readonly key: string;
  readonly rootKeyId: RootKeyId;
  readonly sealKeyId: SealKeyId;
}

/** A key version's place in the order of the primary key. */
export type Place = Pick<KeyVersionRecord, 'tenantId' | 'keyId' | 'version'>;

const NIL = '00000000-0000-0000-0000-000000000000';
export const BEGINNING: Place = { tenantId: NIL as TenantId, keyId: NIL as KeyId, version: 0 };

/** One command at a time, in the whole database. */
const LOCK = "hashtextextended('keyward token migrate', 0)";
/** How long the switch waits for those who are writing a version, before it is tried anew. */
const LOCK_WAIT = '10s';

/** The keys of token $1 that a version of `tenants t` is to come under. */
const JOIN_NEXT_KEYS = `
  JOIN token_objects next_root ON next_root.token_id = $1 AND next_root.role = 'root' AND next_root.state = 'CREATED'
    AND next_root.tenant_id = CASE WHEN t.dedicated_root_key THEN t.tenant_id
      ELSE (SELECT tenant_id FROM tenants WHERE name = 'system') END
  JOIN token_objects next_seal ON next_seal.token_id = $1 AND next_seal.role = 'seal' AND next_seal.state = 'CREATED'`;

/** Whether `moved_key_versions m` is an up-to-date copy of `key_versions v`, under keys that are to be used. */
const IS_COPY = `m.tenant_id = v.tenant_id AND m.key_id = v.key_id AND m.version = v.version AND m.source_seal = v.seal
  AND EXISTS (SELECT FROM token_objects o WHERE o.object_id = m.root_key_id AND o.token_id = $1 AND o.state = 'CREATED')
  AND EXISTS (SELECT FROM token_objects o WHERE o.object_id = m.seal_key_id AND o.token_id = $1 AND o.state = 'CREATED')`;

/** Returns whether no other command is moving; none begins until this connection ends. */
export async function lockMigration(owner: OwnerConnection): Promise<boolean> {
  const [row] = await owner.query<{ locked: boolean }>(`SELECT pg_try_advisory_lock(${LOCK}) AS locked`);
  return row?.locked === true;
}

/** Records the token to move to. */
export function recordNextToken(
  owner: OwnerConnection,
  operator: Operator,
  token: { readonly label: string; readonly serialNumber: string; readonly profile: unknown },
): Promise<void> {
  return owner.transaction(async () => {
    const [row] = await owner.query<{ tenant_id: TenantId; token_id: TokenId }>(
      `INSERT INTO tokens (tenant_id, state, label, serial_number, profile)
       SELECT tenant_id, 'NEXT', $1, $2, $3 FROM tenants WHERE name = 'system' RETURNING tenant_id, token_id`,
      [token.label, token.serialNumber, JSON.stringify(token.profile)],
    );
    if (row === undefined) throw new Error('The database has lost the tenant system.');
    await insertAudit(owner, operator, row.tenant_id, tokenName(row.token_id));
  });
}

/** Notes which token the current one is, where no command has before. */
export async function describeCurrentToken(
  owner: OwnerConnection,
  token: { readonly label: string; readonly serialNumber: string },
): Promise<void> {
  await owner.query(
    `UPDATE tokens SET label = $1, serial_number = $2 WHERE state = 'CURRENT' AND label IS NULL`,
    [token.label, token.serialNumber],
  );
}

/** Tenants with root keys of their own, and `system`. */
export function findRootOwners(
  owner: OwnerConnection,
): Promise<{ readonly tenantId: TenantId; readonly tenant: string }[]> {
  return owner.query(
    `SELECT tenant_id AS "tenantId", name AS tenant FROM tenants
     WHERE name = 'system' OR (dedicated_root_key AND state <> 'SHREDDED') ORDER BY created_at, name`,
  );
}

/** An object of the next token. */
export interface NextObject {
  readonly tenantId: TenantId;
  readonly tenant: string;
  readonly tokenId: TokenId;
  readonly objectId: AnyId;
  readonly role: TokenObjectRole;
}

/** Records one that is to be made. */
export function recordNextObject(
  owner: OwnerConnection,
  operator: Operator,
  object: NextObject,
): Promise<void> {
  return owner.transaction(async () => {
    await owner.query(
      `INSERT INTO token_objects (tenant_id, object_id, token_id, role, is_current, state, caller, attempt_until)
       VALUES ($1, $2, $3, $4, false, 'CREATING', $5, clock_timestamp())`,
      [object.tenantId, object.objectId, object.tokenId, object.role, operator.caller],
    );
    await insertAudit(owner, operator, object.tenantId, objectName(object));
  });
}

/** Says what became of its making. */
export function endNextObject(
  owner: OwnerConnection,
  operator: Operator,
  object: NextObject,
  state: 'CREATED' | 'ABANDONED',
): Promise<void> {
  return owner.transaction(async () => {
    await owner.query(
      `UPDATE token_objects SET state = $2, attempt_until = NULL WHERE object_id = $1 AND state = 'CREATING'`,
      [object.objectId, state],
    );
    await insertAudit(owner, operator, object.tenantId, objectName(object));
  });
}

/**
 * The next at most `size` versions behind `after`, those left out that have an up-to-date copy; and the place to go on behind,
 * undefined at the end.
 */
export async function readUncopied(
  owner: OwnerConnection,
  tokenId: TokenId,
  after: Place,
  size: number,
): Promise<{ readonly versions: readonly UncopiedKeyVersion[]; readonly last: Place | undefined }> {
  const places = await owner.query<Place & { readonly [column: string]: unknown }>(
    `SELECT tenant_id AS "tenantId", key_id AS "keyId", version FROM key_versions
     WHERE (tenant_id, key_id, version) > ($1::uuid, $2::uuid, $3) ORDER BY tenant_id, key_id, version LIMIT $4`,
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
): Promise<UncopiedKeyVersion[]> {
  return selectUncopied(owner, 'true', [tokenId], limit);
}

async function selectUncopied(
  owner: OwnerConnection,
  where: string,
  values: readonly unknown[],
  limit = 1_000_000,
): Promise<UncopiedKeyVersion[]> {
  const rows = await owner.query<
    VersionRow & { tenant: string; key: string; to_root: RootKeyId; to_seal: SealKeyId }
  >(
    `SELECT ${VERSION_COLUMNS}, t.name AS tenant, k.name AS key, next_root.object_id AS to_root,
       next_seal.object_id AS to_seal
     FROM key_versions v JOIN keys k ON k.tenant_id = v.tenant_id AND k.key_id = v.key_id
       JOIN tenants t ON t.tenant_id = v.tenant_id ${JOIN_NEXT_KEYS}
     WHERE v.state <> 'DESTROYED' AND ${where} AND NOT EXISTS (SELECT FROM moved_key_versions m WHERE ${IS_COPY})
     ORDER BY v.tenant_id, v.key_id, v.version LIMIT ${limit}`,
    values,
  );
  return rows.map((row) => ({
    record: fromVersionRow(row),
    tenant: row.tenant,
    key: row.key,
    rootKeyId: row.to_root,
    sealKeyId: row.to_seal,
  }));
}

/** Keeps copies; not of a version whose row has changed since it was read, or that was destroyed. */
export async function writeCopies(
  owner: OwnerConnection,
  copies: readonly RewrappedKeyVersion[],
): Promise<void> {
  await owner.query(
    `INSERT INTO moved_key_versions
       (tenant_id, key_id, version, source_seal, root_key_id, wrap, wrapped, check_value, seal_key_id, seal)
     SELECT v.tenant_id, v.key_id, v.version, v.seal, b.root_key_id, b.wrap, b.wrapped, v.check_value, b.seal_key_id, b.seal
     FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bytea[], $5::uuid[], $6::smallint[], $7::bytea[],
         $8::uuid[], $9::bytea[])
         AS b (tenant_id, key_id, version, seal_before, root_key_id, wrap, wrapped, seal_key_id, seal)
       JOIN key_versions v ON v.tenant_id = b.tenant_id AND v.key_id = b.key_id AND v.version = b.version
     WHERE v.seal = b.seal_before AND v.state <> 'DESTROYED'
     FOR SHARE OF v
     ON CONFLICT (tenant_id, key_id, version) DO UPDATE SET source_seal = excluded.source_seal,
       root_key_id = excluded.root_key_id, wrap = excluded.wrap, wrapped = excluded.wrapped,
       check_value = excluded.check_value, seal_key_id = excluded.seal_key_id, seal = excluded.seal`,
    [
      copies.map(({ before }) => before.tenantId),
      copies.map(({ before }) => before.keyId),
      copies.map(({ before }) => before.version),
      copies.map(({ before }) => before.seal),
      copies.map(({ after }) => after.rootKeyId),
      copies.map(({ after }) => after.wrap),
      copies.map(({ after }) => after.wrapped),
      copies.map(({ after }) => after.sealKeyId),
      copies.map(({ after }) => after.seal),
    ],
  );
}

/** How many versions there are that aren't destroyed, and how many of them have an up-to-date copy for the token. */
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

/** How many replicas run, and how many of them lack root or seal keys of the token. */
export async function countLacking(
  owner: OwnerConnection,
  tokenId: TokenId,
): Promise<{ readonly replicas: number; readonly lacking: number }> {
  const [row] = await owner.query<{ replicas: number; lacking: number }>(
    `SELECT count(*)::integer AS replicas, count(*) FILTER (WHERE NOT held @> ARRAY(
         SELECT o.object_id FROM token_objects o JOIN tenants t USING (tenant_id) WHERE o.token_id = $1
           AND o.role IN ('root', 'seal') AND o.state = 'CREATED' AND t.state <> 'SHREDDED'))::integer AS lacking
     FROM replicas WHERE seen_at > clock_timestamp() - ${SILENCE}`,
    [tokenId],
  );
  return row ?? { replicas: 0, lacking: 0 };
}

export interface Switch {
  readonly from: TokenId;
  readonly to: TokenId;
  /** At most so many versions without a copy are copied while everybody waits. */
  readonly mostLeft: number;
  /** Versions that do not verify stay under the keys of the token that is left. */
  readonly leaveBehind: boolean;
  /** Copies them, and returns those that do not verify. */
  copy(left: readonly UncopiedKeyVersion[]): Promise<readonly UncopiedKeyVersion[]>;
}

/**
 * `switched`, or why not, nothing being changed: `behind` when versions wait to be copied or keys of the next token to be made,
 * `lacking` when a replica doesn't hold those, `corrupt` when a version doesn't verify and mustn't be left behind.
 */
export type SwitchOutcome = 'switched' | 'behind' | 'lacking' | 'corrupt';

/** Puts the copies in the rows' place, and the next token in the current one's. Throws what Postgres and `copy` throw. */
export async function switchTokens(
  owner: OwnerConnection,
  operator: Operator,
  wanted: Switch,
): Promise<SwitchOutcome> {
  let outcome: SwitchOutcome = 'behind';
  await owner
    .transaction(async () => {
      outcome = await trySwitch(owner, operator, wanted);
      if (outcome !== 'switched') throw new Undo();
    })
    .catch((error: unknown) => {
      const { code } = error as { code?: unknown };
      if (!(error instanceof Undo) && !LOCKED.includes(String(code))) throw error;
    });
  return outcome;
}

/** SQLSTATEs: a lock wasn't to be had in time, or everybody waited for everybody. */
const LOCKED = ['55P03', '40P01'];

/** Has a transaction undone that has nothing wrong with it. */
class Undo extends Error {}

async function trySwitch(owner: OwnerConnection, operator: Operator, wanted: Switch): Promise<SwitchOutcome> {
  const { to } = wanted;
  await holdStill(owner);
  if (await lacksObjects(owner, to)) return 'behind';
  if ((await countLacking(owner, to)).lacking > 0) return 'lacking';
  const left = await findUncopied(owner, to, wanted.mostLeft + 1);
  if (left.length > wanted.mostLeft) return 'behind';
  const corrupt = left.length === 0 ? [] : await wanted.copy(left);
  if (corrupt.length > 0 && !wanted.leaveBehind) return 'corrupt';
  await owner.query(
    `UPDATE key_versions v SET root_key_id = m.root_key_id, wrap = m.wrap, wrapped = m.wrapped,
       seal_key_id = m.seal_key_id, seal = m.seal
     FROM moved_key_versions m WHERE v.state <> 'DESTROYED' AND ${IS_COPY}`,
    [to],
  );
  if ((await countNotUnder(owner, to)) > corrupt.length) return 'behind';
  await switchObjects(owner, operator, wanted);
  return 'switched';
}

/**
 * From here until the transaction ends no version is made or re-wrapped, and no key of a token made or replaced: whoever does
 * that holds the current keys, or changes their rows.
 */
async function holdStill(owner: OwnerConnection): Promise<void> {
  await owner.query(`SET LOCAL lock_timeout = '${LOCK_WAIT}'`);
  await owner.query('LOCK TABLE token_objects IN SHARE ROW EXCLUSIVE MODE');
  await owner.query('SELECT 1 FROM token_objects WHERE is_current ORDER BY object_id FOR UPDATE');
  await owner.query('SET LOCAL lock_timeout = 0');
}

/** Whether a key is missing in the next token that whoever has one in the current token must have. */
async function lacksObjects(owner: OwnerConnection, to: TokenId): Promise<boolean> {
  const lacking = await owner.query(
    `SELECT 1 FROM token_objects o JOIN tenants t USING (tenant_id)
     WHERE o.is_current AND t.state <> 'SHREDDED' AND NOT EXISTS (SELECT FROM token_objects n
       WHERE n.token_id = $1 AND n.tenant_id = o.tenant_id AND n.role = o.role AND n.state = 'CREATED') LIMIT 1`,
    [to],
  );
  return lacking.length > 0;
}

async function countNotUnder(owner: OwnerConnection, tokenId: TokenId): Promise<number> {
  const [row] = await owner.query<{ count: number }>(
    `SELECT count(*)::float8 AS count FROM key_versions WHERE state <> 'DESTROYED' AND NOT (
       root_key_id IN (SELECT object_id FROM token_objects WHERE token_id = $1 AND state = 'CREATED')
       AND seal_key_id IN (SELECT object_id FROM token_objects WHERE token_id = $1 AND state = 'CREATED'))`,
    [tokenId],
  );
  return row?.count ?? 0;
}

async function switchObjects(
  owner: OwnerConnection,
  operator: Operator,
  { from, to }: Pick<Switch, 'from' | 'to'>,
): Promise<void> {
  await owner.query(
    `UPDATE token_objects SET is_current = false, attempt_until = NULL,
       state = CASE WHEN is_current THEN 'RETIRED' ELSE 'ABANDONED' END,
       retired_at = CASE WHEN is_current THEN clock_timestamp() END
     WHERE token_id = $1 AND state IN ('CREATING', 'CREATED', 'CURRENT')`,
    [from],
  );
  const activated = await owner.query<{ tenantId: TenantId; tenant: string; objectId: AnyId }>(
    `UPDATE token_objects o SET is_current = true, state = 'CURRENT', activated_at = clock_timestamp() FROM tenants t
     WHERE o.token_id = $1 AND o.state = 'CREATED' AND t.tenant_id = o.tenant_id AND t.state <> 'SHREDDED'
     RETURNING o.tenant_id AS "tenantId", t.name AS tenant, o.object_id AS "objectId"`,
    [to],
  );
  // A tenant was shredded meanwhile, or a key of its own came too late to be of use.
  await owner.query(
    `UPDATE token_objects SET state = 'ABANDONED', attempt_until = NULL
     WHERE token_id = $1 AND state IN ('CREATING', 'CREATED')`,
    [to],
  );
  await owner.query(
    `UPDATE tokens SET state = 'FORMER', retired_at = clock_timestamp() WHERE token_id = $1`,
    [from],
  );
  await owner.query(
    `UPDATE tokens SET state = 'CURRENT', activated_at = clock_timestamp() WHERE token_id = $1`,
    [to],
  );
  await owner.query(
    'UPDATE environment SET token_profile = (SELECT profile FROM tokens WHERE token_id = $1)',
    [to],
  );
  await owner.query('DELETE FROM moved_key_versions');
  const [system] = await owner.query<{ tenantId: TenantId }>(
    `SELECT tenant_id AS "tenantId" FROM tenants WHERE name = 'system'`,
  );
  if (system === undefined) throw new Error('The database has lost the tenant system.');
  for (const tokenId of [from, to]) await insertAudit(owner, operator, system.tenantId, tokenName(tokenId));
  for (const object of activated) await insertAudit(owner, operator, object.tenantId, objectName(object));
  await announce(owner, to, 'versions');
  await announce(owner, to);
}

function tokenName(tokenId: TokenId): string {
  return `tenants/system/tokens/${tokenId}`;
}

function objectName({ tenant, objectId }: Pick<NextObject, 'tenant' | 'objectId'>): string {
  return `tenants/${tenant}/tokenKeys/${objectId}`;
}

async function insertAudit(
  owner: OwnerConnection,
  { caller, method }: Operator,
  tenantId: TenantId,
  resource: string,
): Promise<void> {
  const call = { id: randomUUID(), caller, method };
  await insertAuditEntry(owner, tenantId, { entryId: randomUUID(), call, resource, outcome: 'OK' });
}

/** Every replica hears that something is another with tokens' objects, or with key versions. */
export async function announce(
  owner: OwnerConnection,
  subjectId: AnyId,
  kind: 'token' | 'versions' = 'token',
): Promise<void> {
  await owner.query(
    `INSERT INTO changes (tenant_id, kind, subject_id) SELECT tenant_id, $2, $1 FROM tenants WHERE name = 'system'`,
    [subjectId, kind],
  );
}
