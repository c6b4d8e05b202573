/**
 * Deletes what is kept for a time only: changes for an hour, request ids for a day, replicas that
 * have fallen silent, what callers did for weeks, pending operations that ended for 90 days. Any
 * replica may, and all do.
 *
 * Nothing depends on its being on time. By the database's clock. Knows no caller.
 */
import { monotonicNow } from '../call.ts';
import { removeOldCallerHours } from './access/caller-hours.ts';
import { removeOldOperations } from './approvals/pending.ts';
import { removeReplicas } from './hsm-token/replicas.ts';
import { removeSilentReplicas } from './keys/usage.ts';
import type { Store } from './store.ts';

const PERIOD_MS = 10 * 60_000;
const TIMEOUT_MS = 10_000;

/**
 * Deletes what is over its time. After an hour every replica has heard of a change, or has been
 * without changes for so long that it forgets everything anyway.
 */
export async function keepHouse(store: Store): Promise<void> {
  const call = { deadline: monotonicNow() + TIMEOUT_MS };
  await store.queryReserve(call, "DELETE FROM changes WHERE at < now() - interval '1 hour'");
  await store.queryReserve(call, 'SELECT purge_request_ids()');
  await removeSilentReplicas(store, call);
  await removeReplicas(store, call);
  await removeOldCallerHours(store, call);
  await store.reconcile(call, removeOldOperations);
}

/**
 * Does so every ten minutes, at times of this replica's own, until the returned function is called.
 */
export function startHousekeeping(store: Store, onError: (error: unknown) => void): () => void {
  let timer: NodeJS.Timeout;
  const schedule = (delay: number) => {
    timer = setTimeout(() => {
      keepHouse(store).catch(onError);
      schedule(PERIOD_MS);
    }, delay);
    timer.unref();
  };
  schedule(Math.random() * PERIOD_MS);
  return () => clearTimeout(timer);
}
