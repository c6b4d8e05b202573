/**
 * Whether a service that works for long stays as it was: memory, descriptors, PKCS#11 sessions,
 * database connections and latency, while calls, batches, new keys, rotations, re-wrapping and new
 * connections go on.
 *
 * Invariant: a figure is flat if a straight line through its samples, without those of the first
 * fifth, rises by less than twice its error, or by less than a twentieth of their mean over the
 * whole time. Says nothing of leaks that are smaller.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect, type KeywardClient } from 'keyward-client';
import type pg from 'pg';
import { faultsFor, type Pkcs11Faults } from '../test/faults/pkcs11.ts';
import { type Bench, type Context, say, warmUp } from './bench.ts';
import type { Environment } from './environment.ts';
import { lineChart } from './figure.ts';
import { figure, paragraph, table, target } from './markdown.ts';
import { measureSlice } from './measure.ts';
import { residentMegabytes } from './processes.ts';
import { type Line, lineThrough } from './slope.ts';

const MINUTES = { full: 30, quick: 0.1 };
/** Samples in a run, of so long at least. */
const SAMPLES = 60;
const LEAST_INTERVAL_MS = 500;
const MINUTE_MS = 60_000;
const IN_FLIGHT = 8;
const WARM_UP_MS = { full: 1_500, quick: 50 };
const CHURN_MS = 500;
/** Every so many of those, a rotation, of a key that so many data keys are stored under. */
const ROTATE_EVERY = 20;
const STORED = 200;
/** So that they are full before the end of what is left out, and nothing grows for their sake. */
const SMALL_CACHES = { KEYWARD_KEY_CACHE: '100', KEYWARD_HSM_KEY_CACHE: '100' };
const WITHOUT = 1 / 5;
const NEGLIGIBLE = 1 / 20;
const PARENT = 'tenants/bench';
const STORED_KEY = `${PARENT}/keys/soak-stored`;

/** One look at everything. */
interface Sample {
  readonly minutes: number;
  readonly figures: Readonly<Record<string, number>>;
}

/** See this file's first paragraph. */
export const soak: Bench = {
  name: 'soak',
  title: 'Soak',
  measures: 'whether memory, descriptors, sessions, connections and latency stay flat for long',
  options: { minutes: `how long, ${MINUTES.full} unless given` },
  onRequest: true,
  async run(context) {
    const { environment, isQuick, option, load } = context;
    const minutes = Number(option('minutes') ?? (isQuick ? MINUTES.quick : MINUTES.full));
    if (!(minutes > 0)) throw new Error('cannot soak: --minutes is not a number above 0');
    const faults = faultsFor(join(environment.directory, 'faults'), environment.variables);
    faults.set('C_OpenSession', 'C_CloseSession');
    await environment.restart({ ...faults.variables, ...SMALL_CACHES });
    const pairs = context.calls.map((each) => [environment.target, each] as const);
    await warmUp(load, pairs, isQuick ? WARM_UP_MS.quick : WARM_UP_MS.full);
    say(`soaking for ${minutes} minutes …`);
    const owner = await environment.connectAsOwner();
    using keyward = connect(environment.client);
    try {
      await prepare(keyward);
      const stop = new AbortController();
      const churning = churn(environment, keyward, stop.signal);
      const samples = await sample(context, owner, faults, minutes * MINUTE_MS);
      stop.abort();
      return sectionOf(samples, await churning, minutes);
    } finally {
      await owner.end();
    }
  },
};

async function prepare(keyward: KeywardClient): Promise<void> {
  await keyward.createKey({ parent: PARENT, keyId: 'soak-stored' });
  for (let index = 0; index < STORED; index++)
    await keyward.createDataKey({ parent: STORED_KEY, dataKeyId: `stored-${index}` });
}

/** What was done besides calls in the closed loop. */
interface Churned {
  readonly connections: number;
  readonly rotations: number;
}

/** New connections, each with a key of its own, and rotations with their re-wrapping. */
async function churn(
  environment: Environment,
  keyward: KeywardClient,
  signal: AbortSignal,
): Promise<Churned> {
  let [connections, rotations] = [0, 0];
  while (!signal.aborted) {
    if (connections % ROTATE_EVERY === 0) {
      await keyward.rotateKey({ name: STORED_KEY });
      rotations += 1;
    }
    using fresh = connect(environment.client);
    const { name } = await fresh.createKey({ parent: PARENT, keyId: `soak-${connections}` });
    const { ciphertext } = await fresh.encrypt({ name, plaintext: Buffer.from(name) });
    await fresh.decrypt({ parent: PARENT, ciphertext });
    connections += 1;
    await delay(CHURN_MS);
  }
  return { connections, rotations };
}

