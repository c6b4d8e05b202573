/**
 * Admission: which calls are let in, by whichever face they come, and for how long.
 *
 * Invariants:
 * - a call is served only through here, and so has an id and a deadline from its first header on,
 *   and a caller before any of it goes further (`access/identity.ts` says who it is), whichever
 *   method it is of;
 * - work is counted from its first header until its last effect, not until the caller lost
 *   interest, and in the caller's share (`budgets.ts`), in that of the connection until there is a
 *   caller;
 * - what a peer resets is counted against its connection;
 * - what anyone may ask for without a caller is counted as a call that has none yet, and gives way
 *   to calls as one that is still arriving does.
 * Knows no method but by its path.
 */
import type { Caller, Identity } from '../../access/identity.ts';
import { proofOf } from '../../access/proofs.ts';
import { monotonicNow } from '../../call.ts';
import type { AdmittedCall, RefusedCall } from '../../calls/arrivals.ts';
import type { Budgets } from '../../calls/budgets.ts';
import type { Shares } from '../../calls/shares.ts';
import { type KeywardError, SERVER_BUSY, toKeywardError } from '../../errors.ts';
import type { ArrivingCall } from './arriving-call.ts';
import { RefusalPace } from './refusal-pace.ts';

export interface AdmissionParts {
  /**
   * The deadline of a call that brings none, and the longest that any may bring, in milliseconds.
   */
  readonly deadlineMs: number;
  /** What all callers have of the process, by whichever face. */
  readonly budgets: Budgets;
  /** The paths of the contract's calls that may have no end of their own. */
  readonly streams: ReadonlySet<string>;
  readonly identity: Identity;
  /** Puts a refusal on record, and returns it. Never rejects. */
  readonly recordRefusal: (error: KeywardError, call: RefusedCall) => Promise<KeywardError>;
}

/** Why a call goes no further, and the HTTP status where its face has another for it. */
export interface Refusal {
  readonly error: KeywardError;
  readonly httpStatus?: number;
}

/** One call before it is let in. */
export interface Arrival<Call extends ArrivingCall> {
  readonly call: Call;
  /** Why it goes no further, by its headers alone. */
  readonly refusal: Refusal | undefined;
  /** Every value of the header `authorization`. */
  readonly authorizations: readonly string[];
  /** The time that the caller gives it, in milliseconds; Infinity where it gives none. */
  readonly timeoutMs: number;
  /** Has it go on, now that it is known who makes it. */
  readonly goOn: (call: Call) => void;
}

/** gRPC's own, which heeds no deadline. */
const LONG_LIVED = /^\/grpc\.health\.v1\.Health\/Watch$/;
/** What uses keys; the rest is health, audit and administration. */
const KEY_USE = /^\/keyward\.v1\.(EncryptionService|DataKeyService)\//;
/**
 * Answers of up to so many bytes are never refused for want of room: those of changes are smaller,
 * which are made by then.
 */
const SMALL_BYTES = 131_072;
/** No audit entry has more. */
const ENTRY_BYTES = 65_536;
/**
 * By then the rest of a small request has come. Less is too little for a caller as busy as this
 * server: of thousands of calls that it begins at once, each would give way to a later one.
 */
const TIME_TO_ARRIVE_MS = 2_000;
/** How long a call has a place that another caller needs, while nobody knows whose call it is. */
const TIME_TO_SHOW_MS = 100;
/** Longer than Node's timers go; nobody waits for that. */
const LONGEST_TIMER_MS = 2 ** 31 - 1 - 60_000;

