/**
 * The hot statements of `src/store/`, run: those that calls, polls, ticks and pages send.
 *
 * Each at least once, with values of a database that `many-rows.ts` has filled. Which these are is
 * in `statement-classes.ts`.
 */
import { randomUUID } from 'node:crypto';
import type { Call } from '../../src/call.ts';
import { type AnyId, type JobId, type KeyId, newId, type TenantId } from '../../src/ids.ts';
import { addCallerReports, findCallerHours } from '../../src/store/access/caller-hours.ts';
import * as policies from '../../src/store/access/policies.ts';
import { findApprovalRules } from '../../src/store/approvals/rules.ts';
import {
  listLeavesBefore,
  listLeavesFrom,
  listTiles,
} from '../../src/store/audit/audit-entries.ts';
import { findAuditFigures } from '../../src/store/audit/audit-figures.ts';
import * as inbox from '../../src/store/audit/audit-inbox.ts';
import * as log from '../../src/store/audit/audit-log.ts';
import { findCanaries } from '../../src/store/canaries/canaries.ts';
import { ChangeFeed } from '../../src/store/changes.ts';
import { findDatabaseFigures } from '../../src/store/core/database-figures.ts';
import { readEnvironment } from '../../src/store/environment.ts';
import { keepHouse } from '../../src/store/housekeeping.ts';
import * as replicas from '../../src/store/hsm-token/replicas.ts';
import { findTokenKeySet } from '../../src/store/hsm-token/token-key-set.ts';
import { findDueTokenKeys, listTokenObjects } from '../../src/store/hsm-token/token-objects.ts';
import * as dataKeys from '../../src/store/keys/data-keys.ts';
import * as keySeals from '../../src/store/keys/key-seals.ts';
import { findKeyState } from '../../src/store/keys/key-states.ts';
import * as versions from '../../src/store/keys/key-versions.ts';
import * as keys from '../../src/store/keys/keys.ts';
import { addReport, findTotalUsage, findUsage } from '../../src/store/keys/usage.ts';
import * as maintenance from '../../src/store/lifecycle/maintenance.ts';
import { findMaintenance } from '../../src/store/lifecycle/maintenance-switch.ts';
import { findEndings } from '../../src/store/lifecycle/notices.ts';
import * as jobs from '../../src/store/lifecycle/rewrap-jobs.ts';
import * as ranges from '../../src/store/lifecycle/rewrap-ranges.ts';
import { insertRotation, listRotations } from '../../src/store/lifecycle/rotations.ts';
import * as staleDataKeys from '../../src/store/lifecycle/stale-data-keys.ts';
import * as staleVersions from '../../src/store/lifecycle/stale-key-versions.ts';
import { findWorkFigures } from '../../src/store/lifecycle/work-figures.ts';
import { findEffect } from '../../src/store/request-ids.ts';
import { findRevisions } from '../../src/store/revisions.ts';
import type { Store } from '../../src/store/store.ts';
import * as tenantSeals from '../../src/store/tenants/tenant-seals.ts';
import * as tenants from '../../src/store/tenants/tenants.ts';
import {
  addSamplePrimary,
  callOf,
  SAMPLE_SEAL,
  SAMPLE_SEALER,
  SETTINGS,
  sampleVersion,
} from './database.ts';
import type { Subject } from './many-rows.ts';

const PAGE = 100;
const BATCH = 500;
const BEGINNING = '00000000-0000-0000-0000-000000000000';

/** Sends every hot statement at least once. */
export async function runHot(store: Store, subject: Subject): Promise<void> {
  await runCalls(store, subject);
  await runPages(store, subject);
  await runPolls(store, subject);
  await runTicks(store, subject);
  await runSequencer(store);
}

/** What calls load, count, and change of keys. */
async function runCalls(store: Store, { tenantId, keyId }: Subject): Promise<void> {
  const call = callOf();
  await tenants.findTenantByName(store, call, 't-1');
  await tenants.findTenant(store, call, tenantId);
  await store.read(call, tenantId, async (tx) => {
    await keys.findKeyNamed(tx, tenantId, 'k-1');
    await keys.findKey(tx, tenantId, keyId);
    await findKeyState(tx, tenantId, keyId);
    await versions.findVersion(tx, tenantId, keyId, 1);
    await policies.findPolicy(tx, tenantId);
    await findApprovalRules(tx, tenantId);
    await dataKeys.findDataKey(tx, tenantId, keyId, 'd-10');
    await findUsage(tx, tenantId, keyId);
    await findTotalUsage(tx, tenantId, keyId);
  });
  const idempotency = { requestId: randomUUID(), fingerprint: Buffer.alloc(32) };
  await store.mutate(
    { ...call, idempotency: { ...idempotency, keep: keepNothing } } as unknown as Call,
    { tenantId, resource: 'k', change: { kind: 'key', subjectId: keyId } },
    async (tx) => {
      const version = sampleVersion(tenantId, newId());
      await keys.insertKey(tx, {
        name: 'new',
        settings: SETTINGS,
        version,
        stateSeal: SAMPLE_SEAL,
      });
      const dataKey = {
        ...{ name: 'new', dataKeyId: newId(), contextDigest: Buffer.alloc(32), version: 1 },
        ciphertext: await ciphertextOf(tx, tenantId, keyId),
      };
      await dataKeys.insertDataKey(tx, tenantId, keyId, dataKey as never, 1e9);
      await dataKeys.deleteDataKey(tx, tenantId, keyId, dataKey as never);
      await jobs.supersedeJobs(tx, tenantId, keyId);
      await jobs.findLatestJob(tx, tenantId, 'tenants/t/keys/none', 'data-keys');
      await keySeals.changeStates(tx, { tenantId, keyId }, SAMPLE_SEALER, (stateTx) =>
        keys.updateKey(stateTx, tenantId, keyId, { rotationPeriodSeconds: 86_400 }),
      );
    },
  );
  await store.read(call, tenantId, (tx) =>
    findEffect(tx, tenantId, { ...call, idempotency } as unknown as Call),
  );
}

