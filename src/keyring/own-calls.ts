/**
 * What the service does that no caller asked for, and the etag of what callers change.
 */
import { type Call, monotonicNow, ownWork } from '../call.ts';
import { KeywardError } from '../errors.ts';

/** A call of the service's own, as audit entries name it. */
export function ownCall(action: string, milliseconds: number): Call {
  return { ...ownWork(action), deadline: monotonicNow() + milliseconds };
}

/** Throws ETAG_MISMATCH when an etag is given and isn't the revision's. */
export function requireEtag(etag: string, revision: string): void {
  if (etag !== '' && etag !== revision) throw new KeywardError('ETAG_MISMATCH');
}
