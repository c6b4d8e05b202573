/**
 * Databases for the store's tests: each one new, migrated or empty, on the cluster that
 * KEYWARD_TEST_POSTGRES_URL names.
 *
 * Knows how to reach it as superuser, owner and service; the cluster trusts local connections or
 * has one password.
 */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { type Call, monotonicNow } from '../../src/call.ts';
import { type AnyId, newId, type RootKeyId, type SealKeyId, type TenantId } from '../../src/ids.ts';
import { migrate } from '../../src/store/core/migrate.ts';
import type { MutationTx, Tx } from '../../src/store/core/transaction.ts';
import type { TokenKeySealer } from '../../src/store/hsm-token/token-key-set.ts';
import { changeStates, type StateSealer } from '../../src/store/keys/key-seals.ts';
import type { NewKeyVersion } from '../../src/store/keys/key-versions.ts';
import {
  insertPrimaryVersion,
  type KeyRecord,
  type KeySettings,
} from '../../src/store/keys/keys.ts';
import { Store, type StoreOptions } from '../../src/store/store.ts';
import { createTenant, type TenantSealer } from '../../src/store/tenants/tenant-seals.ts';
import { type TenantRecord, tenantRecord } from '../../src/store/tenants/tenants.ts';

/** The release that the tests run as. */
export const RELEASE = '0.2.0';

function clusterUrl(): string {
  const url = process.env['KEYWARD_TEST_POSTGRES_URL'];
  if (url === undefined) throw new Error('KEYWARD_TEST_POSTGRES_URL names no cluster');
  return url;
}

/** Who owns the schema in these tests. */
export const OWNER = 'store_test_owner';
/** Who serves in these tests: a member of keyward_service. */
export const SERVICE = 'store_test_service';
const PASSWORD = 'store-test';
/** The database that migrated ones are copies of. */
const MIGRATED = 'store_test_migrated';

/** A database of a test's own. */
export interface TestDatabase extends AsyncDisposable {
  readonly name: string;
  /** The database's URL for a role of these tests; for the superuser unless named. */
  url(role?: string): string;
  /** Runs SQL as the superuser, one connection for each call. */
  sql<Row extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>;
  /** Opens a store as {@link SERVICE}; closing it is the test's affair. */
  open(options?: Partial<StoreOptions>): Promise<Store>;
}

/** Runs SQL on a connection of its own. */
export async function runSql<Row extends pg.QueryResultRow>(
  url: string,
  text: string,
  values?: unknown[],
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query<Row>(text, values)).rows;
  } finally {
    await client.end();
  }
}

function urlOf(database: string, role?: string): string {
  const url = new URL(clusterUrl());
  url.pathname = `/${database}`;
  if (role !== undefined) {
    url.username = role;
    url.password = PASSWORD;
  }
  return url.href;
}

/** Once they are made, by this process or another, they are there for good. */
let roles: Promise<void> | undefined;

/**
 * Makes the roles that the tests log in as. They are their own, as the cluster's may have passwords
 * that aren't known here: an owner, and a member of keyward_service.
 */
function ensureRoles(): Promise<void> {
  roles ??= makeRoles();
  return roles;
}

async function makeRoles(): Promise<void> {
  const statements = [
    'CREATE ROLE keyward_service LOGIN NOINHERIT',
    'CREATE ROLE keyward_reconciler NOLOGIN',
    'ALTER ROLE keyward_service NOINHERIT',
    'GRANT keyward_reconciler TO keyward_service',
    `CREATE ROLE ${OWNER} LOGIN PASSWORD '${PASSWORD}'`,
    `CREATE ROLE ${SERVICE} LOGIN PASSWORD '${PASSWORD}' IN ROLE keyward_service`,
  ];
  for (const statement of statements) {
    await runSql(clusterUrl(), statement).catch((error: unknown) => {
      const code = error instanceof pg.DatabaseError ? error.code : undefined;
      // XX000: another process does the very same at this moment.
      if (code !== '42710' && code !== '23505' && code !== 'XX000') throw error;
    });
  }
}

/** A new database that belongs to {@link OWNER}, without a schema. */
export async function emptyDatabase(): Promise<TestDatabase> {
  await ensureRoles();
  return createDatabase();
}

async function createDatabase(template = 'template1'): Promise<TestDatabase> {
  const name = `store_${randomUUID().replaceAll('-', '')}`;
  await runSql(clusterUrl(), `CREATE DATABASE ${name} OWNER ${OWNER} TEMPLATE ${template}`);
  const url = (role?: string) => urlOf(name, role);
  return {
    name,
    url,
    sql: (text, values) => runSql(url(), text, values),
    open: (options) =>
      Store.open({
        url: url(SERVICE),
        poolSize: 4,
        waitMs: 300,
        release: RELEASE,
        onError: () => {},
        ...options,
      }),
    [Symbol.asyncDispose]: async () => {
      await runSql(clusterUrl(), `DROP DATABASE ${name} WITH (FORCE)`);
    },
  };
}

/** A new database with the schema, which {@link OWNER} has migrated. */
export async function migratedDatabase(): Promise<TestDatabase> {
  await ensureRoles();
  await ensureMigrated();
  return createDatabase(MIGRATED);
}

