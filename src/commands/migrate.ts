/**
 * `migrate`: the database's schema brought to this release, by its owner.
 *
 * Invariant: an environment that is recorded for another mode is left as it is; one that isn't
 * recorded yet is for any, since this comes before everything else. Knows no migration.
 */
import { read } from '../config.ts';
import { migrate } from '../store/core/migrate.ts';
import { withOwnerConnection } from '../store/core/owner.ts';
import { readModeAsOwner, requireMode } from '../store/environment.ts';
import { caFile } from './opening.ts';

/** Throws Error, in words for the operator. */
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
