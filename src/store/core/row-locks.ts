/**
 * Rows of a batch, locked before they are changed: in the order of their primary key, whoever
 * changes them.
 *
 * An UPDATE by itself locks rows as its plan comes to them, and the planner chooses that anew for
 * each role, batch and statistics. A service and an operator's command that sealed the same keys
 * anew came to them by an index and by the table; each waited for what the other had, and Postgres
 * undid one of them as a deadlock. Knows no table.
 */

/** What {@link lockedInOrder} locks. */
export interface RowsToLock {
  /** A FROM item of the values, called `b`. */
  readonly batch: string;
  /** The columns of `b` that are the rows' primary key. */
  readonly primaryKey: string;
  /** The table, and what it is called. */
  readonly rows: string;
  /** Which of its rows is the one of `b`, and whether it is to be changed. */
  readonly where: string;
}

/**
 * A common table expression `locked`: the values of a batch whose rows there are, each given out
 * once its row is locked. So a statement that changes the rows of its FROM item `locked` and no
 * others locks none in another order.
 */
export function lockedInOrder({ batch, primaryKey, rows, where }: RowsToLock): string {
  // LATERAL keeps the batch outside, in its order.
  return `locked AS (
    SELECT b.* FROM (SELECT * FROM ${batch} ORDER BY ${primaryKey}) AS b,
      LATERAL (SELECT FROM ${rows} WHERE ${where} FOR NO KEY UPDATE) AS held)`;
}
