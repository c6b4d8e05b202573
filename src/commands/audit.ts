/**
 * Runs the `audit` commands of the database's owner.
 *
 * - It reads their settings and prints their outcome; `audit/operation.ts` does the work.
 */
import { openKeptCheckpoint } from '../audit/kept-checkpoint.ts';
import { type AuditOperation, dropExported, resumeLog } from '../audit/operation.ts';
import { ConfigurationError, read } from '../config.ts';
import { readKeptCheckpoint } from '../hsm/token-commands.ts';
import { withOwnerConnection } from '../store/core/owner.ts';
import { type EnvironmentRecord, readEnvironmentAsOwner } from '../store/environment.ts';
import { agentEnvironment, OPERATOR, recordedToken, TOKEN_SETTINGS } from './opening.ts';

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
    resumeLog(operation, [
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

function readCheckpointInToken(environment: EnvironmentRecord): Promise<string | undefined> {
  const settings = read([...TOKEN_SETTINGS, 'KEYWARD_HSM_KEY_CACHE'], process.env);
  const keyCacheSize = settings.KEYWARD_HSM_KEY_CACHE;
  return readKeptCheckpoint(
    { ...recordedToken(settings, environment), keyCacheSize },
    agentEnvironment(settings),
  );
}

function onAuditLog<T>(
  work: (operation: AuditOperation, environment: EnvironmentRecord) => Promise<T>,
): Promise<T> {
  const settings = read(['MIGRATION_DATABASE_URL', 'KEYWARD_DATABASE_CA_FILE'], process.env);
  const { MIGRATION_DATABASE_URL: url, KEYWARD_DATABASE_CA_FILE: caFilePath } = settings;
  return withOwnerConnection(url, caFilePath, async (owner) => {
    const environment = await readEnvironmentAsOwner(owner);
    const { environmentId, systemTenantId } = environment;
    return work({ owner, environmentId, systemTenantId, caller: OPERATOR }, environment);
  });
}
