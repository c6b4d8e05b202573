/**
 * The one wrapper round every call: identity, deadline, validation, the handler, the log line, the error.
 *
 * Invariants: it never throws and its promise never rejects, since grpc-js lets a rejecting handler take the process
 * down; every call is answered once, at its deadline at the latest; every call leaves one log line, with no payload and
 * no context. Knows no method.
 */
import { randomUUID } from 'node:crypto';
import type { handleUnaryCall, ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js';
import type { Logger } from 'pino';
import { type Call, millisecondsLeft, monotonicNow } from '../call.ts';
import { KeywardError } from '../errors.ts';
import type { Keyring } from '../keyring/keyring.ts';
import { callerOf } from './caller.ts';
import { validate } from './fields.ts';
import type { MethodRow } from './methods.ts';
import { toKeywardError, toServiceError } from './status.ts';

/** What the wrapper needs of the server. */
export interface Serving {
  readonly keyring: Keyring;
  readonly log: Logger;
  /** The deadline of a call that brings none, and the longest that any may bring, in milliseconds. */
  readonly defaultDeadlineMs: number;
}

/** The grpc-js handler of a method. */
export function serveCall(
  { keyring, log, defaultDeadlineMs }: Serving,
  method: string,
  row: MethodRow<unknown, object>,
): handleUnaryCall<object, object> {
  return (rpc, callback) => {
    const startedAt = monotonicNow();
    const call: Call = {
      id: randomUUID(),
      method,
      caller: callerOf(rpc),
      deadline: deadlineOf(rpc, startedAt, defaultDeadlineMs),
    };
    let resource: string | undefined;
    const finish = once((error: KeywardError | undefined, response: object | null) => {
      writeLogLine(log, call, resource, startedAt, error);
      answer(rpc, callback, error && toServiceError(error, call.id), response);
    });
    const timer = setTimeout(
      () => finish(new KeywardError('DEADLINE_EXCEEDED'), null),
      millisecondsLeft(call.deadline),
    );
    rpc.once('cancelled', () => finish(new KeywardError('CALL_CANCELLED'), null));
    run()
      .then(
        (response) => finish(undefined, response),
        (error: unknown) => finish(toKeywardError(error), null),
      )
      .finally(() => clearTimeout(timer));

    async function run(): Promise<object> {
      const request = validate(row.request, rpc.request);
      resource = row.resource(request);
      return row.handle(keyring, call, request);
    }
  };
}

function deadlineOf(rpc: ServerUnaryCall<object, object>, now: number, defaultMs: number): number {
  const wanted = Number(rpc.getDeadline());
  return now + Math.min(defaultMs, Number.isFinite(wanted) ? Math.max(0, wanted - Date.now()) : defaultMs);
}

function answer(
  rpc: ServerUnaryCall<object, object>,
  callback: sendUnaryData<object>,
  error: ReturnType<typeof toServiceError> | undefined,
  response: object | null,
): void {
  if (rpc.cancelled) return;
  callback(error ?? null, response);
}

function writeLogLine(
  log: Logger,
  call: Call,
  resource: string | undefined,
  startedAt: number,
  error: KeywardError | undefined,
): void {
  const line = {
    requestId: call.id,
    method: call.method,
    caller: call.caller,
    resource,
    outcome: error?.reason ?? 'OK',
    durationMs: Math.round((monotonicNow() - startedAt) * 1000) / 1000,
  };
  if (error?.reason === 'INTERNAL') log.error({ ...line, err: error.cause }, 'call failed');
  else if (error?.cause !== undefined) log.warn({ ...line, cause: String(error.cause) }, 'call failed');
  else log.info(line, 'call');
}

function once<Arguments extends unknown[]>(
  callback: (...values: Arguments) => void,
): (...values: Arguments) => void {
  let done = false;
  return (...values) => {
    if (done) return;
    done = true;
    callback(...values);
  };
}
