/**
 * The keeping alive: that so many agents are ready on one token, whatever becomes of each.
 *
 * Invariants: recovery is restart; an agent that hangs is killed, except while it changes the
 * token's objects; one logs in before others do, unless the PIN was accepted before, and a wrong
 * PIN is not tried again until the PIN file changes; a start that takes longer than calls may is
 * not waited for alone; a token on which nothing succeeds is tried less and less often; one that is
 * replaced goes once another is ready, and all that it was doing is done. Knows agents as
 * processes; what they are asked for and what their failures mean is `agents.ts`'s.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { BackOff } from '../back-off.ts';
import { monotonicNow } from '../call.ts';
import { type AgentExit, AgentProcess, type ExitCause } from './agent-process.ts';
import type { AgentStarter } from './agent-starter.ts';
import { PinFile } from './pin-file.ts';
import {
  decodeReply,
  encodeRequest,
  type Failure,
  type FailureKind,
  type ServeSettings,
} from './protocol.ts';
import type { TokenObject, TokenReport } from './token-profile.ts';

/** What is said of the agents' lives, for the log. Details hold no secret. */
export interface AgentLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface AgentPoolOptions {
  /** `objects`: until {@link AgentPool.use} says otherwise. */
  readonly settings: Omit<ServeSettings, 'despiteFailedTry'>;
  /** Reads anew which objects are recorded: asked once, should the first agent be refused. */
  readonly reread?: () => Promise<readonly TokenObject[]>;
  /** How many agents, each with a session of its own. */
  readonly count: number;
  /** An agent that works on one call for longer is killed, in milliseconds. */
  readonly callTimeoutMs: number;
  /**
   * An agent that takes longer to start is killed, in milliseconds, half a minute unless given;
   * twice as long after each that was, until one starts.
   */
  readonly startTimeoutMs?: number;
  readonly starter: AgentStarter;
  readonly log: AgentLog;
}

/** Hears what becomes of agents. */
interface AgentPoolListener {
  /** One is ready from here on. */
  onReady(agent: AgentProcess, report: TokenReport): void;
  /** One has ended that was ready, or was to be. */
  onExit(exit: AgentExit): void;
  /** Ten times a second: whoever waits for an agent may have waited for too long. */
  onTick(): void;
}

const MAINTENANCE_MS = 100;
const REPLACE_POLL_MS = 20;
/**
 * Maintenance that comes this late says that this process was frozen: answers may be there that it
 * hasn't read.
 */
const FROZEN_MS = 500;
const START_TIMEOUT_MS = 30_000;
/** Starts get no more than so many times their limit, however many have hung. */
const MAX_START_PATIENCE = 16;
/** Calls wait this long for the first agent, or the next, to be ready. */
const GRACE_MS = 2_000;
const MAX_BACK_OFF_MS = 2_000;
/** An agent that lived this long died of something new, even if it was never asked for anything. */
const LONG_LIFE_MS = 10_000;

/** Failures of an agent's start that trying again doesn't mend. */
export class TokenRefused extends Error {
  override readonly name = 'TokenRefused';
  /** Whether a PIN was tried in vain: another try may lock the token. */
  readonly isPinRejected: boolean;
  /** Whether the rule that agents hold wants people to have approved it. */
  readonly isNotApproved: boolean;

  constructor(message: string, kind?: FailureKind) {
    super(message);
    this.isNotApproved = kind === 'not-approved';
    this.isPinRejected = kind === 'pin-rejected';
  }
}

/** How agents are doing. */
export interface AgentPoolFigures {
  readonly configured: number;
  readonly ready: number;
  readonly starting: number;
  /** How many have ended, by why; `replaced` were let finish, another one being ready. */
  readonly exits: ReadonlyMap<ExitCause | 'replaced', number>;
}

/** What an agent was started with. */
interface Beginning {
  /** What the PIN file looked like. */
  readonly pin: string;
  readonly objects: readonly TokenObject[];
}

