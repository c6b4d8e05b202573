/**
 * Re-wrapping, measured: stored data keys after a rotation of their key, key versions after one of
 * the root key, and a tick that finds nothing to do among all those.
 *
 * Decides the order. What is measured of a job is in `rewrap-job.ts`.
 */
import { type Bench, encryptOf, say } from './bench.ts';
import { dataKeys } from './data-keys.ts';
import type { Environment } from './environment.ts';
import { keyVersions } from './key-versions.ts';
import type { Load, Timing } from './measure.ts';
import { type JobPlan, type JobResults, measureJobs } from './rewrap-job.ts';
import { rewrapTargets, rewrapText } from './rewrap-report.ts';
import { measureTick, type TickResults } from './tick.ts';
import type { Workload } from './workloads.ts';

/** How much is done. */
interface RewrapPlan {
  readonly dataKeys: Omit<JobPlan, 'callers'>;
  readonly keyVersions: Omit<JobPlan, 'callers'>;
  /** For what callers notice of either. */
  readonly callers: Timing;
}

export interface RewrapResults {
  readonly dataKeys: JobResults;
  readonly keyVersions: JobResults;
  readonly tick: TickResults;
}

const FULL: RewrapPlan = {
  dataKeys: { rows: 1_000_000, jobSliceMs: 10_000, floorSliceMs: 3_000 },
  keyVersions: { rows: 100_000, jobSliceMs: 2_000, floorSliceMs: 1_000 },
  callers: { rampMs: 150, measureMs: 2_000, rounds: 5 },
};
const QUICK: RewrapPlan = {
  dataKeys: { rows: 2_000, jobSliceMs: 10_000, floorSliceMs: 100 },
  keyVersions: { rows: 500, jobSliceMs: 10_000, floorSliceMs: 100 },
  callers: { rampMs: 20, measureMs: 500, rounds: 1 },
};

/** See this file's first paragraph. */
export const rewrap: Bench = {
  name: 'rewrap',
  title: 'Re-wrapping',
  measures: 're-wrapping stored data keys and key versions, and what callers notice of it',
  async run(context) {
    say('re-wrapping …');
    const { environment, load, isQuick } = context;
    const plan = isQuick ? QUICK : FULL;
    const results = await measureRewrap(environment, load, encryptOf(context), plan);
    return { text: rewrapText(results), targets: rewrapTargets(results) };
  },
};

/** Everything above, on the bench's environment, which is restarted for it. */
async function measureRewrap(
  environment: Environment,
  load: Load,
  encrypt: Workload,
  plan: RewrapPlan,
): Promise<RewrapResults> {
  const owner = await environment.connectAsOwner();
  const bench = { environment, owner, load, encrypt };
  const { callers } = plan;
  try {
    return {
      dataKeys: await measureJobs(bench, dataKeys, { ...plan.dataKeys, callers }),
      keyVersions: await measureJobs(bench, keyVersions, { ...plan.keyVersions, callers }),
      tick: await measureTick(environment, owner),
    };
  } finally {
    await owner.end();
  }
}
