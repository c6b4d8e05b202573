/**
 * What the database knows of its environment: its UUID, the token's profile and its objects.
 *
 * UUID and profile are written by the owner's role alone, once; the service only reads them. What a profile says is the HSM
 * side's matter; what becomes of token objects, `token-objects.ts`'.
 */
import { isDeepStrictEqual } from 'node:util';
import { monotonicNow } from '../call.ts';
import type { EnvironmentId, TenantId } from '../ids.ts';
import type { OwnerConnection } from './owner.ts';
import type { Deadline, Store } from './store.ts';
import {
  type Query,
  selectTokenObjects,
  type TokenObjectRecord,
  type TokenObjectRole,
} from './token-objects.ts';
import { selectTokens, type TokenRecord } from './tokens.ts';

const READ_MS = 5_000;

export interface EnvironmentRecord {
  readonly environmentId: EnvironmentId;
  /** The reserved tenant `system`. */
  readonly systemTenantId: TenantId;
  /** As `token init` recorded it; null before. */
  readonly tokenProfile: unknown;
  /** All tenants' in the current token, oldest first. */
  readonly tokenObjects: readonly TokenObjectRecord[];
  readonly currentToken: TokenRecord;
  /** All of them, oldest first. */
  readonly tokens: readonly TokenRecord[];
}

const SELECT_ENVIRONMENT = `SELECT e.environment_id, e.token_profile, t.tenant_id
  FROM environment e, tenants t WHERE t.name = 'system'`;

interface EnvironmentRow {
  environment_id: EnvironmentId;
  token_profile: unknown;
  tenant_id: TenantId;
}

async function read(query: Query, lock = ''): Promise<EnvironmentRecord> {
  const [row] = await query<EnvironmentRow>(SELECT_ENVIRONMENT + lock);
  if (row === undefined) throw new Error('The database has lost its environment or the tenant system.');
  const tokens = await selectTokens(query);
  const currentToken = tokens.find(({ state }) => state === 'CURRENT');
  if (currentToken === undefined) throw new Error('The database has lost its current token.');
  const objects = await selectTokenObjects(query);
  return {
    environmentId: row.environment_id,
    systemTenantId: row.tenant_id,
    tokenProfile: row.token_profile,
    tokenObjects: objects.filter(({ tokenId }) => tokenId === currentToken.tokenId),
    currentToken,
    tokens,
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
    /** What tells the token from others. */
    readonly label?: string;
    readonly serialNumber?: string;
  },
): Promise<'recorded' | 'unchanged'> {
  return owner.transaction(async () => {
    const recorded = await read((text, values) => owner.query(text, values), ' FOR UPDATE OF e');
    if (recorded.tokenObjects.length === 0 && recorded.tokenProfile === null) {
      await write(owner, recorded.systemTenantId, token);
      return 'recorded';
    }
    const name = (object: { role: string; objectId: string }) => `${object.role} ${object.objectId}`;
    if (!isDeepStrictEqual(recorded.tokenObjects.map(name).sort(), token.objects.map(name).sort())) {
      throw new Error(
        'The database names other token objects than this token has: they belong to two environments.',
      );
    }
    if (!isDeepStrictEqual(recorded.tokenProfile, JSON.parse(JSON.stringify(token.profile)))) {
      throw new Error('The database holds another token profile than this token was found to have.');
    }
    await describe(owner, token);
    return 'unchanged';
  });
}

async function write(
  owner: OwnerConnection,
  tenantId: TenantId,
  token: Parameters<typeof recordToken>[1],
): Promise<void> {
  await owner.query('UPDATE environment SET token_profile = $1', [JSON.stringify(token.profile)]);
  await describe(owner, token);
  for (const { objectId, role } of token.objects) {
    await owner.query(
      `INSERT INTO token_objects (tenant_id, object_id, role, is_current, activated_at)
       VALUES ($1, $2, $3, true, clock_timestamp())`,
      [tenantId, objectId, role],
    );
  }
}

async function describe(owner: OwnerConnection, token: Parameters<typeof recordToken>[1]): Promise<void> {
  await owner.query(
    `UPDATE tokens SET label = coalesce($1, label), serial_number = coalesce($2, serial_number), profile = $3
     WHERE state = 'CURRENT'`,
    [token.label ?? null, token.serialNumber ?? null, JSON.stringify(token.profile)],
  );
}
