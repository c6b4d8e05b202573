/**
 * Who is calling, by the certificate of the connection: its SPIFFE id, else its subject.
 *
 * The certificate itself was verified in the handshake. Knows no right.
 */
import type { PeerCertificate } from 'node:tls';
import type { ServerUnaryCall } from '@grpc/grpc-js';

/** The caller as logs and audit entries name him. */
export function callerOf(rpc: Pick<ServerUnaryCall<object, object>, 'getAuthContext'>): string {
  const certificate = rpc.getAuthContext().sslPeerCertificate;
  return certificate === undefined ? 'unknown' : identityOf(certificate);
}

function identityOf({ subjectaltname, subject }: PeerCertificate): string {
  const spiffe = subjectaltname
    ?.split(', ')
    .find((name) => name.startsWith('URI:spiffe://'))
    ?.slice('URI:'.length);
  if (spiffe !== undefined) return spiffe;
  return Object.entries(subject)
    .map(([name, value]) => `${name}=${String(value)}`)
    .join(',');
}
