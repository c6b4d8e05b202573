/**
 * An authenticator in software, and the browser before it: makes passkeys and signs with them as
 * WebAuthn Level 3 has it, sections 6.3 and 7.
 *
 * It does as it is told: of what it answers, each field can be made wrong. Knows no service.
 */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
} from 'node:crypto';

/** The signature algorithms that it has. */
export type AuthenticatorAlgorithm = 'ES256' | 'EdDSA' | 'RS256';

export interface AuthenticatorOptions {
  /** The relying party's domain. */
  readonly rpId: string;
  /** The page that asks, as `https://keyward.example`. */
  readonly origin: string;
  /** Whether its passkeys are copied to other devices, without counters; not, if absent. */
  readonly isBackupEligible?: boolean;
  readonly algorithm?: AuthenticatorAlgorithm;
  /** Its model: 16 bytes; zeros if absent. */
  readonly aaguid?: Buffer;
  /** Its maker's word for each passkey: a key and certificates, its own first. None if absent. */
  readonly attestation?: { readonly key: KeyObject; readonly certificates: readonly Buffer[] };
}

/** What can be said otherwise than it is. */
interface Answer {
  readonly type?: string;
  readonly challenge?: Buffer | string;
  readonly origin?: string;
  readonly crossOrigin?: unknown;
  readonly topOrigin?: string;
  readonly rpId?: string;
  readonly userPresent?: boolean;
  readonly userVerified?: boolean;
  readonly backupEligible?: boolean;
  readonly backedUp?: boolean;
  readonly signCount?: number;
}

/** What is asked of it to sign, and how it is to err. */
export interface AssertionRequest extends Answer {
  readonly challenge: Buffer;
  readonly credentialId: Buffer;
  /** Whose key signs instead of the passkey's. */
  readonly signWith?: KeyObject;
  /** What the authenticator data ends with besides, whatever its flags say. */
  readonly extraData?: Buffer;
}

/** A new passkey, as a browser hands it on. */
export interface NewPasskey {
  readonly credentialId: Buffer;
  readonly clientDataJson: Buffer;
  readonly attestationObject: Buffer;
  readonly transports: readonly string[];
}

/** An assertion, as a browser hands it on. */
export interface SignedAssertion {
  readonly credentialId: Buffer;
  readonly clientDataJson: Buffer;
  readonly authenticatorData: Buffer;
  readonly signature: Buffer;
}

/** A passkey as it is kept. */
export interface KeptPasskey {
  /** In base64url. */
  readonly credentialId: string;
  /** PKCS #8 in PEM. */
  readonly privateKey: string;
  readonly signCount: number;
}

interface HeldPasskey {
  readonly privateKey: KeyObject;
  signCount: number;
}

const FLAG = {
  userPresent: 0x01,
  userVerified: 0x04,
  backupEligible: 0x08,
  backedUp: 0x10,
  attestedData: 0x40,
} as const;
const COSE_NUMBER = { ES256: -7, EdDSA: -8, RS256: -257 } as const;

/** Makes passkeys and signs with them, in software. */
export class SoftwareAuthenticator {
  readonly #options: AuthenticatorOptions;
  readonly #passkeys = new Map<string, HeldPasskey>();

  constructor(options: AuthenticatorOptions) {
    this.#options = options;
  }

