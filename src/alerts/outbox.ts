/**
 * Brings alerts from where they are raised to those who are to hear of them.
 *
 * - An alert is written to the database once for all replicas, with what is to be delivered of it,
 *   in one transaction; from then on it is delivered though any replica ends: at least once.
 * - This replica delivers at once what it has found; every replica looks each second for what is
 *   left.
 * - What is found while the database is away is kept here, within a bound, delivered at once all
 *   the same, and written once the database is back.
 * - What is not delivered yet is tried again, later and later, until it is given up: an alert, to
 *   the other receivers.
 *
 * Does not know how a receiver is told (`sending.ts`). The line of the log does not depend on any
 * of this.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicNow } from '../call.ts';
import { type AnyId, newOrderedId, type TenantId } from '../ids.ts';
import { ALERTS, type AlertId, type AlertListener, type Alerts } from '../signals/alerts.ts';
import {
  type AlertKey,
  type AlertRecord,
  type DeliveryKey,
  endDelivery,
  lockUnplanned,
  OUTBOX_STATE,
  type OutboxState,
  type Outcome,
  type Plan,
  recordAlerts,
  repeatAlerts,
  resolveAlerts,
  type TakenDelivery,
  takeDeliveries,
  type UnplannedAlert,
  writePlans,
} from '../store/alerts/alerts.ts';
import type { Tx } from '../store/core/transaction.ts';
import type { Store } from '../store/store.ts';
import type { AlertEvent } from './event.ts';
import { type Receiver, wants } from './receivers.ts';
import { send } from './sending.ts';
import type { Silences } from './silences.ts';

/** How often it is looked for what is left to be delivered. */
const POLL_MS = 1_000;
/** Of that an alert lasts, the database is told so often. */
const TELL_MS = 30_000;
const LASTS_MS = 10 * 60_000;
/** The database has so long, before an alert is delivered without it. */
const RECORD_MS = 1_000;
const STEP_MS = 5_000;
/** At the end this is done yet, for so long. */
const LAST_MS = 3_000;
/** So many alerts wait for the database; further ones are in the log alone. */
const WAITING_LIMIT = 1_000;
const ACTIVE_LIMIT = 10_000;
const UNPLANNED_LIMIT = 200;
/** So many alerts of one condition are delivered within an hour, each. */
const SINGLE_LIMIT = 100;
/** So many attempts at once, of all receivers and of one. */
const SENDING_LIMIT = 32;
const SENDING_TO_ONE = 4;
const FIRST_RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 15 * 60_000;
const DIRECT_RETRY_MS = 5_000;
const FIELD_CHARACTERS = 1_000;
const FIELDS_CHARACTERS = 8_000;
const SUBJECT_CHARACTERS = 500;
/** So often in a row the database fails before it counts as away. */
const AWAY_FAILURES = 2;
/** An alert that ended within this was not silenced meanwhile. */
const BRIEF_MS = 5_000;

interface OutboxLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** What {@link AlertOutbox} stands on. */
export interface AlertOutboxParts {
  readonly store: Pick<Store, 'reconcile' | 'queryPrimary'>;
  readonly systemTenantId: TenantId;
  readonly environmentId: string;
  /** Names this process. */
  readonly replica: string;
  /** Returns the receivers as they are configured by now. */
  readonly receivers: () => readonly Receiver[];
  readonly silences: Pick<Silences, 'covers' | 'follow'>;
  readonly alerts: Alerts;
  readonly log: OutboxLog;
}

/** An alert that the database does not have yet. */
interface Waiting extends AlertKey {
  readonly alertId: AnyId;
  readonly foundAt: number;
  /** Where one was active already: it is counted, and begins no other. */
  isRepeated: boolean;
  foundLastAt: number;
  count: number;
  fields: object;
  /** To whom it was delivered without the database, and when that is tried again. */
  readonly delivered: Set<string>;
  directAt: number;
}

