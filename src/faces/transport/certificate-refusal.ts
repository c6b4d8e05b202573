/**
 * Client certificates that a connection is refused for: why, and whose, for the log.
 *
 * The peer learns no more than that the connection is closed. By TLS 1.3 a client has finished its
 * handshake before its certificate is looked at, and Node has no way to send an alert then. A
 * GOAWAY with a text was tried: grpcio repeats a call that it refuses until the deadline, without a
 * pause; grpc-go and grpc-js don't show the text. What is closed before it speaks HTTP/2 is a
 * failure to connect to all of them, and they try again ever more rarely.
 */
import type { TLSSocket } from 'node:tls';

/**
 * Why a peer may not stay. The texts are the peer's own where they are its certificate's: bounded,
 * and escaped.
 */
export interface CertificateRefusal {
  /** OpenSSL's name of it. */
  readonly reason: string;
  readonly meaning: string;
  readonly subject?: string;
  readonly names?: string;
  readonly validTo?: string;
}

/** What happens in practice; anything else is called by OpenSSL's name for it alone. */
const MEANINGS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'it has expired',
  CERT_NOT_YET_VALID: 'it is not valid yet',
  INVALID_PURPOSE: 'it is not valid for TLS clients (extended key usage)',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'it was not issued by a CA that the server trusts',
  UNABLE_TO_GET_ISSUER_CERT: 'it was not issued by a CA that the server trusts',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'it was not issued by a CA that the server trusts',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'it is self-signed',
  SELF_SIGNED_CERT_IN_CHAIN: 'its chain ends in a CA that the server does not trust',
  CERT_SIGNATURE_FAILURE: 'its signature was not made by the CA that it names',
  INVALID_CA: 'a CA certificate in its chain may not issue certificates',
  PATH_LENGTH_EXCEEDED: 'its chain is longer than a CA in it allows',
  CERT_CHAIN_TOO_LONG: 'its chain is too long',
  CA_MD_TOO_WEAK: 'its chain uses a digest that is too weak',
  EE_KEY_TOO_SMALL: 'its key is too small',
};
const LONGEST_TEXT = 200;

/** Why the peer of a TLS connection may not stay; undefined when it may. */
export function refusalOf(
  socket: TLSSocket,
  acceptsTokens: boolean,
): CertificateRefusal | undefined {
  if (socket.authorized) return undefined;
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) {
    if (acceptsTokens) return undefined;
    return { reason: 'NONE', meaning: 'no certificate was presented, and the server requires one' };
  }
  // A string, whatever the types say.
  const reason = String(socket.authorizationError);
  const { subject, subjectAltName, validTo } = certificate;
  return {
    reason,
    meaning: MEANINGS[reason] ?? reason,
    subject: bounded(subject),
    ...(subjectAltName === undefined ? {} : { names: bounded(subjectAltName) }),
    validTo,
  };
}

/** A text that a stranger chose, as a log line may have it. */
function bounded(text: string): string {
  const line = text.replaceAll('\n', ', ').replaceAll(/\p{C}/gu, '?');
  return line.length > LONGEST_TEXT ? `${line.slice(0, LONGEST_TEXT)}…` : line;
}
