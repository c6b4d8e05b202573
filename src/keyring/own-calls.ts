/**
 * What the service does that no caller asked for, and the etag of what callers change.
 */
import { randomUUID } from 'node:crypto';
import { type Call, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';

/** Who does what nobody asked for, in audit entries and in the history. */
export const SELF = 'keyward';

/** A call of the service's own, as audit entries name it. */
export function ownCall(action: string, milliseconds: number): Call {
  return {
    id: randomUUID(),
    method: `keyward.v1.Maintenance/${action}`,
    caller: SELF,
    deadline: monotonicNow() + milliseconds,
  };
}

/** Throws ETAG_MISMATCH when an etag is given and isn't the revision's. */
export function requireEtag(etag: string, revision: string): void {
  if (etag !== '' && etag !== revision) throw new KeywardError('ETAG_MISMATCH');
}
