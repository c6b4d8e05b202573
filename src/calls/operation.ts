/**
 * What an RPC is to the wrapper: one row, and the parts that many rows share.
 */
import type { handleServerStreamingCall, handleUnaryCall } from '@grpc/grpc-js';
import { z } from 'zod';
import type { Access, Rights } from '../access/access.ts';
import type { AccessAdministration } from '../access/administration.ts';
import type { Permission } from '../access/permissions.ts';
import type { Target } from '../access/policy.ts';
import type { AuditLog } from '../audit/log.ts';
import type { ContextMasks } from '../audit/masks.ts';
import type { Call } from '../call.ts';
import * as field from '../faces/contract/fields.ts';
import type { Keyring } from '../keyring/keyring.ts';
import { SYSTEM_TENANT, type TenantName } from '../names.ts';

/** In place of a permission: who has proven who he is needs none. */
export const ANY_CALLER = Symbol('any caller');

/** What a permission is needed on: a tenant, or something of it. */
export interface CallTarget extends Target {
  /** The last part of the tenant's name. */
  readonly tenant: string;
}

/** What methods do their work by. */
export interface Services extends Keyring {
  readonly access: Access;
  readonly accessAdministration: AccessAdministration;
  readonly auditLog: AuditLog;
  readonly masks: Pick<ContextMasks, 'mask'>;
  readonly environmentId: string;
}

/** A call that was let through, and what else its caller may do in the tenant. */
export interface AuthorizedCall extends Call {
  readonly rights: Rights;
}

/** What every row has. */
export interface AnyRow<Request> {
  /** From the decoded message to what the row takes; must look at every field. */
  readonly request: z.ZodType<Request>;
  /** Where requests may be larger than the usual. */
  readonly large?: LargeRequests<Request>;
  /** As how many calls it counts against the tenant's quota, where it isn't one. */
  calls?(request: NoInfer<Request>): number;
  /** What the caller needs; a handler may ask for more. */
  readonly permission: Permission | typeof ANY_CALLER;
  /** What the permission is needed on; not asked where none is. */
  target(request: NoInfer<Request>): CallTarget;
  /** The resource that the call is about, for log, audit and errors. */
  resource(request: Request): string;
}

/**
 * What a method has whose requests may be larger than the usual: their callers are decided on
 * before they are decoded.
 */
export interface LargeRequests<Request> {
  /** The largest, in bytes. */
  readonly maxBytes: number;
  /**
   * From a message that has nothing but its `parent` to as much of the request as `target` and
   * `resource` look at.
   */
  readonly addressee: z.ZodType<Request>;
}

/** One RPC with one answer. */
export interface MethodRow<Request, Response> extends AnyRow<Request> {
  handle(services: Services, call: AuthorizedCall, request: Request): Promise<Response>;
}

/**
 * One RPC that answers as often as it has something to say; it ends soon after the call's deadline.
 */
export interface StreamRow<Request, Response> extends AnyRow<Request> {
  stream(services: Services, call: AuthorizedCall, request: Request): AsyncIterable<Response>;
}

/** The names of a service's methods, without the index signature that the generated type has. */
type MethodName<Handlers> = keyof {
  [Name in keyof Handlers as string extends Name ? never : Name]: true;
};
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

/** The target of what is about a thing of a tenant, or about the tenant. */
export const ofName = ({
  name,
}: {
  readonly name: TenantName & { readonly key?: string };
}): CallTarget => ({
  tenant: name.tenant,
  key: name.key,
});
/** The same for what names it as a parent. */
export const ofParent = ({
  parent,
}: {
  readonly parent: TenantName & { readonly key?: string };
}): CallTarget => ofName({ name: parent });
/** The target of what is about the service as a whole. */
export const ofSystem = (): CallTarget => ({ tenant: SYSTEM_TENANT });

/** What every request that changes something also has: the wrapper sees to the request id. */
export const mutation = { etag: field.etag, requestId: field.requestId };
/** What every request that schedules a destruction also has. */
export const destruction = {
  ...mutation,
  windowDays: field.destructionWindow,
  validateOnly: z.boolean(),
};
