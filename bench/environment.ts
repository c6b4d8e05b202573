/**
 * What is measured, running: the service on a database and a token of its own, and the echo server
 * that is the floor.
 *
 * Owns `.keyward/bench-<process>/`, removed at the end; that of a run that was killed goes at the
 * next one. Everything is made as `npm start` makes it, but in production mode, with the server's
 * own defaults; its caller, known by certificate, may do everything. Knows nothing of what is
 * measured.
 */
import { fork } from 'node:child_process';
import { mkdirSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import {
  type DevelopmentEnvironment,
  environmentPaths,
  openDevelopmentEnvironment,
  type PlacedEnvironment,
  type Ports,
} from '../dev/environment.ts';
import { readJsonIfThere, writePrivateJson } from '../dev/files.ts';
import { waitUntilServing } from '../dev/health.ts';
import { type ClientIdentity, PRINCIPALS } from '../dev/identities.ts';
import { createDatabase, freePort, removePostgres } from '../dev/postgres.ts';
import { endServer, runServerCommand, type ServerProcess, spawnServer } from '../dev/server.ts';
import { identify, isAlive, type ProcessIdentity } from '../scripts/processes.js';
import { grantEverything } from '../test/support/grants.ts';
import type { Target } from './measure.ts';
import { childrenOf } from './processes.ts';

const ROOT = realpathSync(dirname(import.meta.dirname));
const STATE = join(ROOT, '.keyward');
/** What the image runs, where the caller has built it: no TypeScript at run time. */
const BUILT = process.argv.includes('--built') ? join('dist', 'main.js') : undefined;
/** Removed at the end of a run. */
export const BENCH_DIRECTORY = join(STATE, `bench-${process.pid}`);
const SERVING_TIMEOUT_MS = 30_000;
const POLL_MS = 50;
const SETTLING_MS = 3_000;

/** What a run writes down, for the next to clean up after it. */
interface Owner {
  readonly owner: ProcessIdentity;
  readonly servers: readonly ProcessIdentity[];
}

/** The service under load: all its processes are known. */
export type WholeTarget = Target & Required<Pick<Target, 'agentPid' | 'databasePid' | 'more'>>;

/** The service and its database. */
export class Environment implements AsyncDisposable {
  readonly directory: string;
  /** Where the service takes JSON over HTTP. */
  readonly httpAddress: string;
  readonly #development: DevelopmentEnvironment;
  readonly #placed: PlacedEnvironment;
  readonly #extra: Readonly<Record<string, string>>;
  #server: ServerProcess | undefined;
  /** All that ever were, in this run. */
  readonly #started: ServerProcess[] = [];

  private constructor(
    directory: string,
    development: DevelopmentEnvironment,
    { port, httpPort }: Required<Omit<Ports, 'metricsPort'>>,
    extra: Readonly<Record<string, string>>,
  ) {
    this.directory = directory;
    this.httpAddress = `127.0.0.1:${httpPort}`;
    this.#development = development;
    this.#placed = development.at({ port, httpPort });
    this.#extra = extra;
  }

  /**
   * Makes everything and starts the service; `extra` are variables of the server's besides those
   * that it needs.
   */
  static async open(extra: Readonly<Record<string, string>> = {}): Promise<Environment> {
    await removeLeftovers();
    const directory = BENCH_DIRECTORY;
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    writeOwner(directory);
    const development = await openDevelopmentEnvironment({
      root: directory,
      given: {},
      onDatabaseExit: (detail) => console.error(detail),
    });
    const ports = { port: await freePort(), httpPort: await freePort() };
    const environment = new Environment(directory, development, ports, extra);
    try {
      await runServerCommand(ROOT, ['migrate'], environment.variables);
      await runServerCommand(ROOT, ['token', 'init'], environment.variables);
      await grantEverything(environment.variables, [PRINCIPALS.admin]);
      await environment.restart();
    } catch (error) {
      await environment[Symbol.asyncDispose]();
      throw error;
    }
    return environment;
  }

  get client(): ClientIdentity {
    return this.#placed.identities.admin;
  }

  /** Known by certificate too, and without any right until one is given. */
  get stranger(): ClientIdentity {
    const { address, caFile, certFile, keyFile } = this.#placed.identities.service;
    return { address, caFile, certFile, keyFile };
  }

  get variables(): Readonly<Record<string, string>> {
    return { ...this.#placed.variables, KEYWARD_MODE: 'production', KEYWARD_ISSUERS_FILE: '' };
  }

  get serverPid(): number {
    if (this.#server === undefined) throw new Error('the service is not running');
    return this.#server.identity.pid;
  }

  /** One unless told otherwise: the default. */
  get agentPids(): number[] {
    return childrenOf(this.serverPid);
  }

  /** The service, to be put under load. */
  get target(): WholeTarget {
    return this.#targetOf(this.client.address, this.serverPid);
  }

  #targetOf(address: string, serverPid: number): WholeTarget {
    const [agentPid, ...agentPids] = childrenOf(serverPid);
    const databasePid = this.#development.postgres?.pid;
    if (agentPid === undefined || databasePid === undefined)
      throw new Error('the service has no agent, or no database of its own');
    const more = { serverPids: [], agentPids };
    return { address, serverPid, agentPid, databasePid, more };
  }

  /** A connection to the database past row-level security. */
  async connectAsOwner(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.variables['MIGRATION_DATABASE_URL'] ?? '',
    });
    await client.connect();
    return client;
  }

  /**
   * Copies the database as it is, while the service is not running. Returns the variables with
   * which the service runs on the copy.
   */
  async copyDatabase(): Promise<Readonly<Record<string, string>>> {
    const { postgres } = this.#development;
    const url = new URL(this.variables['DATABASE_URL'] ?? '');
    if (postgres === undefined) throw new Error('the database is not the bench’s own');
    await this.stop();
    const copy = 'keyward_copy';
    await createDatabase(postgres, copy, url.pathname.slice(1));
    url.pathname = `/${copy}`;
    return { DATABASE_URL: url.href };
  }

  /** Ends the service if it runs. */
  async stop(): Promise<void> {
    await this.#server?.stop();
    this.#server = undefined;
  }

  /**
   * Ends the service if it runs, and starts it with nothing loaded; `extra` are variables of this
   * start alone.
   */
  async restart(extra: Readonly<Record<string, string>> = {}): Promise<void> {
    await this.stop();
    this.#server = await this.#start(this.client, { ...this.#extra, ...extra }, 'server.log');
  }

  /** Starts another replica, on a port of its own; `extra` are variables of its own. */
  async startBeside(
    extra: Readonly<Record<string, string>>,
  ): Promise<WholeTarget & AsyncDisposable> {
    const client = { ...this.client, address: `127.0.0.1:${await freePort()}` };
    const own = { KEYWARD_LISTEN: client.address, KEYWARD_HTTP_LISTEN: '', ...extra };
    const server = await this.#start(client, own, `beside-${this.#started.length}.log`);
    const { pid } = server.identity;
    const stop = { [Symbol.asyncDispose]: () => server.stop() };
    const servers = Number(extra['KEYWARD_SERVERS'] ?? '1');
    const serversOf = () => (servers === 1 ? [pid] : childrenOf(pid));
    await settled(
      () => serversOf().map((each) => [each, ...childrenOf(each)]),
      (all) => all.length === servers && all.every((each) => each.length > 1),
    );
    const [first, ...others] = serversOf().map((each) => this.#targetOf(client.address, each));
    if (first === undefined) throw new Error('there is no server process');
    const agentPids = [first, ...others].flatMap(({ more }) => more.agentPids);
    const supervisor = servers === 1 ? [] : [pid];
    const more = {
      serverPids: [...supervisor, ...others.map(({ serverPid }) => serverPid)],
      agentPids: [...agentPids, ...others.map(({ agentPid }) => agentPid)],
    };
    return { ...first, more, ...stop };
  }

  async #start(
    client: ClientIdentity,
    extra: Readonly<Record<string, string>>,
    log: string,
  ): Promise<ServerProcess> {
    const server = spawnServer(
      ROOT,
      { ...this.variables, ...extra },
      join(this.directory, log),
      BUILT,
    );
    this.#started.push(server);
    writeOwner(
      this.directory,
      this.#started.map(({ identity }) => identity),
    );
    const timeout = AbortSignal.timeout(SERVING_TIMEOUT_MS);
    await Promise.race([
      waitUntilServing(client, timeout),
      server.ended.then((how) =>
        Promise.reject(new Error(`The server ended: ${how}\n${server.logTail()}`)),
      ),
    ]);
    return server;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#started.map((server) => server.stop()));
    await this.#development.postgres?.remove();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/**
 * Returns once the processes are as wanted and have been the same for some time: an agent or two
 * are replaced at a start, and connections that are made before all processes serve are all the
 * first one's.
 */
async function settled(
  read: () => readonly (readonly number[])[],
  isWanted: (all: readonly (readonly number[])[]) => boolean,
): Promise<void> {
  const until = performance.now() + SERVING_TIMEOUT_MS;
  let [before, since] = ['', performance.now()];
  for (;;) {
    const all = read();
    const now = performance.now();
    if (JSON.stringify(all) !== before) [before, since] = [JSON.stringify(all), now];
    if (isWanted(all) && now - since > SETTLING_MS) return;
    if (now > until) throw new Error(`the processes do not settle: ${before}`);
    await delay(POLL_MS);
  }
}

/** The echo server, listening; it ends with this process, or when it is disposed of. */
export async function startEcho(variables: Readonly<Record<string, string>>) {
  const child = fork(join(import.meta.dirname, 'echo.ts'), {
    env: { ...process.env, ...variables },
  });
  const port = await new Promise<number>((resolve, reject) => {
    child.once('message', (message) => resolve(Number(message)));
    child.once('exit', (code) => reject(new Error(`the echo server ended: ${code}`)));
  });
  const { pid } = child;
  if (pid === undefined) throw new Error('the echo server has no process');
  return { address: `127.0.0.1:${port}`, pid, [Symbol.dispose]: () => void child.disconnect() };
}

function writeOwner(directory: string, servers: readonly ProcessIdentity[] = []): void {
  const owner = identify(process.pid);
  if (owner === undefined) throw new Error('/proc is needed.');
  writePrivateJson(join(directory, 'owner.json'), { owner, servers } satisfies Owner);
}

/** A run that was killed could not clean up. */
async function removeLeftovers(): Promise<void> {
  mkdirSync(STATE, { recursive: true, mode: 0o700 });
  for (const name of readdirSync(STATE).filter((each) => /^bench-\d+$/.test(each))) {
    const directory = join(STATE, name);
    const left = readJsonIfThere<Owner>(join(directory, 'owner.json'));
    // Without a record it has only just been made, or its end came within a moment of that.
    if (left === undefined || isAlive(left.owner)) continue;
    for (const server of left.servers) await endServer(server, ROOT);
    await removePostgres(environmentPaths(directory).postgres);
    rmSync(directory, { recursive: true, force: true });
  }
}
