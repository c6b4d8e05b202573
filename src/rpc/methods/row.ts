/**
 * What an RPC is to the wrapper: one row, and the parts that many rows share.
 */
import type { handleServerStreamingCall, handleUnaryCall } from '@grpc/grpc-js';
import { z } from 'zod';
import type { Call } from '../../call.ts';
import type { Keyring } from '../../keyring/keyring.ts';
import * as field from '../fields.ts';

interface AnyRow<Request> {
  /** From the decoded message to what the row takes; must look at every field. */
  readonly request: z.ZodType<Request>;
  /** The largest request, in bytes, where it isn't the usual. */
  readonly maxRequestBytes?: number;
  /** The resource that the call is about, for the log. */
  resource(request: Request): string;
}

/** One RPC with one answer. */
export interface MethodRow<Request, Response> extends AnyRow<Request> {
  handle(keyring: Keyring, call: Call, request: Request): Promise<Response>;
}

/** One RPC that answers as often as it has something to say; it ends soon after the call's deadline. */
export interface StreamRow<Request, Response> extends AnyRow<Request> {
  stream(keyring: Keyring, call: Call, request: Request): AsyncIterable<Response>;
}

/** The names of a service's methods, without the index signature that the generated type has. */
type MethodName<Handlers> = keyof { [Name in keyof Handlers as string extends Name ? never : Name]: true };
/** One row for each method of a service, answering with that method's message. */
export type RowsOf<Handlers> = {
  readonly [Name in MethodName<Handlers> & keyof Handlers]: Handlers[Name] extends handleUnaryCall<
    infer _Request,
    infer Response
  >
    ? MethodRow<unknown, Response>
    : Handlers[Name] extends handleServerStreamingCall<infer _Request, infer Message>
      ? StreamRow<unknown, Message>
      : never;
};

export const row = <Request, Response>(method: MethodRow<Request, Response>) => method;
export const streamRow = <Request, Response>(method: StreamRow<Request, Response>) => method;

/** What every request that changes something also has: the wrapper sees to the request id. */
export const mutation = { etag: field.etag, requestId: field.requestId };
/** What every request that schedules a destruction also has. */
export const destruction = { ...mutation, windowDays: field.destructionWindow, validateOnly: z.boolean() };
