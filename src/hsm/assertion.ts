/**
 * Verifies assertions of passkeys as WebAuthn Level 3, section 7.2, has it, by node:crypto alone.
 *
 * - The user must be present and verified, on a site of the relying party that is in no other's
 *   frame.
 * - A signature is verified under the algorithm of the passkey and no other.
 *
 * Knows neither what is decided nor whose passkey it is.
 */
import {
  createPublicKey,
  hash,
  type KeyObject,
  type VerifyKeyObjectInput,
  verify,
} from 'node:crypto';
import { type Assertion, PASSKEY_ALGORITHMS, type PasskeyRecord } from './approval-records.ts';
import { VERDICT, type Verdict } from './protocol.ts';

/** What an assertion is verified against. */
export type AssertedPasskey = Pick<
  PasskeyRecord,
  'algorithm' | 'publicKey' | 'signCount' | 'isBackupEligible' | 'relyingPartyId'
>;

/**
 * Returns whether an assertion is this passkey's over this challenge, with the user present and
 * verified; otherwise the first thing that is wrong.
 */
export function verifyAssertion(
  passkey: AssertedPasskey,
  challenge: Buffer,
  assertion: Assertion,
): Verdict {
  const { relyingPartyId } = passkey;
  const expected = { type: 'webauthn.get', challenge, relyingPartyId } as const;
  return (
    problemWithClientData(assertion.clientDataJson, expected) ??
    problemWithAuthenticatorData(assertion.authenticatorData, passkey) ??
    (isSigned(passkey, assertion) ? undefined : VERDICT.signature) ??
    problemWithCounter(signCountOf(assertion.authenticatorData), passkey) ??
    VERDICT.done
  );
}

/** What client data must say. */
export interface ExpectedClientData {
  readonly type: 'webauthn.create' | 'webauthn.get';
  readonly challenge: Buffer;
  readonly relyingPartyId: string;
}

/**
 * Returns what is wrong with client data: that it is no such thing, of another challenge, of
 * another site or within a frame; undefined for nothing.
 */
export function problemWithClientData(
  clientDataJson: Buffer,
  { type, challenge, relyingPartyId }: ExpectedClientData,
): Verdict | undefined {
  const clientData = parseClientData(clientDataJson);
  if (clientData?.['type'] !== type) return VERDICT.clientData;
  if (clientData['challenge'] !== challenge.toString('base64url')) return VERDICT.challenge;
  // A page within another's frame is where people are led to sign what they do not see.
  const isFramed = (clientData['crossOrigin'] ?? false) !== false || 'topOrigin' in clientData;
  if (isFramed || !isOriginOf(clientData['origin'], relyingPartyId)) return VERDICT.origin;
  return undefined;
}

