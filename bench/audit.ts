/**
 * The audit log, measured: how many entries the group commit makes durable, how fast they become
 * leaves, what one takes on disk, and whether callers notice how long the log is.
 *
 * Writer and figures are of this process and the bench's database; the leaves are made by the
 * service.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { identityOf, newReplicaId } from '../src/audit/identity.ts';
import { AuditWriter } from '../src/audit/writer.ts';
import { monotonicNow } from '../src/call.ts';
import { readEnvironment } from '../src/store/environment.ts';
import { Store } from '../src/store/store.ts';
import { type Bench, encryptOf, say, warmUp } from './bench.ts';
import type { Environment } from './environment.ts';
import { withAgents } from './make-keys.ts';
import { paragraph, target } from './markdown.ts';
import { type Load, measureSlice, median, type Timing } from './measure.ts';
import { cpuMicrosecondsWithChildren } from './processes.ts';
import type { Workload } from './workloads.ts';

/** As many as three replicas have calls, or so. */
const WRITING = 768;
const IN_FLIGHT = 64;
const CHUNK = 500_000;
/** About as many as are made durable at once when 64 calls are in flight. */
const GROUP = 32;
/** So many of those are added by one statement. */
const ROWS = 200;
const POLL_MS = 50;
const APPEND_MS = 60_000;

/** How much is done. */
interface AuditPlan extends Timing {
  /** Entries that are in the log when callers are measured again. */
  readonly entries: number;
}

interface AuditResults {
  /** Entries each second: made durable, and made leaves of. */
  readonly written: number;
  readonly sequenced: number;
  readonly bytesPerEntry: number;
  /** Of write-ahead log, for an entry made durable and then a leaf. */
  readonly walPerEntry: number;
  /** Of Postgres' CPU time likewise, in microseconds. */
  readonly cpuPerEntry: number;
  readonly entries: number;
  /** Encrypt's rate, 64 in flight, with so long a log, of that with a short one. */
  readonly ofShortLog: number;
}

const FULL = { rampMs: 150, measureMs: 3_000, rounds: 5, warmUpMs: 1_500, entries: 10_000_000 };
const QUICK = { rampMs: 20, measureMs: 300, rounds: 1, warmUpMs: 50, entries: 20_000 };
/** As many as tell something, however long the log is already. */
const LEAST_ENTRIES = 5_000;
const ENTRIES_PER_SECOND = 10_000;
const OF_SHORT_LOG = 0.9;

/** See this file's first paragraph. */
export const audit: Bench = {
  name: 'audit',
  title: 'The audit log',
  measures: 'how fast entries are made durable and become leaves, and what a long log costs',
  async run(context) {
    say('the audit log …');
    const { environment, load, isQuick } = context;
    const plan = isQuick ? QUICK : FULL;
    const encrypt = encryptOf(context);
    await warmUp(load, [[environment.target, encrypt]], plan.warmUpMs);
    const results = await measureAudit(environment, load, encrypt, plan);
    return { text: auditText(results), targets: auditTargets(results) };
  },
};

function auditText({ entries, ofShortLog, ...rates }: AuditResults): string {
  const { bytesPerEntry, walPerEntry, cpuPerEntry } = rates;
  const [written, sequenced] = [rates.written.toFixed(0), rates.sequenced.toFixed(0)];
  return paragraph(`
    Every call is recorded, durably, before it is answered, and its entry becomes a leaf of the
    log. Entries of Encrypt with a context of two, by the group commit alone, ${WRITING} waiting at
    any time: ${written} a second. Entries made leaves, while there are no calls: ${sequenced} a
    second, for ${walPerEntry.toFixed(0)} bytes of write-ahead log and ${cpuPerEntry.toFixed(1)} µs
    of Postgres' CPU time each, from the group commit to the leaf. On disk, with indexes and tiles:
    ${bytesPerEntry.toFixed(0)} bytes each. Encrypt at
    ${IN_FLIGHT} in flight with ${entries} entries in the log: ${ofShortLog.toFixed(2)} of its rate
    before.`);
}

function auditTargets({ written, ofShortLog }: AuditResults): string[] {
  return [
    target(
      written >= ENTRIES_PER_SECOND,
      `audit entries made durable: ${written.toFixed(0)} a second; to reach ${ENTRIES_PER_SECOND}`,
    ),
    target(
      ofShortLog >= OF_SHORT_LOG,
      `Encrypt with a long audit log: ${ofShortLog.toFixed(2)} of its rate with a short one; ` +
        `to reach ${OF_SHORT_LOG.toFixed(2)}`,
    ),
  ];
}

/** Everything above, on the bench's environment. */
async function measureAudit(
  environment: Environment,
  load: Load,
  encrypt: Workload,
  plan: AuditPlan,
): Promise<AuditResults> {
  const owner = await environment.connectAsOwner();
  const service = environment.target;
  const callers = async () => {
    const rates: number[] = [];
    for (let round = 0; round < plan.rounds; round++)
      rates.push(
        (await measureSlice(load, service, encrypt, { ...plan, inFlight: IN_FLIGHT })).perSecond,
      );
    return median(rates);
  };
  try {
    const short = await callers();
    const { written, ...lengthened } = await withProvenStore(environment, async (store) => {
      const perSecond = await measureWriter(store, plan.measureMs);
      await drained(owner);
      const costs = () => costOf(owner, service.databasePid);
      return { written: perSecond, ...(await lengthenTo(owner, store, plan.entries, costs)) };
    });
    const long = await callers();
    await drained(owner);
    const { entries, bytes } = await sizeOf(owner);
    return {
      written,
      ...lengthened,
      bytesPerEntry: bytes / entries,
      entries,
      ofShortLog: long / short,
    };
  } finally {
    await owner.end();
  }
}

