/**
 * What callers do with keys: encrypt, decrypt, data keys, re-encrypt, random bytes. Each method
 * reads as its steps.
 *
 * Invariants: nothing is used that `usable.ts` doesn't let be used; a ciphertext that doesn't open
 * fails in one way whatever the cause; each use is counted once it has succeeded. Requests arrive
 * validated. Knows no gRPC, no SQL, no PKCS#11, and holds no key material.
 */
import type { Call } from '../../call.ts';
import { KeywardError } from '../../errors.ts';
import { type CiphertextHeader, NO_SUBJECT, PURPOSE, parseHeader } from '../../hsm/ciphertext.ts';
import type { Agents } from '../../hsm/token-router.ts';
import type { KeyName, TenantName } from '../../names.ts';
import type { TenantRecord } from '../../store/tenants/tenants.ts';
import { contextDigest, type EncryptionContext } from './encryption-context.ts';
import type { KeyCache, LoadedKey, LoadedVersion } from './key-cache.ts';
import { findEnabledTenant, findPrimary, requireTenantEnabled, requireUsable } from './usable.ts';
import type { UsageRecorder } from './usage.ts';

/** What Decrypt and ReEncrypt open: a stored data key's ciphertext isn't a caller's to give. */
const CALLERS_PURPOSES = [PURPOSE.payload, PURPOSE.dataKey] as const;

/** Whose a ciphertext is said to be. */
export interface Source {
  readonly parent: TenantName;
  readonly ciphertext: Buffer;
  readonly context: EncryptionContext;
  /** The only key that it may be of, if the caller cares. */
  readonly expectedKey: KeyName | undefined;
  /** Whether a key is the caller's to decrypt with. */
  mayUse(key: KeyName): boolean;
}

/** A ciphertext and the version that made it. */
export interface Sealed {
  readonly ciphertext: Buffer;
  readonly version: number;
}

/** What was brought from one version to another. */
export interface Resealed extends Sealed {
  readonly sourceKey: KeyName;
  readonly sourceVersion: number;
}

/** A version that may be used, under its key's name. */
interface UsableVersion {
  readonly key: KeyName;
  readonly loaded: LoadedVersion;
}

/** What {@link Encryption} stands on. */
export interface EncryptionParts {
  readonly agents: Agents;
  readonly cache: KeyCache;
  readonly usage: UsageRecorder;
}

/** Encrypts, decrypts, re-encrypts, and issues data keys and random bytes. */
export class Encryption {
  readonly #agents: Agents;
  readonly #cache: KeyCache;
  readonly #usage: UsageRecorder;

  constructor({ agents, cache, usage }: EncryptionParts) {
    this.#agents = agents;
    this.#cache = cache;
    this.#usage = usage;
  }

  /** Encrypts up to 64 KiB under the key's primary version. */
  async encrypt(
    call: Call,
    request: {
      readonly name: KeyName;
      readonly plaintext: Buffer;
      readonly context: EncryptionContext;
    },
  ): Promise<Sealed> {
    const primary = await findPrimary(this.#cache, request.name);
    const { ciphertext } = await this.#agents.call(
      'seal',
      {
        keyVersion: primary.sealed,
        purpose: PURPOSE.payload,
        subject: NO_SUBJECT,
        contextDigest: contextDigest(request.context),
        plaintext: request.plaintext,
        epoch: primary.epoch,
      },
      call.deadline,
    );
    this.#usage.encrypted(call, request.name, primary);
    return { ciphertext, version: primary.record.version };
  }

