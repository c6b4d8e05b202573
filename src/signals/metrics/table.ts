/**
 * Defines the one table of metrics: names, types, labels, and what they mean.
 *
 * - Names follow Prometheus' conventions: `_total` of what only grows, the unit before that, base
 *   units. A name, a label and a label's values are stable across releases.
 * - Every label has few values, whatever callers send: those that callers could make up are
 *   bounded where they are counted.
 * - No label's value is secret: none comes from a payload, a context or a token.
 * - docs/metrics.md is written from this table, and test/documents/metrics.test.ts holds that the
 *   rules and the dashboard in deploy/ name nothing else.
 */

import type { Aggregator } from './figures.ts';

/** One metric. */
export interface MetricRow {
  readonly group: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  /** One sentence, without the stop. */
  readonly help: string;
  /** How the values of several server processes become one: their sum, unless given. */
  readonly together?: Aggregator;
  /** Of a histogram: the upper bounds of its buckets. */
  readonly buckets?: readonly number[];
}

const grouped = <const Rows extends Readonly<Record<string, Omit<MetricRow, 'group'>>>>(
  group: string,
  rows: Rows,
): { readonly [Name in keyof Rows]: Rows[Name] & { readonly group: string } } => {
  const entries = Object.entries(rows).map(([name, row]) => [name, { ...row, group }]);
  return Object.fromEntries(entries);
};

/** From half a millisecond to the longest that a call may take by default. */
const SECONDS = [
  0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2.5, 5, 10,
] as const;
/** Entries in a group: up to its limit. */
const ENTRIES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2000] as const;

const CALLS = grouped('Calls', {
  keyward_calls_total: {
    type: 'counter',
    labels: ['method', 'face', 'code'],
    help: 'calls that were answered or refused, by the gRPC status that they ended with',
  },
  keyward_call_failures_total: {
    type: 'counter',
    labels: ['method', 'reason'],
    help: 'calls that failed, by the reason (docs/errors.md)',
  },
  keyward_calls_refused_total: {
    type: 'counter',
    labels: ['face', 'reason'],
    help: 'those of the failed calls that were refused before they were let in',
  },
  keyward_call_duration_seconds: {
    type: 'histogram',
    labels: ['method', 'face'],
    buckets: SECONDS,
    help: 'time from a call’s first header to its answer, of calls that were let in; no streams',
  },
  keyward_tenant_calls_total: {
    type: 'counter',
    labels: ['tenant', 'code'],
    help: 'calls by tenant, for the first KEYWARD_METRICS_TENANTS tenants; `other` has the rest',
  },
  keyward_quota_refusals_total: {
    type: 'counter',
    labels: ['quota'],
    help: 'calls that were refused because a tenant’s quota was used up',
  },
  keyward_calls_in_flight: {
    type: 'gauge',
    labels: ['pool'],
    help: 'calls under way',
  },
  keyward_calls_in_flight_limit: {
    type: 'gauge',
    labels: ['pool'],
    help: 'how many calls there may be under way',
  },
  keyward_requests_in_flight_bytes: {
    type: 'gauge',
    labels: [],
    help: 'bytes of requests under way and of what is made for them',
  },
  keyward_requests_in_flight_limit_bytes: {
    type: 'gauge',
    labels: [],
    help: 'how many bytes of requests there may be under way',
  },
  keyward_connections: {
    type: 'gauge',
    labels: [],
    help: 'connections of callers that are open, with those that still shake hands',
  },
  keyward_connections_limit: {
    type: 'gauge',
    labels: [],
    help: 'how many connections of callers there may be',
  },
});

const ACCESS = grouped('Access', {
  keyward_access_refusals_total: {
    type: 'counter',
    labels: ['reason'],
    help: 'calls that failed because of who made them or what they may do',
  },
  keyward_issuer_key_fetches_total: {
    type: 'counter',
    labels: ['issuer', 'outcome'],
    help: 'attempts to fetch an issuer’s keys from its URL',
  },
});

