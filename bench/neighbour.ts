/**
 * What a tenant notices of another one that sends ten times what its quota lets through.
 *
 * Slices with and without the neighbour alternate, and each ratio is of two slices of one round, so
 * that what the machine does besides weighs on both. Knows no figures of other measurements.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Bench, type Context, encryptOf, say, warmUp } from './bench.ts';
import type { Noise, NoiseResult } from './load-protocol.ts';
import { paragraph, spread, table, target } from './markdown.ts';
import {
  type Figures,
  measureSlice,
  median,
  type Spread,
  spreadOf,
  type Timing,
} from './measure.ts';
import { OpenLoop } from './open-loop.ts';
import { prepareNeighbour, type Workload } from './workloads.ts';

/** Calls each second that the neighbour may make. */
const NEIGHBOUR_QUOTA = 100;
/** How many times that it makes. */
const NEIGHBOUR_TIMES = 10;
/** What a quiet neighbour may make at once is used up after this, at ten times its quota. */
const SETTLE_MS = 300;

/** At one number of calls in flight of the tenant that is measured. */
export interface NeighbourRow {
  readonly inFlight: number;
  readonly p99Without: number;
  readonly p99With: number;
  /** Of rounds: the median, the lowest, the highest. */
  readonly ratio: Spread;
  /** Calls of the neighbour each second: sent, and let through. */
  readonly sent: number;
  readonly letThrough: number;
}

const FULL = { rampMs: 150, measureMs: 2_000, rounds: 5, warmUpMs: 1_500 };
const QUICK = { rampMs: 20, measureMs: 200, rounds: 1, warmUpMs: 50 };
const MOST_P99 = 2;

const METHOD = `
  Encrypt for one tenant, in slices alone and in slices beside another tenant, in turn. The
  neighbour has a quota of ${NEIGHBOUR_QUOTA} calls a second, and a process of its own sends
  ${NEIGHBOUR_TIMES} times that, Encrypt too, in an open loop. The ratio is the median
  (lowest–highest) of the rounds'.`;

/** See this file's first paragraph. */
export const neighbour: Bench = {
  name: 'neighbour',
  title: 'A noisy neighbour',
  measures: 'what a tenant notices of another at ten times its quota',
  async run(context) {
    say('beside a noisy neighbour …');
    const { environment, load, send, isQuick } = context;
    const plan = isQuick ? QUICK : FULL;
    const encrypt = encryptOf(context);
    await warmUp(load, [[environment.target, encrypt]], plan.warmUpMs);
    const { path, requests } = await prepareNeighbour(send, NEIGHBOUR_QUOTA);
    const noise = { path, requests, perSecond: NEIGHBOUR_QUOTA * NEIGHBOUR_TIMES };
    const rows = await measureBeside(context, encrypt, noise, plan);
    return { text: neighbourText(rows), targets: rows.map(neighbourTarget) };
  },
};

function neighbourText(rows: readonly NeighbourRow[]): string {
  const headings = [
    'in flight',
    'p99 ms alone',
    'p99 ms beside',
    'ratio',
    'neighbour sends/s',
    'is let through/s',
  ];
  const cells = rows.map(({ inFlight, p99Without, p99With, ratio, sent, letThrough }) => [
    String(inFlight),
    p99Without.toFixed(2),
    p99With.toFixed(2),
    spread(ratio),
    sent.toFixed(0),
    letThrough.toFixed(0),
  ]);
  return [paragraph(METHOD), table(headings, cells)].join('\n\n');
}

function neighbourTarget({ inFlight, ratio: [ratio] }: NeighbourRow): string {
  const text =
    `Encrypt's p99 at ${inFlight} in flight beside a tenant at ${NEIGHBOUR_TIMES} times its ` +
    `quota: ${ratio.toFixed(2)} times that alone; at most ${MOST_P99}`;
  return target(ratio <= MOST_P99, text);
}

/** Measures Encrypt of one tenant, alone and beside what an open loop sends, in turn. */
export async function measureBeside(
  { environment, load }: Pick<Context, 'environment' | 'load'>,
  encrypt: Workload,
  noise: Pick<Noise, 'path' | 'requests' | 'perSecond'>,
  timing: Timing,
): Promise<NeighbourRow[]> {
  const { target } = environment;
  const { address } = target;
  using neighbour = new OpenLoop(environment.client);
  const rows: NeighbourRow[] = [];
  for (const inFlight of [1, 10]) {
    const slice = () => measureSlice(load, target, encrypt, { ...timing, inFlight });
    const rounds: { alone: Figures; beside: Figures; noise: NoiseResult }[] = [];
    for (let round = 0; round < timing.rounds; round++) {
      const alone = await slice();
      await neighbour.begin({ ...noise, address });
      await delay(SETTLE_MS);
      const beside = await slice();
      rounds.push({ alone, beside, noise: await neighbour.end() });
    }
    const ratios = rounds.map(({ alone, beside }) => beside.p99Ms / alone.p99Ms);
    const perSecond = (count: (result: NoiseResult) => number) =>
      median(rounds.map((each) => count(each.noise) / each.noise.seconds));
    rows.push({
      inFlight,
      p99Without: median(rounds.map(({ alone }) => alone.p99Ms)),
      p99With: median(rounds.map(({ beside }) => beside.p99Ms)),
      ratio: spreadOf(ratios),
      sent: perSecond(({ answered, refused }) => answered + refused),
      letThrough: perSecond(({ answered }) => answered),
    });
  }
  return rows;
}
