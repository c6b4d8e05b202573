/**
 * Who is calling, by the certificate of the connection: its SPIFFE id, else its subject.
 *
 * Invariant: no value in a certificate, whatever it contains, reads as another kind of name or as two. The certificate
 * itself was verified in the handshake. Knows no right.
 */
import type { PeerCertificate } from 'node:tls';

/** Node's spelling of alternative names: a value that could be taken for several is a JSON string. */
const ALTERNATIVE_NAME = /(?:^|, )([^:,]+):("(?:[^"\\]|\\.)*"|[^,]*)/g;

/** The caller as logs and audit entries name him. */
export function callerOf({
  subjectaltname = '',
  subject,
}: Pick<PeerCertificate, 'subjectaltname' | 'subject'>): string {
  const uris = [...subjectaltname.matchAll(ALTERNATIVE_NAME)].flatMap(([, kind, value = '']) =>
    kind === 'URI' ? value : [],
  );
  const [uri] = uris;
  // A SPIFFE certificate has exactly one URI (X.509-SVID, 2); Node quotes one with anything odd in it.
  if (uris.length === 1 && uri?.startsWith('spiffe://')) return uri;
  const parts = Object.entries(subject ?? {}).flatMap(([name, values]) =>
    [values].flat().map((value) => `${name}=${escaped(String(value))}`),
  );
  return parts.join(',') || 'unknown';
}

/** As RFC 4514, 2.4, so that a value can't pass for two. */
function escaped(value: string): string {
  return value
    .replaceAll(/[\\",+;<>=]|^[ #]| $/g, '\\$&')
    .replaceAll(/\p{Cc}/gu, (control) => `\\${Buffer.from(control).toString('hex')}`);
}
