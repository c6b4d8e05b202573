/**
 * `npm start`: the development environment, the server, a self-test that shows it at work, and then
 * serving until told to stop.
 *
 * One start runs in a clone at a time, held by a lock that the kernel gives back; what it runs is
 * written down with each process' start time, so that the next one finds and ends what a killed one
 * left behind. The order of the steps is all that is decided here.
 */
import { createHash } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { dirname, relative } from 'node:path';
import { connect } from 'keyward-client';
import { tryLock } from '../scripts/lock.js';
import { identify, isAlive } from '../scripts/processes.js';
import { demonstrate } from './demonstration.ts';
import {
  type DevelopmentEnvironment,
  environmentPaths,
  openDevelopmentEnvironment,
} from './environment.ts';
import { readJsonIfThere, writePrivateJson } from './files.ts';
import { waitUntilServing } from './health.ts';
import {
  appointAdministrator,
  type Identities,
  isAdministrator,
  keepTokens,
  PRINCIPALS,
} from './identities.ts';
import { type HeldPort, holdPort } from './ports.ts';
import { endServer, runServerCommand, type ServerProcess, spawnServer } from './server.ts';
import { type StartState, whoServes } from './start-state.ts';

const ROOT = realpathSync(dirname(import.meta.dirname));
const PATHS = environmentPaths(ROOT);
const FIRST_PORT = 7443;
const FIRST_HTTP_PORT = 8443;
const PORTS_TRIED = 100;
/** How long a second start waits for one that is still starting. */
const OTHER_START_MS = 15_000;
const SERVING_TIMEOUT_MS = 30_000;

const say = (line: string) => console.log(line);

/** Aborted by the signal to stop, or with an error when something that must run has ended. */
const ending = new AbortController();

async function main(): Promise<number> {
  const began = performance.now();
  // Whoever read what we say may have gone; that is no reason to leave everything running.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  const lock = await tryLock(PATHS.startLock, 'runs the development environment');
  if (lock === undefined) {
    say(await whoServes(PATHS.startState, OTHER_START_MS));
    return 0;
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => ending.abort());
  await using running = new AsyncDisposableStack();
  try {
    const { service, httpPort } = await startEverything(running);
    say(`\nServing on ${service.address}, process ${process.pid}, after ${seconds(began)} s.\n`);
    say(howToCall(service, httpPort));
    await whenAborted();
  } catch (error) {
    if (!ending.signal.aborted) ending.abort(error);
  }
  const { reason } = ending.signal;
  const failed = !(reason instanceof DOMException && reason.name === 'AbortError');
  if (failed) console.error(`\n${messageOf(reason)}`);
  else say('\nStopping …');
  await running.disposeAsync();
  say(
    failed ? 'Stopped after a failure.' : 'Stopped. The next start continues with the same data.',
  );
  return failed ? 1 : 0;
}

/**
 * Starts database and server and shows them at work; what has to be stopped goes onto `running`.
 */
async function startEverything(
  running: AsyncDisposableStack,
): Promise<Pick<Identities, 'service'> & { readonly httpPort: number }> {
  await endLeftovers();
  const starter = identify(process.pid);
  if (starter === undefined) throw new Error('cannot start: /proc is required');
  const held = await choosePort(running, FIRST_PORT);
  const heldForHttp = await choosePort(running, FIRST_HTTP_PORT);
  const { port } = held;
  const { port: httpPort } = heldForHttp;
  writeState({ starter, address: `127.0.0.1:${port}`, serving: false });
  const environment = await openDevelopmentEnvironment({
    root: ROOT,
    port,
    httpPort,
    given: process.env,
    onDatabaseExit: (detail) => ending.abort(new Error(detail)),
  });
  const { variables, identities, issuers, postgres } = environment;
  if (postgres !== undefined) running.defer(() => postgres.stop());
  ending.signal.throwIfAborted();
  await runServerCommand(ROOT, ['migrate'], variables);
  ending.signal.throwIfAborted();
  await runServerCommand(ROOT, ['token', 'init'], variables);
  ending.signal.throwIfAborted();
  // What an earlier release made has keys whose states aren't sealed.
  await runServerCommand(ROOT, ['token', 'seal-states'], variables);
  ending.signal.throwIfAborted();
  await held.giveToServer();
  await heldForHttp.giveToServer();
  const { identity: server } = await startWithAdministrator({ environment, starter, running });
  running.use(await keepTokens(issuers, identities, (error) => ending.abort(error)));
  writeState({ starter, address: identities.admin.address, server, serving: true });
  await showAtWork(
    identities,
    postgres === undefined ? hash(variables['DATABASE_URL'] ?? '') : 'embedded',
  );
  return { service: identities.service, httpPort };
}

/** What starting a server needs. */
interface Starting {
  readonly environment: DevelopmentEnvironment;
  readonly starter: StartState['starter'];
  readonly running: AsyncDisposableStack;
}

/**
 * Starts the server. Where the administrator has no roles, as in a new environment, it is started
 * for a moment with a first administrator who gives them, and then without: what is started for
 * good has none.
 */
