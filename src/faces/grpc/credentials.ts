/**
 * TLS and HTTP/2 as the server speaks them.
 *
 * Invariants:
 * - TLS 1.3 only, and no session resumption, in which a client's certificate isn't presented again:
 *   grpc-js's own ServerCredentials accept both, which is why these are here;
 * - when the files change and load, new connections use them; when what is there doesn't load, the
 *   old ones stay and the log says so;
 * - what HTTP/2 itself can limit is limited.
 *
 * Asks for client certificates; whether a peer may stay with its one, or without, is for
 * `connections.ts`.
 */
import { constants } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { SecureServerOptions } from 'node:http2';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import { ServerCredentials } from '@grpc/grpc-js';

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCaFile: string;
}

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

/** How often the files are looked at. */
const RELOAD_MS = 2_000;
const HEADROOM = 4;
const MOST_RESETS = 32;

/** Serves TLS by files that may be replaced while it runs. */
export class MutualTlsCredentials extends ServerCredentials {
  readonly #files: TlsFiles;
  #loaded: LoadedFiles;

  /** Throws when the files don't load: a key that isn't the certificate's, say. */
  constructor(files: TlsFiles, limits: ProtocolLimits) {
    const loaded = load(files);
    // Asked for, and looked at by `connections.ts`: what TLS rejects by itself it rejects without a
    // word to anyone.
    super(
      { requestCert: true, rejectUnauthorized: false, ...http2Options(limits) },
      loaded.options,
    );
    this.#files = files;
    this.#loaded = loaded;
  }

  /** Looks at the files from time to time until the returned function is called. */
  watch(onReload: () => void, onError: (error: unknown) => void): () => void {
    let lastFailure: string | undefined;
    const timer = setInterval(() => {
      try {
        if (this.reload()) onReload();
        lastFailure = undefined;
      } catch (error) {
        if (String(error) !== lastFailure) onError(error);
        lastFailure = String(error);
      }
    }, RELOAD_MS);
    timer.unref();
    return () => clearInterval(timer);
  }

  /**
   * Loads the files if they have changed, and says whether. Throws, and keeps the old ones, if they
   * don't load.
   */
  reload(): boolean {
    const loaded = load(this.#files);
    if (loaded.bytes.equals(this.#loaded.bytes)) return false;
    this.#loaded = loaded;
    this.updateSecureContextOptions(loaded.options);
    return true;
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}

/**
 * grpc-js hands them to `http2.createSecureServer`. What is beyond them ends the connection with
 * ENHANCE_YOUR_CALM or so.
 */
function http2Options(limits: ProtocolLimits): SecureServerOptions {
  return {
    handshakeTimeout: limits.handshakeMs,
    unknownProtocolTimeout: limits.handshakeMs,
    // What is beyond the limit itself is refused with a reason (`request-headers.ts`), up to these.
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

interface LoadedFiles {
  readonly options: SecureContextOptions;
  readonly bytes: Buffer;
}

function load({ certFile, keyFile, clientCaFile }: TlsFiles): LoadedFiles {
  const [cert, key, ca] = [certFile, keyFile, clientCaFile].map((path) => readFileSync(path)) as [
    Buffer,
    Buffer,
    Buffer,
  ];
  const options: SecureContextOptions = {
    cert,
    key,
    ca,
    minVersion: 'TLSv1.3',
    // Without tickets TLS 1.3 resumes by the server's memory, and Node's server has none.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
  createSecureContext(options);
  return { options, bytes: Buffer.concat([cert, key, ca]) };
}
