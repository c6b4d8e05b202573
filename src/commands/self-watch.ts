/**
 * What a replica looks at of its surroundings from time to time: its clock, the certificates that
 * it serves by, and rotations that no replica performs.
 *
 * - A clock that differs from the database's makes tokens and certificates count too long or not at
 *   all; what is due goes by the database's.
 * - A certificate is near its end when a fifth of its time is left, or 14 days: short ones are
 *   renewed late.
 * - What cannot be looked at is no finding: others report that.
 */
import type { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { monotonicNow } from '../call.ts';
import { certificatesIn } from '../pem.ts';
import type { Alerts } from '../signals/alerts.ts';
import { clockOffset } from '../store/clock.ts';
import type { Reserve } from '../store/core/transaction.ts';
import { findDueRotations, OVERDUE_SECONDS } from '../store/lifecycle/work-figures.ts';
import type { Store } from '../store/store.ts';

const LOOK_MS = 10_000;
const QUERY_MS = 2_000;
/** What lasts is raised again after so long. */
const AGAIN_MS = 3_600_000;
/** Clocks that are kept by NTP differ by milliseconds. */
const OFF_MS = 5_000;
const DAY_MS = 86_400_000;
const NEAR_END = { ms: 14 * DAY_MS, part: 0.2 } as const;

export interface SelfWatchParts {
  readonly store: Reserve & Pick<Store, 'reconcile'>;
  readonly alerts: Alerts;
  /** Absent where another process looks at them. */
  readonly surroundings: Surroundings | undefined;
}

/** What processes of one service on one machine have alike. */
interface Surroundings {
  /** This process, as audit entries name it. */
  readonly replica: string;
  /** Files with certificates, by the settings that name them. */
  readonly files: Readonly<Record<string, string>>;
}

/** Looks at the clock, the certificates and overdue rotations. */
export class SelfWatch {
  readonly #parts: SelfWatchParts;
  /** When an alert that lasts was raised, by its subject. */
  readonly #raised = new Map<string, number>();
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<unknown> = Promise.resolve();

  constructor(parts: SelfWatchParts) {
    this.#parts = parts;
  }

  /** Looks at once, and from then on every ten seconds. */
  start(): void {
    const look = () => {
      this.#looking = Promise.allSettled([this.#lookAtRotations(), this.#lookAround()]);
    };
    look();
    this.#timer = setInterval(look, LOOK_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
  }

  async #lookAround(): Promise<void> {
    const { surroundings } = this.#parts;
    if (surroundings === undefined) return;
    const { replica, files } = surroundings;
    await Promise.allSettled([
      this.#lookAtClock(replica),
      ...Object.entries(files).map((file) => this.#lookAtFile(replica, ...file)),
    ]);
  }

  async #lookAtClock(replica: string): Promise<void> {
    const { store } = this.#parts;
    const { aheadMs, withinMs } = await clockOffset(store, { deadline: monotonicNow() + QUERY_MS });
    const isOff = Math.abs(aheadMs) - withinMs > OFF_MS;
    const fields = { replica, aheadMs: Math.round(aheadMs) };
    this.#tell('clock-off', replica, isOff ? fields : undefined);
  }

  /** Of all replicas: none performs them, or they fail, or maintenance is paused. */
  async #lookAtRotations(): Promise<void> {
    const call = { deadline: monotonicNow() + QUERY_MS };
    const { overdueSeconds, rotationsDue, isPaused } = await this.#parts.store.reconcile(
      call,
      findDueRotations,
    );
    const fields = { seconds: Math.round(overdueSeconds), keys: rotationsDue, isPaused };
    const isOverdue = overdueSeconds > OVERDUE_SECONDS;
    this.#tell('rotation-overdue', 'rotations', isOverdue ? fields : undefined);
  }

  async #lookAtFile(replica: string, setting: string, path: string): Promise<void> {
    const subject = `${setting} of ${replica}`;
    const [first] = certificatesIn(await readFile(path, 'utf8'), path).toSorted(
      (a, b) => a.validToDate.getTime() - b.validToDate.getTime(),
    );
    const found = first !== undefined &&
      isNearEnd(first, Date.now()) && {
        ...{ setting, replica },
        until: first.validToDate.toISOString(),
        certificate: first.subject,
      };
    this.#tell('certificate-expiring', subject, found || undefined);
  }

  /** Raises the alert with what was found, now and then, or ends it where nothing was. */
  #tell(
    id: 'clock-off' | 'certificate-expiring' | 'rotation-overdue',
    subject: string,
    found: object | undefined,
  ): void {
    const { alerts } = this.#parts;
    const key = `${id} ${subject}`;
    if (found === undefined) {
      this.#raised.delete(key);
      alerts.clear(id, subject);
      return;
    }
    const now = monotonicNow();
    if (now - (this.#raised.get(key) ?? Number.NEGATIVE_INFINITY) < AGAIN_MS) return;
    this.#raised.set(key, now);
    alerts.raise(id, subject, found);
  }
}

/** Whether little of its time is left, or none. */
export function isNearEnd(
  { validFromDate, validToDate }: Pick<X509Certificate, 'validFromDate' | 'validToDate'>,
  now: number,
): boolean {
  const [from, until] = [validFromDate.getTime(), validToDate.getTime()];
  return until - now < Math.min(NEAR_END.ms, (until - from) * NEAR_END.part);
}
