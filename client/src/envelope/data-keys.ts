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
import { boundValues, contextDigest, deriveKeys, type EnvelopeKeys, ownCopy } from './format.ts';

/** The calls that envelopes need of a client. */
export interface EnvelopeService {
  generateDataKey(
    request: m.GenerateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.GenerateDataKeyResponse>;
  decrypt(request: m.DecryptRequest, options?: CallOptions): Promise<m.DecryptResponse>;
  batchDecrypt(
    request: m.BatchDecryptRequest,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.DecryptResponse>[]>;
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
  /** What is authenticated beside a value, by the value's content. */
  readonly bound: ReturnType<typeof boundValues>;
}

/** What is known is given at once: turns of the event loop cost a value of 1 KiB a tenth. */
export type Soon<T> = T | Promise<T>;

interface Remembered {
  readonly dataKey: Promise<OpenDataKey>;
  /** The data key, once the service has answered. */
  open: OpenDataKey | undefined;
  readonly until: number;
}

/** By its context. */
interface Issued extends Remembered {
  messages: number;
  bytes: number;
}

/** By its ending, and then as a whole: a text to find it by would cost a tenth of a value. */
interface Opened extends Remembered {
  readonly wrapped: Buffer;
  readonly context: ReadonlyMap<string, string>;
}

const MAX_MESSAGES = 2 ** 32;
/** Of a wrapped data key, whose end is a tag: as many as a number holds precisely. */
const ENDING_BYTES = 6;

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
  readonly #issued = new Map<string, Issued>();
  readonly #opened = new Map<number, Opened>();

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
  ): Soon<OpenDataKey> {
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
      return givenBy(known, signal);
    }
    const issued = { ...begun(this.#issue(context), limits), messages: 1, bytes };
    remember(this.#issued, id, issued, limits);
    return givenBy(issued, signal);
  }

  /** Returns the data key of an envelope. Rejects with what `decrypt` does. */
  forDecryption(
    context: m.EncryptionContext,
    given: Buffer,
    signal?: AbortSignal,
  ): Soon<OpenDataKey> {
    const limits = this.#limits;
    // A copy: the envelope's memory is the caller's.
    const open = (abort?: AbortSignal) => this.#open(context, Buffer.from(given), abort);
    if (limits === undefined || given.length < ENDING_BYTES) return open(signal);
    const id = given.readUIntBE(given.length - ENDING_BYTES, ENDING_BYTES);
    const known = this.#opened.get(id);
    if (known !== undefined && known.until > performance.now())
      // One that only ends alike does not take its place.
      return isOf(known, given, context) ? givenBy(known, signal) : open(signal);
    const [wrapped, texts] = [ownCopy(given), copyOf(context)];
    const opened = { ...begun(open(), limits), wrapped, context: texts };
    remember(this.#opened, id, opened, limits);
    return givenBy(opened, signal);
  }

  /** Forgets every data key. */
  clear(): void {
    this.#issued.clear();
    this.#opened.clear();
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
    return derived(plaintext, wrapped, digest);
  }
}

function begun(dataKey: Promise<OpenDataKey>, { maxAgeMs }: Required<DataKeyCache>): Remembered {
  return { dataKey, open: undefined, until: performance.now() + maxAgeMs };
}

/** Adds one as the newest, in the place of the oldest. One that could not be had is forgotten. */
function remember<Id, Entry extends Remembered>(
  among: Map<Id, Entry>,
  id: Id,
  entry: Entry,
  { maxDataKeys }: Required<DataKeyCache>,
): void {
  among.delete(id);
  among.set(id, entry);
  for (const oldest of among.keys()) {
    if (among.size <= maxDataKeys) break;
    among.delete(oldest);
  }
  entry.dataKey.then(
    (open) => {
      entry.open = open;
    },
    () => {
      if (among.get(id) === entry) among.delete(id);
    },
  );
}

/** Returns whether this is what was opened, and its context. */
function isOf(known: Opened, wrapped: Buffer, context: m.EncryptionContext): boolean {
  const names = namesOf(context);
  if (names.length !== known.context.size) return false;
  for (const name of names) if (known.context.get(name) !== textOf(context, name)) return false;
  return known.wrapped.equals(wrapped);
}

/**
 * Returns a text that is of this context alone: each text after its length, the entries in one
 * order. The context's digest would cost a quarter of an envelope of 1 KiB.
 */
function idOf(context: m.EncryptionContext): string {
  const names = namesOf(context);
  if (names.length > 1) names.sort();
  let id = '';
  for (const name of names) {
    const text = textOf(context, name);
    id += `${name.length}:${name}${text.length}:${text}`;
  }
  return id;
}

function copyOf(context: m.EncryptionContext): ReadonlyMap<string, string> {
  return new Map(namesOf(context).map((name) => [name, textOf(context, name)]));
}

function namesOf(context: m.EncryptionContext): string[] {
  return context instanceof Map ? [...context.keys()] : Object.keys(context);
}

function textOf(context: m.EncryptionContext, name: string): string {
  return String(context instanceof Map ? context.get(name) : (context as Names)[name]);
}

type Names = Readonly<Record<string, string>>;

function derived(plaintext: Buffer, wrapped: Buffer, digest: Buffer): OpenDataKey {
  const keys = deriveKeys(plaintext);
  plaintext.fill(0);
  return { wrapped: ownCopy(wrapped), keys, digest, bound: boundValues(keys.commitment, digest) };
}

function givenBy({ open, dataKey }: Remembered, signal?: AbortSignal): Soon<OpenDataKey> {
  return open !== undefined && !signal?.aborted ? open : untilAborted(dataKey, signal);
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
