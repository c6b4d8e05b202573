/**
 * Re-wrapping, measured: stored data keys after a rotation of their key, key versions after one of
 * the root key, and a tick that finds nothing to do among all those.
 *
 * Decides the order. What is measured of a job is in `rewrap-job.ts`.
 */
import { dataKeys } from './data-keys.ts';
import type { Environment } from './environment.ts';
import { keyVersions } from './key-versions.ts';
import type { Load, Timing } from './measure.ts';
import { type JobPlan, type JobResults, measureJobs } from './rewrap-job.ts';
import { measureTick, type TickResults } from './tick.ts';
import type { Workload } from './workloads.ts';

/** How much is done. */
export interface RewrapPlan {
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

/** Everything above, on the bench's environment, which is restarted for it. */
export async function measureRewrap(
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
