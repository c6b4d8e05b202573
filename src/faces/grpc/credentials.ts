/**
 * TLS and HTTP/2 as grpc-js is told to speak them.
 *
 * grpc-js's own ServerCredentials accept older TLS and resumed sessions, which is why these are
 * here. Whether a peer may stay with its certificate, or without one, is for `connections.ts`.
 */
import { ServerCredentials } from '@grpc/grpc-js';
import { http2Options, type ProtocolLimits } from '../transport/protocol-limits.ts';
import { type TlsFileNames, TlsFiles } from '../transport/tls-files.ts';

/** Serves TLS by files that may be replaced while it runs. */
export class MutualTlsCredentials extends ServerCredentials {
  readonly #files: TlsFiles;

  /** Throws when the files don't load: a key that isn't the certificate's, say. */
  constructor(names: TlsFileNames, limits: ProtocolLimits) {
    const files = new TlsFiles(names);
    super(http2Options(limits), files.options);
    this.#files = files;
  }

  /** Looks at the files from time to time until the returned function is called. */
  watch(onReload: () => void, onError: (error: unknown) => void): () => void {
    return this.#files.watch((options) => {
      this.updateSecureContextOptions(options);
      onReload();
    }, onError);
  }

  /** Looks at the files now, if they are watched. */
  look(): void {
    this.#files.look();
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}
