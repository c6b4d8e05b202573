/**
 * The database's clock, by which what is due is decided, compared with this machine's.
 */
import type { Deadline, Reserve } from './core/transaction.ts';

/** By how much this machine's clock is ahead. */
export interface ClockOffset {
  readonly aheadMs: number;
  /** The offset is known to that, since the answer took its time. */
  readonly withinMs: number;
}

/** Returns by how much this machine's clock is ahead of the database's. Throws as a query. */
export async function clockOffset(store: Reserve, call: Deadline): Promise<ClockOffset> {
  const before = Date.now();
  const [row] = await store.queryReserve<{ now: number }>(
    call,
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now',
  );
  const after = Date.now();
  if (row === undefined) throw new Error('the database tells no time');
  return { aheadMs: (before + after) / 2 - row.now, withinMs: Math.abs(after - before) / 2 };
}
