/**
 * Watches what callers do, and raises an alert where an hour of one differs from all of theirs
 * before.
 *
 * - Every replica reports what it counted, and judges the callers of its report by the sums of all
 *   replicas.
 * - An unusual feature of a caller is raised once an hour by each replica at most.
 * - What is counted and cannot be reported is lost with the process: statistics, by which nothing
 *   is allowed or refused.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import type { OutcomeListener } from '../calls/outcomes.ts';
import { Lru } from '../lru.ts';
import type { Alerts } from '../signals/alerts.ts';
import {
  addCallerReports,
  type CallerHourRecord,
  findCallerHours,
} from '../store/access/caller-hours.ts';
import type { Store } from '../store/store.ts';
import { Baseline, type CallerHour } from './baseline.ts';
import { CallerCounts } from './caller-hours.ts';

const PERIOD_MS = 10_000;
const REPORT_TIMEOUT_MS = 5_000;
/** Callers of one statement: each may have hundreds of hours. */
const TOGETHER = 100;
/** Callers whose baselines are remembered. */
const REMEMBERED = 10_000;

export interface AnomalyWatchParts {
  readonly store: Pick<Store, 'reconcile'>;
  readonly alerts: Alerts;
  readonly log: { warn(fields: object, message: string): void };
}

/** A caller's baseline for one hour, and what was raised of it. */
interface Judged {
  readonly hour: number;
  readonly baseline: Baseline;
  readonly raised: Set<string>;
}

/** Reports and judges what callers do. */
export class AnomalyWatch {
  readonly #parts: AnomalyWatchParts;
  readonly #counts = new CallerCounts();
  readonly #judged = new Lru<string, Judged>(REMEMBERED);
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;

  constructor(parts: AnomalyWatchParts) {
    this.#parts = parts;
  }

  /** Hears what came of each call. */
  readonly note: OutcomeListener = (outcome) => this.#counts.note(outcome);

  /** Reports every ten seconds from now on. */
  start(): void {
    const { signal } = this.#stopping;
    const { log } = this.#parts;
    const run = async () => {
      for (;;) {
        await delay(PERIOD_MS * (0.8 + Math.random() / 5), undefined, { signal }).catch(() => {});
        if (signal.aborted) return;
        await this.#report().catch((err: unknown) =>
          log.warn({ err }, 'cannot judge what callers do; what was counted is lost'),
        );
      }
    };
    this.#running ??= run();
  }

  /** Ends; what was counted since the last report is lost. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #report(): Promise<void> {
    const reports = this.#counts.take();
    if (reports.length === 0) return;
    const { store } = this.#parts;
    const present = await addCallerReports(store, deadline(), reports);
    await this.#learn(present);
    for (const record of present) this.#judge(record);
  }

  /** Sees to it that there are baselines for this hour. */
  async #learn(present: readonly CallerHourRecord[]): Promise<void> {
    const { store } = this.#parts;
    const unknown = present.filter(
      ({ caller, hour }) => this.#judged.get(caller)?.hour !== hour.getTime(),
    );
    for (let from = 0; from < unknown.length; from += TOGETHER) {
      const some = unknown.slice(from, from + TOGETHER);
      const callers = some.map(({ caller }) => caller);
      const found = await findCallerHours(store, deadline(), callers);
      const before = Map.groupBy(found, ({ caller }) => caller);
      for (const { caller, hour } of some)
        this.#judged.set(caller, {
          hour: hour.getTime(),
          baseline: new Baseline((before.get(caller) ?? []).map(hourOf)),
          raised: new Set(),
        });
    }
  }

  #judge(record: CallerHourRecord): void {
    const { caller } = record;
    const judged = this.#judged.get(caller);
    if (judged === undefined) return;
    for (const { feature, ...finding } of judged.baseline.judge(hourOf(record))) {
      if (judged.raised.has(feature)) continue;
      judged.raised.add(feature);
      const fields = { caller, feature, ...finding };
      this.#parts.alerts.raise('caller-unusual', `${caller}, ${feature}`, fields);
    }
  }
}

const deadline = () => ({ deadline: monotonicNow() + REPORT_TIMEOUT_MS });

function hourOf({ caller, hour, ...counts }: CallerHourRecord): CallerHour {
  return { hour: hour.getTime(), ...counts };
}
