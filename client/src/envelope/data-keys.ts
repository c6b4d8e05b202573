/**
 * The data keys of envelopes: issued and opened by the service, and remembered for as long, and for
 * as much, as the caller allows.
 *
 * Invariants: without limits nothing is remembered; a data key is asked for once, however many wait
 * for it; none encrypts more messages, or bytes, than its limits; the plaintext is overwritten as
 * soon as the keys are derived. Knows no format.
 */
import type { CallOptions } from '../call.ts';
import { cancelledBy } from '../errors.ts';
import type * as m from '../messages.ts';
import { contextDigest, deriveKeys, type EnvelopeKeys } from './format.ts';

/** The calls that envelopes need of a client. */
export interface EnvelopeService {
  generateDataKey(
    request: m.GenerateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.GenerateDataKeyResponse>;
  decrypt(request: m.DecryptRequest, options?: CallOptions): Promise<m.DecryptResponse>;
  batchReEncrypt(
    request: m.BatchReEncryptRequest,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.ReEncryptResponse>[]>;
}

/** How long, and for how much, a data key is remembered. */
export interface DataKeyCache {
  /** Milliseconds from when it was issued or opened. */
  readonly maxAgeMs: number;
  /** How many values one data key encrypts: 2^20 unless given, and 2^32 at most. */
  readonly maxMessages?: number;
  /** How many bytes one data key encrypts: 2^36 unless given. */
  readonly maxBytes?: number;
  /** How many data keys are remembered: 1,000 unless given. */
  readonly maxDataKeys?: number;
}

/** A data key that is open: its wrapped form, and what was derived of it. */
export interface OpenDataKey {
  readonly wrapped: Buffer;
  readonly keys: EnvelopeKeys;
  /** Of the encryption context that it is bound to. */
  readonly digest: Buffer;
}

interface Remembered {
  readonly dataKey: Promise<OpenDataKey>;
  readonly until: number;
  messages: number;
  bytes: number;
}

const MAX_MESSAGES = 2 ** 32;

/** Returns the limits with what was not given. Throws a RangeError for ones that make no sense. */
function limitsOf(cache: DataKeyCache): Required<DataKeyCache> {
  const limits = { maxMessages: 2 ** 20, maxBytes: 2 ** 36, maxDataKeys: 1_000, ...cache };
  for (const [name, value] of Object.entries(limits))
    if (!Number.isFinite(value) || value <= 0)
      throw new RangeError(`cache.${name} must be a positive number`);
  if (limits.maxMessages > MAX_MESSAGES)
    throw new RangeError('cache.maxMessages must be at most 2^32, for the random IVs');
  return limits;
}

/** Issues, opens and remembers data keys under one key of the service. */
export class DataKeys {
  readonly #service: EnvelopeService;
  readonly #key: string;
  readonly #limits: Required<DataKeyCache> | undefined;
  readonly #issued = new Map<string, Remembered>();
  readonly #opened = new Map<string, Remembered>();

  constructor(service: EnvelopeService, key: string, cache: DataKeyCache | undefined) {
    this.#service = service;
    this.#key = key;
    this.#limits = cache && limitsOf(cache);
  }

  /** Returns a data key to encrypt so many bytes with. Rejects with what `generateDataKey` does. */
  forEncryption(
    context: m.EncryptionContext,
    bytes: number,
    signal?: AbortSignal,
  ): Promise<OpenDataKey> {
    const limits = this.#limits;
    if (limits === undefined) return this.#issue(context, signal);
    const id = idOf(context);
    const known = this.#issued.get(id);
    if (
      known !== undefined &&
      known.until > performance.now() &&
      known.messages < limits.maxMessages &&
      known.bytes + bytes <= limits.maxBytes
    ) {
      known.messages += 1;
      known.bytes += bytes;
      return untilAborted(known.dataKey, signal);
    }
    const issued = this.#remember(this.#issued, id, this.#issue(context), bytes, limits);
    return untilAborted(issued, signal);
  }

  /** Returns the data key of an envelope. Rejects with what `decrypt` does. */
  forDecryption(
    context: m.EncryptionContext,
    wrapped: Buffer,
    signal?: AbortSignal,
  ): Promise<OpenDataKey> {
    const limits = this.#limits;
    if (limits === undefined) return this.#open(context, wrapped, signal);
    const id = idOf(context) + wrapped.toString('latin1');
    const known = this.#opened.get(id);
    if (known !== undefined && known.until > performance.now())
      return untilAborted(known.dataKey, signal);
    const opened = this.#remember(this.#opened, id, this.#open(context, wrapped), 0, limits);
    return untilAborted(opened, signal);
  }

  /** Forgets every data key. */
  clear(): void {
    this.#issued.clear();
    this.#opened.clear();
  }

  #remember(
    among: Map<string, Remembered>,
    id: string,
    dataKey: Promise<OpenDataKey>,
    bytes: number,
    { maxAgeMs, maxDataKeys }: Required<DataKeyCache>,
  ): Promise<OpenDataKey> {
    const entry = { dataKey, until: performance.now() + maxAgeMs, messages: 1, bytes };
    among.delete(id);
    among.set(id, entry);
    const [oldest] = among.keys();
    if (among.size > maxDataKeys && oldest !== undefined) among.delete(oldest);
    dataKey.catch(() => {
      if (among.get(id) === entry) among.delete(id);
    });
    return dataKey;
  }

  async #issue(encryptionContext: m.EncryptionContext, signal?: AbortSignal): Promise<OpenDataKey> {
    const digest = contextDigest(encryptionContext);
    const request = { name: this.#key, encryptionContext };
    const issued = await this.#service.generateDataKey(request, { ...(signal && { signal }) });
    const { plaintext, wrappedDataKey: wrapped } = issued;
    return derived(plaintext, wrapped, digest);
  }

  async #open(
    encryptionContext: m.EncryptionContext,
    wrapped: Buffer,
    signal?: AbortSignal,
  ): Promise<OpenDataKey> {
    const digest = contextDigest(encryptionContext);
    const [parent = ''] = this.#key.split('/keys/');
    const request = { parent, key: this.#key, ciphertext: wrapped, encryptionContext };
    const { plaintext } = await this.#service.decrypt(request, { ...(signal && { signal }) });
    return derived(plaintext, Buffer.from(wrapped), digest);
  }
}

/**
 * Returns a text that is of this context alone: each text after its length, the entries in one
 * order. The context's digest would cost a quarter of an envelope of 1 KiB.
 */
function idOf(context: m.EncryptionContext): string {
  const entries: string[] = [];
  const add = (name: string, value: unknown) => {
    const text = String(value);
    entries.push(`${name.length}:${name}${text.length}:${text}`);
  };
  if (context instanceof Map) for (const [name, value] of context) add(name, value);
  else for (const name of Object.keys(context)) add(name, (context as Names)[name]);
  return entries.length > 1 ? entries.sort().join('') : (entries[0] ?? '');
}

type Names = Readonly<Record<string, string>>;

function derived(plaintext: Buffer, wrapped: Buffer, digest: Buffer): OpenDataKey {
  const keys = deriveKeys(plaintext);
  plaintext.fill(0);
  return { wrapped, keys, digest };
}

/** One caller's end is not that of the others who wait for the same data key. */
function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const abort = () => reject(cancelledBy(signal));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
