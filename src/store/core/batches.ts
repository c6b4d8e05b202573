/**
 * Batches in the order of an index, whatever Postgres believes of the table.
 *
 * Statistics lag behind exactly when a million rows have just been made or moved. With the number
 * of rows that a statement wants, Postgres then finds it cheaper to read all that it believes to be
 * there, and to sort it: a batch of 500 was found by reading all of a key's rows, 150 µs of
 * Postgres for a row instead of 20 (measured). Where it does not know the number, it counts on a
 * tenth of what there is, and walks the index that has the order.
 */

/** The clause that ends a statement with `ORDER BY`, with the parameter for the number of rows. */
export const atMost = (parameter: string) => `LIMIT (SELECT ${parameter}::integer)`;

/**
 * Whether any row of a table is under the seal key `o.object_id`, by an index on the column that
 * names it and then the primary key. Where all rows are under one seal key, Postgres takes one of
 * another for as easy to find, and reads the table to the end to find none.
 */
export const firstUnder = (table: string, column: string, primaryKey: string) =>
  `(SELECT true FROM ${table} u WHERE u.${column} = o.object_id ORDER BY ${primaryKey} LIMIT 1)`;
