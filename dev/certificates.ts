/**
 * Certificate authorities and certificates for development and tests: EC P-256, X.509 v3 (RFC
 * 5280).
 *
 * Owns what goes into such a certificate. Never for production: the authority's key lies in a file
 * beside what it issues. Written out here because the libraries for it want a global polyfill in
 * every process that loads them. Knows nothing of where files are kept.
 */
import {
  createHash,
  createPrivateKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
} from 'node:crypto';
import { isIPv4 } from 'node:net';
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
} from './der.ts';

const DAY_MS = 86_400_000;
/** Clocks differ: a certificate is valid from a little before it is made. */
const BACKDATE_MS = 5 * 60_000;
/** An uncompressed point of P-256 ends its SubjectPublicKeyInfo. */
const POINT_BYTES = 65;

const OID = {
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  commonName: '2.5.4.3',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAlternativeName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
} as const;

const EXTENDED_KEY_USAGE = { server: '1.3.6.1.5.5.7.3.1', client: '1.3.6.1.5.5.7.3.2' } as const;

/** A certificate and its private key (PKCS#8), both PEM. */
export interface Credentials {
  readonly certPem: string;
  readonly keyPem: string;
}

/** What is to be certified. */
export interface CertificateRequest {
  /** The common name. */
  readonly subject: string;
  /** What the certificate may be used for; `none` leaves extended key usage out. */
  readonly usage: 'server' | 'client' | 'none';
  readonly uris?: readonly string[];
  readonly dns?: readonly string[];
  readonly ips?: readonly string[];
  /** By default five minutes ago. */
  readonly notBefore?: Date;
  /** By default in a year. */
  readonly notAfter?: Date;
}

/** An authority, able to issue. */
export interface CertificateAuthority extends Credentials {
  /** A new key and a certificate of it. */
  issue(request: CertificateRequest): Credentials;
}

/** A new authority with a key of its own, valid for ten years unless told otherwise. */
export function createCertificateAuthority(
  name: string,
  { notBefore = backdated(), notAfter = inDays(3650) }: { notBefore?: Date; notAfter?: Date } = {},
): CertificateAuthority {
  const key = newKey();
  const certificate = {
    subject: name,
    issuer: name,
    publicKey: key.spki,
    signer: key.privateKey,
    notBefore,
    notAfter,
    extensions: [
      extension(OID.basicConstraints, sequence(boolean(true)), 'critical'),
      // keyCertSign and cRLSign
      extension(OID.keyUsage, bitString(Buffer.from([0x06]), 1), 'critical'),
      extension(OID.subjectKeyIdentifier, octetString(keyIdentifier(key.spki))),
    ],
  };
  return authority(name, key.privateKey, key.spki, {
    certPem: writeCertificate(certificate),
    keyPem: key.pem,
  });
}

/** The authority of that name whose certificate and key were kept. */
export function restoreCertificateAuthority(
  name: string,
  credentials: Credentials,
): CertificateAuthority {
  const privateKey = createPrivateKey(credentials.keyPem);
  const publicPoint = privateKey.export({ format: 'jwk' });
  const point = Buffer.concat([
    Buffer.from([0x04]),
    Buffer.from(publicPoint.x ?? '', 'base64url'),
    Buffer.from(publicPoint.y ?? '', 'base64url'),
  ]);
  return authority(name, privateKey, point, credentials);
}

function authority(
  name: string,
  signer: KeyObject,
  publicKey: Buffer,
  credentials: Credentials,
): CertificateAuthority {
  const issuerKeyIdentifier = keyIdentifier(publicKey);
  return {
    ...credentials,
    issue: (request) => {
      const key = newKey();
      const certPem = writeCertificate({
        subject: request.subject,
        issuer: name,
        publicKey: key.spki,
        signer,
        notBefore: request.notBefore ?? backdated(),
        notAfter: request.notAfter ?? inDays(365),
        extensions: leafExtensions(request, key.spki, issuerKeyIdentifier),
      });
      return { certPem, keyPem: key.pem };
    },
  };
}