/** Makes the database that others are copies of, unless another process has: migrating costs. */
async function ensureMigrated(): Promise<void> {
  const client = new pg.Client({ connectionString: clusterUrl() });
  await client.connect();
  try {
    await client.query('SELECT pg_advisory_lock(hashtext($1))', [MIGRATED]);
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [
      MIGRATED,
    ]);
    if (rowCount !== 0) return;
    const { name, url } = await createDatabase();
    await migrate({ url: url(OWNER), log: () => {} });
    await client.query(`ALTER DATABASE ${name} RENAME TO ${MIGRATED}`);
  } finally {
    await client.end();
  }
}

/** Makes a role of a test's own, with that clause, and returns its name and how to be rid of it. */
export async function newRole(
  clause: string,
): Promise<{ readonly name: string } & AsyncDisposable> {
  const name = `store_test_${randomUUID().replaceAll('-', '')}`;
  await runSql(clusterUrl(), `CREATE ROLE ${name} LOGIN PASSWORD '${PASSWORD}' ${clause}`);
  return {
    name,
    [Symbol.asyncDispose]: async () => {
      await runSql(clusterUrl(), `DROP ROLE ${name}`);
    },
  };
}

/** A call that may take `milliseconds`. */
export function callOf(milliseconds = 60_000): Call {
  return {
    id: randomUUID(),
    method: 'keyward.v1.Test/Call',
    caller: 'tester',
    deadline: monotonicNow() + milliseconds,
  };
}

/** The id of the reserved tenant. */
export async function systemTenant(database: TestDatabase): Promise<TenantId> {
  const [row] = await database.sql<{ tenant_id: TenantId }>(
    "SELECT tenant_id FROM tenants WHERE name = 'system'",
  );
  if (row === undefined) throw new Error('no tenant system');
  return row.tenant_id;
}

/** Takes every tenant for one that verifies. */
export const SAMPLE_TENANT_SEALER: TenantSealer = {
  verify: ({ claims }) => Promise.resolve(tenantRecord(claims)),
  seal: () => Promise.resolve(SAMPLE_SEAL),
  sealKey: () => Promise.resolve(SAMPLE_KEYS.seal as unknown as SealKeyId),
};

/** Adds a tenant by the store's door, in a database with {@link recordSampleKeys}. */
export function insertTenant(
  tx: Tx,
  tenant: Pick<TenantRecord, 'tenantId' | 'name' | 'dedicatedRootKey'>,
): Promise<TenantRecord> {
  return createTenant(tx, tenant, SAMPLE_TENANT_SEALER);
}

/** The token keys that {@link sampleVersion} is under. */
const SAMPLE_KEYS = { root: newId<AnyId>(), seal: newId<AnyId>() };

/** Records those as the ones that all tenants share, unless they are. */
export async function recordSampleKeys(database: TestDatabase): Promise<void> {
  for (const [role, objectId] of Object.entries(SAMPLE_KEYS)) {
    await database.sql(
      `INSERT INTO token_objects (tenant_id, object_id, role, is_current) VALUES ($1, $2, $3, true)
       ON CONFLICT DO NOTHING`,
      [await systemTenant(database), objectId, role],
    );
  }
}

/** A new tenant, made behind the store's back, in a database with {@link recordSampleKeys}. */
export async function newTenant(database: TestDatabase, name: string): Promise<TenantId> {
  const tenantId = newId<TenantId>();
  await recordSampleKeys(database);
  await database.sql(
    'INSERT INTO tenants (tenant_id, name, seal_key_id, seal) VALUES ($1, $2, $3, $4)',
    [tenantId, name, SAMPLE_KEYS.seal, SAMPLE_SEAL],
  );
  return tenantId;
}

/** Settings of a key that nobody has set anything of. */
export const SETTINGS: KeySettings = {
  description: '',
  labels: {},
  rotationPeriodSeconds: null,
  nextRotationAt: null,
  rotationUsageLimit: null,
  maintenancePaused: false,
  derivationEpoch: null,
};

/** A version's row that the schema accepts; nothing in it was made by an HSM. */
export function sampleVersion(
  tenantId: TenantId,
  keyId: NewKeyVersion['keyId'],
  version = 1,
): NewKeyVersion {
  return {
    tenantId,
    keyId,
    version,
    state: 'ENABLED',
    algorithm: 1,
    rootKeyId: SAMPLE_KEYS.root as unknown as RootKeyId,
    wrap: 1,
    wrapped: Buffer.alloc(72, version),
    checkValue: Buffer.alloc(16, version),
    sealKeyId: SAMPLE_KEYS.seal as unknown as SealKeyId,
    seal: Buffer.alloc(32, version),
  };
}

/** The seal of a sample's state; no HSM made it. */
export const SAMPLE_SEAL: Buffer = Buffer.alloc(32, 7);

/** Takes every seal for one that verifies. */
export const SAMPLE_SEALER: StateSealer = {
  verify: () => Promise.resolve(),
  seal: () => Promise.resolve(SAMPLE_SEAL),
  sealKey: () => Promise.resolve(SAMPLE_KEYS.seal as unknown as SealKeyId),
};

/** The same, of token keys. */
export const SAMPLE_TOKEN_SEALER: TokenKeySealer = {
  verify: () => Promise.resolve(),
  seal: () => Promise.resolve(SAMPLE_SEAL),
};

/** Makes a sample the key's primary. */
export function addSamplePrimary(tx: MutationTx, version: NewKeyVersion): Promise<KeyRecord> {
  return changeStates(tx, version, SAMPLE_SEALER, (stateTx) =>
    insertPrimaryVersion(stateTx, version),
  );
}