/** A store of this process's own, whose rows the token proves. */
async function withProvenStore<T>(
  environment: Environment,
  work: (store: Store) => Promise<T>,
): Promise<T> {
  const url = environment.variables['DATABASE_URL'] ?? '';
  const store = await Store.open({
    url,
    poolSize: 1,
    waitMs: 300,
    release: '0.2.0',
    onError: () => {},
  });
  try {
    await withAgents(environment, async (agents) =>
      store.streams.use(await identityOf(agents, newReplicaId())),
    );
    return await work(store);
  } finally {
    await store.close();
  }
}

/** Entries each second, so many waiting at any time. */
async function measureWriter(store: Store, measureMs: number): Promise<number> {
  const { systemTenantId } = await readEnvironment(store);
  const writer = new AuditWriter({ store, waitMs: 440, logOf: () => systemTenantId });
  const until = monotonicNow() + measureMs;
  let count = 0;
  const write = async () => {
    while (monotonicNow() < until) {
      await writer.write(record());
      count += 1;
    }
  };
  await Promise.all(Array.from({ length: WRITING }, write));
  return (count * 1000) / measureMs;
}

/** One of Encrypt's, with two masks. */
function record() {
  const mask = '0123456789abcdef0123456789abcdef';
  return {
    call: {
      id: randomUUID(),
      caller: 'spiffe://keyward.dev/development/admin',
      method: 'keyward.v1.EncryptionService/Encrypt',
      audit: {
        replica: 'bench/1',
        certificate: mask,
        address: '127.0.0.1',
        startedAt: monotonicNow(),
        decision: 'allowed' as const,
        binding: 'tenants/system/roleBindings/be63b18dcb9a44704ab114b6ed45e5c80',
        keyVersion: 'tenants/bench/keys/first/versions/1',
        context: new Map([
          ['purpose', mask],
          ['record', mask],
        ]),
        maskPeriod: '2026-01',
      },
    },
    resource: 'tenants/bench/keys/first',
    outcome: 'OK',
  };
}

/** What the database has spent on everything so far. */
interface Cost {
  readonly walBytes: number;
  readonly cpuMicroseconds: number;
}

async function costOf(owner: pg.Client, databasePid: number): Promise<Cost> {
  const { rows } = await owner.query<{ bytes: number }>(
    `SELECT (pg_current_wal_lsn() - '0/0')::float8 AS bytes`,
  );
  const cpuMicroseconds = cpuMicrosecondsWithChildren(databasePid);
  return { walBytes: rows[0]?.bytes ?? Number.NaN, cpuMicroseconds };
}

/**
 * Copies an entry until the log has that many, or {@link LEAST_ENTRIES} more than it had. Returns
 * how many each second became leaves, and what one cost the database.
 */
async function lengthenTo(
  owner: pg.Client,
  store: Store,
  entries: number,
  costs: () => Promise<Cost>,
): Promise<Pick<AuditResults, 'sequenced' | 'walPerEntry' | 'cpuPerEntry'>> {
  const { systemTenantId: tenantId } = await readEnvironment(store);
  const { rows: last } = await owner.query<{ leaf: string }>(
    'SELECT leaf FROM audit_log ORDER BY leaf_index DESC LIMIT 1',
  );
  const leaves = Array.from({ length: GROUP }, () => last[0]?.leaf ?? '').join('\n');
  const row = { tenantId, entryCount: GROUP, leaves };
  const { entries: before } = await sizeOf(owner);
  const costBefore = await costs();
  const began = monotonicNow();
  for (let left = Math.max(entries - before, LEAST_ENTRIES); left > 0; left -= CHUNK) {
    for (let rows = Math.ceil(Math.min(left, CHUNK) / GROUP); rows > 0; rows -= ROWS)
      await store.append(
        { deadline: monotonicNow() + APPEND_MS },
        Array.from({ length: Math.min(rows, ROWS) }, () => row),
      );
    await drained(owner);
  }
  const elapsed = monotonicNow() - began;
  const [{ entries: after }, cost] = [await sizeOf(owner), await costs()];
  const made = after - before;
  return {
    sequenced: (made * 1000) / elapsed,
    walPerEntry: (cost.walBytes - costBefore.walBytes) / made,
    cpuPerEntry: (cost.cpuMicroseconds - costBefore.cpuMicroseconds) / made,
  };
}

async function drained(owner: pg.Client): Promise<void> {
  for (;;) {
    const { rows } = await owner.query<{ n: boolean }>(
      'SELECT EXISTS (SELECT FROM audit_inbox) AS n',
    );
    if (rows[0]?.n === false) return;
    await sleep(POLL_MS);
  }
}

async function sizeOf(
  owner: pg.Client,
): Promise<{ readonly entries: number; readonly bytes: number }> {
  const { rows } = await owner.query<{ entries: number; bytes: number }>(
    `SELECT tree_size::float8 AS entries, (
       SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
         WHERE inhparent = 'audit_log'::regclass)::float8
       + pg_total_relation_size('audit_tiles') AS bytes FROM audit_state`,
  );
  const [size] = rows;
  if (size === undefined) throw new Error('there is no audit log');
  return size;
}
