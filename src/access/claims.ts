/**
 * Checks a token's claims, and reads the caller from them.
 *
 * - Every claim that decides something must be present and of its type; none is accepted in part.
 * - Times are compared on every use of a token, the rest once.
 * - The signature was verified before.
 */
import { z } from 'zod';
import { fromBase64url } from './compact-bearer.ts';
import type { Issuer } from './issuers.ts';
import { notAccepted, toldEarly, toldExpired } from './refusal.ts';

/** Clocks differ by as much. */
export const LEEWAY_SECONDS = 30;
const THUMBPRINT_BYTES = 32;

/** How, and when, a caller has proven who they are. */
export interface Authentication {
  /** The class of the proof, as the issuer names it (`acr`). */
  readonly acr?: string | undefined;
  /** By which methods (`amr`, RFC 8176); empty where the token does not say. */
  readonly methods: readonly string[];
  /** When (`auth_time`). */
  readonly at?: Date | undefined;
}

/** What a token says, of which all holds but the time. */
export interface Claims {
  /** Whom it stands for, as the issuer's mapping says. */
  readonly principal: string;
  /** `undefined` when the issuer's mapping has none. */
  readonly tenants: readonly string[] | undefined;
  readonly groups: readonly string[] | undefined;
  readonly subject: string;
  /** `jti`. */
  readonly id: string | undefined;
  /** SHA-256 of the certificate that it is bound to, base64url. */
  readonly thumbprint: string | undefined;
  /** When it expires, in seconds since 1970. */
  readonly expiresAt: number;
  /** `undefined` where the issuer is not trusted to say how a caller has proven who they are. */
  readonly authentication: Authentication | undefined;
  /**
   * The string at a path, if there is one that says something: what conditions of role bindings ask
   * for.
   */
  claim(path: readonly string[]): string | undefined;
}

/** Without characters that don't show, or show other than they are: names end up in logs. */
const name = z
  .string()
  .min(1)
  .max(256)
  .regex(/^(?!\s)[^\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]*(?<!\s)$/u);
const names = z.union([name.transform((one) => [one]), z.array(name).max(200)]);
const time = z.number().min(0).max(Number.MAX_SAFE_INTEGER);

const REGISTERED = z.object({
  sub: name,
  exp: time,
  iat: time,
  nbf: time.optional(),
  jti: name.optional(),
  /** Bound to anything else, or to something else too, it could not be checked. */
  cnf: z.strictObject({ 'x5t#S256': z.string().refine(isThumbprint) }).optional(),
});

const AUTHENTICATION = z.object({
  acr: name.optional(),
  amr: names.optional(),
  auth_time: time.optional(),
});

/**
 * Whether the token is marked as good for development only: by a claim of this name, whatever it
 * says.
 */
export function isForDevelopment(json: object): boolean {
  return Object.hasOwn(json, 'keyward_development');
}

/**
 * What the claims say, whose `iss` is the issuer's. Throws a KeywardError where they aren't what
 * its tokens have to have.
 */
export function readClaims(json: unknown, issuer: Issuer, nowSeconds: number): Claims {
  if (!isExactly(claimAt(json, ['aud']), issuer.audience))
    throw notAccepted('the token is not for this audience alone', {
      told: 'the token’s audience (aud) is not this service alone; get one that is for it',
    });
  const result = REGISTERED.safeParse(json);
  if (!result.success) {
    const [wrong] = result.error.issues.map(({ path }) => path[0]);
    throw notAccepted(`the token’s claim ${String(wrong)} is missing or not valid`);
  }
  const { sub, exp, iat, nbf = iat, jti, cnf } = result.data;
  if (exp - iat > issuer.maxLifetimeSeconds) throw notAccepted('the token’s lifetime is too long');
  if (exp < iat) throw notAccepted('the token expires before it is issued');
  const from = Math.max(iat, nbf);
  if (from > nowSeconds + LEEWAY_SECONDS)
    throw notAccepted('the token was issued in the future', toldEarly('the token', from * 1_000));
  requireUnexpired(exp, nowSeconds);
  const { principal, tenants, groups } = issuer.claims;
  return {
    principal: mapped('principal', name, claimAt(json, principal)),
    tenants: tenants && mapped('tenants', names, claimAt(json, tenants) ?? []),
    groups: groups && mapped('groups', names, claimAt(json, groups) ?? []),
    subject: sub,
    id: jti,
    thumbprint: cnf?.['x5t#S256'],
    expiresAt: exp,
    authentication: issuer.vouchesForAuthentication
      ? readAuthentication(json, nowSeconds)
      : undefined,
    claim: (path) => {
      const value = claimAt(json, path);
      return typeof value === 'string' && value !== '' ? value : undefined;
    },
  };
}

/** Returns what the token says of how its caller has proven who they are: accepted as a whole. */
function readAuthentication(json: unknown, nowSeconds: number): Authentication {
  const result = AUTHENTICATION.safeParse(json);
  if (!result.success) {
    const [wrong] = result.error.issues.map(({ path }) => path[0]);
    throw notAccepted(`the token’s claim ${String(wrong)} is not valid`);
  }
  const { acr, amr: methods = [], auth_time: at } = result.data;
  if (at !== undefined && at > nowSeconds + LEEWAY_SECONDS)
    throw notAccepted('the token’s auth_time is in the future');
  return { acr, methods, at: at === undefined ? undefined : new Date(at * 1_000) };
}

/** Throws a KeywardError if it is later than that, by more than clocks differ. */
export function requireUnexpired(expiresAt: number, nowSeconds: number): void {
  if (nowSeconds >= expiresAt + LEEWAY_SECONDS)
    throw notAccepted('the token has expired', toldExpired('the token', expiresAt * 1_000));
}

/** A token for others too could be used here by any of them. */
function isExactly(audience: unknown, expected: string): boolean {
  return Array.isArray(audience)
    ? audience.length === 1 && audience[0] === expected
    : audience === expected;
}

function mapped<T>(what: string, schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (!result.success) throw notAccepted(`the token’s claim for ${what} is missing or not valid`);
  return result.data;
}

function claimAt(json: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>(
    (value, part) =>
      typeof value === 'object' && value !== null && Object.hasOwn(value, part)
        ? (value as Readonly<Record<string, unknown>>)[part]
        : undefined,
    json,
  );
}

function isThumbprint(text: string): boolean {
  try {
    return fromBase64url(text).length === THUMBPRINT_BYTES;
  } catch {
    return false;
  }
}
