/**
 * What a network HSM costs: one that takes 2 ms for each signature. How throughput grows with the
 * agents that wait for it, how soon the server's event loop comes round meanwhile, and what is left
 * of the wait under a key with derivation epochs.
 *
 * The HSM is SoftHSM behind a module that sleeps as it is told, at once for every process: so it is
 * slow and fast in turn under one server, and what the machine does besides weighs on both.
 */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { connect } from 'keyward-client';
import { freePort } from '../dev/postgres.ts';
import { faultsFor, type Pkcs11Faults } from '../test/faults/pkcs11.ts';
import { type Bench, type Context, encryptOf, say, warmUp } from './bench.ts';
import type { WholeTarget } from './environment.ts';
import { paragraph, spread, table, target } from './markdown.ts';
import {
  type Figures,
  measureSlice,
  median,
  type Spread,
  spreadOf,
  type Timing,
} from './measure.ts';
import { encryptUnder, TENANT, type Workload } from './workloads.ts';

interface Plan extends Timing {
  /** With the fast module: with the slow one there would be too few calls to compile all. */
  readonly warmUpMs: number;
  readonly epochRounds: number;
}

const FULL: Plan = {
  ...{ rampMs: 300, measureMs: 2_000, rounds: 3 },
  ...{ warmUpMs: 8_000, epochRounds: 7 },
};
const QUICK: Plan = {
  ...{ rampMs: 20, measureMs: 300, rounds: 1 },
  ...{ warmUpMs: 100, epochRounds: 1 },
};
const SLOW_MS = 2;
const SLOW = `C_Sign delay ${SLOW_MS}`;
const FAST = 'C_Sign count';
const AGENTS = [1, 2, 4, 8];
const IN_FLIGHT = 64;
const EPOCH = { epochMaxMessages: 1_000, epochMaxAgeSeconds: 300 };
/** So many calls are made to count the signatures of one. */
const COUNTED = { single: 200, inEpochs: 2 * EPOCH.epochMaxMessages };
const COUNT_LIMIT_MS = 60_000;
const LAG = /^nodejs_eventloop_lag_p99_seconds(?:\{\})? (\S+)$/m;

const OF_IDEAL = 0.8;
const LAG_MS = 20;
const OF_FAST = 0.9;
/** Of the machine's cores: from here on it is they that are the limit. */
const ALL_CORES = 0.95;

/** What so many agents came to. */
interface Row {
  readonly agents: number;
  /** How often a call asked the module to sign. */
  readonly signatures: number;
  readonly slices: readonly Figures[];
  readonly ofIdeal: Spread;
  readonly lagMs: number;
  /** How many the server, its agents, Postgres and the load generator kept busy. */
  readonly cores: number;
}

/** A key with epochs, with the slow module and the fast one. */
interface Epochs {
  readonly slowPerSecond: number;
  readonly fastPerSecond: number;
  readonly ofFast: Spread;
  readonly signatures: number;
}

/** See this file's first paragraph. */
export const networkHsm: Bench = {
  name: 'network-hsm',
  title: 'A network HSM',
  measures: 'throughput over the number of agents with an HSM of 2 ms, and derivation epochs',
  async run(context) {
    const { environment, isQuick } = context;
    const plan = isQuick ? QUICK : FULL;
    // No other variables: a server beside has addresses of its own.
    const { KEYWARD_HSM_MODULE = '', KEYWARD_HSM_ENVIRONMENT = '' } = environment.variables;
    const token = { KEYWARD_HSM_MODULE, KEYWARD_HSM_ENVIRONMENT };
    const faults = faultsFor(join(environment.directory, 'network-hsm'), token);
    const rows: Row[] = [];
    for (const agents of AGENTS) {
      say(`an HSM of ${SLOW_MS} ms, ${agents} at once …`);
      rows.push(await measureAgents(context, faults, plan, agents));
    }
    say('derivation epochs …');
    const epochs = await measureEpochs(context, faults, plan);
    return {
      text: textOf(rows, epochs),
      targets: [...rows.map(rateTarget), lagTarget(rows), epochTarget(epochs)],
    };
  },
};

