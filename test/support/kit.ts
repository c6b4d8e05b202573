/**
 * What tests stand on: an environment (a database and a token that belong together, copies of the
 * run's template), and the service running on it as a process of its own, with a client.
 *
 * Everything is given back by `await using`; a service that is still there when its test process
 * ends is killed. Knows no test.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before } from 'node:test';
import { connect, type KeywardClient, KeywardError } from 'keyward-client';
import { type Credentials, createCertificateAuthority } from '../../dev/certificates.ts';
import { createDatabase, dropDatabase } from '../../dev/postgres.ts';
import { copyToken, type SoftHsmToken } from '../../softhsm/token.ts';
import type { Mode } from '../../src/store/environment.ts';
import { runSql } from '../store/database.ts';
import { programFrom, readableServer, testTokenVariables } from './compiled.ts';
import { TESTER } from './tester.ts';

const MAIN = programFrom('src/main.ts');
/** Generous: machines are shared. What is waited for is a condition, never this time. */
const PATIENCE_MS = 120_000;
/** Between two looks at what is waited for. */
const LONGEST_PAUSE_MS = 250;

function given(name: string): string {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set: run tests by npm test`);
  return value;
}

/** A database and a token that belong together, and certificates. */
export interface Environment extends AsyncDisposable {
  readonly directory: string;
  readonly token: SoftHsmToken;
  /** The database's URLs: as the service's role, as the schema's owner, as superuser. */
  readonly urls: { readonly service: string; readonly owner: string; readonly superuser: string };
  readonly ca: ReturnType<typeof createCertificateAuthority>;
  /** The server's settings. */
  readonly variables: Readonly<Record<string, string>>;
  /**
   * Which mode it is for: that in which a service was last started on it, or on what it is a copy
   * of.
   */
  mode: Mode;
}

/** What an environment is a copy of. */
export interface EnvironmentSource {
  /** A database of the cluster, to which nobody is connected. */
  readonly database: string;
  /** A token's folder. */
  readonly token: string;
}

/** A machine that is busy makes no call fail, where a test isn't about that. */
const PATIENT = {
  KEYWARD_DATABASE_WAIT_MS: '10000',
  KEYWARD_AUDIT_WAIT_MS: '10000',
  KEYWARD_MAX_STALENESS_MS: '10000',
} as const;

/** The service's own defaults, for tests of what comes of a database that is slow or away. */
export const DEFAULT_WAITS = {
  KEYWARD_DATABASE_WAIT_MS: '300',
  KEYWARD_AUDIT_WAIT_MS: '440',
  KEYWARD_MAX_STALENESS_MS: '1500',
} as const satisfies Record<keyof typeof PATIENT, string>;

/**
 * Copies of the source, by default of the run's template: a database, a token, and certificates of
 * their own.
 */
export async function newEnvironment(source?: EnvironmentSource): Promise<Environment> {
  const name = `kit_${randomUUID().replaceAll('-', '')}`;
  const directory = join(given('KEYWARD_TEST_DIRECTORY'), name);
  mkdirSync(directory, { mode: 0o700 });
  const cluster = {
    superuserUrl: (database = 'postgres') =>
      inDatabase(given('KEYWARD_TEST_POSTGRES_URL'), database),
  };
  await createDatabase(cluster, name, source?.database ?? given('KEYWARD_TEST_DATABASE_TEMPLATE'));
  const [copied] = await runSql<{ mode: Mode | null }>(
    cluster.superuserUrl(name),
    'SELECT mode FROM environment',
  );
  const token = copyToken(
    source?.token ?? given('KEYWARD_TEST_TOKEN_TEMPLATE'),
    join(directory, 'token'),
    given('KEYWARD_TEST_TOKEN_LABEL'),
  );
  const ca = createCertificateAuthority('keyward test CA');
  const server = ca.issue({
    subject: 'keyward',
    usage: 'server',
    dns: ['localhost'],
    ips: ['127.0.0.1'],
  });
  const urls = {
    service: inDatabase(given('KEYWARD_TEST_SERVICE_URL'), name),
    owner: inDatabase(given('KEYWARD_TEST_OWNER_URL'), name),
    superuser: cluster.superuserUrl(name),
  };
  return {
    directory,
    token,
    urls,
    ca,
    variables: {
      KEYWARD_LISTEN: '127.0.0.1:0',
      KEYWARD_TLS_CERT_FILE: write(directory, 'server.pem', server.certPem),
      KEYWARD_TLS_KEY_FILE: write(directory, 'server-key.pem', server.keyPem),
      KEYWARD_TLS_CLIENT_CA_FILE: write(directory, 'ca.pem', ca.certPem),
      DATABASE_URL: urls.service,
      // More than any test has calls at once, which would be shed when the machine is busy.
      KEYWARD_DATABASE_POOL: '40',
      ...PATIENT,
      ...testTokenVariables(token),
    },
    mode: copied?.mode ?? 'production',
    [Symbol.asyncDispose]: async () => {
      await dropDatabase(cluster, name);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** What must not outlive this process. */
const running = new Set<ChildProcess>();
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** One line of the service's log. */
export type LogLine = Readonly<Record<string, unknown>>;

/** What a service is, if it is another than this code, run by this user. */
export interface ServiceOptions {
  /** The entry point of other code than this. */
  readonly main?: string;
  /** Another user, where this one is root. */
  readonly account?: { readonly uid: number; readonly gid: number };
}

/** The service, serving. */
export class Service implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #environment: Environment;
  readonly #clients: KeywardClient[] = [];
  /** What it has logged, and what it has written that is no JSON. */
  readonly log: LogLine[] = [];
  readonly ended: Promise<number | string>;
  port = 0;
  /** Of the HTTP listener, where KEYWARD_HTTP_LISTEN is set. */
  httpPort = 0;
  /** Of the listener for operators, where KEYWARD_METRICS_LISTEN is set. */
  operatorsPort = 0;

  constructor(
    environment: Environment,
    variables: Readonly<Record<string, string>>,
    { account, main = account === undefined ? MAIN : readableServer() }: ServiceOptions,
  ) {
    this.#environment = environment;
    this.#child = spawn(process.execPath, [main, 'serve'], {
      ...account,
      env: { ...environment.variables, ...variables },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const { stdout, stderr } = this.#child;
    for (const output of [stdout, stderr]) {
      if (output === null) throw new Error('a child without output');
      createInterface({ input: output }).on('line', (line) => this.log.push(parseLine(line)));
    }
    const { promise, resolve } = Promise.withResolvers<number | string>();
    this.#child.once('close', (code, signal) => resolve(signal ?? code ?? 'unknown'));
    this.ended = promise;
    running.add(this.#child);
    this.#child.once('close', () => running.delete(this.#child));
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('the service did not start');
    return this.#child.pid;
  }

  /** The process ids of its agents. */
  get agentPids(): number[] {
    return childrenOf(this.pid);
  }

  /** How a client with a certificate of the environment's CA connects. */
  connectOptions(credentials?: Credentials) {
    const { certPem, keyPem } =
      credentials ??
      this.#environment.ca.issue({
        subject: 'tester',
        usage: 'client',
        uris: [TESTER],
      });
    return {
      address: `127.0.0.1:${this.port}`,
      ca: this.#environment.ca.certPem,
      cert: certPem,
      key: keyPem,
    };
  }

  /** A client that doesn't retry, closed with the service. */
  client(
    options: Partial<{ retries: number; defaultTimeoutMs: number; connections: number }> = {},
  ): KeywardClient {
    const client = connect({
      ...this.connectOptions(),
      retries: 0,
      defaultTimeoutMs: PATIENCE_MS,
      ...options,
    });
    this.#clients.push(client);
    return client;
  }

  /** Waits for a log line that `matches`, from the given position in {@link log} on. */
  async logged(matches: (line: LogLine) => boolean, from = 0): Promise<LogLine> {
    return eventually(
      () => this.log.slice(from).find(matches) ?? Promise.reject(new Error('no such line yet')),
      () => `the log so far:\n${this.log.map((line) => JSON.stringify(line)).join('\n')}`,
    );
  }

  /** SIGTERM, and its end. */
  async stop(): Promise<number | string> {
    for (const client of this.#clients.splice(0)) client.close();
    this.#child.kill('SIGTERM');
    return this.ended;
  }

  /** SIGKILL, and its end. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/**
 * An environment, the service on it, and a client, for all tests of a file: made and prepared
 * before them, given back after.
 */
export function sharedService(
  prepare: (keyward: KeywardClient) => Promise<void>,
  variables: Readonly<Record<string, string>> = {},
): {
  readonly environment: Environment;
  readonly service: Service;
  readonly keyward: KeywardClient;
} {
  let made: { environment: Environment; service: Service; keyward: KeywardClient } | undefined;
  const get = () => {
    if (made === undefined) throw new Error('the service is there only while tests run');
    return made;
  };
  before(async () => {
    const environment = await newEnvironment();
    const service = await startService(environment, variables);
    made = { environment, service, keyward: service.client() };
    await prepare(made.keyward);
  });
  after(async () => {
    await made?.service.stop();
    await made?.environment[Symbol.asyncDispose]();
  });
  return {
    get environment() {
      return get().environment;
    },
    get service() {
      return get().service;
    },
    get keyward() {
      return get().keyward;
    },
  };
}

/**
 * Starts the service on an environment, which is for the service's mode from then on, and waits
 * until it serves.
 */
export async function startService(
  environment: Environment,
  variables: Readonly<Record<string, string>> = {},
  options: ServiceOptions = {},
): Promise<Service> {
  await setMode(
    environment,
    variables['KEYWARD_MODE'] === 'development' ? 'development' : 'production',
  );
  const service = startServiceWithoutWaiting(environment, variables, options);
  await Promise.race([
    service.logged(({ msg }) => msg === 'serving'),
    service.ended.then((how) => {
      throw new Error(
        `the service ended (${how}):\n${service.log.map((line) => JSON.stringify(line)).join('\n')}`,
      );
    }),
  ]).catch(async (error: unknown) => {
    // Nobody else would end it, and the test's process would wait for it.
    await service.kill();
    throw error;
  });
  const portOf = (line: string) => Number(service.log.find(({ msg }) => msg === line)?.['port']);
  service.port = portOf('listening');
  service.httpPort = portOf('listening for HTTP');
  service.operatorsPort = portOf('listening for operators');
  return service;
}

/** Has the environment be for that mode, past its service. */
export async function setMode(environment: Environment, mode: Mode | null): Promise<void> {
  await runSql(
    environment.urls.superuser,
    'UPDATE environment SET mode = $1 WHERE mode IS DISTINCT FROM $1',
    [mode],
  );
  environment.mode = mode ?? 'production';
}

/** Starts the service, which may well refuse to. */
export function startServiceWithoutWaiting(
  environment: Environment,
  variables: Readonly<Record<string, string>> = {},
  options: ServiceOptions = {},
): Service {
  return new Service(environment, variables, options);
}

/** Runs a command of `keyward-server` on an environment, in its mode, to its end. */
export async function runCommand(
  environment: Environment,
  args: readonly string[],
  variables: Readonly<Record<string, string>> = {},
  { account }: Pick<ServiceOptions, 'account'> = {},
): Promise<{ readonly code: number | null; readonly output: string }> {
  const main = account === undefined ? MAIN : readableServer();
  const child = spawn(process.execPath, [main, ...args], {
    ...account,
    env: {
      ...environment.variables,
      KEYWARD_MODE: environment.mode,
      MIGRATION_DATABASE_URL: environment.urls.owner,
      ...variables,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, output };
}

/**
 * What `attempt` returns once it no longer throws; its last error when that takes too long.
 *
 * Also for what has to be done within a time: on a busy machine it may be late once, or for a
 * while, but not always.
 */
export async function eventually<T>(
  attempt: () => T | Promise<T>,
  explain: () => string = () => '',
): Promise<T> {
  const began = Date.now();
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() - began > PATIENCE_MS)
        throw new Error(`${error}\n${explain()}`, { cause: error });
    }
    // An attempt may be a call, which uses CPU time that what is waited for may need.
    const pause = Math.min(20 + (Date.now() - began) / 10, LONGEST_PAUSE_MS);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** The reason with which a call fails; throws when it doesn't, or fails otherwise. */
export async function reasonOf(call: Promise<unknown>): Promise<string> {
  const error = await failureOf(call);
  return error.reason ?? `no reason: ${error.message}`;
}

/** The error with which a call fails; throws when it doesn't, or fails otherwise. */
export async function failureOf(call: Promise<unknown>): Promise<KeywardError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof KeywardError) return error;
    throw error;
  }
  throw new Error('the call did not fail');
}

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter(Boolean)
    .map(Number);
}

function parseLine(line: string): LogLine {
  try {
    return JSON.parse(line) as LogLine;
  } catch {
    return { text: line };
  }
}

function inDatabase(url: string, database: string): string {
  const changed = new URL(url);
  changed.pathname = `/${database}`;
  return changed.href;
}

function write(directory: string, name: string, content: string): string {
  const path = join(directory, name);
  writeFileSync(path, content, { mode: 0o600 });
  return path;
}
