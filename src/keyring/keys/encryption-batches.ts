/**
 * What callers do with keys, many times at once: as `encryption.ts` does it, with one call of an
 * agent for all items of a key version.
 *
 * Invariants: an item's outcome is what the same call alone would have had, and no item has an
 * effect on another's; each version is looked up once; each use is counted once it has succeeded.
 */
import type { AuditNotes, Call } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { type CiphertextHeader, epochNameOf } from '../../hsm/ciphertext.ts';
import { ITEM_OUTCOME } from '../../hsm/protocol.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { TenantId } from '../../ids.ts';
import { formatKeyName, formatKeyVersionName, type KeyName, parseKeyName } from '../../names.ts';
import {
  type EncryptionParts,
  headerOf,
  type Resealed,
  requireKey,
  requireVersion,
  type Sealed,
  type Source,
} from './encryption.ts';
import { contextDigest, type EncryptionContext } from './encryption-context.ts';
import type { KeyCache, LoadedKey, LoadedVersion } from './key-cache.ts';
import { answerOf, inGroups, loadEach, type Outcome, outcomeOf, settled } from './outcomes.ts';
import { findPrimary } from './usable.ts';
import type { UsageRecorder } from './usage.ts';

/** What is sealed together shares an epoch. */
const SEALED = 'sealed';

/** One of many requests, and what its part of the audit entry is to say. */
export interface Item<Request> {
  readonly request: Request;
  readonly notes: Pick<AuditNotes, 'keyVersion' | 'sourceKeyVersion'>;
}

/** A version that may be used, with the names of its key and of itself. */
interface Usable {
  readonly key: KeyName;
  readonly loaded: LoadedVersion;
  readonly version: number;
  readonly versionName: string;
}

type Keyed = { readonly name: KeyName; readonly context: EncryptionContext };

/** Encrypts, decrypts, re-encrypts and issues data keys, many at once. */
export class EncryptionBatches {
  readonly #agents: Agents;
  readonly #cache: KeyCache;
  readonly #usage: UsageRecorder;

  constructor({ agents, cache, usage }: EncryptionParts) {
    this.#agents = agents;
    this.#cache = cache;
    this.#usage = usage;
  }

  /** Encrypts up to 64 KiB each under the keys' primary versions. */
  async encrypt(
    call: Call,
    items: readonly Item<Keyed & { readonly plaintext: Buffer }>[],
  ): Promise<Outcome<Sealed>[]> {
    const primaryOf = await this.#primaries(items);
    const digestOf = digests();
    return inGroups(
      items,
      ({ request: { name, context, plaintext }, notes }) => ({
        ...{ group: primaryOf(name), bytes: plaintext.length, derivation: SEALED, notes },
        item: { contextDigest: digestOf(context), plaintext },
      }),
      async ({ loaded, version, versionName }, members) => {
        const request = { keyVersion: loaded.sealed, items: members.map(({ item }) => item) };
        const { ciphertexts } = await this.#agents.call('sealAll', request, call.deadline);
        this.#usage.countEncrypted(call, loaded, members.length);
        for (const { notes } of members) notes.keyVersion = versionName;
        return ciphertexts.map((ciphertext) => ({ answer: { ciphertext, version } }));
      },
    );
  }

  /** Issues data keys of `length` bytes. */
  async generateDataKeys(
    call: Call,
    items: readonly Item<Keyed & { readonly length: number }>[],
  ): Promise<Outcome<Sealed & { readonly plaintext: Buffer }>[]> {
    const primaryOf = await this.#primaries(items);
    const digestOf = digests();
    return inGroups(
      items,
      ({ request: { name, context, length }, notes }) => ({
        // Each is drawn from the token's generator.
        ...{ group: primaryOf(name), bytes: length, derivation: undefined, notes },
        item: { contextDigest: digestOf(context), length },
      }),
      async ({ loaded, version, versionName }, members) => {
        const request = { keyVersion: loaded.sealed, items: members.map(({ item }) => item) };
        const { dataKeys } = await this.#agents.call('issueDataKeys', request, call.deadline);
        this.#usage.countEncrypted(call, loaded, members.length);
        for (const { notes } of members) notes.keyVersion = versionName;
        return dataKeys.map((dataKey) => ({ answer: { ...dataKey, version } }));
      },
    );
  }

  /** Opens payloads and data keys. What doesn't open is DECRYPTION_FAILED. */
  async decrypt(
    call: Call,
    items: readonly Item<Source>[],
  ): Promise<
    Outcome<{ readonly plaintext: Buffer; readonly key: KeyName; readonly version: number }>[]
  > {
    const sourceOf = await this.#sources(items.map(({ request }) => request));
    const digestOf = digests();
    return inGroups(
      items,
      ({ request, notes }) => ({
        ...{ group: sourceOf(request), bytes: request.ciphertext.length, notes },
        derivation: epochNameOf(request.ciphertext),
        item: { contextDigest: digestOf(request.context), ciphertext: request.ciphertext },
      }),
      async ({ key, loaded, version, versionName }, members) => {
        const request = { keyVersion: loaded.sealed, items: members.map(({ item }) => item) };
        const { results } = await this.#agents.call('openAll', request, call.deadline);
        this.#usage.countDecrypted(call, loaded, doneOf(results));
        return outcomesOf(results, members, ({ plaintext }, { notes }) => {
          notes.keyVersion = versionName;
          return { plaintext, key, version };
        });
      },
    );
  }

