/**
 * What becomes of more calls than the service can do: how many it still does, how soon it refuses
 * the others, and whether health and administration still answer; with the token as fast as it is
 * and with one that takes 2 ms for each signature. And what a tenant notices of another one's large
 * batches.
 *
 * An open loop sends what is too much, by several connections, and so competes for the machine's
 * cores with what it measures: where those are the limit, calls done are also given for each second
 * of CPU time that the service had.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect } from 'keyward-client';
import { isServing } from '../dev/health.ts';
import { faultsFor } from '../test/faults/pkcs11.ts';
import { type Bench, type Context, encryptOf, say, warmUp } from './bench.ts';
import type { Environment } from './environment.ts';
import type { Noise, NoiseResult } from './load-protocol.ts';
import { paragraph, spread, table, target } from './markdown.ts';
import { measureSlice, median, type Timing } from './measure.ts';
import { measureBeside, type NeighbourRow } from './neighbour.ts';
import { OpenLoop } from './open-loop.ts';
import { cpuMicroseconds, cpuMicrosecondsWithChildren } from './processes.ts';
import { prepareLargeBatches } from './workloads.ts';

interface Plan extends Timing {
  readonly warmUpMs: number;
  /** How long there are too many calls. */
  readonly overloadMs: number;
}

const FULL: Plan = { rampMs: 150, measureMs: 2_000, rounds: 3, warmUpMs: 1_500, overloadMs: 8_000 };
const QUICK: Plan = { rampMs: 20, measureMs: 200, rounds: 1, warmUpMs: 50, overloadMs: 800 };
/** How many times the peak, and whether the clients throttle themselves. */
const DEGREES = [
  [1.5, false],
  [2, false],
  [4, false],
  [2, true],
  [4, true],
] as const;
/** In flight where the service does most. */
const IN_FLIGHT = 64;
const CONNECTIONS = 8;
const MAX_UNDER_WAY = 4_000;
const DEADLINE_MS = 5_000;
const LOOK_MS = 100;
const SLOW_MS = 2;
const OF_PEAK = 0.9;
const ANSWERS_MS = 1_000;
const HEAVY_QUOTA = 1_000;
const HEAVY_BYTES = 8_192;
const HEAVY_BATCHES = 10;
const HEAVY_P99 = 2;

/** What one degree of overload came to. */
interface Overload {
  readonly token: string;
  readonly times: number;
  /** Whether its clients hold back what would be refused, as `keyward-client` does. */
  readonly throttled: boolean;
  readonly offered: number;
  readonly result: NoiseResult;
  /** Calls done, each second, over those of the closed loop just before. */
  readonly ofPeak: number;
  /** The same, each for a second of the service's CPU time. */
  readonly ofPeakByCpu: number;
  readonly health: Looks;
  readonly administration: Looks;
}

/** How long answers took, in milliseconds, and how many did not come. */
interface Looks {
  readonly worstMs: number;
  readonly missing: number;
  readonly count: number;
}

/** See this file's first paragraph. */
export const overload: Bench = {
  name: 'overload',
  title: 'Overload',
  measures: 'more calls than the service can do, a slow HSM, and a tenant with large batches',
  async run(context) {
    const { environment, isQuick, send } = context;
    const plan = isQuick ? QUICK : FULL;
    say('too many calls …');
    const fast = await measureToken(context, 'SoftHSM', plan);
    say('large batches of another tenant …');
    const { path, requests } = await prepareLargeBatches(send, HEAVY_QUOTA, HEAVY_BYTES);
    const noise = { path, requests, perSecond: HEAVY_BATCHES };
    const heavy = await measureBeside(context, encryptOf(context), noise, plan);
    say('too many calls for a slow HSM …');
    const faults = faultsFor(join(environment.directory, 'faults'), environment.variables);
    faults.set(`C_Sign delay ${SLOW_MS}`);
    await environment.restart(faults.variables);
    const slow = await measureToken(context, `${SLOW_MS} ms`, plan);
    return {
      text: textOf([...fast, ...slow], heavy),
      targets: [
        ...fast.map(byCpuTarget),
        ...slow.map(byRateTarget),
        ...[...fast, ...slow].flatMap(answerTargets),
        ...heavy.map(heavyTarget),
      ],
    };
  },
};

