/**
 * Client certificates that a connection is refused for: why, whose, and what the peer is told.
 *
 * Node's TLS sends no alert for them: by TLS 1.3 a client has finished its handshake before its certificate is looked
 * at, and what OpenSSL finds wrong is left to us. So the peer is told in HTTP/2, by a GOAWAY with a text, which most
 * clients show; no HTTP/2 session is made for it. Knows no connection but the one that it refuses.
 */
import { constants } from 'node:http2';
import type { TLSSocket } from 'node:tls';
import { destroySoon } from './connection.ts';

/** Why a peer may not stay. Its texts are the peer's own where they are its certificate's: bounded, and escaped. */
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
  INVALID_PURPOSE: 'it is not for TLS clients (extended key usage)',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'it is of no CA that the server trusts',
  UNABLE_TO_GET_ISSUER_CERT: 'it is of no CA that the server trusts',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'it is of no CA that the server trusts',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'it is signed by itself',
  SELF_SIGNED_CERT_IN_CHAIN: 'its chain ends in a CA that the server does not trust',
  CERT_SIGNATURE_FAILURE: 'its signature is not by the CA that it names',
  INVALID_CA: 'a CA certificate of its chain may not issue certificates',
  PATH_LENGTH_EXCEEDED: 'its chain is longer than its CA allows',
  CERT_CHAIN_TOO_LONG: 'its chain is too long',
  CA_MD_TOO_WEAK: 'its chain uses a digest that is too weak',
  EE_KEY_TOO_SMALL: 'its key is too small',
};
const LONGEST_TEXT = 200;
/** Frame types (RFC 9113, 6). */
const [SETTINGS, GOAWAY] = [4, 7];

/** Why the peer of a TLS connection may not stay; undefined when it may. */
export function refusalOf(socket: TLSSocket, acceptsTokens: boolean): CertificateRefusal | undefined {
  if (socket.authorized) return undefined;
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) {
    if (acceptsTokens) return undefined;
    return { reason: 'NONE', meaning: 'none was presented, and the server requires one' };
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

/** Tells the peer, and ends the connection: that is what little HTTP/2 it takes, instead of a session. */
export function refuseCertificate(socket: TLSSocket, { meaning }: CertificateRefusal): void {
  const text = Buffer.from(`client certificate refused: ${meaning}`);
  const payload = Buffer.alloc(8 + text.length);
  payload.writeUInt32BE(constants.NGHTTP2_INADEQUATE_SECURITY, 4); // After the last stream that is taken: 0.
  text.copy(payload, 8);
  socket.resume(); // What comes is of no use, but left unread it would take back what is sent.
  socket.end(Buffer.concat([frame(SETTINGS, Buffer.alloc(0)), frame(GOAWAY, payload)]));
  destroySoon(socket);
}

/** A frame of the connection as a whole, without flags. */
function frame(type: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  return Buffer.concat([head, payload]);
}

/** A text that a stranger chose, as a log line may have it. */
function bounded(text: string): string {
  const line = text.replaceAll('\n', ', ').replaceAll(/\p{C}/gu, '?');
  return line.length > LONGEST_TEXT ? `${line.slice(0, LONGEST_TEXT)}…` : line;
}
