/**
 * Refuses credentials: with one reason for the caller, and the details in the server's log.
 */
import { KeywardError } from '../errors.ts';

/**
 * `why` goes to the log and nowhere else, so it may say what is wrong; it never holds any part of a
 * token.
 */
export function notAccepted(why: string): KeywardError {
  return new KeywardError('CREDENTIALS_INVALID', { cause: why });
}