/** Records alerts, and delivers them. */
export class AlertOutbox implements AlertListener {
  readonly #parts: AlertOutboxParts;
  readonly #waiting = new Map<string, Waiting>();
  readonly #ended = new Map<string, AlertKey>();
  /** Those that are active, for all replicas, as far as is known. */
  #active: ReadonlySet<string> = new Set();
  /** Conditions that this replica has found and that last, and when the database was told. */
  readonly #lasting = new Map<string, AlertKey & { toldAt: number }>();
  readonly #sending = new Map<string, number>();
  readonly #deliveries = new Set<Promise<void>>();
  readonly #stopping = new AbortController();
  /** Ends deliveries that are under way. */
  readonly #cutting = new AbortController();
  #woken = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #hasWork = false;
  #said: string | undefined;
  /** How often the database could not be used, one after another. */
  #failures = 0;
  #dropped = 0;

  constructor(parts: AlertOutboxParts) {
    this.#parts = parts;
  }

  raise(condition: AlertId, fullSubject: string, fields: object): void {
    const subject = fullSubject.slice(0, SUBJECT_CHARACTERS);
    const name = nameOf({ condition, subject });
    this.#ended.delete(name);
    const before = this.#waiting.get(name);
    if (before !== undefined) {
      before.count += 1;
      before.fields = fields;
      before.foundLastAt = monotonicNow();
    } else if (this.#waiting.size >= WAITING_LIMIT) this.#dropped += 1;
    else
      this.#waiting.set(name, {
        condition,
        subject,
        alertId: newOrderedId(Date.now()),
        foundAt: monotonicNow(),
        isRepeated: this.#active.has(name),
        foundLastAt: monotonicNow(),
        count: 1,
        fields,
        delivered: new Set(),
        directAt: Number.NEGATIVE_INFINITY,
      });
    if (!this.#isTold(name)) this.#wake();
  }

