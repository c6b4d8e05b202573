/**
 * What metrics read of a replica's parts, each time that they are asked for: what parts know
 * anyway, and what agents and the database are asked for now and then.
 *
 * Nothing here is on a call's way.
 */
import type { Identity } from '../access/identity.ts';
import type { Policies } from '../access/policies.ts';
import type { Sequencer } from '../audit/sequencer.ts';
import type { Witness } from '../audit/witnesses.ts';
import type { AuditWriter } from '../audit/writer.ts';
import { monotonicNow } from '../call.ts';
import type { Budgets } from '../calls/budgets.ts';
import type { Shares } from '../calls/shares.ts';
import type { Reason } from '../errors.ts';
import type { OperationName } from '../hsm/protocol.ts';
import type { TokenAgents } from '../hsm/token-router.ts';
import type { KeyCache } from '../keyring/keys/key-cache.ts';
import type { Reconciler } from '../keyring/reconciler.ts';
import type { CacheFigures } from '../lru.ts';
import type { Distribution, Metrics, Reading } from '../signals/metrics/metrics.ts';
import type { LabelsOf, NameOf } from '../signals/metrics/table.ts';
import type { Readiness } from '../status/readiness.ts';
import { type AuditFigures, findAuditFigures } from '../store/audit/audit-figures.ts';
import type { PoolFigures } from '../store/core/connections.ts';
import { findWorkFigures, type WorkFigures } from '../store/lifecycle/work-figures.ts';
import type { Store } from '../store/store.ts';
import { Latest } from './latest.ts';

/** The parts of a replica that are measured. */
export interface MeasuredParts {
  readonly budgets: Budgets;
  readonly connections: { readonly figures: { readonly open: number; readonly limit: number } };
  readonly identity: Pick<Identity, 'keyFetches'>;
  readonly policies: Pick<Policies, 'figures'>;
  readonly cache: Pick<KeyCache, 'figures'>;
  readonly tokens: { readonly pools: readonly TokenAgents[] };
  readonly tokenObjects: { readonly replicas: number };
  readonly store: Pick<Store, 'pools' | 'reconcile'>;
  readonly feed: { isFresh(): boolean };
  readonly writer: Pick<AuditWriter, 'waiting'>;
  readonly sequencer: Pick<Sequencer, 'holdsLease'>;
  readonly witnesses: readonly Witness[];
  readonly reconciler: Pick<Reconciler, 'figures'>;
  readonly readiness: Pick<Readiness, 'isReady' | 'conditions'>;
}

/** How often agents, and the database, are asked at most, and how long they may take. */
const AGENTS_MS = 1_000;
const RECORDS_MS = 10_000;
const ANSWER_MS = 5_000;

type Gauge = NameOf<'gauge'>;
/** Names of metrics whose only label is that one. */
type LabelledBy<Label extends string, Name extends NameOf<'gauge' | 'counter'>> = {
  [N in Name]: keyof LabelsOf<N> extends Label
    ? Label extends keyof LabelsOf<N>
      ? N
      : never
    : never;
}[Name];

/** Has metrics read these parts. */
export function measureReplica(metrics: Metrics, parts: MeasuredParts): void {
  measureBudgets(metrics, parts);
  measureAccess(metrics, parts);
  measureAgents(metrics, parts);
  measureDatabase(metrics, parts);
  measureReconciler(metrics, parts);
  const work = measureRecords(metrics, parts, findWorkFigures);
  readWork(metrics, work);
  const log = measureRecords(metrics, parts, findAuditFigures);
  readAudit(metrics, parts, log);
  const { readiness } = parts;
  single(metrics, 'keyward_ready', () => Number(readiness.isReady));
  metrics.read('keyward_ready_condition', () =>
    readiness.conditions.map(({ name: condition, problem }) => [
      { condition },
      Number(problem === undefined),
    ]),
  );
}

/** Returns what hears of each call to the agents. */
export function measureAgentCalls(
  metrics: Metrics,
): (name: OperationName, milliseconds: number, reason?: Reason) => void {
  const took = new Map<OperationName, Distribution>();
  return (operation, milliseconds, reason) => {
    if (reason !== undefined) {
      metrics.counter('keyward_hsm_call_failures_total', { operation, reason }).value += 1;
      return;
    }
    let distribution = took.get(operation);
    if (distribution === undefined) {
      distribution = metrics.histogram('keyward_hsm_call_duration_seconds', { operation });
      took.set(operation, distribution);
    }
    distribution.observe(milliseconds / 1_000);
  };
}

/** Returns what hears of each group of audit entries. */
export function measureAuditGroups(
  metrics: Metrics,
): (entries: number, isDurable: boolean) => void {
  const sizes = metrics.histogram('keyward_audit_group_entries', {});
  const failures = metrics.counter('keyward_audit_group_failures_total', {});
  return (entries, isDurable) => {
    if (isDurable) sizes.observe(entries);
    else failures.value += 1;
  };
}