/** Starts a server beside, whose agents use the module; returns what reads its event loop's lag. */
async function startOverModule(
  { environment }: Context,
  { variables }: Pkcs11Faults,
  agents: number,
) {
  const operators = `127.0.0.1:${await freePort()}`;
  const own = { KEYWARD_HSM_AGENTS: String(agents), KEYWARD_METRICS_LISTEN: operators };
  const server = await environment.startBeside({ ...variables, ...own });
  // Since it was read last: each reading begins another histogram.
  const lagMs = async () => {
    const text = await (await fetch(`http://${operators}/metrics`)).text();
    return Number(LAG.exec(text)?.[1]) * 1_000;
  };
  return { server, lagMs, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

/** Returns how often one of so many calls asks the module to sign. */
async function countSignatures(
  { load }: Context,
  faults: Pkcs11Faults,
  service: WholeTarget,
  workload: Workload,
  calls: number,
): Promise<number> {
  const { requests } = workload;
  const all = Array.from({ length: calls }, (_, index) => requests[index % requests.length]);
  const timing = { rampMs: 0, measureMs: COUNT_LIMIT_MS, inFlight: IN_FLIGHT, once: true };
  faults.set(FAST);
  await measureSlice(load, service, { ...workload, requests: all as Buffer[] }, timing);
  return faults.met() / calls;
}

async function measureAgents(
  context: Context,
  faults: Pkcs11Faults,
  plan: Plan,
  agents: number,
): Promise<Row> {
  const encrypt = encryptOf(context);
  await using started = await startOverModule(context, faults, agents);
  const { server } = started;
  faults.set(FAST);
  await warmUp(context.load, [[server, encrypt]], plan.warmUpMs);
  const signatures = await countSignatures(context, faults, server, encrypt, COUNTED.single);
  faults.set(SLOW);
  const slices: Figures[] = [];
  const lags: number[] = [];
  await started.lagMs();
  for (let round = 0; round < plan.rounds; round++) {
    slices.push(
      await measureSlice(context.load, server, encrypt, { ...plan, inFlight: IN_FLIGHT }),
    );
    lags.push(await started.lagMs());
  }
  const ideal = idealOf(agents, signatures);
  return {
    ...{ agents, signatures, slices },
    ofIdeal: spreadOf(slices.map(({ perSecond }) => perSecond / ideal)),
    lagMs: median(lags),
    cores: median(slices.map(coresOf)),
  };
}

/** Calls a second of agents that do nothing but wait for the HSM. */
function idealOf(agents: number, signatures: number): number {
  return (agents * 1_000) / (SLOW_MS * Math.round(signatures));
}

function coresOf({ perSecond, serverCpu, agentCpu = 0, databaseCpu = 0, clientCpu }: Figures) {
  return (perSecond * (serverCpu + agentCpu + databaseCpu + clientCpu)) / 1e6;
}

async function measureEpochs(context: Context, faults: Pkcs11Faults, plan: Plan): Promise<Epochs> {
  const { environment, load } = context;
  using keyward = connect(environment.client);
  const parent = `tenants/${TENANT}`;
  const { name } = await keyward.createKey({ parent, keyId: 'epochs', ...EPOCH });
  const encrypt = encryptUnder([name]);
  await using started = await startOverModule(context, faults, 1);
  const { server } = started;
  faults.set(FAST);
  await warmUp(load, [[server, encrypt]], plan.warmUpMs);
  const signatures = await countSignatures(context, faults, server, encrypt, COUNTED.inEpochs);
  const rates = async (rule: string) => {
    faults.set(rule);
    return (await measureSlice(load, server, encrypt, { ...plan, inFlight: IN_FLIGHT })).perSecond;
  };
  const rounds: { readonly slow: number; readonly fast: number }[] = [];
  for (let round = 0; round < plan.epochRounds; round++)
    rounds.push({ slow: await rates(SLOW), fast: await rates(FAST) });
  return {
    slowPerSecond: median(rounds.map(({ slow }) => slow)),
    fastPerSecond: median(rounds.map(({ fast }) => fast)),
    ofFast: spreadOf(rounds.map(({ slow, fast }) => slow / fast)),
    signatures,
  };
}

const METHOD = `
  Encrypt of 1 KiB, ${IN_FLIGHT} calls in flight, each number of agents with a server of its own;
  the module sleeps ${SLOW_MS} ms for each C_Sign. "Of ideal" is the rate over that of agents which
  do nothing but wait for the module. "Lag" is \`nodejs_eventloop_lag_p99_seconds\` of the server
  under this load, which has the 10 ms in it that its own timer waits. The µs are of CPU time
  for a call; "cores" is how many these processes and the load generator kept busy.`;

const EPOCHS = `
  Encrypt under a key with \`epoch_max_messages\` ${EPOCH.epochMaxMessages}, ${IN_FLIGHT} in flight,
  one server with one agent; the module sleeps ${SLOW_MS} ms and 0 ms in turn.`;

function textOf(rows: readonly Row[], epochs: Epochs): string {
  const headings = ['agents', 'C_Sign for a call', 'calls/s', 'of ideal', 'p99 ms', 'lag ms'];
  const { slowPerSecond, fastPerSecond, ofFast } = epochs;
  const rates = `${slowPerSecond.toFixed(0)} calls a second with ${SLOW_MS} ms, and
    ${fastPerSecond.toFixed(0)} with 0 ms: ${spread(ofFast)} by rounds. A call took
    ${epochs.signatures.toFixed(4)} C_Sign.`;
  return [
    paragraph(METHOD),
    table([...headings, 'server µs', 'agents µs', 'Postgres µs', 'cores'], rows.map(cellsOf)),
    ...rows.filter(isBoundByCores).map((row) => paragraph(boundText(row))),
    '### Derivation epochs',
    paragraph(EPOCHS),
    paragraph(rates),
  ].join('\n\n');
}

function cellsOf({ agents, signatures, slices, ofIdeal, lagMs, cores }: Row): string[] {
  const of = (take: (figures: Figures) => number, digits = 0) =>
    median(slices.map(take)).toFixed(digits);
  return [
    String(agents),
    signatures.toFixed(2),
    of(({ perSecond }) => perSecond),
    spread(ofIdeal),
    of(({ p99Ms }) => p99Ms, 1),
    lagMs.toFixed(1),
    of(({ serverCpu }) => serverCpu),
    of(({ agentCpu = 0 }) => agentCpu),
    of(({ databaseCpu = 0 }) => databaseCpu),
    cores.toFixed(2),
  ];
}

function isBoundByCores({ cores }: Row): boolean {
  return cores >= ALL_CORES * availableParallelism();
}

function boundText({ agents, cores }: Row): string {
  return `With ${agents} agents the machine is the limit, and not the HSM: ${cores.toFixed(2)} of
    its ${availableParallelism()} cores are busy.`;
}

function rateTarget({ agents, ofIdeal: [ratio] }: Row): string {
  const who = agents === 1 ? '1 agent' : `${agents} agents`;
  const text = `rate of ${who} with an HSM of ${SLOW_MS} ms: ${ratio.toFixed(2)} of ideal`;
  return target(ratio >= OF_IDEAL, `${text}; to reach ${OF_IDEAL}`);
}

function lagTarget(rows: readonly Row[]): string {
  const worst = Math.max(...rows.map(({ lagMs }) => lagMs));
  const text = `lag of the server's event loop (p99) meanwhile: ${worst.toFixed(1)} ms at most`;
  return target(worst < LAG_MS, `${text}; under ${LAG_MS}`);
}

function epochTarget({ ofFast: [ratio] }: Epochs): string {
  const text = `rate under a key with epochs of ${EPOCH.epochMaxMessages} messages: an HSM of`;
  return target(
    ratio >= OF_FAST,
    `${text} ${SLOW_MS} ms has ${ratio.toFixed(2)} of that of 0 ms; to reach ${OF_FAST}`,
  );
}
