/**
 * Leases of ranges, against the plans that Postgres may make for taking one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { newId } from '../../src/ids.ts';
import { insertKey } from '../../src/store/keys/keys.ts';
import { leaseRange } from '../../src/store/lifecycle/rewrap-ranges.ts';
import {
  callOf,
  migratedDatabase,
  newTenant,
  SAMPLE_SEAL,
  SERVICE,
  SETTINGS,
  sampleVersion,
} from './database.ts';

const RANGES = 5;
/** The ways to join that the planner chooses among, by what it believes of the tables. */
const JOINS = ['hashjoin', 'mergejoin', 'nestloop'] as const;

for (const join of JOINS) {
  test(`taking a lease takes one, also where Postgres joins by ${join}`, async () => {
    await using database = await migratedDatabase();
    const others = ['material', 'memoize', ...JOINS.filter((each) => each !== join)];
    for (const other of others)
      await database.sql(
        `ALTER ROLE ${SERVICE} IN DATABASE ${database.name} SET enable_${other} = off`,
      );
    await using stack = new AsyncDisposableStack();
    const store = await database.open();
    stack.defer(() => store.close());
    const tenantId = await newTenant(database, 'acme');
    const version = sampleVersion(tenantId, newId());
    await store.mutate(callOf(), { tenantId, resource: 'tenants/acme/keys/k' }, (tx) =>
      insertKey(tx, { name: 'k', settings: SETTINGS, version, stateSeal: SAMPLE_SEAL }),
    );
    const jobId = newId();
    await database.sql(
      `INSERT INTO rewrap_jobs (tenant_id, job_id, scope, cause, caller) VALUES ($1, $2, 'x', 'request', 'x')`,
      [tenantId, jobId],
    );
    const insertRanges = (from: number, to: number) =>
      database.sql(
        `INSERT INTO rewrap_ranges (tenant_id, job_id, range, key_tenant_id, key_id, after_name, until_name, total)
         SELECT $1, $2, n, $1, $3, '', 'z', 1 FROM generate_series($4::integer, $5::integer) n`,
        [tenantId, jobId, version.keyId, from, to],
      );
    // Believing in one range, the planner may look for the one to lease once for each that there
    // is.
    await insertRanges(1, 1);
    await database.sql('VACUUM ANALYZE');
    await insertRanges(2, RANGES);
    for (let leased = 1; leased <= RANGES; leased++) {
      assert.equal((await leaseRange(store, callOf()))?.range, leased);
      const [row] = await database.sql<{ count: number }>(
        'SELECT count(*)::integer AS count FROM rewrap_ranges WHERE fence > 0',
      );
      assert.equal(row?.count, leased);
    }
    assert.equal(await leaseRange(store, callOf()), undefined);
  });
}
