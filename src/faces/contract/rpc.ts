/**
 * What an RPC of keyward.v1 is: an operation, and how its request and its answer look as messages.
 *
 * Invariant: a method of the contract without a row, or with one that answers another message, is a
 * type error.
 */
import type { handleServerStreamingCall, handleUnaryCall } from '@grpc/grpc-js';
import type { z } from 'zod';
import type { Operation, StreamOperation } from '../../calls/operation.ts';

/** How an operation looks as messages. */
export interface Messages<Request, Answer, Message> {
  /** From the decoded message to the operation's request; must look at every field. */
  readonly request: z.ZodType<Request>;
  /** Where requests may be larger than the usual. */
  readonly large?: LargeRequests<Request>;
  /** Returns the answer as a message. */
  message(answer: Answer, request: Request, call: { readonly id: string }): Message;
}

/**
 * What a method has whose requests may be larger than the usual: their callers are decided on
 * before they are decoded.
 */
export interface LargeRequests<Request> {
  /** The largest, in bytes. */
  readonly maxBytes: number;
  /**
   * From a message that has nothing but its `parent` to as much of the request as the operation's
   * `target` and `resource` look at.
   */
  readonly addressee: z.ZodType<Request>;
}

/** An RPC with one answer. */
export interface UnaryRpc<Request, Answer, Message> extends Messages<Request, Answer, Message> {
  readonly operation: Operation<Request, Answer>;
}

/** An RPC that answers as often as there is something to say. */
export interface StreamRpc<Request, Answer, Message> extends Messages<Request, Answer, Message> {
  readonly operation: StreamOperation<Request, Answer>;
}

/** Any RPC. */
export type Rpc = UnaryRpc<unknown, unknown, object> | StreamRpc<unknown, unknown, object>;

/** The names of a service's methods, without the index signature that the generated type has. */
type MethodName<Handlers> = keyof {
  [Name in keyof Handlers as string extends Name ? never : Name]: true;
};
/** One RPC for each method of a service, answering with that method's message. */
export type RpcsOf<Handlers> = {
  readonly [Name in MethodName<Handlers> & keyof Handlers]: Handlers[Name] extends handleUnaryCall<
    infer _Request,
    infer Message
  >
    ? UnaryRpc<unknown, unknown, Message>
    : Handlers[Name] extends handleServerStreamingCall<infer _Request, infer Message>
      ? StreamRpc<unknown, unknown, Message>
      : never;
};

/** Returns an operation as an RPC. */
export const rpc = <Request, Answer, Message>(
  operation: Operation<Request, Answer>,
  messages: Messages<NoInfer<Request>, NoInfer<Answer>, Message>,
): UnaryRpc<Request, Answer, Message> => ({ operation, ...messages });

/** Returns an operation with many answers as an RPC. */
export const streamRpc = <Request, Answer, Message>(
  operation: StreamOperation<Request, Answer>,
  messages: Messages<NoInfer<Request>, NoInfer<Answer>, Message>,
): StreamRpc<Request, Answer, Message> => ({ operation, ...messages });

/** Returns the message of an operation that answers nothing. */
export const nothing = () => ({});
