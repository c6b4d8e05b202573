/**
 * Names the caller that a client certificate stands for, and finds it in a deny list.
 *
 * - No value in a certificate reads as another kind of name, or as two.
 * - A certificate without a name of the configured kind, or with one longer than {@link
 *   MAX_NAME_BYTES}, stands for no caller.
 * - The TLS handshake has verified the certificate before.
 */
import { createHash, X509Certificate } from 'node:crypto';
import type { DetailedPeerCertificate, PeerCertificate } from 'node:tls';
import { isDeepStrictEqual } from 'node:util';
import { notAccepted, toldEarly, toldExpired } from './refusal.ts';

/** What of a certificate its caller is known by. */
export const PRINCIPALS = ['spiffe-then-subject', 'spiffe', 'subject', 'dns'] as const;
export type CertificatePrincipal = (typeof PRINCIPALS)[number];

/** A client certificate as calls on its connection need it, worked out once. */
export interface ClientCertificate {
  /** Whom it stands for; undefined when it has no name of the configured kind. */
  readonly name: string | undefined;
  /** SHA-256 of the whole certificate, base64url: what tokens are bound to (RFC 8705, 3.1). */
  readonly thumbprint: string;
  /** By what a deny list may name it. */
  readonly denyKeys: readonly string[];
  /**
   * From when to when it is valid, and what it is issued by too: milliseconds since 1970, both
   * included.
   */
  readonly validity: { readonly from: number; readonly until: number };
}

/**
 * Node's spelling of alternative names: a value that could be taken for several is a JSON string.
 */
const ALTERNATIVE_NAME = /(?:^|, )([^:,]+):("(?:[^"\\]|\\.)*"|[^,]*)/g;
const DNS_NAME = /^[a-z0-9*_.-]{1,253}$/i;

/**
 * The longest name, in bytes: what a SPIFFE id may have (SPIFFE-ID, 2.3). Names are in every log
 * line and audit entry.
 */
export const MAX_NAME_BYTES = 2_048;
/** The longest trust domain of a SPIFFE id, in bytes (the same). */
const MAX_TRUST_DOMAIN_BYTES = 255;
const SPIFFE = 'spiffe://';

/** What there is to know of a certificate that was presented, and verified just now. */
export function clientCertificate(
  peer: PeerCertificate | DetailedPeerCertificate,
  principal: CertificatePrincipal,
): ClientCertificate {
  const digest = createHash('sha256').update(peer.raw).digest();
  const { subjectaltname = '' } = peer;
  const subject = isPlain(peer) ? peer.subject : ({} as PeerCertificate['subject']);
  return {
    name: principalOf({ subjectaltname, subject }, principal),
    thumbprint: digest.toString('base64url'),
    denyKeys: [
      digest.toString('hex'),
      serialKey(peer.serialNumber, distinguishedName(peer.issuer)),
    ],
    validity: validityOf(peer),
  };
}

/** Throws CREDENTIALS_INVALID for a certificate that is not valid at that time. */
export function requireValid({ validity }: ClientCertificate, now: number): void {
  const what = 'the client certificate';
  if (now > validity.until)
    throw notAccepted(`${what} has expired`, toldExpired(what, validity.until));
  if (now < validity.from)
    throw notAccepted(`${what} is not valid yet`, toldEarly(what, validity.from));
}

/**
 * Of all the chain: a certificate ends with its issuer's. An issuer that was not valid in the
 * handshake is not the one that it verified by, but another of that name.
 */
function validityOf(
  peer: PeerCertificate | DetailedPeerCertificate,
): ClientCertificate['validity'] {
  const { validFromDate, validToDate } = new X509Certificate(peer.raw);
  let [from, until] = [validFromDate.getTime(), validToDate.getTime()];
  const seen = new Set([peer.fingerprint256]);
  const now = Date.now();
  let issuer = 'issuerCertificate' in peer ? peer.issuerCertificate : undefined;
  for (
    ;
    issuer !== undefined && !seen.has(issuer.fingerprint256);
    issuer = issuer.issuerCertificate
  ) {
    seen.add(issuer.fingerprint256);
    const { validFromDate: since, validToDate: to } = new X509Certificate(issuer.raw);
    if (since.getTime() > now || to.getTime() < now) continue;
    from = Math.max(from, since.getTime());
    until = Math.min(until, to.getTime());
  }
  return { from, until };
}

