/**
 * What a whole run of the tests shares, started once: a PostgreSQL cluster, and a template of an
 * environment (a migrated database and an initialised token that belong together) of which every
 * test file makes copies of its own.
 *
 * The programs that tests start are bundled; with KEYWARD_TEST_SOURCES=1 they are the sources.
 * KEYWARD_TEST_POSTGRES may name the installation of another PostgreSQL, as
 * `/usr/lib/postgresql/15`. Owns `.keyward/test-<process>/`, removed at the end; those of runs that
 * were killed go at the next one. Test processes learn of it all by the KEYWARD_TEST_ variables set
 * here.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  statfsSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { readJsonIfThere, writePrivateJson } from '../../dev/files.ts';
import { createRoles, type Postgres, removePostgres, startPostgres } from '../../dev/postgres.ts';
import { runServerCommand } from '../../dev/server.ts';
import { identify, isAlive, type ProcessIdentity } from '../../scripts/processes.js';
import { noteCpu } from '../../scripts/slowest.js';
import { createSoftHsmToken, tokenVariables } from '../../softhsm/token.ts';
import { bundlePrograms } from './bundle.ts';
import { grantEverything } from './grants.ts';
import { TESTER } from './tester.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const STATE = join(ROOT, '.keyward');
const DIRECTORY = join(STATE, `test-${process.pid}`);
/** In memory, if it holds a run's databases: the disk is waited for at every commit. */
const MEMORY = '/dev/shm';
const LEAST_MEMORY = 8 * 1024 ** 3;
const DATABASE_TEMPLATE = 'keyward_template';
const TOKEN_LABEL = 'keyward-test';
/**
 * Each database that is dropped costs a checkpoint, after which Postgres would log every page once
 * more: for a machine that loses power, as this cluster need not survive.
 */
const POSTGRES_SETTINGS = { max_connections: '400', full_page_writes: 'off' };

/** Whether tests start the sources, for stacks and coverage by their lines, at twice the cost. */
const FROM_SOURCES = process.env['KEYWARD_TEST_SOURCES'] === '1';

let postgres: Postgres | undefined;

/** Called by Node's test runner before the first test file. */
export async function globalSetup(): Promise<void> {
  await removeLeftovers();
  mkdirSync(DIRECTORY, { recursive: true, mode: 0o700 });
  writePrivateJson(ownerFile(DIRECTORY), identify(process.pid));
  // Before anything is started, so that all of it keeps and finds what Node has compiled.
  process.env['NODE_COMPILE_CACHE'] = join(DIRECTORY, 'compiled');
  const tokenDirectory = join(DIRECTORY, 'token-template');
  const bundled = join(DIRECTORY, 'programs');
  const [server, token] = await Promise.all([
    startPostgres({
      directory: clusterFolder(),
      settings: POSTGRES_SETTINGS,
      installation: process.env['KEYWARD_TEST_POSTGRES'],
    }),
    createSoftHsmToken({ directory: tokenDirectory, label: TOKEN_LABEL }),
    ...(FROM_SOURCES ? [] : [bundlePrograms(bundled)]),
  ]);
  postgres = server;
  await createRoles(server, DATABASE_TEMPLATE);
  const urls = {
    owner: server.ownerUrl(DATABASE_TEMPLATE),
    service: server.serviceUrl(DATABASE_TEMPLATE),
  };
  const variables = {
    ...tokenVariables(token),
    DATABASE_URL: urls.service,
    MIGRATION_DATABASE_URL: urls.owner,
  };
  if (existsSync(join(ROOT, 'src', 'main.ts'))) {
    await runServerCommand(ROOT, ['migrate'], variables);
    await runServerCommand(ROOT, ['token', 'init'], variables);
    await grantEverything(variables, [TESTER]);
  }
  Object.assign(process.env, {
    KEYWARD_TEST_DIRECTORY: DIRECTORY,
    ...(FROM_SOURCES ? {} : { KEYWARD_TEST_PROGRAMS: bundled }),
    /** The superuser's, to make databases. */
    KEYWARD_TEST_POSTGRES_URL: server.superuserUrl(),
    /** The two roles', with the template as their database. */
    KEYWARD_TEST_OWNER_URL: urls.owner,
    KEYWARD_TEST_SERVICE_URL: urls.service,
    KEYWARD_TEST_DATABASE_TEMPLATE: DATABASE_TEMPLATE,
    KEYWARD_TEST_TOKEN_TEMPLATE: tokenDirectory,
    KEYWARD_TEST_TOKEN_LABEL: TOKEN_LABEL,
  });
}

/** Called by Node's test runner after the last test file. */
export async function globalTeardown(): Promise<void> {
  const server = postgres;
  postgres = undefined;
  if (server !== undefined) noteCpu('PostgreSQL, which all files share', server.pid);
  await server?.remove();
  rmSync(DIRECTORY, { recursive: true, force: true });
}

/** Returns the folder of the run's cluster; one in memory is linked to from the run's own. */
function clusterFolder(): string {
  const folder = join(DIRECTORY, 'postgres');
  const { bavail, bsize } = existsSync(MEMORY) ? statfsSync(MEMORY) : { bavail: 0, bsize: 0 };
  if (bavail * bsize < LEAST_MEMORY) return folder;
  const target = mkdtempSync(join(MEMORY, 'keyward-test-'));
  symlinkSync(target, folder);
  return target;
}

/** A run that was killed could not clean up. */
async function removeLeftovers(): Promise<void> {
  if (!existsSync(STATE)) return;
  for (const name of readdirSync(STATE)) {
    const pid = Number(/^test-(\d+)$/.exec(name)?.[1]);
    if (!(pid > 0)) continue;
    const directory = join(STATE, name);
    const owner = readJsonIfThere<ProcessIdentity>(ownerFile(directory));
    if (owner === undefined ? identify(pid) !== undefined : isAlive(owner)) continue;
    // Test files may have made clusters of their own beside the shared one.
    for (const inside of readdirSync(directory))
      if (existsSync(join(directory, inside)))
        await removePostgres(realpathSync(join(directory, inside)));
    rmSync(directory, { recursive: true, force: true });
  }
}

function ownerFile(directory: string): string {
  return join(directory, 'owner.json');
}