async function measureToken(context: Context, token: string, plan: Plan): Promise<Overload[]> {
  const { environment, load } = context;
  const { target: service } = environment;
  const encrypt = encryptOf(context);
  await warmUp(load, [[service, encrypt]], plan.warmUpMs);
  const rows: Overload[] = [];
  for (const [times, throttled] of DEGREES) {
    const peaks = [];
    for (let round = 0; round < plan.rounds; round++)
      peaks.push(await measureSlice(load, service, encrypt, { ...plan, inFlight: IN_FLIGHT }));
    const peak = median(peaks.map(({ perSecond }) => perSecond));
    const peakCpu = median(
      peaks.map(
        ({ serverCpu, agentCpu = 0, databaseCpu = 0 }) => serverCpu + agentCpu + databaseCpu,
      ),
    );
    const offered = Math.round(peak * times);
    const { path, requests } = encrypt;
    const noise = { path, requests, perSecond: offered, throttled };
    const { cpu, ...measured } = await overloaded(environment, noise, plan.overloadMs);
    const { answered, seconds } = measured.result;
    rows.push({
      ...{ token, times, throttled, offered, ...measured },
      ofPeak: answered / seconds / peak,
      ofPeakByCpu: peakCpu / (cpu / answered),
    });
  }
  return rows;
}

/** Sends so many calls a second, and looks how health and administration do meanwhile. */
async function overloaded(
  environment: Environment,
  noise: Pick<Noise, 'path' | 'requests' | 'perSecond' | 'throttled'>,
  milliseconds: number,
) {
  const { address, serverPid, agentPid, databasePid } = environment.target;
  const cpu = () =>
    cpuMicroseconds(serverPid) +
    cpuMicroseconds(agentPid) +
    cpuMicrosecondsWithChildren(databasePid);
  using keyward = connect({ ...environment.client, retries: 0 });
  const getKey = () => keyward.getKey({ name: 'tenants/bench/keys/first' });
  using loop = new OpenLoop(environment.client);
  // The administrator's connection is there before.
  await getKey();
  const limits = { connections: CONNECTIONS, maxUnderWay: MAX_UNDER_WAY, deadlineMs: DEADLINE_MS };
  await loop.begin({ ...limits, ...noise, address, mayFail: true });
  const before = cpu();
  const until = performance.now() + milliseconds;
  const [health, administration] = await Promise.all([
    look(until, async () => {
      if (!(await isServing(environment.client))) throw new Error('not serving');
    }),
    look(until, getKey),
  ]);
  const used = cpu() - before;
  const result = await loop.end();
  return { result, health, administration, cpu: used };
}

async function look(until: number, ask: () => Promise<unknown>): Promise<Looks> {
  let [worstMs, missing, count] = [0, 0, 0];
  for (; performance.now() < until; await delay(LOOK_MS)) {
    const began = performance.now();
    count += 1;
    try {
      await ask();
      worstMs = Math.max(worstMs, performance.now() - began);
    } catch {
      missing += 1;
    }
  }
  return { worstMs, missing, count };
}

const METHOD = `
  Encrypt in an open loop by ${CONNECTIONS} connections of one caller, at several times the rate
  that a closed loop of ${IN_FLIGHT} had just before, with deadlines of ${DEADLINE_MS / 1000} s.
  "Of peak" is the rate of calls done over that rate; "by CPU" the same for each second of CPU time
  of server, agent and Postgres, since the loop takes its own from the cores that they share. "With
  RetryInfo" is the share of refusals that say when to try again. "keyward-client" is a loop whose
  connections each hold back what a full service would refuse, by that client's own throttle; other
  clients send everything. Failed are those that ran out of time or were not recorded in time.
  Beside it, health is asked for on a connection of its own each time, and GetKey by an
  administrator: the slowest answer, and how many were missing of how many.
  With "${SLOW_MS} ms" the token sleeps that time for each signature.`;

