/**
 * One kind of re-wrap job, measured: how fast against a plain batched UPDATE of the same rows, what
 * memory it takes, and what callers notice of it.
 *
 * The service works all the time for the first (share 100, two agents for two cores), and as it
 * comes for the last. Floor and job alternate in slices, by the maintenance switch. Knows no kind:
 * {@link Subject} is what it asks of one.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { connect, type KeywardClient, type RewrapJob } from 'keyward-client';
import type pg from 'pg';
import { monotonicNow } from '../src/call.ts';
import type { Environment } from './environment.ts';
import { type Load, measureSlice, median, type Timing } from './measure.ts';
import type { PlainUpdate } from './plain-update.ts';
import { cpuMicroseconds, residentMegabytes } from './processes.ts';
import type { Workload } from './workloads.ts';

const AGENTS = 2;
const PASSES = 2;
const LOOK_MS = 100;

/** What is re-wrapped. */
export interface Subject {
  /**
   * Fills the service's table with so many rows, or a few more, and another with the same for the
   * floor.
   */
  fill(
    environment: Environment,
    owner: pg.Client,
    rows: number,
  ): Promise<{ readonly rows: number; readonly floor: PlainUpdate }>;
  /** Makes all of them stale; returns the name of the job that is to bring them up to date. */
  rotate(client: KeywardClient): Promise<string>;
  /** Removes what the next measurement doesn't want. */
  clear(owner: pg.Client): Promise<void>;
}

/** What is measured, and by what. */
export interface JobBench {
  readonly environment: Environment;
  readonly owner: pg.Client;
  readonly load: Load;
  readonly encrypt: Workload;
}

/** How much is done. */
export interface JobPlan {
  readonly rows: number;
  readonly jobSliceMs: number;
  readonly floorSliceMs: number;
  /** For what callers notice. */
  readonly callers: Timing;
}

/** One pass over all rows. */
export interface JobPass {
  readonly rows: number;
  readonly perSecond: number;
  /** Of the plain UPDATE, in alternating slices. */
  readonly floorPerSecond: number;
  /** Microseconds of CPU time for each row. */
  readonly serverCpu: number;
  readonly agentsCpu: number;
  /** Of the server and its agents, when a tenth was done and at the end. */
  readonly megabytesBegin: number;
  readonly megabytesEnd: number;
}

/** What callers see of a job that takes its share. */
export interface Callers {
  readonly inFlight: number;
  readonly p99Without: number;
  readonly p99With: number;
}

export interface JobResults {
  readonly passes: readonly JobPass[];
  readonly callers: readonly Callers[];
}

/** Everything above, on the bench's environment, which is restarted for it. */
export async function measureJobs(
  bench: JobBench,
  subject: Subject,
  plan: JobPlan,
): Promise<JobResults> {
  const { environment, owner } = bench;
  await environment.restart({ KEYWARD_REWRAP_SHARE: '100', KEYWARD_HSM_AGENTS: String(AGENTS) });
  const { rows, floor } = await subject.fill(environment, owner, plan.rows);
  const passes: JobPass[] = [];
  for (let pass = 0; pass < PASSES; pass++)
    passes.push(await measurePass(environment, subject, floor, { ...plan, rows }));
  await floor.remove();
  await environment.restart();
  const callers = await measureCallers(bench, subject, plan.callers);
  await subject.clear(owner);
  return { passes, callers };
}

async function measurePass(
  environment: Environment,
  subject: Subject,
  floor: PlainUpdate,
  plan: JobPlan,
): Promise<JobPass> {
  using client = connect(environment.client);
  await client.pauseMaintenance();
  const name = await subject.rotate(client);
  // Only now: a new root key may have brought new agents.
  const pids = [environment.serverPid, ...environment.agentPids];
  const cpu = () => pids.map(cpuMicroseconds);
  const megabytes = () => pids.map(residentMegabytes).reduce((sum, each) => sum + each, 0);
  const ratios: { job: number; floor: number }[] = [];
  let [begin, done] = [0, 0];
  const before = cpu();
  for (let isRunning = true; isRunning; ) {
    const { job, seconds } = await jobSlice(client, name, plan.jobSliceMs);
    isRunning = job.state === 'RUNNING';
    if (!isRunning && job.state !== 'SUCCEEDED') throw new Error(`the job ended ${job.state}`);
    if (begin === 0 && job.done >= plan.rows / 10) begin = megabytes();
    // The last slice is a rest of one, and says little, unless there is no other.
    if (isRunning || ratios.length === 0)
      ratios.push({ job: (job.done - done) / seconds, floor: await floor.run(plan.floorSliceMs) });
    done = job.done;
  }
  const after = cpu();
  const used = after.map((each, index) => (each - (before[index] ?? 0)) / done);
  return {
    rows: done,
    perSecond: median(ratios.map(({ job }) => job)),
    floorPerSecond: median(ratios.map((each) => each.floor)),
    serverCpu: used[0] ?? Number.NaN,
    agentsCpu: used.slice(1).reduce((sum, each) => sum + each, 0),
    megabytesBegin: begin,
    megabytesEnd: megabytes(),
  };
}

/** Lets the job run for so long, and no longer than it takes. */
async function jobSlice(
  client: KeywardClient,
  name: string,
  milliseconds: number,
): Promise<{ job: RewrapJob; seconds: number }> {
  await client.resumeMaintenance();
  const began = monotonicNow();
  for (;;) {
    const job = await client.getRewrapJob({ name });
    const elapsed = monotonicNow() - began;
    if (elapsed >= milliseconds || job.state !== 'RUNNING') {
      await client.pauseMaintenance();
      return { job, seconds: elapsed / 1000 };
    }
    await delay(Math.min(LOOK_MS, milliseconds - elapsed));
  }
}

/** Lets the job go on, and returns once it does. */
async function resumeJob(client: KeywardClient, name: string): Promise<void> {
  const { done } = await client.getRewrapJob({ name });
  await client.resumeMaintenance();
  for (;;) {
    const job = await client.getRewrapJob({ name });
    if (job.done > done || job.state !== 'RUNNING') return;
    await delay(LOOK_MS);
  }
}

/** Encrypt in slices, while a job takes its share and while it stands still, in turn. */
async function measureCallers(
  { environment, load, encrypt }: JobBench,
  subject: Subject,
  timing: Timing,
): Promise<Callers[]> {
  using client = connect(environment.client);
  await client.pauseMaintenance();
  const name = await subject.rotate(client);
  const { target } = environment;
  const results: Callers[] = [];
  for (const inFlight of [1, 10]) {
    const [without, during]: [number[], number[]] = [[], []];
    for (let round = 0; round < timing.rounds; round++) {
      without.push((await measureSlice(load, target, encrypt, { ...timing, inFlight })).p99Ms);
      await resumeJob(client, name);
      during.push((await measureSlice(load, target, encrypt, { ...timing, inFlight })).p99Ms);
      await client.pauseMaintenance();
    }
    results.push({ inFlight, p99Without: median(without), p99With: median(during) });
  }
  const job = await client.cancelRewrapJob({ name });
  if (job.done === 0) throw new Error('the job did nothing while callers were measured');
  await client.resumeMaintenance();
  return results;
}
