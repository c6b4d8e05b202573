/**
 * What a serving agent does: the operations on key versions, each whole.
 *
 * Invariants: a sealed version's row seal is verified before anything is unwrapped, its check value
 * before anything is used; what doesn't verify is asked of the token twice before a row or a caller
 * is blamed for it; plaintext is returned only by `open`, `issueDataKey` and their likes for many;
 * material exists outside a session object only wrapped, and an epoch's key only within one
 * operation, or within the bounds that its key has for that (`kept-epochs.ts`). Knows no frame, no
 * socket, no deadline.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { type Key, MechanismEnum, type Session } from 'graphene-pk11';
import {
  idFromBytes,
  idToBytes,
  type KeyId,
  type RootKeyId,
  type SealKeyId,
  type TenantId,
} from '../../ids.ts';
import { Lru } from '../../lru.ts';
import { NO_SUBJECT, PURPOSE, type Purpose, parseHeader } from '../ciphertext.ts';
import { decode, encode } from '../codec.ts';
import {
  CHECK_VALUE_BYTES,
  checkInput,
  type KeyVersionIdentity,
  SEAL_BYTES,
  type SealedKeyVersion,
  sealedKeyVersion,
  sealInput,
} from '../key-version.ts';
import {
  type EpochBounds,
  ITEM_OUTCOME,
  type ReplyOf,
  type RequestOf,
  type ServeSettings,
} from '../protocol.ts';
import { recordSealInput } from '../record-seal.ts';
import { AgentFailure } from './failure.ts';
import { KeptEpochs } from './kept-epochs.ts';
import {
  bindingOf,
  contradiction,
  type Keeping,
  type LoadedVersion,
  type OpenedEpochs,
  openKeeping,
  openUnder,
  outcomeOf,
  rewrapOne,
  sealAllUnder,
  sealUnder,
  wipeEpochs,
} from './messages.ts';
import { HMAC_SHA512, transferTemplate, transferUnwrapTemplate, useTemplate } from './templates.ts';
import type { FoundObject } from './token-objects.ts';

const PURPOSES = Object.values(PURPOSE);
const HMAC = { mechanism: HMAC_SHA512 };
const HMAC_BYTES = 64;
/** The subject of what callers keep. */
const OF_CALLERS = { subject: NO_SUBJECT };
const NOTHING = Buffer.alloc(0);
const PROOF_INPUT = Buffer.from('keyward/v1/proof\0', 'latin1');

/** The operations of one agent, on one session. */
export class KeyOperations {
  readonly #session: Session;
  readonly #settings: ServeSettings;
  #objects: ReadonlyMap<string, FoundObject>;
  /** Named by all of a sealed version's bytes: found only by exactly the row that was verified. */
  readonly #loaded: Lru<string, LoadedVersion>;
  readonly #epochs = new KeptEpochs();
  /** What fell out of there under an operation that may still use it. */
  #outlived: Key[] | undefined;

