/**
 * What the database knows of its environment: its UUID, the mode that it is for, the token's
 * profile and its objects.
 *
 * UUID, mode and profile are written by the owner's role alone, once; the service only reads them.
 * What a profile says is the HSM side's matter; what becomes of token objects, `token-objects.ts`'.
 */
import { isDeepStrictEqual } from 'node:util';
import { monotonicNow } from '../call.ts';
import type { EnvironmentId, SealKeyId, TenantId } from '../ids.ts';
import type { OwnerConnection } from './core/owner.ts';
import type { Deadline, Query } from './core/transaction.ts';
import {
  changeTokenKeys,
  findTokenKeySet,
  type TokenKeySealer,
  vouchForTokenKeys,
} from './hsm-token/token-key-set.ts';
import {
  selectTokenObjects,
  type TokenObjectRecord,
  type TokenObjectRole,
} from './hsm-token/token-objects.ts';
import { selectTokens, type TokenRecord } from './hsm-token/tokens.ts';
import type { Store } from './store.ts';

const READ_MS = 5_000;

/** What a server or command is run as. */
export type Mode = 'production' | 'development';

export interface EnvironmentRecord {
  readonly environmentId: EnvironmentId;
  /** The reserved tenant `system`. */
  readonly systemTenantId: TenantId;
  /**
   * As `token init` recorded it; null before, and where it was not recorded yet when that was run.
   */
  readonly mode: Mode | null;
  /** The current token's, as recorded with it; null before `token init`. */
  readonly tokenProfile: unknown;
  /** All tenants' in the current token, oldest first. */
  readonly tokenObjects: readonly TokenObjectRecord[];
  readonly currentToken: TokenRecord;
  /** All of them, oldest first. */
  readonly tokens: readonly TokenRecord[];
}

const SELECT_ENVIRONMENT = `SELECT e.environment_id, e.mode, t.tenant_id
  FROM environment e, tenants t WHERE t.name = 'system'`;

interface EnvironmentRow {
  environment_id: EnvironmentId;
  mode: Mode | null;
  tenant_id: TenantId;
}

async function read(query: Query, lock = ''): Promise<EnvironmentRecord> {
  const [row] = await query<EnvironmentRow>(SELECT_ENVIRONMENT + lock);
  if (row === undefined)
    throw new Error('cannot read the environment: the database has lost it, or the tenant system');
  const tokens = await selectTokens(query);
  const currentToken = tokens.find(({ state }) => state === 'CURRENT');
  if (currentToken === undefined)
    throw new Error('cannot read the environment: the database has lost its current token');
  const objects = await selectTokenObjects(query);
  return {
    environmentId: row.environment_id,
    systemTenantId: row.tenant_id,
    mode: row.mode,
    tokenProfile: currentToken.profile,
    tokenObjects: objects.filter(({ tokenId }) => tokenId === currentToken.tokenId),
    currentToken,
    tokens,
  };
}

/**
 * Throws DATABASE_UNAVAILABLE when Postgres doesn't answer until the call's deadline, or within 5
 * s.
 */
export function readEnvironment(
  store: Store,
  call: Deadline = { deadline: monotonicNow() + READ_MS },
): Promise<EnvironmentRecord> {
  return read((text, values) => store.query(call, text, values));
}

/**
 * As {@link readEnvironment}, for `token init`, which needs the environment's UUID before anything
 * can serve.
 */
export async function readEnvironmentAsOwner(owner: OwnerConnection): Promise<EnvironmentRecord> {
  const [table] = await owner.query(
    `SELECT FROM pg_class WHERE oid IN (to_regclass('public.environment'), to_regclass('public.tokens'))
     HAVING count(*) = 2`,
  );
  if (table === undefined)
    throw new Error(
      'cannot read the environment: the database does not have this release’s schema; run `keyward-server migrate` first',
    );
  return read((text, values) => owner.query(text, values));
}

/**
 * The mode that the environment is for; null where none is recorded, or the schema is too old to
 * have one, or there is none. For `migrate`, which comes before everything else.
 */
export async function readModeAsOwner(owner: OwnerConnection): Promise<Mode | null> {
  const [column] = await owner.query(
    `SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.environment') AND attname = 'mode'`,
  );
  if (column === undefined) return null;
  const [row] = await owner.query<{ mode: Mode | null }>('SELECT mode FROM environment');
  return row?.mode ?? null;
}

/**
 * Throws an Error, in words for the operator, when the environment is for another mode than this
 * process is run in. One without a record counts as `otherwise`.
 */
