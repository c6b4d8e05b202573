/**
 * The points at which a replica can be cut off, counted: each statement that it sends and each call
 * of an agent.
 *
 * Invariant: a replica that has died does nothing more: no statement of it reaches Postgres, no
 * agent begins a call for it, and it waits for nothing, so that its promises end. Knows neither
 * what is reconciled nor what has to hold.
 */
import type { Call } from '../../src/call.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import type { OperationName, ReplyOf, RequestOf } from '../../src/hsm/protocol.ts';
import { RECORD } from '../../src/hsm/record-seal.ts';
import type { KeyringParts } from '../../src/keyring/keyring.ts';
import type { Store } from '../../src/store/store.ts';

/**
 * What happens at the point. `before`: the replica dies and it is not done. `after`: it is done and
 * the replica dies without having heard. `lost`: it is done, the answer is lost, and the replica
 * lives on. `frozen`: it is done, and the replica hears of it only when it is thawed.
 */
export type Mode = 'before' | 'after' | 'lost' | 'frozen';

export interface Step {
  readonly kind: 'statement' | 'agent call';
  /** The statement's text, or the operation's name. */
  readonly what: string;
  /** Of which kind records are that an agent verifies or seals. */
  readonly records?: number | undefined;
}

/** Where a replica is to be cut off. */
export interface Cut {
  /** 1, 2, … of the steps that count. */
  readonly at: number;
  readonly mode: Mode;
  readonly counts: (step: Step) => boolean;
}

/** Every step of a replica. */
export const EVERY_STEP = (): boolean => true;

/**
 * The agents' work, and what makes Postgres's last: a crash elsewhere ends as one before the COMMIT
 * that follows.
 */
export const CALLS_AND_COMMITS = ({ kind, what }: Step): boolean =>
  kind === 'agent call' || what === 'COMMIT';

/**
 * The same, but for what agents do while a key's row is locked: who is frozen there holds it until
 * Postgres ends his transaction.
 */
const CALLS_AND_COMMITS_UNLOCKED = (step: Step): boolean =>
  CALLS_AND_COMMITS(step) &&
  !['verifyRecords', 'sealRecords', 'resealRecords', 'sealRecordChange'].includes(step.what);

/**
 * The same, but for what agents do while the set of token keys is locked: others can do nothing
 * about those meanwhile.
 */
const CALLS_AND_COMMITS_BESIDE_TOKEN_KEYS = (step: Step): boolean =>
  CALLS_AND_COMMITS(step) && step.records !== RECORD.tokenKeySet;

/** The scene in which no state changes, but seals come under a new seal key, without a lock. */
export const RESEALING = 'new root and seal keys';

/** Where a replica can be frozen in that scene. */
export function unlockedIn(scene: string): Cut['counts'] {
  return scene === RESEALING ? CALLS_AND_COMMITS_BESIDE_TOKEN_KEYS : CALLS_AND_COMMITS_UNLOCKED;
}

/** A step that counted, and the one right before it, whether it counted or not. */
export interface CountedStep {
  readonly step: Step;
  readonly before: Step | undefined;
}

/** The points of one replica. */
export class Failpoints {
  #cut: Cut | undefined;
  readonly #counted: CountedStep[] = [];
  #last: Step | undefined;
  #dead = false;
  #reached: Step | undefined;
  #frozen = Promise.withResolvers<void>();
  #thawed = Promise.withResolvers<void>();
  readonly #onDeath: (() => void)[] = [];

  /** Begins anew, alive, with the cut that is to come; without one, nothing is cut. */
  arm(cut?: Cut): void {
    this.#cut = cut;
    this.#counted.length = 0;
    this.#last = undefined;
    this.#dead = false;
    this.#reached = undefined;
    this.#frozen = Promise.withResolvers();
    this.#thawed = Promise.withResolvers();
  }

  get dead(): boolean {
    return this.#dead;
  }

