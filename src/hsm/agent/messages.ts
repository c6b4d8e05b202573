/**
 * Sealing and opening under a version that an agent has loaded.
 *
 * Invariants: plaintexts that are sealed are overwritten; what does not open is asked of the token
 * twice before its caller is blamed for it, and so is what many messages depend on. Loads no
 * version and makes no session.
 */
import { timingSafeEqual } from 'node:crypto';
import type { Key } from 'graphene-pk11';
import { KeywardError } from '../../errors.ts';
import {
  type Binding,
  beginEpoch,
  type Epochs,
  epochNameOf,
  type MaterialHmac,
  type Message,
  open,
  PURPOSE,
  type Purpose,
  parseHeader,
  seal,
  sealAll,
  sealWithin,
} from '../ciphertext.ts';
import type { SealedKeyVersion } from '../key-version.ts';
import { type EpochBounds, ITEM_OUTCOME, type RequestOf } from '../protocol.ts';
import { AgentFailure } from './failure.ts';
import type { EpochOwner, KeptEpochs } from './kept-epochs.ts';

const PURPOSES = Object.values(PURPOSE);

/** A version that was verified and unwrapped. */
export interface LoadedVersion {
  readonly version: SealedKeyVersion;
  /** The tenant's UUID, 16 bytes. */
  readonly tenant: Buffer;
  readonly key: Key;
  readonly hmac: MaterialHmac;
}

/** The epochs that an agent keeps, and those within whose bounds a version's are. */
export interface Keeping {
  readonly kept: KeptEpochs;
  readonly owner: EpochOwner;
  readonly bounds: EpochBounds;
}

/**
 * Keys of epochs that were derived to open several messages; of what did not open, derived again,
 * once for each epoch.
 */
export interface OpenedEpochs {
  readonly first?: Epochs;
  readonly again?: Epochs;
}

/** Overwrites the plaintext. Seals within an epoch that is kept, where keeping is given. */
export function sealUnder(
  { version: { keyId, version }, hmac }: LoadedVersion,
  purpose: Purpose,
  binding: Binding,
  plaintext: Buffer,
  keeping?: Keeping,
): Buffer {
  const header = { purpose, keyId, version };
  try {
    return keeping === undefined
      ? seal(header, binding, plaintext, hmac)
      : keeping.kept.seal(keeping.owner, keeping.bounds, {
          begin: () => beginEpoch(header, binding, plaintext, twice(hmac)),
          seal: (epoch) => sealWithin(epoch, header, binding, plaintext),
        });
  } finally {
    plaintext.fill(0);
  }
}

/** Asks twice: by one wrong answer of the token nothing of all that is sealed would ever open. */
function twice(hmac: MaterialHmac): MaterialHmac {
  return (input) => {
    const [derived, again] = [hmac(input), hmac(input)];
    if (!timingSafeEqual(derived, again)) throw contradiction();
    again.fill(0);
    return derived;
  };
}

/** Overwrites the plaintexts. */
export function sealAllUnder(
  { version, tenant, hmac }: LoadedVersion,
  messages: readonly (Message & { readonly plaintext: Buffer })[],
): Buffer[] {
  try {
    return sealAll(version, tenant, messages, twice(hmac));
  } finally {
    for (const { plaintext } of messages) plaintext.fill(0);
  }
}

/** Throws DECRYPTION_FAILED for what isn't the version's, or doesn't open. */
export function openUnder(
  { version, hmac }: LoadedVersion,
  binding: Binding,
  ciphertext: Buffer,
  epochs: OpenedEpochs = {},
): Buffer {
  const header = parseHeader(ciphertext, PURPOSES);
  if (header.keyId !== version.keyId || header.version !== version.version)
    throw new KeywardError('DECRYPTION_FAILED');
  try {
    return open(ciphertext, binding, hmac, epochs.first);
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    // The token is asked a second time: what opens now was well, and the token was not.
    open(ciphertext, binding, hmac, epochs.again).fill(0);
    throw new AgentFailure('token', 'the token derived wrong bytes for a message', {
      cause: error,
    });
  }
}

/** As {@link openUnder}, and keeps the key of the epoch. */
export function openKeeping(
  loaded: LoadedVersion,
  binding: Binding,
  ciphertext: Buffer,
  keeping: Keeping | undefined,
): Buffer {
  const salt = epochNameOf(ciphertext);
  if (keeping === undefined || salt === undefined) return openUnder(loaded, binding, ciphertext);
  const { kept, owner, bounds } = keeping;
  return kept.open(owner, salt, bounds, (first) =>
    openUnder(loaded, binding, ciphertext, { first }),
  );
}

/** Overwrites the keys of epochs that were derived to open several messages. */
export function wipeEpochs({ first, again }: OpenedEpochs): void {
  for (const epochs of [first, again]) for (const key of epochs?.values() ?? []) key.wipe();
}

/**
 * A stored data key's ciphertext, brought from one version of its key to another, and opened again
 * to see that it is right.
 */
export function rewrapOne(
  source: LoadedVersion,
  target: LoadedVersion,
  item: RequestOf<'rewrap'>['items'][number],
): Buffer {
  if (
    source.version.tenantId !== target.version.tenantId ||
    source.version.keyId !== target.version.keyId
  )
    throw new AgentFailure('internal', 'an item was to go to another key');
  const { purpose } = parseHeader(item.ciphertext, [PURPOSE.storedDataKey]);
  const binding = bindingOf(target, item);
  const before = openUnder(source, binding, item.ciphertext);
  try {
    const ciphertext = sealUnder(target, purpose, binding, Buffer.from(before));
    if (!opensTo(before, ciphertext, target, binding))
      throw new AgentFailure('token', 'a re-wrapped data key opens to other bytes, or not at all');
    return ciphertext;
  } finally {
    before.fill(0);
  }
}

function opensTo(
  expected: Buffer,
  ciphertext: Buffer,
  version: LoadedVersion,
  binding: Binding,
): boolean {
  try {
    const opened = openUnder(version, binding, ciphertext);
    const same = opened.length === expected.length && timingSafeEqual(opened, expected);
    opened.fill(0);
    return same;
  } catch (error) {
    if (error instanceof KeywardError) return false;
    throw error;
  }
}

/** What an item's failure is; throws what isn't its own but the token's or ours. */
export function outcomeOf(error: unknown): number {
  if (error instanceof KeywardError && error.reason === 'DECRYPTION_FAILED')
    return ITEM_OUTCOME.doesNotOpen;
  if (error instanceof AgentFailure && error.kind === 'row-corrupt')
    return ITEM_OUTCOME.sourceCorrupt;
  throw error;
}

export function contradiction(): AgentFailure {
  return new AgentFailure('token', 'the token gave two answers to one question');
}

export function bindingOf(
  { tenant }: LoadedVersion,
  { subject, contextDigest }: Omit<Binding, 'tenant'>,
): Binding {
  return { tenant, subject, contextDigest };
}
