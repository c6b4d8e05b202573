/**
 * Envelope encryption: values of any kind and streams of any length, encrypted here under data keys
 * that the service issues and opens.
 *
 *     const box = keyward.envelope({ key: 'tenants/acme/keys/orders' });
 *     const bytes = await box.encrypt({ card: '4111…' }, { context: { customer: 'c-7' } });
 *     const value = await box.decrypt(bytes, { context: { customer: 'c-7' } });
 *
 * Owns what is bound to what: an envelope opens under its context and associated data alone. The
 * bytes are in `format.ts` and `stream.ts`, the data keys in `data-keys.ts`.
 */
import { randomFillSync } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type * as m from '../messages.ts';
import {
  type DataKeyCache,
  DataKeys,
  type EnvelopeService,
  type OpenDataKey,
} from './data-keys.ts';
import { EnvelopeError } from './errors.ts';
import {
  CONTENT,
  headerOf,
  IV_BYTES,
  open,
  readHeader,
  requireCommitted,
  seal,
  type ValueContent,
} from './format.ts';
import { StreamDecryption, StreamEncryption } from './stream.ts';

/** Under which key, and how long data keys are remembered. */
export interface EnvelopeOptions {
  /** `tenants/{tenant}/keys/{key}`. */
  readonly key: string;
  /** Without it every value has a data key of its own, and opening one asks the service. */
  readonly cache?: DataKeyCache;
}

/** What an envelope is bound to. */
export interface Binding {
  /** As for `encrypt`: in the service's audit log, and what its role bindings can ask for. */
  readonly context?: m.EncryptionContext;
  /** What else it is bound to, which the service does not see: not secret, not in the envelope. */
  readonly associatedData?: string | Uint8Array;
  /** Ends the wait for the data key: it rejects with `CANCELLED`. */
  readonly signal?: AbortSignal;
}

/** Which fields of a record are encrypted, and which record it is. */
export interface FieldOptions<Field extends string> extends Pick<Binding, 'context' | 'signal'> {
  readonly fields: readonly Field[];
  /** The record's own id: a field that is moved to another record does not open. */
  readonly id: string | number | bigint;
}

/** What became of an envelope whose data key was to be wrapped anew. */
export type Rewrapped = { readonly envelope: Buffer } | { readonly error: Error };

/** Whether the data key of an envelope opens, and why not. */
export type Opening = { readonly opens: true } | { readonly error: Error };

/** Encrypts, decrypts and re-wraps, under one key of the service. */
export class Envelope {
  readonly #service: EnvelopeService;
  readonly #key: string;
  readonly #dataKeys: DataKeys;

  /** Throws a TypeError for what is no key's name, and a RangeError for limits without sense. */
  constructor(service: EnvelopeService, { key, cache }: EnvelopeOptions) {
    if (!/^tenants\/[^/]+\/keys\/[^/]+$/.test(key))
      throw new TypeError(`key must be tenants/{tenant}/keys/{key}, not ${JSON.stringify(key)}`);
    this.#service = service;
    this.#key = key;
    this.#dataKeys = new DataKeys(service, key, cache);
  }

  /**
   * Encrypts bytes, a text, or anything that JSON can hold, AES-256-GCM. Rejects as
   * `generateDataKey`, and with a TypeError for what JSON cannot hold.
   */
  async encrypt(
    value: unknown,
    { context = {}, associatedData, signal }: Binding = {},
  ): Promise<Buffer> {
    const { content, plaintext } = encoded(value);
    const soon = this.#dataKeys.forEncryption(context, plaintext.length, signal);
    const dataKey = soon instanceof Promise ? await soon : soon;
    const { wrapped, keys } = dataKey;
    const iv = newIv();
    const sealed = seal(keys.key, iv, bound(content, dataKey, associatedData), plaintext);
    return Buffer.concat([headerOf(content, wrapped, keys.commitment), iv, ...sealed]);
  }

