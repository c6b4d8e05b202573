/**
 * Rows that several writers change at once, each many in one statement: services and an operator's
 * command come to the same ones, each with a plan of its own.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import pg from 'pg';
import {
  type AnyId,
  type JobId,
  type KeyId,
  newId,
  type OperationId,
  type SealKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { rewritePolicySeals, type StalePolicy } from '../../src/store/access/policies.ts';
import { type PasskeyRow, rewritePasskeySeals } from '../../src/store/approvals/passkeys.ts';
import { rewriteOperationSeals, type StaleOperation } from '../../src/store/approvals/pending.ts';
import {
  lockApprovalRules,
  rewriteApprovalRulesSeals,
  type StaleApprovalRules,
  writeApprovalRules,
} from '../../src/store/approvals/rules.ts';
import { type OwnerConnection, withOwnerConnection } from '../../src/store/core/owner.ts';
import type { Tx } from '../../src/store/core/transaction.ts';
import { writeCopies } from '../../src/store/hsm-token/moved-key-versions.ts';
import { type ResealedState, writeSeals } from '../../src/store/keys/key-seals.ts';
import type { KeyStateRecord } from '../../src/store/keys/key-states.ts';
import { insertKey } from '../../src/store/keys/keys.ts';
import { addReport } from '../../src/store/keys/usage.ts';
import type { Lease } from '../../src/store/lifecycle/rewrap-ranges.ts';
import type { RewrappedKeyVersion } from '../../src/store/lifecycle/rewrapped-key-versions.ts';
import { writeKeyVersions } from '../../src/store/lifecycle/stale-key-versions.ts';
import type { Store } from '../../src/store/store.ts';
import { eraseTenant } from '../../src/store/tenants/shredding.ts';
import { changeTenant } from '../../src/store/tenants/tenant-seals.ts';
import { eventually } from '../support/kit.ts';
import {
  callOf,
  migratedDatabase,
  newTenant,
  OWNER,
  SAMPLE_SEAL,
  SAMPLE_TENANT_SEALER,
  SERVICE,
  SETTINGS,
  sampleVersion,
  type TestDatabase,
} from './database.ts';

const COUNT = 5;
const NEW_SEAL = Buffer.alloc(32, 9);

/**
 * A database whose statements walk rows in the order in which they are given, and who writes in it.
 */
interface Bench extends AsyncDisposable {
  readonly database: TestDatabase;
  readonly store: Store;
  readonly tenantId: TenantId;
  readonly sealKeyId: SealKeyId;
  /** A transaction of an operator's command. */
  byOwner<T>(work: (owner: OwnerConnection) => Promise<T>): Promise<T>;
  /** A transaction of a service. */
  byService<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
}

async function newBench(): Promise<Bench> {
  const database = await migratedDatabase();
  for (const role of [OWNER, SERVICE])
    for (const join of ['hashjoin', 'mergejoin'])
      await database.sql(
        `ALTER ROLE ${role} IN DATABASE ${database.name} SET enable_${join} = off`,
      );
  await database.sql(`ALTER ROLE ${OWNER} IN DATABASE ${database.name} SET enable_seqscan = off`);
  const store = await database.open();
  const tenantId = await newTenant(database, 'acme');
  return {
    database,
    store,
    tenantId,
    sealKeyId: sampleVersion(tenantId, newId()).sealKeyId,
    byOwner: (work) =>
      withOwnerConnection(database.url(OWNER), undefined, (owner) =>
        owner.transaction(() => work(owner)),
      ),
    byService: (work) => store.reconcile(callOf(), work),
    [Symbol.asyncDispose]: async () => {
      await store.close();
      await database[Symbol.asyncDispose]();
    },
  };
}

/**
 * Adds keys of the tenant, whose rows and names are in the reverse order of their ids; returns
 * these in order.
 */
async function addKeys({ store, tenantId }: Bench): Promise<KeyId[]> {
  const ids = Array.from({ length: COUNT }, () => newId<KeyId>()).sort();
  for (const [index, keyId] of [...ids.entries()].reverse())
    await store.mutate(callOf(), { tenantId, resource: 'k' }, (tx) =>
      insertKey(tx, {
        name: `k-${COUNT - index}`,
        settings: { ...SETTINGS, rotationUsageLimit: 1 },
        version: sampleVersion(tenantId, keyId),
        stateSeal: SAMPLE_SEAL,
      }),
    );
  return ids;
}

