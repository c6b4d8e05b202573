/**
 * Moving key versions from one token to another: what an agent does at either end, opened for that
 * and nothing else.
 *
 * Invariants: material leaves the source only wrapped by a key whose private or secret half is in
 * the target and can't leave it; a version is verified before it is exported and proven by the same
 * check value before it is sealed; transport keys are session objects, and end with the agent. An
 * agent that serves never gets here. Knows no frame and no row.
 */
import {
  type IKeyPair,
  type Key,
  KeyGenMechanism,
  MechanismEnum,
  type MechanismType,
  RsaMgf,
  RsaOaepParams,
  type Session,
} from 'graphene-pk11';
import type { SealKeyId } from '../../ids.ts';
import { decode, encode } from '../codec.ts';
import { type SealedKeyVersion, sealedKeyVersion } from '../key-version.ts';
import type { MoveSettings, ReplyOf, RequestOf } from '../protocol.ts';
import {
  OAEP_HASHES,
  type OaepHash,
  type TransportChoice,
  type TransportOffer,
  transportBetween,
} from '../token-profile.ts';
import { AgentFailure } from './failure.ts';
import { KeyOperations } from './operations.ts';
import { inSession } from './probe.ts';
import {
  TRANSPORT_MODULUS_BYTES,
  transferTemplate,
  transferUnwrapTemplate,
  transportKeyTemplate,
  transportKeyUnwrapTemplate,
  transportPairTemplates,
  transportPublicTemplate,
} from './templates.ts';
import type { OpenToken } from './token.ts';
import type { FoundObject } from './token-objects.ts';

/** What is moved isn't used: nothing needs to stay loaded. */
const KEY_CACHE_SIZE = 1;

/** A transport key and how it is used. */
interface Transport {
  readonly key: Key;
  readonly mechanism: MechanismType;
}

/** An end of a move: a token, its keys, and the operations that verify under them. */
class End {
  readonly session: Session;
  readonly settings: MoveSettings;
  readonly operations: KeyOperations;
  readonly #roots: ReadonlyMap<string, Key>;

  constructor(session: Session, settings: MoveSettings, objects: readonly FoundObject[]) {
    this.session = session;
    this.settings = settings;
    const serving = { ...settings, keyCacheSize: KEY_CACHE_SIZE, despiteFailedTry: false };
    this.operations = new KeyOperations(session, serving, objects);
    this.operations.prove();
    const roots = objects.filter(({ role }) => role === 'root');
    this.#roots = new Map(roots.map(({ objectId, handle }) => [objectId, handle]));
  }

  rootKey(objectId: string): Key {
    const root = this.#roots.get(objectId);
    if (root === undefined)
      throw new AgentFailure('token-object-missing', `no root key ${objectId} here`);
    return root;
  }
}

/** The token that key versions are moved from. */
export class MoveSource {
  readonly #end: End;
  readonly #transport: Transport;
  readonly choice: TransportChoice;

  /** Throws `refused` when the offer is nothing that this token can use. */
  constructor(
    { session, slot }: OpenToken,
    settings: MoveSettings & { readonly offer: TransportOffer },
    objects: readonly FoundObject[],
  ) {
    this.#end = new End(session, settings, objects);
    const { offer, profile } = settings;
    const modulus = Buffer.from(offer.modulus, 'hex');
    if (modulus.length !== TRANSPORT_MODULUS_BYTES)
      throw new AgentFailure('refused', `a transport key of ${modulus.length} bytes`);
    const publicKey = session.create(transportPublicTemplate(modulus)).toType<Key>();
    const wraps = (hash: OaepHash) =>
      inSession(slot, (trial) => {
        trial.wrapKey(oaep(hash), publicKey, makeMaterial(trial));
        return undefined;
      });
    const hash = offer.hashes.find((each) => wraps(each) === undefined);
    if (hash === undefined)
      throw new AgentFailure(
        'refused',
        `the token cannot wrap by RSA-OAEP with any of ${offer.hashes.join(', ')}`,
      );
    const byOaep = { key: publicKey, mechanism: oaep(hash) };
    const kind = transportBetween(profile.wrap, offer.wrap);
    if (kind === 'rsa-oaep') {
      this.#transport = byOaep;
      this.choice = { kind, hash, wrapped: '' };
      return;
    }
    const key = session.generateKey(KeyGenMechanism.AES, transportKeyTemplate());
    const wrapped = session.wrapKey(byOaep.mechanism, publicKey, key).toString('hex');
    this.#transport = { key, mechanism: profile.wrapMechanism };
    this.choice = { kind, hash, wrapped };
  }

