/**
 * Refuses credentials: with one reason for the caller, and the details in the server's log.
 */
import { KeywardError } from '../errors.ts';

/**
 * Returns the error for refused credentials. `why` goes only to the log, so it may name what is
 * wrong; it never has any part of a token.
 */
export function notAccepted(why: string): KeywardError {
  return new KeywardError('CREDENTIALS_INVALID', { cause: why });
}