/** Keeps a number of agents ready on one token. */
export class AgentPool {
  readonly #options: AgentPoolOptions;
  readonly #listener: AgentPoolListener;
  readonly #ready = new Set<AgentProcess>();
  readonly #started = Promise.withResolvers<TokenReport>();
  readonly #starting = new Set<AgentProcess>();
  readonly #exits = new Map<ExitCause | 'replaced', number>();
  #objects: readonly TokenObject[];
  /** Agents that are being replaced: they serve until another is ready. */
  readonly #outgoing = new Set<AgentProcess>();
  /** Agents that were: they end once all that they were doing is done. */
  readonly #retired = new Map<AgentProcess, PromiseWithResolvers<void>>();
  #downSince = monotonicNow();
  /** Agents that have done something for a caller: their end says nothing against the token. */
  readonly #proven = new WeakSet<AgentProcess>();
  #maintainedAt = monotonicNow();
  readonly #backOff = new BackOff(MAX_BACK_OFF_MS);
  readonly #pin: PinFile;
  #hasStarted = false;
  #hasReread = false;
  /**
   * Refused before any agent was ready: an operator has to mend something, and the process ends.
   */
  #refused = false;
  #lastFailure = '';
  /** Times its limit that a start may take now. */
  #startPatience = 1;
  #maintenance: NodeJS.Timeout | undefined;
  #stopped: PromiseWithResolvers<void> | undefined;

  constructor(options: AgentPoolOptions, listener: AgentPoolListener) {
    this.#options = options;
    this.#listener = listener;
    this.#objects = options.settings.objects;
    this.#pin = new PinFile(options.starter.pinFile);
    this.#started.promise.catch(() => {});
  }

  /**
   * Starts one agent, then the others. Resolves once the first is ready, however long the token is
   * away or the PIN is wrong: a process that ended then would be started again, and cost a try each
   * time. Rejects with {@link TokenRefused} on what else an operator has to mend.
   */
  start(): Promise<TokenReport> {
    this.#maintainedAt = monotonicNow();
    this.#maintenance = setInterval(() => this.#maintain(), MAINTENANCE_MS);
    this.#maintain();
    return this.#started.promise;
  }

  /** The agents that can be given something to do. */
  get ready(): ReadonlySet<AgentProcess> {
    return this.#ready;
  }

