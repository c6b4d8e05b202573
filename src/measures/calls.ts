/**
 * Counts calls by what came of each.
 *
 * - A call costs a few additions: series are found by the method's name and kept.
 * - What a caller can make up is in no label: a method that does not exist is `other`, and so is
 *   the tenant of a call once there are enough tenants. A tenant is counted only for callers that
 *   have rights in it.
 */
import type { CallOutcome, Face, OutcomeListener } from '../calls/outcomes.ts';
import { type KeywardError, REASONS } from '../errors.ts';
import type { Count, Distribution, Metrics } from '../signals/metrics/metrics.ts';

/** What is known of the contract's methods, and how many tenants are told apart. */
export interface CallMeasuresParts {
  readonly metrics: Metrics;
  /** Full names, as `keyward.v1.KeyService/CreateKey`. */
  readonly methods: ReadonlySet<string>;
  /** Paths, as `/keyward.v1.AccessService/WatchAccess`. */
  readonly streams: ReadonlySet<string>;
  readonly tenants: number;
}

/** In place of names that are not told apart. */
const OTHER = 'other';
const PACKAGE = /^keyward\.v1\./;
/** Statuses of failures that are because of who calls, or of what they may do. */
const OF_ACCESS: readonly string[] = ['UNAUTHENTICATED', 'PERMISSION_DENIED'];

/** The series of one method by one face. */
interface Served {
  /** By the gRPC status. */
  readonly byCode: (code: string) => Count;
  /** Absent for streams, and for what is no method. */
  readonly took?: (seconds: number, traceId: string | undefined) => void;
}

/** Returns what counts calls, to be told of each. */
export function measureCalls(parts: CallMeasuresParts): OutcomeListener {
  const { metrics, methods, tenants } = parts;
  const served = new Map<string, Readonly<Record<Face, Served>>>();
  for (const method of methods) served.set(method, allFaces(parts, method));
  const unknown = allFaces(parts, undefined);
  const byTenant = new Map<string, (code: string) => Count>();
  const ofTenant = (tenant: string) =>
    remembered((code) => metrics.counter('keyward_tenant_calls_total', { tenant, code }));
  const otherTenants = ofTenant(OTHER);
  const countFailure = failureCounter(metrics);
  for (const [reason, { status }] of Object.entries(REASONS))
    if (OF_ACCESS.includes(status)) metrics.counter('keyward_access_refusals_total', { reason });
  return (outcome) => {
    const { method, face, tenant, error, isAdmitted, trace, durationMs } = outcome;
    const code = error === undefined ? 'OK' : REASONS[error.reason].status;
    const { byCode, took } = (served.get(method) ?? unknown)[face];
    byCode(code).value += 1;
    if (isAdmitted) took?.(durationMs / 1_000, trace?.isSampled ? trace.traceId : undefined);
    if (tenant !== undefined) {
      let count = byTenant.get(tenant);
      if (count === undefined && byTenant.size < tenants) {
        count = ofTenant(tenant);
        byTenant.set(tenant, count);
      }
      (count ?? otherTenants)(code).value += 1;
    }
    if (error !== undefined)
      countFailure(error, labelOf(served.has(method) ? method : undefined), outcome);
  };
}

function allFaces(parts: CallMeasuresParts, method: string | undefined) {
  const of = (face: Face) => servedBy(parts, method, face);
  return { grpc: of('grpc'), http: of('http'), approved: of('approved') };
}

function servedBy(
  { metrics, streams }: CallMeasuresParts,
  fullName: string | undefined,
  face: Face,
): Served {
  const method = labelOf(fullName);
  const byCode = remembered((code) =>
    metrics.counter('keyward_calls_total', { method, face, code }),
  );
  if (fullName === undefined || streams.has(`/${fullName}`)) return { byCode };
  let distribution: Distribution | undefined;
  // Made when it is first needed: a series of a method that nobody calls is many lines of nothing.
  const took = (seconds: number, traceId: string | undefined) => {
    distribution ??= metrics.histogram('keyward_call_duration_seconds', { method, face });
    distribution.observe(seconds, traceId);
  };
  return { byCode, took };
}

function labelOf(method: string | undefined): string {
  return method?.replace(PACKAGE, '') ?? OTHER;
}

/** Returns what counts a failure: under overload most calls are one. */
function failureCounter(metrics: Metrics) {
  const ofMethod = remembered((method) =>
    remembered((reason) => metrics.counter('keyward_call_failures_total', { method, reason })),
  );
  const refusedBy = remembered((face) =>
    remembered((reason) => metrics.counter('keyward_calls_refused_total', { face, reason })),
  );
  return ({ reason, metadata }: KeywardError, method: string, outcome: CallOutcome) => {
    ofMethod(method)(reason).value += 1;
    if (!outcome.isAdmitted) refusedBy(outcome.face)(reason).value += 1;
    if (OF_ACCESS.includes(REASONS[reason].status))
      metrics.counter('keyward_access_refusals_total', { reason }).value += 1;
    if (reason === 'QUOTA_EXCEEDED') {
      const { quota = OTHER } = metadata;
      metrics.counter('keyward_quota_refusals_total', { quota }).value += 1;
    }
  };
}

/** Returns what `make` makes, once for each name. */
function remembered<Made>(make: (name: string) => Made): (name: string) => Made {
  const known = new Map<string, Made>();
  return (name) => {
    const before = known.get(name);
    if (before !== undefined) return before;
    const made = make(name);
    known.set(name, made);
    return made;
  };
}
