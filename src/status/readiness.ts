/**
 * Whether this replica can serve calls: a list of conditions by name, of which all must hold.
 *
 * - This is the one place that decides it. What probes are answered, what the replica reports of
 *   itself, and what callers with the right see, is read here.
 * - A problem is text of ours, for operators, without anything that others have written: it is
 *   shown to probes, which show no credentials.
 */

/** What conditions are read of. */
export interface ReadinessParts {
  readonly agents: { readonly ready: boolean };
  /** The feed of changes. */
  readonly feed: { isFresh(): boolean; readonly isFailing: boolean };
  readonly store: { readonly appendFailure: unknown };
}

/** One condition: the problem is undefined where it holds. */
export interface Condition {
  readonly name: string;
  readonly problem: string | undefined;
}

/** Decides whether this replica can serve calls. */
export class Readiness {
  readonly #parts: ReadinessParts;
  #stage: 'starting' | 'running' | 'stopping' = 'starting';

  constructor(parts: ReadinessParts) {
    this.#parts = parts;
  }

  /** Says that all parts of the replica have started. */
  started(): void {
    this.#stage = 'running';
  }

  /** Says that the replica takes no new calls any more. */
  stops(): void {
    this.#stage = 'stopping';
  }

  /** Every condition, whether it holds or not. */
  get conditions(): readonly Condition[] {
    const { agents, feed, store } = this.#parts;
    const isFresh = feed.isFresh();
    const problems = {
      started: this.#stage === 'starting' && 'the replica is starting',
      hsm: !agents.ready && 'no HSM agent is ready',
      database: !isFresh && feed.isFailing && 'no server of the database answers and takes writes',
      changes: !isFresh && 'changes of other replicas have not been read lately',
      audit: store.appendFailure !== undefined && 'calls cannot be recorded in the audit log',
      serving: this.#stage === 'stopping' && 'the replica is stopping',
    };
    return Object.entries(problems).map(([name, problem]) => ({
      name,
      problem: problem === false ? undefined : problem,
    }));
  }

  /** Whether every condition holds. */
  get isReady(): boolean {
    return this.conditions.every(({ problem }) => problem === undefined);
  }
}
