/**
 * Fetches and refreshes the keys of issuers.
 *
 * - A key that left its set is not found after 60 seconds, unless the endpoint is down: then the
 *   last set is used for at most ten minutes.
 * - An endpoint gets one request at a time, and because of unknown keys at most one in {@link
 *   COOL_DOWN_MS}.
 * - Answers are bounded in time and size, and redirects are not followed.
 */
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { request as requestHttps } from 'node:https';
import type { Logger } from 'pino';
import { KeywardError } from '../errors.ts';
import { request as requestHttp } from '../node-http.ts';
import type { Issuer, KeySource } from './issuers.ts';
import { type PublicKey, type PublicKeys, readKeySet } from './public-keys.ts';
import { WatchedFile } from './watched-file.ts';

/** How often an issuer's keys were asked for at their URL. */
export interface KeyFetches {
  readonly issuer: string;
  readonly done: number;
  readonly failed: number;
}

/** The keys of one issuer. */
export interface KeySet {
  /**
   * The key of that id, which is undefined if there is none; later, when the endpoint has to be
   * asked first. Rejects with ISSUER_UNAVAILABLE while nothing is known that may be relied on.
   */
  find(kid: string): PublicKey | undefined | Promise<PublicKey | undefined>;
  /** How often its keys were fetched, and could not be; absent where they come from a file. */
  readonly fetches?: KeyFetches;
  /** Ends what it does by itself. */
  stop(): void;
}

/** What key sets need. */
export interface KeySetParts {
  readonly log: Logger;
  /** Milliseconds of a clock that only goes forward. */
  readonly now: () => number;
}

/** From this age on a set in use is fetched anew, in the background. */
const REFRESH_MS = 30_000;
/**
 * From this age on nothing is answered before it is fetched anew, unless the endpoint is known to
 * be down.
 */
const MAX_AGE_MS = 55_000;
/** What was fetched last serves for so long while the endpoint is down. */
const OUTAGE_MS = 600_000;
/** An endpoint that was asked this lately isn't asked for an unknown key again. */
const COOL_DOWN_MS = 5_000;
/** An endpoint that failed this lately isn't asked at all. */
const RETRY_MS = 1_000;
const FETCH_MS = 4_000;
const MAX_SET_BYTES = 262_144;

/** The keys of that issuer. Throws when its file doesn't load. */
export function openKeySet(issuer: Issuer, parts: KeySetParts): KeySet {
  const { keys } = issuer;
  return 'file' in keys
    ? new FileKeySet(issuer, keys.file, parts)
    : new RemoteKeySet(issuer, keys, parts);
}

class FileKeySet implements KeySet {
  readonly stop: () => void;
  readonly #file: WatchedFile<PublicKeys>;

  constructor({ name, algorithms }: Issuer, path: string, { log }: KeySetParts) {
    let before: PublicKeys | undefined;
    this.#file = new WatchedFile(path, (text) => {
      before = readKeySet(Buffer.from(text), algorithms, before);
      return before;
    });
    this.stop = this.#file.watch(
      () => logKeys(log, name, this.#file.value),
      (err) =>
        log.error(
          { err, issuer: name },
          'cannot reload an issuer’s keys; the old ones stay in use',
        ),
    );
  }

  find(kid: string): PublicKey | undefined {
    return this.#file.value.get(kid);
  }
}

class RemoteKeySet implements KeySet {
  readonly #issuer: Issuer;
  readonly #source: Extract<KeySource, { url: string }>;
  readonly #parts: KeySetParts;
  #keys: PublicKeys = new Map();
  /** When what is known was asked for: it is as old as that. */
  #askedAt = Number.NEGATIVE_INFINITY;
  #triedAt = Number.NEGATIVE_INFINITY;
  #isDown = false;
  #fetching: Promise<void> | undefined;
  #done = 0;
  #failed = 0;

  constructor(issuer: Issuer, source: Extract<KeySource, { url: string }>, parts: KeySetParts) {
    this.#issuer = issuer;
    this.#source = source;
    this.#parts = parts;
  }

