/**
 * Verifies what an authenticator answers when it has made a passkey: WebAuthn Level 3, section 7.1.
 *
 * - The user must have been present and verified, on a site of the relying party; the algorithm is
 *   one of three; where that is demanded, the passkey never leaves its authenticator.
 * - With roots, an attestation must chain to one of them. Without, none is asked for, and nothing
 *   that an authenticator says of itself is believed.
 * - Nothing is fetched: chains of certificates are verified here, without lists of revoked ones.
 *
 * Formats are parsed, and signatures of attestations verified, by @simplewebauthn/server, which is
 * loaded by the first registration. Knows no caller and no row.
 */
import { X509Certificate } from 'node:crypto';
import { KeywardError } from '../errors.ts';
import { PASSKEY_ALGORITHMS, type PasskeyRecord } from '../hsm/approval-records.ts';
import { parseClientData, problemWithClientData } from '../hsm/assertion.ts';
import { publicKeyOfCose } from '../hsm/cose-key.ts';
import { VERDICT } from '../hsm/protocol.ts';
import type { AnyId } from '../ids.ts';

/** What an authenticator answers. */
export interface NewCredential {
  readonly credentialId: Buffer;
  readonly clientDataJson: Buffer;
  readonly attestationObject: Buffer;
}

/** What must hold of it. */
export interface RegistrationRules {
  readonly relyingPartyId: string;
  /** Whether passkeys are refused that can be copied to other devices. */
  readonly isDeviceBoundOnly: boolean;
  /** Under which an attestation must verify; undefined where none is asked for. */
  readonly attestationRoots: readonly X509Certificate[] | undefined;
}

/** What is known of a passkey that was registered. */
export type RegisteredCredential = Pick<
  PasskeyRecord,
  'credentialId' | 'algorithm' | 'publicKey' | 'signCount' | 'isBackupEligible' | 'aaguid'
> &
  Pick<PasskeyRecord, 'attestation' | 'relyingPartyId'>;

/** The formats of attestations that are accepted with roots. */
const ATTESTED_FORMATS = ['packed', 'tpm', 'android-key', 'apple'] as const;
/** Formats for which the library has roots of its own. */
const FORMATS_WITH_ROOTS = ['android-key', 'android-safetynet', 'apple', 'mds'] as const;

/** Returns why a passkey is not accepted. */
export function notAccepted(problem: string, cause?: unknown): KeywardError {
  return new KeywardError('PASSKEY_NOT_ACCEPTED', {
    message: `cannot register the passkey: ${problem}`,
    cause,
  });
}

/** Returns the challenge that the answer is to; undefined where there is none. */
export function challengeIn({ clientDataJson }: NewCredential): Buffer | undefined {
  const challenge = parseClientData(clientDataJson)?.['challenge'];
  return typeof challenge === 'string' ? Buffer.from(challenge, 'base64url') : undefined;
}

/**
 * Returns what the answer to this challenge says of the new passkey. Throws PASSKEY_NOT_ACCEPTED.
 */
export async function verifyRegistration(
  credential: NewCredential,
  challenge: Buffer,
  rules: RegistrationRules,
): Promise<RegisteredCredential> {
  const { relyingPartyId, isDeviceBoundOnly, attestationRoots } = rules;
  const expected = { type: 'webauthn.create', challenge, relyingPartyId } as const;
  const problem = problemWithClientData(credential.clientDataJson, expected);
  if (problem === VERDICT.origin)
    throw notAccepted(`it was made on a page that is not of ${relyingPartyId}`);
  if (problem !== undefined) throw notAccepted('its client data is not of a registration');
  const { statement, format, ...made } = await parse(credential, challenge, relyingPartyId);
  if (isDeviceBoundOnly && made.isBackupEligible)
    throw notAccepted(
      'it can be copied to other devices, and only device-bound passkeys are accepted; use a ' +
        'security key',
    );
  const attestation = attestationOf(format, statement, attestationRoots);
  return { ...made, attestation, relyingPartyId };
}