/** Has one value read, of a metric without labels. */
function single(
  metrics: Metrics,
  name: { [N in Gauge]: keyof LabelsOf<N> extends never ? N : never }[Gauge],
  read: () => number,
): void {
  metrics.read(name, () => [[{}, read()]]);
}

function measureBudgets(metrics: Metrics, { budgets, connections }: MeasuredParts): void {
  const { keyUses, otherCalls, streams, watches } = budgets;
  const pools = Object.entries({ keyUses, otherCalls, streams, watches });
  const labelOf = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const byPool = (
    name: 'keyward_calls_in_flight' | 'keyward_calls_in_flight_limit',
    value: (pool: Shares) => number,
  ) =>
    metrics.read(name, () => pools.map(([pool, each]) => [{ pool: labelOf(pool) }, value(each)]));
  byPool('keyward_calls_in_flight', ({ used }) => used);
  byPool('keyward_calls_in_flight_limit', ({ size }) => size);
  single(metrics, 'keyward_requests_in_flight_bytes', () => budgets.bytes.used);
  single(metrics, 'keyward_requests_in_flight_limit_bytes', () => budgets.bytes.size);
  single(metrics, 'keyward_connections', () => connections.figures.open);
  single(metrics, 'keyward_connections_limit', () => connections.figures.limit);
}

function measureAccess(metrics: Metrics, { identity, policies, cache }: MeasuredParts): void {
  metrics.read('keyward_issuer_key_fetches_total', () =>
    identity.keyFetches.flatMap(
      ({ issuer, done, failed }): Reading<'keyward_issuer_key_fetches_total'>[] => [
        [{ issuer, outcome: 'done' }, done],
        [{ issuer, outcome: 'failed' }, failed],
      ],
    ),
  );
  const caches = () => ({ policies: policies.figures, ...cache.figures });
  const byCache = (name: LabelledBy<'cache', Gauge>, value: (figures: CacheFigures) => number) =>
    metrics.read(name, () =>
      Object.entries(caches()).map(([each, figures]) => [{ cache: each }, value(figures)]),
    );
  byCache('keyward_cache_entries', ({ size }) => size);
  byCache('keyward_cache_limit', ({ limit }) => limit);
  metrics.read('keyward_cache_lookups_total', () =>
    Object.entries(caches()).flatMap(
      ([name, { hits, misses }]): Reading<'keyward_cache_lookups_total'>[] => [
        [{ cache: name, result: 'hit' }, hits],
        [{ cache: name, result: 'miss' }, misses],
      ],
    ),
  );
}

function measureAgents(metrics: Metrics, { tokens }: MeasuredParts): void {
  const named = () =>
    tokens.pools.map(({ isCurrent, agents }) => ({
      token: isCurrent ? 'current' : 'next',
      ...agents.figures,
    }));
  type Figures = ReturnType<typeof named>[number];
  const byToken = (name: LabelledBy<'token', Gauge>, value: (figures: Figures) => number) =>
    metrics.read(name, () => named().map((each) => [{ token: each.token }, value(each)]));
  byToken('keyward_hsm_agents_configured', ({ configured }) => configured);
  byToken('keyward_hsm_queue_calls', ({ calls }) => calls);
  byToken('keyward_hsm_queue_calls_limit', ({ maxCalls }) => maxCalls);
  byToken('keyward_hsm_queue_bytes', ({ bytes }) => bytes);
  byToken('keyward_hsm_queue_limit_bytes', ({ maxBytes }) => maxBytes);
  byToken('keyward_hsm_keys_loaded', ({ keysLoaded }) => keysLoaded);
  byToken('keyward_hsm_epochs_kept', ({ epochsKept }) => epochsKept);
  metrics.read('keyward_hsm_agents', () =>
    named().flatMap(({ token, ready, starting }): Reading<'keyward_hsm_agents'>[] => [
      [{ token, state: 'ready' }, ready],
      [{ token, state: 'starting' }, starting],
    ]),
  );
  metrics.read('keyward_hsm_agent_exits_total', () =>
    named().flatMap(({ token, exits }) =>
      [...exits].map(([cause, count]) => [{ token, cause }, count] as const),
    ),
  );
  const operations = () => {
    const sums = new Map<string, { count: number; seconds: number }>();
    for (const each of named())
      for (const [name, { count, seconds }] of each.operations) {
        const before = sums.get(name) ?? { count: 0, seconds: 0 };
        sums.set(name, { count: before.count + count, seconds: before.seconds + seconds });
      }
    return [...sums];
  };
  metrics.read('keyward_hsm_operations_total', () =>
    operations().map(([operation, { count }]) => [{ operation }, count]),
  );
  metrics.read('keyward_hsm_operation_seconds_total', () =>
    operations().map(([operation, { seconds }]) => [{ operation }, seconds]),
  );
  const asked = new Latest(AGENTS_MS, async () => {
    const deadline = monotonicNow() + ANSWER_MS;
    await Promise.all(tokens.pools.map(({ agents }) => agents.measure(deadline)));
  });
  metrics.beforeText(() => asked.refresh());
}

