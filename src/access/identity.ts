/**
 * Identifies the caller of a call, by its certificate, by a token, or by both bound together.
 *
 * - A call has one caller: a certificate and a token that is not bound to it are refused together.
 * - A certificate on the deny list, or past its time, is refused on every call, however old its
 *   connection is.
 * - The names of the two kinds are distinct: a token's begins with `jwt:`.
 */
import type { DetailedPeerCertificate } from 'node:tls';
import type { Logger } from 'pino';
import { monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import { type AcceptedToken, TokenVerifier } from './bearer-tokens.ts';
import {
  type CertificatePrincipal,
  type ClientCertificate,
  clientCertificate,
  requireValid,
} from './certificates.ts';
import type { Authentication, Claims } from './claims.ts';
import { parseDenyList } from './deny-list.ts';
import { type Issuer, parseIssuers } from './issuers.ts';
import { type KeyFetches, type KeySet, openKeySet } from './key-sets.ts';
import type { Subject } from './policy.ts';
import type { Proof } from './proofs.ts';
import { notAccepted } from './refusal.ts';
import { WatchedFile } from './watched-file.ts';

/** Where it is written who may call. */
export interface IdentitySettings {
  readonly certificatePrincipal: CertificatePrincipal;
  readonly certificateDenyFile?: string | undefined;
  readonly issuersFile?: string | undefined;
  /** Whether tokens count that are marked as for development, whoever signed them. */
  readonly acceptsDevelopment: boolean;
}

/**
 * Somebody who has proven who he is. The same object for all calls by one token, or by one
 * connection's certificate.
 */
export interface Caller extends Subject {
  /** As logs, audit entries and role bindings name him. */
  readonly name: string;
  /** The only tenants that the token is good for; undefined for no such limit. */
  readonly tenants?: readonly string[] | undefined;
  /** When the token expires. */
  readonly expiresAt?: Date;
  /** Absent for a certificate, and for a token whose issuer is not trusted to say. */
  readonly authentication?: Authentication | undefined;
  /** By which token, for the log. */
  readonly token?: {
    readonly issuer: string;
    readonly subject: string;
    /** `jti`. */
    readonly id: string | undefined;
  };
}

/** Identifies the caller of each call, by its certificate, its token, or both. */
export class Identity {
  readonly #principal: CertificatePrincipal;
  readonly #acceptsDevelopment: boolean;
  readonly #log: Logger;
  readonly #issuers: WatchedFile<readonly Issuer[]> | undefined;
  readonly #denied: WatchedFile<ReadonlySet<string>> | undefined;
  readonly #unwatch: (() => void)[] = [];
  #keySets = new Map<string, KeySet>();
  #tokens: TokenVerifier | undefined;

  /** Throws, with every mistake, when a file doesn't load. */
  constructor(settings: IdentitySettings, log: Logger) {
    const { certificatePrincipal, certificateDenyFile, issuersFile, acceptsDevelopment } = settings;
    this.#principal = certificatePrincipal;
    this.#acceptsDevelopment = acceptsDevelopment;
    this.#log = log;
    this.#denied =
      certificateDenyFile === undefined
        ? undefined
        : new WatchedFile(certificateDenyFile, parseDenyList);
    // What an issuer's keys lack is as good a reason not to load its file as what the file lacks
    // itself.
    this.#issuers =
      issuersFile === undefined
        ? undefined
        : new WatchedFile(issuersFile, (text) => {
            const issuers = parseIssuers(text);
            this.#trust(issuers);
            return issuers;
          });
    this.#watch(this.#denied, 'deny list');
    this.#watch(this.#issuers, 'issuers');
  }

  /** Whether a caller may come without a certificate, and bring a token instead. */
  get acceptsTokens(): boolean {
    return this.#tokens !== undefined;
  }

  /** What calls on a connection need of the certificate that it was opened with. */
  certificate(peer: DetailedPeerCertificate): ClientCertificate {
    return clientCertificate(peer, this.#principal);
  }

  /**
   * Returns who makes a call that brings this proof; at once where nothing has to be verified.
   * Throws, or rejects with, a KeywardError.
   */
  callerOf(proof: Proof): Caller | Promise<Caller> {
    const certificate = 'certificate' in proof ? proof.certificate : undefined;
    if (certificate?.denyKeys.some((key) => this.#denied?.value.has(key)))
      throw new KeywardError('CERTIFICATE_DENIED');
    if (certificate !== undefined) requireValid(certificate, Date.now());
    if (proof.kind === 'certificate') return callerByCertificate(proof.certificate);
    if (this.#tokens === undefined)
      throw notAccepted('no issuers are configured, so no token can be accepted');
    const accepted = this.#tokens.accept(proof.token);
    return accepted instanceof Promise
      ? accepted.then((later) => callerByToken(later, certificate))
      : callerByToken(accepted, certificate);
  }

  /**
   * Returns who makes a call that brings this proof; undefined if something has to be verified to
   * know that. Throws as {@link Identity.callerOf} does.
   */
  knownCallerOf(proof: Proof): Caller | undefined {
    if ('token' in proof && this.#tokens?.remembers(proof.token) !== true) return undefined;
    const caller = this.callerOf(proof);
    return caller instanceof Promise ? undefined : caller;
  }

  /** Whether an issuer's tokens name tenants; undefined where no issuer of that name is trusted. */
  limitsTenants(issuer: string): boolean | undefined {
    const found = this.#issuers?.value.find(({ name }) => name === issuer);
    return found && found.claims.tenants !== undefined;
  }

  /** How often each issuer's keys were fetched, of those that have a URL. */
  get keyFetches(): readonly KeyFetches[] {
    return [...this.#keySets.values()].flatMap(({ fetches }) => fetches ?? []);
  }

  /** Looks at once whether the deny list or the issuers have changed. */
  reload(): void {
    this.#denied?.look();
    this.#issuers?.look();
  }

  /** Stops looking at files. */
  stop(): void {
    for (const unwatch of this.#unwatch) unwatch();
    for (const keys of this.#keySets.values()) keys.stop();
  }

  /**
   * Takes these issuers in place of those before; keys that come from where they came before stay
   * known.
   */
  #trust(issuers: readonly Issuer[]): void {
    const before = this.#keySets;
    const opened = new Map<string, KeySet>();
    try {
      for (const issuer of issuers) {
        const id = keySetId(issuer);
        opened.set(id, before.get(id) ?? openKeySet(issuer, { log: this.#log, now: monotonicNow }));
      }
    } catch (error) {
      for (const [id, keys] of opened) if (!before.has(id)) keys.stop();
      throw error;
    }
    for (const [id, keys] of before) if (!opened.has(id)) keys.stop();
    this.#keySets = opened;
    const trusted = issuers.map((issuer) => ({
      issuer,
      keys: opened.get(keySetId(issuer)) as KeySet,
    }));
    const acceptsDevelopment = this.#acceptsDevelopment;
    this.#tokens = new TokenVerifier({ issuers: trusted, log: this.#log, acceptsDevelopment });
  }

  #watch(file: WatchedFile<unknown> | undefined, what: string): void {
    if (file === undefined) return;
    const unwatch = file.watch(
      () => this.#log.info(`${what} reloaded`),
      (err) =>
        this.#log.error({ err }, `cannot reload the ${what}; the old content stays in force`),
    );
    this.#unwatch.push(unwatch);
  }
}

/** What a certificate, or a token's claims, made somebody. */
const callers = new WeakMap<ClientCertificate | Claims, Caller>();

function remembered(proof: ClientCertificate | Claims, make: () => Caller): Caller {
  const known = callers.get(proof);
  if (known !== undefined) return known;
  const caller = make();
  callers.set(proof, caller);
  return caller;
}

function callerByCertificate(certificate: ClientCertificate): Caller {
  const { name } = certificate;
  if (name === undefined)
    throw notAccepted(
      'the certificate has no name of the kind that KEYWARD_CERTIFICATE_PRINCIPAL asks for, or one that is too long',
    );
  return remembered(certificate, () => ({ name, groups: [], claim: () => undefined }));
}

/**
 * A token that is bound to a certificate comes with it and alone with it; one that isn't comes
 * without any.
 */
function callerByToken(
  { issuer, claims }: AcceptedToken,
  certificate: ClientCertificate | undefined,
): Caller {
  if (claims.thumbprint !== certificate?.thumbprint) throw new KeywardError('TOKEN_NOT_BOUND');
  return remembered(claims, () => callerOfClaims(issuer, claims));
}

function callerOfClaims(issuer: Issuer, claims: Claims): Caller {
  const { principal, tenants, groups = [], subject, id, expiresAt, claim } = claims;
  const { authentication } = claims;
  return {
    name: `jwt:${issuer.name}/${principal}`,
    groups: groups.map((group) => `${issuer.name}/${group}`),
    claim,
    tenants,
    expiresAt: new Date(expiresAt * 1000),
    authentication,
    token: { issuer: issuer.name, subject, id },
  };
}

/** Two issuers of which this is the same have the same keys. */
function keySetId({ name, keys, algorithms }: Issuer): string {
  return JSON.stringify([name, keys, algorithms]);
}
