/**
 * The supervisor of several server processes that serve behind the same ports.
 *
 * Invariants:
 * - so many are kept running, whatever becomes of each; one that ends is started again, with
 *   back-off where it did not last, and one that hangs is killed;
 * - the first starts alone, so that a mistake in the settings is printed once, and a wrong PIN
 *   costs one try; where none has started, the end of one is the end of all, with its exit code;
 * - in a replacement one by one, the new one serves before the old one begins to end.
 *
 * Node hands each new connection to the next process in turn (its module `cluster`); this process
 * reads none. It holds no PIN and no private key, opens no database, and does not know what is
 * served.
 */
import cluster from 'node:cluster';
import { setTimeout as delay } from 'node:timers/promises';
import { BackOff } from '../back-off.ts';
import { monotonicNow } from '../call.ts';
import type { Alerts } from '../signals/alerts.ts';
import { type Figure, lastingFigures, mergeFigures } from '../signals/metrics/figures.ts';
import type { Overview, ServerExitCause, ServerMessage } from './messages.ts';
import { ServerProcess } from './server-process.ts';

/** What is said of server processes, for the log. */
interface SupervisorLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface SupervisorOptions {
  /** How many server processes. */
  readonly count: number;
  /** One that was not heard of for so long is killed, in milliseconds. */
  readonly timeoutMs: number;
  /** How long one may take to end in order, in milliseconds. */
  readonly endingMs: number;
  readonly log: SupervisorLog;
  readonly alerts: Alerts;
  /** Names this process in alerts. */
  readonly name: string;
  /** Ends the service: no server process could be started. */
  readonly onHopeless: (exitCode: number) => void;
}

const LOOK_MS = 250;
/** A look that is this late says that this process was frozen, and not the others. */
const FROZEN_MS = 1_000;
/** The same while a process starts: loading its program takes a machine that is busy seconds. */
const START_TIMEOUT_MS = 60_000;
/** How long figures are waited for; what a process told before counts then. */
const FIGURES_MS = 1_000;
const MAX_BACK_OFF_MS = 30_000;
/** A process that lived this long died of something new. */
const LONG_LIFE_MS = 10_000;
const REPLACE_POLL_MS = 50;
/** A new process that does not serve by then is not waited for, and the old one stays. */
const REPLACE_LIMIT_MS = 120_000;

/** The place of one server process. */
interface Seat {
  readonly number: number;
  readonly backOff: BackOff;
  server: ServerProcess | undefined;
}

/** Figures that are being asked for. */
interface Asking {
  readonly server: ServerProcess;
  readonly id: number;
  readonly awaited: Set<ServerProcess>;
  readonly timer: NodeJS.Timeout;
}

