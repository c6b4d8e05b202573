/**
 * What the database knows of its environment: its UUID, the token's profile and the objects that `token init` made, with
 * how much is kept under them.
 *
 * Written by the owner's role alone, once; the service only reads it. What a profile says is the HSM side's matter.
 */
import { isDeepStrictEqual } from 'node:util';
import { monotonicNow } from '../call.ts';
import type { EnvironmentId, TenantId } from '../ids.ts';
import type { OwnerConnection } from './owner.ts';
import type { Deadline, Store } from './store.ts';

const READ_MS = 5_000;

export type TokenObjectRole = 'root' | 'seal' | 'mask' | 'audit-signing';

export interface TokenObjectRecord {
  /** The object's CKA_ID, as a UUID's text. */
  readonly objectId: string;
  readonly role: TokenObjectRole;
  /** Whether it is the one for new things; others only serve what they were used for before. */
  readonly isCurrent: boolean;
}

export interface EnvironmentRecord {
  readonly environmentId: EnvironmentId;
  /** The reserved tenant `system`. */
  readonly systemTenantId: TenantId;
  /** As `token init` recorded it; null before. */
  readonly tokenProfile: unknown;
  /** Those that all tenants share. */
  readonly tokenObjects: readonly TokenObjectRecord[];
}

const SELECT_ENVIRONMENT = `SELECT e.environment_id, e.token_profile, t.tenant_id
  FROM environment e, tenants t WHERE t.name = 'system'`;

const SELECT_OBJECTS = `SELECT object_id, role, is_current FROM token_objects
  WHERE tenant_id = $1 ORDER BY created_at, role, object_id`;

interface EnvironmentRow {
  environment_id: EnvironmentId;
  token_profile: unknown;
  tenant_id: TenantId;
}

interface ObjectRow {
  object_id: string;
  role: TokenObjectRole;
  is_current: boolean;
}

type Query = <Row extends object>(text: string, values?: readonly unknown[]) => Promise<Row[]>;

async function read(query: Query, lock = ''): Promise<EnvironmentRecord> {
  const [row] = await query<EnvironmentRow>(SELECT_ENVIRONMENT + lock);
  if (row === undefined) throw new Error('The database has lost its environment or the tenant system.');
  const objects = await query<ObjectRow>(SELECT_OBJECTS, [row.tenant_id]);
  return {
    environmentId: row.environment_id,
    systemTenantId: row.tenant_id,
    tokenProfile: row.token_profile,
    tokenObjects: objects.map((object) => ({
      objectId: object.object_id,
      role: object.role,
      isCurrent: object.is_current,
    })),
  };
}

/** Throws DATABASE_UNAVAILABLE when Postgres doesn't answer until the call's deadline, or within 5 s. */
export function readEnvironment(
  store: Store,
  call: Deadline = { deadline: monotonicNow() + READ_MS },
): Promise<EnvironmentRecord> {
  return read((text, values) => store.query(call, text, values));
}

/** As {@link readEnvironment}, for `token init`, which needs the environment's UUID before anything can serve. */
export function readEnvironmentAsOwner(owner: OwnerConnection): Promise<EnvironmentRecord> {
  return read((text, values) => owner.query(text, values));
}

/**
 * Records what `token init` made. Recording the same again changes nothing.
 *
 * @throws Error, in words for the operator, when another profile or other objects are recorded already.
 */
export function recordToken(
  owner: OwnerConnection,
  token: {
    /** Anything that JSON keeps as it is. */
    readonly profile: unknown;
    readonly objects: readonly { readonly objectId: string; readonly role: TokenObjectRole }[];
  },
): Promise<'recorded' | 'unchanged'> {
  return owner.transaction(async () => {
    const recorded = await read((text, values) => owner.query(text, values), ' FOR UPDATE OF e');
    const current = recorded.tokenObjects.filter((object) => object.isCurrent);
    if (current.length === 0 && recorded.tokenProfile === null) {
      await write(owner, recorded.systemTenantId, token);
      return 'recorded';
    }
    const name = (object: { role: string; objectId: string }) => `${object.role} ${object.objectId}`;
    if (!isDeepStrictEqual(current.map(name).sort(), token.objects.map(name).sort())) {
      throw new Error(
        'The database names other token objects than this token has: they belong to two environments.',
      );
    }
    if (!isDeepStrictEqual(recorded.tokenProfile, JSON.parse(JSON.stringify(token.profile)))) {
      throw new Error('The database holds another token profile than this token was found to have.');
    }
    return 'unchanged';
  });
}

async function write(
  owner: OwnerConnection,
  tenantId: TenantId,
  token: Parameters<typeof recordToken>[1],
): Promise<void> {
  await owner.query('UPDATE environment SET token_profile = $1', [JSON.stringify(token.profile)]);
  for (const { objectId, role } of token.objects) {
    await owner.query(
      'INSERT INTO token_objects (tenant_id, object_id, role, is_current) VALUES ($1, $2, $3, true)',
      [tenantId, objectId, role],
    );
  }
}

/**
 * How many key versions are wrapped under each root key, by its id, in all tenants; those that are destroyed aside, since
 * nothing is wrapped in them any more.
 */
export function countByRootKey(store: Store, call: Deadline): Promise<ReadonlyMap<string, number>> {
  return store.reconcile(call, async (tx) => {
    // The reconciler walks indexes; this reads the whole table, which no index makes shorter.
    await tx.query('SET LOCAL enable_seqscan = on');
    const rows = await tx.query<{ root_key_id: string; versions: number }>(
      `SELECT root_key_id, count(*)::float8 AS versions FROM key_versions
       WHERE state <> 'DESTROYED' GROUP BY root_key_id`,
    );
    return new Map(rows.map((row) => [row.root_key_id, row.versions]));
  });
}
