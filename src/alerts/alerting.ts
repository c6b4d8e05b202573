/**
 * Alerts as administrators see them: those that there are, the receivers, and silences.
 *
 * Holds what delivers them, and the file of receivers, which is read again when it changes.
 */
import { WatchedFile } from '../access/watched-file.ts';
import { type Call, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { type AnyId, newOrderedId, type TenantId } from '../ids.ts';
import { type ListRequest, type Page, type Positions, readPage } from '../keyring/pages.ts';
import { isUuid } from '../names.ts';
import { ALERTS, type AlertSignals } from '../signals/alerts.ts';
import {
  type AlertRecord,
  type DeliveryFailure,
  keepAlerts,
  listAlerts,
} from '../store/alerts/alerts.ts';
import type { Query } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import type { AlertEvent } from './event.ts';
import { AlertOutbox } from './outbox.ts';
import { parseReceivers, type Receiver } from './receivers.ts';
import { send } from './sending.ts';
import { Silences, type SilencesParts } from './silences.ts';

const HOUSEKEEPING_MS = 10 * 60_000;
const STEP_MS = 10_000;
/** What a test leaves of its call's time for the answer. */
const ANSWER_MS = 500;
const SUBJECT_CHARACTERS = 500;
/** Alerts by their ids, which are in the order of time. */
const BY_ALERT: Positions<AlertRecord> = {
  positionOf: ({ alertId }) => alertId,
  isPosition: isUuid,
};

/** What {@link Alerting} stands on. */
export interface AlertingParts {
  readonly store: Pick<Store, 'reconcile' | 'queryPrimary' | 'query' | 'mutate'>;
  readonly agents: SilencesParts['agents'];
  readonly states: SilencesParts['states'];
  readonly systemTenantId: TenantId;
  readonly environmentId: string;
  /** Names this process. */
  readonly replica: string;
  /** The file of receivers; undefined where alerts are delivered nowhere. */
  readonly receiversFile: string | undefined;
  readonly alerts: AlertSignals;
  readonly log: {
    info(fields: object, message: string): void;
    warn(fields: object, message: string): void;
    error(fields: object, message: string): void;
  };
}

/** An alert, and what has failed of its delivery. */
export interface ListedAlert extends AlertRecord {
  readonly failures: readonly DeliveryFailure[] | null;
  readonly isSilenced: boolean;
}

/** What became of a test of a receiver. */
export interface ReceiverTest {
  readonly receiver: string;
  readonly delivered: boolean;
  /** What it answered, or why it was not reached. */
  readonly answer: string;
}

/** Delivers alerts, and shows and silences them. */
export class Alerting {
  readonly silences: Silences;
  readonly #parts: AlertingParts;
  readonly #file: WatchedFile<readonly Receiver[]> | undefined;
  readonly #outbox: AlertOutbox;
  #endWatch: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** Hears of alerts from now on. Throws Error for a file that cannot be used. */
  constructor(parts: AlertingParts) {
    const { receiversFile } = parts;
    this.#parts = parts;
    this.#file =
      receiversFile === undefined ? undefined : new WatchedFile(receiversFile, parseReceivers);
    this.silences = new Silences(parts);
    this.#outbox = new AlertOutbox({
      ...parts,
      receivers: () => this.#receivers,
      silences: this.silences,
    });
    parts.alerts.listen(this.#outbox);
  }

  /** Begins to deliver, and to look for another file of receivers. */
  start(): void {
    const { log } = this.#parts;
    this.#endWatch = this.#file?.watch(
      () => log.info({ receivers: this.#receivers.length }, 'read the receivers of alerts again'),
      (err) => log.error({ err }, 'cannot read the receivers of alerts; the former ones hold'),
    );
    this.#outbox.start();
    this.#timer = setInterval(() => this.#keepHouse(), HOUSEKEEPING_MS * (0.5 + Math.random()));
  }

  /** Ends, after what waits was written, and delivered where that is quick. */
  async stop(): Promise<void> {
    this.#endWatch?.();
    clearInterval(this.#timer);
    await this.#outbox.stop();
  }

  /** Looks at the file of receivers now. */
  reload(): void {
    this.#file?.look();
  }

  /** Returns a page of alerts, the newest first. Throws what the store throws. */
  async list({ deadline }: Call, request: ListRequest): Promise<Page<ListedAlert>> {
    const query = ((text: string, values: readonly unknown[]) =>
      this.#parts.store.query({ deadline }, text, values)) as Query;
    const page = await readPage('alerts', request, BY_ALERT, ({ after, ...rest }) =>
      listAlerts(query, { ...rest, before: after }),
    );
    const items = page.items.map((alert) => {
      const isSilenced = this.silences.covers(alert);
      return { ...alert, isSilenced };
    });
    return { ...page, items };
  }

  /** Tells a receiver, or with an empty name each, of a test. Throws RESOURCE_NOT_FOUND. */
  async test(call: Call, name: string): Promise<readonly ReceiverTest[]> {
    const receivers = this.#receivers.filter((each) => name === '' || each.name === name);
    if (name !== '' && receivers.length === 0) throw new KeywardError('RESOURCE_NOT_FOUND');
    const event = this.#testOf(call);
    const left = Math.max(1, Math.floor(call.deadline - monotonicNow() - ANSWER_MS));
    const signal = AbortSignal.timeout(left);
    return Promise.all(
      receivers.map((receiver) =>
        send(receiver, event, signal).then(
          (answer) => ({ receiver: receiver.name, delivered: true, answer }),
          ({ message: answer }: Error) => ({ receiver: receiver.name, delivered: false, answer }),
        ),
      ),
    );
  }

  #testOf({ caller }: Call): AlertEvent {
    const { replica, environmentId } = this.#parts;
    const now = new Date();
    const condition = 'test-alert';
    const alert = {
      alertId: newOrderedId<AnyId>(now.getTime()),
      condition,
      subject: caller.slice(0, SUBJECT_CHARACTERS),
      severity: ALERTS[condition].severity,
      state: 'ACTIVE',
      count: 1,
      firstAt: now,
      lastAt: now,
      resolvedAt: null,
      replica,
      fields: '{}',
    } as const;
    return { alert, event: 'raised', environmentId };
  }

  get #receivers(): readonly Receiver[] {
    return this.#file?.value ?? [];
  }

  #keepHouse(): void {
    const { store, alerts, log } = this.#parts;
    store.reconcile({ deadline: monotonicNow() + STEP_MS }, keepAlerts).then(
      (receivers) => {
        for (const receiver of receivers)
          alerts.raise('alert-undelivered', receiver, { receiver, failure: 'no replica has it' });
      },
      (err: unknown) => log.warn({ err }, 'cannot forget alerts that ended long ago yet'),
    );
  }
}