  /** Agents that were replaced and still finish what they had. */
  get retired(): readonly AgentProcess[] {
    return [...this.#retired.keys()];
  }

  /** How many agents there are to be, are starting, and have ended while this goes on. */
  get figures(): AgentPoolFigures {
    const { count: configured } = this.#options;
    const [ready, starting] = [this.#ready.size, this.#starting.size];
    return { configured, ready, starting, exits: this.#exits };
  }

  /** Why no agent could be started last; empty once one could. */
  get lastFailure(): string {
    return this.#lastFailure;
  }

  /** What agents start with. */
  get objects(): readonly TokenObject[] {
    return this.#objects;
  }

  /**
   * Has agents start with these from now on; one that began to start with others serves nobody, and
   * is started again.
   */
  use(objects: readonly TokenObject[]): void {
    // What starts with an equal list isn't outdated.
    if (!isDeepStrictEqual(objects, this.#objects)) this.#objects = objects;
  }

  /**
   * Whether an agent may be ready soon, for whoever waits for one since then, in monotonic
   * milliseconds.
   */
  mayBeReadySoon(waitingSince: number): boolean {
    if (this.#stopped !== undefined || this.#refused || this.#pin.isRejected) return false;
    const since = this.#ready.size === 0 ? this.#downSince : waitingSince;
    return monotonicNow() - since < GRACE_MS;
  }

  /** The agent has done something for a caller. */
  prove(agent: AgentProcess): void {
    if (this.#proven.has(agent)) return;
    this.#proven.add(agent);
    this.#backOff.reset();
  }

  /**
   * Ends an agent once another one is ready in its place, and all that it was doing is done.
   * Returns whether it is gone; not when none gets ready in its place.
   */
  async replace(agent: AgentProcess): Promise<boolean> {
    const { log, callTimeoutMs } = this.#options;
    const since = monotonicNow();
    this.#outgoing.add(agent);
    try {
      this.#startMissing();
      while (this.#ready.size <= this.#options.count) {
        if (!this.#ready.has(agent)) return true;
        if (this.#stopped !== undefined || monotonicNow() - since > this.#startLimitMs)
          return false;
        await delay(REPLACE_POLL_MS);
      }
    } finally {
      this.#outgoing.delete(agent);
    }
    if (!this.#ready.delete(agent)) return true;
    const gone = Promise.withResolvers<void>();
    this.#retired.set(agent, gone);
    log.info({ pid: agent.pid }, 'replacing an HSM agent');
    agent.end();
    const impatience = setTimeout(() => agent.kill(), callTimeoutMs);
    await gone.promise;
    clearTimeout(impatience);
    return true;
  }

  /** Lets the agents finish what they have, then ends them. */
  async stop(): Promise<void> {
    clearInterval(this.#maintenance);
    this.#stopped ??= Promise.withResolvers();
    for (const agent of [...this.#ready, ...this.#starting]) agent.end();
    this.#resolveWhenEmpty();
    const impatience = setTimeout(() => {
      for (const agent of [...this.#ready, ...this.#starting, ...this.#retired.keys()])
        agent.kill();
    }, this.#options.callTimeoutMs);
    await this.#stopped.promise;
    clearTimeout(impatience);
  }

  #maintain(): void {
    if (this.#stopped !== undefined) return;
    const now = monotonicNow();
    if (now - this.#maintainedAt < FROZEN_MS) this.#killHanging();
    this.#maintainedAt = now;
    this.#listener.onTick();
    this.#startMissing();
  }

  #killHanging(): void {
    const { callTimeoutMs, log } = this.#options;
    const startLimitMs = this.#startLimitMs;
    for (const agent of this.#ready) {
      if (agent.workingFor <= callTimeoutMs) continue;
      log.error({ pid: agent.pid }, 'HSM agent hangs; replacing it');
      agent.kill();
    }
    for (const agent of this.#starting) {
      if (agent.workingFor <= startLimitMs) continue;
      this.#lastFailure = 'an agent hung during its start';
      // What only takes long is not killed for ever.
      this.#startPatience = Math.min(MAX_START_PATIENCE, this.#startPatience * 2);
      log.error({ pid: agent.pid }, 'HSM agent hangs during its start; replacing it');
      agent.kill();
    }
  }

  get #startLimitMs(): number {
    return (this.#options.startTimeoutMs ?? START_TIMEOUT_MS) * this.#startPatience;
  }

  /**
   * Whether the only agent that is starting has been at it for too long to wait for it alone.
   * Another one costs no try of the PIN then: it was accepted.
   */
  get #startsSlowly(): boolean {
    const [first, ...others] = this.#starting;
    if (first === undefined || others.length > 0 || !this.#pin.isAccepted) return false;
    return first.workingFor > this.#options.callTimeoutMs;
  }

  /**
   * Starts one agent if any is missing and none is starting, or one only slowly; all, once one has
   * just logged in.
   */
  #startMissing(hasLoggedIn = false): void {
    this.#pin.look();
    const held = this.#stopped !== undefined || this.#refused || this.#pin.isRejected;
    if (held || !this.#backOff.isOver) return;
    // One logs in first: a PIN that is no longer right costs one try, not one per agent.
    const beside = this.#startsSlowly ? 1 : 0;
    if (!hasLoggedIn && this.#starting.size > beside) return;
    const missing = this.#wanted + beside - this.#ready.size - this.#starting.size;
    for (let started = 0; started < (hasLoggedIn ? missing : Math.min(missing, 1)); started++)
      this.#startOne();
  }

  get #wanted(): number {
    return this.#options.count + this.#outgoing.size;
  }

  /** Ends an agent that is starting, of two that one was enough of. */
  #endSurplus(): void {
    for (const agent of [...this.#starting]) {
      if (this.#ready.size + this.#starting.size <= this.#wanted) return;
      this.#starting.delete(agent);
      this.#retired.set(agent, Promise.withResolvers());
      agent.dismiss();
    }
  }

  #startOne(): void {
    const { settings, starter, log } = this.#options;
    const begun: Beginning = { pin: this.#pin.stamp, objects: this.#objects };
    const agent = new AgentProcess({
      starter,
      use: 'serving',
      onOutput: (output) => log.warn({ pid: agent.pid, output }, 'HSM agent printed'),
      onExit: (exit) => this.#exited(agent, exit),
    });
    const request = { ...settings, objects: begun.objects, despiteFailedTry: this.#pin.hasChanged };
    this.#starting.add(agent);
    agent.send({
      name: 'start',
      encode: (requestId) => encodeRequest(requestId, 'start', Number.POSITIVE_INFINITY, request),
      attempts: 0,
      startedAfter: 0,
      settle: (frame) => this.#startAnswered(agent, begun, decodeReply('start', frame)),
      fail: () => {},
    });
  }

  #startAnswered(
    agent: AgentProcess,
    begun: Beginning,
    outcome: { readonly reply: TokenReport } | { readonly failure: Failure },
  ): void {
    if ('failure' in outcome) {
      this.#startFailed(outcome.failure, begun.pin);
      agent.dismiss();
      return;
    }
    if (begun.objects !== this.#objects) {
      // While it started, `use` was told otherwise.
      agent.dismiss();
      return;
    }
    this.#starting.delete(agent);
    this.#ready.add(agent);
    this.#pin.accept(begun.pin);
    this.#startPatience = 1;
    this.#lastFailure = '';
    this.#options.log.info({ pid: agent.pid }, 'HSM agent is ready');
    this.#listener.onReady(agent, outcome.reply);
    this.#hasStarted = true;
    this.#started.resolve(outcome.reply);
    this.#endSurplus();
    this.#startMissing(true);
  }

  #startFailed({ kind, detail }: Failure, pin: string): void {
    this.#options.log.error({ kind, detail }, 'cannot start an HSM agent');
    this.#lastFailure = detail;
    if (kind === 'pin-rejected') this.#pin.reject(pin);
    if (kind === 'pin-tries-low') this.#pin.doubt(pin);
    // Once one has been ready, what is refused may be mended under the running service.
    if (kind !== 'refused' || this.#hasStarted) return;
    this.#refused = true;
    void this.#lookAgain(detail);
  }

  /**
   * Starts once more if other objects are recorded by now than when they were read; else the
   * refusal is the last word.
   */
  async #lookAgain(detail: string): Promise<void> {
    const { reread } = this.#options;
    const known = this.#objects;
    const now = reread === undefined || this.#hasReread ? known : await reread().catch(() => known);
    this.#hasReread = true;
    if (isDeepStrictEqual(now, known)) {
      this.#started.reject(new TokenRefused(detail));
      return;
    }
    this.#objects = now;
    this.#refused = false;
    this.#startMissing();
  }

  #exited(agent: AgentProcess, exit: AgentExit): void {
    const served = this.#ready.delete(agent);
    this.#starting.delete(agent);
    this.#outgoing.delete(agent);
    const retired = this.#retired.get(agent);
    this.#retired.delete(agent);
    retired?.resolve();
    const cause = retired === undefined ? exit.cause : 'replaced';
    if (this.#stopped === undefined) this.#exits.set(cause, (this.#exits.get(cause) ?? 0) + 1);
    if (this.#stopped !== undefined) this.#resolveWhenEmpty();
    else if (retired === undefined)
      this.#options.log.warn({ pid: agent.pid, how: exit.how }, 'HSM agent ended');
    if (exit.cause === 'not-started') this.#lastFailure = exit.how;
    if (retired === undefined) this.#judge(agent, served);
    this.#listener.onExit(exit);
    this.#startMissing();
  }

  /** Decides whether the end of an agent says something against the token. */
  #judge(agent: AgentProcess, served: boolean): void {
    const now = monotonicNow();
    if (served && this.#ready.size === 0) this.#downSince = now;
    if (served && (this.#proven.has(agent) || now - agent.startedAt > LONG_LIFE_MS))
      this.#backOff.reset();
    else this.#backOff.failed();
  }

  #resolveWhenEmpty(): void {
    if (this.#ready.size + this.#starting.size + this.#retired.size === 0) this.#stopped?.resolve();
  }
}
