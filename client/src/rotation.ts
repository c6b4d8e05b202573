/**
 * Rotations and re-wrap jobs off the wire, in friendly types.
 *
 * Its invariant: what is newer than this client is `UNSPECIFIED`, never an error. Knows nothing of methods.
 */
import type { RewrapFailure__Output } from './generated/keyward/v1/RewrapFailure.ts';
import type { RewrapJob__Output } from './generated/keyward/v1/RewrapJob.ts';
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

// A value that the proto files here don't have yet arrives as its number, whatever the types say: hence `??` below.

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
  };
}

function failure({ dataKey, reason, time }: RewrapFailure__Output): m.RewrapFailure {
  return { dataKey, reason, time: date(time) };
}