  export({ keyVersions }: RequestOf<'exportKeyVersions'>): ReplyOf<'exportKeyVersions'> {
    return { wrapped: keyVersions.map((sealed) => this.#exportOne(sealed)) };
  }

  #exportOne(sealed: Buffer): Buffer {
    const { session, settings, operations } = this.#end;
    const version = decode(sealedKeyVersion, Buffer.from(sealed));
    try {
      operations.verify(version);
    } catch (error) {
      if (error instanceof AgentFailure && error.kind === 'row-corrupt') return Buffer.alloc(0);
      throw error;
    }
    const { profile } = settings;
    const root = this.#end.rootKey(version.rootKeyId);
    const template = transferUnwrapTemplate(profile);
    const material = session.unwrapKey(profile.wrapMechanism, root, version.wrapped, template);
    try {
      return Buffer.from(session.wrapKey(this.#transport.mechanism, this.#transport.key, material));
    } finally {
      material.destroy();
    }
  }
}

/** The token that key versions are moved to. */
export class MoveTarget {
  readonly #end: End;
  readonly #pair: IKeyPair;
  readonly offer: TransportOffer;
  #transport: Transport | undefined;

  /**
   * Makes a transport key pair. Throws `refused` when the token unwraps by RSA-OAEP in no known
   * way.
   */
  constructor(
    { session, slot }: OpenToken,
    settings: MoveSettings,
    objects: readonly FoundObject[],
  ) {
    this.#end = new End(session, settings, objects);
    const templates = transportPairTemplates();
    const pair = session.generateKeyPair(KeyGenMechanism.RSA, templates.public, templates.private);
    this.#pair = pair;
    const modulus: unknown = pair.publicKey.get('modulus');
    if (!Buffer.isBuffer(modulus))
      throw new AgentFailure('token', 'a public key without a modulus');
    const unwraps = (hash: OaepHash) =>
      inSession(slot, (trial) => {
        const wrapped = trial.wrapKey(oaep(hash), pair.publicKey, makeMaterial(trial));
        trial.unwrapKey(
          oaep(hash),
          pair.privateKey,
          wrapped,
          transferUnwrapTemplate(settings.profile),
        );
        return undefined;
      });
    const hashes = OAEP_HASHES.filter((hash) => unwraps(hash) === undefined);
    if (hashes.length === 0)
      throw new AgentFailure('refused', 'the token cannot unwrap by RSA-OAEP in any known way');
    this.offer = { modulus: modulus.toString('hex'), hashes, wrap: settings.profile.wrap };
  }

  accept({ kind, hash, wrapped }: TransportChoice): void {
    const { session, settings } = this.#end;
    const byOaep = { key: this.#pair.privateKey, mechanism: oaep(hash) };
    if (kind === 'rsa-oaep') {
      this.#transport = byOaep;
      return;
    }
    const template = transportKeyUnwrapTemplate(settings.profile);
    const key = session.unwrapKey(
      byOaep.mechanism,
      byOaep.key,
      Buffer.from(wrapped, 'hex'),
      template,
    );
    this.#transport = { key, mechanism: settings.profile.wrapMechanism };
  }

  import({ sealKeyId, items }: RequestOf<'importKeyVersions'>): ReplyOf<'importKeyVersions'> {
    return { keyVersions: items.map((item) => this.#importOne(item, sealKeyId)) };
  }

  #importOne(
    { rootKeyId, keyVersion, wrapped }: RequestOf<'importKeyVersions'>['items'][number],
    sealKeyId: SealKeyId,
  ): Buffer {
    const { profile } = this.#end.settings;
    const { sealKeyId: _, seal: __, ...before } = decode(sealedKeyVersion, Buffer.from(keyVersion));
    const moved = {
      ...before,
      rootKeyId,
      wrap: profile.wrap,
      wrapped: this.#wrapAnew(wrapped, rootKeyId),
    };
    const adopted: SealedKeyVersion = this.#end.operations.adopt(moved, sealKeyId);
    return encode(sealedKeyVersion, adopted);
  }

  #wrapAnew(wrapped: Buffer, rootKeyId: string): Buffer {
    const { session, settings } = this.#end;
    const { profile } = settings;
    if (this.#transport === undefined) throw new Error('an import before a transport key');
    const { mechanism, key } = this.#transport;
    const material = session.unwrapKey(mechanism, key, wrapped, transferUnwrapTemplate(profile));
    try {
      return Buffer.from(
        session.wrapKey(profile.wrapMechanism, this.#end.rootKey(rootKeyId), material),
      );
    } finally {
      material.destroy();
    }
  }
}

function makeMaterial(session: Session): Key {
  return session.generateKey(MechanismEnum.GENERIC_SECRET_KEY_GEN, transferTemplate());
}

function oaep(hash: OaepHash): MechanismType {
  const params =
    hash === 'SHA-256'
      ? new RsaOaepParams(MechanismEnum.SHA256, RsaMgf.MGF1_SHA256)
      : new RsaOaepParams(MechanismEnum.SHA_1, RsaMgf.MGF1_SHA1);
  return { name: 'RSA_PKCS_OAEP', params };
}
