/**
 * Rows of PostgreSQL by node-postgres, with columns that are encrypted, each customer's under data
 * keys of their own. Both columns are of the type bytea.
 *
 * - A field that is copied to another row, column or customer does not open.
 * - A data key is remembered for five minutes: not every row asks the service.
 */
import type { KeywardClient } from 'keyward-client';
import type { Pool } from 'pg';

/** An order as the program has it. */
export interface Order {
  readonly id: string;
  readonly customer: string;
  readonly card: string;
  readonly notes: readonly string[] | null;
}

/** Returns what inserts and finds orders; `key` is of the service. */
export function ordersIn(db: Pool, keyward: KeywardClient, key: string) {
  const box = keyward.envelope({ key, cache: { maxAgeMs: 5 * 60_000 } });
  const fields = ['card', 'notes'] as const;
  return {
    async insert(order: Order): Promise<void> {
      const { id, customer } = order;
      const row = await box.encryptFields(order, { fields, id, context: { customer } });
      await db.query('INSERT INTO orders VALUES ($1, $2, $3, $4)', [
        ...[id, customer, row.card, row.notes],
      ]);
    },
    async find(id: string): Promise<Order | undefined> {
      const { rows } = await db.query('SELECT * FROM orders WHERE id = $1', [id]);
      const [row] = rows;
      if (row === undefined) return undefined;
      const { customer } = row;
      return (await box.decryptFields(row, { fields, id, context: { customer } })) as Order;
    },
  };
}
