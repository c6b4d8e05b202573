/**
 * Code of before the newest migration, on the schema that it makes: it runs, or is refused by the
 * name of the migration that it lacks. The code is that of the commit before the one that brought
 * the migration; a clone without that history skips this.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  compareReleases,
  MIGRATIONS_DIRECTORY,
  migrationNames,
} from '../../src/store/core/schema.ts';
import {
  type Environment,
  newEnvironment,
  setMode,
  startService,
  startServiceWithoutWaiting,
} from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

const ROOT = join(MIGRATIONS_DIRECTORY, '..');
const PARENT = 'tenants/acme';

function run(command: string, args: readonly string[], cwd = ROOT): string | undefined {
  const { status, stdout } = spawnSync(command, args, { cwd, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

/** The commit before the one that brought the newest migration; undefined where nobody knows. */
function commitBefore(migration: string): string | undefined {
  const file = `migrations/${migration}.sql`;
  const added = run('git', ['log', '--diff-filter=A', '--format=%H', '-1', '--', file]);
  if (added === undefined) return undefined;
  // One that is not committed yet comes after all that is.
  return run('git', ['rev-parse', '--verify', added === '' ? 'HEAD' : `${added}~1`]);
}

/** Lays out that commit's tree, with what it takes to run it, and returns its entry point. */
function layOut(commit: string, directory: string): string {
  mkdirSync(directory, { recursive: true });
  const archive = join(directory, 'tree.tar');
  assert.notEqual(run('git', ['archive', '--output', archive, commit]), undefined);
  assert.notEqual(run('tar', ['-xf', archive], directory), undefined);
  symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'));
  return join(directory, 'src', 'main.ts');
}

/** The migrations whose outcome that tree's release may not run on, by what they state. */
async function migrationsRefusing(environment: Environment, directory: string): Promise<string[]> {
  const text = readFileSync(join(directory, 'package.json'), 'utf8');
  const { version } = JSON.parse(text) as { readonly version: string };
  const rows = await sql<{ migration: string; release: string }>(
    environment,
    'SELECT migration, oldest_release AS release FROM schema_releases',
  );
  return rows
    .filter(({ release }) => compareReleases(version, release) < 0)
    .map(({ migration }) => migration);
}

test('code of before the newest migration runs on its schema, or is refused by its name', async (t) => {
  const newest = (await migrationNames()).at(-1) ?? '';
  const commit = commitBefore(newest);
  if (commit === undefined) return t.skip('this clone has no history');
  await using environment = await newEnvironment();
  const directory = join(environment.directory, 'before');
  const main = layOut(commit, directory);
  const refusing = await migrationsRefusing(environment, directory);
  if (refusing.length === 0) {
    await using service = await startService(environment, {}, { main });
    const keyward = service.client();
    await keyward.createTenant({ tenantId: 'acme' });
    const { name } = await keyward.createKey({ parent: PARENT, keyId: 'k' });
    const { ciphertext } = await keyward.encrypt({ name, plaintext: Buffer.from('p') });
    await keyward.rotateKey({ name });
    assert.equal(
      Buffer.from((await keyward.decrypt({ parent: PARENT, ciphertext })).plaintext).toString(),
      'p',
    );
  } else {
    await setMode(environment, 'production');
    await using service = startServiceWithoutWaiting(environment, {}, { main });
    assert.equal(await service.ended, 1);
    assert.match(JSON.stringify(service.log), new RegExp(refusing.join('|')));
  }
});
