/**
 * Measuring: slices of load in alternation, with the CPU time that they cost, and what their
 * medians are.
 *
 * Invariant: every figure that is compared with the floor comes from the same round as the floor's
 * slice that it is compared with, so that what the machine does besides weighs on both. Knows no
 * kind of call.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import type { LoadIdentity, Slice, SliceReply, SliceResult } from './load-protocol.ts';
import { cpuMicroseconds, cpuMicrosecondsWithChildren } from './processes.ts';
import type { Workload } from './workloads.ts';

/** A server under load, and the processes that work for it. */
export interface Target {
  readonly address: string;
  readonly serverPid: number;
  /** The floor has none. */
  readonly agentPid?: number;
  /** The postmaster of the service's database. */
  readonly databasePid?: number;
  /** Where it is several processes: those besides, which count as one with the first. */
  readonly more?: { readonly serverPids: readonly number[]; readonly agentPids: readonly number[] };
  /** How many connections are made to it: one unless given. */
  readonly connections?: number;
}

/** How long a slice takes, and how often it is repeated. */
export interface Timing {
  readonly rampMs: number;
  readonly measureMs: number;
  readonly rounds: number;
}

/**
 * What one slice, or the median of several, says. Rates and CPU are of items, latencies of calls.
 */
export interface Figures {
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Microseconds of CPU time for each item. */
  readonly serverCpu: number;
  readonly agentCpu: number | undefined;
  readonly databaseCpu: number | undefined;
  readonly clientCpu: number;
}

/** Of all rounds. */
export type Spread = readonly [median: number, lowest: number, highest: number];

/** Over the floor's in the same round. */
export interface OfFloor {
  /** Items a second over calls a second. */
  readonly rate: Spread;
  /** CPU time of server, agent and Postgres for an item, over the floor's server's for a call. */
  readonly cpu: Spread;
  readonly p50: Spread;
}

/** One line of the table. */
export interface Row extends Figures {
  readonly inFlight: number;
  readonly name: string;
  readonly ofFloor: OfFloor | undefined;
}

/** The load generator's process, as its parent sees it. */
export class Load implements Disposable {
  readonly #child: ChildProcess;

  constructor(identity: LoadIdentity) {
    this.#child = fork(join(import.meta.dirname, 'load.ts'), { serialization: 'advanced' });
    const { caFile, certFile, keyFile } = identity;
    this.#child.send({ identity: { caFile, certFile, keyFile } });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async run(slice: Slice): Promise<SliceResult> {
    const { promise, resolve, reject } = Promise.withResolvers<SliceReply>();
    const ended = () => reject(new Error('the load generator ended'));
    this.#child.once('message', resolve);
    this.#child.once('exit', ended);
    this.#child.send({ slice });
    const reply = await promise;
    this.#child.off('exit', ended);
    if ('failure' in reply) throw new Error(reply.failure);
    return reply.result;
  }

  [Symbol.dispose](): void {
    this.#child.disconnect();
  }
}

/** One slice of a workload. */
export async function measureSlice(
  load: Load,
  target: Target,
  workload: Workload,
  {
    rampMs,
    measureMs,
    inFlight,
    once = false,
  }: Omit<Timing, 'rounds'> & { inFlight: number; once?: boolean },
): Promise<Figures> {
  const { serverPid, agentPid, databasePid, more, address, connections } = target;
  const cpu = () => ({
    server: cpuOfAll([serverPid, ...(more?.serverPids ?? [])]),
    agent: agentPid && cpuOfAll([agentPid, ...(more?.agentPids ?? [])]),
    database: databasePid && cpuMicrosecondsWithChildren(databasePid),
    client: cpuMicroseconds(load.pid),
  });
  const before = cpu();
  const { path, requests, token, isJson, items } = workload;
  const result = await load.run({
    address,
    path,
    requests,
    token,
    isJson,
    inFlight,
    connections,
    rampMs,
    measureMs,
    once,
  });
  const after = cpu();
  workload.check(Buffer.from(result.lastAnswer));
  const perItem = (end = Number.NaN, start = Number.NaN) =>
    (end - start) / (result.completed * items);
  return {
    perSecond: (result.counted * items) / result.seconds,
    p50Ms: result.p50Ms,
    p99Ms: result.p99Ms,
    serverCpu: perItem(after.server, before.server),
    agentCpu: agentPid && perItem(after.agent, before.agent),
    databaseCpu: databasePid && perItem(after.database, before.database),
    clientCpu: perItem(after.client, before.client),
  };
}

function cpuOfAll(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + cpuMicroseconds(pid), 0);
}

/** The floor and every workload in turn, for so many rounds: F A B C F A B C … */
export async function alternate(
  load: Load,
  floor: readonly [Target, Workload],
  others: readonly (readonly [Target, Workload])[],
  timing: Timing & { readonly inFlight: number },
): Promise<Row[]> {
  const all = [floor, ...others];
  const slices: Figures[][] = all.map(() => []);
  for (let round = 0; round < timing.rounds; round++) {
    for (const [index, [target, workload]] of all.entries()) {
      slices[index]?.push(await measureSlice(load, target, workload, timing));
    }
  }
  const floors = slices[0] ?? [];
  return all.map(([, { name }], index) => {
    const own = slices[index] ?? [];
    const ofFloor = index === 0 ? undefined : overFloor(own, floors);
    return { inFlight: timing.inFlight, name, ...medianFigures(own), ofFloor };
  });
}

function overFloor(own: readonly Figures[], floors: readonly Figures[]): OfFloor {
  const over = (take: (figures: Figures) => number) =>
    spreadOf(own.map((figures, round) => take(figures) / take(floors[round] as Figures)));
  return {
    rate: over(({ perSecond }) => perSecond),
    cpu: over(serverSideCpu),
    p50: over(({ p50Ms }) => p50Ms),
  };
}

/** Returns the CPU time for each item of all processes but the client's. */
export function serverSideCpu({ serverCpu, agentCpu = 0, databaseCpu = 0 }: Figures): number {
  return serverCpu + agentCpu + databaseCpu;
}

function medianFigures(slices: readonly Figures[]): Figures {
  const of = (field: keyof Figures) => median(slices.map((slice) => slice[field] ?? Number.NaN));
  const ofPart = (field: 'agentCpu' | 'databaseCpu') =>
    slices.some((slice) => slice[field] === undefined) ? undefined : of(field);
  return {
    perSecond: of('perSecond'),
    p50Ms: of('p50Ms'),
    p99Ms: of('p99Ms'),
    serverCpu: of('serverCpu'),
    agentCpu: ofPart('agentCpu'),
    databaseCpu: ofPart('databaseCpu'),
    clientCpu: of('clientCpu'),
  };
}

/** Returns the median, the lowest and the highest. */
export function spreadOf(values: readonly number[]): Spread {
  return [median(values), Math.min(...values), Math.max(...values)];
}

/** The middle one, or the mean of the middle two. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}
