/**
 * Reads other tenants' rows inside a transaction that is bound to one.
 */
import { RECONCILER_ROLE } from './schema.ts';
import type { Tx } from './transaction.ts';

/**
 * Does `work` with the reconciler's rights, and gives them back. What `work` throws undoes the
 * transaction. A second transaction would do, but would take a second connection while it holds
 * one, and calls that all wait for one would wait for each other.
 */
export async function acrossTenants<T>(tx: Tx, work: () => Promise<T>): Promise<T> {
  const [before] = await tx.query<{ role: string }>("SELECT current_setting('role') AS role");
  const become = (role: string | undefined) =>
    tx.query("SELECT set_config('role', $1, true)", [role ?? 'none']);
  await become(RECONCILER_ROLE);
  const result = await work();
  await become(before?.role);
  return result;
}
