/**
 * PgBouncer in front of the bench's database, in transaction mode, where the machine has it.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { freePort } from '../dev/postgres.ts';
import { findCommand } from '../scripts/system-packages.js';

/** It refuses to run as root. */
const NOBODY = 65_534;
const PATIENCE_MS = 10_000;
const LOOK_MS = 50;

/** A pooler, which ends when it is disposed of. */
export interface Pooler extends AsyncDisposable {
  /** The database's, by way of it. */
  readonly url: string;
}

/** Starts a pooler before the database of this URL; undefined where there is none to start. */
export async function startPooler(databaseUrl: string): Promise<Pooler | undefined> {
  const program = findCommand('pgbouncer');
  if (program === undefined) return undefined;
  const directory = mkdtempSync(join(tmpdir(), 'keyward-pooler-'));
  const port = await freePort();
  const url = new URL(databaseUrl);
  const write = (name: string, text: string) => {
    const file = join(directory, name);
    writeFileSync(file, text);
    return file;
  };
  const password = decodeURIComponent(url.password).replaceAll('"', '""');
  const users = write('users', `"${url.username}" "${password}"\n`);
  const settings = write(
    'settings',
    `[databases]
* = host=${url.hostname} port=${url.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${users}
pool_mode = transaction
default_pool_size = 40
max_client_conn = 500
`,
  );
  const isRoot = process.getuid?.() === 0;
  if (isRoot) {
    for (const file of [directory, users, settings]) chownSync(file, NOBODY, NOBODY);
    chmodSync(directory, 0o700);
  }
  const as = isRoot ? { uid: NOBODY, gid: NOBODY } : {};
  const child = spawn(program, ['--quiet', settings], { ...as, stdio: 'ignore' });
  const ended = once(child, 'exit');
  url.hostname = '127.0.0.1';
  url.port = String(port);
  const pooler = {
    url: url.href,
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
      rmSync(directory, { recursive: true, force: true });
    },
  };
  try {
    await Promise.race([answering(url.href), ended.then(() => Promise.reject(new Error('ended')))]);
    return pooler;
  } catch (error) {
    await pooler[Symbol.asyncDispose]();
    throw new Error('cannot start pgbouncer', { cause: error });
  }
}

async function answering(connectionString: string): Promise<void> {
  for (const until = performance.now() + PATIENCE_MS; ; await delay(LOOK_MS)) {
    const client = new pg.Client({ connectionString });
    // A connection that is refused is reported twice.
    client.on('error', () => {});
    try {
      await client.connect();
      await client.end();
      return;
    } catch (error) {
      if (performance.now() > until) throw error;
    }
  }
}