/** The certificates of an attestation statement, its own first; empty where there are none. */
type Statement = readonly Uint8Array[];

async function parse(
  { credentialId, clientDataJson, attestationObject }: NewCredential,
  challenge: Buffer,
  relyingPartyId: string,
) {
  const { verifyRegistrationResponse, SettingsService } = await import('@simplewebauthn/server');
  const helpers = await import('@simplewebauthn/server/helpers');
  // Else it verifies chains itself, and fetches what certificates name.
  for (const identifier of FORMATS_WITH_ROOTS)
    SettingsService.setRootCertificates({ identifier, certificates: [] });
  const id = credentialId.toString('base64url');
  try {
    const { registrationInfo: info } = await verifyRegistrationResponse({
      response: {
        id,
        rawId: id,
        type: 'public-key',
        clientExtensionResults: {},
        response: {
          clientDataJSON: clientDataJson.toString('base64url'),
          attestationObject: attestationObject.toString('base64url'),
        },
      },
      expectedChallenge: challenge.toString('base64url'),
      expectedOrigin: `${parseClientData(clientDataJson)?.['origin']}`,
      expectedRPID: relyingPartyId,
      supportedAlgorithmIDs: Object.values(PASSKEY_ALGORITHMS),
    });
    if (info === undefined) throw new Error('its attestation does not verify');
    if (info.credential.id !== id) throw new Error('it is of another credential');
    const cose = helpers.decodeCredentialPublicKey(info.credential.publicKey);
    const statement = helpers
      .decodeAttestationObject(new Uint8Array(attestationObject))
      .get('attStmt');
    return {
      credentialId,
      ...publicKeyOfCose(cose as unknown as ReadonlyMap<number, unknown>),
      signCount: info.credential.counter,
      isBackupEligible: info.credentialDeviceType === 'multiDevice',
      aaguid: info.aaguid as AnyId,
      format: info.fmt,
      statement: (statement.get('x5c') ?? []) as Statement,
    };
  } catch (cause) {
    throw notAccepted(`its answer does not verify: ${(cause as Error).message}`, cause);
  }
}

/** Returns `none`, or the format of an attestation that chains to a root. */
function attestationOf(
  format: string,
  certificates: Statement,
  roots: readonly X509Certificate[] | undefined,
): string {
  if (roots === undefined) {
    if (certificates.length === 0) return 'none';
    throw notAccepted('it has an attestation, and none was asked for');
  }
  if (certificates.length === 0 || !ATTESTED_FORMATS.some((each) => each === format))
    throw notAccepted('it has no attestation by its maker, and one is demanded');
  if (!chainsTo(roots, certificates))
    throw notAccepted('its attestation is not by a maker whose root certificate is configured');
  return format;
}

/** Whether the first certificate chains by the others to a root, and all are good now. */
function chainsTo(roots: readonly X509Certificate[], certificates: Statement): boolean {
  let chain: X509Certificate[];
  try {
    chain = certificates.map((each) => new X509Certificate(each));
  } catch {
    return false;
  }
  const last = chain.at(-1);
  const isChain = chain.every((each, index) => {
    const issuer = chain[index + 1];
    return isInTime(each) && (issuer === undefined || isIssuedBy(each, issuer));
  });
  return (
    last !== undefined &&
    isChain &&
    roots.some((root) => isInTime(root) && (endsWith(chain, root) || isSignedBy(last, root)))
  );
}

/** A chain may end with the root itself, which signs no passkey. */
function endsWith(chain: readonly X509Certificate[], root: X509Certificate): boolean {
  return chain.length > 1 && chain.at(-1)?.raw.equals(root.raw) === true;
}

function isIssuedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return issuer.ca && isSignedBy(certificate, issuer);
}

/** As by a root, which is one because it is configured. */
function isSignedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}

function isInTime({ validFromDate, validToDate }: X509Certificate): boolean {
  const now = new Date();
  return validFromDate <= now && now <= validToDate;
}