const HEAVY = `
  What a tenant's Encrypt notices of another that sends ${HEAVY_BATCHES} batches of 100 items of
  ${HEAVY_BYTES} bytes a second, which is its quota, ${HEAVY_QUOTA} items a second.`;

function textOf(rows: readonly Overload[], heavy: readonly NeighbourRow[]): string {
  const headings = [
    'token',
    'clients',
    'offered/s',
    'times peak',
    'done/s',
    'of peak',
    'by CPU',
    'held back/s',
    'refused/s',
    'refused after ms (p50, p99)',
    'with RetryInfo',
    'failed/s',
    'done after ms (p99)',
    'health ms',
    'GetKey ms',
  ];
  const looks = ({ worstMs, missing, count }: Looks) =>
    `${worstMs.toFixed(0)} (${missing} of ${count} missing)`;
  const cells = rows.map(({ token, offered, times, result, ...row }) => {
    const rate = (count: number) => (count / result.seconds).toFixed(0);
    const { refused, refusedWithRetryInfo } = result;
    return [
      token,
      row.throttled ? 'keyward-client' : 'others',
      String(offered),
      String(times),
      rate(result.answered),
      row.ofPeak.toFixed(2),
      row.ofPeakByCpu.toFixed(2),
      rate(result.heldBack),
      rate(refused),
      `${result.refusedP50Ms.toFixed(1)}, ${result.refusedP99Ms.toFixed(1)}`,
      refused === 0 ? '–' : (refusedWithRetryInfo / refused).toFixed(2),
      rate(result.failed),
      result.answeredP99Ms.toFixed(0),
      looks(row.health),
      looks(row.administration),
    ];
  });
  const heavyCells = heavy.map(({ inFlight, p99Without, p99With, ratio }) => [
    String(inFlight),
    p99Without.toFixed(2),
    p99With.toFixed(2),
    spread(ratio),
  ]);
  return [
    paragraph(METHOD),
    table(headings, cells),
    "### Another tenant's large batches",
    paragraph(HEAVY),
    table(['in flight', 'p99 ms alone', 'p99 ms beside', 'ratio'], heavyCells),
  ].join('\n\n');
}

function named({ token, times, throttled }: Overload): string {
  return `at ${times} times the peak (${token}${throttled ? ', keyward-client' : ''})`;
}

function byCpuTarget(row: Overload): string {
  const text = `calls done for each CPU second ${named(row)}: ${row.ofPeakByCpu.toFixed(2)} of it`;
  return target(row.ofPeakByCpu >= OF_PEAK, `${text}; to keep ${OF_PEAK}`);
}

function byRateTarget(row: Overload): string {
  const text = `calls done ${named(row)}: ${row.ofPeak.toFixed(2)} of it`;
  return target(row.ofPeak >= OF_PEAK, `${text}; to keep ${OF_PEAK}`);
}

function answerTargets(row: Overload): string[] {
  const worst = Math.max(row.health.worstMs, row.administration.worstMs);
  const missing = row.health.missing + row.administration.missing;
  const text =
    `health and administration ${named(row)}: ${worst.toFixed(0)} ms at most, ` +
    `${missing} missing; to answer within ${ANSWERS_MS}`;
  return [target(worst <= ANSWERS_MS && missing === 0, text)];
}

function heavyTarget({ inFlight, ratio: [ratio] }: NeighbourRow): string {
  const text = `Encrypt's p99 at ${inFlight} in flight beside large batches: ${ratio.toFixed(2)}`;
  return target(ratio <= HEAVY_P99, `${text} times that alone; at most ${HEAVY_P99}`);
}