const HSM = grouped('HSM', {
  keyward_hsm_agents: {
    type: 'gauge',
    labels: ['token', 'state'],
    help: 'agent processes',
  },
  keyward_hsm_agents_configured: {
    type: 'gauge',
    labels: ['token'],
    help: 'how many agent processes there should be ready',
  },
  keyward_hsm_agent_exits_total: {
    type: 'counter',
    labels: ['token', 'cause'],
    help: 'agent processes that ended while the server goes on',
  },
  keyward_hsm_queue_calls: {
    type: 'gauge',
    labels: ['token'],
    help: 'operations that agents were asked for and have not answered',
  },
  keyward_hsm_queue_calls_limit: {
    type: 'gauge',
    labels: ['token'],
    help: 'how many operations agents may be asked for at once',
  },
  keyward_hsm_queue_bytes: {
    type: 'gauge',
    labels: ['token'],
    help: 'bytes of the operations that agents have not answered',
  },
  keyward_hsm_queue_limit_bytes: {
    type: 'gauge',
    labels: ['token'],
    help: 'how many bytes of operations agents may be asked for at once',
  },
  keyward_hsm_call_duration_seconds: {
    type: 'histogram',
    labels: ['operation'],
    buckets: SECONDS,
    help: 'time from asking for an operation to its answer, with the wait for an agent',
  },
  keyward_hsm_call_failures_total: {
    type: 'counter',
    labels: ['operation', 'reason'],
    help: 'operations that were not done, by the reason that a call fails with',
  },
  keyward_hsm_operations_total: {
    type: 'counter',
    labels: ['operation'],
    help: 'operations that agents have worked on, by their own count',
  },
  keyward_hsm_operation_seconds_total: {
    type: 'counter',
    labels: ['operation'],
    help: 'time that agents have worked on operations, without any wait: the token’s latency',
  },
  keyward_hsm_keys_loaded: {
    type: 'gauge',
    labels: ['token'],
    help: 'key versions that agents hold unwrapped, as session objects, all agents together',
  },
  keyward_hsm_epochs_kept: {
    type: 'gauge',
    labels: ['token'],
    help: 'keys of derivation epochs that agents keep in memory, all agents together',
  },
});

const DATABASE = grouped('Database', {
  keyward_database_connections_in_use: {
    type: 'gauge',
    labels: ['pool'],
    help: 'database connections that are lent',
  },
  keyward_database_connections_open: {
    type: 'gauge',
    labels: ['pool'],
    help: 'database connections that are open, lent or not',
  },
  keyward_database_connections_limit: {
    type: 'gauge',
    labels: ['pool'],
    help: 'how many database connections there may be',
  },
  keyward_database_waiting: {
    type: 'gauge',
    labels: ['pool'],
    help: 'what waits for a database connection',
  },
  keyward_changes_fresh: {
    type: 'gauge',
    labels: [],
    together: 'min',
    help: '1 while this replica receives changes, so that it answers from memory',
  },
  keyward_cache_entries: {
    type: 'gauge',
    labels: ['cache'],
    help: 'what this replica keeps in memory',
  },
  keyward_cache_limit: {
    type: 'gauge',
    labels: ['cache'],
    help: 'how much this replica may keep in memory',
  },
  keyward_cache_lookups_total: {
    type: 'counter',
    labels: ['cache', 'result'],
    help: 'how often memory was asked, and whether it had the answer',
  },
});