  /**
   * Makes a passkey as the options in JSON ask for (PublicKeyCredentialCreationOptionsJSON), and
   * answers as it is told. Throws where they do not take its algorithm, or exclude what it holds.
   */
  create(creationOptionsJson: string, answer: Answer = {}): NewPasskey {
    const options = JSON.parse(creationOptionsJson) as {
      readonly challenge: string;
      readonly pubKeyCredParams: readonly { readonly alg: number }[];
      readonly excludeCredentials?: readonly { readonly id: string }[];
    };
    const { algorithm = 'ES256', attestation } = this.#options;
    if (!options.pubKeyCredParams.some(({ alg }) => alg === COSE_NUMBER[algorithm]))
      throw new Error('NotSupportedError: no algorithm in common');
    if (options.excludeCredentials?.some(({ id }) => this.#passkeys.has(id)))
      throw new Error('InvalidStateError: the authenticator has a passkey for this account');
    const credentialId = this.hold();
    const clientDataJson = this.#clientData({
      type: 'webauthn.create',
      challenge: options.challenge,
      ...answer,
    });
    const { privateKey } = this.#held(credentialId);
    const authenticatorData = Buffer.concat([
      this.#head({ ...answer, signCount: answer.signCount ?? 0 }, FLAG.attestedData),
      this.#options.aaguid ?? Buffer.alloc(16),
      u16(credentialId.length),
      credentialId,
      cbor(coseKey(privateKey, algorithm)),
    ]);
    const signed = Buffer.concat([authenticatorData, sha256(clientDataJson)]);
    const statement = new Map<CborKey, Cbor>();
    if (attestation !== undefined) {
      statement.set('alg', COSE_NUMBER.ES256);
      statement.set('sig', sign('sha256', signed, attestation.key));
      statement.set('x5c', [...attestation.certificates]);
    }
    const attestationObject = cbor(
      new Map<CborKey, Cbor>([
        ['fmt', attestation === undefined ? 'none' : 'packed'],
        ['attStmt', statement],
        ['authData', authenticatorData],
      ]),
    );
    return { credentialId, clientDataJson, attestationObject, transports: ['internal'] };
  }

  /** Takes a passkey that was kept, by {@link keep}. */
  restore({ credentialId, privateKey, signCount }: KeptPasskey): void {
    this.#passkeys.set(credentialId, { privateKey: createPrivateKey(privateKey), signCount });
  }

  /** Returns a passkey in a form that can be kept. */
  keep(credentialId: Buffer): KeptPasskey {
    const { privateKey, signCount } = this.#held(credentialId);
    return {
      credentialId: credentialId.toString('base64url'),
      privateKey: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
      signCount,
    };
  }

  /** Makes a passkey that nobody has asked for, and returns its id. */
  hold(): Buffer {
    const credentialId = randomBytes(32);
    const { algorithm = 'ES256' } = this.#options;
    const held = { privateKey: newPrivateKey(algorithm), signCount: 0 };
    this.#passkeys.set(credentialId.toString('base64url'), held);
    return credentialId;
  }

  /** Signs a challenge with a passkey, and answers as it is told. */
  get(request: AssertionRequest): SignedAssertion {
    const { credentialId, extraData = Buffer.alloc(0), signWith } = request;
    const held = this.#held(credentialId);
    // Passkeys on several devices have no counter in common.
    if (this.#options.isBackupEligible !== true) held.signCount += 1;
    const clientDataJson = this.#clientData({ type: 'webauthn.get', ...request });
    const head = this.#head({ signCount: held.signCount, ...request });
    const authenticatorData = Buffer.concat([head, extraData]);
    const signed = Buffer.concat([authenticatorData, sha256(clientDataJson)]);
    const key = signWith ?? held.privateKey;
    const digest = key.asymmetricKeyType === 'ed25519' ? null : 'sha256';
    return {
      credentialId,
      clientDataJson,
      authenticatorData,
      signature: sign(digest, signed, key),
    };
  }

  /** Returns the public key of a passkey: SPKI, DER. */
  publicKeyOf(credentialId: Buffer): Buffer {
    const publicKey = createPublicKey(this.#held(credentialId).privateKey);
    return publicKey.export({ format: 'der', type: 'spki' });
  }

  /** Returns the private key of a passkey. */
  privateKeyOf(credentialId: Buffer): KeyObject {
    return this.#held(credentialId).privateKey;
  }

  #held(credentialId: Buffer): HeldPasskey {
    const held = this.#passkeys.get(credentialId.toString('base64url'));
    if (held === undefined) throw new Error('NotAllowedError: there is no such passkey');
    return held;
  }

  #clientData({ type, challenge = '', origin, crossOrigin = false, topOrigin }: Answer): Buffer {
    const encoded = typeof challenge === 'string' ? challenge : challenge.toString('base64url');
    return Buffer.from(
      JSON.stringify({
        type,
        challenge: encoded,
        origin: origin ?? this.#options.origin,
        crossOrigin,
        topOrigin,
      }),
    );
  }

