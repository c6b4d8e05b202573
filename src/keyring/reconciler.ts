/**
 * What the service does by itself, in every replica: rotates what is due, destroys what is due,
 * brings new token keys into use, works on re-wrap jobs and on seals.
 *
 * Invariant: all state is in rows, so a pass that is cut off anywhere loses nothing: the next one,
 * on any replica, goes on. Ticks (`ticks.ts`) come at a moment of each replica's own; what is due,
 * Postgres decides, by its clock. What one thing fails of stops no other. Knows the order of
 * the steps; what they are is in `rotation.ts`, `destruction.ts`, `shredding.ts`, `token-keys.ts`,
 * `rewrap.ts`, `seals.ts`.
 */
import type { TenantId } from '../ids.ts';
import { formatTenantName } from '../names.ts';
import type { Alerts } from '../signals/alerts.ts';
import { type Due, findDue } from '../store/lifecycle/maintenance.ts';
import type { Store } from '../store/store.ts';
import type { Keyring } from './keyring.ts';
import { ownCall } from './own-calls.ts';
import { startTicks } from './ticks.ts';

/** So long a pass works on jobs before it looks for what is due again. */
const SLICE_MS = 5_000;
const LOOK_MS = 5_000;
/** What is due is taken so many at a time. */
const LIMIT = 100;

export interface ReconcilerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface ReconcilerOptions {
  readonly store: Store;
  readonly keyring: Pick<
    Keyring,
    | 'tenants'
    | 'rotation'
    | 'destruction'
    | 'shredding'
    | 'tokenKeys'
    | 'rewrap'
    | 'seals'
    | 'maintenance'
  >;
  readonly log: ReconcilerLog;
  readonly alerts: Alerts;
}

/** What a replica's reconciler has done since its start. */
export interface ReconcilerFigures {
  readonly passes: number;
  readonly failedPasses: number;
  /** When the last pass ended that did not fail. */
  readonly passedAt: Date | undefined;
  readonly rotated: number;
  readonly destroyed: number;
  readonly shredded: number;
  /** Token keys that were made current. */
  readonly activated: number;
}

/** What is due of one tenant, which the database names. */
interface DueOfTenant {
  readonly tenantId: TenantId;
  readonly tenant: string;
}

/** Performs due work in every replica, a pass at each tick. */
export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #stopping = new AbortController();
  #woken = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  #endTicks: (() => void) | undefined;
  readonly #figures = {
    ...{ passes: 0, failedPasses: 0, passedAt: undefined as Date | undefined },
    ...{ rotated: 0, destroyed: 0, shredded: 0, activated: 0 },
  };

  /** What this replica has done since its start. */
  get figures(): ReconcilerFigures {
    return this.#figures;
  }

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /**
   * Works on each tick of the cron expression (seconds first), up to `jitterMs` later, and when
   * woken.
   */
  start(ticks: string, jitterMs: number): void {
    this.#endTicks = startTicks(ticks, jitterMs, () => this.wake());
    this.#running ??= this.#run();
  }

  /** There is something to do: now, not at the next tick. */
  wake(): void {
    this.#woken.resolve();
  }

  /** Ends after the step that is under way; another replica, or the next start, goes on. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#endTicks?.();
    this.wake();
    await this.#running;
  }

  /**
   * Does what is due now. Returns whether there is more. Throws only if it can't be found out what
   * is due.
   */
  async pass(): Promise<boolean> {
    const { store, keyring, log } = this.#options;
    const { rotation, destruction, shredding, tokenKeys, rewrap } = keyring;
    const call = ownCall('FindDue', LOOK_MS);
    const found = await findDue(store, call, LIMIT, (tx) =>
      keyring.maintenance.isPaused(tx, call.deadline),
    );
    const failed = (what: string) => (err: unknown, resource?: string) => {
      log.warn({ err, resource }, `${what} failed and will be tried again`);
    };
    const due = await this.#ofVerified(found, failed('what is due of a tenant'));
    const rotated = await rotation.rotateDue(due.rotations, failed('a rotation'));
    this.#figures.rotated += rotated.length;
    for (const resource of rotated) log.info({ resource }, 'rotated');
    const destroyed = await destruction.destroyDue(due.destructions, failed('a destruction'));
    this.#figures.destroyed += destroyed.length;
    for (const fields of destroyed) log.info(fields, 'destroyed');
    const shredded = await shredding.shredDue(due.shreddings, failed('a shredding'));
    this.#figures.shredded += shredded.length;
    for (const fields of shredded) log.info(fields, 'shredded');
    const { made, activated } = await tokenKeys.advance(
      due.tokenKeys,
      failed('a step of a token key'),
    );
    this.#figures.activated += activated.length;
    for (const resource of activated) log.info({ resource }, 'a new token key is current');
    const moreSeals = (due.hasStaleSeals || activated.length > 0) && (await this.#reseal());
    // Rotations, of whatever, have started jobs.
    const hasJobs = due.hasJobs || rotated.length + activated.length > 0;
    const more =
      hasJobs && (await rewrap.work(SLICE_MS, this.#stopping.signal, failed('re-wrapping')));
    // What was made may be current at once.
    return more || moreSeals || made.length > 0 || rotated.length + destroyed.length >= LIMIT;
  }

  /** Leaves out what is of a tenant that doesn't verify; the others go by their verified names. */
  async #ofVerified(due: Due, onError: (error: unknown, resource: string) => void): Promise<Due> {
    const names = new Map<TenantId, Promise<string | undefined>>();
    const nameOf = ({ tenantId, tenant }: DueOfTenant) => {
      const known =
        names.get(tenantId) ??
        this.#options.keyring.tenants.byId(tenantId).then(
          ({ name }) => name,
          (error: unknown) => {
            onError(error, formatTenantName({ tenant }));
            return undefined;
          },
        );
      names.set(tenantId, known);
      return known;
    };
    const named = async <Item extends DueOfTenant>(items: readonly Item[]): Promise<Item[]> => {
      const all = await Promise.all(
        items.map(async (item) => ({ item, tenant: await nameOf(item) })),
      );
      return all.flatMap(({ item, tenant }) => (tenant === undefined ? [] : { ...item, tenant }));
    };
    return {
      ...due,
      rotations: await named(due.rotations),
      destructions: await named(due.destructions),
      shreddings: await named(due.shreddings),
      tokenKeys: await named(due.tokenKeys),
    };
  }

  /** Returns whether there is more. */
  async #reseal(): Promise<boolean> {
    const { keyring, log, alerts } = this.#options;
    const onCorrupt = (resource: string) => alerts.raise('seal-corrupt', resource, { resource });
    try {
      const { resealed, finished } = await keyring.seals.work(
        SLICE_MS,
        this.#stopping.signal,
        onCorrupt,
      );
      if (resealed > 0) log.info({ resealed }, 'sealed again');
      return !finished;
    } catch (err) {
      log.warn({ err }, 'sealing again failed and will be tried again');
      return false;
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      await this.#woken.promise;
      this.#woken = Promise.withResolvers();
      let more = !signal.aborted;
      while (more) more = (await this.#attempt()) && !signal.aborted;
    }
  }

  async #attempt(): Promise<boolean> {
    try {
      const more = await this.pass();
      this.#figures.passes += 1;
      this.#figures.passedAt = new Date();
      return more;
    } catch (err) {
      this.#figures.failedPasses += 1;
      this.#options.log.warn({ err }, 'a pass failed and will be tried again at the next tick');
      return false;
    }
  }
}