function leafExtensions(
  request: CertificateRequest,
  spki: Buffer,
  issuerKeyIdentifier: Buffer,
): Buffer[] {
  const names = alternativeNames(request);
  const extensions = [
    extension(OID.basicConstraints, sequence(), 'critical'),
    // digitalSignature
    extension(OID.keyUsage, bitString(Buffer.from([0x80]), 7), 'critical'),
    extension(OID.subjectKeyIdentifier, octetString(keyIdentifier(spki))),
    extension(OID.authorityKeyIdentifier, sequence(element(0x80, issuerKeyIdentifier))),
  ];
  if (request.usage !== 'none') {
    const usage = objectIdentifier(EXTENDED_KEY_USAGE[request.usage]);
    extensions.push(extension(OID.extendedKeyUsage, sequence(usage)));
  }
  if (names.length > 0) extensions.push(extension(OID.subjectAlternativeName, sequence(...names)));
  return extensions;
}

/** GeneralName: dNSName is 2, uniformResourceIdentifier 6, iPAddress 7 (RFC 5280, 4.2.1.6). */
function alternativeNames({ dns = [], uris = [], ips = [] }: CertificateRequest): Buffer[] {
  return [
    ...dns.map((name) => element(0x82, Buffer.from(name, 'ascii'))),
    ...uris.map((uri) => element(0x86, Buffer.from(uri, 'ascii'))),
    ...ips.map((ip) => element(0x87, addressBytes(ip))),
  ];
}

interface CertificateContent {
  readonly subject: string;
  readonly issuer: string;
  /** SubjectPublicKeyInfo. */
  readonly publicKey: Buffer;
  readonly signer: KeyObject;
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly extensions: readonly Buffer[];
}

/** Certificate (RFC 5280, 4.1), as PEM. */
function writeCertificate(content: CertificateContent): string {
  const algorithm = sequence(objectIdentifier(OID.ecdsaWithSha256));
  const toBeSigned = sequence(
    element(0xa0, integer(Buffer.from([2]))),
    integer(randomBytes(16)),
    algorithm,
    commonName(content.issuer),
    sequence(time(content.notBefore), time(content.notAfter)),
    commonName(content.subject),
    content.publicKey,
    element(0xa3, sequence(...content.extensions)),
  );
  const signature = sign('sha256', toBeSigned, content.signer);
  const lines =
    sequence(toBeSigned, algorithm, bitString(signature))
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n');
}

function commonName(name: string): Buffer {
  return sequence(set(sequence(objectIdentifier(OID.commonName), utf8String(name))));
}

function extension(oid: string, value: Buffer, critical?: 'critical'): Buffer {
  const flag = critical === undefined ? [] : [boolean(true)];
  return sequence(objectIdentifier(oid), ...flag, octetString(value));
}

/** The leftmost 160 bits of the public point's SHA-256 (RFC 7093). */
function keyIdentifier(publicKey: Buffer): Buffer {
  return createHash('sha256').update(publicKey.subarray(-POINT_BYTES)).digest().subarray(0, 20);
}

function newKey(): { privateKey: KeyObject; spki: Buffer; pem: string } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    privateKey,
    spki: publicKey.export({ type: 'spki', format: 'der' }),
    pem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}

function addressBytes(ip: string): Buffer {
  if (isIPv4(ip)) return Buffer.from(ip.split('.').map(Number));
  const [head = '', tail] = ip.split('::');
  const groups = (text: string) =>
    text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16));
  const before = groups(head);
  const after = groups(tail ?? '');
  const zeros = Array<number>(8 - before.length - after.length).fill(0);
  return Buffer.from(
    [...before, ...zeros, ...after].flatMap((group) => [group >> 8, group & 0xff]),
  );
}

function backdated(): Date {
  return new Date(Date.now() - BACKDATE_MS);
}

function inDays(days: number): Date {
  return new Date(Date.now() + days * DAY_MS);
}
