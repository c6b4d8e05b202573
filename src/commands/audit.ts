/**
 * Runs the `audit` commands of the database's owner.
 *
 * - It reads their settings and prints their outcome; `audit/operation.ts` does the work.
 */
import { createPublicKey } from 'node:crypto';
import { openKeptCheckpoint } from '../audit/kept-checkpoint.ts';
import { type AuditOperation, dropExported, resumeLog } from '../audit/operation.ts';
import { ConfigurationError, read, TOKEN_SETTINGS } from '../config.ts';
import type { AgentStarter } from '../hsm/agent-starter.ts';
import type { ResumeReply, ResumeSettings } from '../hsm/protocol.ts';
import { readAuditKey, readKeptCheckpoint, signResumption } from '../hsm/token-commands.ts';
import { type OwnerConnection, withOwnerConnection } from '../store/core/owner.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../store/environment.ts';
import { openingAgents } from './agents-opening.ts';
import { OPERATOR, proveEntries, recordedToken } from './opening.ts';

/** Reads something in the token, in an agent of its own. */
type ReadInToken<T> = (
  settings: Parameters<typeof readAuditKey>[0],
  starter: AgentStarter,
) => Promise<T>;

/**
 * Runs `resume`. Throws Error, in words for the operator, if no kept checkpoint contradicts the
 * log.
 */
export async function resumeAuditLog(): Promise<void> {
  const { KEYWARD_AUDIT_KEPT_CHECKPOINT: url, KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: minutes } =
    read(['KEYWARD_AUDIT_KEPT_CHECKPOINT', 'KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES'], process.env);
  if (url === undefined && minutes === undefined)
    throw new ConfigurationError(
      'cannot resume the log: neither KEYWARD_AUDIT_KEPT_CHECKPOINT nor KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES is set',
    );
  const contradiction = await onAuditLog((operation, environment) =>
    resumeLog({ ...operation, sign: (heads) => signInToken(environment, heads) }, [
      ...(url === undefined ? [] : [openKeptCheckpoint(url)]),
      ...(minutes === undefined ? [] : [{ read: () => readCheckpointInToken(environment) }]),
    ]),
  );
  process.stdout.write(`resumed the log as a new generation: ${contradiction}\n`);
}

/** Runs `drop`. Throws Error, in words for the operator, for an export of another log. */
export async function dropAuditEntries(options: {
  readonly export: string;
  readonly olderThanDays: number;
}): Promise<void> {
  const { export: folder, olderThanDays } = options;
  const dropped = await onAuditLog((operation) =>
    dropExported(operation, { folder, olderThanDays }),
  );
  process.stdout.write(
    dropped === undefined
      ? 'dropped nothing: no partition is old and exported as a whole\n'
      : `dropped entries ${dropped.firstLeafIndex} up to ${dropped.end}\n`,
  );
}

function signInToken(
  environment: EnvironmentRecord,
  heads: Pick<ResumeSettings, 'generation' | 'left' | 'from' | 'before'>,
): Promise<ResumeReply> {
  const settings = read(TOKEN_SETTINGS, process.env);
  return signResumption({ ...recordedToken(environment), ...heads }, openingAgents(settings));
}

/** Runs `public-key`. Throws Error, in words for the operator, when the token can't be opened. */
export async function printAuditKey(): Promise<void> {
  const spki = await withEnvironment((_, environment) => inToken(environment, readAuditKey));
  const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  process.stdout.write(key.export({ format: 'pem', type: 'spki' }));
}

function readCheckpointInToken(environment: EnvironmentRecord): Promise<string | undefined> {
  return inToken(environment, readKeptCheckpoint);
}

function inToken<T>(environment: EnvironmentRecord, readIn: ReadInToken<T>): Promise<T> {
  const settings = read([...TOKEN_SETTINGS, 'KEYWARD_HSM_KEY_CACHE'], process.env);
  const keyCacheSize = settings.KEYWARD_HSM_KEY_CACHE;
  return readIn({ ...recordedToken(environment), keyCacheSize }, openingAgents(settings));
}

function onAuditLog<T>(
  work: (operation: AuditOperation, environment: EnvironmentRecord) => Promise<T>,
): Promise<T> {
  const settings = read(TOKEN_SETTINGS, process.env);
  return withEnvironment(async (owner, environment) => {
    await proveEntries(owner, settings, environment);
    const { environmentId, systemTenantId } = environment;
    return work({ owner, environmentId, systemTenantId, caller: OPERATOR }, environment);
  });
}

function withEnvironment<T>(
  work: (owner: OwnerConnection, environment: EnvironmentRecord) => Promise<T>,
): Promise<T> {
  const settings = read(['MIGRATION_DATABASE_URL', 'KEYWARD_DATABASE_CA_FILE'], process.env);
  const { MIGRATION_DATABASE_URL: url, KEYWARD_DATABASE_CA_FILE: caFilePath } = settings;
  return withOwnerConnection(url, caFilePath, async (owner) =>
    work(owner, await readEnvironmentAsOwner(owner)),
  );
}
