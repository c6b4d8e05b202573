/**
 * A process that sends calls at a pace of its own (`noise.ts`), as its parent sees it.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import type { LoadIdentity, Noise, NoiseOrder, NoiseReply, NoiseResult } from './load-protocol.ts';

/** An open loop of calls: one at a time, as often as wanted. */
export class OpenLoop implements Disposable {
  readonly #child: ChildProcess;

  constructor({ caFile, certFile, keyFile }: LoadIdentity) {
    this.#child = fork(join(import.meta.dirname, 'noise.ts'), { serialization: 'advanced' });
    this.#child.send({ identity: { caFile, certFile, keyFile } });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Sends calls from now on; returns once its connections are there. */
  async begin(noise: Noise): Promise<void> {
    const reply = await this.#ask({ noise });
    if ('failure' in reply) throw new Error(reply.failure);
  }

  /** Sends no more, and returns what came of it, once every call has its answer. */
  async end(): Promise<NoiseResult> {
    const reply = await this.#ask({ quiet: true });
    if ('failure' in reply) throw new Error(reply.failure);
    if ('begun' in reply) throw new Error('the process that sends calls has not begun');
    return reply.result;
  }

  async #ask(order: NoiseOrder): Promise<NoiseReply> {
    const { promise, resolve, reject } = Promise.withResolvers<NoiseReply>();
    const ended = () => reject(new Error('the process that sends calls ended'));
    this.#child.once('message', resolve);
    this.#child.once('exit', ended);
    this.#child.send(order);
    const reply = await promise;
    this.#child.off('exit', ended);
    return reply;
  }

  [Symbol.dispose](): void {
    this.#child.disconnect();
  }
}