const MAINTENANCE = grouped('Maintenance', {
  keyward_reconciler_passes_total: {
    type: 'counter',
    labels: ['outcome'],
    help: 'passes of this replica’s reconciler',
  },
  keyward_reconciler_pass_timestamp_seconds: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'when this replica’s reconciler last ended a pass that did not fail',
  },
  keyward_reconciler_actions_total: {
    type: 'counter',
    labels: ['action'],
    help: 'what this replica’s reconciler has done',
  },
  keyward_maintenance_paused: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: '1 while maintenance is paused for all tenants',
  },
  keyward_rotations_due: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'keys whose rotation is due and may be done, counted up to 1000',
  },
  keyward_rotation_overdue_seconds: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'for how long the oldest due rotation has been due; 0 where none is',
  },
  keyward_destructions_due: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'keys and key versions whose destruction is due, counted up to 1000 each',
  },
  keyward_rewrap_jobs_running: {
    type: 'gauge',
    labels: ['kind'],
    together: 'max',
    help: 're-wrap jobs that are not finished',
  },
  keyward_rewrap_rows_stale: {
    type: 'gauge',
    labels: ['kind'],
    together: 'max',
    help: 'rows that running re-wrap jobs have found and not brought up to date yet',
  },
  keyward_rewrap_rows_failed: {
    type: 'gauge',
    labels: ['kind'],
    together: 'max',
    help: 'rows that running re-wrap jobs could not bring up to date',
  },
  keyward_replicas: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'replicas that run, as this one knows them from the database',
  },
});

const AUDIT = grouped('Audit', {
  keyward_audit_entries_waiting: {
    type: 'gauge',
    labels: [],
    help: 'entries of calls that wait to be made durable',
  },
  keyward_audit_group_entries: {
    type: 'histogram',
    labels: [],
    buckets: ENTRIES,
    help: 'entries that were made durable together',
  },
  keyward_audit_group_failures_total: {
    type: 'counter',
    labels: [],
    help: 'groups of entries that could not be made durable',
  },
  keyward_audit_sequencing: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: '1 while it is this replica that lengthens the audit log',
  },
  keyward_audit_inbox_rows: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'durable rows that wait to become leaves of the audit log, counted up to 10000',
  },
  keyward_audit_log_size: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'leaves of the audit log',
  },
  keyward_audit_generation: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'the audit log’s generation',
  },
  keyward_audit_checkpoint_size: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'leaves under the last signed checkpoint',
  },
  keyward_audit_checkpoint_timestamp_seconds: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: 'when the last checkpoint was signed',
  },
  keyward_audit_witness_cosigned_timestamp_seconds: {
    type: 'gauge',
    labels: ['witness'],
    together: 'max',
    help: 'when the newest checkpoint was signed that the witness has cosigned',
  },
});

const PROCESS = grouped('Process', {
  keyward_build_info: {
    type: 'gauge',
    labels: ['release', 'node'],
    together: 'first',
    help: '1, with the release and Node’s version as labels',
  },
  keyward_ready: {
    type: 'gauge',
    labels: [],
    together: 'max',
    help: '1 while the replica can do its work, as health reports it',
  },
  keyward_ready_condition: {
    type: 'gauge',
    labels: ['condition'],
    together: 'min',
    help: '1 while that condition of being ready holds',
  },
  keyward_servers: {
    type: 'gauge',
    labels: ['state'],
    together: 'max',
    help: 'server processes under a supervisor (KEYWARD_SERVERS)',
  },
  keyward_server_exits_total: {
    type: 'counter',
    labels: ['cause'],
    together: 'max',
    help: 'server processes that ended while the service goes on',
  },
  keyward_alerts_raised_total: {
    type: 'counter',
    labels: ['alert', 'severity'],
    help: 'alerts that this replica has written into its log (docs/alerts.md)',
  },
  keyward_log_lines_lost_total: {
    type: 'counter',
    labels: [],
    help: 'log lines that could not be written',
  },
});

/** Every metric of the server’s own. */
export const METRICS = {
  ...CALLS,
  ...ACCESS,
  ...HSM,
  ...DATABASE,
  ...MAINTENANCE,
  ...AUDIT,
  ...PROCESS,
} as const satisfies Readonly<Record<string, MetricRow>>;

/** Names a metric. */
export type MetricName = keyof typeof METRICS;
/** Names a metric of that type. */
export type NameOf<Type extends MetricRow['type']> = {
  [Name in MetricName]: (typeof METRICS)[Name]['type'] extends Type ? Name : never;
}[MetricName];
/** The labels of a metric, with their values. */
export type LabelsOf<Name extends MetricName> = Readonly<
  Record<(typeof METRICS)[Name]['labels'][number], string>
>;
