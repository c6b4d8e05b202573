/**
 * The verifier of tokens with an issuer, clocks that tests set, and everything that it says
 * counted.
 *
 * Knows no test.
 */
import { compactVerify } from 'jose';
import type { Logger } from 'pino';
import { type AcceptedToken, TokenVerifier } from '../../src/access/bearer-tokens.ts';
import type { Issuer } from '../../src/access/issuers.ts';
import { openKeySet } from '../../src/access/key-sets.ts';
import { KeywardError } from '../../src/errors.ts';
import { issuer, type SigningKey, startEndpoint, type TokenChanges, tokenBy } from './issuer.ts';

/** What was logged, as JSON. */
export function logInto(lines: string[]): Logger {
  const note = (...parts: unknown[]) =>
    lines.push(
      JSON.stringify(parts, (_, value) => (value instanceof Error ? String(value.stack) : value)),
    );
  return { info: note, warn: note, error: note, debug: note } as unknown as Logger;
}

/** A verifier that trusts one issuer with these keys. */
export async function startVerifier(
  keys: readonly SigningKey[],
  {
    changes = {},
    memory,
    acceptsDevelopment = false,
  }: {
    readonly changes?: Partial<Issuer>;
    readonly memory?: number;
    readonly acceptsDevelopment?: boolean;
  } = {},
) {
  const endpoint = await startEndpoint(keys);
  const log: string[] = [];
  const rig = {
    endpoint,
    log,
    /** How many signatures were verified, or tried to be. */
    verified: 0,
    /** Milliseconds by which both clocks are ahead. */
    ahead: 0,
    accept: (token: string) => outcome(() => verifier.accept(token)),
    /** The outcome for a token by the first key with these changes. */
    with: (change: TokenChanges) => rig.accept(tokenBy(keys[0] as SigningKey, change)),
    verifier: undefined as unknown as TokenVerifier,
    [Symbol.asyncDispose]: async () => endpoint[Symbol.asyncDispose](),
  };
  const trusted = issuer(endpoint.url, changes);
  const keySet = openKeySet(trusted, {
    log: logInto(log),
    now: () => performance.now() + rig.ahead,
  });
  const verifier = new TokenVerifier({
    issuers: [{ issuer: trusted, keys: keySet }],
    log: logInto(log),
    acceptsDevelopment,
    now: () => Date.now() + rig.ahead,
    verifySignature: (...parts) => {
      rig.verified += 1;
      return compactVerify(...parts);
    },
    ...(memory === undefined ? {} : { memory }),
  });
  rig.verifier = verifier;
  return rig;
}

/** `accepted`, or the reason and why, as the log has it. */
export async function outcome(
  attempt: () => AcceptedToken | Promise<AcceptedToken>,
): Promise<string> {
  try {
    await attempt();
    return 'accepted';
  } catch (error) {
    if (error instanceof KeywardError) return `${error.reason}: ${String(error.cause)}`;
    throw error;
  }
}
