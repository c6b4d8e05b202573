/**
 * Makers of authenticators, in software: a root certificate, and certificates that vouch for
 * passkeys as WebAuthn Level 3, section 8.2.1, wants them.
 *
 * Knows no test.
 */
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';
import {
  bitString,
  boolean,
  element,
  integer,
  objectIdentifier,
  octetString,
  sequence,
  set,
  time,
  utf8String,
} from '../../dev/der.ts';

const OID = {
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  country: '2.5.4.6',
  organization: '2.5.4.10',
  unit: '2.5.4.11',
  commonName: '2.5.4.3',
  basicConstraints: '2.5.29.19',
} as const;
const YEAR_MS = 365 * 86_400_000;

/** A key and certificates that vouch for passkeys, in DER, the key's own first. */
export interface Attester {
  readonly key: KeyObject;
  readonly certificates: readonly Buffer[];
}

/** A maker of authenticators. */
export interface Maker {
  /** Its root certificate, PEM. */
  readonly rootPem: string;
  /** A batch of authenticators, whose certificate another may stand above. */
  batch(options?: { readonly hasIntermediate?: boolean; readonly isExpired?: boolean }): Attester;
}

/** Returns a new maker of that name. */
export function newMaker(name: string): Maker {
  const root = newKey();
  const rootName = subject(name, 'Root');
  const rootCertificate = certificate(rootName, root, rootName, root, { isAuthority: true });
  return {
    rootPem: pem(rootCertificate),
    batch: ({ hasIntermediate = false, isExpired = false } = {}) => {
      const own = newKey();
      const ownName = subject(name, 'Authenticator Attestation');
      if (!hasIntermediate) {
        const issued = certificate(ownName, own, rootName, root, { isExpired });
        return { key: own.privateKey, certificates: [issued] };
      }
      const between = newKey();
      const betweenName = subject(name, 'Intermediate');
      const above = certificate(betweenName, between, rootName, root, { isAuthority: true });
      const issued = certificate(ownName, own, betweenName, between, { isExpired });
      return { key: own.privateKey, certificates: [issued, above] };
    },
  };
}

interface Pair {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
}

function newKey(): Pair {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' });
}

function subject(maker: string, unit: string): Buffer {
  const part = (oid: string, text: string) =>
    set(sequence(objectIdentifier(oid), utf8String(text)));
  return sequence(
    part(OID.country, 'SE'),
    part(OID.organization, maker),
    part(OID.unit, unit),
    part(OID.commonName, `${maker} ${unit}`),
  );
}

function certificate(
  name: Buffer,
  { publicKey }: Pair,
  issuerName: Buffer,
  issuer: Pair,
  { isAuthority = false, isExpired = false } = {},
): Buffer {
  const algorithm = sequence(objectIdentifier(OID.ecdsaWithSha256));
  const end = Date.now() + (isExpired ? -86_400_000 : YEAR_MS);
  const constraints = isAuthority ? sequence(boolean(true)) : sequence();
  const toBeSigned = sequence(
    element(0xa0, integer(Buffer.of(2))),
    integer(randomBytes(16)),
    algorithm,
    issuerName,
    sequence(time(new Date(end - YEAR_MS)), time(new Date(end))),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    element(
      0xa3,
      sequence(
        sequence(objectIdentifier(OID.basicConstraints), boolean(true), octetString(constraints)),
      ),
    ),
  );
  const signature = sign('sha256', toBeSigned, issuer.privateKey);
  return sequence(toBeSigned, algorithm, bitString(signature));
}

function pem(der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n');
}
