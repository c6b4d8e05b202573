/**
 * Keys and their versions, as rows.
 *
 * Every function wants a transaction that is bound to the tenant, and names the tenant besides: row-level security is
 * the second line, not the first. Row seals are neither made nor verified here.
 */
import { KeywardError } from '../errors.ts';
import type { KeyId, RootKeyId, SealKeyId, TenantId } from '../ids.ts';
import { type Condition, type FilterColumns, whereClause } from './conditions.ts';
import type { Tx } from './store.ts';

export type KeyState = 'ENABLED' | 'DISABLED';
export type KeyVersionState = 'ENABLED' | 'DISABLED';
/** Name to value. */
export type Labels = Readonly<Record<string, string>>;

/** A row of key_versions, exactly as stored: nothing in it has been verified. */
export interface KeyVersionRecord {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  /** 1, 2, … */
  readonly version: number;
  readonly state: KeyVersionState;
  readonly algorithm: number;
  readonly rootKeyId: RootKeyId;
  /** 1: RFC 3394, 2: RFC 5649. */
  readonly wrap: number;
  readonly wrapped: Buffer;
  /** 16 bytes. */
  readonly checkValue: Buffer;
  readonly sealKeyId: SealKeyId;
  /** 32 bytes. */
  readonly seal: Buffer;
  /** Counts the version's changes. */
  readonly revision: string;
  /** By the database's clock. */
  readonly createdAt: Date;
}

/** What is written of a new version; the database adds when. */
export type NewKeyVersion = Omit<KeyVersionRecord, 'createdAt' | 'revision'>;

export interface KeyRecord {
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
  readonly name: string;
  readonly state: KeyState;
  readonly description: string;
  readonly labels: Labels;
  /** Counts the changes of the key and of its set of versions. */
  readonly revision: string;
  readonly primary: KeyVersionRecord;
  /** By the database's clock. */
  readonly createdAt: Date;
}

interface VersionRow {
  tenant_id: TenantId;
  key_id: KeyId;
  version: number;
  state: KeyVersionState;
  algorithm: number;
  root_key_id: RootKeyId;
  wrap: number;
  wrapped: Buffer;
  check_value: Buffer;
  seal_key_id: SealKeyId;
  seal: Buffer;
  revision: string;
  created_at: Date;
}

interface KeyRow extends VersionRow {
  name: string;
  key_state: KeyState;
  description: string;
  labels: Labels;
  key_revision: string;
  key_created_at: Date;
}

const VERSION_COLUMNS = `v.tenant_id, v.key_id, v.version, v.state, v.algorithm, v.root_key_id, v.wrap, v.wrapped,
  v.check_value, v.seal_key_id, v.seal, v.revision, v.created_at`;

const SELECT_KEYS = `SELECT k.name, k.state AS key_state, k.description, k.labels, k.revision AS key_revision,
    k.created_at AS key_created_at, ${VERSION_COLUMNS}
  FROM keys k JOIN key_versions v
    ON v.tenant_id = k.tenant_id AND v.key_id = k.key_id AND v.version = k.primary_version`;

function fromVersionRow(row: VersionRow): KeyVersionRecord {
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
  };
}

function fromKeyRow(row: KeyRow): KeyRecord {
  return {
    tenantId: row.tenant_id,
    keyId: row.key_id,
    name: row.name,
    state: row.key_state,
    description: row.description,
    labels: row.labels,
    revision: row.key_revision,
    primary: fromVersionRow(row),
    createdAt: row.key_created_at,
  };
}

const INSERT_VERSION = `INSERT INTO key_versions
    (tenant_id, key_id, version, state, algorithm, root_key_id, wrap, wrapped, check_value, seal_key_id, seal)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`;

