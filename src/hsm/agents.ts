/**
 * The HSM agents as the rest of the server uses them: one function that has an operation done, and the keeping alive.
 *
 * Invariants: recovery is restart; an agent that hangs is killed, except while it changes the token's objects; a call
 * that an agent died of goes to no other; a wrong PIN is not tried again until the PIN file changes; what waits is
 * bounded in count and bytes. Knows agents as processes, and what their failures mean to callers; no key, no PKCS#11.
 */
import { statSync } from 'node:fs';
import { monotonicNow } from '../call.ts';
import { KeywardError, type Reason } from '../errors.ts';
import { type AgentCall, type AgentExit, AgentProcess } from './agent-process.ts';
import {
  decodeReply,
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
  refused: 'HSM_UNAVAILABLE',
  internal: 'INTERNAL',
};

const MAINTENANCE_MS = 100;
/** Calls wait this long for the first agent, or the next, to be ready. */
const GRACE_MS = 2_000;
const MAX_BACK_OFF_MS = 2_000;
/** An agent that lived this long died of something new. */
const LONG_LIFE_MS = 10_000;

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
  #nextStartAt = 0;
  #backOffMs = 0;
  /** Set while the PIN is known to be wrong: what the PIN file looked like then. */
  #rejectedPin: string | undefined;
  #pinChanged = false;
  #maintenance: NodeJS.Timeout | undefined;
  #stopped: PromiseWithResolvers<void> | undefined;

  constructor(options: HsmAgentsOptions) {
    this.#options = options;
    this.#started.promise.catch(() => {});
  }

  /**
   * Starts one agent, then the others. Resolves once the first is ready, however long the token is away; rejects with
   * {@link TokenRefused} on what an operator has to mend.
   */
  start(): Promise<TokenReport> {
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
    for (let last = false; ; last = true) {
      const outcome = await this.#dispatch(name, request, deadline);
      if ('reply' in outcome) return outcome.reply;
      const stale = outcome.failure.kind === 'token' && STALE_SESSION.test(outcome.failure.detail);
      if (last || !stale || !OPERATIONS[name].idempotent) throw this.#toError(name, outcome.failure);
    }
  }

  #dispatch<Name extends OperationName>(name: Name, request: RequestOf<Name>, deadline: number) {
    return new Promise<{ readonly reply: ReplyOf<Name> } | { readonly failure: Failure }>((resolve, fail) => {
      const encode = (requestId: number) => encodeRequest(requestId, name, deadline, request);
      const settle = (frame: Buffer) => resolve(decodeReply(name, frame));
      this.#send({ name, encode, attempts: 0, settle, fail });
    });
  }

  #send(call: AgentCall): void {
    let chosen: AgentProcess | undefined;
    for (const agent of this.#ready) if (chosen === undefined || agent.load < chosen.load) chosen = agent;
    if (chosen !== undefined) chosen.send(call);
    else if (this.#stopped === undefined && this.#hopeful) this.#waiting.push(call);
    else call.fail(unavailable('no agent is ready'));
  }

  /** Whether an agent may be ready soon. */
  get #hopeful(): boolean {
    return this.#rejectedPin === undefined && monotonicNow() - this.#downSince < GRACE_MS;
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
    for (const agent of this.#ready) {
      if (agent.workingFor <= this.#options.callTimeoutMs) continue;
      this.#options.log.error({ pid: agent.pid }, 'HSM agent hangs and is replaced');
      agent.kill();
    }
    if (!this.#hopeful) {
      for (const call of this.#waiting.splice(0)) call.fail(unavailable('no agent is ready'));
    }
    this.#startMissing();
  }

  #startMissing(): void {
    if (this.#rejectedPin !== undefined && this.#rejectedPin !== this.#pinStamp()) {
      this.#rejectedPin = undefined;
      this.#pinChanged = true;
    }
    if (this.#stopped !== undefined || this.#rejectedPin !== undefined || monotonicNow() < this.#nextStartAt)
      return;
    // One logs in first: a wrong PIN costs one try, not one per agent.
    const wanted = this.#ready.size === 0 ? 1 : this.#options.count;
    while (this.#ready.size + this.#starting.size < wanted) this.#startOne();
  }

  #startOne(): void {
    const { settings, environment, log } = this.#options;
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
      settle: (frame) => this.#startAnswered(agent, decodeReply('start', frame)),
      fail: () => {},
    });
  }

  #startAnswered(
    agent: AgentProcess,
    outcome: { readonly reply: TokenReport } | { readonly failure: Failure },
  ): void {
    if ('failure' in outcome) {
      this.#startFailed(outcome.failure);
      return;
    }
    this.#starting.delete(agent);
    this.#ready.add(agent);
    this.#backOffMs = 0;
    this.#pinChanged = false;
    this.#options.log.info({ pid: agent.pid }, 'HSM agent is ready');
    for (const call of this.#waiting.splice(0)) this.#send(call);
    this.#started.resolve(outcome.reply);
    this.#startMissing();
  }

  /** The agent ends by itself after this; `#exited` sees to the next. */
  #startFailed({ kind, detail }: Failure): void {
    this.#options.log.error({ kind, detail }, 'HSM agent can not start');
    if (kind === 'pin-rejected') this.#rejectedPin = this.#pinStamp();
    if (kind === 'pin-rejected' || kind === 'refused') this.#started.reject(new TokenRefused(detail));
  }

  #exited(agent: AgentProcess, { how, interrupted, untouched }: AgentExit): void {
    const served = this.#ready.delete(agent);
    this.#starting.delete(agent);
    if (this.#stopped !== undefined) this.#resolveWhenEmpty();
    else this.#options.log.warn({ pid: agent.pid, how }, 'HSM agent ended');
    if (served && this.#ready.size === 0) this.#downSince = monotonicNow();
    const lived = monotonicNow() - agent.startedAt;
    this.#backOffMs =
      served && lived > LONG_LIFE_MS ? 0 : Math.min(MAX_BACK_OFF_MS, this.#backOffMs * 2 + 50);
    this.#nextStartAt = monotonicNow() + (served ? 0 : this.#backOffMs * (0.5 + Math.random() / 2));
    interrupted?.fail(unavailable(`the agent ended while it did this: ${how}`));
    for (const call of untouched) {
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