  /**
   * Decrypts what {@link encrypt} has returned, to what was given there: bytes as a Buffer, a text,
   * or a value of JSON, whose type the caller knows. Rejects with an `EnvelopeError` for what was
   * changed or belongs elsewhere, and as `decrypt` of the client.
   */
  async decrypt<Value = unknown>(
    envelope: Uint8Array,
    { context = {}, associatedData, signal }: Binding = {},
  ): Promise<Value> {
    const bytes = asBuffer(envelope);
    const header = readHeader(bytes);
    if (header === undefined) throw new EnvelopeError('MALFORMED');
    if (header.content === CONTENT.stream) throw new EnvelopeError('WRONG_CONTENT');
    const soon = this.#dataKeys.forDecryption(context, header.wrapped, signal);
    const dataKey = soon instanceof Promise ? await soon : soon;
    requireCommitted(dataKey.keys, header);
    const begin = header.end + IV_BYTES;
    const iv = bytes.subarray(header.end, begin);
    const data = bound(header.content, dataKey, associatedData);
    return decoded(header.content, open(dataKey.keys.key, iv, data, bytes, begin)) as Value;
  }

  /**
   * Returns the record with these fields encrypted, each bound to the record's id and its own name;
   * fields that are null or undefined stay so. Rejects as {@link encrypt}.
   */
  async encryptFields<T extends object, Field extends keyof T & string>(
    record: T,
    { fields, id, ...binding }: FieldOptions<Field>,
  ): Promise<Omit<T, Field> & Record<Field, Buffer | null | undefined>> {
    return this.#eachField(record, fields, (value, field) =>
      this.encrypt(value, { ...binding, associatedData: fieldData(id, field) }),
    );
  }

  /** Returns the record with these fields decrypted. Rejects as {@link decrypt}. */
  async decryptFields<T extends object, Field extends keyof T & string>(
    record: T,
    { fields, id, ...binding }: FieldOptions<Field>,
  ): Promise<Omit<T, Field> & Record<Field, unknown>> {
    return this.#eachField(record, fields, (value, field) => {
      if (!(value instanceof Uint8Array))
        throw new TypeError(`the field ${field} must be bytes to be decrypted`);
      return this.decrypt(value, { ...binding, associatedData: fieldData(id, field) });
    });
  }

  async #eachField<T extends object, Field extends keyof T & string, Result>(
    record: T,
    fields: readonly Field[],
    work: (value: NonNullable<T[Field]>, field: Field) => Promise<Result>,
  ): Promise<Omit<T, Field> & Record<Field, Result | null | undefined>> {
    const entries = fields.map(async (field) => {
      const value = record[field];
      const absent = value as null | undefined;
      return [field, value == null ? absent : await work(value, field)] as const;
    });
    const changed = Object.fromEntries(await Promise.all(entries)) as Record<Field, Result>;
    return { ...record, ...changed };
  }

  /**
   * Returns a stream that encrypts what is written to it, in constant memory. It fails as
   * {@link encrypt}.
   */
  encryptStream({ context = {}, signal }: Pick<Binding, 'context' | 'signal'> = {}): Duplex {
    return new StreamEncryption(() => this.#dataKeys.forEncryption(context, 0, signal));
  }

  /**
   * Returns a stream that decrypts what {@link encryptStream} has made. What it gives out was
   * verified; that all of it came is known only when it ends without an error. It fails as
   * {@link decrypt}.
   */
  decryptStream({ context = {}, signal }: Pick<Binding, 'context' | 'signal'> = {}): Duplex {
    return new StreamDecryption((wrapped) =>
      this.#dataKeys.forDecryption(context, wrapped, signal),
    );
  }

  /**
   * Brings the data keys of envelopes that the caller keeps, values or beginnings of streams with
   * their whole header, under the key's primary version, in batches and in their order. Nothing of
   * the content is decrypted, and only the wrapped data key in it changes.
   */
  async *rewrap(
    envelopes: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    binding: Pick<Binding, 'context' | 'signal'> = {},
  ): AsyncGenerator<Rewrapped, void, undefined> {
    for await (const batch of inBatches(envelopes)) yield* await this.#rewrapBatch(batch, binding);
  }

  async #rewrapBatch(
    batch: readonly Buffer[],
    { context = {}, signal }: Pick<Binding, 'context' | 'signal'>,
  ): Promise<Rewrapped[]> {
    const headers = batch.map((bytes) => {
      const header = readHeader(bytes);
      if (header === undefined) throw new EnvelopeError('MALFORMED');
      return { header, rest: bytes.subarray(header.end) };
    });
    const [parent = ''] = this.#key.split('/keys/');
    const requests = headers.map(({ header }) => ({
      name: this.#key,
      ciphertext: header.wrapped,
      sourceEncryptionContext: context,
      destinationEncryptionContext: context,
    }));
    const options = { ...(signal && { signal }) };
    const results = await this.#service.batchReEncrypt({ parent, requests }, options);
    return headers.map(({ header: { content, commitment }, rest }, index) => {
      const result = results[index];
      if (result === undefined) throw new Error('the service left an item out');
      if ('error' in result) return result;
      const { ciphertext } = result.response;
      return { envelope: Buffer.concat([headerOf(content, ciphertext, commitment), rest]) };
    });
  }

  /**
   * Asks whether the data keys of envelopes, values or beginnings of streams with their whole
   * header, open under the key and the context, in batches and in their order. It tells nothing of
   * the content, which can have been changed. Rejects as `batchDecrypt`.
   */
  async *opening(
    envelopes: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    binding: Pick<Binding, 'context' | 'signal'> = {},
  ): AsyncGenerator<Opening, void, undefined> {
    for await (const batch of inBatches(envelopes)) yield* await this.#openBatch(batch, binding);
  }

  async #openBatch(
    batch: readonly Buffer[],
    { context = {}, signal }: Pick<Binding, 'context' | 'signal'>,
  ): Promise<Opening[]> {
    const wrapped = batch.map(wrappedIn);
    const [parent = ''] = this.#key.split('/keys/');
    const requests = wrapped
      .filter((each) => Buffer.isBuffer(each))
      .map((ciphertext) => ({ key: this.#key, parent, ciphertext, encryptionContext: context }));
    const options = { ...(signal && { signal }) };
    const asked =
      requests.length === 0 ? [] : await this.#service.batchDecrypt({ parent, requests }, options);
    const results = asked.values();
    return wrapped.map((each) => {
      if (!Buffer.isBuffer(each)) return { error: each };
      const { value: result } = results.next();
      if (result === undefined) throw new Error('the service left an item out');
      if ('error' in result) return result;
      result.response.plaintext.fill(0);
      return { opens: true };
    });
  }

  /** Forgets the data keys that are remembered. */
  clear(): void {
    this.#dataKeys.clear();
  }
}

/** So many are sent in one call. */
const AT_ONCE = 100;

/** Yields copies, as the memory of what is iterated over is the caller's. */
async function* inBatches(
  envelopes: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
): AsyncGenerator<Buffer[]> {
  let batch: Buffer[] = [];
  for await (const envelope of envelopes) {
    if (batch.push(Buffer.from(envelope)) < AT_ONCE) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

/** Returns the wrapped data key, or why there is none. */
function wrappedIn(envelope: Buffer): Buffer | EnvelopeError {
  try {
    return readHeader(envelope)?.wrapped ?? new EnvelopeError('MALFORMED');
  } catch (error) {
    return error as EnvelopeError;
  }
}

/** Of values that no text of a caller's is: what a field is bound to. */
function fieldData(id: string | number | bigint, field: string): string {
  return JSON.stringify(['field', `${id}`, field]);
}

function asBuffer(bytes: Uint8Array): Buffer {
  if (Buffer.isBuffer(bytes)) return bytes;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function bound(
  content: ValueContent,
  dataKey: OpenDataKey,
  associatedData: string | Uint8Array | undefined,
): Buffer {
  const always = dataKey.bound[content];
  if (associatedData === undefined) return always;
  return Buffer.concat([always, Buffer.from(associatedData as string)]);
}

interface Encoded {
  readonly content: ValueContent;
  readonly plaintext: Uint8Array;
}

function encoded(value: unknown): Encoded {
  if (value instanceof Uint8Array) return { content: CONTENT.bytes, plaintext: value };
  if (typeof value === 'string') return { content: CONTENT.text, plaintext: Buffer.from(value) };
  const json = JSON.stringify(value);
  if (json === undefined) throw new TypeError('the value is none that JSON can hold');
  return { content: CONTENT.json, plaintext: Buffer.from(json) };
}

function decoded(content: ValueContent, plaintext: Buffer): unknown {
  if (content === CONTENT.bytes) return plaintext;
  const text = plaintext.toString();
  return content === CONTENT.text ? text : JSON.parse(text);
}

/** Random bytes are drawn for many IVs at once: a call of its own for each costs a microsecond. */
const pool = Buffer.alloc(IV_BYTES * 512);
let used = pool.length;

function newIv(): Buffer {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  const iv = Buffer.from(pool.subarray(used, used + IV_BYTES));
  used += IV_BYTES;
  return iv;
}
