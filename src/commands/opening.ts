/**
 * Opens what several commands need: settings, the database as service or owner, and the token.
 *
 * - It turns settings into what stores and agents are opened with.
 * - No command touches an environment of another mode, or without a recorded token.
 */
import { userInfo } from 'node:os';
import { POLICIES } from '../access/stale-policies.ts';
import { ALERT_SILENCES } from '../alerts/silences.ts';
import { PENDING_OPERATIONS } from '../approvals/stale-operations.ts';
import { PASSKEYS } from '../approvals/stale-passkeys.ts';
import { APPROVAL_RULES } from '../approvals/stale-rules.ts';
import { newReplicaId } from '../audit/identity.ts';
import { type Configuration, ConfigurationError, TOKEN_SETTINGS } from '../config.ts';
import { TokenRefused } from '../hsm/agent-pool.ts';
import type { ServeSettings } from '../hsm/protocol.ts';
import { deriveWriterKey } from '../hsm/token-commands.ts';
import type { TokenProfile } from '../hsm/token-profile.ts';
import { CANARIES } from '../keyring/canaries/canary-seal.ts';
import { tokenObjectsOf } from '../keyring/hsm-token/token-objects.ts';
import { MAINTENANCE } from '../keyring/seals/maintenance-seal.ts';
import { KEY_STATES, TENANTS } from '../keyring/seals/reseal.ts';
import { type OwnerConnection, withOwnerConnection } from '../store/core/owner.ts';
import {
  type EnvironmentRecord,
  readEnvironmentAsOwner,
  requireMode,
} from '../store/environment.ts';
import { Store } from '../store/store.ts';
import { openingAgents } from './agents-opening.ts';
import { RELEASE } from './release.ts';

/** Names who runs a command, in audit entries. */
export const OPERATOR = `operator ${userName()}`;
/** Lists the kinds of sealed records besides key versions. */
export const SEALED_RECORDS = [
  TENANTS,
  KEY_STATES,
  POLICIES,
  MAINTENANCE,
  CANARIES,
  ALERT_SILENCES,
  APPROVAL_RULES,
  PASSKEYS,
  PENDING_OPERATIONS,
] as const;

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    // Containers run as users that no account is made for.
    return `uid ${process.getuid?.()}`;
  }
}

/** Lists the settings that a change of the token needs. */
export const OWNER_TOKEN_SETTINGS = [
  'KEYWARD_MODE',
  'MIGRATION_DATABASE_URL',
  'KEYWARD_DATABASE_CA_FILE',
  ...TOKEN_SETTINGS,
] as const;

/** Lists the settings that a look at the token needs. */
export const REPORT_SETTINGS = [
  'DATABASE_URL',
  'KEYWARD_DATABASE_CA_FILE',
  'KEYWARD_DATABASE_POOL',
  'KEYWARD_DATABASE_WAIT_MS',
  'KEYWARD_HSM_KEY_CACHE',
  ...TOKEN_SETTINGS,
] as const;

/** Opens the database as the service's role. Throws what {@link Store.open} throws. */
export function openStore(
  settings: Configuration<
    | 'DATABASE_URL'
    | 'KEYWARD_DATABASE_CA_FILE'
    | 'KEYWARD_DATABASE_POOL'
    | 'KEYWARD_DATABASE_WAIT_MS'
  >,
  onError: (error: Error) => void,
): Promise<Store> {
  return Store.open({
    url: settings.DATABASE_URL,
    ...caFile(settings),
    poolSize: settings.KEYWARD_DATABASE_POOL,
    waitMs: settings.KEYWARD_DATABASE_WAIT_MS,
    release: RELEASE,
    onError,
  });
}

/**
 * Runs `work` as the database's owner, whose audit entries the token proves. Throws Error if the
 * environment is for another mode than the configured one.
 */
export function asOwner<T>(
  settings: Configuration<
    | 'KEYWARD_MODE'
    | 'MIGRATION_DATABASE_URL'
    | 'KEYWARD_DATABASE_CA_FILE'
    | (typeof TOKEN_SETTINGS)[number]
  >,
  work: (owner: OwnerConnection, environment: EnvironmentRecord) => Promise<T>,
): Promise<T> {
  const {
    MIGRATION_DATABASE_URL: url,
    KEYWARD_DATABASE_CA_FILE: caFilePath,
    KEYWARD_MODE: mode,
  } = settings;
  return withOwnerConnection(url, caFilePath, async (owner) => {
    const environment = await readEnvironmentAsOwner(owner);
    requireMode(environment.mode, mode);
    await proveEntries(owner, settings, environment);
    return work(owner, environment);
  });
}

/**
 * Has the current token prove the entries that a command writes. Where the command is for another
 * token they have no proof, and the log records that in their place: it says so.
 */
export async function proveEntries(
  owner: OwnerConnection,
  settings: Configuration<(typeof TOKEN_SETTINGS)[number]>,
  environment: EnvironmentRecord,
): Promise<void> {
  const replicaId = newReplicaId();
  try {
    const token = recordedToken(environment);
    const derived = await deriveWriterKey(token, openingAgents(settings), replicaId);
    owner.proveBy({ replicaId, ...derived });
  } catch (error) {
    // Another try with a wrong PIN might lock the token.
    if (!(error instanceof TokenRefused) || error.isPinRejected) throw error;
    process.stderr.write(
      `warning: the audit log will report the entries of this command as unproven: ${error.message}\n`,
    );
  }
}

/** Returns the file with the CA of the database's certificate, if one is configured. */
export function caFile(settings: Configuration<'KEYWARD_DATABASE_CA_FILE'>): {
  readonly caFile?: string;
} {
  return settings.KEYWARD_DATABASE_CA_FILE === undefined
    ? {}
    : { caFile: settings.KEYWARD_DATABASE_CA_FILE };
}

/** Returns the token as it is recorded. Throws {@link ConfigurationError} if it is not. */
export function recordedToken(
  environment: EnvironmentRecord,
): Omit<ServeSettings, 'despiteFailedTry' | 'keyCacheSize'> {
  const { environmentId, tokenProfile, tokenObjects } = environment;
  requireRecorded(environment);
  return {
    environmentId,
    profile: tokenProfile as TokenProfile,
    objects: tokenObjectsOf(tokenObjects),
  };
}

/** Throws {@link ConfigurationError} if no token is recorded. */
export function requireRecorded({ tokenProfile }: EnvironmentRecord): void {
  if (tokenProfile !== null) return;
  throw new ConfigurationError(
    'cannot use the token: the database records none; run `keyward-server token init` first',
  );
}
