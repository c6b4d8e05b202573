/**
 * The HSM agents as the rest of the server uses them: one function that has an operation done, and
 * what all of them are told.
 *
 * Invariants: a call that an agent died of goes to no other; what waits is bounded in count, bytes
 * and time; a token object counts as held once every agent holds it, and one that isn't to be used
 * any more until none does. Knows what agents' failures mean to callers; no key, no PKCS#11. How
 * agents are kept alive is `agent-pool.ts`'s.
 */
import { monotonicNow } from '../call.ts';
import { KeywardError, type Reason, toKeywardError } from '../errors.ts';
import { type AnyId, idToBytes, type KeyId, type TenantId } from '../ids.ts';
import type { Alerts } from '../signals/alerts.ts';
import { traced } from '../signals/tracing.ts';
import { AgentMeasurements, type OperationFigures } from './agent-figures.ts';
import { AgentPool, type AgentPoolFigures, type AgentPoolOptions } from './agent-pool.ts';
import type { AgentCall, AgentExit, AgentProcess } from './agent-process.ts';
import type { AgentRuleReport } from './agent-rule.ts';
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
} from './protocol.ts';
import type { HeldObjects, TokenObject, TokenReport } from './token-profile.ts';

export interface HsmAgentsOptions extends AgentPoolOptions {
  /** At most this many calls wait or are under way, and at most this many bytes of them. */
  readonly maxCalls: number;
  readonly maxBytes: number;
  /** Hears how long each call took, and why it failed if it did. Must be cheap. */
  readonly onCall?: (name: OperationName, milliseconds: number, reason?: Reason) => void;
  readonly alerts: Alerts;
}

/** How the agents of a token are doing. */
export interface HsmFigures extends AgentPoolFigures {
  /** Calls that are not answered, and their bytes; and how many there may be. */
  readonly calls: number;
  readonly maxCalls: number;
  readonly bytes: number;
  readonly maxBytes: number;
  /** What agents have done and hold, as of {@link HsmAgents.measure}. */
  readonly operations: ReadonlyMap<string, OperationFigures>;
  readonly keysLoaded: number;
  readonly epochsKept: number;
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
  'not-approved': 'AGENT_RULE_NOT_MET',
  internal: 'INTERNAL',
};

/** A call that has read how its key stands has ended after so long, or waits for no agent. */
const CALLS_END_MS = 10_000;

/** A call that meets stale sessions is done at most this often. */
const STALE_TRIES = 3;

/** Performs operations in the HSM agents of one token. */
export class HsmAgents {
  readonly #options: HsmAgentsOptions;
  readonly #pool: AgentPool;
  readonly #waiting: AgentCall[] = [];
  /** What each agent that is ready holds. */
  readonly #held = new WeakMap<AgentProcess, ReadonlySet<AnyId>>();
  #holding: Promise<void> = Promise.resolve();
  /** Objects that an agent was replaced for, to no avail. */
  readonly #unseen = new Set<AnyId>();
  readonly #measurements = new AgentMeasurements<AgentProcess>();
  #rule: AgentRuleReport | undefined;
  #calls = 0;
  #bytes = 0;

  constructor(options: HsmAgentsOptions) {
    this.#options = options;
    this.#pool = new AgentPool(options, {
      onReady: (agent, report) => {
        this.#rule = report.rule;
        this.#nowHolds(agent, report);
        for (const call of this.#waiting.splice(0)) this.#send(call);
      },
      onExit: (exit) => this.#takeBack(exit),
      onTick: () => {
        for (const call of this.#waiting.splice(0)) this.#wait(call);
      },
    });
  }

  /** As {@link AgentPool.start}. */
  start(): Promise<TokenReport> {
    return this.#pool.start();
  }

  /** Whether an agent is there to do something. */
  get ready(): boolean {
    return this.#pool.ready.size > 0;
  }

  /** What the last agent that could not start ended by; empty since one was ready. */
  get lastFailure(): string {
    return this.#pool.lastFailure;
  }

  /** The rule that the agent holds which was ready last; undefined for none. */
  get rule(): AgentRuleReport | undefined {
    return this.#rule;
  }

