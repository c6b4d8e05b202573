/**
 * One call on its way in, whatever it travels by: its id, its deadline, what it holds of the
 * budgets, its answer if it is not let in.
 *
 * Invariants:
 * - what it holds is given back once: when it is refused, else when what it came by is closed and
 *   nothing works for it any more;
 * - it is closed by its deadline, be it that its request never ends or that its answer is never
 *   read.
 * Knows no budget's rule, no method and no protocol.
 */
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { Caller } from '../../access/identity.ts';
import { millisecondsLeft, monotonicNow } from '../../call.ts';
import type { CallOutcomes, Face } from '../../calls/outcomes.ts';
import type { Shares } from '../../calls/shares.ts';
import { KeywardError } from '../../errors.ts';
import { type TraceContext, traceFields } from '../../signals/trace-context.ts';
import type { Connection } from './connection.ts';

/** What a call is made of. */
export interface ArrivingCallParts {
  readonly path: string;
  readonly connection: Connection;
  /** Which trace its caller has it be part of. */
  readonly trace: TraceContext | undefined;
  readonly log: Logger;
  readonly outcomes: Pick<CallOutcomes, 'report'>;
}

/** The pools that a call holds something of. */
export interface Held {
  /** Of calls, or of open streams: one. */
  readonly places: Shares;
  /** Of requests, and of what is made for them. */
  readonly bytes: Shares;
}

/** The header of every answer that names its call, as logs and errors do. */
export const REQUEST_ID_HEADER = 'keyward-request-id';
/** The header of an answer that says what the request did when it came before. */
const REPLAYED_HEADER = 'keyward-replayed';
/**
 * The wrapper round the call answers at the deadline; this much later what is left of it is closed.
 */
export const BACKSTOP_MS = 250;
/** A caller that gives up this late into the time that it gave has seen its deadline pass. */
const RAN_OUT = 0.9;

/** Holds one call on its way in. */
export abstract class ArrivingCall {
  readonly id = randomUUID();
  /** Set when it is known. */
  caller: Caller | undefined;
  /** Returns who makes it, asked again. Set when it is known how. */
  identify: (() => Caller | Promise<Caller>) | undefined;
  /** In `monotonicNow`'s milliseconds. */
  readonly startedAt = monotonicNow();
  deadline = Infinity;
  trace: TraceContext | undefined;
  /** The wrapper has it, and will answer and log it. */
  isTaken = false;
  /** Its request had its effect before. */
  isReplayed = false;
  readonly path: string;
  readonly connection: Connection;
  readonly #log: Logger;
  readonly #outcomes: ArrivingCallParts['outcomes'];
  #principal: string;
  #isReported = false;
  #held: Held | undefined;
  #bytes = 0;
  #made = 0;
  #holds = 0;

  constructor({ path, connection, trace, log, outcomes }: ArrivingCallParts) {
    this.path = path;
    this.connection = connection;
    this.trace = trace;
    this.#principal = connection.principal;
    this.#log = log;
    this.#outcomes = outcomes;
  }

  /** What it came in by. */
  abstract readonly face: Face;
  /** Whether what it came by has ended, or is about to. */
  abstract get isOver(): boolean;
  /** Whether the peer ended it by a reset, rather than this server by an answer. */
  abstract get wasReset(): boolean;
  /** Has the listener called once when what it came by is closed. */
  abstract onClose(listener: () => void): void;
  /** Whether an answer has begun. */
  abstract get isAnswering(): boolean;
  /** Reads its request, which nothing else reads, and has each piece of it looked at. */
  abstract skipRequest(piece: (bytes: Buffer) => void): void;
  /** Answers with an error, and closes. */
  protected abstract answerError(error: KeywardError, httpStatus: number | undefined): void;
  /** Closes in the middle of an answer. */
  protected abstract cut(): void;

  /** The headers of whatever it is answered. */
  protected get answerHeaders(): Readonly<Record<string, string>> {
    return {
      [REQUEST_ID_HEADER]: this.id,
      ...(this.isReplayed && { [REPLAYED_HEADER]: 'true' }),
    };
  }

  /** In whose share it is: its caller's, or its connection's until there is a caller. */
  get principal(): string {
    return this.#principal;
  }

  /** The pool that it has its place in, as long as it has one. */
  get places(): Shares | undefined {
    return this.#held?.places;
  }

  /** Bytes of its request that were received and are not given back. */
  get requestBytes(): number {
    return this.#bytes;
  }