  clear(condition: AlertId, fullSubject: string): void {
    if (this.#active.size === 0 && this.#waiting.size === 0) return;
    const subject = fullSubject.slice(0, SUBJECT_CHARACTERS);
    const name = nameOf({ condition, subject });
    this.#lasting.delete(name);
    if (!this.#active.has(name) && !this.#waiting.has(name)) return;
    this.#ended.set(name, { condition, subject });
    this.#wake();
  }

  /** Begins, and goes on until {@link AlertOutbox.stop}. */
  start(): void {
    this.#running ??= this.#run();
  }

  /** Ends, after it has written what waits, and tried to deliver it. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake();
    await this.#running;
    const cut = setTimeout(() => this.#cutting.abort(), LAST_MS);
    await this.#step().catch(() => {});
    await Promise.allSettled(this.#deliveries);
    clearTimeout(cut);
  }

  #wake(): void {
    this.#woken.resolve();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      this.#woken = Promise.withResolvers();
      await this.#step().then(
        () => this.#say(undefined),
        (err: unknown) => this.#say(err),
      );
      const left = Math.max(0, this.#lookedAt + POLL_MS - monotonicNow());
      const waiting = new AbortController();
      await Promise.race([
        this.#woken.promise,
        delay(left, undefined, { signal: waiting.signal }).catch(() => {}),
      ]);
      waiting.abort();
    }
  }

  /** Says once that the database cannot be used, and once that it can. */
  #say(err: unknown): void {
    this.#failures = err === undefined ? 0 : this.#failures + 1;
    const { log, alerts, replica } = this.#parts;
    if (this.#failures === AWAY_FAILURES)
      alerts.raise('database-away', replica, { failure: reasonOf(err) });
    else if (err === undefined) alerts.clear('database-away', replica);
    const saying = err === undefined ? undefined : reasonOf(err);
    if (saying === this.#said) return;
    this.#said = saying;
    if (err === undefined) log.info({}, 'alerts are recorded again');
    else log.warn({ err }, 'cannot record alerts yet; they are delivered without the database');
  }

  async #step(): Promise<void> {
    this.#noteLasting();
    const found = [...this.#waiting].filter(([name]) => !this.#isTold(name));
    const isDue = found.length > 0 || this.#ended.size > 0 || this.#lastingDue().length > 0;
    try {
      if (isDue) await this.#record(found.map(([, each]) => each));
      if (monotonicNow() - this.#lookedAt >= POLL_MS) await this.#look();
      if (this.#hasWork && !isDue) await this.#record([]);
    } catch (error) {
      this.#lookedAt = monotonicNow();
      await this.#deliverDirectly(found.map(([, each]) => each));
      throw error;
    }
    if (this.#hasWork) await this.#take();
  }

  /** Whether the database has been told of it only just. */
  #isTold(name: string): boolean {
    if (!this.#active.has(name)) return false;
    const lasting = this.#lasting.get(name);
    return lasting !== undefined && monotonicNow() - lasting.toldAt < TELL_MS;
  }

  /** Forgets conditions that ended elsewhere. */
  #noteLasting(): void {
    for (const name of this.#lasting.keys())
      if (!this.#active.has(name)) this.#lasting.delete(name);
  }

  /** Conditions that last, are found no second time, and end only when they are cleared. */
  #lastingDue(): readonly (AlertKey & { toldAt: number })[] {
    const now = monotonicNow();
    return [...this.#lasting.values()].filter(
      ({ condition, toldAt }) => ALERTS[condition].clears && now - toldAt >= LASTS_MS,
    );
  }

  /** Writes what was found and what has ended, and decides what is delivered. */
  async #record(found: readonly Waiting[]): Promise<void> {
    const { store, systemTenantId, replica } = this.#parts;
    const now = monotonicNow();
    const ended = [...this.#ended.values()];
    const lasting = this.#lastingDue();
    const counts = found.map(({ count }) => count);
    const written = found.map((each) => ({
      ...each,
      severity: ALERTS[each.condition].severity,
      fields: writtenFields(each.fields),
      ageMs: now - each.foundAt,
    }));
    const begun = written.filter(({ isRepeated }) => !isRepeated);
    const repeated = [
      ...written.filter(({ isRepeated }) => isRepeated),
      ...lasting.map((each) => ({ ...each, count: 0, fields: null })),
    ];
    const call = { deadline: now + (found.length > 0 ? RECORD_MS : STEP_MS) };
    const resolved = await store.reconcile(call, async (tx) => {
      if (begun.length > 0) await recordAlerts(tx, systemTenantId, replica, begun);
      if (repeated.length > 0) await repeatAlerts(tx, replica, repeated);
      const over = await resolveAlerts(tx, ended);
      await this.#plan(tx, found);
      return over;
    });
    const active = new Set(this.#active);
    for (const [index, each] of found.entries()) this.#recorded(each, counts[index] ?? 0, active);
    for (const each of lasting) each.toldAt = now;
    for (const key of ended)
      if (this.#ended.get(nameOf(key)) === key) this.#ended.delete(nameOf(key));
    for (const key of resolved) active.delete(nameOf(key));
    this.#sayEnded(resolved);
    this.#active = active;
    this.#hasWork = true;
  }

  #sayEnded(resolved: readonly AlertKey[]): void {
    for (const { condition, subject } of resolved)
      this.#parts.log.info({ ended: condition, subject }, 'what an alert was about has ended');
  }

  /** Notes that the database has it; what was found meanwhile still waits. */
  #recorded(each: Waiting, count: number, active: Set<string>): void {
    const name = nameOf(each);
    const { condition, subject } = each;
    if (each.count === count) this.#waiting.delete(name);
    else each.count -= count;
    active.add(name);
    this.#lasting.set(name, { condition, subject, toldAt: monotonicNow() });
  }

  /** Decides of alerts what is delivered, and to whom. */
  async #plan(tx: Tx, found: readonly Waiting[]): Promise<void> {
    const unplanned = await lockUnplanned(tx, UNPLANNED_LIMIT);
    const plans = unplanned.flatMap((alert) => this.#plansOf(alert));
    const delivered = found.flatMap(({ alertId, delivered }) =>
      [...delivered].map((receiver): DeliveryKey => ({ alertId, event: 'raised', receiver })),
    );
    for (const event of ['raised', 'resolved'] as const) {
      const some = plans.filter((plan) => plan.event === event);
      if (some.length > 0) await writePlans(tx, this.#parts.systemTenantId, some, delivered);
    }
  }

  #plansOf(alert: UnplannedAlert): readonly Plan[] {
    const { alertId, state, raisedIsPlanned, others, condition } = alert;
    const receivers = this.#receiversOf(alert);
    const told = receivers.map(({ name }) => name);
    const hearEnd = receivers.filter(({ sendResolved }) => sendResolved).map(({ name }) => name);
    const ends: Plan[] =
      state === 'RESOLVED' ? [{ alertId, event: 'resolved', receivers: hearEnd }] : [];
    if (raisedIsPlanned) return ends;
    const isSilent = this.#parts.silences.covers(alert) || wasSilent(alert);
    // One that lasts is delivered when it is silenced no more.
    if (isSilent && state === 'ACTIVE') return [];
    const isTooMany = others >= SINGLE_LIMIT;
    if (isTooMany) this.#parts.alerts.raise('alerts-too-many', condition, { condition });
    const receiversOfRaised = isSilent || isTooMany ? [] : told;
    return [{ alertId, event: 'raised', receivers: receiversOfRaised }, ...ends];
  }

  /** Who is to hear of it; of what one cannot be told, others are. */
  #receiversOf(alert: Pick<AlertRecord, 'condition' | 'subject' | 'severity'>): Receiver[] {
    return this.#parts
      .receivers()
      .filter(
        (receiver) =>
          wants(receiver, alert) &&
          !(alert.condition === 'alert-undelivered' && alert.subject === receiver.name),
      );
  }

  /** Looks what there is to do, and which alerts are active. */
  async #look(): Promise<void> {
    const { store, silences, log } = this.#parts;
    this.#lookedAt = monotonicNow();
    const call = { deadline: this.#lookedAt + STEP_MS };
    const [state] = await store.queryPrimary<OutboxState & Record<string, unknown>>(
      call,
      OUTBOX_STATE,
      [ACTIVE_LIMIT],
    );
    if (state === undefined) throw new Error('a look at the alerts returned no row');
    this.#forget(new Set((state.active ?? []).map(nameOf)));
    this.#hasWork ||= state.hasWork;
    await silences.follow(state.silences);
    if (this.#dropped === 0) return;
    log.warn({ alerts: this.#dropped }, 'too many alerts waited to be recorded; some were not');
    this.#dropped = 0;
  }

  /** Notes which alerts are active: what was found of others before they ended is over. */
  #forget(active: ReadonlySet<string>): void {
    for (const [name, each] of this.#waiting) {
      if (!each.isRepeated || active.has(name)) continue;
      // It may have been found after that.
      if (each.foundLastAt >= this.#lookedAt - POLL_MS) each.isRepeated = false;
      else this.#waiting.delete(name);
    }
    this.#active = active;
  }

  /** Takes up what is due, and delivers it; does not wait for that. */
  async #take(): Promise<void> {
    const free = this.#parts
      .receivers()
      .filter(({ name }) => (this.#sending.get(name) ?? 0) < SENDING_TO_ONE);
    const limit = Math.min(
      SENDING_LIMIT - this.#deliveries.size,
      SENDING_TO_ONE * Math.max(1, free.length),
    );
    this.#hasWork = false;
    if (free.length === 0 || limit <= 0) return;
    const taken = await this.#parts.store.reconcile({ deadline: monotonicNow() + STEP_MS }, (tx) =>
      takeDeliveries(
        tx,
        free.map(({ name }) => name),
        limit,
      ),
    );
    for (const each of taken) {
      const receiver = free.find(({ name }) => name === each.receiver);
      if (receiver === undefined) continue;
      const { name } = receiver;
      this.#sending.set(name, (this.#sending.get(name) ?? 0) + 1);
      const delivery = this.#deliver(receiver, each).finally(() => {
        this.#deliveries.delete(delivery);
        this.#sending.set(name, (this.#sending.get(name) ?? 1) - 1);
        this.#hasWork = true;
        this.#wake();
      });
      this.#deliveries.add(delivery);
    }
  }

  /** Never rejects. */
  async #deliver(receiver: Receiver, taken: TakenDelivery): Promise<void> {
    const { store, alerts, log } = this.#parts;
    const outcome = await this.#attempt(receiver, taken);
    const isWell = outcome.state === 'DELIVERED';
    const undelivered: AlertKey = { condition: 'alert-undelivered', subject: receiver.name };
    await store
      .reconcile({ deadline: monotonicNow() + STEP_MS }, async (tx) => {
        await endDelivery(tx, taken, outcome);
        // Not by what this replica remembers: another may have found only just that it is not well.
        return isWell ? resolveAlerts(tx, [undelivered]) : [];
      })
      .then(
        (resolved) => this.#sayEnded(resolved),
        (err: unknown) =>
          log.warn({ err, receiver: receiver.name }, 'cannot record the delivery of an alert yet'),
      );
    if (outcome.state !== 'DEAD') return;
    const { condition, subject } = taken.alert;
    alerts.raise('alert-undelivered', receiver.name, {
      receiver: receiver.name,
      undelivered: condition,
      about: subject,
      failure: outcome.failure,
    });
  }

  async #attempt(receiver: Receiver, taken: TakenDelivery): Promise<Outcome> {
    const { alert, event, attempts, ageMs } = taken;
    try {
      await send(receiver, this.#eventOf(alert, event), this.#cutting.signal);
      return { state: 'DELIVERED' };
    } catch (error) {
      const failure = (error as Error).message;
      if (this.#cutting.signal.aborted) return { state: 'PENDING', againMs: 0, failure };
      const { log } = this.#parts;
      const fields = { receiver: receiver.name, undelivered: alert.condition, attempts, failure };
      log.warn(fields, 'cannot deliver an alert yet');
      if (ageMs >= receiver.giveUpAfterSeconds * 1_000) return { state: 'DEAD', failure };
      return { state: 'PENDING', againMs: retryMs(attempts), failure };
    }
  }

  /** Without the database: what fails is tried again, here or from the outbox. Never rejects. */
  async #deliverDirectly(found: readonly Waiting[]): Promise<void> {
    const now = monotonicNow();
    const due = found.filter(({ directAt }) => directAt <= now);
    await Promise.all(
      due.map(async (each) => {
        each.directAt = Number.POSITIVE_INFINITY;
        const { severity } = ALERTS[each.condition];
        const left = this.#parts.silences.covers(each)
          ? []
          : this.#receiversOf({ ...each, severity }).filter(
              ({ name }) => !each.delivered.has(name),
            );
        await Promise.all(left.map((receiver) => this.#tellDirectly(receiver, each)));
        each.directAt = monotonicNow() + DIRECT_RETRY_MS;
      }),
    );
  }

  async #tellDirectly(receiver: Receiver, each: Waiting): Promise<void> {
    const { replica, log } = this.#parts;
    const firstAt = new Date(Date.now() - (monotonicNow() - each.foundAt));
    const alert: AlertRecord = {
      ...each,
      severity: ALERTS[each.condition].severity,
      state: 'ACTIVE',
      firstAt,
      lastAt: firstAt,
      resolvedAt: null,
      replica,
      fields: writtenFields(each.fields),
    };
    await send(receiver, this.#eventOf(alert, 'raised'), this.#cutting.signal).then(
      () => each.delivered.add(receiver.name),
      (error: Error) =>
        log.warn(
          { receiver: receiver.name, undelivered: each.condition, failure: error.message },
          'cannot deliver an alert yet',
        ),
    );
  }

  #eventOf(alert: AlertRecord, event: AlertEvent['event']): AlertEvent {
    return { alert, event, environmentId: this.#parts.environmentId };
  }
}

/** Why the database cannot be used, as it or the network says it. */
function reasonOf(error: unknown): string {
  const { cause, message } = error as Error;
  return cause instanceof Error ? cause.message : message;
}

function nameOf({ condition, subject }: AlertKey): string {
  return `${condition} ${subject}`;
}

/** Whether it was silenced for as long as it lasted: else it would have been delivered at once. */
function wasSilent({ state, firstAt, resolvedAt }: AlertRecord): boolean {
  if (state === 'ACTIVE' || resolvedAt === null) return false;
  return resolvedAt.getTime() - firstAt.getTime() > BRIEF_MS;
}

/** In JSON, each text and all of it within a bound. */
function writtenFields(fields: object): string {
  const text = JSON.stringify(fields, (_name, value: unknown) =>
    typeof value === 'string' ? value.slice(0, FIELD_CHARACTERS) : value,
  );
  return text.length <= FIELDS_CHARACTERS ? text : '{}';
}

/** Later and later, at times of each its own. */
function retryMs(attempts: number): number {
  const least = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(attempts - 1, 20));
  return least * (1 + Math.random() / 4);
}
