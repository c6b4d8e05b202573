/**
 * Watches what keeps this replica from its work, and raises an alert where it lasts: no HSM agent,
 * no changes heard of, no entries written.
 *
 * - A condition that is over within {@link BEARABLE_MS} is none: agents are replaced, and databases
 *   fail over.
 * - One alert for as long as a condition lasts.
 */
import { monotonicNow } from '../call.ts';
import type { AlertId, Alerts } from '../signals/alerts.ts';
import type { Part } from './lifecycle.ts';
import { REPLICA } from './replica.ts';

const LOOK_MS = 250;
const BEARABLE_MS = 2_000;

/** What is looked at. */
export interface ReplicaConditionsParts {
  readonly agents: { readonly ready: boolean; readonly lastFailure: string };
  readonly feed: { isFresh(): boolean };
  readonly store: { readonly appendFailure: unknown };
  readonly alerts: Alerts;
}

/** Returns the part that looks at them. */
export function replicaConditions({ agents, feed, store, alerts }: ReplicaConditionsParts): Part {
  const watched: readonly Watched[] = [
    watch('hsm-unavailable', () => (agents.ready ? undefined : agents.lastFailure)),
    watch('replica-stale', () => (feed.isFresh() ? undefined : '')),
    watch('audit-unavailable', () => reasonOf(store.appendFailure)),
  ];
  let timer: NodeJS.Timeout | undefined;
  const look = () => {
    for (const each of watched) follow(each, alerts);
  };
  return {
    name: 'the conditions of this replica',
    start: () => {
      timer = setInterval(look, LOOK_MS);
    },
    stop: () => {
      clearInterval(timer);
      // One that ends is no longer kept from anything.
      for (const { id, isRaised } of watched) if (isRaised) alerts.clear(id, REPLICA);
    },
  };
}

interface Watched {
  readonly id: AlertId;
  /** Returns why it holds; undefined while it does not. */
  readonly why: () => string | undefined;
  since: number | undefined;
  isRaised: boolean;
}

function watch(id: AlertId, why: () => string | undefined): Watched {
  return { id, why, since: undefined, isRaised: false };
}

function follow(watched: Watched, alerts: Alerts): void {
  const { id } = watched;
  const failure = watched.why();
  if (failure === undefined) {
    if (watched.isRaised) alerts.clear(id, REPLICA);
    watched.isRaised = false;
    watched.since = undefined;
    return;
  }
  watched.since ??= monotonicNow();
  if (watched.isRaised || monotonicNow() - watched.since < BEARABLE_MS) return;
  watched.isRaised = true;
  alerts.raise(id, REPLICA, failure === '' ? {} : { failure });
}

/** Why the database takes nothing, as it or the network says it. */
function reasonOf(error: unknown): string | undefined {
  if (error === undefined) return undefined;
  const { cause, message } = error as Error;
  return cause instanceof Error ? cause.message : message;
}
