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
  type PlacedEnvironment,
  type Ports,
} from './environment.ts';
import { readJsonIfThere, writePrivateJson } from './files.ts';
import { waitUntilServing } from './health.ts';
import {
  allowProfiles,
  appointAdministrator,
  type Identities,
  isAdministrator,
  keepTokens,
  PRINCIPALS,
} from './identities.ts';
import type { Issuers } from './issuers.ts';
import { holdPort } from './ports.ts';
import { startProvider } from './provider.ts';
import { endServer, runServerCommand, type ServerProcess, spawnServer } from './server.ts';
import { type StartState, whoServes } from './start-state.ts';

const ROOT = realpathSync(dirname(import.meta.dirname));
const PATHS = environmentPaths(ROOT);
const FIRST_PORT = 7443;
const FIRST_HTTP_PORT = 8443;
const FIRST_METRICS_PORT = 9464;
const FIRST_SIGN_IN_PORT = 9080;
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
    const { service, ports } = await startEverything(running);
    say(`\nServing on ${service.address}, process ${process.pid}, after ${seconds(began)} s.\n`);
    say(howToCall(service, ports));
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
): Promise<Pick<Identities, 'service'> & Pick<Started, 'ports'>> {
  await endLeftovers();
  const starter = identify(process.pid);
  if (starter === undefined) throw new Error('cannot start: /proc is required');
  writeState({ starter, address: `127.0.0.1:${FIRST_PORT}`, serving: false });
  const provider = running.use(
    await startProvider({
      folder: PATHS.provider,
      port: FIRST_SIGN_IN_PORT,
      portsTried: PORTS_TRIED,
    }),
  );
  const environment = await openDevelopmentEnvironment({
    root: ROOT,
    signIn: provider.issuer,
    given: process.env,
    onDatabaseExit: (detail) => ending.abort(new Error(detail)),
  });
  const { variables, issuers, postgres } = environment;
  if (postgres !== undefined) running.defer(() => postgres.stop());
  ending.signal.throwIfAborted();
  await runServerCommand(ROOT, ['migrate'], variables);
  ending.signal.throwIfAborted();
  await runServerCommand(ROOT, ['token', 'init'], variables);
  ending.signal.throwIfAborted();
  // What an earlier release made has keys whose states aren't sealed.
  await runServerCommand(ROOT, ['token', 'seal-states'], variables);
  ending.signal.throwIfAborted();
  const { server, identities, ports } = await startOnFreePorts({ environment, starter, running });
  running.use(await keepTokens(issuers, identities, (error) => ending.abort(error)));
  allowOwnProfiles();
  writeState({ starter, address: identities.admin.address, server, serving: true });
  await showAtWork(
    identities,
    issuers,
    postgres === undefined ? hash(variables['DATABASE_URL'] ?? '') : 'embedded',
  );
  return { service: identities.service, ports };
}

/** What starting a server needs. */
interface Starting<Environment> {
  readonly environment: Environment;
  readonly starter: StartState['starter'];
  readonly running: AsyncDisposableStack;
}

/** The server found another program on its port when it was about to listen. */
class PortTaken extends Error {
  override readonly name = 'PortTaken';
}

interface Started extends Pick<PlacedEnvironment, 'identities'> {
  readonly server: ServerProcess['identity'];
  readonly ports: Required<Ports>;
}

/**
 * Starts the server on the first ports that are nobody's. It can lose one to another program in the
 * moment before it listens: then it has others, and what they are is said only when it has them.
 */
async function startOnFreePorts({
  environment,
  starter,
  running,
}: Starting<DevelopmentEnvironment>): Promise<Started> {
  for (let attempt = 1; ; attempt += 1) {
    await using own = new AsyncDisposableStack();
    const held = own.use(await holdPort(FIRST_PORT, PORTS_TRIED));
    const heldForHttp = own.use(await holdPort(FIRST_HTTP_PORT, PORTS_TRIED));
    const heldForMetrics = own.use(await holdPort(FIRST_METRICS_PORT, PORTS_TRIED));
    const ports = {
      ...{ port: held.port, httpPort: heldForHttp.port },
      metricsPort: heldForMetrics.port,
    };
    const placed = environment.at(ports);
    await held.giveToServer();
    await heldForHttp.giveToServer();
    await heldForMetrics.giveToServer();
    try {
      const server = await startWithAdministrator({ environment: placed, starter, running: own });
      running.use(own.move());
      sayIfOther(FIRST_PORT, ports.port);
      sayIfOther(FIRST_HTTP_PORT, ports.httpPort);
      sayIfOther(FIRST_METRICS_PORT, ports.metricsPort);
      return { server: server.identity, identities: placed.identities, ports };
    } catch (error) {
      if (!(error instanceof PortTaken) || attempt === PORTS_TRIED) throw error;
    }
  }
}

