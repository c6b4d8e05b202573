/**
 * Who has the places that there are for connections, and who gives one up for another.
 *
 * Invariants:
 * - a peer that has not proven who it is counts by its address, one that has by its caller's name;
 * - no principal holds more places than it leaves to others of its kind, and those that are proven
 *   leave an eighth of all to those that are not, so that there is always room to become proven;
 * - where a place has to be given up, what is about to end goes first, then a stranger, of the
 *   address that has most, then a connection without a call: never one by which a proven caller is
 *   being served.
 *
 * Knows no socket: a place is known here by whatever was put into it.
 */
import { Shares } from '../../calls/shares.ts';

/** What has a place. */
export interface Occupant {
  /** Whether it could be ended without a call being lost. */
  readonly isIdle: boolean;
}

/** What has to be given up so that another may have a place. */
export type Verdict<T> =
  | { readonly may: true; readonly instead?: T | undefined }
  | { readonly may: false };

/** Of so many places those that are proven leave one to those that are not. */
const PARTS = 8;

/** Gives out places for connections, and takes them back from those who need them least. */
export class Places<T extends Occupant> {
  readonly #size: number;
  readonly #strangers: Held<T>;
  readonly #callers: Held<T>;
  /** Those that are about to end, the oldest first: they count only towards the whole. */
  readonly #ending = new Set<T>();

  constructor(size: number) {
    this.#size = size;
    this.#strangers = new Held(new Shares(size));
    this.#callers = new Held(new Shares(size - Math.floor(size / PARTS)));
  }

  /** Whether a peer from this address may have a place; {@link Places.enter} takes it. */
  forStranger(address: string): Verdict<T> {
    const strangers = this.#strangers;
    if (this.#used >= this.#size) {
      const instead = first(this.#ending) ?? strangers.oldestOf(strangers.largest());
      return instead === undefined ? { may: false } : { may: true, instead };
    }
    if (strangers.allows(address)) return { may: true };
    return { may: true, instead: strangers.oldestOf(address) };
  }

  /**
   * Whether a stranger that has proven to be this caller may stay; {@link Places.prove} has it do
   * so.
   */
  forCaller(caller: string): Verdict<T> {
    const callers = this.#callers;
    if (callers.allows(caller)) return { may: true };
    const own = callers.oldestIdleOf(caller);
    // Many callers together may have left no room: it isn't a newcomer who has to pay for that.
    const instead =
      own ?? (callers.has(caller) ? undefined : callers.oldestIdleOf(callers.largest(2)));
    return instead === undefined ? { may: false } : { may: true, instead };
  }

  /** Gives a place to a peer from this address. */
  enter(occupant: T, address: string): void {
    this.#strangers.add(occupant, address);
  }

  /** Counts a stranger as this caller's from here on. */
  prove(occupant: T, caller: string): void {
    if (this.#strangers.remove(occupant)) this.#callers.add(occupant, caller);
  }

  /** Counts an occupant for nobody any more: it is about to end, but still there. */
  end(occupant: T): void {
    if (this.#strangers.remove(occupant) || this.#callers.remove(occupant))
      this.#ending.add(occupant);
  }

  /** Takes the place back: what had it is gone. */
  leave(occupant: T): void {
    if (this.#strangers.remove(occupant) || this.#callers.remove(occupant)) return;
    this.#ending.delete(occupant);
  }

  get #used(): number {
    return this.#strangers.size + this.#callers.size + this.#ending.size;
  }
}

/** Occupants by principal, each principal's oldest first. */
class Held<T extends Occupant> {
  readonly #shares: Shares;
  readonly #principals = new Map<T, string>();
  readonly #occupants = new Map<string, Set<T>>();

  constructor(shares: Shares) {
    this.#shares = shares;
  }

  get size(): number {
    return this.#principals.size;
  }

  allows(principal: string): boolean {
    return this.#shares.allows(principal);
  }

  has(principal: string): boolean {
    return this.#occupants.has(principal);
  }

  /** The principal that holds most, if it holds as many as that. */
  largest(atLeast = 1): string | undefined {
    let largest: string | undefined;
    let most = atLeast - 1;
    for (const [principal, { size }] of this.#occupants) {
      if (size > most) [largest, most] = [principal, size];
    }
    return largest;
  }

  oldestOf(principal: string | undefined): T | undefined {
    return first(this.#occupants.get(principal ?? '') ?? []);
  }

  oldestIdleOf(principal: string | undefined): T | undefined {
    return this.#occupants
      .get(principal ?? '')
      ?.values()
      .find(({ isIdle }) => isIdle);
  }

  add(occupant: T, principal: string): void {
    this.#shares.take(principal);
    this.#principals.set(occupant, principal);
    const others = this.#occupants.get(principal);
    if (others === undefined) this.#occupants.set(principal, new Set([occupant]));
    else others.add(occupant);
  }

  /** Says whether it was there. */
  remove(occupant: T): boolean {
    const principal = this.#principals.get(occupant);
    if (principal === undefined) return false;
    this.#shares.give(principal);
    this.#principals.delete(occupant);
    const others = this.#occupants.get(principal);
    others?.delete(occupant);
    if (others?.size === 0) this.#occupants.delete(principal);
    return true;
  }
}

function first<T>(all: Iterable<T>): T | undefined {
  const [one] = all;
  return one;
}