/** Calls of each kind in turn all the time, and looks at everything after each round. */
async function sample(
  { environment, load, calls }: Context,
  owner: pg.Client,
  faults: Pkcs11Faults,
  milliseconds: number,
): Promise<Sample[]> {
  const { target: service } = environment;
  const intervalMs = Math.max(LEAST_INTERVAL_MS, milliseconds / SAMPLES);
  const timing = { rampMs: 0, measureMs: intervalMs / calls.length, inFlight: IN_FLIGHT };
  const began = performance.now();
  const samples: Sample[] = [];
  while (performance.now() < began + milliseconds) {
    const p99 = new Map<string, number>();
    for (const workload of calls)
      p99.set(workload.name, (await measureSlice(load, service, workload, timing)).p99Ms);
    samples.push({
      minutes: (performance.now() - began) / MINUTE_MS,
      figures: {
        'server MB': residentMegabytes(service.serverPid),
        'agent MB': residentMegabytes(service.agentPid),
        'server descriptors': descriptorsOf(service.serverPid),
        'agent descriptors': descriptorsOf(service.agentPid),
        'PKCS#11 sessions': faults.met(0) - faults.met(1),
        'database connections': await connectionsTo(owner),
        'Encrypt p99 ms': p99.get('Encrypt') ?? Number.NaN,
        'BatchEncrypt p99 ms': p99.get('BatchEncrypt') ?? Number.NaN,
      },
    });
  }
  return samples;
}

function descriptorsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

async function connectionsTo(owner: pg.Client): Promise<number> {
  const { rows } = await owner.query<{ count: number }>(
    `SELECT count(*)::integer AS count FROM pg_stat_activity
       WHERE datname = current_database() AND pid <> pg_backend_pid()`,
  );
  return rows[0]?.count ?? Number.NaN;
}

const METHOD = `
  One service, under ${IN_FLIGHT} calls in flight of each kind and each batch in turn, while a new
  connection comes and goes twice a second, makes a key and uses it, and every ten seconds a key
  with ${STORED} stored data keys is rotated, which are then re-wrapped. Caches of keys
  (KEYWARD_KEY_CACHE, KEYWARD_HSM_KEY_CACHE) have room for 100, and so are soon full. The slope is
  that of a straight line through the samples without those of the first fifth, with its standard
  error. PKCS#11 sessions are those that agents opened and have not closed.`;

function sectionOf(samples: readonly Sample[], churned: Churned, minutes: number) {
  const names = Object.keys(samples[0]?.figures ?? {});
  const settled = samples.filter((each) => each.minutes >= minutes * WITHOUT);
  const lines = names.map((name) => {
    const points = settled.map((each) => [each.minutes / 60, each.figures[name] ?? 0] as const);
    return { name, line: lineThrough(points), values: points.map(([, value]) => value) };
  });
  const rows = lines.map(({ name, line, values }) => [
    name,
    ...[values[0] ?? Number.NaN, values.at(-1) ?? Number.NaN, Math.max(...values)].map(short),
    `${short(line.slope)} ± ${short(line.error)}`,
  ]);
  const { connections, rotations } = churned;
  const did =
    `${minutes} minutes, ${samples.length} samples, ${connections} connections that came and ` +
    `went, as many new keys, ${rotations} rotations.`;
  const title = 'Memory over time';
  const series = (['server MB', 'agent MB'] as const).map((name) => ({
    name,
    points: samples.map((each) => [each.minutes, each.figures[name] ?? 0] as const),
  }));
  const axes = { x: { label: 'minutes' }, y: { label: 'resident memory, MB' } };
  return {
    text: [
      paragraph(`${METHOD} ${did}`),
      table(['', 'first', 'last', 'most', 'slope per hour'], rows),
      figure('soak', title),
    ].join('\n\n'),
    targets: lines.map(({ name, line }) => flatTarget(name, line, minutes / 60)),
    figures: { soak: lineChart({ title, ...axes, series }) },
  };
}

function flatTarget(name: string, { slope, error, mean }: Line, hours: number): string {
  const isFlat = slope <= 2 * error || slope * hours <= mean * NEGLIGIBLE;
  const text = `${name}: ${short(slope)} ± ${short(error)} an hour; to stay flat`;
  return target(isFlat, text);
}

function short(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(Math.abs(value) < 10 ? 2 : 0);
}
