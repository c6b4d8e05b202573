/**
 * What many keys cost: start-up, hot calls, a key's first use and memory, beside the same service
 * on a database without them; and a working set that is larger than the caches.
 *
 * The keys are made past the service, of many tenants, and sealed as any are. At each number of
 * keys the two databases alternate, each with a start of its own, so that what the machine does
 * besides weighs on both.
 */
import type pg from 'pg';
import { type Bench, type Context, encryptOf, say, warmUp } from './bench.ts';
import { lineChart } from './figure.ts';
import { makeKeys, manyKeyId } from './make-keys.ts';
import { figure, paragraph, spread, table, target } from './markdown.ts';
import { measureSlice, median, type Spread, spreadOf } from './measure.ts';
import { residentMegabytes } from './processes.ts';
import { createTenants, encryptUnder, type Workload } from './workloads.ts';

interface Plan {
  readonly keys: number;
  readonly rounds: number;
  readonly rampMs: number;
  readonly measureMs: number;
  readonly warmUpMs: number;
  /** Keys whose first use is timed, in each round. */
  readonly coldKeys: number;
  /** Keys of the working set, in tenfold caches; at most a quarter of all. */
  readonly workingSet: number;
}
const FULL: Plan = {
  keys: 1_000_000,
  rounds: 3,
  rampMs: 150,
  measureMs: 2_000,
  warmUpMs: 1_500,
  coldKeys: 200,
  workingSet: 20_000,
};
const QUICK: Plan = {
  keys: 2_000,
  rounds: 1,
  rampMs: 20,
  measureMs: 200,
  warmUpMs: 50,
  coldKeys: 20,
  workingSet: 500,
};
const MOST_TENANTS = 1_000;
/** So many are made while one answer is waited for. */
const TENANTS_AT_ONCE = 50;
/** A figure for each power of ten, from here on. */
const FEWEST = 10_000;
const IN_FLIGHT = 64;
/** As many as there are connections to the database by default: more would wait for these. */
const LOADING_IN_FLIGHT = 10;
const CACHES = 10;
const ONCE_LIMIT_MS = 60_000;
const SETTINGS = ['KEYWARD_KEY_CACHE', 'KEYWARD_HSM_KEY_CACHE'] as const;

const START = 1.2;
const HOT = 0.9;
const COLD = 3;
const WORKING_SET = 0.5;

/** What one start on one database showed. */
interface Round {
  readonly startMs: number;
  readonly hotPerSecond: number;
  /** The median latencies of a call alone. */
  readonly hotMs: number;
  readonly coldMs: number;
  /** Of server and agent. */
  readonly megabytes: number;
}

/** At one number of keys. */
interface Step {
  readonly keys: number;
  readonly startMs: number;
  readonly megabytes: number;
  readonly megabytesWithout: number;
  /** Of the start without, and of the rate without. */
  readonly start: Spread;
  readonly hot: Spread;
  readonly hotMs: number;
  readonly coldMs: number;
  /** Of a hot call's in the same round. */
  readonly cold: Spread;
}

/** Under as many keys as ten times what the caches hold. */
interface WorkingSet {
  readonly keys: number;
  readonly perSecond: number;
  readonly ofHot: Spread;
  readonly megabytes: number;
}

const COST = 'A call alone over the number of keys';

const METHOD = `
  Keys of up to ${MOST_TENANTS} tenants, inserted past the service, with one material, and sealed in
  the token as any are, beside the same service on a copy of its database without them, each with a
  start of its own in every round. A start is timed from its process to SERVING; hot is Encrypt
  under one key, ${IN_FLIGHT} in flight; a cold call is the first Encrypt under a key whose tenant
  has been called before, and its p50 and that of a hot one are with one in flight. Memory is of
  server and agent, after that.`;

function costChart(steps: readonly Step[]): string {
  const series = [
    { name: 'cold', points: steps.map(({ keys, coldMs }) => [keys, coldMs] as const) },
    { name: 'hot', points: steps.map(({ keys, hotMs }) => [keys, hotMs] as const) },
  ];
  const x = { label: 'keys', isLog: true };
  return lineChart({ title: COST, x, y: { label: 'p50 of Encrypt, ms' }, series });
}

