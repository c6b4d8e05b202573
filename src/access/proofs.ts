/**
 * What a caller brings to show who they are, however the call came in: one kind of proof.
 *
 * Invariant: a certificate and a token are one proof together, never two of which one could be
 * passed over. Verifies nothing.
 */
import { KeywardError } from '../errors.ts';
import type { ClientCertificate } from './certificates.ts';
import { notAccepted } from './refusal.ts';

/** One way to show who is calling. */
export type Proof = CertificateProof | BearerProof | BoundBearerProof;

/** The certificate of the connection, whose private key its TLS handshake has shown. */
interface CertificateProof {
  readonly kind: 'certificate';
  readonly certificate: ClientCertificate;
}

/** A bearer token, by a connection without a certificate. */
interface BearerProof {
  readonly kind: 'bearer';
  readonly token: string;
}

/** A bearer token that has to be bound to the certificate of its connection (RFC 8705). */
interface BoundBearerProof {
  readonly kind: 'certificate-bound bearer';
  readonly token: string;
  readonly certificate: ClientCertificate;
}

/** One scheme, one space, one token (RFC 6750, 2.1). */
const BEARER = /^Bearer ([\w.-]+)$/i;

/**
 * Returns what a call brings over TLS, with these values of the header `authorization`. Throws
 * CREDENTIALS_MISSING, and CREDENTIALS_INVALID for headers that are not one bearer token.
 */
export function proofOf(
  certificate: ClientCertificate | undefined,
  authorizations: readonly string[],
): Proof {
  const [authorization, ...more] = authorizations;
  if (authorization === undefined) {
    if (certificate === undefined) throw new KeywardError('CREDENTIALS_MISSING');
    return { kind: 'certificate', certificate };
  }
  if (more.length > 0) throw notAccepted('the call has more than one authorization header');
  const [, token] = BEARER.exec(authorization) ?? [];
  if (token === undefined) throw notAccepted('the authorization header is not a Bearer token');
  return certificate === undefined
    ? { kind: 'bearer', token }
    : { kind: 'certificate-bound bearer', token, certificate };
}