  find(kid: string): PublicKey | undefined | Promise<PublicKey | undefined> {
    const now = this.#parts.now();
    const age = now - this.#askedAt;
    if (age >= REFRESH_MS) this.#refresh(RETRY_MS);
    const isUsable = age < MAX_AGE_MS || (this.#isDown && age < OUTAGE_MS);
    if (!isUsable) return this.#afterFetch(kid);
    const key = this.#keys.get(kid);
    if (key !== undefined) return key;
    this.#refresh(this.#isDown ? RETRY_MS : COOL_DOWN_MS);
    return this.#fetching?.then(() => this.#keys.get(kid));
  }

  get fetches(): KeyFetches {
    return { issuer: this.#issuer.name, done: this.#done, failed: this.#failed };
  }

  stop(): void {}

  async #afterFetch(kid: string): Promise<PublicKey | undefined> {
    await this.#fetching;
    const age = this.#parts.now() - this.#askedAt;
    if (age >= OUTAGE_MS) throw new KeywardError('ISSUER_UNAVAILABLE');
    return this.#keys.get(kid);
  }

  /**
   * Begins to fetch the set, unless that was tried less than `pauseMs` ago or is under way. Never
   * rejects.
   */
  #refresh(pauseMs: number): void {
    const now = this.#parts.now();
    if (this.#fetching !== undefined || now - this.#triedAt < pauseMs) return;
    this.#triedAt = now;
    this.#fetching = this.#fetch(now).finally(() => {
      this.#fetching = undefined;
    });
  }

  async #fetch(askedAt: number): Promise<void> {
    const { log } = this.#parts;
    const { name, algorithms } = this.#issuer;
    try {
      const keys = readKeySet(await download(this.#source), algorithms, this.#keys);
      const isNew =
        keys.size !== this.#keys.size ||
        [...keys].some(([kid, key]) => this.#keys.get(kid) !== key);
      this.#keys = keys;
      this.#askedAt = askedAt;
      this.#done += 1;
      this.#isDown = false;
      if (isNew) logKeys(log, name, keys);
    } catch (err) {
      this.#failed += 1;
      if (!this.#isDown) log.error({ err, issuer: name }, 'cannot fetch an issuer’s keys');
      this.#isDown = true;
    }
  }
}

function logKeys(log: Logger, issuer: string, keys: PublicKeys): void {
  log.info({ issuer, keys: [...keys.keys()] }, 'an issuer’s keys');
}

/** The token in a file, which another program may renew. Throws for a file without one. */
async function bearerIn(file: string): Promise<string> {
  const token = (await readFile(file, 'utf8')).trim();
  if (!/^[\w.~+/-]+=*$/.test(token)) throw new Error(`${file} has no token`);
  return token;
}

/** The body of a plain 200, within {@link FETCH_MS} and {@link MAX_SET_BYTES}. */
async function download(source: Extract<KeySource, { url: string }>): Promise<Buffer> {
  const { url, ca, tokenFile } = source;
  const signal = AbortSignal.timeout(FETCH_MS);
  const headers = {
    accept: 'application/jwk-set+json, application/json',
    ...(tokenFile !== undefined && { authorization: `Bearer ${await bearerIn(tokenFile)}` }),
  };
  const options = { signal, headers, agent: false, ...(ca === undefined ? {} : { ca }) };
  const request = url.startsWith('https:') ? requestHttps(url, options) : requestHttp(url, options);
  // What is thrown below says it too; after that it is nobody's.
  request.on('error', () => {});
  request.end();
  const [response] = await once(request, 'response', { signal });
  try {
    if (response.statusCode !== 200)
      throw new Error(`the answer’s status is ${response.statusCode}`);
    const chunks: Buffer[] = [];
    let bytes = 0;
    for await (const chunk of response) {
      bytes += chunk.length;
      if (bytes > MAX_SET_BYTES) throw new Error('the answer is too large');
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  } finally {
    request.destroy();
  }
}
