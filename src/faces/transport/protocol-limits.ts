/**
 * What HTTP/2 itself can limit, as `node:http2` is told: what is beyond it ends the connection with
 * ENHANCE_YOUR_CALM or so.
 *
 * Client certificates are asked for, and looked at by `connections.ts`: what TLS rejects by itself
 * it rejects without a word to anyone.
 */
import type { SecureServerOptions } from 'node:http2';

/** What a peer may do before there is a call, and beside it. */
export interface ProtocolLimits {
  /**
   * How long a handshake may take, of which the first byte is a part; what speaks no HTTP/2 after
   * it gets as long.
   */
  readonly handshakeMs: number;
  /** Streams at once on one connection. */
  readonly maxStreams: number;
  /**
   * The header list of one call, as RFC 9113 counts it (6.5.2), and how many headers may be in it.
   */
  readonly maxHeaderBytes: number;
  readonly maxHeaders: number;
  /**
   * Streams that a peer may reset each second (CVE-2023-44487); `connection.ts` says how often,
   * when.
   */
  readonly maxResetsPerSecond: number;
}

/** What is beyond a limit itself is refused with a reason, up to so many times the limit. */
export const HEADROOM = 4;
const MOST_RESETS = 32;
/** `connections.ts` ends whoever takes too long, and the log says so: Node would say nothing. */
const BEHIND_MS = 1_000;

/** Returns the limits as options of `http2.createSecureServer`. */
export function http2Options(limits: ProtocolLimits): SecureServerOptions {
  return {
    requestCert: true,
    rejectUnauthorized: false,
    handshakeTimeout: limits.handshakeMs + BEHIND_MS,
    unknownProtocolTimeout: limits.handshakeMs + BEHIND_MS,
    settings: {
      maxConcurrentStreams: limits.maxStreams,
      maxHeaderListSize: HEADROOM * limits.maxHeaderBytes,
    },
    maxHeaderListPairs: HEADROOM * limits.maxHeaders,
    // Streams beyond maxStreams, and frames that are not valid, before the connection is ended.
    maxSessionRejectedStreams: 100,
    maxSessionInvalidFrames: 100,
    // What resets cost is counted where it is known (`connection.ts`); HTTP/2 knows only how many
    // there are, and has to end what is beyond all that is allowed there.
    streamResetRate: MOST_RESETS * limits.maxResetsPerSecond,
    streamResetBurst: MOST_RESETS * 10 * limits.maxResetsPerSecond,
  };
}