export function requireMode(
  recorded: Mode | null,
  configured: Mode,
  otherwise: Mode = 'production',
): void {
  if ((recorded ?? otherwise) === configured) return;
  const isFor =
    recorded === null
      ? 'the database records no mode for its environment, so it counts as production'
      : `the database's environment is for ${recorded}, as \`token init\` recorded`;
  throw new Error(
    `cannot use the database: ${isFor}, and KEYWARD_MODE is ${configured}. Check that DATABASE_URL and MIGRATION_DATABASE_URL name the database that ` +
      'you mean; if they do, set KEYWARD_MODE to the mode that it is for. ' +
      (recorded === null
        ? 'If it is for development, run `keyward-server token init` with KEYWARD_MODE=development once.'
        : 'An environment never changes its mode: make a new one.'),
  );
}

/**
 * Records what `token init` made, and in which mode, and seals it. Recording the same again changes
 * nothing.
 *
 * @throws Error, in words for the operator, when another mode, another profile or other objects are
 * recorded already.
 */
export function recordToken(
  owner: OwnerConnection,
  mode: Mode,
  sealer: TokenKeySealer,
  token: {
    /** Anything that JSON keeps as it is. */
    readonly profile: unknown;
    readonly objects: readonly { readonly objectId: string; readonly role: TokenObjectRole }[];
    /** What tells the token from others. */
    readonly label?: string;
    readonly serialNumber?: string;
    /** Seals what else there is from the beginning, in the same transaction. */
    readonly sealRest?: (sealKeyId: SealKeyId) => Promise<void>;
  },
): Promise<'recorded' | 'unchanged'> {
  return owner.transaction(async () => {
    const recorded = await read((text, values) => owner.query(text, values), ' FOR UPDATE OF e');
    requireMode(recorded.mode, mode, mode);
    if (recorded.tokenObjects.length === 0 && recorded.tokenProfile === null) {
      await write(owner, recorded.systemTenantId, mode, token);
      const sealKeyId = await vouchForTokenKeys({ query: owner.query }, sealer);
      await token.sealRest?.(sealKeyId);
      return 'recorded';
    }
    const name = (object: { role: string; objectId: string }) =>
      `${object.role} ${object.objectId}`;
    if (
      !isDeepStrictEqual(recorded.tokenObjects.map(name).sort(), token.objects.map(name).sort())
    ) {
      throw new Error(
        'cannot record the token: the database names other objects than the token has; the two belong to different environments',
      );
    }
    if (!isDeepStrictEqual(recorded.tokenProfile, JSON.parse(JSON.stringify(token.profile)))) {
      throw new Error(
        'cannot record the token: the database holds another profile than this token has',
      );
    }
    await owner.query('UPDATE environment SET mode = $1 WHERE mode IS NULL', [mode]);
    const { label, serialNumber } = recorded.currentToken;
    if (label === null || serialNumber === null) await describeRecorded(owner, sealer, token);
    return 'unchanged';
  });
}

async function write(
  owner: OwnerConnection,
  tenantId: TenantId,
  mode: Mode,
  token: RecordedToken,
): Promise<void> {
  await owner.query('UPDATE environment SET mode = $1, token_profile = $2', [
    mode,
    JSON.stringify(token.profile),
  ]);
  await describe(owner, token);
  for (const { objectId, role } of token.objects) {
    await owner.query(
      `INSERT INTO token_objects (tenant_id, object_id, role, is_current, activated_at)
       VALUES ($1, $2, $3, true, clock_timestamp())`,
      [tenantId, objectId, role],
    );
  }
}

type RecordedToken = Parameters<typeof recordToken>[3];

/** Notes what tells the token from others, under the seal if there is one. */
async function describeRecorded(
  owner: OwnerConnection,
  sealer: TokenKeySealer,
  token: RecordedToken,
): Promise<void> {
  const tx = { query: owner.query };
  // Without one, whoever vouches for the rest vouches for this.
  if ((await findTokenKeySet(tx))?.seal === null) return describe(owner, token);
  await changeTokenKeys(tx, sealer, async ({ keys }) => {
    await describe(owner, token);
    const current = keys.tokens.find(({ state }) => state === 'CURRENT');
    if (current === undefined) throw new Error('no token is current');
    keys.putToken({
      ...current,
      label: token.label ?? current.label,
      serialNumber: token.serialNumber ?? current.serialNumber,
    });
  });
}

async function describe(owner: OwnerConnection, token: RecordedToken): Promise<void> {
  await owner.query(
    `UPDATE tokens SET label = coalesce($1, label), serial_number = coalesce($2, serial_number), profile = $3
     WHERE state = 'CURRENT'`,
    [token.label ?? null, token.serialNumber ?? null, JSON.stringify(token.profile)],
  );
}
