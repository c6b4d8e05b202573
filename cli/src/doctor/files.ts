/**
 * Checks the files that a caller names: the CA, the certificate with its key, the token.
 *
 * - Nothing is sent anywhere.
 * - Of a token its issuer, audience, subject and times are shown, and of a key nothing.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileTrouble } from '../failures.ts';
import { type Found, Trouble } from './examination.ts';

/** Clocks differ by as much, for the service (`exp`, `nbf`). */
export const LEEWAY_MS = 30_000;

const CERTIFICATES = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** A caller's certificate and its private key. */
export interface Identity {
  readonly cert: string;
  readonly key: string;
  readonly certificate: X509Certificate;
}

/** Checks the CA's file. Returns its PEM. */
export function checkCa(file: string): Found<string> {
  const pem = read(file);
  const [first, ...more] = certificatesIn(file, pem);
  if (first === undefined) throw noCertificate(file, pem, 'the CA’s certificate');
  for (const certificate of [first, ...more]) requireTimely(file, certificate, 'the CA’s new one');
  const others = more.length === 0 ? '' : `, and ${more.length} more`;
  return { found: `${file}: ${described(first)}${others}`, value: pem };
}

/** Checks the caller's certificate and its key. */
export function checkCertificate(certFile: string, keyFile: string): Found<Identity> {
  const cert = read(certFile);
  const [certificate] = certificatesIn(certFile, cert);
  if (certificate === undefined) throw noCertificate(certFile, cert, 'your certificate');
  const key = read(keyFile);
  if (!certificate.checkPrivateKey(privateKeyIn(keyFile, key)))
    throw new Trouble(
      `the key in ${keyFile} is not that of the certificate in ${certFile}`,
      'name the key that the certificate was requested with, or get a certificate for this key',
    );
  requireTimely(certFile, certificate, 'a new one');
  return { found: `${certFile}: ${described(certificate)}`, value: { cert, key, certificate } };
}

/** Checks what a token says of itself, and whether it goes with the certificate. */
export function checkToken(text: string, certificate: X509Certificate | undefined): Found<string> {
  const claims = claimsOf(text);
  const { exp, nbf, iat } = claims;
  const now = Date.now();
  if (typeof exp === 'number' && now >= exp * 1000 + LEEWAY_MS)
    throw new Trouble(`the token expired at ${when(exp)}`, 'get a new one from its issuer');
  const from = Math.max(...[nbf, iat].filter((time) => typeof time === 'number'));
  if (from * 1000 > now + LEEWAY_MS)
    throw new Trouble(
      `the token is not valid before ${when(from)}, and your clock shows ${when(now / 1000)}`,
      'set your clock; if it is right, ask the issuer about its own',
    );
  requireBound(claims, certificate);
  const { iss, aud, sub } = claims;
  const until = typeof exp === 'number' ? `, until ${when(exp)}` : '';
  const whose = `of issuer ${shown(iss)}, for audience ${shown(aud)}, subject ${shown(sub)}`;
  return { found: whose + until, value: text };
}

/** A bound token goes with its certificate alone, and a certificate with no other token. */
function requireBound(claims: Claims, certificate: X509Certificate | undefined): void {
  const { 'x5t#S256': bound } = (claims['cnf'] ?? {}) as { readonly 'x5t#S256'?: unknown };
  if (bound === undefined && certificate !== undefined)
    throw new Trouble(
      'the token is not bound to your certificate, and the service takes no two proofs',
      'give the certificate or the token, or get a token that is bound to the certificate',
    );
  if (bound === undefined) return;
  if (certificate === undefined)
    throw new Trouble(
      'the token is bound to a certificate, and none is given',
      'give --cert-file and --key-file',
    );
  const thumbprint = Buffer.from(certificate.fingerprint256.replaceAll(':', ''), 'hex');
  if (bound !== thumbprint.toString('base64url'))
    throw new Trouble(
      'the token is bound to another certificate than yours',
      'get a token with this certificate, or give the certificate that it was got with',
    );
}

type Claims = Readonly<Record<string, unknown>>;

function claimsOf(text: string): Claims {
  try {
    const claims: unknown = JSON.parse(
      Buffer.from(text.split('.')[1] ?? '', 'base64url').toString(),
    );
    if (typeof claims === 'object' && claims !== null) return { ...claims };
  } catch {}
  throw new Trouble('the token is not a JWT', 'give the token alone, as its issuer gave it');
}

function shown(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? 'none');
}

function when(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace(/\.\d+Z$/, 'Z');
}

/** Returns a file's text. Throws Trouble where it cannot be read. */
export function read(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch (error) {
    throw new Trouble(`cannot read ${file}: ${fileTrouble(error)}`, 'name another file', error);
  }
}

function certificatesIn(file: string, pem: string): X509Certificate[] {
  try {
    return [...pem.matchAll(CERTIFICATES)].map(([block]) => new X509Certificate(block));
  } catch (error) {
    throw new Trouble(`${file} has a certificate that cannot be read`, 'get it again', error);
  }
}

function noCertificate(file: string, content: string, wanted: string): Trouble {
  const found = `${file} has no certificate in PEM`;
  if (isDer(content))
    return new Trouble(
      `${found}; it has one in DER`,
      `write it in PEM: openssl x509 -inform der -in ${file} -out NAME.pem`,
    );
  const [, kind] = /-----BEGIN ([A-Z ]+)-----/.exec(content) ?? [];
  const instead = kind === undefined ? '' : `; it has ${kind}`;
  return new Trouble(`${found}${instead}`, `name the PEM file with ${wanted}`);
}

function isDer(content: string): boolean {
  try {
    return new X509Certificate(Buffer.from(content, 'latin1')).subject !== undefined;
  } catch {
    return false;
  }
}

function privateKeyIn(file: string, pem: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (error) {
    const isLocked = /ENCRYPTED/.test(pem);
    throw new Trouble(
      `${file} has no private key in PEM${isLocked ? ' that has no passphrase' : ''}`,
      isLocked ? 'write it without one: openssl pkey -in FILE -out NAME.pem' : 'name another file',
      error,
    );
  }
}

function requireTimely(file: string, certificate: X509Certificate, newOne: string): void {
  const { validFrom, validTo } = certificate;
  const now = Date.now();
  if (now > Date.parse(validTo))
    throw new Trouble(
      `the certificate in ${file} expired at ${iso(validTo)}`,
      `get ${newOne}; your clock shows ${new Date(now).toISOString()}`,
    );
  if (now < Date.parse(validFrom))
    throw new Trouble(
      `the certificate in ${file} is not valid before ${iso(validFrom)}`,
      `set your clock, which shows ${new Date(now).toISOString()}`,
    );
}

/** Returns whose a certificate is, and until when. */
export function described({ subject, validTo }: X509Certificate): string {
  return `${(subject ?? '').replaceAll('\n', ', ')}, until ${iso(validTo)}`;
}

function iso(time: string): string {
  return when(Date.parse(time) / 1000);
}