  /** Opens a payload or a data key. Throws DECRYPTION_FAILED for whatever doesn't open. */
  async decrypt(
    call: Call,
    source: Source,
  ): Promise<{ readonly plaintext: Buffer; readonly key: KeyName; readonly version: number }> {
    const { key, loaded } = await this.#findSource(source);
    const { plaintext } = await this.#agents.call(
      'open',
      {
        keyVersion: loaded.sealed,
        subject: NO_SUBJECT,
        contextDigest: contextDigest(source.context),
        ciphertext: source.ciphertext,
        epoch: loaded.epoch,
      },
      call.deadline,
    );
    this.#usage.decrypted(call, key, loaded);
    return { plaintext, key, version: loaded.record.version };
  }

  /** Issues a data key of `length` bytes; its plaintext, too, unless it is to stay in the agent. */
  async generateDataKey(
    call: Call,
    request: {
      readonly name: KeyName;
      readonly context: EncryptionContext;
      readonly length: number;
      readonly reveal: boolean;
    },
  ): Promise<Sealed & { readonly plaintext: Buffer }> {
    const primary = await findPrimary(this.#cache, request.name);
    const issued = await this.#agents.call(
      'issueDataKey',
      {
        keyVersion: primary.sealed,
        purpose: PURPOSE.dataKey,
        subject: NO_SUBJECT,
        contextDigest: contextDigest(request.context),
        length: request.length,
        reveal: request.reveal ? 1 : 0,
        epoch: primary.epoch,
      },
      call.deadline,
    );
    this.#usage.encrypted(call, request.name, primary);
    return { ...issued, version: primary.record.version };
  }

  /**
   * Brings a ciphertext under a key's primary version and another context; the plaintext stays in
   * the agent.
   */
  async reEncrypt(
    call: Call,
    request: {
      readonly source: Source;
      readonly name: KeyName;
      readonly context: EncryptionContext;
    },
  ): Promise<Resealed> {
    const source = await this.#findSource(request.source);
    const primary = await findPrimary(this.#cache, request.name);
    const { ciphertext } = await this.#agents.call(
      'reseal',
      {
        sourceKeyVersion: source.loaded.sealed,
        sourceSubject: NO_SUBJECT,
        sourceContextDigest: contextDigest(request.source.context),
        ciphertext: request.source.ciphertext,
        sourceEpoch: source.loaded.epoch,
        keyVersion: primary.sealed,
        subject: NO_SUBJECT,
        contextDigest: contextDigest(request.context),
        epoch: primary.epoch,
      },
      call.deadline,
    );
    this.#usage.decrypted(call, source.key, source.loaded);
    noteSource(call);
    this.#usage.encrypted(call, request.name, primary);
    return {
      ciphertext,
      version: primary.record.version,
      sourceKey: source.key,
      sourceVersion: source.loaded.record.version,
    };
  }

  /** Random bytes of the token's generator and the system's. */
  async generateRandomBytes(call: Call, parent: TenantName, length: number): Promise<Buffer> {
    await findEnabledTenant(this.#cache, parent.tenant);
    return (await this.#agents.call('random', { length }, call.deadline)).bytes;
  }

  /**
   * The version that a ciphertext names, within its tenant. Throws DECRYPTION_FAILED, or
   * FAILED_PRECONDITION.
   */
  async #findSource(source: Source): Promise<UsableVersion> {
    const tenant = await this.#cache.tenant(source.parent.tenant);
    const header = headerOf(source);
    const found = await this.#cache.key(tenant.tenantId, header.keyId);
    const { key, name } = requireKey(source, found);
    const loaded = await this.#cache.version(key, header.version);
    return { key: name, loaded: requireVersion(tenant, key, loaded) };
  }
}

/** Returns what a ciphertext says of itself. Throws DECRYPTION_FAILED. */
export function headerOf({ ciphertext }: Pick<Source, 'ciphertext'>): CiphertextHeader {
  return parseHeader(ciphertext, CALLERS_PURPOSES);
}

/**
 * Returns the key that a ciphertext names, and its name, if it is there and the caller may decrypt
 * with it. Throws DECRYPTION_FAILED.
 */
export function requireKey(
  { parent, expectedKey, mayUse }: Source,
  key: LoadedKey | undefined,
): { readonly key: LoadedKey; readonly name: KeyName } {
  if (key === undefined || (expectedKey !== undefined && expectedKey.key !== key.record.name))
    throw new KeywardError('DECRYPTION_FAILED');
  const name = { ...parent, key: key.record.name };
  if (!mayUse(name)) throw new KeywardError('DECRYPTION_FAILED');
  return { key, name };
}

/**
 * Returns the version that a ciphertext names, if it may be used. Throws as {@link requireUsable}.
 */
export function requireVersion(
  tenant: Pick<TenantRecord, 'state'>,
  key: LoadedKey,
  loaded: LoadedVersion | undefined,
): LoadedVersion {
  if (loaded === undefined) throw new KeywardError('DECRYPTION_FAILED');
  requireTenantEnabled(tenant);
  return requireUsable(key, loaded);
}

/** Notes that the version that was used last is the one from which a ciphertext was brought. */
function noteSource({ audit }: Pick<Call, 'audit'>): void {
  if (audit?.keyVersion !== undefined) audit.sourceKeyVersion = audit.keyVersion;
}
