/**
 * What the bench and its load generator say to each other: slices of load, and what came of them.
 */
import type { ClientIdentity } from '../dev/identities.ts';

/** The echo server's one method. */
export const ECHO_PATH = '/keyward.bench.Echo/Echo';

/** A stretch of load: a closed loop with so many calls in flight. */
export interface Slice {
  readonly address: string;
  /** The full method, as HTTP/2 has it. */
  readonly path: string;
  /** Encoded messages, sent in turn. */
  readonly requests: readonly Buffer[];
  /** Sent with each, if there is one. */
  readonly token?: string | undefined;
  /** Whether the requests are JSON, for the HTTP listener. */
  readonly isJson?: boolean | undefined;
  readonly inFlight: number;
  /** How many connections calls use in turn, over gRPC: one unless given. */
  readonly connections?: number | undefined;
  /** Not counted: for as long as this the loop gets going. */
  readonly rampMs: number;
  /**
   * Answers that come in this time after it count, or as many as there are calls in flight,
   * whichever takes longer.
   */
  readonly measureMs: number;
  /** Each request is sent once, and the slice is over when all are answered, or the time is up. */
  readonly once: boolean;
}

/** What came of a slice. */
export interface SliceResult {
  /** Answers in the measured time, and how long that was. */
  readonly counted: number;
  readonly seconds: number;
  /** Of those that counted. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** All answers, for what is divided by the number of calls. */
  readonly completed: number;
  readonly lastAnswer: Buffer;
}

/** The first message to a load generator: how it connects. */
export type LoadIdentity = Pick<ClientIdentity, 'caFile' | 'certFile' | 'keyFile'>;

/** What an open loop is to send: so many calls each second, whatever becomes of them. */
export interface Noise {
  readonly address: string;
  readonly path: string;
  readonly requests: readonly Buffer[];
  readonly perSecond: number;
  /** One unless given: a server bounds the calls of each. */
  readonly connections?: number;
  /** Calls under way at once; 500 unless given. */
  readonly maxUnderWay?: number;
  readonly deadlineMs?: number;
  /** Whether calls may run out of time, or find something unavailable; else that fails all. */
  readonly mayFail?: boolean;
  /** Whether each connection holds back what a full service would refuse, as `keyward-client`. */
  readonly throttled?: boolean;
}

/** What became of an open loop's calls. */
export interface NoiseResult {
  readonly seconds: number;
  readonly answered: number;
  /** As RESOURCE_EXHAUSTED. */
  readonly refused: number;
  /** Calls that were not sent. */
  readonly heldBack: number;
  /** Of the refused, how many said when to try again (google.rpc.RetryInfo). */
  readonly refusedWithRetryInfo: number;
  /** Ran out of time, or found something unavailable. */
  readonly failed: number;
  /** How long answers and refusals took, in milliseconds. */
  readonly answeredP99Ms: number;
  readonly refusedP50Ms: number;
  readonly refusedP99Ms: number;
}

/** What an open loop is told after its identity. */
export type NoiseOrder = { readonly noise: Noise } | { readonly quiet: true };

/** Its answer when it has begun, or has become quiet. */
export type NoiseReply =
  | { readonly begun: true }
  | { readonly result: NoiseResult }
  | { readonly failure: string };

/** A slice's answer: the call that failed, if one did. */
export type SliceReply = { readonly result: SliceResult } | { readonly failure: string };
