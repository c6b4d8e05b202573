/**
 * Tells people who asked for it what will end soon: destructions seven days and one day before, and
 * role bindings that expire.
 *
 * - Every replica looks, and what several find is one alert.
 * - A notice that is missed, since no replica ran, is not made up for.
 */
import { monotonicNow } from '../../call.ts';
import { Lru } from '../../lru.ts';
import type { Alerts } from '../../signals/alerts.ts';
import { findEndings } from '../../store/lifecycle/notices.ts';
import type { Store } from '../../store/store.ts';

const LOOK_MS = 600_000;
const READ_MS = 5_000;
/** So many are told of at once. */
const LIMIT = 1_000;
/** So many notices are remembered, so that none is repeated. */
const REMEMBERED = 10_000;
const IDS = { destruction: 'destruction-coming', binding: 'binding-expiring' } as const;

export interface NoticesParts {
  readonly store: Pick<Store, 'reconcile'>;
  readonly alerts: Pick<Alerts, 'raise'>;
  readonly log: { warn(fields: object, message: string): void };
}

/** Looks for what will end soon. */
export class Notices {
  readonly #parts: NoticesParts;
  readonly #told = new Lru<string, true>(REMEMBERED);
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> = Promise.resolve();

  constructor(parts: NoticesParts) {
    this.#parts = parts;
  }

  /** Looks at once, and from then on every ten minutes. */
  start(): void {
    const look = () => {
      this.#looking = this.#look().catch((err: unknown) =>
        this.#parts.log.warn({ err }, 'cannot look for what ends soon'),
      );
    };
    look();
    this.#timer = setInterval(look, LOOK_MS);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
  }

  async #look(): Promise<void> {
    const { store, alerts } = this.#parts;
    const endings = await findEndings(store, { deadline: monotonicNow() + READ_MS }, LIMIT);
    for (const { what, resource, at, daysLeft } of endings) {
      const within = daysLeft <= 1 ? '1 day' : '7 days';
      const subject = `${resource} within ${within}`;
      // One that is put off ends at another time, and is told of again.
      const notice = `${subject} ${at.toISOString()}`;
      if (this.#told.get(notice) !== undefined) continue;
      this.#told.set(notice, true);
      alerts.raise(IDS[what], subject, { resource, at: at.toISOString(), within });
    }
  }
}