  /** The step at which it was cut off; undefined when it never got there. */
  get reached(): Step | undefined {
    return this.#reached;
  }

  /** Those that counted in this life, up to the one at which it was cut off. */
  get counted(): readonly CountedStep[] {
    return this.#counted;
  }

  /** Resolves when the replica is frozen. */
  get frozen(): Promise<void> {
    return this.#frozen.promise;
  }

  /** Says that a step begins; returns what is to happen to it, undefined for nothing. */
  begin(step: Step): Mode | undefined {
    const cut = this.#cut;
    const before = this.#last;
    this.#last = step;
    if (cut === undefined || this.#reached !== undefined || !cut.counts(step)) return undefined;
    this.#counted.push({ step, before });
    if (this.#counted.length < cut.at) return undefined;
    this.#reached = step;
    return cut.mode;
  }

  /** Runs when the replica dies, each time. */
  onDeath(end: () => void): void {
    this.#onDeath.push(end);
  }

  die(): void {
    this.#dead = true;
    for (const end of this.#onDeath) end();
  }

  /** Returns once the replica is thawed. */
  async freeze(): Promise<void> {
    this.#frozen.resolve();
    await this.#thawed.promise;
  }

  thaw(): void {
    this.#thawed.resolve();
  }
}

class Dead extends Error {
  override readonly name = 'Dead';
}

/** A thing that a replica has done by an agent, cut off at those points. */
async function cutOff<T>(
  points: Failpoints,
  {
    what,
    records,
    unavailable,
  }: Pick<Step, 'what' | 'records'> & { readonly unavailable: () => Error },
  work: () => Promise<T>,
): Promise<T> {
  if (points.dead) throw new Dead();
  const mode = points.begin({ kind: 'agent call', what, records });
  if (mode === 'before') points.die();
  if (points.dead) throw new Dead();
  const result = await work();
  if (mode === 'after') points.die();
  if (points.dead) throw new Dead();
  if (mode === 'lost') throw unavailable();
  if (mode === 'frozen') await points.freeze();
  return result;
}

function recordsOf(request: unknown): number | undefined {
  const { kind } = request as { readonly kind?: unknown };
  return typeof kind === 'number' ? kind : undefined;
}

/** What agents do for a replica. */
export interface Hands {
  readonly agents: HsmAgents;
  readonly makeTokenKey: KeyringParts['makeTokenKey'];
}

/**
 * The agents, and the maker of token keys, as a replica has them that is cut off at those points.
 * They themselves go on.
 */
export function cutHands(
  { agents, makeTokenKey }: Hands,
  points: Failpoints,
  unavailable: () => Error,
): Hands {
  const call = <Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
    deadline: number,
  ): Promise<ReplyOf<Name>> =>
    cutOff(points, { what: name, records: recordsOf(request), unavailable }, () =>
      agents.call(name, request, deadline),
    );
  const hold: HsmAgents['hold'] = (objects) =>
    cutOff(points, { what: 'hold', unavailable }, () => agents.hold(objects));
  const cut = {
    call,
    hold,
    get held() {
      return points.dead ? [] : agents.held;
    },
  };
  return {
    agents: cut as unknown as HsmAgents,
    makeTokenKey: (key, warrant) =>
      cutOff(points, { what: 'createTokenKey', unavailable }, () => makeTokenKey(key, warrant)),
  };
}

/**
 * The store as such a replica has it: the dead wait for nothing, so every deadline has passed for
 * them. Its statements are cut by the proxy that it connects through.
 */
export function mortalStore(store: Store, points: Failpoints): Store {
  const mortal = (call: Call): Call => ({
    ...call,
    get deadline() {
      return points.dead ? 0 : call.deadline;
    },
  });
  return new Proxy(store, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name);
      if (typeof member !== 'function') return member;
      return (call: Call, ...rest: unknown[]) => member.call(target, mortal(call), ...rest);
    },
  });
}