/** Returns the members of client data; undefined for what is no object in JSON. */
export function parseClientData(bytes: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === 'object' ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Tells whether it is the origin of a site of the relying party: by https its domain or one below;
 * `localhost` also by http.
 */
function isOriginOf(origin: unknown, relyingPartyId: string): boolean {
  if (typeof origin !== 'string' || !URL.canParse(origin)) return false;
  const { protocol, hostname, origin: canonical } = new URL(origin);
  if (origin !== canonical) return false;
  if (protocol === 'http:') return hostname === 'localhost' && relyingPartyId === 'localhost';
  if (protocol !== 'https:') return false;
  return hostname === relyingPartyId || hostname.endsWith(`.${relyingPartyId}`);
}

/** SHA-256 of the relying party's id, flags, and the counter; extensions may follow. */
const RP_ID_HASH_BYTES = 32;
const FLAGS_OFFSET = 32;
const COUNTER_OFFSET = 33;
const AUTHENTICATOR_DATA_BYTES = 37;
const FLAG = {
  userPresent: 0x01,
  userVerified: 0x04,
  backupEligible: 0x08,
  backedUp: 0x10,
  attestedData: 0x40,
  extensions: 0x80,
} as const;

function problemWithAuthenticatorData(
  data: Buffer,
  { relyingPartyId, isBackupEligible }: AssertedPasskey,
): Verdict | undefined {
  if (data.length < AUTHENTICATOR_DATA_BYTES) return VERDICT.authenticatorData;
  const flags = data.readUInt8(FLAGS_OFFSET);
  const has = (flag: keyof typeof FLAG) => (flags & FLAG[flag]) !== 0;
  if (data.length > AUTHENTICATOR_DATA_BYTES && !has('attestedData') && !has('extensions'))
    return VERDICT.authenticatorData;
  if (!data.subarray(0, RP_ID_HASH_BYTES).equals(hash('sha256', relyingPartyId, 'buffer')))
    return VERDICT.relyingParty;
  if (!has('userPresent')) return VERDICT.userNotPresent;
  if (!has('userVerified')) return VERDICT.userNotVerified;
  if (has('backupEligible') !== isBackupEligible || (has('backedUp') && !isBackupEligible))
    return VERDICT.backupEligibility;
  return undefined;
}

/** Returns the counter in authenticator data. */
export function signCountOf(authenticatorData: Buffer): number {
  return authenticatorData.readUInt32BE(COUNTER_OFFSET);
}

/**
 * A copy of a device-bound passkey shows by a counter that does not grow. Passkeys on several
 * devices have none in common: most stay at 0, and some count on each device.
 */
function problemWithCounter(
  counter: number,
  { signCount, isBackupEligible }: AssertedPasskey,
): Verdict | undefined {
  if (isBackupEligible || counter > signCount) return undefined;
  return counter === 0 && signCount === 0 ? undefined : VERDICT.counter;
}

/** The fewest bits that an RSA key may have. */
const MIN_RSA_BITS = 2_048;

/** What each algorithm's keys are, and how a signature by one is verified. */
const ALGORITHMS: ReadonlyMap<
  number,
  {
    readonly digest: 'sha256' | null;
    readonly isKey: (key: KeyObject) => boolean;
    readonly options?: Pick<VerifyKeyObjectInput, 'dsaEncoding'>;
  }
> = new Map([
  [
    PASSKEY_ALGORITHMS.ES256,
    {
      digest: 'sha256',
      isKey: ({ asymmetricKeyType, asymmetricKeyDetails }) =>
        asymmetricKeyType === 'ec' && asymmetricKeyDetails?.namedCurve === 'prime256v1',
      options: { dsaEncoding: 'der' },
    },
  ],
  [
    PASSKEY_ALGORITHMS.EdDSA,
    { digest: null, isKey: ({ asymmetricKeyType }) => asymmetricKeyType === 'ed25519' },
  ],
  [
    PASSKEY_ALGORITHMS.RS256,
    {
      digest: 'sha256',
      isKey: ({ asymmetricKeyType, asymmetricKeyDetails }) =>
        asymmetricKeyType === 'rsa' && (asymmetricKeyDetails?.modulusLength ?? 0) >= MIN_RSA_BITS,
    },
  ],
]);

/** Whether it is a public key (SPKI) that signatures of the algorithm are verified under. */
export function isKeyOf(algorithm: number, publicKey: Buffer): boolean {
  const key = publicKeyOf(publicKey);
  return key !== undefined && ALGORITHMS.get(algorithm)?.isKey(key) === true;
}

function isSigned({ algorithm, publicKey }: AssertedPasskey, assertion: Assertion): boolean {
  const row = ALGORITHMS.get(algorithm);
  const key = publicKeyOf(publicKey);
  if (row === undefined || key === undefined || !row.isKey(key)) return false;
  const { authenticatorData, clientDataJson, signature } = assertion;
  const signed = Buffer.concat([authenticatorData, hash('sha256', clientDataJson, 'buffer')]);
  return verify(row.digest, signed, { key, ...row.options }, signature);
}

/** Returns the key, or undefined for what is none. */
function publicKeyOf(spki: Buffer): KeyObject | undefined {
  try {
    return createPublicKey({ key: spki, format: 'der', type: 'spki' });
  } catch {
    return undefined;
  }
}
