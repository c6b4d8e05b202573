/**
 * Migrates the database's schema to this release, as its owner.
 *
 * - An environment that is recorded for another mode stays unchanged. One that is not recorded yet
 *   is for any mode, since migrating comes first.
 */
import { read } from '../config.ts';
import { migrate } from '../store/core/migrate.ts';
import { withOwnerConnection } from '../store/core/owner.ts';
import { readModeAsOwner, requireMode } from '../store/environment.ts';
import { caFile } from './opening.ts';

/** Runs `migrate`. Throws Error, in words for the operator. */
export async function migrateDatabase(): Promise<void> {
  const settings = read(
    ['KEYWARD_MODE', 'MIGRATION_DATABASE_URL', 'KEYWARD_DATABASE_CA_FILE'],
    process.env,
  );
  const { KEYWARD_MODE: mode } = settings;
  await withOwnerConnection(
    settings.MIGRATION_DATABASE_URL,
    settings.KEYWARD_DATABASE_CA_FILE,
    async (owner) => requireMode(await readModeAsOwner(owner), mode, mode),
  );
  const applied = await migrate({
    url: settings.MIGRATION_DATABASE_URL,
    ...caFile(settings),
    log: (message) => process.stderr.write(`${message}\n`),
  });
  process.stdout.write(
    applied.length === 0 ? 'the schema is up to date\n' : `applied ${applied.join(', ')}\n`,
  );
}
