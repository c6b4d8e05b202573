/**
 * The HSM agents as the rest of the server uses them: one function that has an operation done, and the keeping alive.
 *
 * Invariants: recovery is restart; an agent that hangs is killed, except while it changes the token's objects; a call
 * that an agent died of goes to no other; one agent logs in before others do, and a wrong PIN is not tried again until
 * the PIN file changes; a token on which nothing succeeds is tried less and less often; what waits is bounded in count,
 * bytes and time. Knows agents as processes, and what their failures mean to callers; no key, no PKCS#11.
 */
import { statSync } from 'node:fs';
import { monotonicNow } from '../call.ts';
import { KeywardError, type Reason } from '../errors.ts';
import { idToBytes, type KeyId } from '../ids.ts';
import { type AgentCall, type AgentExit, AgentProcess } from './agent-process.ts';
import {
  decodeReply,
  ENDING_FAILURES,
  encodeRequest,
  type Failure,
  type FailureKind,
  OPERATIONS,
  type OperationName,
  type ReplyOf,
  type RequestOf,
  requestBytes,
  type ServeSettings,
} from './protocol.ts';
import type { TokenReport } from './token-profile.ts';

/** What is said of the agents' lives, for the log. Details hold no secret. */
export interface AgentLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface HsmAgentsOptions {
  readonly settings: Omit<ServeSettings, 'despiteFailedTry'>;
  /** How many agents, each with a session of its own. */
  readonly count: number;
  /** An agent that works on one call for longer is killed, in milliseconds. */
  readonly callTimeoutMs: number;
  /** An agent that takes longer to start is killed, in milliseconds; half a minute unless given, and no less than a call. */
  readonly startTimeoutMs?: number;
  /** At most this many calls wait or are under way, and at most this many bytes of them. */
  readonly maxCalls: number;
  readonly maxBytes: number;
  /** The agents' whole environment. */
  readonly environment: Readonly<Record<string, string>>;
  readonly log: AgentLog;
}

/** PKCS#11 errors of a session that has gone stale: the same call can succeed in a new one. */
const STALE_SESSION =
  /^CKR_(SESSION_(HANDLE_INVALID|CLOSED)|USER_NOT_LOGGED_IN|(OBJECT|KEY)_HANDLE_INVALID|OPERATION_ACTIVE)$/;

const REASON_OF: Readonly<Record<FailureKind, Reason>> = {
  'decryption-failed': 'DECRYPTION_FAILED',
  'row-corrupt': 'STORED_ROW_CORRUPT',
  expired: 'DEADLINE_EXCEEDED',
  token: 'HSM_UNAVAILABLE',
  'token-object-missing': 'HSM_UNAVAILABLE',
  'pin-rejected': 'HSM_UNAVAILABLE',
  'pin-tries-low': 'HSM_UNAVAILABLE',
  refused: 'HSM_UNAVAILABLE',
  internal: 'INTERNAL',
};

const MAINTENANCE_MS = 100;
/** Maintenance that comes this late says that this process was frozen: answers may be there that it hasn't read. */
const FROZEN_MS = 500;
const START_TIMEOUT_MS = 30_000;
/** Calls wait this long for the first agent, or the next, to be ready. */
const GRACE_MS = 2_000;
const MAX_BACK_OFF_MS = 2_000;
/** An agent that lived this long died of something new, even if it was never asked for anything. */
const LONG_LIFE_MS = 10_000;
/** A call that meets stale sessions is done at most this often. */
const STALE_TRIES = 3;

/** Failures of an agent's start that trying again doesn't mend. */
export class TokenRefused extends Error {
  override readonly name = 'TokenRefused';
}

/** See this file's first paragraph. */
export class HsmAgents {
  readonly #options: HsmAgentsOptions;
  readonly #ready = new Set<AgentProcess>();
  readonly #waiting: AgentCall[] = [];
  readonly #started = Promise.withResolvers<TokenReport>();
  readonly #starting = new Set<AgentProcess>();
  #calls = 0;
  #bytes = 0;
  #downSince = monotonicNow();
  /** Agents that have done something for a caller: their end says nothing against the token. */
  readonly #proven = new WeakSet<AgentProcess>();
  #maintainedAt = monotonicNow();
  #nextStartAt = 0;
  #backOffMs = 0;
  /** Set while the PIN is known to be wrong: what the PIN file looked like when it was tried. */
  #rejectedPin: string | undefined;
  /** Set while the token says that tries are running out: what the PIN file looked like then. */
  #doubtedPin: string | undefined;
  #pinChanged = false;
  #hasStarted = false;
  /** Refused before any agent was ready: an operator has to mend something, and the process ends. */
  #refused = false;
  /** Why no agent could be started last. */
  #lastFailure = '';
  #maintenance: NodeJS.Timeout | undefined;
  #stopped: PromiseWithResolvers<void> | undefined;