/** See this file's first paragraph. */
export const manyKeys: Bench = {
  name: 'many-keys',
  title: 'Many keys',
  measures: 'start-up, hot and cold calls and memory over the number of keys',
  options: { keys: 'how many keys, 1000000 unless given' },
  onRequest: true,
  async run(context) {
    const plan = context.isQuick ? QUICK : FULL;
    const keys = Number(context.option('keys') ?? plan.keys);
    const { environment } = context;
    const without = await environment.copyDatabase();
    await environment.restart();
    const tenants = Array.from(
      { length: Math.min(MOST_TENANTS, Math.ceil(keys / 10)) },
      (_, index) => `tenant-${index}`,
    );
    const { path, requests } = createTenants(tenants);
    for (let start = 0; start < requests.length; start += TENANTS_AT_ONCE)
      await context.send(path, requests.slice(start, start + TENANTS_AT_ONCE));
    const subject = { keys, tenants, perTenant: Math.ceil(keys / tenants.length) };
    const owner = await environment.connectAsOwner();
    try {
      const steps = await measureSteps(context, plan, { ...subject, owner, without });
      const workingSet = await measureWorkingSet(context, plan, subject);
      return {
        text: [
          paragraph(METHOD),
          stepTable(steps),
          figure('many-keys', COST),
          paragraph(workingSetText(workingSet)),
        ].join('\n\n'),
        figures: { 'many-keys': costChart(steps) },
        targets: [...steps.slice(-1).flatMap(stepTargets), workingSetTarget(workingSet)],
      };
    } finally {
      await owner.end();
    }
  },
};

interface Subject {
  readonly keys: number;
  readonly tenants: readonly string[];
  readonly perTenant: number;
}

interface Subjects extends Subject {
  readonly owner: pg.Client;
  /** The variables of the service on a database without the keys. */
  readonly without: Readonly<Record<string, string>>;
}

async function measureSteps(
  context: Context,
  plan: Plan,
  { keys, owner, without, ...whose }: Subjects,
): Promise<Step[]> {
  const steps: Step[] = [];
  let made = 0;
  for (const size of sizesUpTo(keys)) {
    say(`making ${size - made} keys …`);
    const began = performance.now();
    await context.environment.stop();
    await makeKeys(context.environment, owner, { count: size - made, from: made, ...whose });
    await owner.query('VACUUM (ANALYZE) keys, key_versions, tenants');
    say(`made in ${((performance.now() - began) / 1000).toFixed(0)} s; measuring …`);
    made = size;
    const rounds: { readonly full: Round; readonly empty: Round }[] = [];
    for (let round = 0; round < plan.rounds; round++) {
      const empty = await measureRound(context, plan, without, undefined);
      const full = await measureRound(context, plan, {}, { keys: size, ...whose });
      rounds.push({ full, empty });
    }
    steps.push(stepOf(size, rounds));
  }
  return steps;
}

function sizesUpTo(keys: number): number[] {
  const sizes: number[] = [];
  for (let size = FEWEST; size < keys; size *= 10) sizes.push(size);
  return [...sizes, keys];
}

/** A start, hot calls, cold calls; without a subject those that the bench always has. */
async function measureRound(
  context: Context,
  plan: Plan,
  variables: Readonly<Record<string, string>>,
  subject: Subject | undefined,
): Promise<Round> {
  const { environment, load } = context;
  await environment.stop();
  const began = performance.now();
  await environment.restart(variables);
  const startMs = performance.now() - began;
  const service = environment.target;
  const encrypt = encryptOf(context);
  await warmUp(load, [[service, encrypt]], plan.warmUpMs);
  const timing = { rampMs: plan.rampMs, measureMs: plan.measureMs };
  const hot = await measureSlice(load, service, encrypt, { ...timing, inFlight: IN_FLIGHT });
  const alone = await measureSlice(load, service, encrypt, { ...timing, inFlight: 1 });
  const coldMs = subject === undefined ? Number.NaN : await measureCold(context, plan, subject);
  return {
    startMs,
    hotPerSecond: hot.perSecond,
    hotMs: alone.p50Ms,
    coldMs,
    megabytes: megabytesOf(context),
  };
}

/** The first use of keys that lie apart, after that of the key beside each, of its tenant. */
async function measureCold({ environment, load }: Context, plan: Plan, subject: Subject) {
  const count = Math.min(plan.coldKeys, Math.floor(subject.keys / 2));
  const stride = Math.floor(subject.keys / count);
  const once = { rampMs: 0, measureMs: ONCE_LIMIT_MS, once: true, inFlight: 1 };
  const names = (beside: number) =>
    Array.from({ length: count }, (_, index) => keyName(index * stride + beside, subject));
  await measureSlice(load, environment.target, encryptUnder(names(0)), once);
  return (await measureSlice(load, environment.target, encryptUnder(names(1)), once)).p50Ms;
}

/** The full name of the key that was made as that one, from 0 on. */
function keyName(index: number, { tenants, perTenant }: Subject): string {
  return `tenants/${tenants[Math.floor(index / perTenant)]}/keys/${manyKeyId(index + 1)}`;
}