/** Keeps server processes running, and has them know of each other. */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #seats: readonly Seat[];
  /** All that run: those in seats, and those that begin or end beside them. */
  readonly #running = new Set<ServerProcess>();
  readonly #exits: Record<ServerExitCause, number> = { crashed: 0, hung: 0, replaced: 0 };
  readonly #asking = new Map<number, Asking>();
  /** What those that have ended had counted. */
  #past: readonly Figure[] = [];
  #lastId = 0;
  #lookedAt = monotonicNow();
  #look: NodeJS.Timeout | undefined;
  #overview = '';
  #isReplacing = false;
  #stopped: PromiseWithResolvers<void> | undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#seats = Array.from({ length: options.count }, (_, index) => ({
      number: index + 1,
      backOff: new BackOff(MAX_BACK_OFF_MS),
      server: undefined,
    }));
  }

  /** Starts the first server process, and the others once that has started. */
  start(): void {
    // What a round of figures has may be infinite, which JSON has no word for.
    cluster.setupPrimary({ serialization: 'advanced' });
    cluster.schedulingPolicy = cluster.SCHED_RR;
    this.#lookedAt = monotonicNow();
    this.#look = setInterval(() => this.#maintain(), LOOK_MS);
    this.#maintain();
  }

  /** Has each process read again what today's reload reads. */
  reload(): void {
    for (const server of this.#running) server.tell({ kind: 'reload' });
  }

  /** Replaces each process by a new one, one after the other; those that end answer their calls. */
  async replaceAll(): Promise<void> {
    const { log } = this.#options;
    if (this.#isReplacing || this.#stopped !== undefined) return;
    this.#isReplacing = true;
    try {
      for (const seat of this.#seats) {
        if (await this.#replace(seat)) continue;
        log.error({ server: seat.number }, 'cannot replace a server process; the old ones stay');
        return;
      }
      log.info({}, 'all server processes are replaced');
    } finally {
      this.#isReplacing = false;
    }
  }

  /** Has all end in order, together, and kills those that do not in time. */
  async stop(why: string): Promise<void> {
    clearInterval(this.#look);
    this.#stopped ??= Promise.withResolvers();
    for (const server of this.#running) server.end(why);
    const impatience = setTimeout(() => this.#killAll(), this.#options.endingMs);
    this.#resolveWhenEmpty();
    await this.#stopped.promise;
    clearTimeout(impatience);
  }

  #killAll(): void {
    for (const server of this.#running) server.kill();
  }

  #maintain(): void {
    if (this.#stopped !== undefined) return;
    const now = monotonicNow();
    if (now - this.#lookedAt < FROZEN_MS) this.#killHanging();
    else for (const server of this.#running) server.forgive();
    this.#lookedAt = now;
    this.#startMissing();
    this.#tellOverview();
  }

  #killHanging(): void {
    const { timeoutMs, log } = this.#options;
    for (const server of this.#running) {
      const { number, pid, silentFor } = server;
      // One that ends may be busy with that; `stop` and `#retire` are patient with it for so long.
      const limitMs = server.hasStarted ? timeoutMs : Math.max(timeoutMs, START_TIMEOUT_MS);
      if (server.isEnding || silentFor <= limitMs) continue;
      server.isHung = true;
      log.error({ server: number, pid }, 'a server process hangs; replacing it');
      server.kill();
    }
  }

  #startMissing(): void {
    const hasStarted = this.#hasStarted();
    for (const seat of this.#seats) {
      if (!hasStarted && seat.number > 1) return;
      if (seat.server === undefined && seat.backOff.isOver) seat.server = this.#start(seat);
    }
  }

  #hasStarted(): boolean {
    return [...this.#running].some((server) => server.hasStarted);
  }

  #start({ number }: Seat): ServerProcess {
    const server = new ServerProcess(number, {
      onMessage: (from, message) => this.#heard(from, message),
      onExit: (from, how, code) => this.#exited(from, how, code),
    });
    this.#running.add(server);
    this.#options.log.info({ server: number, pid: server.pid }, 'a server process is started');
    return server;
  }

  #exited(server: ServerProcess, how: string, code: number): void {
    const hadOthers = this.#hasStarted();
    this.#running.delete(server);
    this.#past = mergeFigures([this.#past, lastingFigures(server.figures)]);
    for (const asking of [...this.#asking.values()]) this.#answered(asking, server);
    this.#resolveWhenEmpty();
    if (this.#stopped !== undefined) return;
    const cause = server.isEnding ? 'replaced' : server.isHung ? 'hung' : 'crashed';
    this.#exits[cause] += 1;
    const { number, pid, startedAt } = server;
    if (cause === 'replaced') return;
    const seat = this.#seats.find((each) => each.server === server);
    if (seat === undefined) return; // It was to take another's place, which stays.
    seat.server = undefined;
    if (!hadOthers) {
      this.#options.onHopeless(code || 1);
      return;
    }
    if (server.hasStarted && monotonicNow() - startedAt > LONG_LIFE_MS) seat.backOff.reset();
    else seat.backOff.failed();
    const fields = { server: number, pid, how, cause };
    this.#raise(fields);
    this.#startMissing();
    this.#tellOverview();
  }

  /** By a server process, which can have it delivered; without one it is in the log alone. */
  #raise(fields: { readonly server: number; readonly pid: number | undefined }): void {
    const { alerts, name } = this.#options;
    const subject = `server ${fields.server} of ${name}`;
    const [by] = [...this.#running].filter(({ hasStarted, isEnding }) => hasStarted && !isEnding);
    if (by === undefined) alerts.raise('server-process-ended', subject, fields);
    else by.tell({ kind: 'raise', alert: 'server-process-ended', subject, fields });
  }

  #heard(server: ServerProcess, message: ServerMessage): void {
    if (message.kind === 'started') this.#startMissing();
    else if (message.kind === 'state') this.#tellOverview();
    else if (message.kind === 'ask') this.#ask(server, message.id);
    else if (message.kind === 'figures') {
      server.figures = message.figures;
      const asking = this.#asking.get(message.id);
      if (asking !== undefined) this.#answered(asking, server);
    }
  }

  #ask(server: ServerProcess, id: number): void {
    this.#lastId += 1;
    const round = this.#lastId;
    const timer = setTimeout(() => this.#tellFigures(round), FIGURES_MS);
    this.#asking.set(round, { server, id, awaited: new Set(this.#running), timer });
    for (const each of this.#running) each.tell({ kind: 'tell', id: round });
  }

  #answered(asking: Asking, server: ServerProcess): void {
    asking.awaited.delete(server);
    if (asking.awaited.size > 0) return;
    for (const [round, each] of this.#asking) if (each === asking) this.#tellFigures(round);
  }

  /** Tells what is there; of one that has not answered, what it counted before. */
  #tellFigures(round: number): void {
    const asking = this.#asking.get(round);
    if (asking === undefined) return;
    this.#asking.delete(round);
    clearTimeout(asking.timer);
    const all = [...this.#running].map((each) =>
      asking.awaited.has(each) ? lastingFigures(each.figures) : each.figures,
    );
    asking.server.tell({ kind: 'told', id: asking.id, processes: [...all, this.#past] });
  }

  #tellOverview(): void {
    const servers = [...this.#running].map(({ report }) => report);
    const { count: configured } = this.#options;
    const overview: Overview = { configured, servers, exits: { ...this.#exits } };
    const text = JSON.stringify(overview);
    if (text === this.#overview) return;
    this.#overview = text;
    for (const server of this.#running) server.tell({ kind: 'overview', overview });
  }

  /** Returns whether another process serves in its place. */
  async #replace(seat: Seat): Promise<boolean> {
    const old = seat.server;
    const next = this.#start(seat);
    const until = monotonicNow() + REPLACE_LIMIT_MS;
    while (!next.report.isReady) {
      if (this.#stopped !== undefined || !this.#running.has(next)) return false;
      if (monotonicNow() > until) {
        next.end('it does not serve, and the process before it stays');
        await this.#gone(next);
        return false;
      }
      await delay(REPLACE_POLL_MS);
    }
    // That one may have ended meanwhile, and another one have been started in its seat.
    const before = new Set([old, seat.server]);
    seat.server = next;
    for (const each of before)
      if (each !== undefined && this.#running.has(each)) {
        each.end('another one is in its place');
        await this.#gone(each);
      }
    return true;
  }

  async #gone(server: ServerProcess): Promise<void> {
    const until = monotonicNow() + this.#options.endingMs;
    while (this.#running.has(server)) {
      if (monotonicNow() > until) server.kill();
      await delay(REPLACE_POLL_MS);
    }
  }

  #resolveWhenEmpty(): void {
    if (this.#running.size === 0) this.#stopped?.resolve();
  }
}