/** Decides which calls are let in. */
export class Admission {
  readonly #parts: AdmissionParts;
  readonly #budgets: Budgets;
  /**
   * Calls whose request hasn't arrived whole, and which give way to others, since it may never; the
   * oldest first. Of those of strangers it isn't known who makes them.
   */
  readonly #arriving = {
    ofStrangers: new Set<ArrivingCall>(),
    ofCallers: new Set<ArrivingCall>(),
  };
  readonly #refusals = new RefusalPace();

  constructor(parts: AdmissionParts) {
    this.#parts = parts;
    this.#budgets = parts.budgets;
  }

  /** Lets a call in once it is known who makes it, or answers it with why not. */
  admit<Call extends ArrivingCall>(arrival: Arrival<Call>): void {
    const { call, refusal, authorizations, timeoutMs } = arrival;
    const { connection, path } = call;
    connection.callOpened();
    call.onClose(() => this.#closed(call));
    if (refusal !== undefined) {
      call.fail(refusal.error, refusal.httpStatus);
      return;
    }
    const deadlineMs = this.#deadlineMs(timeoutMs, path);
    const places = this.#placesFor(path);
    if (!this.#hasRoom(call, places, authorizations) || this.#budgets.isInVain(path, deadlineMs)) {
      this.#refusals.refuse(call, deadlineMs);
      return;
    }
    call.occupy({ places, bytes: this.#budgets.bytes });
    if (!this.#isLongLived(path)) this.#arriving.ofStrangers.add(call);
    if (Number.isFinite(deadlineMs)) call.expireAfter(deadlineMs);
    this.#identify(arrival);
  }

  /** Answers what anyone may ask for, and what costs no more than its answer, if there is room. */
  visit(call: ArrivingCall, answer: () => void): void {
    const places = this.#placesFor(call.path);
    call.connection.callOpened();
    call.onClose(() => this.#closed(call));
    if (!this.#hasRoom(call, places)) {
      call.fail(SERVER_BUSY);
      return;
    }
    call.occupy({ places, bytes: this.#budgets.bytes });
    this.#arriving.ofStrangers.add(call);
    answer();
  }

  /** Counts bytes of a call's request; where its caller has too many, one of theirs gives way. */
  received(call: ArrivingCall, bytes: number): void {
    call.received(bytes);
    if (this.#budgets.bytes.isExceededBy(call.principal)) this.turnOut(this.#largestOf(call));
  }

  /** Answers a call whose request has not arrived whole with why it goes no further. */
  turnOut(call: ArrivingCall, error = SERVER_BUSY): void {
    this.#isThere(call);
    call.fail(error);
  }

  /** Returns a call whose request has arrived whole, as it was let in; undefined if it was not. */
  take(call: ArrivingCall): AdmittedCall | undefined {
    const { caller, identify } = call;
    if (caller === undefined || identify === undefined) return undefined;
    call.isTaken = true;
    this.#isThere(call);
    return new TakenCall(call, { caller, identify, budgets: this.#budgets });
  }

  /** Has the call go on once it is known who makes it. */
  #identify<Call extends ArrivingCall>({ call, authorizations, goOn }: Arrival<Call>): void {
    const { connection } = call;
    const identify = () =>
      this.#parts.identity.callerOf(proofOf(connection.certificate, authorizations));
    const refuse = async (thrown: unknown) => {
      const error = toKeywardError(thrown);
      const { id, method, trace, startedAt, origin } = call;
      const callerName = connection.certificate?.name;
      const refused = { id, method, callerName, trace, startedAt, ...origin };
      call.fail(await this.#parts.recordRefusal(error, refused));
    };
    const identified = (caller: Caller) => {
      connection.proven(caller.name);
      call.caller = caller;
      // It may be over, or refused: what waits to be verified gives way to others, too.
      if (call.isOver || call.places === undefined) return;
      if (caller.name !== call.principal) {
        if (!call.places.allows(caller.name)) {
          this.#isThere(call);
          call.leave();
          this.#refusals.refuse(call, call.deadline - call.startedAt);
          return;
        }
        call.moveTo(caller.name);
      }
      const { ofStrangers, ofCallers } = this.#arriving;
      if (ofStrangers.delete(call)) ofCallers.add(call);
      call.identify = identify;
      goOn(call);
    };
    try {
      const caller = identify();
      if (caller instanceof Promise) caller.then(identified).catch(refuse);
      else identified(caller);
    } catch (error) {
      void refuse(error);
    }
  }

  #closed(call: ArrivingCall): void {
    const { connection, path } = call;
    this.#isThere(call);
    connection.callClosed();
    if (call.isTaken && !this.#isLongLived(path)) {
      this.#budgets.finished(path, call.elapsedMs, call.ranOut);
      this.#refusals.done();
    }
    if (call.wasReset) connection.callReset(call.isTaken);
  }

  /**
   * Makes room, where there is none, at the cost of the call that has been arriving for longest of
   * those that have no caller yet, else of the principal's own; a connection that has shown nothing
   * can have no other's place. A call by a token that is known needs none of the room of its
   * address, which others may fill.
   */
  #hasRoom(call: ArrivingCall, places: Shares, authorizations: readonly string[] = []): boolean {
    const { path, principal, connection } = call;
    if (places.allows(principal)) return true;
    const known = this.#nameByToken(connection, authorizations);
    if (known !== undefined && places.allows(known)) return true;
    if (this.#isLongLived(path)) return false;
    const isOwn = (each: ArrivingCall) => each.principal === principal || each.principal === known;
    const oldest =
      this.#oldest(
        this.#arriving.ofStrangers,
        TIME_TO_SHOW_MS,
        (each) => each.places === places && (connection.isProven || isOwn(each)),
      ) ??
      this.#oldest(
        this.#arriving.ofCallers,
        TIME_TO_ARRIVE_MS,
        (each) => each.places === places && isOwn(each),
      );
    if (oldest !== undefined) this.turnOut(oldest);
    return oldest !== undefined;
  }

  /** The oldest of these calls that began so long ago, and that is one of those that may be had. */
  #oldest(
    calls: ReadonlySet<ArrivingCall>,
    leastMs: number,
    mayBeHad: (call: ArrivingCall) => boolean,
  ): ArrivingCall | undefined {
    const before = monotonicNow() - leastMs;
    for (const each of calls) {
      if (each.startedAt > before) return undefined;
      if (mayBeHad(each)) return each;
    }
    return undefined;
  }

  /** Its request has arrived whole, or is not waited for any more. */
  #isThere(call: ArrivingCall): void {
    this.#arriving.ofStrangers.delete(call);
    this.#arriving.ofCallers.delete(call);
  }

  /** Who calls by a token, where nothing has to be verified to know that. */
  #nameByToken(
    { certificate }: ArrivingCall['connection'],
    authorizations: readonly string[],
  ): string | undefined {
    if (authorizations.length === 0) return undefined;
    try {
      return this.#parts.identity.knownCallerOf(proofOf(certificate, authorizations))?.name;
    } catch {
      return undefined; // It is told so when it has a place, if it gets one.
    }
  }

  #placesFor(path: string): Shares {
    if (LONG_LIVED.test(path)) return this.#budgets.watches;
    if (this.#parts.streams.has(path)) return this.#budgets.streams;
    return KEY_USE.test(path) ? this.#budgets.keyUses : this.#budgets.otherCalls;
  }

  /** Infinity for a stream that brings no deadline; gRPC's own ones heed none. */
  #deadlineMs(given: number, path: string): number {
    if (LONG_LIVED.test(path)) return Infinity;
    if (this.#parts.streams.has(path)) return given > LONGEST_TIMER_MS ? Infinity : given;
    return Math.min(this.#parts.deadlineMs, given);
  }

  #isLongLived(path: string): boolean {
    return LONG_LIVED.test(path) || this.#parts.streams.has(path);
  }

  /** The same principal's call that has most bytes of a request that hasn't arrived whole. */
  #largestOf(call: ArrivingCall): ArrivingCall {
    const { principal } = call;
    let largest = call;
    const { ofStrangers, ofCallers } = this.#arriving;
    for (const calls of [ofStrangers, ofCallers])
      for (const each of calls)
        if (each.principal === principal && each.requestBytes > largest.requestBytes)
          largest = each;
    return largest;
  }
}

/** A call as it was let in. A class: an object with accessors of its own is slow to make. */
class TakenCall implements AdmittedCall {
  readonly id: string;
  readonly face: AdmittedCall['face'];
  readonly caller: Caller;
  readonly identify: AdmittedCall['identify'];
  readonly certificate: string | undefined;
  readonly address: string | undefined;
  readonly startedAt: number;
  readonly deadline: number;
  readonly #call: ArrivingCall;
  readonly #budgets: Budgets;

  constructor(
    call: ArrivingCall,
    parts: Pick<AdmittedCall, 'caller' | 'identify'> & { readonly budgets: Budgets },
  ) {
    const { certificate, address } = call.origin;
    this.id = call.id;
    this.face = call.face;
    this.caller = parts.caller;
    this.identify = parts.identify;
    this.certificate = certificate;
    this.address = address;
    this.startedAt = call.startedAt;
    this.deadline = call.deadline;
    this.#call = call;
    this.#budgets = parts.budgets;
  }

  get trace(): AdmittedCall['trace'] {
    return this.#call.trace;
  }

  set trace(trace: AdmittedCall['trace']) {
    this.#call.trace = trace;
  }

  decode<T>(length: number, decode: () => T): T {
    this.#makeRoom(expectedBytes(length));
    return this.#budgets.decode(this.#call.principal, length, decode);
  }

  answers(answer: Buffer): Buffer {
    this.#makeRoom(answer.length);
    return answer;
  }

  hold(): () => void {
    return this.#call.hold();
  }

  markReplayed(): void {
    this.#call.isReplayed = true;
  }

  /** Counts what is made for it. Throws SERVER_BUSY for much, where its caller has too much. */
  #makeRoom(bytes: number): void {
    this.#call.makes(bytes);
    if (bytes > SMALL_BYTES && this.#budgets.bytes.isExceededBy(this.#call.principal))
      throw SERVER_BUSY;
  }
}

/** What a request of so many bytes will need: an answer about as large, and an audit entry. */
function expectedBytes(length: number): number {
  return length + Math.min(length, ENTRY_BYTES);
}