  constructor(session: Session, settings: ServeSettings, objects: readonly FoundObject[]) {
    this.#session = session;
    this.#settings = settings;
    this.#objects = byId(objects);
    this.#loaded = new Lru(settings.keyCacheSize, ({ key }) => {
      if (this.#outlived === undefined) key.destroy();
      else this.#outlived.push(key);
    });
  }

  /** Key versions that are unwrapped. */
  get keysLoaded(): number {
    return this.#loaded.figures.size;
  }

  /** Epochs whose keys are kept. */
  get epochsKept(): number {
    return this.#epochs.size;
  }

  /**
   * Has the token compute something with every seal key, twice. Throws what PKCS#11 reports, or
   * `token`.
   */
  prove(): void {
    for (const { role, handle } of this.#objects.values()) {
      if (role !== 'seal') continue;
      if (!timingSafeEqual(this.#hmac(handle, PROOF_INPUT), this.#hmac(handle, PROOF_INPUT)))
        throw contradiction();
    }
  }

  /**
   * Uses these token objects from now on, and returns them. One that it has used and doesn't find
   * now, it goes on using while that is wanted: a token that hides an object for a moment must not
   * end what works. What was unwrapped under others is forgotten.
   */
  hold(found: readonly FoundObject[], wanted: ReadonlySet<string>): readonly FoundObject[] {
    const kept = [...this.#objects.values()].filter(({ objectId }) => wanted.has(objectId));
    this.#objects = byId([...kept, ...found]);
    this.#loaded.evictWhere(({ version }) => !this.#objects.has(version.rootKeyId));
    this.#epochs.forget();
    return [...this.#objects.values()];
  }

  /**
   * Generates a version, wraps and seals it, and proves it by loading it as every later use will.
   */
  createKeyVersion(request: RequestOf<'createKeyVersion'>): SealedKeyVersion {
    const { sealKeyId, ...named } = request;
    const wrapped = this.#generateWrapped(named.rootKeyId);
    const version = { ...named, wrap: this.#settings.profile.wrap, wrapped };
    const checkValue = this.#checkValueOf(version);
    const unsealed = { ...version, checkValue };
    const sealed = { ...unsealed, sealKeyId, seal: this.#sealOf(unsealed, sealKeyId) };
    try {
      // The check value came from one unwrapping, the proof comes from another: wrong bytes from
      // the token show here.
      this.#load(encode(sealedKeyVersion, sealed));
    } catch (cause) {
      throw new AgentFailure('token', 'a new key version failed verification', { cause });
    }
    return sealed;
  }

  seal(request: RequestOf<'seal'>): ReplyOf<'seal'> {
    const loaded = this.#load(request.keyVersion);
    const purpose = purposeOf(request.purpose);
    const binding = bindingOf(loaded, request);
    const keeping = this.#keeping(request.keyVersion, loaded, request.epoch);
    return { ciphertext: sealUnder(loaded, purpose, binding, request.plaintext, keeping) };
  }

  open(request: RequestOf<'open'>): ReplyOf<'open'> {
    const loaded = this.#load(request.keyVersion);
    const keeping = this.#keeping(request.keyVersion, loaded, request.epoch);
    const binding = bindingOf(loaded, request);
    return { plaintext: openKeeping(loaded, binding, request.ciphertext, keeping) };
  }

  #keeping(
    sealedVersion: Buffer,
    { version: { tenantId, keyId } }: LoadedVersion,
    bounds: EpochBounds | undefined,
  ): Keeping | undefined {
    if (bounds === undefined) return undefined;
    const owner = { version: sealedVersion.toString('latin1'), tenantId, keyId };
    return { kept: this.#epochs, owner, bounds };
  }

  issueDataKey(request: RequestOf<'issueDataKey'>): ReplyOf<'issueDataKey'> {
    const plaintext = this.#random(request.length);
    const { ciphertext } = this.seal({ ...request, plaintext: Buffer.from(plaintext) });
    if (request.reveal === 1) return { plaintext, ciphertext };
    plaintext.fill(0);
    return { plaintext: Buffer.alloc(0), ciphertext };
  }

  reseal(request: RequestOf<'reseal'>): ReplyOf<'reseal'> {
    const { plaintext } = this.open({
      keyVersion: request.sourceKeyVersion,
      subject: request.sourceSubject,
      contextDigest: request.sourceContextDigest,
      ciphertext: request.ciphertext,
      epoch: request.sourceEpoch,
    });
    return this.seal({
      ...request,
      purpose: parseHeader(request.ciphertext, PURPOSES).purpose,
      plaintext,
    });
  }

  sealAll({ keyVersion, items }: RequestOf<'sealAll'>): ReplyOf<'sealAll'> {
    const messages = items.map((item) => ({ ...item, ...OF_CALLERS, purpose: PURPOSE.payload }));
    return { ciphertexts: sealAllUnder(this.#load(keyVersion), messages) };
  }

  openAll({ keyVersion, items }: RequestOf<'openAll'>): ReplyOf<'openAll'> {
    const loaded = this.#load(keyVersion);
    const epochs: OpenedEpochs = { first: new Map(), again: new Map() };
    const openOne = ({ contextDigest, ciphertext }: (typeof items)[number]) => {
      const binding = bindingOf(loaded, { ...OF_CALLERS, contextDigest });
      try {
        const plaintext = openUnder(loaded, binding, ciphertext, epochs);
        return { outcome: ITEM_OUTCOME.done, plaintext };
      } catch (error) {
        return { outcome: outcomeOf(error), plaintext: NOTHING };
      }
    };
    try {
      return { results: items.map(openOne) };
    } finally {
      wipeEpochs(epochs);
    }
  }

  issueDataKeys({ keyVersion, items }: RequestOf<'issueDataKeys'>): ReplyOf<'issueDataKeys'> {
    const loaded = this.#load(keyVersion);
    const plaintexts = items.map(({ length }) => this.#random(length));
    const messages = items.map(({ contextDigest }, index) => ({
      ...OF_CALLERS,
      purpose: PURPOSE.dataKey,
      contextDigest,
      plaintext: Buffer.from(plaintexts[index] as Buffer),
    }));
    const ciphertexts = sealAllUnder(loaded, messages);
    return {
      dataKeys: ciphertexts.map((ciphertext, index) => ({
        plaintext: plaintexts[index] as Buffer,
        ciphertext,
      })),
    };
  }

  resealAll(request: RequestOf<'resealAll'>): ReplyOf<'resealAll'> {
    return this.#withSeveral(() => {
      const target = this.#load(request.keyVersion);
      const opened = this.openAll({
        keyVersion: request.sourceKeyVersion,
        items: request.items.map(({ sourceContextDigest: contextDigest, ciphertext }) => ({
          contextDigest,
          ciphertext,
        })),
      }).results;
      const messages = request.items.flatMap(({ contextDigest, ciphertext }, index) => {
        const { outcome, plaintext } = opened[index] as (typeof opened)[number];
        if (outcome !== ITEM_OUTCOME.done) return [];
        const { purpose } = parseHeader(ciphertext, PURPOSES);
        return [{ ...OF_CALLERS, purpose, contextDigest, plaintext }];
      });
      const ciphertexts = sealAllUnder(target, messages).values();
      return {
        results: opened.map(({ outcome }) => ({
          outcome,
          ciphertext:
            outcome === ITEM_OUTCOME.done ? (ciphertexts.next().value ?? NOTHING) : NOTHING,
        })),
      };
    });
  }

  rewrap(request: RequestOf<'rewrap'>): ReplyOf<'rewrap'> {
    return this.#withSeveral(() => this.#rewrap(request));
  }

  /** Has several versions used at once, of which loading one may push another out. */
  #withSeveral<T>(work: () => T): T {
    const outlived: Key[] = [];
    this.#outlived = outlived;
    try {
      return work();
    } finally {
      this.#outlived = undefined;
      for (const key of outlived) key.destroy();
    }
  }

  #rewrap({ keyVersion, sourceKeyVersions, items }: RequestOf<'rewrap'>): ReplyOf<'rewrap'> {
    const target = this.#load(keyVersion);
    // Loaded when the first item wants it: a version that doesn't verify is a failure of its items,
    // not of all.
    const sources = sourceKeyVersions.map((sealed) => once(() => this.#load(sealed)));
    return {
      results: items.map((item) => {
        const source = sources[item.source];
        if (source === undefined) throw new AgentFailure('internal', 'an item has no source');
        try {
          return { outcome: ITEM_OUTCOME.done, ciphertext: rewrapOne(source(), target, item) };
        } catch (error) {
          return { outcome: outcomeOf(error), ciphertext: Buffer.alloc(0) };
        }
      }),
    };
  }

  transfer({ sealKeyId, items }: RequestOf<'transfer'>): ReplyOf<'transfer'> {
    return {
      keyVersions: items.map(({ rootKeyId, keyVersion }) => {
        try {
          return this.#transferOne(
            decode(sealedKeyVersion, Buffer.from(keyVersion)),
            rootKeyId,
            sealKeyId,
          );
        } catch (error) {
          if (error instanceof AgentFailure && error.kind === 'row-corrupt') return Buffer.alloc(0);
          throw error;
        }
      }),
    };
  }

  /**
   * Verifies a version, seal and check value, and keeps nothing loaded of it. Throws `row-corrupt`.
   */
  verify(version: SealedKeyVersion): void {
    this.#unwrapVerified(version).destroy();
  }

  /**
   * Seals a version that has come under a root key of this token, and proves it by the check value
   * that it had.
   */
  adopt(
    version: Omit<SealedKeyVersion, 'sealKeyId' | 'seal'>,
    sealKeyId: SealKeyId,
  ): SealedKeyVersion {
    const sealed = { ...version, sealKeyId, seal: this.#sealOf(version, sealKeyId) };
    try {
      this.verify(sealed);
    } catch (cause) {
      if (!(cause instanceof AgentFailure && cause.kind === 'row-corrupt')) throw cause;
      throw new AgentFailure('token', 'a moved key version failed verification', { cause });
    }
    return sealed;
  }

  #transferOne(version: SealedKeyVersion, rootKeyId: RootKeyId, sealKeyId: SealKeyId): Buffer {
    this.#verifySeal(version);
    if (this.#objects.get(version.rootKeyId)?.role !== 'root')
      throw corrupt(version, 'it names an unknown root key');
    const moved =
      version.rootKeyId === rootKeyId
        ? version
        : {
            ...version,
            rootKeyId,
            wrap: this.#settings.profile.wrap,
            wrapped: this.#wrapAgain(version, rootKeyId),
          };
    const sealed = encode(sealedKeyVersion, {
      ...moved,
      sealKeyId,
      seal: this.#sealOf(moved, sealKeyId),
    });
    this.#proveMoved(decode(sealedKeyVersion, sealed), version);
    return sealed;
  }

  /**
   * Unwraps the moved version as every later use will, to the same check value. It isn't kept
   * loaded: moving many would push out what callers use. Throws `row-corrupt` if the version was
   * wrong before, `token` if it is only since.
   */
  #proveMoved(moved: SealedKeyVersion, before: SealedKeyVersion): void {
    try {
      this.#unwrapVerified(moved).destroy();
    } catch (cause) {
      if (!(cause instanceof AgentFailure && cause.kind === 'row-corrupt')) throw cause;
      this.#unwrapVerified(before).destroy();
      throw new AgentFailure('token', 'a moved key version failed verification', { cause });
    }
  }

  #wrapAgain({ rootKeyId, wrapped }: SealedKeyVersion, target: RootKeyId): Buffer {
    const { profile } = this.#settings;
    const [source, root] = [this.#objectOf(rootKeyId, 'root'), this.#objectOf(target, 'root')];
    const template = transferUnwrapTemplate(profile);
    const material = this.#session.unwrapKey(profile.wrapMechanism, source, wrapped, template);
    try {
      return Buffer.from(this.#session.wrapKey(profile.wrapMechanism, root, material));
    } finally {
      material.destroy();
    }
  }

  /** Seals records, whatever they say; what may be sealed, `guarded-seals.ts` decides. */
  sealVerified({ sealKeyId, kind, contents }: RequestOf<'sealRecords'>): ReplyOf<'sealRecords'> {
    // Twice: of a token that errs no seal is written that nothing verifies by.
    const seals = contents.map((content) => this.#recordSeal(sealKeyId, kind, content));
    for (const [index, content] of contents.entries())
      if (!this.#recordSeal(sealKeyId, kind, content).equals(seals[index] as Buffer))
        throw contradiction();
    return { seals };
  }

  verifyRecords({ sealKeyId, kind, items }: RequestOf<'verifyRecords'>): ReplyOf<'verifyRecords'> {
    if (this.#objects.get(sealKeyId)?.role !== 'seal') return { verified: items.map(() => 0) };
    const computed = ({ content }: { readonly content: Buffer }) =>
      this.#recordSeal(sealKeyId, kind, content);
    return {
      verified: items.map((item) => {
        if (item.seal.length !== SEAL_BYTES) return 0;
        const seal = computed(item);
        if (timingSafeEqual(seal, item.seal)) return 1;
        // As for key versions: only a token that says the same twice is believed.
        if (!timingSafeEqual(seal, computed(item))) throw contradiction();
        return 0;
      }),
    };
  }

  #recordSeal(sealKeyId: SealKeyId, kind: number, content: Buffer): Buffer {
    const input = recordSealInput(this.#settings.environmentId, kind, content);
    return this.#hmac(this.#objectOf(sealKeyId, 'seal'), input).subarray(0, SEAL_BYTES);
  }

  forget({ ofId }: RequestOf<'forget'>): ReplyOf<'forget'> {
    const whose = ofId.length === 0 ? undefined : idFromBytes<KeyId | TenantId>(ofId);
    this.#loaded.evictWhere(
      ({ version: { tenantId, keyId } }) =>
        whose === undefined || tenantId === whose || keyId === whose,
    );
    return this.forgetEpochs({ ofId });
  }

  forgetEpochs({ ofId }: RequestOf<'forgetEpochs'>): ReplyOf<'forgetEpochs'> {
    this.#epochs.forget(ofId.length === 0 ? undefined : idFromBytes<KeyId | TenantId>(ofId));
    return {};
  }

  random({ length }: RequestOf<'random'>): ReplyOf<'random'> {
    return { bytes: this.#random(length) };
  }

  /** The version, unwrapped, once its seal and check value are verified. */
  #load(sealedVersion: Buffer): LoadedVersion {
    const name = sealedVersion.toString('latin1');
    const known = this.#loaded.get(name);
    if (known !== undefined) return known;
    const version = decode(sealedKeyVersion, Buffer.from(sealedVersion));
    const key = this.#unwrapVerified(version);
    const hmac = (input: Buffer) => this.#hmac(key, input);
    const loaded = { version, tenant: idToBytes(version.tenantId), key, hmac };
    this.#loaded.set(name, loaded);
    return loaded;
  }

  #unwrapVerified(version: SealedKeyVersion): Key {
    this.#verifySeal(version);
    const key = this.#unwrap(version);
    if (timingSafeEqual(this.#checkValueBy(key, version), version.checkValue)) return key;
    key.destroy();
    // The seal has vouched for the row, so the token is asked again, from unwrapping on, before the
    // row is blamed.
    if (timingSafeEqual(this.#checkValueOf(version), version.checkValue)) throw contradiction();
    throw corrupt(version, 'its check value does not match');
  }

  #verifySeal(version: SealedKeyVersion): void {
    if (version.checkValue.length !== CHECK_VALUE_BYTES || version.seal.length !== SEAL_BYTES) {
      throw corrupt(version, 'its seal or check value has a wrong length');
    }
    if (this.#objects.get(version.sealKeyId)?.role !== 'seal')
      throw corrupt(version, 'it names an unknown seal key');
    const computed = this.#sealOf(version, version.sealKeyId);
    if (timingSafeEqual(computed, version.seal)) return;
    // A row is called corrupt only by a token that says the same twice.
    if (!timingSafeEqual(computed, this.#sealOf(version, version.sealKeyId))) throw contradiction();
    throw corrupt(version, 'its seal does not match');
  }

  #sealOf(version: Omit<SealedKeyVersion, 'sealKeyId' | 'seal'>, sealKeyId: string): Buffer {
    const sealKey = this.#objectOf(sealKeyId, 'seal');
    return this.#hmac(sealKey, sealInput(this.#settings.environmentId, version)).subarray(
      0,
      SEAL_BYTES,
    );
  }

  #checkValueOf(
    version: KeyVersionIdentity & Pick<SealedKeyVersion, 'rootKeyId' | 'wrapped'>,
  ): Buffer {
    const key = this.#unwrap(version);
    try {
      return this.#checkValueBy(key, version);
    } finally {
      key.destroy();
    }
  }

  #checkValueBy(key: Key, identity: KeyVersionIdentity): Buffer {
    return this.#hmac(key, checkInput(this.#settings.environmentId, identity)).subarray(
      0,
      CHECK_VALUE_BYTES,
    );
  }

  #generateWrapped(rootKeyId: string): Buffer {
    const root = this.#objectOf(rootKeyId, 'root');
    const material = this.#session.generateKey(
      MechanismEnum.GENERIC_SECRET_KEY_GEN,
      transferTemplate(),
    );
    try {
      return Buffer.from(
        this.#session.wrapKey(this.#settings.profile.wrapMechanism, root, material),
      );
    } finally {
      material.destroy();
    }
  }

  #unwrap({ rootKeyId, wrapped }: Pick<SealedKeyVersion, 'rootKeyId' | 'wrapped'>): Key {
    const { profile } = this.#settings;
    const root = this.#objectOf(rootKeyId, 'root');
    return this.#session.unwrapKey(profile.wrapMechanism, root, wrapped, useTemplate(profile));
  }

  #objectOf(objectId: string, role: FoundObject['role']): Key {
    const object = this.#objects.get(objectId);
    if (object?.role !== role)
      throw new AgentFailure('token-object-missing', `no ${role} key ${objectId} here`);
    return object.handle;
  }

  /** Past graphene, whose Sign allocates and copies a kilobyte for each call. */
  #hmac(key: Key, input: Buffer): Buffer {
    const { lib, handle } = this.#session;
    lib.C_SignInit(handle, HMAC, key.handle);
    const output = lib.C_Sign(handle, input, Buffer.allocUnsafe(HMAC_BYTES));
    if (output.length !== HMAC_BYTES) {
      throw new AgentFailure('token', `an HMAC-SHA-512 of ${output.length} bytes`);
    }
    return output;
  }

  /**
   * Random bytes of the token's generator and the system's, combined: as good as the better of the
   * two.
   */
  #random(length: number): Buffer {
    const bytes = Buffer.from(this.#session.generateRandom(length));
    const own = randomBytes(length);
    for (let index = 0; index < length; index++)
      bytes.writeUInt8(bytes.readUInt8(index) ^ own.readUInt8(index), index);
    own.fill(0);
    return bytes;
  }
}

function byId(objects: readonly FoundObject[]): ReadonlyMap<string, FoundObject> {
  return new Map(objects.map((object) => [object.objectId, object]));
}

/** What `make` makes, made when it is wanted first. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

function corrupt(version: SealedKeyVersion, why: string): AgentFailure {
  const { tenantId, keyId } = version;
  return new AgentFailure(
    'row-corrupt',
    `version ${version.version} of key ${keyId} of tenant ${tenantId}: ${why}`,
  );
}

function purposeOf(number: number): Purpose {
  const purpose = PURPOSES.find((known) => known === number);
  if (purpose === undefined) throw new AgentFailure('internal', `purpose ${number} is not known`);
  return purpose;
}