const keepNothing = () =>
  Promise.resolve({ effect: '', maskKeyId: newId<AnyId>(), mac: Buffer.alloc(32) });

async function ciphertextOf(
  tx: Parameters<typeof dataKeys.findDataKey>[0],
  tenantId: TenantId,
  keyId: KeyId,
): Promise<Buffer> {
  const found = await dataKeys.findDataKey(tx, tenantId, keyId, 'd-10');
  if (found === undefined) throw new Error('there is no d-10');
  return found.ciphertext;
}

/** Lists, from their beginning. */
async function runPages(store: Store, { tenantId, keyId }: Subject): Promise<void> {
  const call = callOf();
  const page = { limit: PAGE };
  await tenants.listTenants(store, call, page);
  await store.read(call, tenantId, async (tx) => {
    await keys.listKeys(tx, tenantId, page);
    await versions.listVersions(tx, tenantId, keyId, page);
    await dataKeys.listDataKeys(tx, tenantId, keyId, page);
    await listRotations(tx, tenantId, keyId, page);
    await jobs.listJobs(tx, tenantId, page);
    await jobs.findJob(tx, tenantId, newId<JobId>());
    await jobs.listFailures(tx, tenantId, newId<JobId>());
    await findDatabaseFigures(tx);
    const query = { tenantId, conditions: [], limit: PAGE };
    await listLeavesBefore(tx, 1e9, query);
    await listLeavesFrom(tx, 0, 1e9, query);
    await listTiles(tx, 0, 10, PAGE);
  });
  await store.reconcile(call, (tx) =>
    listLeavesBefore(tx, 1e9, { tenantId: undefined, conditions: [], limit: PAGE }),
  );
}

/** What replicas ask again and again. */
async function runPolls(store: Store, { tenantId, keyId }: Subject): Promise<void> {
  const call = callOf();
  await pollChanges(store);
  const entry = {};
  await findRevisions(store, call, [
    ...(['tenant', 'access', 'approvalRules'] as const).map((kind) => {
      return { kind, tenantId, subjectId: tenantId, revision: 1n, entry };
    }),
    { kind: 'key', tenantId, subjectId: keyId, revision: 1n, entry },
  ]);
  await readEnvironment(store);
  const report = { name: 'r', release: '0', agents: 1, agentsReady: 1, problems: [] };
  const replica = { tenantId, replicaId: randomUUID(), held: [], report };
  await replicas.reportHeld(store, call, replica);
  await store.reconcile(call, async (tx) => {
    await replicas.listReplicas(tx);
    await findCanaries(tx);
    await findMaintenance(tx);
    await findTokenKeySet(tx);
    await findWorkFigures(tx);
    await findAuditFigures(tx);
  });
  await listTokenObjects(store, call);
}

/** Two polls of the feed: one from the beginning, and what comes of it. */
async function pollChanges(store: Store): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const listener = { onChange: () => {}, onReset: () => resolve(), onError: reject };
  const feed = new ChangeFeed(store, 60_000, listener);
  feed.start();
  await promise;
  await feed.stop();
}

/** What the reconciler, usage, anomalies, notices and housekeeping do. */
async function runTicks(store: Store, subject: Subject): Promise<void> {
  const { tenantId, keyId, formerSealKey } = subject;
  const call = callOf();
  await maintenance.findDue(store, call, PAGE, () => Promise.resolve(false));
  await store.reconcile(call, async (tx) => {
    await findDueTokenKeys(tx, PAGE);
    await maintenance.findRotationCause(tx, tenantId, keyId);
    await keySeals.findFormerSealKeys(tx.query);
    await tenantSeals.findFormerTenantKeys(tx.query);
    await policies.findFormerPolicyKeys(tx.query);
    await keySeals.readStaleStates(tx.query, formerSealKey, keySeals.FIRST_KEY, PAGE);
    await tenantSeals.readStaleTenants(tx.query, formerSealKey, undefined, PAGE);
    await policies.readStalePolicies(tx.query, formerSealKey, undefined, PAGE);
  });
  const uses = { encrypted: 1, decrypted: 1, sinceEncryptMs: 1, sinceDecryptMs: 1 };
  await addReport(store, call, {
    ...{ replicaId: randomUUID(), sequence: 1, ageMs: 0 },
    uses: [{ tenantId, keyId, version: 1, ...uses }],
  });
  const counts = { encrypts: 1, decrypts: 1, others: 0, failures: 0 };
  await addCallerReports(store, call, [{ caller: 'service-1', ...counts, keys: ['k-1'] }]);
  await findCallerHours(store, call, ['service-1']);
  await findEndings(store, call, PAGE);
  await keepHouse(store);
  await runRotation(store, subject);
  await runRewrapping(store, subject);
}

