/**
 * The HSM agents as the rest of the server uses them: one function that has an operation done, and the keeping alive.
 *
 * Invariants: recovery is restart; an agent that hangs is killed, except while it changes the token's objects; a call
 * that an agent died of goes to no other; one agent logs in before others do, and a wrong PIN is not tried again until
 * the PIN file changes; a token on which nothing succeeds is tried less and less often; what waits is bounded in count,
 * bytes and time. Knows agents as processes, and what their failures mean to callers; no key, no PKCS#11.
 */
import { statSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { monotonicNow } from '../call.ts';
import { KeywardError, type Reason } from '../errors.ts';
import { type AnyId, idToBytes, type KeyId } from '../ids.ts';
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
import type { HeldObjects, TokenObject, TokenReport } from './token-profile.ts';

/** What is said of the agents' lives, for the log. Details hold no secret. */
export interface AgentLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface HsmAgentsOptions {
  /** `objects`: until {@link HsmAgents.hold} says otherwise. */
  readonly settings: Omit<ServeSettings, 'despiteFailedTry'>;
  /** Reads anew which objects are recorded: asked once, should the first agent be refused. */
  readonly reread?: () => Promise<readonly TokenObject[]>;
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
const REPLACE_POLL_MS = 20;
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
  /** Whether a PIN was tried in vain: another try may lock the token. */
  readonly isPinRejected: boolean;

  constructor(message: string, kind?: FailureKind) {
    super(message);
    this.isPinRejected = kind === 'pin-rejected';
  }
}

/** Equal as long as a PIN file is. */
export function pinStampOf(pinFile: string): string {
  try {
    const { ino, size, mtimeMs } = statSync(pinFile);
    return `${ino} ${size} ${mtimeMs}`;
  } catch {
    return 'absent';
  }
}

/** See this file's first paragraph. */
export class HsmAgents {
  readonly #options: HsmAgentsOptions;
  readonly #ready = new Set<AgentProcess>();
  readonly #waiting: AgentCall[] = [];
  readonly #started = Promise.withResolvers<TokenReport>();
  readonly #starting = new Set<AgentProcess>();
  #objects: readonly TokenObject[];
  /** What each agent that is ready holds. */
  readonly #held = new WeakMap<AgentProcess, ReadonlySet<AnyId>>();
  /** Agents that are being replaced: they serve until another is ready. */
  readonly #outgoing = new Set<AgentProcess>();
  /** Agents that were: they end once all that they were doing is done. */
  readonly #retired = new Map<AgentProcess, PromiseWithResolvers<void>>();
  #holding: Promise<void> = Promise.resolve();
  /** Objects that an agent was replaced for, to no avail. */
  readonly #unseen = new Set<AnyId>();
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
  #hasReread = false;
  /** Refused before any agent was ready: an operator has to mend something, and the process ends. */
  #refused = false;
  /** Why no agent could be started last. */
  #lastFailure = '';
  #maintenance: NodeJS.Timeout | undefined;
  #stopped: PromiseWithResolvers<void> | undefined;

  constructor(options: HsmAgentsOptions) {
    this.#options = options;
    this.#objects = options.settings.objects;
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
   * Has every agent use these token objects from now on, those that start later too. An agent that doesn't see one that it
   * should is replaced, once for each object, since some libraries see only what was there when they were loaded; one that
   * has one which isn't to be used any more is replaced too, with all that it has unwrapped. A new one is ready before an
   * old one goes; one that began to start before serves nobody, and is started again. Throws HSM_UNAVAILABLE when
   * an agent can't be replaced now.
   */
  hold(objects: readonly TokenObject[]): Promise<void> {
    // One after another: whoever asks last has the last word.
    this.#holding = this.#holding.catch(() => {}).then(() => this.#hold(objects));
    return this.#holding;
  }

  async #hold(objects: readonly TokenObject[]): Promise<void> {
    // What starts with an equal list isn't outdated.
    if (!isDeepStrictEqual(objects, this.#objects)) this.#objects = objects;
    const wanted = wantedOf(objects);
    const sought = new Set<AnyId>();
    for (const agent of [...this.#ready]) {
      // It may have ended while another was replaced; what starts in its place starts with these objects.
      if (!this.#ready.has(agent)) continue;
      const before = this.#heldBy(agent);
      const leaves = [...before].some((id) => !wanted.includes(id));
      if (!leaves && wanted.every((id) => before.has(id))) continue;
      const held = leaves ? before : await this.#ask(agent, objects);
      if (!this.#ready.has(agent)) continue;
      const unseen = wanted.filter((id) => !held.has(id) && !this.#unseen.has(id));
      if (leaves || unseen.length > 0) await this.#replace(agent);
      for (const id of unseen) sought.add(id);
    }
    const { held } = this;
    for (const id of sought) if (!held.includes(id)) this.#unseen.add(id);
  }

  /** The objects that every agent holds, and those that any still holds though it isn't to; no others while none is ready. */
  get held(): readonly AnyId[] {
    const wanted = new Set(wantedOf(this.#objects));
    const ready = [...this.#ready].map((agent) => this.#heldBy(agent));
    const retired = [...this.#retired.keys()].map((agent) => this.#heldBy(agent));
    const byAny = new Set([...ready, ...retired].flatMap((each) => [...each]));
    const byEvery = (id: AnyId) => ready.length > 0 && ready.every((each) => each.has(id));
    return [...byAny].filter((id) => !wanted.has(id) || byEvery(id));
  }

  #heldBy(agent: AgentProcess): ReadonlySet<AnyId> {
    return this.#held.get(agent) ?? new Set();
  }

  /** What the agent holds once it has looked for these objects; what it held before, when it can't tell. */
  async #ask(agent: AgentProcess, objects: readonly TokenObject[]): Promise<ReadonlySet<AnyId>> {
    const deadline = monotonicNow() + this.#options.callTimeoutMs;
    const reply = await this.#tell(agent, 'hold', { objects }, deadline).catch(() => undefined);
    if (reply !== undefined) this.#nowHolds(agent, reply);
    return this.#heldBy(agent);
  }

  #nowHolds(agent: AgentProcess, { held, problems }: HeldObjects): void {
    this.#held.set(agent, new Set(held));
    for (const problem of problems)
      this.#options.log.error({ alert: 'token-object', problem }, 'a token object is not what it must be');
  }

  /** Ends an agent once another one is ready in its place, and all that it was doing is done. */
  async #replace(agent: AgentProcess): Promise<void> {
    const { log, callTimeoutMs, startTimeoutMs = START_TIMEOUT_MS } = this.#options;
    const since = monotonicNow();
    this.#outgoing.add(agent);
    try {
      this.#startMissing();
      while (this.#ready.size <= this.#options.count) {
        if (!this.#ready.has(agent)) return;
        if (this.#stopped !== undefined || monotonicNow() - since > startTimeoutMs)
          throw unavailable('an agent can not be replaced now');
        await delay(REPLACE_POLL_MS);
      }
    } finally {
      this.#outgoing.delete(agent);
    }
    if (!this.#ready.delete(agent)) return;
    const gone = Promise.withResolvers<void>();
    this.#retired.set(agent, gone);
    log.info({ pid: agent.pid }, 'HSM agent is replaced');
    agent.end();
    const impatience = setTimeout(() => agent.kill(), callTimeoutMs);
    await gone.promise;
    clearTimeout(impatience);
  }

  /** Has this agent do something, and no other. */
  #tell<Name extends OperationName>(
    agent: AgentProcess,
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
  ): Promise<ReplyOf<Name>> {
    return new Promise((resolve, fail) => {
      agent.send({
        name,
        encode: (requestId) => encodeRequest(requestId, name, deadline, request),
        attempts: 0,
        startedAfter: 0,
        settle: (frame) => {
          const outcome = decodeReply(name, frame);
          if ('reply' in outcome) resolve(outcome.reply);
          else {
            if (ENDING_FAILURES.includes(outcome.failure.kind)) agent.dismiss();
            fail(this.#toError(name, outcome.failure));
          }
        },
        fail,
      });
    });
  }

  /**
   * Has every agent destroy the handles of a key's versions, or of all keys. An agent that starts later has none; one
   * that doesn't do it within a call's time is hanging, and is killed for that.
   */
  async forget(keyId?: KeyId): Promise<void> {
    const request = { keyId: keyId === undefined ? Buffer.alloc(0) : idToBytes(keyId) };
    const deadline = monotonicNow() + this.#options.callTimeoutMs;
    const forget = (agent: AgentProcess) =>
      // Whatever it says, its handles must be gone: those of a dead agent are.
      this.#tell(agent, 'forget', request, deadline).catch(() => agent.kill());
    await Promise.all([...this.#ready].map(forget));
  }

  /** Lets the agents finish what they have, then ends them. */
  async stop(): Promise<void> {
    clearInterval(this.#maintenance);
    this.#stopped ??= Promise.withResolvers();
    for (const call of this.#waiting.splice(0)) call.fail(unavailable('the server is stopping'));
    for (const agent of [...this.#ready, ...this.#starting]) agent.end();
    this.#resolveWhenEmpty();
    const impatience = setTimeout(() => {
      for (const agent of [...this.#ready, ...this.#starting, ...this.#retired.keys()]) agent.kill();
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
    const wanted = this.#options.count + this.#outgoing.size;
    const missing = wanted - this.#ready.size - this.#starting.size;
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
    const begun = { pin: this.#pinStamp(), objects: this.#objects };
    const agent = new AgentProcess({
      environment,
      onOutput: (output) => log.warn({ pid: agent.pid, output }, 'HSM agent printed'),
      onExit: (exit) => this.#exited(agent, exit),
    });
    const request = { ...settings, objects: begun.objects, despiteFailedTry: this.#pinChanged };
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
    begun: { readonly pin: string; readonly objects: readonly TokenObject[] },
    outcome: { readonly reply: TokenReport } | { readonly failure: Failure },
  ): void {
    if ('failure' in outcome) {
      this.#startFailed(outcome.failure, begun.pin);
      agent.dismiss();
      return;
    }
    if (begun.objects !== this.#objects) {
      // While it started, `hold` was told otherwise.
      agent.dismiss();
      return;
    }
    this.#starting.delete(agent);
    this.#ready.add(agent);
    this.#nowHolds(agent, outcome.reply);
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
    // Once one has been ready, what is refused may be mended under the running service.
    if (kind !== 'refused' || this.#hasStarted) return;
    this.#refused = true;
    void this.#lookAgain(detail);
  }

  /** Starts once more if other objects are recorded by now than when they were read; else the refusal is the last word. */
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

  #exited(agent: AgentProcess, { how, interrupted, untouched }: AgentExit): void {
    const served = this.#ready.delete(agent);
    this.#starting.delete(agent);
    this.#held.delete(agent);
    this.#outgoing.delete(agent);
    const retired = this.#retired.get(agent);
    this.#retired.delete(agent);
    retired?.resolve();
    if (this.#stopped !== undefined) this.#resolveWhenEmpty();
    else if (retired === undefined) this.#options.log.warn({ pid: agent.pid, how }, 'HSM agent ended');
    if (retired === undefined) this.#backOff(agent, served);
    this.#takeBack(interrupted, untouched, how);
    this.#startMissing();
  }

  #backOff(agent: AgentProcess, served: boolean): void {
    const now = monotonicNow();
    if (served && this.#ready.size === 0) this.#downSince = now;
    if (served && (this.#proven.has(agent) || now - agent.startedAt > LONG_LIFE_MS)) this.#backOffMs = 0;
    else {
      this.#backOffMs = Math.min(MAX_BACK_OFF_MS, this.#backOffMs * 2 + 50);
      this.#nextStartAt = now + this.#backOffMs * (0.5 + Math.random() / 2);
    }
  }

  /** What an agent that has ended had not answered. */
  #takeBack(interrupted: AgentCall | undefined, untouched: readonly AgentCall[], how: string): void {
    interrupted?.fail(unavailable(`the agent ended while it did this: ${how}`));
    for (const call of untouched) {
      // One that has said what it ended of has begun none of these.
      if (interrupted === undefined) call.attempts -= 1;
      if (call.attempts > 1 || !OPERATIONS[call.name].idempotent) call.fail(unavailable('two agents ended'));
      else this.#send(call);
    }
  }

  #resolveWhenEmpty(): void {
    if (this.#ready.size + this.#starting.size + this.#retired.size === 0) this.#stopped?.resolve();
  }

  #pinStamp(): string {
    return pinStampOf(this.#options.settings.pinFile);
  }
}

/** The objects that agents are to hold. */
function wantedOf(objects: readonly TokenObject[]): AnyId[] {
  return objects.flatMap(({ objectId, presence }) =>
    presence === undefined || presence === 'expected' ? objectId : [],
  );
}

function unavailable(why: string): KeywardError {
  return new KeywardError('HSM_UNAVAILABLE', { cause: new Error(why) });
}