function versionValues(version: NewKeyVersion): unknown[] {
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

/** Adds a key with its first version as the primary. Throws RESOURCE_EXISTS when the tenant has a key of that name. */
export async function insertKey(
  tx: Tx,
  key: {
    readonly name: string;
    readonly description: string;
    readonly labels: Labels;
    readonly version: NewKeyVersion;
  },
): Promise<KeyRecord> {
  const { tenantId, keyId, version } = key.version;
  const inserted = await tx.query(
    `INSERT INTO keys (tenant_id, key_id, name, description, labels, primary_version) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (tenant_id, name) DO NOTHING
     RETURNING 1`,
    [tenantId, keyId, key.name, key.description, JSON.stringify(key.labels), version],
  );
  if (inserted.length === 0) throw new KeywardError('RESOURCE_EXISTS');
  await tx.query(INSERT_VERSION, versionValues(key.version));
  return expectKey(tx, tenantId, keyId);
}

/** The key, in a transaction that has just made, locked or changed it. */
async function expectKey(tx: Tx, tenantId: TenantId, keyId: KeyId): Promise<KeyRecord> {
  const key = await findKey(tx, tenantId, keyId);
  if (key === undefined) throw new Error('a key of this transaction is gone');
  return key;
}

export async function findKeyByName(
  tx: Tx,
  tenantId: TenantId,
  name: string,
): Promise<KeyRecord | undefined> {
  const [row] = await tx.query<KeyRow>(`${SELECT_KEYS} WHERE k.tenant_id = $1 AND k.name = $2`, [
    tenantId,
    name,
  ]);
  return row && fromKeyRow(row);
}

export async function findKey(tx: Tx, tenantId: TenantId, keyId: KeyId): Promise<KeyRecord | undefined> {
  const [row] = await tx.query<KeyRow>(`${SELECT_KEYS} WHERE k.tenant_id = $1 AND k.key_id = $2`, [
    tenantId,
    keyId,
  ]);
  return row && fromKeyRow(row);
}

const KEY_FILTER: FilterColumns = {
  state: () => 'k.state',
  labels: (member) => `k.labels ->> ${member}`,
};

/** At most `limit` keys by name, in the order of its bytes, beginning behind `after`. */
export async function listKeys(
  tx: Tx,
  tenantId: TenantId,
  page: { readonly after?: string; readonly limit: number; readonly conditions?: readonly Condition[] },
): Promise<KeyRecord[]> {
  const values: unknown[] = [tenantId, page.after ?? '', page.limit];
  const where = whereClause(page.conditions ?? [], KEY_FILTER, values);
  const rows = await tx.query<KeyRow>(
    `${SELECT_KEYS} WHERE k.tenant_id = $1 AND k.name > $2${where} ORDER BY k.name LIMIT $3`,
    values,
  );
  return rows.map(fromKeyRow);
}

/**
 * Keeps everyone else from changing the key until the transaction ends; returns it as it then is, and its highest
 * version (which isn't the primary if rolled back to an older one).
 */
export async function lockKey(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
): Promise<{ readonly key: KeyRecord; readonly highestVersion: number } | undefined> {
  // In a statement of its own: after waiting for the lock, Postgres would join the key as it became with the versions
  // as they were before, and find no row.
  await tx.query('SELECT 1 FROM keys WHERE tenant_id = $1 AND key_id = $2 FOR UPDATE', [tenantId, keyId]);
  const key = await findKey(tx, tenantId, keyId);
  if (key === undefined) return undefined;
  return { key, highestVersion: await findHighestVersion(tx, tenantId, keyId) };
}

/** The number of the key's newest version; 0 when there is none. */
export async function findHighestVersion(tx: Tx, tenantId: TenantId, keyId: KeyId): Promise<number> {
  const [row] = await tx.query<{ highest: number }>(
    'SELECT coalesce(max(version), 0) AS highest FROM key_versions WHERE tenant_id = $1 AND key_id = $2',
    [tenantId, keyId],
  );
  return row?.highest ?? 0;
}

/** Adds a version and makes it the primary. Throws CONFLICT when the key has a version of that number. */
export async function insertPrimaryVersion(tx: Tx, version: NewKeyVersion): Promise<KeyRecord> {
  const updated = await tx.query(
    `WITH inserted AS (${INSERT_VERSION} ON CONFLICT DO NOTHING RETURNING 1)
     UPDATE keys SET primary_version = $3, revision = revision + 1 FROM inserted
     WHERE keys.tenant_id = $1 AND keys.key_id = $2
     RETURNING 1`,
    versionValues(version),
  );
  if (updated.length === 0) throw new KeywardError('CONFLICT');
  return expectKey(tx, version.tenantId, version.keyId);
}

/** Changes a key that this transaction has locked; what isn't given stays. */
export async function updateKey(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  changes: { readonly state?: KeyState; readonly description?: string; readonly labels?: Labels },
): Promise<KeyRecord> {
  await tx.query(
    `UPDATE keys SET state = coalesce($3, state), description = coalesce($4, description),
       labels = coalesce($5, labels), revision = revision + 1
     WHERE tenant_id = $1 AND key_id = $2`,
    [tenantId, keyId, changes.state, changes.description, changes.labels && JSON.stringify(changes.labels)],
  );
  return expectKey(tx, tenantId, keyId);
}

/** Sets the state of a version whose key this transaction has locked. */
export async function setVersionState(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  version: number,
  state: KeyVersionState,
): Promise<void> {
  await tx.query(
    `UPDATE key_versions SET state = $4, revision = revision + 1
     WHERE tenant_id = $1 AND key_id = $2 AND version = $3`,
    [tenantId, keyId, version, state],
  );
  await tx.query('UPDATE keys SET revision = revision + 1 WHERE tenant_id = $1 AND key_id = $2', [
    tenantId,
    keyId,
  ]);
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

const VERSION_FILTER: FilterColumns = { state: () => 'v.state' };

/** At most `limit` versions, newest first, beginning below `before`. */
export async function listVersions(
  tx: Tx,
  tenantId: TenantId,
  keyId: KeyId,
  page: { readonly before?: number; readonly limit: number; readonly conditions?: readonly Condition[] },
): Promise<KeyVersionRecord[]> {
  const values: unknown[] = [tenantId, keyId, page.before, page.limit];
  const where = whereClause(page.conditions ?? [], VERSION_FILTER, values);
  const rows = await tx.query<VersionRow>(
    `SELECT ${VERSION_COLUMNS} FROM key_versions v
     WHERE v.tenant_id = $1 AND v.key_id = $2 AND v.version < coalesce($3::bigint, 2147483648)${where}
     ORDER BY v.version DESC LIMIT $4`,
    values,
  );
  return rows.map(fromVersionRow);
}