function measureDatabase(
  metrics: Metrics,
  { store, feed, writer, sequencer }: MeasuredParts,
): void {
  const byPool = (name: LabelledBy<'pool', Gauge>, value: (figures: PoolFigures) => number) =>
    metrics.read(name, () =>
      Object.entries(store.pools).map(([pool, figures]) => [{ pool }, value(figures)]),
    );
  byPool('keyward_database_connections_in_use', ({ inUse }) => inUse);
  byPool('keyward_database_connections_open', ({ open }) => open);
  byPool('keyward_database_connections_limit', ({ limit }) => limit);
  byPool('keyward_database_waiting', ({ waiting }) => waiting);
  single(metrics, 'keyward_changes_fresh', () => Number(feed.isFresh()));
  single(metrics, 'keyward_audit_entries_waiting', () => writer.waiting);
  single(metrics, 'keyward_audit_sequencing', () => Number(sequencer.holdsLease));
}

function measureReconciler(metrics: Metrics, { reconciler, tokenObjects }: MeasuredParts): void {
  metrics.read('keyward_reconciler_passes_total', () => [
    [{ outcome: 'done' }, reconciler.figures.passes],
    [{ outcome: 'failed' }, reconciler.figures.failedPasses],
  ]);
  metrics.read('keyward_reconciler_pass_timestamp_seconds', () => {
    const { passedAt } = reconciler.figures;
    return passedAt === undefined ? [] : [[{}, secondsOf(passedAt)]];
  });
  metrics.read('keyward_reconciler_actions_total', () => {
    const { rotated, destroyed, shredded, activated } = reconciler.figures;
    const done = Object.entries({ rotated, destroyed, shredded, activated });
    return done.map(([action, count]) => [{ action }, count]);
  });
  single(metrics, 'keyward_replicas', () => tokenObjects.replicas);
}

/** Has something read from the database now and then, while metrics are asked for. */
function measureRecords<T>(
  metrics: Metrics,
  { store }: Pick<MeasuredParts, 'store'>,
  find: (tx: Parameters<Parameters<Store['reconcile']>[1]>[0]) => Promise<T>,
): Latest<T> {
  const latest = new Latest(RECORDS_MS, () =>
    store.reconcile({ deadline: monotonicNow() + ANSWER_MS }, find),
  );
  metrics.beforeText(() => latest.refresh());
  return latest;
}

function readWork(metrics: Metrics, work: Latest<WorkFigures>): void {
  single(metrics, 'keyward_maintenance_paused', () => Number(work.value.isPaused));
  single(metrics, 'keyward_rotations_due', () => work.value.rotationsDue);
  single(metrics, 'keyward_rotation_overdue_seconds', () => work.value.overdueSeconds);
  single(metrics, 'keyward_destructions_due', () => work.value.destructionsDue);
  const kinds = ['data-keys', 'key-versions'] as const;
  const byKind = (name: LabelledBy<'kind', Gauge>, value: 'running' | 'stale' | 'failed') =>
    metrics.read(name, () => {
      const { jobs } = work.value;
      return kinds.map((kind) => [{ kind }, jobs.find((each) => each.kind === kind)?.[value] ?? 0]);
    });
  byKind('keyward_rewrap_jobs_running', 'running');
  byKind('keyward_rewrap_rows_stale', 'stale');
  byKind('keyward_rewrap_rows_failed', 'failed');
}

function readAudit(
  metrics: Metrics,
  { witnesses }: Pick<MeasuredParts, 'witnesses'>,
  log: Latest<AuditFigures>,
): void {
  single(metrics, 'keyward_audit_inbox_rows', () => log.value.inboxRows);
  single(metrics, 'keyward_audit_log_size', () => log.value.treeSize);
  single(metrics, 'keyward_audit_generation', () => log.value.generation);
  single(metrics, 'keyward_audit_checkpoint_size', () => log.value.checkpoint?.treeSize ?? 0);
  metrics.read('keyward_audit_checkpoint_timestamp_seconds', () => {
    const { checkpoint } = log.value;
    return checkpoint === undefined ? [] : [[{}, secondsOf(checkpoint.signedAt)]];
  });
  metrics.read('keyward_audit_witness_cosigned_timestamp_seconds', () => {
    const { cosigned } = log.value;
    // One that has cosigned nothing is known, too: since 1970 it has not.
    return witnesses.map(({ name: witness }) => {
      const at = cosigned.get(witness);
      return [{ witness }, at === undefined ? 0 : secondsOf(at)];
    });
  });
}

function secondsOf(time: Date): number {
  return time.getTime() / 1_000;
}