  constructor(options: HsmAgentsOptions) {
    this.#options = options;
    this.#started.promise.catch(() => {});
  }

  /**
   * Starts one agent, then the others. Resolves once the first is ready, however long the token is away or the PIN is
   * wrong: a process that ended then would be started again, and cost a try each time. Rejects with
   * {@link TokenRefused} on what else an operator has to mend.
   */
  start(): Promise<TokenReport> {
    this.#maintainedAt = monotonicNow();
    this.#maintenance = setInterval(() => this.#maintain(), MAINTENANCE_MS);
    this.#maintain();
    return this.#started.promise;
  }

  /** Whether an agent is there to do something. */
  get ready(): boolean {
    return this.#ready.size > 0;
  }

  /** The process ids of the agents that are ready, for tests and operators. */
  get pids(): readonly number[] {
    return [...this.#ready].flatMap(({ pid }) => pid ?? []);
  }

  /**
   * Has an operation done. Throws HSM_UNAVAILABLE, HSM_QUEUE_FULL, DEADLINE_EXCEEDED, STORED_ROW_CORRUPT,
   * DECRYPTION_FAILED or INTERNAL. What is asked for past `deadline` is not done.
   */
  async call<Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
  ): Promise<ReplyOf<Name>> {
    const bytes = requestBytes(name, request);
    const { maxCalls, maxBytes } = this.#options;
    if (this.#calls + 1 > maxCalls || this.#bytes + bytes > maxBytes)
      throw new KeywardError('HSM_QUEUE_FULL');
    this.#calls += 1;
    this.#bytes += bytes;
    try {
      return await this.#attempt(name, request, deadline);
    } finally {
      this.#calls -= 1;
      this.#bytes -= bytes;
    }
  }

  /**
   * Has every agent destroy the handles of a key's versions, or of all keys. An agent that starts later has none; one
   * that doesn't do it within a call's time is hanging, and is killed for that.
   */
  async forget(keyId?: KeyId): Promise<void> {
    const request = { keyId: keyId === undefined ? Buffer.alloc(0) : idToBytes(keyId) };
    const deadline = monotonicNow() + this.#options.callTimeoutMs;
    await Promise.all(
      [...this.#ready].map(
        (agent) =>
          new Promise<void>((resolve) => {
            const encode = (requestId: number) => encodeRequest(requestId, 'forget', deadline, request);
            agent.send({
              name: 'forget',
              encode,
              attempts: 0,
              startedAfter: 0,
              settle: (frame) => {
                // Whatever it says, its handles must be gone: those of a dead agent are.
                if ('failure' in decodeReply('forget', frame)) agent.kill();
                resolve();
              },
              fail: () => resolve(),
            });
          }),
      ),
    );
  }

  /** Lets the agents finish what they have, then ends them. */
  async stop(): Promise<void> {
    clearInterval(this.#maintenance);
    this.#stopped ??= Promise.withResolvers();
    for (const call of this.#waiting.splice(0)) call.fail(unavailable('the server is stopping'));
    for (const agent of [...this.#ready, ...this.#starting]) agent.end();
    this.#resolveWhenEmpty();
    const impatience = setTimeout(() => {
      for (const agent of [...this.#ready, ...this.#starting]) agent.kill();
    }, this.#options.callTimeoutMs);
    await this.#stopped.promise;
    clearTimeout(impatience);
  }

  async #attempt<Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
  ): Promise<ReplyOf<Name>> {
    let firstStaleAt: number | undefined;
    for (let tries = 1; ; tries++) {
      // A second agent's session is mostly good. Where it isn't, the token has lost them all: only a new agent's is.
      const startedAfter = tries === STALE_TRIES ? (firstStaleAt ?? 0) : 0;
      const outcome = await this.#dispatch(name, request, deadline, startedAfter);
      if ('reply' in outcome) return outcome.reply;
      const stale = outcome.failure.kind === 'token' && STALE_SESSION.test(outcome.failure.detail);
      if (!stale || !OPERATIONS[name].idempotent || tries === STALE_TRIES)
        throw this.#toError(name, outcome.failure);
      firstStaleAt ??= monotonicNow();
    }
  }

  #dispatch<Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
    startedAfter: number,
  ) {
    return new Promise<{ readonly reply: ReplyOf<Name> } | { readonly failure: Failure }>((resolve, fail) => {
      const encode = (requestId: number) => encodeRequest(requestId, name, deadline, request);
      const settle = (frame: Buffer, agent: AgentProcess) => {
        const outcome = decodeReply(name, frame);
        if ('reply' in outcome) this.#prove(agent);
        else if (ENDING_FAILURES.includes(outcome.failure.kind)) agent.dismiss();
        resolve(outcome);
      };
      this.#send({ name, encode, attempts: 0, startedAfter, settle, fail });
    });
  }

  #prove(agent: AgentProcess): void {
    if (this.#proven.has(agent)) return;
    this.#proven.add(agent);
    this.#backOffMs = 0;
  }

  #send(call: AgentCall): void {
    let chosen: AgentProcess | undefined;
    for (const agent of this.#ready) {
      if (agent.startedAt <= call.startedAfter) continue;
      if (chosen === undefined || agent.load < chosen.load) chosen = agent;
    }
    if (chosen !== undefined) {
      chosen.send(call);
      return;
    }
    call.waitingSince ??= monotonicNow();
    if (this.#mayWait(call)) this.#waiting.push(call);
    else call.fail(this.#noAgent());
  }

  /** Whether an agent for the call may be ready soon. */
  #mayWait({ waitingSince = 0 }: AgentCall): boolean {
    if (this.#stopped !== undefined || this.#refused || this.#rejectedPin !== undefined) return false;
    const since = this.#ready.size === 0 ? this.#downSince : waitingSince;
    return monotonicNow() - since < GRACE_MS;
  }

  #noAgent(): KeywardError {
    return unavailable(`no agent is ready${this.#lastFailure && `: ${this.#lastFailure}`}`);
  }

  #toError(name: OperationName, { kind, detail }: Failure): KeywardError {
    if (kind === 'row-corrupt') {
      this.#options.log.error(
        { alert: 'stored-row-corrupt', operation: name, detail },
        'a stored row does not verify',
      );
    }
    return new KeywardError(REASON_OF[kind], { cause: new Error(`agent: ${name}: ${kind} ${detail}`) });
  }

  #maintain(): void {
    if (this.#stopped !== undefined) return;
    const now = monotonicNow();
    if (now - this.#maintainedAt < FROZEN_MS) this.#killHanging();
    this.#maintainedAt = now;
    for (const call of this.#waiting.splice(0)) {
      if (this.#mayWait(call)) this.#waiting.push(call);
      else call.fail(this.#noAgent());
    }
    this.#startMissing();
  }

  #killHanging(): void {
    const { callTimeoutMs, startTimeoutMs = Math.max(START_TIMEOUT_MS, callTimeoutMs), log } = this.#options;
    for (const agent of this.#ready) {
      if (agent.workingFor <= callTimeoutMs) continue;
      log.error({ pid: agent.pid }, 'HSM agent hangs and is replaced');
      agent.kill();
    }
    for (const agent of this.#starting) {
      if (agent.workingFor <= startTimeoutMs) continue;
      this.#lastFailure = 'an agent hung while it started';
      log.error({ pid: agent.pid }, 'HSM agent hangs while it starts and is replaced');
      agent.kill();
    }
  }

  /** Starts one agent if any is missing and none is starting; all, once one has just logged in. */
  #startMissing(hasLoggedIn = false): void {
    this.#lookAtPin();
    const held = this.#stopped !== undefined || this.#refused || this.#rejectedPin !== undefined;
    if (held || monotonicNow() < this.#nextStartAt) return;
    // One logs in first: a PIN that is no longer right costs one try, not one per agent.
    if (!hasLoggedIn && this.#starting.size > 0) return;
    const missing = this.#options.count - this.#ready.size - this.#starting.size;
    for (let started = 0; started < (hasLoggedIn ? missing : Math.min(missing, 1)); started++)
      this.#startOne();
  }

  /** Whether the PIN file has changed since its PIN was rejected or doubted. */
  #lookAtPin(): void {
    const doubted = this.#rejectedPin ?? this.#doubtedPin;
    if (doubted === undefined || doubted === this.#pinStamp()) return;
    this.#rejectedPin = undefined;
    this.#doubtedPin = undefined;
    this.#pinChanged = true;
  }

  #startOne(): void {
    const { settings, environment, log } = this.#options;
    const pin = this.#pinStamp();
    const agent = new AgentProcess({
      environment,
      onOutput: (output) => log.warn({ pid: agent.pid, output }, 'HSM agent printed'),
      onExit: (exit) => this.#exited(agent, exit),
    });
    const request = { ...settings, despiteFailedTry: this.#pinChanged };
    this.#starting.add(agent);
    agent.send({
      name: 'start',
      encode: (requestId) => encodeRequest(requestId, 'start', Number.POSITIVE_INFINITY, request),
      attempts: 0,
      startedAfter: 0,
      settle: (frame) => this.#startAnswered(agent, pin, decodeReply('start', frame)),
      fail: () => {},
    });
  }

  #startAnswered(
    agent: AgentProcess,
    pin: string,
    outcome: { readonly reply: TokenReport } | { readonly failure: Failure },
  ): void {
    if ('failure' in outcome) {
      this.#startFailed(outcome.failure, pin);
      agent.dismiss();
      return;
    }
    this.#starting.delete(agent);
    this.#ready.add(agent);
    this.#pinChanged = false;
    this.#doubtedPin = undefined;
    this.#lastFailure = '';
    this.#options.log.info({ pid: agent.pid }, 'HSM agent is ready');
    for (const call of this.#waiting.splice(0)) this.#send(call);
    this.#hasStarted = true;
    this.#started.resolve(outcome.reply);
    this.#startMissing(true);
  }

  /** `pin` is what the PIN file looked like before the agent read it: one mended meanwhile is worth another try. */
  #startFailed({ kind, detail }: Failure, pin: string): void {
    this.#options.log.error({ kind, detail }, 'HSM agent can not start');
    this.#lastFailure = detail;
    if (kind === 'pin-rejected') this.#rejectedPin = pin;
    if (kind === 'pin-tries-low') this.#doubtedPin = pin;
    if (kind !== 'refused') return;
    // Once one has been ready, what is refused may be mended under the running service.
    this.#refused = !this.#hasStarted;
    this.#started.reject(new TokenRefused(detail));
  }

  #exited(agent: AgentProcess, { how, interrupted, untouched }: AgentExit): void {
    const served = this.#ready.delete(agent);
    this.#starting.delete(agent);
    if (this.#stopped !== undefined) this.#resolveWhenEmpty();
    else this.#options.log.warn({ pid: agent.pid, how }, 'HSM agent ended');
    const now = monotonicNow();
    if (served && this.#ready.size === 0) this.#downSince = now;
    if (served && (this.#proven.has(agent) || now - agent.startedAt > LONG_LIFE_MS)) this.#backOffMs = 0;
    else {
      this.#backOffMs = Math.min(MAX_BACK_OFF_MS, this.#backOffMs * 2 + 50);
      this.#nextStartAt = now + this.#backOffMs * (0.5 + Math.random() / 2);
    }
    interrupted?.fail(unavailable(`the agent ended while it did this: ${how}`));
    for (const call of untouched) {
      // One that has said what it ended of has begun none of these.
      if (interrupted === undefined) call.attempts -= 1;
      if (call.attempts > 1 || !OPERATIONS[call.name].idempotent) call.fail(unavailable('two agents ended'));
      else this.#send(call);
    }
    this.#startMissing();
  }

  #resolveWhenEmpty(): void {
    if (this.#ready.size + this.#starting.size === 0) this.#stopped?.resolve();
  }

  #pinStamp(): string {
    try {
      const { ino, size, mtimeMs } = statSync(this.#options.settings.pinFile);
      return `${ino} ${size} ${mtimeMs}`;
    } catch {
      return 'absent';
    }
  }
}

function unavailable(why: string): KeywardError {
  return new KeywardError('HSM_UNAVAILABLE', { cause: new Error(why) });
}
