/**
 * Signs a person in at an OpenID provider: by code with PKCE (RFC 8252), or by a device code (RFC
 * 8628); renews and revokes what the provider gave.
 *
 * - openid-client checks state, nonce, `iss`, and the ID token. The access token is for the
 *   service, which checks it; nothing is read from it here.
 * - The URL of a sign-in is not shown to other users of the machine: who has it could answer with a
 *   sign-in of their own.
 * - A provider is spoken to by https, or by http on a loopback address only.
 * - Keeps nothing: `kept-sign-ins.ts` does.
 */
import * as openid from 'openid-client';
import { openSecretlyInBrowser } from './browser.ts';
import { UsageError } from './failures.ts';
import { type Loopback, openLoopback } from './loopback.ts';
import { printable } from './output/printable.ts';
import type { SignInSettings } from './profiles.ts';

/** A token for calls, and until when it is good. */
export interface CallToken {
  readonly text: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
}

/** What a sign-in gave. */
export interface Grant {
  readonly token: CallToken;
  /** Absent where the provider gives none. */
  readonly refreshToken?: string;
  /** The ID token's `sub`. */
  readonly subject: string;
}

/** How strong and how fresh a sign-in must be (RFC 9470). */
export interface Strength {
  readonly acrValues: readonly string[];
  readonly maxAgeSeconds?: number | undefined;
}

/** How a person signs in. */
export type Flow = 'code' | 'device';

/** What a sign-in is for. */
export interface SignInRequest {
  readonly flow: Flow;
  /** Whether a browser is opened, where there is one. */
  readonly browser: boolean;
  /** Absent for one that lasts, where the provider lets it. */
  readonly strength?: Strength | undefined;
  readonly say: (line: string) => void;
}

/** The provider refused, or what it answered is not what it must be. */
export class SignInRefused extends Error {
  override readonly name = 'SignInRefused';
}

const SCOPES = 'openid offline_access';
const REDIRECT_URI = 'http://127.0.0.1/callback';
const ANSWER_SECONDS = 10;
/** How long a person may take. */
const PATIENCE_MS = 600_000;
/** How long a token is taken to be good whose provider does not report it. */
const UNKNOWN_LIFETIME_SECONDS = 300;

/** The provider that a profile names. */
export class Provider {
  readonly #settings: SignInSettings;
  readonly #configuration: openid.Configuration;

  private constructor(settings: SignInSettings, configuration: openid.Configuration) {
    this.#settings = settings;
    this.#configuration = configuration;
  }

  /** Asks the provider for its endpoints. Throws UsageError for an issuer that cannot be used. */
  static async of(settings: SignInSettings): Promise<Provider> {
    const { issuer, clientId } = settings;
    const url = issuerUrl(issuer);
    const configuration = await translated(issuer, () =>
      openid.discovery(url, clientId, {}, openid.None(), {
        timeout: ANSWER_SECONDS,
        ...(url.protocol === 'http:' && { execute: [openid.allowInsecureRequests] }),
      }),
    );
    return new Provider(settings, configuration);
  }

