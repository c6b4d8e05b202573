/**
 * An open loop: a process of its own that sends calls at a pace of its own, whatever becomes of
 * them.
 *
 * Refused as RESOURCE_EXHAUSTED a call may be, and nothing else unless it may fail. What is under
 * way is bounded, so that a service which doesn't keep up gets fewer calls and not a queue
 * that grows. Knows no method.
 */
import { readFileSync } from 'node:fs';
import { Client, credentials, type ServiceError, status } from '@grpc/grpc-js';
import { KeywardError } from 'keyward-client';
import { Throttle } from '../client/src/throttle.ts';
import type { LoadIdentity, Noise, NoiseOrder, NoiseReply } from './load-protocol.ts';

const DEADLINE_MS = 20_000;
const TICK_MS = 1;
const MAX_UNDER_WAY = 500;
const FAILURES: readonly number[] = [status.DEADLINE_EXCEEDED, status.UNAVAILABLE];
/** What a throttle is told of a refusal: which reason it was makes no difference here. */
const BUSY = new KeywardError({ code: 'RESOURCE_EXHAUSTED', message: '', reason: 'SERVER_BUSY' });
const RETRY_INFO = 'google.rpc.RetryInfo';
/** Where google.rpc.Status is. */
const DETAILS = 'grpc-status-details-bin';
let identity: LoadIdentity | undefined;
let sending: Sending | undefined;

process.on('message', (message: { identity: LoadIdentity } | NoiseOrder) => {
  if ('identity' in message) identity = message.identity;
  else if ('noise' in message) void begin(message.noise).then((reply) => process.send?.(reply));
  else void sending?.end().then((reply) => process.send?.(reply));
});
process.once('disconnect', () => process.exit(0));
process.on('SIGINT', () => {});

const asIs = (bytes: Buffer) => bytes;

async function begin(noise: Noise): Promise<NoiseReply> {
  try {
    sending = await Sending.begin(noise);
    return { begun: true };
  } catch (error) {
    return { failure: `${noise.path}: ${(error as Error).message}` };
  }
}

/** Calls, from the first to the last one's answer. */
class Sending {
  readonly #noise: Noise;
  readonly #clients: readonly Client[];
  readonly #throttles: readonly Throttle[];
  readonly #startedAt = performance.now();
  readonly #timer: NodeJS.Timeout;
  readonly #ended = Promise.withResolvers<void>();
  readonly #answeredMs: number[] = [];
  readonly #refusedMs: number[] = [];
  #due = 0;
  #underWay = 0;
  #withRetryInfo = 0;
  #failed = 0;
  #heldBack = 0;
  #isEnding = false;
  #failure: string | undefined;

  private constructor(noise: Noise, clients: readonly Client[]) {
    this.#noise = noise;
    this.#clients = clients;
    this.#throttles = clients.map(() => new Throttle());
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** Begins once every connection is there. */
  static async begin(noise: Noise): Promise<Sending> {
    if (identity === undefined) throw new Error('noise before the identity');
    const { caFile, keyFile, certFile } = identity;
    const ssl = credentials.createSsl(
      readFileSync(caFile),
      readFileSync(keyFile),
      readFileSync(certFile),
    );
    const options = { 'grpc.use_local_subchannel_pool': 1 };
    const clients = Array.from(
      { length: noise.connections ?? 1 },
      () => new Client(noise.address, ssl, options),
    );
    const ready = (client: Client) =>
      new Promise<void>((resolve, reject) =>
        client.waitForReady(Date.now() + DEADLINE_MS, (error) =>
          error === undefined ? resolve() : reject(error),
        ),
      );
    await Promise.all(clients.map(ready));
    return new Sending(noise, clients);
  }

  /** What came of it, once every call has its answer. */
  async end(): Promise<NoiseReply> {
    const seconds = (performance.now() - this.#startedAt) / 1000;
    clearInterval(this.#timer);
    const answered = this.#answeredMs.length;
    this.#isEnding = true;
    if (this.#underWay > 0) await this.#ended.promise;
    for (const client of this.#clients) client.close();
    if (this.#failure !== undefined) return { failure: this.#failure };
    const refused = this.#refusedMs.length;
    return {
      result: {
        ...{ seconds, answered, refused, failed: this.#failed, heldBack: this.#heldBack },
        refusedWithRetryInfo: this.#withRetryInfo,
        answeredP99Ms: quantile(this.#answeredMs, 0.99),
        refusedP50Ms: quantile(this.#refusedMs, 0.5),
        refusedP99Ms: quantile(this.#refusedMs, 0.99),
      },
    };
  }

  #tick(): void {
    const { perSecond, maxUnderWay = MAX_UNDER_WAY } = this.#noise;
    const due = Math.floor(((performance.now() - this.#startedAt) * perSecond) / 1000);
    for (; this.#due < due; this.#due++) if (this.#underWay < maxUnderWay) this.#send();
  }

  #send(): void {
    const { path, requests, deadlineMs = DEADLINE_MS } = this.#noise;
    const request = requests[this.#due % requests.length] as Buffer;
    const turn = this.#due % this.#clients.length;
    const client = this.#clients[turn] as Client;
    const throttle = this.#throttles[turn] as Throttle;
    if (!this.#isSent(throttle)) return;
    const sentAt = performance.now();
    this.#underWay += 1;
    const options = { deadline: Date.now() + deadlineMs };
    client.makeUnaryRequest(path, asIs, asIs, request, options, (error) => {
      this.#underWay -= 1;
      if (error === null) throttle.succeeded();
      else if (error.code === status.RESOURCE_EXHAUSTED) throttle.failed(BUSY);
      this.#note(error, performance.now() - sentAt);
      if (this.#isEnding && this.#underWay === 0) this.#ended.resolve();
    });
  }

  #isSent(throttle: Throttle): boolean {
    if (!this.#noise.throttled) return true;
    try {
      throttle.admit();
      return true;
    } catch {
      this.#heldBack += 1;
      return false;
    }
  }

  #note(error: ServiceError | null, tookMs: number): void {
    const { path, mayFail = false } = this.#noise;
    if (error === null) this.#answeredMs.push(tookMs);
    else if (error.code === status.RESOURCE_EXHAUSTED) {
      this.#refusedMs.push(tookMs);
      const [details] = error.metadata.get(DETAILS);
      if (details?.includes(RETRY_INFO)) this.#withRetryInfo += 1;
    } else if (mayFail && FAILURES.includes(error.code)) this.#failed += 1;
    else this.#failure ??= `${path}: ${error.message}`;
  }
}

/** Zero where there is nothing. */
function quantile(values: number[], share: number): number {
  values.sort((a, b) => a - b);
  return values[Math.floor(values.length * share)] ?? 0;
}
