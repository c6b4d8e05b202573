/**
 * Walking lists, whatever they are of.
 *
 * Its invariant: a page is fetched when its first item is asked for, and not before.
 */
import type { CallOptions } from './call.ts';

/** How to walk a list. */
export interface WalkOptions extends CallOptions {
  /** How many are fetched at a time, 1 to 1,000. 100 unless given. `timeoutMs` is for each page. */
  readonly pageSize?: number;
}

/** How to walk a list that can be filtered. */
export interface ListOptions extends WalkOptions {
  /** Which items, as in `state = DISABLED`; the contract has the grammar. All unless given. */
  readonly filter?: string;
}

/** All items, from the pages that `fetch` fetches. */
export async function* pages<Item>(
  { pageSize = 100, filter = '' }: ListOptions,
  fetch: (page: { pageSize: number; pageToken: string; filter: string }) => Promise<{
    readonly items: readonly Item[];
    readonly nextPageToken: string;
  }>,
): AsyncGenerator<Item, void, undefined> {
  let pageToken = '';
  do {
    const { items, nextPageToken } = await fetch({ pageSize, pageToken, filter });
    yield* items;
    pageToken = nextPageToken;
  } while (pageToken !== '');
}
