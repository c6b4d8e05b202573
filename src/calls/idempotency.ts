/**
 * Request ids: how a request that is sent again is known to be the same.
 *
 * Owns the fingerprint: SHA-256 of everything in the request but its id, the order of maps aside.
 * How a request that comes again is answered is in `replays.ts`.
 */
import { hash } from 'node:crypto';
import type { Call } from '../call.ts';

/** Returns the request's id and fingerprint, where it has an id. */
export function idempotencyOf(
  request: unknown,
): Omit<NonNullable<Call['idempotency']>, 'keep'> | undefined {
  if (typeof request !== 'object' || request === null || !('requestId' in request))
    return undefined;
  const { requestId, ...rest } = request;
  if (typeof requestId !== 'string' || requestId === '') return undefined;
  return { requestId, fingerprint: hash('sha256', JSON.stringify(rest, inOrder), 'buffer') };
}

function inOrder(_: string, value: unknown): unknown {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  const entries = value instanceof Map ? [...value] : Object.entries(value);
  return entries.sort(([a], [b]) => (a < b ? -1 : 1));
}
