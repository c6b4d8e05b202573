/**
 * What two server processes behind one port give beside one with as many agents: the rate, and the
 * CPU time of all processes for a call.
 *
 * Both run beside each other and are loaded in turn, by as many connections, so that what the
 * machine does besides weighs on both.
 */
import { type Bench, encryptOf, say, warmUp } from './bench.ts';
import { paragraph, spread, table, target } from './markdown.ts';
import { type Figures, measureSlice, median, type Target } from './measure.ts';

const FULL = { rampMs: 150, measureMs: 2_000, rounds: 9, warmUpMs: 12_000 };
const QUICK = { rampMs: 20, measureMs: 300, rounds: 3, warmUpMs: 200 };
const IN_FLIGHT = 64;
const CONNECTIONS = 4;
/** Of the CPU time of one process. */
const OF_CPU = 1.05;

const METHOD = `
  Encrypt of 1 KiB, ${IN_FLIGHT} calls in flight on ${CONNECTIONS} connections: one server process
  with two agents, and two server processes with one agent each and their supervisor
  (\`KEYWARD_SERVERS=2\`), in turn. CPU in µs for each call, of all processes. The load generator
  and Postgres use the same cores.`;

/** See this file's first paragraph. */
export const cores: Bench = {
  name: 'cores',
  title: 'Several server processes',
  measures: 'what two server processes give beside one with two agents',
  async run(context) {
    say('server processes …');
    const { environment, load, isQuick } = context;
    const plan = isQuick ? QUICK : FULL;
    const encrypt = encryptOf(context);
    await using one = await environment.startBeside({ KEYWARD_HSM_AGENTS: '2' });
    await using two = await environment.startBeside({ KEYWARD_SERVERS: '2' });
    const targets = [one, two].map((each) => ({ ...each, connections: CONNECTIONS }) as Target);
    const slices: Figures[][] = targets.map(() => []);
    await warmUp(
      load,
      targets.map((each) => [each, encrypt] as const),
      plan.warmUpMs,
    );
    for (let round = 0; round < plan.rounds; round++)
      for (const [index, each] of targets.entries())
        slices[index]?.push(
          await measureSlice(load, each, encrypt, { ...plan, inFlight: IN_FLIGHT }),
        );
    return sectionOf(slices[0] ?? [], slices[1] ?? []);
  },
};

function cpuOf({ serverCpu, agentCpu = 0, databaseCpu = 0 }: Figures): number {
  return serverCpu + agentCpu + databaseCpu;
}

function sectionOf(one: readonly Figures[], two: readonly Figures[]) {
  const ratios = (take: (figures: Figures) => number) =>
    two.map((figures, round) => take(figures) / take(one[round] ?? figures));
  const spreadOf = (values: readonly number[]) =>
    [median(values), Math.min(...values), Math.max(...values)] as const;
  const rate = spreadOf(ratios(({ perSecond }) => perSecond));
  const cpu = spreadOf(ratios(cpuOf));
  const row = (name: string, slices: readonly Figures[]) => {
    const of = (take: (figures: Figures) => number) => median(slices.map(take));
    return [
      name,
      of(({ perSecond }) => perSecond).toFixed(0),
      of(({ p50Ms }) => p50Ms).toFixed(1),
      of(({ p99Ms }) => p99Ms).toFixed(1),
      ...[({ serverCpu }: Figures) => serverCpu, ({ agentCpu = 0 }: Figures) => agentCpu].map(
        (take) => of(take).toFixed(0),
      ),
      of(({ databaseCpu = 0 }) => databaseCpu).toFixed(0),
    ];
  };
  const headings = ['service', 'calls/s', 'p50 ms', 'p99 ms', 'server', 'agents', 'Postgres'];
  const rows = [row('one process, two agents', one), row('two processes, one agent each', two)];
  const ratio = `Two processes over one, by rounds: rate ${spread(rate)}, CPU ${spread(cpu)}.`;
  return {
    text: [paragraph(METHOD), table(headings, rows), ratio].join('\n\n'),
    targets: [
      target(rate[0] >= 1, `rate of two processes over one: ${rate[0].toFixed(2)}; to reach 1`),
      target(
        cpu[0] <= OF_CPU,
        `CPU for a call, likewise: ${cpu[0].toFixed(2)}; to reach ${OF_CPU}`,
      ),
    ],
  };
}
