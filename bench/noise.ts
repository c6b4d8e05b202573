/**
 * A noisy neighbour: a process of its own that sends calls at a pace of its own (an open loop),
 * whatever becomes of them.
 *
 * Refused as RESOURCE_EXHAUSTED a call may be, and nothing else. What is under way is bounded, so
 * that a service which doesn't keep up gets fewer calls and not a queue that grows. Knows no
 * method.
 */
import { readFileSync } from 'node:fs';
import { Client, credentials, status } from '@grpc/grpc-js';
import type { LoadIdentity, Noise, NoiseOrder, NoiseReply } from './load-protocol.ts';

const DEADLINE_MS = 20_000;
const TICK_MS = 1;
const MAX_UNDER_WAY = 500;
let identity: LoadIdentity | undefined;
let sending: Sending | undefined;

process.on('message', (message: { identity: LoadIdentity } | NoiseOrder) => {
  if ('identity' in message) identity = message.identity;
  else if ('noise' in message) sending = new Sending(message.noise);
  else void sending?.end().then((reply) => process.send?.(reply));
});
process.once('disconnect', () => process.exit(0));
process.on('SIGINT', () => {});

const asIs = (bytes: Buffer) => bytes;

/** Calls, from the first to the last one's answer. */
class Sending {
  readonly #noise: Noise;
  readonly #client: Client;
  readonly #startedAt = performance.now();
  readonly #timer: NodeJS.Timeout;
  readonly #ended = Promise.withResolvers<void>();
  #due = 0;
  #underWay = 0;
  #answered = 0;
  #refused = 0;
  #isEnding = false;
  #failure: string | undefined;

  constructor(noise: Noise) {
    if (identity === undefined) throw new Error('noise before the identity');
    const { caFile, keyFile, certFile } = identity;
    const ssl = credentials.createSsl(
      readFileSync(caFile),
      readFileSync(keyFile),
      readFileSync(certFile),
    );
    this.#noise = noise;
    this.#client = new Client(noise.address, ssl);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** What came of it, once every call has its answer. */
  async end(): Promise<NoiseReply> {
    const seconds = (performance.now() - this.#startedAt) / 1000;
    clearInterval(this.#timer);
    this.#isEnding = true;
    if (this.#underWay > 0) await this.#ended.promise;
    this.#client.close();
    if (this.#failure !== undefined) return { failure: this.#failure };
    return { result: { seconds, answered: this.#answered, refused: this.#refused } };
  }

  #tick(): void {
    const { perSecond } = this.#noise;
    const due = Math.floor(((performance.now() - this.#startedAt) * perSecond) / 1000);
    for (; this.#due < due; this.#due++) if (this.#underWay < MAX_UNDER_WAY) this.#send();
  }

  #send(): void {
    const { path, requests } = this.#noise;
    const request = requests[this.#due % requests.length] as Buffer;
    this.#underWay += 1;
    const options = { deadline: Date.now() + DEADLINE_MS };
    this.#client.makeUnaryRequest(path, asIs, asIs, request, options, (error) => {
      this.#underWay -= 1;
      if (!error) this.#answered += 1;
      else if (error.code === status.RESOURCE_EXHAUSTED) this.#refused += 1;
      else this.#failure ??= `${path}: ${error.message}`;
      if (this.#isEnding && this.#underWay === 0) this.#ended.resolve();
    });
  }
}