  /** Signs a person in. Throws {@link SignInRefused}. */
  signIn(request: SignInRequest): Promise<Grant> {
    const by = request.flow === 'device' ? this.#byDevice(request) : this.#byCode(request);
    return translated(this.#settings.issuer, () => by);
  }

  /** Returns another access token. Throws {@link SignInRefused}. */
  renew(refreshToken: string, subject: string): Promise<Grant> {
    return translated(this.#settings.issuer, async () => {
      const parameters = this.#target();
      const answer = await openid.refreshTokenGrant(this.#configuration, refreshToken, parameters);
      const other = answer.claims()?.sub;
      if (other !== undefined && other !== subject)
        throw new SignInRefused('it renewed the sign-in of another person');
      return { refreshToken, ...grantOf(answer, subject) };
    });
  }

  /** Revokes a token, where the provider can (RFC 7009). Returns whether it can. */
  async revoke(token: string): Promise<boolean> {
    if (this.#configuration.serverMetadata().revocation_endpoint === undefined) return false;
    await translated(this.#settings.issuer, () =>
      openid.tokenRevocation(this.#configuration, token),
    );
    return true;
  }

  async #byCode({ browser, strength, say }: SignInRequest): Promise<Grant> {
    const checks = {
      pkceCodeVerifier: openid.randomPKCECodeVerifier(),
      expectedState: openid.randomState(),
      expectedNonce: openid.randomNonce(),
      idTokenExpected: true,
      ...(strength?.maxAgeSeconds !== undefined && { maxAge: strength.maxAgeSeconds }),
    };
    using loopback = await openLoopback(this.#settings.redirectUri ?? REDIRECT_URI);
    const url = openid.buildAuthorizationUrl(this.#configuration, {
      ...this.#asked(strength),
      ...(strength !== undefined && { prompt: 'login' }),
      redirect_uri: loopback.redirectUri,
      code_challenge: await openid.calculatePKCECodeChallenge(checks.pkceCodeVerifier),
      code_challenge_method: 'S256',
      state: checks.expectedState,
      nonce: checks.expectedNonce,
    });
    say(`Sign in with a browser on this machine:\n  ${url.href}`);
    using _file = browser ? openSecretlyInBrowser(url.href) : undefined;
    const answer = await answerTo(loopback, checks.expectedState);
    const target = this.#target();
    return grantOf(
      await openid.authorizationCodeGrant(this.#configuration, answer, checks, target),
    );
  }

  async #byDevice({ strength, say }: SignInRequest): Promise<Grant> {
    const device = await openid.initiateDeviceAuthorization(
      this.#configuration,
      this.#asked(strength),
    );
    const { user_code: code, verification_uri: page, verification_uri_complete: whole } = device;
    say(`Sign in with any browser, where the code must be ${printable(code)}:`);
    say(`  ${printable(whole ?? page)}`);
    const signal = AbortSignal.timeout(PATIENCE_MS);
    return grantOf(
      await openid.pollDeviceAuthorizationGrant(this.#configuration, device, this.#target(), {
        signal,
      }),
    );
  }

  /** What is asked for; of a stronger proof nothing that lasts. */
  #asked(strength: Strength | undefined): Record<string, string> {
    const { scopes = SCOPES } = this.#settings;
    const { acrValues = [], maxAgeSeconds } = strength ?? {};
    return {
      ...this.#target(),
      scope: strength === undefined ? scopes : withoutOfflineAccess(scopes),
      ...(acrValues.length > 0 && { acr_values: acrValues.join(' ') }),
      ...(maxAgeSeconds !== undefined && { max_age: String(maxAgeSeconds) }),
    };
  }

  /** What the token is for: by RFC 8707, or as some providers have it. */
  #target(): Record<string, string> {
    const { resource, audience } = this.#settings;
    return { ...(resource && { resource }), ...(audience && { audience }) };
  }
}

function withoutOfflineAccess(scopes: string): string {
  return scopes
    .split(' ')
    .filter((scope) => scope !== 'offline_access')
    .join(' ');
}

async function answerTo(loopback: Loopback, state: string): Promise<URL> {
  const signal = AbortSignal.timeout(PATIENCE_MS);
  return loopback.answer(state, signal).catch((cause: unknown) => {
    throw new SignInRefused(`no answer came within ${PATIENCE_MS / 60_000} minutes`, { cause });
  });
}

type Answer = openid.TokenEndpointResponse & openid.TokenEndpointResponseHelpers;

function grantOf(answer: Answer, known?: string): Grant {
  const subject = answer.claims()?.sub ?? known;
  if (subject === undefined) throw new SignInRefused('it gave no ID token');
  const { access_token: text, refresh_token: refreshToken } = answer;
  const seconds = answer.expiresIn() ?? UNKNOWN_LIFETIME_SECONDS;
  return {
    token: { text, expiresAt: Date.now() + seconds * 1000 },
    subject,
    ...(refreshToken !== undefined && { refreshToken }),
  };
}

function issuerUrl(issuer: string): URL {
  const url = URL.canParse(issuer) ? new URL(issuer) : undefined;
  const isLoopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url?.hostname ?? '');
  if (url?.protocol === 'https:' || (url?.protocol === 'http:' && isLoopback)) return url;
  throw new UsageError(
    `cannot sign in at ${issuer}: an issuer is https://, or http:// on a loopback address`,
  );
}

/** What the work throws, as an error that names the provider. */
async function translated<T>(issuer: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof UsageError) throw error;
    if (isRefusal(error))
      throw new SignInRefused(`${issuer} refused: ${wordsOf(error)}`, { cause: error });
    throw new Error(`cannot use ${issuer}: ${wordsOf(error)}`, { cause: error });
  }
}

function isRefusal(error: unknown): boolean {
  return (
    error instanceof SignInRefused ||
    error instanceof openid.ResponseBodyError ||
    error instanceof openid.AuthorizationResponseError
  );
}

function wordsOf(error: unknown): string {
  if (
    error instanceof openid.ResponseBodyError ||
    error instanceof openid.AuthorizationResponseError
  )
    return [error.error, error.error_description].filter(Boolean).join(': ');
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  // Of what fetch throws, and of what openid-client wraps, the cause tells what happened.
  return cause instanceof Error && !(error instanceof SignInRefused)
    ? wordsOf(cause)
    : error.message;
}
