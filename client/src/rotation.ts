/**
 * Rotations and re-wrap jobs off the wire, in friendly types; and what starts a job, to it.
 *
 * Its invariant: what is newer than this client is `UNSPECIFIED`, never an error. Knows nothing of
 * methods.
 */
import { oneOf, requestId, text } from './fields.ts';
import type { RewrapFailure__Output } from './generated/keyward/v1/RewrapFailure.ts';
import type { RewrapJob__Output } from './generated/keyward/v1/RewrapJob.ts';
import type { RewrapJobKind__Output } from './generated/keyward/v1/RewrapJobKind.ts';
import type { RewrapJobState__Output } from './generated/keyward/v1/RewrapJobState.ts';
import type { Rotation__Output } from './generated/keyward/v1/Rotation.ts';
import type { RotationCause__Output } from './generated/keyward/v1/RotationCause.ts';
import type * as m from './messages.ts';
import { date, dateIfAny, secondsIfAny } from './times.ts';

const CAUSES = {
  ROTATION_CAUSE_UNSPECIFIED: 'UNSPECIFIED',
  ROTATION_CAUSE_SCHEDULE: 'SCHEDULE',
  ROTATION_CAUSE_REQUEST: 'REQUEST',
  ROTATION_CAUSE_USAGE: 'USAGE',
} as const satisfies Record<RotationCause__Output, m.RotationCause>;

const JOB_STATES = {
  REWRAP_JOB_STATE_UNSPECIFIED: 'UNSPECIFIED',
  REWRAP_JOB_STATE_RUNNING: 'RUNNING',
  REWRAP_JOB_STATE_SUCCEEDED: 'SUCCEEDED',
  REWRAP_JOB_STATE_PARTIAL: 'PARTIAL',
  REWRAP_JOB_STATE_CANCELLED: 'CANCELLED',
  REWRAP_JOB_STATE_SUPERSEDED: 'SUPERSEDED',
} as const satisfies Record<RewrapJobState__Output, m.RewrapJobState>;

const JOB_KINDS = {
  REWRAP_JOB_KIND_UNSPECIFIED: 'UNSPECIFIED',
  REWRAP_JOB_KIND_DATA_KEYS: 'DATA_KEYS',
  REWRAP_JOB_KIND_KEY_VERSIONS: 'KEY_VERSIONS',
} as const satisfies Record<RewrapJobKind__Output, m.RewrapJobKind>;

/** What a job can be started for, and its name in a request. */
const WIRE_KINDS = {
  DATA_KEYS: 'REWRAP_JOB_KIND_DATA_KEYS',
  KEY_VERSIONS: 'REWRAP_JOB_KIND_KEY_VERSIONS',
} as const satisfies Record<NonNullable<m.CreateRewrapJobRequest['kind']>, RewrapJobKind__Output>;

export function createJobRequest({ scope, kind, requestId: given }: m.CreateRewrapJobRequest) {
  return {
    scope: text('scope', scope),
    kind:
      kind === undefined
        ? ('REWRAP_JOB_KIND_UNSPECIFIED' as const)
        : oneOf('kind', kind, WIRE_KINDS),
    ...requestId(given),
  };
}

// A value that the proto files here don't have yet arrives as its number, whatever the types say:
// hence `??` below.

export function rotation(wire: Rotation__Output): m.Rotation {
  return {
    fromVersion: wire.fromVersion,
    toVersion: wire.toVersion,
    rotateTime: date(wire.rotateTime),
    cause: CAUSES[wire.cause] ?? 'UNSPECIFIED',
    caller: wire.caller,
    durationSeconds: secondsIfAny(wire.duration),
    rewrapJob: wire.rewrapJob,
    rewrapState: JOB_STATES[wire.rewrapState] ?? 'UNSPECIFIED',
    rewrapped: wire.rewrapped,
    left: wire.left,
    failed: wire.failed,
  };
}

export function rewrapJob(wire: RewrapJob__Output): m.RewrapJob {
  return {
    name: wire.name,
    scope: wire.scope,
    state: JOB_STATES[wire.state] ?? 'UNSPECIFIED',
    cause: CAUSES[wire.cause] ?? 'UNSPECIFIED',
    caller: wire.caller,
    createTime: date(wire.createTime),
    endTime: dateIfAny(wire.endTime),
    total: wire.total,
    totalIsFinal: wire.totalIsFinal,
    done: wire.done,
    left: wire.left,
    failed: wire.failed,
    rate: wire.rate,
    timeLeftSeconds: secondsIfAny(wire.timeLeft),
    failures: wire.failures.map(failure),
    paused: wire.paused,
    kind: JOB_KINDS[wire.kind] ?? 'UNSPECIFIED',
  };
}

function failure({ resource, reason, time }: RewrapFailure__Output): m.RewrapFailure {
  return { resource, reason, time: date(time) };
}
