/**
 * The CA, the certificate and the key of a client, given as PEM or as files that may be replaced
 * while it runs.
 *
 * - What is not whole is refused: at first with an error, and later by using what was there before.
 *   OpenSSL would leave out what it cannot read.
 * - A certificate goes with its own key only: both are replaced together or not at all.
 * - No error holds anything of a file's content.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createSecureContext, type SecureContext } from 'node:tls';
import { fileTrouble, SettingsError } from './settings/errors.ts';

/** A file's path, or PEM and how the caller names it. */
export type PemSource = { readonly file: string } | { readonly pem: string; readonly name: string };

/** Where a client's certificates and key come from. */
export interface CredentialSources {
  readonly ca: PemSource;
  /** The caller's, unless a token is all that they have. */
  readonly identity?: { readonly cert: PemSource; readonly key: PemSource } | undefined;
}

/** Files are read again when a call is made, but not more often than this. */
const LOOK_EVERY_MS = 5_000;

/** See this file's first paragraph. */
export class Credentials {
  readonly #sources: CredentialSources;
  readonly #all: readonly PemSource[];
  readonly #files: readonly string[];
  /** What was found last, used or not, so that it is judged once. */
  #found: readonly string[];
  #trouble = '';
  #lookedAt = performance.now();
  #looking: Promise<void> | undefined;
  #context: SecureContext;
  /** Told of files that have changed, with why they are not used, or undefined where they are. */
  onChange: (files: readonly string[], error: Error | undefined) => void = () => {};

  /** Throws a SettingsError for what can't be read, or is not whole. */
  constructor(sources: CredentialSources) {
    const { ca, identity } = sources;
    this.#sources = sources;
    this.#all = identity === undefined ? [ca] : [ca, identity.cert, identity.key];
    this.#files = this.#all.flatMap((source) => ('file' in source ? source.file : []));
    this.#found = this.#all.map((source) => ('file' in source ? read(source) : source.pem));
    this.#context = contextOf(sources, this.#found);
  }

  /** What new connections use. */
  get context(): SecureContext {
    return this.#context;
  }

  /** Whether the files may have changed since they were last read. */
  get isDue(): boolean {
    return this.#files.length > 0 && performance.now() - this.#lookedAt > LOOK_EVERY_MS;
  }

  /** Reads the files again, once at a time. Never rejects. */
  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#lookedAt = performance.now();
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #look(): Promise<void> {
    if (this.#files.length === 0) return;
    try {
      const texts = await Promise.all(this.#all.map(readAgain));
      this.#trouble = '';
      if (texts.every((text, index) => text === this.#found[index])) return;
      this.#found = texts;
      this.#context = contextOf(this.#sources, texts);
      this.onChange(this.#files, undefined);
    } catch (error) {
      const { message } = error as Error;
      if (message === this.#trouble) return;
      this.#trouble = message;
      this.onChange(this.#files, error as Error);
    }
  }
}

function read({ file }: { readonly file: string }): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw unreadable(file, error);
  }
}

async function readAgain(source: PemSource): Promise<string> {
  if ('pem' in source) return source.pem;
  try {
    return await readFile(source.file, 'utf8');
  } catch (error) {
    throw unreadable(source.file, error);
  }
}

function unreadable(file: string, error: unknown): SettingsError {
  return new SettingsError(`cannot read ${file}: ${fileTrouble(error)}`, { cause: error });
}

function contextOf({ ca, identity }: CredentialSources, pems: readonly string[]): SecureContext {
  const [caPem = '', cert = '', key = ''] = pems;
  certificatesIn(caPem, 'CA', ca);
  const caller = identity && { cert, key };
  if (identity !== undefined) {
    const [leaf] = certificatesIn(cert, 'certificate', identity.cert);
    if (!leaf?.checkPrivateKey(privateKeyIn(key, identity.key)))
      throw unusable('key', identity.key, `it is not the key of ${nameOf(identity.cert)}`);
  }
  return createSecureContext({ ca: caPem, ...caller, minVersion: 'TLSv1.3' });
}

const BLOCK = /-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----/g;
const CERTIFICATES = ['CERTIFICATE', 'X509 CERTIFICATE', 'TRUSTED CERTIFICATE'];

/** Every certificate of a PEM text, one at least. */
function certificatesIn(pem: string, what: string, source: PemSource): X509Certificate[] {
  const begun = CERTIFICATES.flatMap((label) => pem.split(`-----BEGIN ${label}-----`).slice(1));
  const blocks = [...pem.matchAll(BLOCK)].filter(([, label = '']) => CERTIFICATES.includes(label));
  if (begun.length === 0) throw unusable(what, source, 'it is not PEM with a certificate');
  if (blocks.length < begun.length) throw unusable(what, source, 'a certificate in it is cut off');
  return blocks.map(([text], index) => {
    try {
      return new X509Certificate(text);
    } catch {
      throw unusable(what, source, `its certificate ${index + 1} is damaged`);
    }
  });
}

function privateKeyIn(pem: string, source: PemSource): KeyObject {
  if (!pem.includes('PRIVATE KEY-----'))
    throw unusable('key', source, 'it is not PEM with a private key');
  if (/BEGIN ENCRYPTED|Proc-Type: 4,ENCRYPTED/.test(pem))
    throw unusable('key', source, 'it is encrypted; decrypt it with `openssl pkey`');
  try {
    return createPrivateKey(pem);
  } catch {
    throw unusable('key', source, 'its private key is damaged');
  }
}

function unusable(what: string, source: PemSource, why: string): SettingsError {
  const named = 'file' in source ? `the ${what} file ${source.file}` : source.name;
  return new SettingsError(`cannot use ${named}: ${why}`);
}

function nameOf(source: PemSource): string {
  return 'file' in source ? `the certificate in ${source.file}` : source.name;
}
