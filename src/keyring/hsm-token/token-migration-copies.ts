/**
 * Copying key versions under the next token's keys: what two agents carry across, and which
 * versions are still to be.
 *
 * Invariants: a version that doesn't verify is returned, not copied; one under a key that was
 * recorded since the agents were opened waits for others that know it; material passes between the
 * tokens only wrapped (`hsm/key-mover.ts`). When the copies take the rows' place is
 * `token-migration.ts`'s.
 */
import { KeyMover } from '../../hsm/key-mover.ts';
import type { MoveSettings } from '../../hsm/protocol.ts';
import type { TokenProfile, TransportKind } from '../../hsm/token-profile.ts';
import type { TokenId } from '../../ids.ts';
import type { EnvironmentRecord } from '../../store/environment.ts';
import { BEGINNING, readUncopied, writeCopies } from '../../store/hsm-token/moved-key-versions.ts';
import type { TokenRecord } from '../../store/hsm-token/tokens.ts';
import type {
  KeyVersionToRewrap,
  RewrappedKeyVersion,
} from '../../store/lifecycle/rewrapped-key-versions.ts';
import { type MigrationParts, objectsIn } from './token-migration-situation.ts';
import { tokenObjectsOf } from './token-objects.ts';

/** So many versions go to an agent at once. */
const BATCH = 200;
const PROGRESS_MS = 2_000;

/** How key versions travel, for operators. */
export const TRANSPORT_WORDS: Readonly<Record<TransportKind, string>> = {
  'aes-key-wrap':
    'AES key wrap by an AES-256 transport key, which RSA-OAEP under a 3072-bit key moves once',
  'rsa-oaep':
    'RSA-OAEP under a 3072-bit key, for each key version, as the tokens share no AES key wrap',
};

/** Copies key versions under the next token's keys. */
export class KeyVersionCopies implements Disposable {
  readonly #parts: MigrationParts;
  readonly #environment: EnvironmentRecord;
  readonly #next: TokenRecord;
  #mover: KeyMover | undefined;
  /** The objects that the mover was opened with. */
  #known = '';
  #source: ReadonlySet<string> = new Set();

  constructor(parts: MigrationParts, environment: EnvironmentRecord, next: TokenRecord) {
    this.#parts = parts;
    this.#environment = environment;
    this.#next = next;
  }

  /** Opens both tokens, anew when one has other objects than it had. */
  async open(): Promise<void> {
    const { owner, current, next, say } = this.#parts;
    const { environmentId, tokenProfile, currentToken } = this.#environment;
    const end = async (tokenId: TokenId, profile: unknown): Promise<MoveSettings> => ({
      environmentId,
      profile: profile as TokenProfile,
      objects: tokenObjectsOf(await objectsIn(owner, tokenId)).map(requireExpected),
    });
    const ends = {
      source: await end(currentToken.tokenId, tokenProfile),
      target: await end(this.#next.tokenId, this.#next.profile),
    };
    const known = JSON.stringify(ends);
    if (known === this.#known) return;
    const isFirst = this.#mover === undefined;
    this.#mover?.[Symbol.dispose]();
    this.#mover = await KeyMover.open(
      { settings: ends.source, starter: current },
      { settings: ends.target, starter: next },
    );
    this.#known = known;
    this.#source = new Set(ends.source.objects.map(({ objectId }) => objectId));
    if (isFirst) say(`moving key versions by ${TRANSPORT_WORDS[this.#mover.kind]}`);
  }

  /** Copies every version that has no up-to-date copy; returns those that don't verify. */
  async copyAll(): Promise<KeyVersionToRewrap[]> {
    const { owner, say } = this.#parts;
    const { tokenId } = this.#next;
    const corrupt: KeyVersionToRewrap[] = [];
    let copied = 0;
    let saidAt = performance.now();
    for (let after = BEGINNING; ; ) {
      const { versions, last } = await readUncopied(owner, tokenId, after, BATCH);
      if (last === undefined) break;
      after = last;
      if (versions.length === 0) continue;
      const bad = await this.copy(versions);
      corrupt.push(...bad);
      copied += versions.length - bad.length;
      if (performance.now() - saidAt < PROGRESS_MS) continue;
      saidAt = performance.now();
      say(`copied ${copied} key versions so far`);
    }
    if (copied > 0) say(`copied ${copied} key versions`);
    return corrupt;
  }

  /**
   * Copies these; returns those that don't verify. Those under keys that are newer than the mover
   * wait for another one.
   */
  async copy(read: readonly KeyVersionToRewrap[]): Promise<KeyVersionToRewrap[]> {
    const newer = await this.#newerThanMover(read);
    const versions = read.filter(
      ({ record }) => !newer.has(record.rootKeyId) && !newer.has(record.sealKeyId),
    );
    const [first] = versions;
    if (first === undefined || this.#mover === undefined) return [];
    const moves = versions.map(({ record, rootKeyId }) => ({ version: record, rootKeyId }));
    // There is one seal key for all tenants.
    const moved = await this.#mover.move(moves, first.sealKeyId);
    const copies: RewrappedKeyVersion[] = [];
    const corrupt: KeyVersionToRewrap[] = [];
    for (const [index, version] of versions.entries()) {
      const after = moved[index];
      if (after === undefined) corrupt.push(version);
      else copies.push({ before: version.record, after });
    }
    await writeCopies(this.#parts.owner, copies);
    return corrupt;
  }

  [Symbol.dispose](): void {
    this.#mover?.[Symbol.dispose]();
  }

  /** Keys that these are under, and that were recorded since the mover was opened. */
  async #newerThanMover(versions: readonly KeyVersionToRewrap[]): Promise<ReadonlySet<string>> {
    const keys = versions.flatMap(({ record }) => [record.rootKeyId, record.sealKeyId] as string[]);
    const unknown = new Set(keys.filter((key) => !this.#source.has(key)));
    if (unknown.size === 0) return unknown;
    const recorded = await objectsIn(this.#parts.owner, this.#environment.currentToken.tokenId);
    return new Set(recorded.map(({ objectId }) => `${objectId}`).filter((id) => unknown.has(id)));
  }
}

/** What was made must be there: an agent that can't see it is of no use to a move. */
function requireExpected(object: MoveSettings['objects'][number]): MoveSettings['objects'][number] {
  if (object.presence !== 'expected') return object;
  const { presence: _, ...required } = object;
  return required;
}
