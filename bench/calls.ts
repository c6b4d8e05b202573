/**
 * Each kind of call and its batch beside the floor, at several numbers of calls in flight; making
 * keys, and using them for the first time; memory after all of that, and what a service costs to
 * which nobody calls.
 */
import { type Bench, type Context, encryptOf, say, warmUp } from './bench.ts';
import { lineChart } from './figure.ts';
import { type IdleResults, measureIdle } from './idle.ts';
import { figure, item, target } from './markdown.ts';
import { alternate, measureSlice, type OfFloor, type Row, type Timing } from './measure.ts';
import { residentMegabytes } from './processes.ts';
import { rowTable } from './row-table.ts';
import { createKeys, firstUses, type Workload } from './workloads.ts';

interface Plan extends Timing {
  readonly warmUpMs: number;
  /** How long nobody calls. */
  readonly idleMs: number;
  /** CreateKey, at each number of calls in flight. */
  readonly createKeys: number;
  /** Keys that are used for the first time. */
  readonly firstUses: number;
}

const FULL: Plan = {
  rampMs: 150,
  measureMs: 700,
  rounds: 5,
  warmUpMs: 1_500,
  idleMs: 30_000,
  createKeys: 400,
  firstUses: 400,
};
const QUICK: Plan = {
  rampMs: 20,
  measureMs: 100,
  rounds: 1,
  warmUpMs: 50,
  idleMs: 1_000,
  createKeys: 20,
  firstUses: 20,
};
const IN_FLIGHT = [1, 10, 64] as const;
/** Of Encrypt and the floor, for the figures. */
const SWEEP = [1, 2, 4, 8, 16, 32, 64, 128, 256] as const;
const SWEEP_ROUNDS = 3;
const MOST_IN_FLIGHT = 64;
/** Of Encrypt, over the floor's: at most, and of the rate at least. */
const ALONE = { cpu: 4, p50: 3.5 };
const AT_MOST_IN_FLIGHT = { cpu: 2.6, rate: 0.55 };
const BATCH_OVER_UNARY = 5;
const MEGABYTES = 250;
const ONCE_LIMIT_MS = 10_000;
const THROUGHPUT = 'Throughput over calls in flight';
const LATENCY = 'p99 over calls in flight';

/** Resident memory in megabytes, after all slices of a kind. */
interface Resident {
  readonly after: string;
  readonly server: number;
  readonly agent: number;
}

/** See this file's first paragraph. */
export const calls: Bench = {
  name: 'calls',
  title: 'Calls',
  measures: 'every kind of call and its batch, memory, and an idle service',
  async run(context) {
    const plan = context.isQuick ? QUICK : FULL;
    const { environment, load, floor } = context;
    const service = environment.target;
    say('warming up …');
    const pairs = context.calls.map((each) => [service, each] as const);
    await warmUp(load, [floor, ...pairs], plan.warmUpMs);
    say('idle …');
    const idle = await measureIdle(service, plan.idleMs);
    const [rows, megabytes]: [Row[], Resident[]] = [[], []];
    for (const kind of ['calls', 'batches'] as const) {
      rows.push(...(await measureKind(context, kind, plan)));
      const [server, agent] = [service.serverPid, service.agentPid].map(residentMegabytes);
      megabytes.push({ after: kind, server: server ?? Number.NaN, agent: agent ?? Number.NaN });
    }
    const figures = await sweep(context, plan);
    rows.push(...(await measureKeys(context, plan)));
    const notes = [...megabytes.map(residentText), idleText(idle)];
    return {
      text: [
        rowTable(rows),
        notes.join('\n'),
        figure('throughput', THROUGHPUT),
        figure('latency', LATENCY),
      ].join('\n\n'),
      figures,
      targets: [...rateTargets(rows, context.calls), ...megabytes.map(memoryTarget)],
    };
  },
};

async function measureKind(
  { environment, load, floor, calls: all }: Context,
  kind: 'calls' | 'batches',
  plan: Plan,
): Promise<Row[]> {
  const own = all.filter(({ unary }) => (unary === undefined) === (kind === 'calls'));
  const rows: Row[] = [];
  for (const inFlight of IN_FLIGHT) {
    say(`${kind}, ${inFlight} in flight …`);
    const pairs = own.map((workload) => [environment.target, workload] as const);
    const measured = await alternate(load, floor, pairs, { ...plan, inFlight });
    // The batches have a floor of their own to be compared with; once in the table is enough.
    rows.push(...(kind === 'calls' ? measured : measured.slice(1)));
  }
  return rows;
}

