/**
 * Page tokens: a position in a list, and a hash of the list that it belongs to.
 *
 * A token carries no authority: whoever presents it is asked for his rights as if he brought none. Invariant: a token
 * of one list is refused for another. Knows no list.
 */
import { hash } from 'node:crypto';
import { invalidField } from '../errors.ts';

const HASH_BYTES = 8;

/** One page of a list, and the position after which the next begins. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly nextPageToken: string;
}

/** The token for what comes after `position` in `list` (method and parent, say). */
export function encodePageToken(list: string, position: string): string {
  return Buffer.concat([listHash(list), Buffer.from(position)]).toString('base64url');
}

/** The position in a token of this list, or undefined for an empty token. Throws INVALID_FIELD for any other. */
export function decodePageToken(list: string, token: string): string | undefined {
  if (token === '') return undefined;
  const bytes = Buffer.from(token, 'base64url');
  const canonical = bytes.toString('base64url') === token;
  if (!canonical || !bytes.subarray(0, HASH_BYTES).equals(listHash(list))) {
    throw invalidField('page_token', 'is not a token of this list');
  }
  return bytes.toString('utf8', HASH_BYTES);
}

/** A page out of `limit + 1` rows or fewer that were read for it. */
export function toPage<Row, T>(
  list: string,
  rows: readonly Row[],
  limit: number,
  positionOf: (row: Row) => string,
  convert: (row: Row) => T,
): Page<T> {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  const more = rows.length > limit && last !== undefined;
  return { items: shown.map(convert), nextPageToken: more ? encodePageToken(list, positionOf(last)) : '' };
}

function listHash(list: string): Buffer {
  return hash('sha256', list, 'buffer').subarray(0, HASH_BYTES);
}
