/**
 * What this release knows of the schema: which migrations it brings, and the names of the roles
 * that it grants to.
 *
 * What the tables are stands in migrations/ alone.
 */
import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/** Where the migrations are. */
export const MIGRATIONS_DIRECTORY: string = fileURLToPath(
  new URL('../../../migrations', import.meta.url),
);

/**
 * The role that migrations grant the service's rights to; whoever serves is it or a member of it.
 */
export const SERVICE_ROLE = 'keyward_service';

/**
 * Who the service becomes for what it does across tenants; see `requirements.ts` for why that isn't
 * inherited.
 */
export const RECONCILER_ROLE = 'keyward_reconciler';

/** The names of this release's migrations, in order. */
export async function migrationNames(): Promise<string[]> {
  const files = await readdir(MIGRATIONS_DIRECTORY);
  return files
    .filter((file) => file.endsWith('.sql'))
    .map((file) => file.slice(0, -'.sql'.length))
    .sort();
}

/**
 * Below 0 when `a` is older than `b`. Pre-releases count as the release that they precede: they
 * bring its code.
 */
export function compareReleases(a: string, b: string): number {
  const numbers = (release: string) => (release.split(/[-+]/)[0] ?? '').split('.').map(Number);
  const [left, right] = [numbers(a), numbers(b)];
  for (let i = 0; i < 3; i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