function megabytesOf({ environment }: Context): number {
  const { serverPid, agentPid } = environment.target;
  return residentMegabytes(serverPid) + residentMegabytes(agentPid);
}

function stepOf(
  keys: number,
  rounds: readonly { readonly full: Round; readonly empty: Round }[],
): Step {
  const full = (of: keyof Round) => median(rounds.map((round) => round.full[of]));
  return {
    keys,
    startMs: full('startMs'),
    megabytes: full('megabytes'),
    megabytesWithout: median(rounds.map(({ empty }) => empty.megabytes)),
    start: spreadOf(rounds.map((round) => round.full.startMs / round.empty.startMs)),
    hot: spreadOf(rounds.map((round) => round.full.hotPerSecond / round.empty.hotPerSecond)),
    hotMs: full('hotMs'),
    coldMs: full('coldMs'),
    cold: spreadOf(rounds.map((round) => round.full.coldMs / round.full.hotMs)),
  };
}

/** Keys in turn, ten times as many as the caches hold, so that each is gone when it comes again. */
async function measureWorkingSet(
  context: Context,
  plan: Plan,
  subject: Subject,
): Promise<WorkingSet> {
  const size = Math.min(plan.workingSet, Math.floor(subject.keys / 4));
  say(`a working set of ${size} keys …`);
  const { environment, load } = context;
  const held = String(Math.floor(size / CACHES));
  await environment.restart(Object.fromEntries(SETTINGS.map((name) => [name, held])));
  const names = Array.from({ length: size }, (_, index) => keyName(index, subject));
  const all: Workload = encryptUnder(names);
  const hot = encryptOf(context);
  const service = environment.target;
  await warmUp(load, [[service, hot]], plan.warmUpMs);
  const { rampMs, measureMs } = plan;
  const timing = { rampMs, measureMs, inFlight: LOADING_IN_FLIGHT };
  const [rates, ratios]: [number[], number[]] = [[], []];
  for (let round = 0; round < plan.rounds; round++) {
    const ofHot = await measureSlice(load, service, hot, timing);
    const ofAll = await measureSlice(load, service, shifted(all, round, plan.rounds), timing);
    rates.push(ofAll.perSecond);
    ratios.push(ofAll.perSecond / ofHot.perSecond);
  }
  return {
    keys: size,
    perSecond: median(rates),
    ofHot: spreadOf(ratios),
    megabytes: megabytesOf(context),
  };
}

/** Each round begins where the one before may not have come to. */
function shifted(all: Workload, round: number, rounds: number): Workload {
  const at = Math.floor((all.requests.length * round) / rounds);
  return { ...all, requests: [...all.requests.slice(at), ...all.requests.slice(0, at)] };
}

function stepTable(steps: readonly Step[]): string {
  const headings = ['keys', 'start ms', 'of start without', 'hot, of rate without'];
  return table(
    [...headings, 'hot p50 ms', 'cold p50 ms', 'of hot', 'memory MB', 'MB without'],
    steps.map((step) => [
      String(step.keys),
      step.startMs.toFixed(0),
      spread(step.start),
      spread(step.hot),
      step.hotMs.toFixed(2),
      step.coldMs.toFixed(2),
      spread(step.cold),
      step.megabytes.toFixed(0),
      step.megabytesWithout.toFixed(0),
    ]),
  );
}

function workingSetText({ keys, perSecond, ofHot, megabytes }: WorkingSet): string {
  const settings = SETTINGS.map((name) => `\`${name}\``).join(', ');
  return `Encrypt under ${keys} keys in turn, with caches (${settings}) of a tenth of that,
    ${LOADING_IN_FLIGHT} in flight: ${perSecond.toFixed(0)} a second, ${spread(ofHot)} of the rate
    under one key; server and agent then have ${megabytes.toFixed(0)} MB.`;
}

function stepTargets({ keys, start, hot, cold }: Step): string[] {
  return [
    target(
      start[0] <= START,
      `start with ${keys} keys: ${start[0].toFixed(2)} of that without; at most ${START}`,
    ),
    target(
      hot[0] >= HOT,
      `hot calls with ${keys} keys: ${hot[0].toFixed(2)} of the rate without; to reach ${HOT}`,
    ),
    target(
      cold[0] < COLD,
      `a cold key's first call: ${cold[0].toFixed(2)} times a hot one's p50; under ${COLD}`,
    ),
  ];
}

function workingSetTarget({ ofHot: [ratio] }: WorkingSet): string {
  return target(
    ratio >= WORKING_SET,
    `a working set of ten times the caches: ${ratio.toFixed(2)} of the hot rate; ` +
      `to reach ${WORKING_SET}`,
  );
}
