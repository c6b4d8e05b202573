/**
 * The files that a listener serves TLS by, as they are now.
 *
 * Invariants:
 * - TLS 1.3 only, and no session resumption, in which a client's certificate isn't presented again;
 * - when the files change and load, those who watch get them; when what is there doesn't load, the
 *   old ones stay and whoever watches hears so: a file loads as a whole (`pem.ts`).
 *
 * Knows no server.
 */
import { constants } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import { requireAuthorities, requirePair } from '../../pem.ts';

/** The names of the files. */
export interface TlsFileNames {
  readonly certFile: string;
  readonly keyFile: string;
  readonly clientCaFile: string;
}

/** How often the files are looked at. */
const RELOAD_MS = 2_000;

/** Loads the files that a listener serves TLS by, and loads them again when they change. */
export class TlsFiles {
  readonly #names: TlsFileNames;
  #loaded: LoadedFiles;
  #look = () => {};

  /** Throws when the files don't load: a key that isn't the certificate's, say. */
  constructor(names: TlsFileNames) {
    this.#names = names;
    this.#loaded = load(names);
  }

  /** What was last loaded. */
  get options(): SecureContextOptions {
    return this.#loaded.options;
  }

  /** Looks at the files from time to time until the returned function is called. */
  watch(
    onReload: (options: SecureContextOptions) => void,
    onError: (error: unknown) => void,
  ): () => void {
    let lastFailure: string | undefined;
    this.#look = () => {
      try {
        if (this.#reload()) onReload(this.options);
        lastFailure = undefined;
      } catch (error) {
        if (String(error) !== lastFailure) onError(error);
        lastFailure = String(error);
      }
    };
    const timer = setInterval(this.#look, RELOAD_MS);
    timer.unref();
    return () => clearInterval(timer);
  }

  /** Looks at the files now, if they are watched. */
  look(): void {
    this.#look();
  }

  /** Loads the files if they have changed, and says whether. Throws if they don't load. */
  #reload(): boolean {
    const loaded = load(this.#names);
    if (loaded.bytes.equals(this.#loaded.bytes)) return false;
    this.#loaded = loaded;
    return true;
  }
}

interface LoadedFiles {
  readonly options: SecureContextOptions;
  readonly bytes: Buffer;
}

function load({ certFile, keyFile, clientCaFile }: TlsFileNames): LoadedFiles {
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
  requirePair({ pem: String(cert), path: certFile }, { pem: String(key), path: keyFile });
  requireAuthorities(String(ca), clientCaFile);
  createSecureContext(options);
  return { options, bytes: Buffer.concat([cert, key, ca]) };
}