function sayIfOther(first: number, port: number): void {
  if (port !== first) say(`Port ${first} is in use; using ${port}.`);
}

/**
 * Starts the server. Where the administrator has no roles, as in a new environment, it is started
 * for a moment with a first administrator who gives them, and then without: what is started for
 * good has none.
 */
async function startWithAdministrator(
  starting: Starting<PlacedEnvironment>,
): Promise<ServerProcess> {
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
 * to. Throws {@link PortTaken} where another program listens on its port.
 */
async function startServer(
  { environment, starter, running }: Starting<PlacedEnvironment>,
  extra: Readonly<Record<string, string>> = {},
): Promise<ServerProcess> {
  const { variables, identities } = environment;
  const client = identities.admin;
  const server = spawnServer(ROOT, { ...variables, ...extra }, PATHS.serverLog);
  let isStopping = false;
  const stop = () => {
    isStopping = true;
    return server.stop();
  };
  running.defer(stop);
  const lost = new AbortController();
  void server.ended.then((how) => {
    if (isStopping) return;
    if (server.logTail().includes('EADDRINUSE')) return lost.abort(new PortTaken());
    const log = relative(ROOT, PATHS.serverLog);
    const message = `cannot serve: the server ended (${how}); its log, ${log}, ends:`;
    ending.abort(new Error(`${message}\n${server.logTail()}`));
  });
  writeState({ starter, address: client.address, server: server.identity, serving: false });
  const timeout = AbortSignal.timeout(SERVING_TIMEOUT_MS);
  const until = AbortSignal.any([ending.signal, lost.signal, timeout]);
  await waitUntilServing(client, until).catch((error) => {
    if (ending.signal.aborted || lost.signal.aborted) throw error;
    const seconds = SERVING_TIMEOUT_MS / 1000;
    throw new Error(
      `cannot serve: the server is not ready after ${seconds} s; ` +
        `its log ends:\n${server.logTail()}`,
    );
  });
  return { ...server, stop };
}

/** The command uses a folder's profiles only where the user has allowed them: these are ours. */
function allowOwnProfiles(): void {
  const { allowed, said } = allowProfiles(ROOT);
  const file = relative(ROOT, PATHS.profilesFile);
  if (allowed) say(`Allowed the command keyward to use ${file} in this folder.`);
  else say(`The command keyward cannot use ${file} yet:\n${said}`);
}

async function showAtWork(
  { admin, service, auditor }: Identities,
  issuers: Issuers,
  database: string,
): Promise<void> {
  say('\nWhat its callers see:');
  const token = (file: string) => () => readFileSync(file, 'utf8').trim();
  using asAdmin = connect(admin);
  using asService = connect({ ...service, token: token(service.tokenFile) });
  using asAuditor = connect({ ...auditor, token: token(auditor.tokenFile) });
  const callers = { admin: asAdmin, service: asService, auditor: asAuditor };
  const { address, caFile } = auditor;
  await demonstrate({
    callers,
    person: (subject) => {
      const own = { issuer: 'dev-people', subject, groups: [] } as const;
      return connect({ address, caFile, token: () => issuers.issue(own) });
    },
    file: PATHS.demonstration,
    approverFile: PATHS.approver,
    ...{ database, say },
  });
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

function howToCall(
  { address, caFile, certFile, keyFile, tokenFile }: Identities['service'],
  { httpPort, metricsPort }: Required<Ports>,
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
or as a person, alice or bob (administrators), carol (an auditor) or oscar (an operator):
  npx keyward --profile alice login
  npx keyward --profile alice whoami
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

Metrics are at http://127.0.0.1:${metricsPort}/metrics (docs/metrics.md), and whether the server is
ready, and why not, at http://127.0.0.1:${metricsPort}/readyz. How the service is doing:
  npx keyward --profile auditor status
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
