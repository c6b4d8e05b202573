/**
 * The epochs whose keys an agent keeps from one operation to the next, of keys that have derivation
 * epochs.
 *
 * - A key of an epoch is used for at most so many messages, sealed and opened together, and is kept
 *   for at most so long, whether it is used or not; then it is overwritten, as it is when it falls
 *   out or is to be forgotten.
 * - One epoch of a version at a time seals; one that was derived to open something never does.
 * - Derives nothing, and knows neither token nor session: what it keeps is brought to it.
 */
import { monotonicNow } from '../../call.ts';
import type { KeyId, TenantId } from '../../ids.ts';
import { Lru } from '../../lru.ts';
import type { Epoch, Epochs } from '../ciphertext.ts';
import type { EpochBounds } from '../protocol.ts';

/** So many are kept: what an attacker finds in an agent, and half a megabyte. */
const KEPT = 1_000;

/** Whose an epoch is. */
export interface EpochOwner {
  /** All of a sealed version's bytes: found only by exactly the row that was verified. */
  readonly version: string;
  readonly tenantId: TenantId;
  readonly keyId: KeyId;
}

interface Kept extends EpochOwner {
  readonly name: string;
  readonly epoch: Epoch;
  readonly keptAt: number;
  readonly expiry: NodeJS.Timeout;
  messages: number;
}

/** Keeps epochs within their bounds. */
export class KeptEpochs {
  readonly #now: () => number;
  readonly #kept: Lru<string, Kept>;
  /** The epoch that seals, of each version. */
  readonly #sealing = new Map<string, Kept>();

  constructor(limit = KEPT, now = monotonicNow) {
    this.#now = now;
    this.#kept = new Lru(limit, (fallen) => this.#wipe(fallen));
  }

  /** How many keys of epochs there are. */
  get size(): number {
    return this.#kept.figures.size;
  }

  /** Has one message sealed in the epoch that seals for this version, or in one that begins. */
  seal<T>(
    owner: EpochOwner,
    bounds: EpochBounds,
    { begin, seal }: { readonly begin: () => Epoch; readonly seal: (epoch: Epoch) => T },
  ): T {
    let kept = this.#usable(this.#sealing.get(owner.version), bounds);
    if (kept === undefined) {
      kept = this.#keep(owner, begin(), bounds);
      this.#sealing.set(owner.version, kept);
    }
    return this.#count(kept, bounds, seal);
  }

  /**
   * Has one message of that salt opened; `open` is given the key of its epoch, or room for it. A
   * key that was derived is kept once it has opened something.
   */
  open<T>(owner: EpochOwner, salt: string, bounds: EpochBounds, open: (epochs: Epochs) => T): T {
    const known = this.#usable(this.#kept.peek(nameOf(owner, salt)), bounds);
    if (known !== undefined)
      return this.#count(known, bounds, ({ key }) => open(new Map([[salt, key]])));
    const epochs: Epochs = new Map();
    let isOpened = false;
    try {
      const opened = open(epochs);
      isOpened = true;
      return opened;
    } finally {
      const key = epochs.get(salt);
      const epoch = key && { salt: Buffer.from(salt, 'latin1'), key };
      if (epoch !== undefined && isOpened)
        this.#count(this.#keep(owner, epoch, bounds), bounds, () => {});
      else key?.wipe();
    }
  }

  /** Overwrites the keys of a tenant's or a key's epochs, or of all. */
  forget(whose?: TenantId | KeyId): void {
    this.#kept.evictWhere(
      ({ tenantId, keyId }) => whose === undefined || tenantId === whose || keyId === whose,
    );
  }

  #keep(owner: EpochOwner, epoch: Epoch, { maxAgeSeconds }: EpochBounds): Kept {
    const name = nameOf(owner, epoch.salt.toString('latin1'));
    this.#drop(this.#kept.peek(name));
    const expiry = setTimeout(() => this.#drop(kept), maxAgeSeconds * 1_000).unref();
    const kept: Kept = { ...owner, name, epoch, keptAt: this.#now(), expiry, messages: 0 };
    this.#kept.set(name, kept);
    return kept;
  }

  /** By the bounds that are given now: they may be narrower than those that it was kept with. */
  #usable(kept: Kept | undefined, { maxMessages, maxAgeSeconds }: EpochBounds): Kept | undefined {
    if (kept === undefined) return undefined;
    const age = this.#now() - kept.keptAt;
    if (kept.messages < maxMessages && age < maxAgeSeconds * 1_000) return kept;
    this.#drop(kept);
    return undefined;
  }

  #count<T>(kept: Kept, { maxMessages }: EpochBounds, use: (epoch: Epoch) => T): T {
    kept.messages += 1;
    // Found, so that it is not the next to fall out.
    this.#kept.get(kept.name);
    try {
      return use(kept.epoch);
    } finally {
      if (kept.messages >= maxMessages) this.#drop(kept);
    }
  }

  #drop(kept: Kept | undefined): void {
    if (kept === undefined || this.#kept.peek(kept.name) !== kept) return;
    this.#kept.delete(kept.name);
    this.#wipe(kept);
  }

  #wipe(kept: Kept): void {
    clearTimeout(kept.expiry);
    if (this.#sealing.get(kept.version) === kept) this.#sealing.delete(kept.version);
    kept.epoch.key.wipe();
  }
}

/** All salts have one length, so that no two epochs have one name. */
function nameOf({ version }: EpochOwner, salt: string): string {
  return version + salt;
}