/** Adds tenants with approval rules, whose rows are in the reverse order of their ids. */
async function addRules({ database, sealKeyId }: Bench): Promise<TenantId[]> {
  const made: TenantId[] = [];
  for (let count = 0; count < COUNT; count += 1)
    made.push(await newTenant(database, `ruled-${count}`));
  const tenants = made.sort();
  for (const tenantId of reversed(tenants))
    await database.sql(`INSERT INTO approval_rules VALUES ($1, 1, '{}', $2, $3)`, [
      tenantId,
      sealKeyId,
      SAMPLE_SEAL,
    ]);
  return tenants;
}

/** New seals of those rules. */
function ruleSealsOf({ sealKeyId }: Bench, tenants: readonly TenantId[]) {
  return tenants.map((tenantId) => ({
    before: { tenantId, sealed: { seal: SAMPLE_SEAL } } as StaleApprovalRules,
    sealKeyId,
    seal: NEW_SEAL,
  }));
}

/** New seals of those keys. */
function sealsOf({ tenantId, sealKeyId }: Bench, ids: readonly KeyId[]): ResealedState[] {
  return ids.map((keyId) => ({
    before: { tenantId, keyId, seal: SAMPLE_SEAL } as KeyStateRecord,
    sealKeyId,
    seal: NEW_SEAL,
  }));
}

/**
 * Has both write while the row in the middle is another's, so that each holds what comes before
 * that in its own order; and then lets them go on.
 */
async function assertNoCircle(
  { database }: Bench,
  middle: {
    readonly table: string;
    readonly column: string;
    readonly id: AnyId | Buffer | undefined;
  },
  writers: readonly (() => Promise<unknown>)[],
): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const holder = new pg.Client({ connectionString: database.url() });
  await holder.connect();
  stack.defer(() => holder.end());
  await holder.query('BEGIN');
  const held = await holder.query(
    `SELECT 1 FROM ${middle.table} WHERE ${middle.column} = $1 FOR NO KEY UPDATE`,
    [middle.id],
  );
  assert.equal(held.rowCount, 1);
  const writing = Promise.allSettled(writers.map((write) => write()));
  await eventually(async () => {
    const waiting = await database.sql(
      "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    );
    assert.equal(waiting.length, writers.length);
  });
  await holder.query('COMMIT');
  for (const outcome of await writing)
    if (outcome.status === 'rejected')
      throw new Error('a writer was undone', { cause: outcome.reason });
}

const reversed = <T>(all: readonly T[]): T[] => [...all].reverse();

