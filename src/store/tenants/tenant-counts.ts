/**
 * How many keys and stored data keys a tenant has, read before another one is added.
 *
 * The counts are the database's own: triggers keep them, in the transaction of what they count
 * (`migrations/0008_quotas.sql` has how, without a row that everybody waits for). Reads the counts
 * that are committed: transactions that add something at the same time don't see each other, so a
 * quota is passed by at most as many as were under way at once.
 */
import { quotaExceeded } from '../../errors.ts';

/** What is counted. */
export type CountKind = 'keys' | 'stored-data-keys';

/** How many the tenant $1 has, as SQL: before the statement that this is part of. */
export const countOf = (kind: CountKind): string =>
  `(SELECT coalesce(sum(count), 0)::float8 FROM tenant_counts WHERE tenant_id = $1 AND kind = '${kind}')`;

/** Throws QUOTA_EXCEEDED when there are `limit` or more; Infinity is no limit. */
export function requireRoom(kind: CountKind, count: number, limit: number): void {
  if (count >= limit) throw quotaExceeded(kind.replaceAll('-', '_'), limit);
}
