/**
 * `npm start`: the development environment, the server, a self-test that shows it at work, and then serving until told
 * to stop.
 *
 * One start runs in a clone at a time, held by a lock that the kernel gives back; what it runs is written down with each
 * process' start time, so that the next one finds and ends what a killed one left behind. The order of the steps is all
 * that is decided here.
 */
import { createHash } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, relative } from 'node:path';
import { connect } from 'keyward-client';
import { tryLock } from '../scripts/lock.js';
import { identify, isAlive } from '../scripts/processes.js';
import { demonstrate } from './demonstration.ts';
import { type ClientIdentity, environmentPaths, openDevelopmentEnvironment } from './environment.ts';
import { readJsonIfThere, writePrivateJson } from './files.ts';
import { waitUntilServing } from './health.ts';
import { endServer, runServerCommand, type ServerProcess, spawnServer } from './server.ts';
import { type StartState, whoServes } from './start-state.ts';

const ROOT = realpathSync(dirname(import.meta.dirname));
const PATHS = environmentPaths(ROOT);
const FIRST_PORT = 7443;
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
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => ending.abort());
  await using running = new AsyncDisposableStack();
  try {
    const client = await startEverything(running);
    say(`\nServing on ${client.address}, process ${process.pid}, after ${seconds(began)} s.\n`);
    say(howToCall(client));
    await whenAborted();
  } catch (error) {
    if (!ending.signal.aborted) ending.abort(error);
  }
  const { reason } = ending.signal;
  const failed = !(reason instanceof DOMException && reason.name === 'AbortError');
  if (failed) console.error(`\n${messageOf(reason)}`);
  else say('\nStopping …');
  await running.disposeAsync();
  say(failed ? 'Stopped after a failure.' : 'Stopped. The next start finds everything again.');
  return failed ? 1 : 0;
}

/** Starts database and server and shows them at work; what has to be stopped goes onto `running`. */
async function startEverything(running: AsyncDisposableStack): Promise<ClientIdentity> {
  await endLeftovers();
  const starter = identify(process.pid);
  if (starter === undefined) throw new Error('/proc is needed.');
  const port = await choosePort();
  writeState({ starter, address: `127.0.0.1:${port}`, serving: false });
  const { variables, client, postgres } = await openDevelopmentEnvironment({
    root: ROOT,
    port,
    given: process.env,
    onDatabaseExit: (detail) => ending.abort(new Error(detail)),
  });
  if (postgres !== undefined) running.defer(() => postgres.stop());
  ending.signal.throwIfAborted();
  await runServerCommand(ROOT, ['migrate'], variables);
  ending.signal.throwIfAborted();
  await runServerCommand(ROOT, ['token', 'init'], variables);
  ending.signal.throwIfAborted();
  const server = startServer(variables);
  running.defer(() => server.stop());
  writeState({ starter, address: client.address, server: server.identity, serving: false });
  await waitUntilServing(
    client,
    AbortSignal.any([ending.signal, AbortSignal.timeout(SERVING_TIMEOUT_MS)]),
  ).catch((error) => {
    if (ending.signal.aborted) throw error;
    throw new Error(
      `The server isn't ready after ${SERVING_TIMEOUT_MS / 1000} s. Its log ends:\n${server.logTail()}`,
    );
  });
  writeState({ starter, address: client.address, server: server.identity, serving: true });
  await showAtWork(client, postgres === undefined ? hash(variables['DATABASE_URL'] ?? '') : 'embedded');
  return client;
}

function startServer(variables: Readonly<Record<string, string>>): ServerProcess {
  const server = spawnServer(ROOT, variables, PATHS.serverLog);
  void server.ended.then((how) => {
    ending.abort(
      new Error(
        `The server ended (${how}). Its log, ${relative(ROOT, PATHS.serverLog)}, ends:\n${server.logTail()}`,
      ),
    );
  });
  return server;
}

async function showAtWork(identity: ClientIdentity, database: string): Promise<void> {
  say('\nAs a client sees it:');
  using client = connect(identity);
  await demonstrate({ client, file: PATHS.demonstration, database, say });
}

/** A start that was killed may have left its server running; PostgreSQL's are found by its own record. */
async function endLeftovers(): Promise<void> {
  const state = readJsonIfThere<StartState>(PATHS.startState);
  if (state?.server === undefined) return;
  if (isAlive(state.server))
    say(`Ending the server that an earlier start left behind (process ${state.server.pid}).`);
  await endServer(state.server, ROOT);
}

function writeState(state: StartState): void {
  writePrivateJson(PATHS.startState, state);
}

/** Our port, or the next one that nobody listens on. */
async function choosePort(): Promise<number> {
  for (let port = FIRST_PORT; port < FIRST_PORT + PORTS_TRIED; port += 1) {
    if (!(await isFree(port))) continue;
    if (port !== FIRST_PORT) say(`Port ${FIRST_PORT} is in use; taking ${port}.`);
    return port;
  }
  throw new Error(`No port of ${FIRST_PORT} to ${FIRST_PORT + PORTS_TRIED - 1} is free.`);
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<boolean>();
  server.once('error', () => resolve(false));
  server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  return await promise;
}

function howToCall({ address, caFile, certFile, keyFile }: ClientIdentity): string {
  const [ca, cert, key] = [caFile, certFile, keyFile].map((file) => relative(ROOT, file));
  return `Call it from this folder:
  npx keyward keys list tenants/demo
  npx keyward keys rotate tenants/demo/keys/rotating --watch
  npx keyward keys history tenants/demo/keys/rotating
  grpcurl -cacert ${ca} -cert ${cert} -key ${key} ${address} list
or from TypeScript:
  import { connect } from 'keyward-client';
  using keyward = connect({
    address: '${address}',
    caFile: '${ca}',
    certFile: '${cert}',
    keyFile: '${key}',
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
  return reason.cause instanceof Error ? `${reason.message}\n${reason.cause.message}` : reason.message;
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function seconds(began: number): string {
  return ((performance.now() - began) / 1000).toFixed(1);
}

process.exitCode = await main();
