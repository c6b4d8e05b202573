/**
 * The people of the development environment, who sign in at its OpenID provider.
 *
 * Owns their names, groups and factors, and what their command asks the provider for. Knows neither
 * the provider nor what anybody may do.
 */

/** The name of their issuer in callers' names, and so in role bindings. */
export const SIGN_IN_ISSUER = 'dev-sign-in';

/** The client that the command is. */
export const CLIENT_ID = 'keyward-command';

/** What the command asks for a token for (RFC 8707). */
export const RESOURCE = 'urn:keyward:development';

/** A person who can sign in. */
export interface Person {
  /** `sub`, and the name of their profile. */
  readonly id: string;
  readonly name: string;
  readonly group: string;
}

/** Two administrators, since what is dangerous may need a second; an auditor; an operator. */
export const PEOPLE: readonly Person[] = [
  { id: 'alice', name: 'Alice, an administrator', group: 'administrators' },
  { id: 'bob', name: 'Bob, an administrator', group: 'administrators' },
  { id: 'carol', name: 'Carol, an auditor', group: 'auditors' },
  { id: 'oscar', name: 'Oscar, an operator', group: 'operators' },
];

/** How somebody signed in. */
export interface Factors {
  /** `acr`. */
  readonly acr: string;
  /** `amr` (RFC 8176). */
  readonly amr: readonly string[];
}

/** By a password, and by one with a second factor. */
export const FACTORS = {
  one: { acr: 'single-factor', amr: ['pwd'] },
  two: { acr: 'multi-factor', amr: ['pwd', 'otp', 'mfa'] },
} as const satisfies Record<string, Factors>;