  #head(answer: Answer, more = 0): Buffer {
    const { rpId = this.#options.rpId, userPresent = true, userVerified = true } = answer;
    const { backupEligible = this.#options.isBackupEligible === true } = answer;
    const { backedUp = backupEligible, signCount = 0 } = answer;
    const end = Buffer.alloc(5);
    end.writeUInt8(
      more |
        (userPresent ? FLAG.userPresent : 0) |
        (userVerified ? FLAG.userVerified : 0) |
        (backupEligible ? FLAG.backupEligible : 0) |
        (backedUp ? FLAG.backedUp : 0),
      0,
    );
    end.writeUInt32BE(signCount, 1);
    return Buffer.concat([sha256(Buffer.from(rpId)), end]);
  }
}

/** Returns a new private key of an algorithm. */
export function newPrivateKey(algorithm: AuthenticatorAlgorithm): KeyObject {
  switch (algorithm) {
    case 'ES256':
      return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
    case 'EdDSA':
      return generateKeyPairSync('ed25519').privateKey;
    case 'RS256':
      return generateKeyPairSync('rsa', { modulusLength: 2_048 }).privateKey;
  }
}

/** A public key as COSE has it (RFC 9053, section 7; RFC 8230). */
function coseKey(privateKey: KeyObject, algorithm: AuthenticatorAlgorithm): Cbor {
  const jwk = createPublicKey(privateKey).export({ format: 'jwk' });
  const part = (name: 'x' | 'y' | 'n' | 'e') => Buffer.from(jwk[name] ?? '', 'base64url');
  const number = COSE_NUMBER[algorithm];
  switch (algorithm) {
    case 'ES256':
      return map([1, 2], [3, number], [-1, 1], [-2, part('x')], [-3, part('y')]);
    case 'EdDSA':
      return map([1, 1], [3, number], [-1, 6], [-2, part('x')]);
    case 'RS256':
      return map([1, 3], [3, number], [-1, part('n')], [-2, part('e')]);
  }
}

type CborKey = number | string;
type Cbor = number | string | Buffer | readonly Cbor[] | ReadonlyMap<CborKey, Cbor>;

function map(...entries: readonly (readonly [CborKey, Cbor])[]): Cbor {
  return new Map(entries);
}

/** CBOR (RFC 8949) of the few kinds of value that occur here. */
function cbor(value: Cbor): Buffer {
  if (typeof value === 'number') return value >= 0 ? cborHead(0, value) : cborHead(1, -1 - value);
  if (typeof value === 'string') {
    const bytes = Buffer.from(value);
    return Buffer.concat([cborHead(3, bytes.length), bytes]);
  }
  if (Buffer.isBuffer(value)) return Buffer.concat([cborHead(2, value.length), value]);
  if (value instanceof Map)
    return Buffer.concat([
      cborHead(5, value.size),
      ...[...value].flatMap(([key, each]) => [cbor(key), cbor(each)]),
    ]);
  const items = [...(value as readonly Cbor[])];
  return Buffer.concat([cborHead(4, items.length), ...items.map(cbor)]);
}

function cborHead(major: number, value: number): Buffer {
  if (value < 24) return Buffer.of((major << 5) | value);
  if (value < 0x100) return Buffer.of((major << 5) | 24, value);
  const head = Buffer.alloc(3);
  head.writeUInt8((major << 5) | 25, 0);
  head.writeUInt16BE(value, 1);
  return head;
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function sha256(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest();
}
