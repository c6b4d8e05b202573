/**
 * Times and durations off the wire.
 *
 * Its invariant: what is absent is undefined, or refused where an answer without it isn't whole.
 */
import type { Duration__Output } from './generated/google/protobuf/Duration.ts';
import type { Timestamp__Output } from './generated/google/protobuf/Timestamp.ts';

/** To the millisecond: the rest of the nanoseconds is dropped. Throws when there is none. */
export function date(wire: Timestamp__Output | null): Date {
  if (wire === null) throw new Error('the answer lacks a time');
  return new Date(wire.seconds * 1000 + Math.floor(wire.nanos / 1e6));
}

/** As {@link date}, for what may be absent. */
export function dateIfAny(wire: Timestamp__Output | null): Date | undefined {
  return wire === null ? undefined : date(wire);
}

/** A duration, if there is any. */
export function secondsIfAny(wire: Duration__Output | null): number | undefined {
  return wire === null ? undefined : wire.seconds + wire.nanos / 1e9;
}
