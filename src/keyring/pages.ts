/**
 * Page tokens: a position in a list, and a hash of the list that it belongs to.
 *
 * A token carries no authority: whoever presents it is asked for his rights as if he brought none.
 * Invariant: a token of one list is refused for another. Knows no list.
 */
import { hash } from 'node:crypto';
import { invalidField } from '../errors.ts';
import { ID_PATTERN, isUuid, parseVersion } from '../names.ts';
import type { Condition } from '../store/core/conditions.ts';

const HASH_BYTES = 8;

/** Which page of a list, and which of its members. */
export interface ListRequest {
  readonly pageSize: number;
  readonly pageToken: string;
  readonly conditions: readonly Condition[];
}

/** One page of a list, and the position after which the next begins. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly nextPageToken: string;
}

/** The token for what comes after `position` in `list` (its name, parent and filter). */
export function encodePageToken(list: string, position: string): string {
  return Buffer.concat([listHash(list), Buffer.from(position)]).toString('base64url');
}

/**
 * The position in a token of this list, or undefined for an empty token. Throws INVALID_FIELD for
 * any other, and for a position that the list can't have: anyone can make a token.
 */
export function decodePageToken(
  list: string,
  token: string,
  isPosition: (text: string) => boolean,
): string | undefined {
  if (token === '') return undefined;
  const bytes = Buffer.from(token, 'base64url');
  const canonical = bytes.toString('base64url') === token;
  const position = bytes.toString('utf8', HASH_BYTES);
  if (
    !canonical ||
    !bytes.subarray(0, HASH_BYTES).equals(listHash(list)) ||
    !isPosition(position)
  ) {
    throw invalidField('page_token', 'must be a page token of this list');
  }
  return position;
}

/** What a list's rows are read by. */
export interface PageQuery {
  readonly after?: string;
  readonly limit: number;
  readonly conditions: readonly Condition[];
}

/** How a list is ordered. */
export interface Positions<Row> {
  /** Where a row stands. */
  positionOf(row: Row): string;
  /** What can be such a place. */
  isPosition(text: string): boolean;
}

/** How a list is cut into pages. */
export interface Paging<Row> extends Positions<Row> {
  /**
   * Returns how many bytes a row takes of an answer at most; given where as many rows as a page may
   * have can be too many bytes.
   */
  bytesOf?(row: Row): number;
}

/**
 * The rows of a page are of no more bytes than this, or one: clients of gRPC take answers of 4 MiB
 * by default.
 */
const MAX_PAGE_BYTES = 4_000_000;

/** Lists that are ordered by name. */
export const BY_NAME: Positions<{ readonly name: string }> = {
  positionOf: ({ name }) => name,
  isPosition: (text) => ID_PATTERN.test(text),
};

/** Lists that are ordered by version number. */
export const BY_VERSION: Positions<{ readonly version: number }> = {
  positionOf: ({ version }) => String(version),
  isPosition: (text) => parseVersion(text) !== undefined,
};

/** Lists of rotations, ordered by the version that each made. */
export const BY_TO_VERSION: Positions<{ readonly toVersion: number }> = {
  positionOf: ({ toVersion }) => String(toVersion),
  isPosition: BY_VERSION.isPosition,
};

/** Lists of jobs, ordered by their ids. */
export const BY_JOB: Positions<{ readonly jobId: string }> = {
  positionOf: ({ jobId }) => jobId,
  isPosition: isUuid,
};

/**
 * Returns one page of `list`, read by `read` with one row more than is shown, which tells whether
 * there is another. A page ends early, and isn't the last, where its rows would be too many bytes.
 */
export async function readPage<Row>(
  list: string,
  { pageSize, pageToken, conditions }: ListRequest,
  { positionOf, isPosition, bytesOf = () => 0 }: NoInfer<Paging<Row>>,
  read: (query: PageQuery) => Promise<readonly Row[]>,
): Promise<Page<Row>> {
  const filtered = `${list} ${JSON.stringify(conditions)}`;
  const after = decodePageToken(filtered, pageToken, isPosition);
  const limit = pageSize + 1;
  const rows = await read(
    after === undefined ? { limit, conditions } : { after, limit, conditions },
  );
  const items = fitting(rows.slice(0, pageSize), bytesOf);
  const last = items.at(-1);
  const more = rows.length > items.length && last !== undefined;
  return { items, nextPageToken: more ? encodePageToken(filtered, positionOf(last)) : '' };
}

/** As many rows from the first on as a page may have by their bytes, one at least. */
function fitting<Row>(rows: readonly Row[], bytesOf: (row: Row) => number): readonly Row[] {
  let bytes = 0;
  const end = rows.findIndex((row, index) => {
    bytes += bytesOf(row);
    return index > 0 && bytes > MAX_PAGE_BYTES;
  });
  return end === -1 ? rows : rows.slice(0, end);
}

function listHash(list: string): Buffer {
  return hash('sha256', list, 'buffer').subarray(0, HASH_BYTES);
}