async function startWithAdministrator(starting: Starting): Promise<ServerProcess> {
  const { identities } = starting.environment;
  const server = await startServer(starting);
  using admin = connect(identities.admin);
  if (await isAdministrator(admin)) return server;
  await server.stop();
  const first = await startServer(starting, {
    KEYWARD_FIRST_ADMINISTRATOR: PRINCIPALS.firstAdministrator,
  });
  using client = connect(identities.firstAdministrator);
  await appointAdministrator(client);
  await first.stop();
  return startServer(starting);
}

/**
 * Starts a server and waits until it serves; everything ends when it ends without having been told
 * to.
 */
async function startServer(
  { environment, starter, running }: Starting,
  extra: Readonly<Record<string, string>> = {},
): Promise<ServerProcess> {
  const { variables, client } = environment;
  const server = spawnServer(ROOT, { ...variables, ...extra }, PATHS.serverLog);
  let isStopping = false;
  const stop = () => {
    isStopping = true;
    return server.stop();
  };
  running.defer(stop);
  void server.ended.then((how) => {
    if (isStopping) return;
    const log = relative(ROOT, PATHS.serverLog);
    const message = `cannot serve: the server ended (${how}); its log, ${log}, ends:`;
    ending.abort(new Error(`${message}\n${server.logTail()}`));
  });
  writeState({ starter, address: client.address, server: server.identity, serving: false });
  const timeout = AbortSignal.timeout(SERVING_TIMEOUT_MS);
  await waitUntilServing(client, AbortSignal.any([ending.signal, timeout])).catch((error) => {
    if (ending.signal.aborted) throw error;
    const seconds = SERVING_TIMEOUT_MS / 1000;
    throw new Error(
      `cannot serve: the server is not ready after ${seconds} s; ` +
        `its log ends:\n${server.logTail()}`,
    );
  });
  return { ...server, stop };
}

async function showAtWork(
  { admin, service, auditor }: Identities,
  database: string,
): Promise<void> {
  say('\nWhat its callers see:');
  const token = (file: string) => () => readFileSync(file, 'utf8').trim();
  using asAdmin = connect(admin);
  using asService = connect({ ...service, token: token(service.tokenFile) });
  using asAuditor = connect({ ...auditor, token: token(auditor.tokenFile) });
  const callers = { admin: asAdmin, service: asService, auditor: asAuditor };
  await demonstrate({ callers, file: PATHS.demonstration, database, say });
}

/**
 * A start that was killed may have left its server running; PostgreSQL's are found by its own
 * record.
 */
async function endLeftovers(): Promise<void> {
  const state = readJsonIfThere<StartState>(PATHS.startState);
  if (state?.server === undefined) return;
  if (isAlive(state.server))
    say(`Stopping the server that an earlier start left running (process ${state.server.pid}).`);
  await endServer(state.server, ROOT);
}

function writeState(state: StartState): void {
  writePrivateJson(PATHS.startState, state);
}

/** Our port, or the next one that is nobody's; held until everything has stopped. */
async function choosePort(running: AsyncDisposableStack, first: number): Promise<HeldPort> {
  const held = running.use(await holdPort(first, PORTS_TRIED));
  if (held.port !== first) say(`Port ${first} is in use; using ${held.port}.`);
  return held;
}

function howToCall(
  { address, caFile, certFile, keyFile, tokenFile }: Identities['service'],
  httpPort: number,
): string {
  const [ca, cert, key, token] = [caFile, certFile, keyFile, tokenFile].map((file) =>
    relative(ROOT, file),
  );
  return `Call it from this folder, as admin unless --profile says service or auditor:
  npx keyward keys list tenants/demo
  npx keyward keys rotate tenants/demo/keys/rotating --watch
  echo -n hello | npx keyward --profile service encrypt tenants/demo/keys/demo --out hello.enc
  npx keyward --profile service decrypt --tenant demo --in hello.enc
  npx keyward --profile auditor access bindings demo
  grpcurl -cacert ${ca} -cert ${cert} -key ${key} \\
    -H "authorization: Bearer $(cat ${token})" ${address} list
  curl --cacert ${ca} --cert ${cert} --key ${key} \\
    -H "authorization: Bearer $(cat ${token})" --json '{"name":"tenants/demo/keys/demo"}' \\
    https://127.0.0.1:${httpPort}/keyward.v1.EncryptionService/GenerateDataKey
or from TypeScript:
  import { readFileSync } from 'node:fs';
  import { connect } from 'keyward-client';
  using keyward = connect({
    address: '${address}',
    caFile: '${ca}',
    certFile: '${cert}',
    keyFile: '${key}',
    token: () => readFileSync('${token}', 'utf8').trim(),
  });
  const { ciphertext } = await keyward.encrypt({
    name: 'tenants/demo/keys/demo',
    plaintext: Buffer.from('hello'),
    encryptionContext: { conversation: 'c-42' },
  });

The server's log is ${relative(ROOT, PATHS.serverLog)}. Ctrl-C stops.`;
}

function whenAborted(): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  if (ending.signal.aborted) resolve();
  ending.signal.addEventListener('abort', () => resolve());
  return promise;
}

function messageOf(reason: unknown): string {
  if (!(reason instanceof Error)) return String(reason);
  return reason.cause instanceof Error
    ? `${reason.message}\n${reason.cause.message}`
    : reason.message;
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function seconds(began: number): string {
  return ((performance.now() - began) / 1000).toFixed(1);
}

process.exitCode = await main();
