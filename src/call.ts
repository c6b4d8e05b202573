/**
 * One call on its way through the service: who makes it, under which id, what it is, and until when it may take.
 *
 * Made once by the wrapper in `rpc/`, handed down as the first argument of whatever acts for a caller, so that nothing
 * acts for nobody. Knows nothing of gRPC. Deadlines are monotonic, so that a clock that is set changes none, and they
 * mean the same in every process of a machine (CLOCK_MONOTONIC).
 */

/** See this file's first paragraph. */
export interface Call {
  /** UUID of the call, in every log line, audit entry and error about it. */
  readonly id: string;
  /** Full method name, as `keyward.v1.KeyService/CreateKey`. */
  readonly method: string;
  /** The authenticated caller, as audit entries name it. */
  readonly caller: string;
  /** When the call must be over, in {@link monotonicNow}'s milliseconds. */
  readonly deadline: number;
  /** Set when the caller gave the request an id, so that sending it again has no second effect. */
  readonly idempotency?: {
    /** A UUID of the caller's making. */
    readonly requestId: string;
    /** SHA-256 of the rest of the request: the id stands for this request and no other. */
    readonly fingerprint: Buffer;
  };
}

/** Milliseconds of CLOCK_MONOTONIC, the same for every process of the machine. */
export function monotonicNow(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** How many milliseconds are left until `deadline`, at least 0. */
export function millisecondsLeft(deadline: number): number {
  return Math.max(0, deadline - monotonicNow());
}
