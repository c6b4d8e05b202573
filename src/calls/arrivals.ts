/**
 * A call as a face lets it in, or turns it away: who makes it, from where, and how long it has.
 */
import type { Caller } from '../access/identity.ts';
import type { TraceContext } from '../signals/trace-context.ts';
import type { Face } from './outcomes.ts';

/** A call that was let in. */
export interface AdmittedCall {
  /** UUID of the call. */
  readonly id: string;
  readonly face: Face;
  readonly caller: Caller;
  /** Returns who makes it, asked again: as it is now. Throws, or rejects with, a KeywardError. */
  identify(): Caller | Promise<Caller>;
  /** SHA-256 of the connection's client certificate, base64url, if it has one. */
  readonly certificate: string | undefined;
  /** The IP address that it came from. */
  readonly address: string | undefined;
  /** Which trace it is part of: as its caller says, until the wrapper has a span of its own. */
  trace: TraceContext | undefined;
  /** When its headers came, and when it must be over: in `monotonicNow`'s milliseconds. */
  readonly startedAt: number;
  readonly deadline: number;
  /**
   * Returns what `decode` does with a message of so many bytes, in the caller's share of the time
   * for it, and room for what will be made of it. Throws SERVER_BUSY when that is used up.
   */
  decode<T>(length: number, decode: () => T): T;
  /**
   * Returns an answer, counted as its caller's until it is sent. Throws SERVER_BUSY for a large one
   * where there is no room for it.
   */
  answers(answer: Buffer): Buffer;
  /**
   * Says that work has begun that may outlive the connection; the returned function, called once,
   * that it is over.
   */
  hold(): () => void;
  /** Says that its request had its effect before, which its answer names. */
  markReplayed(): void;
}

/** A call that was not let in because of who makes it, or because that is not known. */
export interface RefusedCall
  extends Pick<AdmittedCall, 'id' | 'certificate' | 'address' | 'trace' | 'startedAt'> {
  /** As far as it is known. */
  readonly callerName: string | undefined;
  /** As in a path, without the slash before it; `unknown` where it is no name. */
  readonly method: string;
}
