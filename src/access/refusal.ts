/**
 * Refuses credentials: with one reason for the caller, and the details in the server's log.
 */
import { KeywardError } from '../errors.ts';

/** What a caller is told of credentials that are refused: what they can see in them themselves. */
export interface Told {
  /** What is wrong, and what to do. */
  readonly told: string;
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * Returns the error for refused credentials. `why` goes only to the log, so it may name what is
 * wrong; neither it nor what is told ever has any part of a token but a time.
 */
export function notAccepted(why: string, { told, metadata }: Partial<Told> = {}): KeywardError {
  return new KeywardError('CREDENTIALS_INVALID', {
    cause: why,
    ...(told !== undefined && { message: `cannot authenticate the caller: ${told}` }),
    ...(metadata && { metadata }),
  });
}

/** Returns what is told of credentials that are past their time, in milliseconds since 1970. */
export function toldExpired(what: string, at: number): Told {
  const time = rfc3339(at);
  return { told: `${what} expired at ${time}; get a new one`, metadata: { expire_time: time } };
}

/** Returns what is told of credentials whose time has not come, in milliseconds since 1970. */
export function toldEarly(what: string, from: number): Told {
  return { told: `${what} is not valid before ${rfc3339(from)}; check the clocks` };
}

/** The latest time that there is a date for (ECMA-262, 21.4.1.1). */
const LATEST = 8.64e15;

function rfc3339(at: number): string {
  return new Date(Math.min(at, LATEST)).toISOString().replace(/\.\d+Z$/, 'Z');
}
