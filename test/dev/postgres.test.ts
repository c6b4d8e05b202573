/**
 * Our own PostgreSQL: that whatever was killed is put right at the next start, and nothing is lost
 * by it.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import pg from 'pg';
import { createDatabase, createRoles, startPostgres } from '../../dev/postgres.ts';
import { identify, isAlive, type ProcessIdentity } from '../../scripts/processes.js';
import { findCommand } from '../../scripts/system-packages.js';
import { eventually } from '../support/kit.ts';

const directory = mkdtempSync(join(process.env['KEYWARD_TEST_DIRECTORY'] ?? '/tmp', 'own-'));
const postgres = await startPostgres({ directory });
after(() => postgres.remove());
await createRoles(postgres, 'keyward');

async function query(url: string, text: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query({ text, rowMode: 'array' })).rows.flat();
  } finally {
    await client.end();
  }
}

test('the owner owns the database and the service role owns nothing and can make nothing', async () => {
  const owner = postgres.ownerUrl('keyward');
  await query(owner, 'CREATE TABLE kept (n int)');
  await query(owner, 'INSERT INTO kept VALUES (7)');
  const service = postgres.serviceUrl('keyward');
  await assert.rejects(query(service, 'CREATE TABLE t (n int)'), { code: '42501' });
  await assert.rejects(query(service, 'SELECT * FROM kept'), { code: '42501' });
  assert.deepEqual(await query(service, 'SHOW statement_timeout'), ['15s']);
});

test('what was committed is there after SIGKILL and a start', async () => {
  await query(postgres.ownerUrl('keyward'), 'INSERT INTO kept VALUES (8)');
  await postgres.kill();
  await postgres.restart();
  assert.deepEqual(
    await query(postgres.ownerUrl('keyward'), 'SELECT n FROM kept ORDER BY n'),
    [7, 8],
  );
});

test('a record with the id of a live process that is no PostgreSQL stops no start, and that process lives', async () => {
  const record = join(postgres.dataDirectory, 'postmaster.pid');
  const lines = readFileSync(record, 'utf8').split('\n');
  await postgres.kill();
  const bystander = spawn('sleep', ['60']);
  writeFileSync(record, [bystander.pid, ...lines.slice(1)].join('\n'));
  await postgres.restart();
  assert.equal(bystander.exitCode, null);
  assert.ok(identify(bystander.pid ?? 0) !== undefined);
  bystander.kill();
});

/** A process that starts a server and is killed; with only these programs of the system, if any. */
async function startedByKilled(
  directory: string,
  programs: readonly string[] | undefined,
): Promise<ProcessIdentity> {
  const path = join(directory, 'programs');
  mkdirSync(path);
  for (const name of programs ?? []) symlinkSync(findCommand(name) ?? '', join(path, name));
  const program = `
    import { startPostgres } from ${JSON.stringify(new URL('../../dev/postgres.ts', import.meta.url).href)};
    const { pid } = await startPostgres({ directory: ${JSON.stringify(join(directory, 'cluster'))} });
    console.log(pid);
    setInterval(() => {}, 1000);
  `;
  const parent = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...(programs && { PATH: path }) },
  });
  const [line] = (await once(parent.stdout, 'data')) as [Buffer];
  const server = identify(Number(line.toString()));
  assert.ok(server !== undefined);
  parent.kill('SIGKILL');
  await once(parent, 'exit');
  return server;
}

function scratch(t: TestContext): string {
  const made = mkdtempSync(join(process.env['KEYWARD_TEST_DIRECTORY'] ?? '/tmp', 'orphan-'));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

test('a server ends with the process that started it, even when that is killed', async (t) => {
  const server = await startedByKilled(scratch(t), undefined);
  await eventually(() => assert.ok(!isAlive(server)));
});

test('a server that a killed process left running is ended, and its data used', async (t) => {
  const directory = scratch(t);
  // Where there is no setpriv, the kernel does not end it.
  const orphan = await startedByKilled(directory, ['unshare', 'sh', 'rm']);
  assert.ok(isAlive(orphan), 'the server outlives the process that was killed');
  const successor = await startPostgres({ directory: join(directory, 'cluster') });
  assert.ok(!isAlive(orphan));
  assert.deepEqual(await query(successor.superuserUrl(), 'SELECT 1'), [1]);
  await successor.remove();
});

test('a database is cloned with what its template holds', async () => {
  await createDatabase(postgres, 'copy', 'keyward');
  assert.deepEqual(await query(postgres.ownerUrl('copy'), 'SELECT count(*)::int FROM kept'), [2]);
  await createDatabase(postgres, 'copy', 'keyward');
});

test("passwords are in a file that only its owner can read, and on no process' command line", () => {
  const file = join(directory, 'passwords.json');
  assert.equal(statSync(file).mode & 0o777, 0o600);
  const { postgres: password } = JSON.parse(readFileSync(file, 'utf8'));
  assert.ok(!readFileSync(`/proc/${postgres.pid}/cmdline`, 'utf8').includes(password));
});
