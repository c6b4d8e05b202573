/**
 * The token that calls bring: given once, or asked for when it is needed.
 *
 * Invariants: it is asked for once at a time, again shortly before it expires, and again when the
 * service refused the very one that is remembered; it is in no error. Knows no call. Doesn't verify
 * anything: that is for the service.
 */

/** A JWT, or what gives one: a file read again, or a client of its issuer. */
export type Token = string | (() => string | Promise<string>);

/** Clocks differ, and calls take time. */
const BEFORE_EXPIRY_MS = 30_000;
/** What a header may carry (RFC 6750, 2.1). */
const BEARER = /^[\w.~+/-]+=*$/;

/** See this file's first paragraph. */
export class TokenSource {
  readonly #token: Token;
  #current: { readonly token: Promise<string>; goodUntil: number } | undefined;

  constructor(token: Token) {
    this.#token = token;
  }

  /**
   * The token to send. Rejects with what giving it failed with, or with a TypeError for what is no
   * token.
   */
  get(): Promise<string> {
    if (this.#current === undefined || Date.now() >= this.#current.goodUntil) this.#ask();
    return (this.#current as { token: Promise<string> }).token;
  }

  /** The service has refused this token. Returns whether there is another now. */
  async refused(token: string): Promise<boolean> {
    if (typeof this.#token === 'string') return false;
    const current = await this.#current?.token.catch(() => undefined);
    if (current === token) this.#current = undefined;
    return (await this.get().catch(() => undefined)) !== token;
  }

  /** Takes another token in place of what is remembered, until it expires or is refused. */
  replace(token: string): void {
    this.#remember(() => token);
  }

  #ask(): void {
    const given = this.#token;
    this.#remember(typeof given === 'string' ? () => given : given, typeof given !== 'string');
  }

  #remember(give: () => string | Promise<string>, expires = true): void {
    const token = (async () => checked(await give()))();
    const entry = { token, goodUntil: Number.POSITIVE_INFINITY };
    this.#current = entry;
    token.then(
      (text) => {
        if (expires) entry.goodUntil = expiryOf(text) - BEFORE_EXPIRY_MS;
      },
      () => {
        if (this.#current === entry) this.#current = undefined;
      },
    );
  }
}

/** Throws a TypeError for what is no token, and doesn't show it. */
export function checked(token: unknown): string {
  if (typeof token !== 'string' || !BEARER.test(token))
    throw new TypeError('token must be a JWT, and nothing around it');
  return token;
}

/** In milliseconds since 1970; Infinity for a token that doesn't say. */
function expiryOf(token: string): number {
  try {
    const { exp } = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());
    return typeof exp === 'number' ? exp * 1000 : Number.POSITIVE_INFINITY;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
