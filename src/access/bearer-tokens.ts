/**
 * Verifies bearer tokens, and remembers those that were accepted.
 *
 * - A token is accepted only if its issuer is configured, its signature verifies under a key that
 *   the issuer publishes now, and every claim holds.
 * - A token marked as for development is never accepted in production.
 * - A remembered token skips only the signature and the claims that do not change.
 * - Only accepted tokens are remembered, by their hash: others cannot push them out.
 */
import { hash } from 'node:crypto';
import type { Logger } from 'pino';
import { Lru } from '../lru.ts';
import { type Claims, isForDevelopment, readClaims, requireUnexpired } from './claims.ts';
import { parsed, readCompact, type VerifySignature, verifySigned } from './compact-bearer.ts';
import { type Issuer, mediaType } from './issuers.ts';
import type { KeySet } from './key-sets.ts';
import type { PublicKey } from './public-keys.ts';
import { notAccepted } from './refusal.ts';

/** An issuer and its keys. */
export interface TrustedIssuer {
  readonly issuer: Issuer;
  readonly keys: KeySet;
}

/** A token that was accepted. */
export interface AcceptedToken {
  readonly issuer: Issuer;
  readonly claims: Claims;
}

export interface TokenVerifierOptions {
  readonly issuers: readonly TrustedIssuer[];
  readonly log: Logger;
  /** Whether tokens count that are marked as for development. */
  readonly acceptsDevelopment: boolean;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
  readonly verifySignature?: VerifySignature;
  /** How many tokens are remembered. */
  readonly memory?: number;
}

interface Remembered extends AcceptedToken {
  readonly keys: KeySet;
  readonly kid: string;
  readonly key: PublicKey;
}

/** About 10 MB. */
const REMEMBERED = 10_000;

/** Verifies bearer tokens, and remembers accepted ones by their hash. */
export class TokenVerifier {
  readonly #issuers: ReadonlyMap<unknown, TrustedIssuer>;
  readonly #log: Logger;
  readonly #acceptsDevelopment: boolean;
  readonly #now: () => number;
  readonly #verifySignature: VerifySignature | undefined;
  readonly #remembered: Lru<string, Remembered>;

  constructor(options: TokenVerifierOptions) {
    const {
      issuers,
      log,
      acceptsDevelopment,
      now = Date.now,
      verifySignature,
      memory = REMEMBERED,
    } = options;
    this.#issuers = new Map(issuers.map((trusted) => [trusted.issuer.issuer, trusted]));
    this.#log = log;
    this.#acceptsDevelopment = acceptsDevelopment;
    this.#now = now;
    this.#verifySignature = verifySignature;
    this.#remembered = new Lru(memory);
  }

  /**
   * At once for a token that is remembered. Throws, or rejects with, a KeywardError for one that is
   * not accepted.
   */
  accept(text: string): AcceptedToken | Promise<AcceptedToken> {
    const digest = hash('sha256', text, 'base64');
    const known = this.#remembered.get(digest);
    if (known === undefined) return this.#acceptAnew(text, digest);
    const recall = (key: PublicKey | undefined) => {
      if (key === known.key) {
        requireUnexpired(known.claims.expiresAt, this.#nowSeconds());
        return known;
      }
      this.#remembered.delete(digest);
      return this.#acceptAnew(text, digest);
    };
    const key = known.keys.find(known.kid);
    return key instanceof Promise ? key.then(recall) : recall(key);
  }

  /** Whether {@link TokenVerifier.accept} answers at once for this token. */
  remembers(text: string): boolean {
    const known = this.#remembered.get(hash('sha256', text, 'base64'));
    return known !== undefined && known.keys.find(known.kid) === known.key;
  }

  async #acceptAnew(text: string, digest: string): Promise<AcceptedToken> {
    const token = readCompact(text);
    const { header } = token;
    const json = parsed(token.payload, 'payload');
    if (typeof json !== 'object' || json === null)
      throw notAccepted('the token’s payload is not an object');
    const trusted = this.#issuers.get((json as { readonly iss?: unknown }).iss);
    if (trusted === undefined)
      throw notAccepted('the token’s issuer is not configured', {
        told: 'the token’s issuer (iss) is not one that the service trusts',
      });
    const { issuer, keys } = trusted;
    if ((header.typ === undefined ? null : mediaType(header.typ)) !== issuer.type)
      throw notAccepted('the token has another typ than its issuer’s');
    if (!(issuer.algorithms as readonly string[]).includes(header.alg))
      throw notAccepted('the token’s algorithm is not on its issuer’s list');
    const key = await keys.find(header.kid);
    await verifySigned(token, key, this.#verifySignature);
    if (!this.#acceptsDevelopment && isForDevelopment(json))
      throw notAccepted('the token is for development, and KEYWARD_MODE is production');
    const claims = readClaims(json, issuer, this.#nowSeconds());
    this.#remembered.set(digest, { issuer, claims, keys, kid: header.kid, key: key as PublicKey });
    this.#writeLogLine(issuer, claims);
    return { issuer, claims };
  }

  /** One for each token, so that a mapping can be seen at work. */
  #writeLogLine(issuer: Issuer, claims: Claims): void {
    const { principal, tenants, groups, subject, id, thumbprint, expiresAt } = claims;
    const { authentication } = claims;
    this.#log.info(
      {
        issuer: issuer.name,
        subject,
        tokenId: id,
        principal,
        tenants,
        groups,
        isBound: thumbprint !== undefined,
        expiresAt: new Date(expiresAt * 1000).toISOString(),
        authentication,
      },
      'token accepted',
    );
  }

  #nowSeconds(): number {
    return this.#now() / 1000;
  }
}
