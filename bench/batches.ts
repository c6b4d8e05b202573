/**
 * What an item of a batch costs all processes of the service together, beside what a call costs the
 * echo server: small items, whose context the batch has.
 *
 * The figures are of CPU time, each over the floor's of the same round, so that what the machine
 * does besides weighs on both.
 */
import { type Bench, say } from './bench.ts';
import { item, paragraph, spread, table, target } from './markdown.ts';
import {
  type Figures,
  type Load,
  measureSlice,
  median,
  type Spread,
  serverSideCpu,
  spreadOf,
  type Target,
} from './measure.ts';
import { prepareSmallBatches, type Workload } from './workloads.ts';

/** So many batches. */
export const BATCHES_IN_FLIGHT = 8;
/** Of the echo's calls, which are cheapest so. */
const ECHO_IN_FLIGHT = 64;
/** Of the echo's CPU for a call. */
const OF_ECHO = 0.55;

/** How long it takes. */
interface BatchPlan {
  readonly rampMs: number;
  readonly measureMs: number;
  readonly rounds: number;
  readonly warmUpMs: number;
}

const FULL: BatchPlan = { rampMs: 150, measureMs: 1_500, rounds: 5, warmUpMs: 4_000 };
const QUICK: BatchPlan = { rampMs: 20, measureMs: 100, rounds: 1, warmUpMs: 50 };

/** See this file's first paragraph. */
export const batches: Bench = {
  name: 'batches',
  title: 'Items of batches',
  measures: 'what a small item of a batch costs all processes',
  async run({ isQuick, environment, load, floor, send }) {
    say('small batches …');
    const plan = isQuick ? QUICK : FULL;
    const small = await prepareSmallBatches(send);
    const results = await measureBatches(load, floor, environment.target, small, plan);
    return { text: batchText(results), targets: batchTargets(results) };
  },
};

/** A kind of batch, with the median of its rounds. */
interface BatchRow {
  readonly name: string;
  readonly perSecond: number;
  /** Microseconds for each item. */
  readonly server: number;
  readonly agent: number;
  readonly database: number;
  /** All three, over what a call costs the echo server: the median, the lowest, the highest. */
  readonly ofEcho: Spread;
}

/** The rows, and what a call costs the echo server, in microseconds. */
interface BatchResults {
  readonly rows: readonly BatchRow[];
  readonly echo: number;
}

/** Measures each batch in turn with the floor. */
async function measureBatches(
  load: Load,
  [echo, call]: readonly [Target, Workload],
  service: Target,
  batches: readonly Workload[],
  plan: BatchPlan,
): Promise<BatchResults> {
  const timing = { ...plan, inFlight: BATCHES_IN_FLIGHT };
  const echoed = { ...plan, inFlight: ECHO_IN_FLIGHT };
  const warm = { rampMs: 0, measureMs: plan.warmUpMs, inFlight: BATCHES_IN_FLIGHT };
  await measureSlice(load, echo, call, warm);
  for (const batch of batches) await measureSlice(load, service, batch, warm);
  const floors: Figures[] = [];
  const slices = batches.map((): Figures[] => []);
  for (let round = 0; round < plan.rounds; round++) {
    floors.push(await measureSlice(load, echo, call, echoed));
    for (const [index, batch] of batches.entries())
      slices[index]?.push(await measureSlice(load, service, batch, timing));
  }
  const rows = batches.map(({ name }, index) => rowOf(name, slices[index] ?? [], floors));
  return { rows, echo: median(floors.map(({ serverCpu }) => serverCpu)) };
}

function rowOf(name: string, slices: readonly Figures[], floors: readonly Figures[]): BatchRow {
  const of = (take: (figures: Figures) => number | undefined) =>
    median(slices.map((figures) => take(figures) ?? Number.NaN));
  const ratios = slices.map(
    (figures, round) => serverSideCpu(figures) / serverSideCpu(floors[round] as Figures),
  );
  return {
    name,
    perSecond: of(({ perSecond }) => perSecond),
    server: of(({ serverCpu }) => serverCpu),
    agent: of(({ agentCpu }) => agentCpu),
    database: of(({ databaseCpu }) => databaseCpu),
    ofEcho: spreadOf(ratios),
  };
}

function batchText({ rows, echo }: BatchResults): string {
  const cells = rows.map(({ name, perSecond, server, agent, database, ofEcho }) => [
    name,
    perSecond.toFixed(0),
    ...[server, agent, database].map((each) => each.toFixed(1)),
    spread(ofEcho),
  ]);
  return [
    paragraph(`
  Batches of small items, ${BATCHES_IN_FLIGHT} in flight, whose context the batch has, in turn with
  the floor, of which ${ECHO_IN_FLIGHT} calls are in flight. CPU in µs for each item; "of echo" is
  that of server, agent and Postgres together, over what a call costs the echo server in the same
  round: the median, the lowest, the highest.`),
    table(['batch', 'items/s', 'server', 'agent', 'Postgres', 'of echo'], cells),
    item(`A call costs the echo server ${echo.toFixed(1)} µs.`),
  ].join('\n\n');
}

function batchTargets({ rows }: BatchResults): string[] {
  return rows.map(({ name, ofEcho: [middle] }) =>
    target(
      middle <= OF_ECHO,
      `an item of ${name}: ${middle.toFixed(2)} of the echo's CPU for a call; to reach ${OF_ECHO}`,
    ),
  );
}