  /** Brings ciphertexts under keys' primary versions and other contexts. */
  async reEncrypt(
    call: Call,
    items: readonly Item<Keyed & { readonly source: Source }>[],
  ): Promise<Outcome<Resealed>[]> {
    const sourceOf = await this.#sources(items.map(({ request }) => request.source));
    const primaryOf = await this.#primaries(items);
    const digestOf = digests();
    const pairOf = pairs<Usable>();
    return inGroups(
      items,
      ({ request: { source, name, context }, notes }) => ({
        // In the order in which the call alone looks.
        ...{ group: pairOf(sourceOf(source), primaryOf(name)), notes },
        bytes: source.ciphertext.length,
        derivation: epochNameOf(source.ciphertext),
        item: {
          sourceContextDigest: digestOf(source.context),
          contextDigest: digestOf(context),
          ciphertext: source.ciphertext,
        },
      }),
      async ([source, primary], members) => {
        const request = {
          sourceKeyVersion: source.loaded.sealed,
          keyVersion: primary.loaded.sealed,
          items: members.map(({ item }) => item),
        };
        const { results } = await this.#agents.call('resealAll', request, call.deadline);
        this.#usage.countDecrypted(call, source.loaded, doneOf(results));
        this.#usage.countEncrypted(call, primary.loaded, doneOf(results));
        return outcomesOf(results, members, ({ ciphertext }, { notes }) => {
          notes.sourceKeyVersion = source.versionName;
          notes.keyVersion = primary.versionName;
          const { version } = primary;
          return { ciphertext, version, sourceKey: source.key, sourceVersion: source.version };
        });
      },
    );
  }

  /** Finds the primary versions of keys. What it returns throws as {@link findPrimary}. */
  async #primaries(items: readonly Item<Keyed>[]): Promise<(name: KeyName) => Usable> {
    const texts = items.map(({ request }) => formatKeyName(request.name));
    const primaryOf = await loadEach(texts, async (text) => {
      const name = parseKeyName(text) as KeyName;
      return usable(name, await findPrimary(this.#cache, name));
    });
    return (name) => primaryOf(formatKeyName(name));
  }

  /**
   * Finds the versions that ciphertexts of one tenant name. Throws what finding the tenant throws;
   * what it returns throws as Decrypt does before an agent is asked.
   */
  async #sources(sources: readonly Source[]): Promise<(source: Source) => Usable> {
    const [{ parent } = { parent: { tenant: '' } }] = sources;
    const tenant = await this.#cache.tenant(parent.tenant);
    const headers = new Map<string, CiphertextHeader>();
    const namedBy = new Map<Source, Outcome<string>>();
    for (const source of sources) {
      const named = outcomeOf(() => {
        const header = headerOf(source);
        const text = `${header.keyId}/${header.version}`;
        headers.set(text, header);
        return text;
      });
      namedBy.set(source, named);
    }
    const foundBy = await loadEach(headers.keys(), (text) =>
      this.#find(tenant.tenantId, headers.get(text) as CiphertextHeader),
    );
    return (source) => {
      const found = foundBy(answerOf(namedBy.get(source)));
      const { key, name } = requireKey(source, answerOf(found.key));
      found.usable ??= outcomeOf(() =>
        usable(name, requireVersion(tenant, key, answerOf(found.version))),
      );
      return answerOf(found.usable);
    };
  }

  /** Never rejects: whether an item's caller learns of a failure depends on the item. */
  async #find(tenantId: TenantId, header: CiphertextHeader): Promise<Found> {
    const key = await settled(this.#cache.key(tenantId, header.keyId));
    const loaded = 'answer' in key ? key.answer : undefined;
    const version = await settled(
      loaded === undefined
        ? Promise.resolve(undefined)
        : this.#cache.version(loaded, header.version),
    );
    return { key, version };
  }
}

/** What a ciphertext's header led to. */
interface Found {
  readonly key: Outcome<LoadedKey | undefined>;
  readonly version: Outcome<LoadedVersion | undefined>;
  /** What became of the version, once an item was allowed the key. */
  usable?: Outcome<Usable>;
}

function usable(key: KeyName, loaded: LoadedVersion): Usable {
  const { version } = loaded.record;
  return { key, loaded, version, versionName: formatKeyVersionName(key, version) };
}

/** Returns how many of an agent's results are good. */
function doneOf(results: readonly { readonly outcome: number }[]): number {
  return results.filter(({ outcome }) => outcome === ITEM_OUTCOME.done).length;
}

/** Returns each result's outcome: DECRYPTION_FAILED, or what `answer` makes of it. */
function outcomesOf<Result extends { readonly outcome: number }, Member, Answer>(
  results: readonly Result[],
  members: readonly Member[],
  answer: (result: Result, member: Member) => Answer,
): Outcome<Answer>[] {
  return results.map((result, place) =>
    result.outcome === ITEM_OUTCOME.done
      ? { answer: answer(result, members[place] as Member) }
      : { error: new KeywardError('DECRYPTION_FAILED') },
  );
}

/** Returns what digests contexts, of which many items may have the same. */
function digests(): (context: EncryptionContext) => Buffer {
  const known = new Map<EncryptionContext, Buffer>();
  return (context) => {
    let digest = known.get(context);
    if (digest === undefined) {
      digest = contextDigest(context);
      known.set(context, digest);
    }
    return digest;
  };
}

/** Returns what makes pairs, of the same two things the same pair. */
function pairs<T>(): (first: T, second: T) => readonly [T, T] {
  const known = new Map<T, Map<T, readonly [T, T]>>();
  return (first, second) => {
    const bySecond = known.get(first) ?? new Map<T, readonly [T, T]>();
    known.set(first, bySecond);
    const pair = bySecond.get(second) ?? ([first, second] as const);
    bySecond.set(second, pair);
    return pair;
  };
}
