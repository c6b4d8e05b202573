/**
 * The face without a wire: the calls by which operations are done that enough people have approved.
 *
 * - Such a call is made of what is stored and sealed, by the same contract as any other, in the
 *   name of its requester; its request id is the operation's UUID, so that it has its effect once,
 *   whichever replicas make it and wherever one ends.
 * - The wrapper round every call decides whether it may be done, as it would of any call.
 * - What is approved here is done at once; what another replica has left is looked for all the
 *   time, and so is what has waited for too long.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { type ApprovedOperations, doingDeadline, type ToDo } from '../../approvals/doing.ts';
import { monotonicNow } from '../../call.ts';
import { requesterOf } from '../../calls/approvals.ts';
import type { AdmittedCall } from '../../calls/arrivals.ts';
import { type Serving, serveCall } from '../../calls/serve-call.ts';
import { KeywardError, toKeywardError } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { OperationRef } from '../../store/approvals/pending.ts';
import { requestFromCanonical } from '../contract/canonical.ts';
import { messageExchange, methodsOf } from '../contract/methods.ts';
import { RPCS } from '../contract/rpcs.ts';

/** How often it is looked for what other replicas have left. */
const LOOK_MS = 1_000;

/** What {@link ApprovedCalls} stands on. */
export interface ApprovedCallsParts {
  readonly serving: Serving;
  readonly approved: ApprovedOperations;
  readonly log: Logger;
}

/** Does what was approved. */
export class ApprovedCalls {
  readonly #parts: ApprovedCallsParts;
  readonly #stopping = new AbortController();
  #woken = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;

  constructor(parts: ApprovedCallsParts) {
    this.#parts = parts;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Says that something was approved: it is done now. */
  wake(): void {
    this.#woken.resolve();
  }

  /** Returns once what was begun is over; another replica does the rest. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.wake();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const { log } = this.#parts;
    while (!signal.aborted) {
      const woken = this.#woken.promise;
      await this.#pass().catch((err: unknown) =>
        log.warn({ err }, 'cannot look for approved operations; trying again'),
      );
      await Promise.race([woken, delay(LOOK_MS, undefined, { signal }).catch(() => {})]);
      this.#woken = Promise.withResolvers();
    }
  }

  async #pass(): Promise<void> {
    const { approved, log } = this.#parts;
    const failed = (err: unknown, operation: OperationRef) =>
      log.warn({ err, operation }, 'an operation cannot be ended; trying again');
    await Promise.all(
      (await approved.take()).map((ref) =>
        this.#perform(ref).catch((error: unknown) => failed(error, ref)),
      ),
    );
    await approved.expire(failed);
  }

  async #perform(ref: OperationRef): Promise<void> {
    const { approved } = this.#parts;
    const todo = await approved.open(ref);
    if (todo === undefined) return;
    await approved.end(ref, await this.#call(todo));
  }

  /** Makes the call. Returns why it failed; undefined where it did not. */
  #call(todo: ToDo): Promise<KeywardError | undefined> {
    const { promise, resolve } = Promise.withResolvers<KeywardError | undefined>();
    const { method: name, operationId } = todo.record;
    const [service = '', own = ''] = name.split('/');
    // An operation that a later release has asked for.
    const method = Object.hasOwn(RPCS, service) ? methodsOf(service)[own] : undefined;
    if (method === undefined) return Promise.resolve(new KeywardError('METHOD_UNKNOWN'));
    try {
      const bytes = requestFromCanonical(name, todo.row.request, operationId);
      serveCall(this.#parts.serving, {
        ...messageExchange(method, admit(todo), bytes),
        approved: todo,
        send: () => undefined,
        finish: resolve,
        onCancelled: () => {},
      });
    } catch (error) {
      return Promise.resolve(toKeywardError(error));
    }
    return promise;
  }
}

/** Returns the call as a face would let it in. */
function admit(todo: ToDo): AdmittedCall {
  const caller = requesterOf(todo);
  return {
    id: newId(),
    face: 'approved',
    caller,
    identify: () => caller,
    certificate: undefined,
    address: undefined,
    trace: undefined,
    startedAt: monotonicNow(),
    deadline: doingDeadline(),
    decode: (_, decode) => decode(),
    answers: (answer) => answer,
    hold: () => () => {},
    markReplayed: () => {},
  };
}