/** Encrypt and the floor over calls in flight, as figures. */
async function sweep(
  context: Context,
  plan: Plan,
): Promise<Readonly<Record<'throughput' | 'latency', string>>> {
  say('over calls in flight …');
  const { environment, load, floor } = context;
  const pairs = [[environment.target, encryptOf(context)]] as const;
  const rounds = Math.min(plan.rounds, SWEEP_ROUNDS);
  const rows: Row[] = [];
  for (const inFlight of SWEEP)
    rows.push(...(await alternate(load, floor, pairs, { ...plan, rounds, inFlight })));
  const series = (value: (row: Row) => number) =>
    ['Encrypt', 'floor'].map((name) => ({
      name,
      points: rows
        .filter((row) => row.name === name)
        .map((row) => [row.inFlight, value(row)] as const),
    }));
  const x = { label: 'calls in flight', isLog: true };
  return {
    throughput: lineChart({
      ...{ title: THROUGHPUT, x, y: { label: 'calls a second' } },
      series: series(({ perSecond }) => perSecond),
    }),
    latency: lineChart({
      ...{ title: LATENCY, x, y: { label: 'p99, ms', isLog: true } },
      series: series(({ p99Ms }) => p99Ms),
    }),
  };
}

/** Making keys, and using them when neither server nor agent has them. */
async function measureKeys(context: Context, plan: Plan): Promise<Row[]> {
  const { load, environment } = context;
  say('making keys …');
  const rows: Row[] = [];
  const once = { rampMs: 0, measureMs: ONCE_LIMIT_MS, once: true };
  const idsOf = (inFlight: number) =>
    Array.from({ length: plan.createKeys }, (_, index) => `made-${inFlight}-${index}`);
  for (const inFlight of [1, 10]) {
    const workload = createKeys(idsOf(inFlight));
    const figures = await measureSlice(load, environment.target, workload, { ...once, inFlight });
    rows.push({ ...figures, inFlight, name: workload.name, ofFloor: undefined });
  }
  await environment.restart();
  const service = environment.target;
  await warmUp(load, [[service, encryptOf(context)]], plan.warmUpMs);
  const workload = firstUses(idsOf(1).slice(0, plan.firstUses));
  const figures = await measureSlice(load, service, workload, { ...once, inFlight: 1 });
  return [...rows, { ...figures, inFlight: 1, name: workload.name, ofFloor: undefined }];
}

function residentText({ after, server, agent }: Resident): string {
  const when = `after the ${after} at ${MOST_IN_FLIGHT} in flight`;
  return item(`Resident ${when}: server ${server.toFixed(0)} MB, agent ${agent.toFixed(0)} MB.`);
}

function idleText({ server, agent, database }: IdleResults): string {
  const [one, two, three] = [server, agent, database].map((cpu) => cpu.toFixed(0));
  return item(
    `CPU in a minute without calls: server ${one} ms, agent ${two} ms, Postgres ${three} ms.`,
  );
}

function rateTargets(rows: readonly Row[], all: readonly Workload[]): string[] {
  const rowOf = (name: string, inFlight: number) =>
    rows.find((row) => row.inFlight === inFlight && row.name === name);
  const rate = (name: string) => rowOf(name, MOST_IN_FLIGHT)?.perSecond ?? Number.NaN;
  const encrypt = (inFlight: number, figure: keyof OfFloor) =>
    rowOf('Encrypt', inFlight)?.ofFloor?.[figure][0] ?? Number.NaN;
  const [cpuAlone, p50Alone] = [encrypt(1, 'cpu'), encrypt(1, 'p50')];
  const [cpu, share] = [encrypt(MOST_IN_FLIGHT, 'cpu'), encrypt(MOST_IN_FLIGHT, 'rate')];
  const most = `Encrypt at ${MOST_IN_FLIGHT} in flight`;
  return [
    target(
      cpuAlone <= ALONE.cpu,
      `Encrypt alone: ${cpuAlone.toFixed(1)} times the floor's CPU; at most ${ALONE.cpu}`,
    ),
    target(
      p50Alone <= ALONE.p50,
      `Encrypt alone: ${p50Alone.toFixed(1)} times the floor's p50; at most ${ALONE.p50}`,
    ),
    target(
      cpu <= AT_MOST_IN_FLIGHT.cpu,
      `${most}: ${cpu.toFixed(1)} times the floor's CPU; at most ${AT_MOST_IN_FLIGHT.cpu}`,
    ),
    target(
      share >= AT_MOST_IN_FLIGHT.rate,
      `${most}: ${share.toFixed(2)} of the floor's rate; to reach ${AT_MOST_IN_FLIGHT.rate}`,
    ),
    ...all.flatMap(({ name, unary }) => {
      if (unary === undefined) return [];
      const times = rate(name) / rate(unary);
      const text =
        `${name} at ${MOST_IN_FLIGHT} in flight: ${times.toFixed(1)} times the items of ` +
        `${unary}; to reach ${BATCH_OVER_UNARY}`;
      return [target(times >= BATCH_OVER_UNARY, text)];
    }),
  ];
}

function memoryTarget({ after, server, agent }: Resident): string {
  const total = server + agent;
  const text =
    `server and agent after the ${after}: ${total.toFixed(0)} MB; ` + `to stay under ${MEGABYTES}`;
  return target(total < MEGABYTES, text);
}