  /** The process ids of the agents that are ready, for tests and operators. */
  get pids(): readonly number[] {
    return [...this.#pool.ready].flatMap(({ pid }) => pid ?? []);
  }

  /**
   * Has an operation done. Throws HSM_UNAVAILABLE, HSM_QUEUE_FULL, DEADLINE_EXCEEDED,
   * STORED_ROW_CORRUPT, DECRYPTION_FAILED, AGENT_RULE_NOT_MET or INTERNAL. What is asked for past
   * `deadline` is not done.
   */
  async call<Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
  ): Promise<ReplyOf<Name>> {
    const bytes = requestBytes(name, request);
    const { maxCalls, maxBytes, onCall } = this.#options;
    if (this.#calls + 1 > maxCalls || this.#bytes + bytes > maxBytes) {
      onCall?.(name, 0, 'HSM_QUEUE_FULL');
      throw new KeywardError('HSM_QUEUE_FULL');
    }
    this.#calls += 1;
    this.#bytes += bytes;
    const began = performance.now();
    try {
      const reply = await traced('hsm', name, () => this.#attempt(name, request, deadline));
      onCall?.(name, performance.now() - began);
      return reply;
    } catch (error) {
      onCall?.(name, performance.now() - began, toKeywardError(error).reason);
      throw error;
    } finally {
      this.#calls -= 1;
      this.#bytes -= bytes;
    }
  }

  /**
   * Has every agent use these token objects from now on, those that start later too. An agent that
   * doesn't see one that it should is replaced, once for each object, since some libraries see only
   * what was there when they were loaded; one that has one which isn't to be used any more is
   * replaced too, with all that it has unwrapped. A new one is ready before an old one goes; one
   * that began to start before serves nobody, and is started again. Throws HSM_UNAVAILABLE when an
   * agent can't be replaced now.
   */
  hold(objects: readonly TokenObject[]): Promise<void> {
    // One after another: whoever asks last has the last word.
    this.#holding = this.#holding.catch(() => {}).then(() => this.#hold(objects));
    return this.#holding;
  }

  async #hold(objects: readonly TokenObject[]): Promise<void> {
    this.#pool.use(objects);
    const wanted = wantedOf(objects);
    const sought = new Set<AnyId>();
    const { ready } = this.#pool;
    for (const agent of [...ready]) {
      // It may have ended while another was replaced; what starts in its place starts with these
      // objects.
      if (!ready.has(agent)) continue;
      const before = this.#heldBy(agent);
      const leaves = [...before].some((id) => !wanted.includes(id));
      if (!leaves && wanted.every((id) => before.has(id))) continue;
      const held = leaves ? before : await this.#ask(agent, objects);
      if (!ready.has(agent)) continue;
      const unseen = wanted.filter((id) => !held.has(id) && !this.#unseen.has(id));
      if ((leaves || unseen.length > 0) && !(await this.#pool.replace(agent)))
        throw unavailable('cannot replace an HSM agent');
      for (const id of unseen) sought.add(id);
    }
    const { held } = this;
    for (const id of sought) if (!held.includes(id)) this.#unseen.add(id);
  }

  /**
   * The objects that every agent holds, and those that any still holds though it isn't to; no
   * others while none is ready.
   */
  get held(): readonly AnyId[] {
    const wanted = new Set(wantedOf(this.#pool.objects));
    const ready = [...this.#pool.ready].map((agent) => this.#heldBy(agent));
    const retired = this.#pool.retired.map((agent) => this.#heldBy(agent));
    const byAny = new Set([...ready, ...retired].flatMap((each) => [...each]));
    const byEvery = (id: AnyId) => ready.length > 0 && ready.every((each) => each.has(id));
    return [...byAny].filter((id) => !wanted.has(id) || byEvery(id));
  }

  #heldBy(agent: AgentProcess): ReadonlySet<AnyId> {
    return this.#held.get(agent) ?? new Set();
  }

  /**
   * What the agent holds once it has looked for these objects; what it held before, when it can't
   * tell.
   */
  async #ask(agent: AgentProcess, objects: readonly TokenObject[]): Promise<ReadonlySet<AnyId>> {
    const deadline = monotonicNow() + this.#options.callTimeoutMs;
    const reply = await this.#tell(agent, 'hold', { objects }, deadline).catch(() => undefined);
    if (reply !== undefined) this.#nowHolds(agent, reply);
    return this.#heldBy(agent);
  }

  #nowHolds(agent: AgentProcess, { held, problems }: HeldObjects): void {
    this.#held.set(agent, new Set(held));
    for (const problem of problems)
      this.#options.alerts.raise('token-object', problem, { problem });
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
   * Has every agent destroy the handles of the versions of a tenant's keys or of a key, or of all
   * keys. An agent that starts later has none; one that doesn't do it within a call's time is
   * hanging, and is killed for that.
   */
  async forget(ofId?: TenantId | KeyId): Promise<void> {
    const request = { ofId: ofId === undefined ? Buffer.alloc(0) : idToBytes(ofId) };
    const deadline = monotonicNow() + this.#options.callTimeoutMs;
    const forget = (agent: AgentProcess) =>
      // Whatever it says, its handles must be gone: those of a dead agent are.
      this.#tell(agent, 'forget', request, deadline).catch(() => agent.kill());
    await Promise.all([...this.#pool.ready].map(forget));
  }

  /**
   * Has every agent overwrite the keys of a tenant's or a key's epochs, or of all, and again once
   * no call is under way that began before this, since that can bring one back. As
   * {@link HsmAgents.forget} for an agent that doesn't do it.
   */
  forgetEpochs(ofId?: TenantId | KeyId): void {
    const tellAll = () => {
      const request = { ofId: ofId === undefined ? Buffer.alloc(0) : idToBytes(ofId) };
      const deadline = monotonicNow() + this.#options.callTimeoutMs;
      for (const agent of this.#pool.ready)
        this.#tell(agent, 'forgetEpochs', request, deadline).catch(() => agent.kill());
    };
    tellAll();
    setTimeout(tellAll, CALLS_END_MS).unref();
  }

  /**
   * Asks every agent that is ready how it is doing, which one that works on something says after
   * that. Never rejects.
   */
  async measure(deadline: number): Promise<void> {
    const { ready } = this.#pool;
    this.#measurements.keepOnly(ready);
    const ask = async (agent: AgentProcess) => {
      const figures = await this.#tell(agent, 'measure', {}, deadline);
      this.#measurements.take(agent, figures);
    };
    await Promise.allSettled([...ready].map(ask));
  }

  /** How the agents are doing. */
  get figures(): HsmFigures {
    const { maxCalls, maxBytes } = this.#options;
    const { operations, keysLoaded, epochsKept } = this.#measurements;
    const queue = { calls: this.#calls, maxCalls, bytes: this.#bytes, maxBytes };
    return { ...this.#pool.figures, ...queue, operations, keysLoaded, epochsKept };
  }

  /** Lets the agents finish what they have, then ends them. */
  async stop(): Promise<void> {
    const stopped = this.#pool.stop();
    for (const call of this.#waiting.splice(0)) call.fail(unavailable('the server is stopping'));
    await stopped;
  }

  async #attempt<Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
  ): Promise<ReplyOf<Name>> {
    let firstStaleAt: number | undefined;
    for (let tries = 1; ; tries++) {
      // A second agent's session is mostly good. Where it isn't, the token has lost them all: only
      // a new agent's is.
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
    return new Promise<{ readonly reply: ReplyOf<Name> } | { readonly failure: Failure }>(
      (resolve, fail) => {
        const encode = (requestId: number) => encodeRequest(requestId, name, deadline, request);
        const settle = (frame: Buffer, agent: AgentProcess) => {
          const outcome = decodeReply(name, frame);
          if ('reply' in outcome) this.#pool.prove(agent);
          else if (ENDING_FAILURES.includes(outcome.failure.kind)) agent.dismiss();
          resolve(outcome);
        };
        this.#send({ name, encode, attempts: 0, startedAfter, settle, fail });
      },
    );
  }

  #send(call: AgentCall): void {
    let chosen: AgentProcess | undefined;
    for (const agent of this.#pool.ready) {
      if (agent.startedAt <= call.startedAfter) continue;
      if (chosen === undefined || agent.load < chosen.load) chosen = agent;
    }
    if (chosen !== undefined) {
      chosen.send(call);
      return;
    }
    call.waitingSince ??= monotonicNow();
    this.#wait(call);
  }

  /** Has the call wait for an agent, if one may be ready soon. */
  #wait(call: AgentCall): void {
    const { lastFailure } = this.#pool;
    if (this.#pool.mayBeReadySoon(call.waitingSince ?? 0)) this.#waiting.push(call);
    else call.fail(unavailable(`no agent is ready${lastFailure && `: ${lastFailure}`}`));
  }

  #toError(name: OperationName, { kind, detail }: Failure): KeywardError {
    if (kind === 'row-corrupt')
      this.#options.alerts.raise('stored-row-corrupt', detail, { operation: name, detail });
    return new KeywardError(REASON_OF[kind], {
      ...(kind === 'not-approved' ? { message: detail } : {}),
      cause: new Error(`agent: ${name}: ${kind} ${detail}`),
    });
  }

  /** What an agent that has ended had not answered. */
  #takeBack({ how, interrupted, untouched }: AgentExit): void {
    interrupted?.fail(unavailable(`the agent ended during the call: ${how}`));
    for (const call of untouched) {
      // One that has said what it ended of has begun none of these.
      if (interrupted === undefined) call.attempts -= 1;
      if (call.attempts > 1 || !OPERATIONS[call.name].idempotent)
        call.fail(unavailable('two agents ended during the call'));
      else this.#send(call);
    }
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