/**
 * Returns the caller's name in logs, audit entries and role bindings; undefined where there is
 * none, or one that is too long.
 */
export function principalOf(
  names: Pick<PeerCertificate, 'subjectaltname' | 'subject'>,
  principal: CertificatePrincipal,
): string | undefined {
  const name = nameOf(names, principal);
  return name === undefined || isTooLong(name) ? undefined : name;
}

/**
 * Whether it is longer than names may be. Then there is none: not the one that would come after it.
 */
function isTooLong(name: string): boolean {
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) return true;
  const [trustDomain = ''] = name.startsWith(SPIFFE) ? name.slice(SPIFFE.length).split('/') : [];
  return Buffer.byteLength(trustDomain) > MAX_TRUST_DOMAIN_BYTES;
}

function nameOf(
  { subjectaltname = '', subject }: Pick<PeerCertificate, 'subjectaltname' | 'subject'>,
  principal: CertificatePrincipal,
): string | undefined {
  const names = [...subjectaltname.matchAll(ALTERNATIVE_NAME)];
  const ofKind = (wanted: string) =>
    names.flatMap(([, kind, value = '']) => (kind === wanted ? value : []));
  switch (principal) {
    case 'spiffe':
      return spiffeId(ofKind('URI'));
    case 'spiffe-then-subject':
      return spiffeId(ofKind('URI')) ?? (distinguishedName(subject) || undefined);
    case 'subject':
      return distinguishedName(subject) || undefined;
    case 'dns': {
      const [first = ''] = ofKind('DNS');
      return DNS_NAME.test(first) ? `dns:${first.toLowerCase()}` : undefined;
    }
  }
}

/**
 * By what a certificate is denied that is named by its number and issuer; `serial` is hexadecimal.
 */
export function serialKey(serial: string, issuer: string): string {
  return `${serial.toUpperCase().replace(/^0+(?=.)/, '')}@${issuer}`;
}

/**
 * A SPIFFE certificate has exactly one URI (X.509-SVID, 2); Node quotes one with anything odd in
 * it.
 */
function spiffeId(uris: readonly string[]): string | undefined {
  const [uri] = uris;
  return uris.length === 1 && uri?.startsWith(SPIFFE) ? uri : undefined;
}

/**
 * Whether Node shows the subject as it is. It groups the values of an attribute and takes several
 * of one level apart: of those other than plain ones, two would read alike.
 */
function isPlain({ raw, subject }: Pick<PeerCertificate, 'raw' | 'subject'>): boolean {
  // A line for each level; what a value has of line breaks is escaped.
  const lines = new X509Certificate(raw).subject?.split('\n') ?? [];
  const shown = Object.entries(subject ?? {}).flatMap(([attribute, values]) =>
    [values].flat().map(() => attribute),
  );
  return isDeepStrictEqual(
    lines.map((line) => line.slice(0, line.indexOf('='))),
    shown,
  );
}

/** In the certificate's order, as `openssl x509 -nameopt RFC2253,-dn_rev` shows it. */
function distinguishedName(name: PeerCertificate['subject'] | undefined): string {
  const parts = Object.entries(name ?? {}).flatMap(([attribute, values]) =>
    [values].flat().map((value) => `${attribute}=${escaped(String(value))}`),
  );
  return parts.join(',');
}

/** As RFC 4514, 2.4, so that a value can't pass for two. */
function escaped(value: string): string {
  return value
    .replaceAll(/[\\",+;<>=]|^[ #]| $/g, '\\$&')
    .replaceAll(/\p{Cc}/gu, (control) => `\\${Buffer.from(control).toString('hex')}`);
}