/** A key is rotated, and a job begins. */
async function runRotation(store: Store, { tenantId, keyId }: Subject): Promise<void> {
  await store.mutate(callOf(), { tenantId, resource: 'k' }, async (tx) => {
    await addSamplePrimary(tx, sampleVersion(tenantId, keyId, 2));
    const jobId = await jobs.newJobId(tx);
    await jobs.insertJob(tx, callOf(), {
      ...{ tenantId, jobId, kind: 'data-keys', scope: 'tenants/t-1/keys/k-1', cause: 'request' },
      ...{ scopeTenantId: tenantId, scopeKeyId: keyId },
    });
    const rotation = { fromVersion: 1, toVersion: 2, cause: 'request', caller: 'c', durationMs: 1 };
    await insertRotation(tx, { tenantId, keyId, jobId, ...rotation } as never);
  });
}

/** The job is planned, a batch of it written, and it is ended. */
async function runRewrapping(store: Store, subject: Subject): Promise<void> {
  const call = callOf();
  const planners = {
    'data-keys': staleDataKeys.planDataKeys,
    'key-versions': staleVersions.planKeyVersions,
  };
  await ranges.planRange(store, call, BATCH, planners);
  const lease = await ranges.leaseRange(store, call);
  if (lease?.key === undefined) throw new Error('nothing was planned');
  const { key } = lease;
  const batch = await staleDataKeys.readDataKeys(store, call, key, lease, BATCH);
  const items = batch.dataKeys.map((before) => ({ before, ciphertext: before.ciphertext }));
  const progress = { done: items.length, failed: [], afterName: lease.untilName, finished: true };
  const rewrapped = { target: 2, items };
  await staleDataKeys.writeDataKeys(store, call, { lease, key }, rewrapped, progress);
  await ranges.releaseRange(store, call, lease);
  await jobs.findFinishedJobs(store, call, PAGE);
  await store.mutate(call, { tenantId: lease.tenantId, resource: 'k' }, (tx) =>
    jobs.endJob(tx, lease.tenantId, lease.jobId, 'CANCELLED'),
  );
  await runPlans(store, subject);
  await runVersions(store, subject);
}

/** The next key of a job over all tenants, and over one. */
async function runPlans(store: Store, { tenantId }: Subject): Promise<void> {
  const frontier = { tenantId: null, keyId: null, name: null };
  for (const scopeTenantId of [null, tenantId]) {
    const job = { tenantId, jobId: newId<JobId>(), scopeTenantId, scopeKeyId: null, frontier };
    await store.reconcile(callOf(), (tx) => staleDataKeys.planDataKeys(tx, job, BATCH));
  }
}

/** Of a job over key versions: what is planned, read and written. */
async function runVersions(store: Store, { tenantId }: Subject): Promise<void> {
  const call = callOf();
  const frontier = { tenantId: null, keyId: null, name: null };
  const job = { tenantId, jobId: newId<JobId>(), scopeTenantId: null, scopeKeyId: null, frontier };
  await store.reconcile(call, (tx) => staleVersions.planKeyVersions(tx, job, BATCH));
  const place = (id: string) => `${id}/${BEGINNING}/0000000000`;
  const range = { afterName: place(BEGINNING), untilName: place(tenantId) };
  await staleVersions.readKeyVersions(store, call, range, BATCH);
}

/** Entries become leaves, and the log is signed. */
async function runSequencer(store: Store): Promise<void> {
  const call = callOf();
  const fence = await log.acquireLease(store, call);
  if (fence === undefined) throw new Error('the lease is another’s');
  await log.withLease(store, call, fence, async (tx, { treeSize }) => {
    const rows = await inbox.listOldestRows(tx, 10);
    await inbox.findOldestRow(tx);
    await inbox.makePartitions(tx, treeSize, 10);
    await inbox.moveRows(
      tx,
      treeSize,
      rows.map(({ groupNumber }) => groupNumber),
    );
    await inbox.findWriters(tx);
    await inbox.findArrivals(tx, newId());
    await log.findTile(tx, 0, 1);
    await log.writeTree(tx, treeSize + rows.length, []);
    const signed = {
      treeSize,
      generation: 1,
      rootHash: Buffer.alloc(32),
      note: 'n',
      publicKey: '',
    };
    await log.insertCheckpoint(tx, { ...signed, signedAt: new Date() });
    await log.findLastCheckpoint(tx);
    await log.findLastCosigned(tx);
    await log.findAuditState(tx);
  });
  await log.releaseLease(store, call, fence);
}