describe('two that write the same rows in different orders wait for each other, and never in a circle:', () => {
  test('seals of keys, by a service and an operator', async () => {
    await using bench = await newBench();
    const { byOwner, byService } = bench;
    const ids = await addKeys(bench);
    const seals = sealsOf(bench, ids);
    await assertNoCircle(bench, { table: 'keys', column: 'key_id', id: ids[2] }, [
      () => byOwner(({ query }) => writeSeals(query, seals, { evenIfPaused: true })),
      () => byService((tx) => writeSeals(tx.query, reversed(seals), { evenIfPaused: false })),
    ]);
    const written = await bench.database.sql('SELECT 1 FROM keys WHERE state_seal = $1', [
      NEW_SEAL,
    ]);
    assert.equal(written.length, COUNT);
  });

  test('seals of policies, by a service and an operator', async () => {
    await using bench = await newBench();
    const { database, sealKeyId, byOwner, byService } = bench;
    const tenants = Array.from({ length: COUNT }, () => newId<TenantId>()).sort();
    for (const tenantId of reversed(tenants)) {
      await database.sql('INSERT INTO tenants (tenant_id, name) VALUES ($1, $2)', [
        tenantId,
        `t-${tenantId.slice(0, 8)}`,
      ]);
      await database.sql('INSERT INTO access_policies VALUES ($1, 1, $2, $3)', [
        tenantId,
        sealKeyId,
        SAMPLE_SEAL,
      ]);
    }
    const seals = tenants.map((tenantId) => ({
      before: { tenantId, policy: { sealed: { seal: SAMPLE_SEAL } } } as StalePolicy,
      sealKeyId,
      seal: NEW_SEAL,
    }));
    await assertNoCircle(bench, { table: 'access_policies', column: 'tenant_id', id: tenants[2] }, [
      () => byOwner(({ query }) => rewritePolicySeals(query, seals, { evenIfPaused: true })),
      () =>
        byService((tx) => rewritePolicySeals(tx.query, reversed(seals), { evenIfPaused: false })),
    ]);
    const written = await database.sql('SELECT 1 FROM access_policies WHERE seal = $1', [NEW_SEAL]);
    assert.equal(written.length, COUNT);
  });

  test('seals of approval rules, by a service and an operator', async () => {
    await using bench = await newBench();
    const { database, byOwner, byService } = bench;
    const tenants = await addRules(bench);
    const seals = ruleSealsOf(bench, tenants);
    await assertNoCircle(bench, { table: 'approval_rules', column: 'tenant_id', id: tenants[2] }, [
      () => byOwner(({ query }) => rewriteApprovalRulesSeals(query, seals, { evenIfPaused: true })),
      () =>
        byService((tx) =>
          rewriteApprovalRulesSeals(tx.query, reversed(seals), { evenIfPaused: false }),
        ),
    ]);
    const written = await database.sql('SELECT 1 FROM approval_rules WHERE seal = $1', [NEW_SEAL]);
    assert.equal(written.length, COUNT);
  });

  test('seals of approval rules, by an operator, and new rules of one tenant, by a service, which stay', async () => {
    await using bench = await newBench();
    const { database, store, sealKeyId, byOwner } = bench;
    const tenants = await addRules(bench);
    const seals = ruleSealsOf(bench, tenants);
    const [, , tenantId] = tenants;
    assert.ok(tenantId);
    const sealed = { revision: 2n, sealKeyId, seal: Buffer.alloc(32, 8) };
    // Both wait for this tenant's; whichever of them comes first, what was set is what stays.
    await assertNoCircle(bench, { table: 'approval_rules', column: 'tenant_id', id: tenantId }, [
      () => byOwner(({ query }) => rewriteApprovalRulesSeals(query, seals, { evenIfPaused: true })),
      () =>
        store.mutate(callOf(), { tenantId, resource: 'r' }, (tx) =>
          changeTenant(tx, tenantId, SAMPLE_TENANT_SEALER, async () => {
            await lockApprovalRules(tx, tenantId);
            await writeApprovalRules(tx, tenantId, '{"new":true}', sealed);
            return { approvalRulesRevision: 2n };
          }),
        ),
    ]);
    const rows = await database.sql(
      'SELECT tenant_id, content, seal FROM approval_rules ORDER BY tenant_id',
    );
    assert.deepEqual(
      rows,
      tenants.map((each) =>
        each === tenantId
          ? { tenant_id: each, content: '{"new":true}', seal: sealed.seal }
          : { tenant_id: each, content: '{}', seal: NEW_SEAL },
      ),
    );
  });

  test('seals of passkeys, by a service and an operator', async () => {
    await using bench = await newBench();
    const { database, tenantId, sealKeyId, byOwner, byService } = bench;
    const ids = Array.from({ length: COUNT }, (_, index) => Buffer.alloc(16, index + 1));
    for (const id of reversed(ids))
      await database.sql(`INSERT INTO passkeys VALUES ($1, $2, 'p', false, 1, '', $3, $4)`, [
        tenantId,
        id,
        sealKeyId,
        SAMPLE_SEAL,
      ]);
    const seals = ids.map((credentialId) => ({
      before: { credentialId, seal: SAMPLE_SEAL } as PasskeyRow,
      sealKeyId,
      seal: NEW_SEAL,
    }));
    await assertNoCircle(bench, { table: 'passkeys', column: 'credential_id', id: ids[2] }, [
      () => byOwner(({ query }) => rewritePasskeySeals(query, seals, { evenIfPaused: true })),
      () =>
        byService((tx) => rewritePasskeySeals(tx.query, reversed(seals), { evenIfPaused: false })),
    ]);
    const written = await database.sql('SELECT 1 FROM passkeys WHERE seal = $1', [NEW_SEAL]);
    assert.equal(written.length, COUNT);
  });

  test('seals of pending operations, by a service and an operator', async () => {
    await using bench = await newBench();
    const { database, tenantId, sealKeyId, byOwner, byService } = bench;
    const ids = Array.from({ length: COUNT }, () => newId<OperationId>()).sort();
    for (const operationId of reversed(ids))
      await database.sql(
        `INSERT INTO pending_operations (tenant_id, operation_id, revision, state, method,
           requester, request_digest, request, created_at, expires_at, content, seal_key_id, seal)
         VALUES ($1, $2, 1, 'PENDING', 'm', 'r', $4, '', now(), now(), '', $3, $4)`,
        [tenantId, operationId, sealKeyId, SAMPLE_SEAL],
      );
    const seals = ids.map((operationId) => ({
      before: { tenantId, operationId, seal: SAMPLE_SEAL } as StaleOperation,
      sealKeyId,
      seal: NEW_SEAL,
    }));
    const middle = { table: 'pending_operations', column: 'operation_id', id: ids[2] };
    await assertNoCircle(bench, middle, [
      () => byOwner(({ query }) => rewriteOperationSeals(query, seals, { evenIfPaused: true })),
      () =>
        byService((tx) =>
          rewriteOperationSeals(tx.query, reversed(seals), { evenIfPaused: false }),
        ),
    ]);
    const written = await database.sql('SELECT 1 FROM pending_operations WHERE seal = $1', [
      NEW_SEAL,
    ]);
    assert.equal(written.length, COUNT);
  });

  test('seals of keys, by an operator, and that keys have reached their limits, by a service', async () => {
    await using bench = await newBench();
    const { database, store, tenantId, byOwner } = bench;
    const ids = await addKeys(bench);
    const seals = sealsOf(bench, ids);
    const uses = reversed(ids).map((keyId) => ({
      tenantId,
      keyId,
      version: 1,
      encrypted: 1,
      decrypted: 0,
      sinceEncryptMs: 0,
      sinceDecryptMs: undefined,
    }));
    await assertNoCircle(bench, { table: 'keys', column: 'key_id', id: ids[2] }, [
      () => byOwner(({ query }) => writeSeals(query, seals, { evenIfPaused: true })),
      () => addReport(store, callOf(), { replicaId: newId(), sequence: 1, ageMs: 0, uses }),
    ]);
    const both = 'SELECT 1 FROM keys WHERE state_seal = $1 AND usage_limit_reached_at IS NOT NULL';
    assert.equal((await database.sql(both, [NEW_SEAL])).length, COUNT);
  });

  test('seals of keys, by an operator, and their destruction with their tenant, by a service', async () => {
    await using bench = await newBench();
    const { database, tenantId, byOwner, byService } = bench;
    const ids = await addKeys(bench);
    await database.sql(
      "UPDATE tenants SET state = 'SHRED_SCHEDULED', shred_at = now() WHERE tenant_id = $1",
      [tenantId],
    );
    const seals = sealsOf(bench, ids);
    await assertNoCircle(bench, { table: 'keys', column: 'key_id', id: ids[2] }, [
      () => byOwner(({ query }) => writeSeals(query, seals, { evenIfPaused: true })),
      () =>
        byService(async (tx) => {
          await changeTenant(tx, tenantId, SAMPLE_TENANT_SEALER, async () => {
            await eraseTenant(tx, tenantId);
            return { state: 'SHREDDED', shreddedAt: new Date() };
          });
        }),
    ]);
    const gone = await database.sql(
      "SELECT 1 FROM keys WHERE state = 'DESTROYED' AND state_seal IS NULL",
    );
    assert.equal(gone.length, COUNT);
  });

  test('key versions, which a service brings under another root key, and an operator copies', async () => {
    await using bench = await newBench();
    const { database, store, tenantId, byOwner } = bench;
    const ids = await addKeys(bench);
    const jobId = newId<JobId>();
    await database.sql(
      `INSERT INTO rewrap_jobs (tenant_id, job_id, kind, scope, cause, caller)
       VALUES ($1, $2, 'key-versions', 'x', 'request', 'x')`,
      [tenantId, jobId],
    );
    await database.sql(
      `INSERT INTO rewrap_ranges (tenant_id, job_id, range, after_name, until_name, total, fence)
       VALUES ($1, $2, 1, '', 'z', $3, 1)`,
      [tenantId, jobId, COUNT],
    );
    const lease: Lease = {
      tenantId,
      jobId,
      kind: 'key-versions',
      range: 1,
      fence: '1',
      afterName: '',
      untilName: 'z',
      abandoned: false,
    };
    const rewrapped = ids.map((keyId): RewrappedKeyVersion => {
      const before = sampleVersion(tenantId, keyId) as RewrappedKeyVersion['before'];
      return { before, after: { ...before, wrapped: Buffer.alloc(72, 2), seal: NEW_SEAL } };
    });
    const progress = { done: COUNT, failed: [], afterName: 'z', finished: true };
    await assertNoCircle(bench, { table: 'key_versions', column: 'key_id', id: ids[2] }, [
      () => byOwner((owner) => writeCopies(owner, rewrapped)),
      () => writeKeyVersions(store, callOf(), lease, reversed(rewrapped), progress),
    ]);
    const written = await database.sql('SELECT 1 FROM key_versions WHERE seal = $1', [NEW_SEAL]);
    assert.equal(written.length, COUNT);
  });
});
