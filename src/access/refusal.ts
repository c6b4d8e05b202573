/**
 * Why credentials are refused: one reason for the caller, the particulars for the operator's log.
 */
import { KeywardError } from '../errors.ts';

/**
 * `why` goes to the log and nowhere else, so it may say what is wrong; it never holds any part of a
 * token.
 */
export function notAccepted(why: string): KeywardError {
  return new KeywardError('CREDENTIALS_INVALID', { cause: why });
}