  /** Milliseconds since its first header. */
  get elapsedMs(): number {
    return monotonicNow() - this.startedAt;
  }

  /** Whether its time has passed, or so nearly that its caller may have given it up. */
  get ranOut(): boolean {
    return this.elapsedMs >= RAN_OUT * (this.deadline - this.startedAt);
  }

  /** A caller's text until a method of that name is found. */
  get method(): string {
    return /^\/[\w.]{1,200}\/\w{1,100}$/.test(this.path) ? this.path.slice(1) : 'unknown';
  }

  /** Where it came from. */
  get origin(): { readonly certificate: string | undefined; readonly address: string | undefined } {
    const { certificate, address } = this.connection;
    return { certificate: certificate?.thumbprint, address };
  }

  /** Takes its place, until it is closed and nothing works for it any more. */
  occupy(held: Held): void {
    this.#held = held;
    held.places.take(this.#principal);
    this.onClose(this.hold());
  }

  /** Gives its place back before it is answered, which it will be with an error. */
  leave(): void {
    this.#giveBack();
  }

  /** Counts it as another principal's from here on. */
  moveTo(principal: string): void {
    if (principal === this.#principal || this.#held === undefined) return;
    const { places, bytes } = this.#held;
    places.give(this.#principal);
    places.take(principal);
    bytes.give(this.#principal, this.#bytes + this.#made);
    bytes.take(principal, this.#bytes + this.#made);
    this.#principal = principal;
  }

  /** Counts bytes of its request. */
  received(bytes: number): void {
    this.#bytes += bytes;
    this.#held?.bytes.take(this.#principal, bytes);
  }

  /** Counts bytes of what is made for it, of which it holds the largest number until its end. */
  makes(bytes: number): void {
    if (bytes <= this.#made) return;
    this.#held?.bytes.take(this.#principal, bytes - this.#made);
    this.#made = bytes;
  }

  /**
   * Says that work has begun that may outlive the connection; the returned function, called once,
   * that it is over.
   */
  hold(): () => void {
    this.#holds += 1;
    return () => {
      this.#holds -= 1;
      if (this.#holds === 0) this.#giveBack();
    };
  }

  /** Closes it when its time is up, answered or not. */
  expireAfter(deadlineMs: number): void {
    this.deadline = this.startedAt + deadlineMs;
    const timer = setTimeout(
      () => this.fail(new KeywardError('DEADLINE_EXCEEDED')),
      millisecondsLeft(this.deadline) + BACKSTOP_MS,
    );
    this.onClose(() => clearTimeout(timer));
  }

  /** Answers with an error if nothing was answered, and closes. */
  fail(error: KeywardError, httpStatus?: number): void {
    if (this.isOver) return;
    if (this.isAnswering) {
      this.cut();
      return;
    }
    if (!this.isTaken) {
      this.noteRefusal(error);
      // Not only when it is closed: a peer that reads nothing takes its time over that, and others
      // would find no room.
      this.#giveBack();
    }
    this.answerError(error, httpStatus);
  }

  /** Writes the line of a call that the wrapper does not get to see, and reports its outcome. */
  protected noteRefusal(error: KeywardError): void {
    const { id: requestId, method, face, origin, trace } = this;
    const caller = this.caller?.name ?? this.connection.certificate?.name;
    const durationMs = Math.round(this.elapsedMs * 1000) / 1000;
    this.#log.info(
      {
        requestId,
        ...traceFields(trace),
        method,
        caller,
        token: this.caller?.token,
        outcome: error.reason,
        durationMs,
        ...causeOf(error),
      },
      'call refused',
    );
    // Of what was taken the wrapper reports; a refusal is reported at its first reason.
    if (this.isTaken || this.#isReported) return;
    this.#isReported = true;
    this.#outcomes.report({
      ...{ requestId, method, face, isAdmitted: false, caller, address: origin.address, trace },
      ...{ tenant: undefined, resource: undefined, notes: undefined, error, durationMs },
    });
  }

  #giveBack(): void {
    this.#giveBackBytes();
    this.#held?.places.give(this.#principal);
    this.#held = undefined;
  }

  #giveBackBytes(): void {
    this.#held?.bytes.give(this.#principal, this.#bytes + this.#made);
    this.#bytes = 0;
    this.#made = 0;
  }
}

/** Our own words for what we refuse; of what we didn't expect all there is. */
function causeOf({ reason, cause }: KeywardError): object {
  if (cause === undefined) return {};
  return reason === 'INTERNAL' ? { err: cause } : { cause: String(cause) };
}
