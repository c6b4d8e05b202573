/**
 * One address of the service: the connections to it, attempts at calls over them, and whether calls
 * should go there.
 *
 * - TLS 1.3 with the caller's certificate, if there is one, or nothing.
 * - What grpc-js would do unasked is off: its own retries, service configuration out of DNS, HTTP
 *   proxies out of the environment, connections shared between clients.
 * - Of several connections the next one in turn has the next call, unless it cannot be made.
 * - With other credentials new calls have new connections, and calls under way end on theirs.
 * - An address that is avoided is asked by grpc.health.v1 until it serves again.
 */
import { isIP } from 'node:net';
import { checkServerIdentity, type SecureContext } from 'node:tls';
import {
  Client,
  connectivityState as channelState,
  credentials,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import { closingSockets } from './connecting.ts';
import { errorOf, type KeywardError, unconnected } from './errors.ts';
import type { Reporter } from './hooks.ts';

/**
 * The longest answer taken, in bytes: services of this release keep to 4 MiB, earlier ones have
 * pages of six times as much.
 */
const MAX_ANSWER_BYTES = 67_108_864;

const OPTIONS = {
  'grpc.enable_retries': 0,
  'grpc.service_config_disable_resolution': 1,
  'grpc.enable_http_proxy': 0,
  'grpc.use_local_subchannel_pool': 1,
  // So that a retry finds a service that has just come back; grpc-js waits 1 s, then up to 2
  // minutes.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 5_000,
  // A peer that vanished without a word is noticed here, not after TCP's quarter of an hour.
  'grpc.keepalive_time_ms': 60_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.max_receive_message_length': MAX_ANSWER_BYTES,
};

/** How long an attempt waits for a connection where there is another address. */
const CONNECT_MS = 2_000;
/** How long an answer about its health may take. */
const HEALTH_MS = 2_000;
/** An address that is avoided is asked after this, then after twice as long, up to the most. */
const FIRST_PROBE_MS = 200;
const MAX_PROBE_MS = 10_000;

type Channel = ReturnType<Client['getChannel']>;

const HEALTH = '/grpc.health.v1.Health/Check';
/** HealthCheckRequest for the server as a whole, and HealthCheckResponse with SERVING. */
const ASKED = Buffer.alloc(0);
const SERVING = Buffer.from([0x08, 0x01]);
/** How an attempt ends that tells nothing of a server at that address. */
const UNREACHED = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'CANCELLED'];

/** An attempt at a call. */
export interface Attempt {
  readonly path: string;
  readonly bytes: Buffer;
  readonly metadata: Metadata;
  /** Milliseconds of the clock; Infinity for none. */
  readonly deadline: number;
  /** Aborts when the call is to end early. */
  readonly ending: AbortSignal;
}

interface EndpointOptions {
  readonly address: string;
  readonly serverName: string | undefined;
  readonly context: SecureContext;
  readonly reporter: Reporter;
  /** Whether calls could go elsewhere. */
  readonly hasOthers: boolean;
  /** How many connections there are. */
  readonly connections: number;
}

/** A connection, and how many calls are on it. */
interface Line {
  readonly client: Client;
  calls: number;
  isRetired: boolean;
}

/** See this file's first paragraph. Connects when first used. */
export class Endpoint {
  readonly address: string;
  readonly #options: EndpointOptions;
  #lines: readonly Line[];
  /** Which of them has the next call. */
  #next = 0;
  #avoided = false;
  #isProbing = false;
  /** Aborts when it is closed. */
  readonly #closing = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: EndpointOptions) {
    this.address = options.address;
    this.#options = options;
    this.#lines = this.#connectAll(options.context);
  }

  /** Whether calls should go elsewhere. */
  get isAvoided(): boolean {
    return this.#avoided;
  }

  /** Has new calls use these credentials. */
  renew(context: SecureContext): void {
    const old = this.#lines;
    this.#lines = this.#connectAll(context);
    for (const line of old) {
      line.isRetired = true;
      if (line.calls === 0) line.client.close();
    }
  }

  /** Leaves no socket and no timer. */
  close(): void {
    this.#closing.abort();
    clearTimeout(this.#timer);
    for (const { client } of this.#lines) client.close();
  }

  /** Returns the answer. Rejects with a KeywardError. */
  async send({ path, bytes, metadata, deadline, ending }: Attempt): Promise<Buffer> {
    const line = this.#take();
    try {
      return await new Promise<Buffer>((resolve, reject) => {
        const request = line.client.makeUnaryRequest(
          ...([path, asItIs, asItIs, bytes, metadata, { deadline }] as const),
          (error, answer) => {
            ending.removeEventListener('abort', cancel);
            const late = patience?.end();
            if (error !== null) reject(late ?? errorOf(error, this.address));
            else resolve(answer as Buffer);
          },
        );
        const cancel = () => request.cancel();
        const patience = this.#patience(line, cancel);
        ending.addEventListener('abort', cancel, { once: true });
      });
    } finally {
      this.#release(line);
    }
  }

  /** Yields the answers of a stream. Throws as {@link send}; returning early cancels it. */
  async *receive(attempt: Attempt): AsyncGenerator<Buffer, void, undefined> {
    const { path, bytes, metadata, deadline, ending } = attempt;
    const line = this.#take();
    const stream = line.client.makeServerStreamRequest(
      ...([path, asItIs, asItIs, bytes, metadata, { deadline }] as const),
    );
    // Cancelling ends the stream with an error, which nobody waits for when the caller has returned
    // early.
    stream.on('error', () => {});
    const cancel = () => stream.cancel();
    const patience = this.#patience(line, cancel);
    ending.addEventListener('abort', cancel, { once: true });
    try {
      for await (const answer of stream) yield answer;
    } catch (error) {
      throw patience?.end() ?? errorOf(error as ServiceError, this.address);
    } finally {
      patience?.end();
      ending.removeEventListener('abort', cancel);
      stream.cancel();
      this.#release(line);
    }
  }

  /** An attempt was answered, so the address serves. */
  answered(): void {
    if (this.#avoided) this.#restore();
  }

  /** An attempt failed because of the address: calls go to others until it serves again. */
  avoid(error: KeywardError): void {
    if (!this.#options.hasOthers || this.#avoided || this.#closing.signal.aborted) return;
    this.#avoided = true;
    this.#options.reporter.connection({ address: this.address, state: 'avoided', error });
    this.#probeAfter(FIRST_PROBE_MS);
  }

  /** An attempt was not answered in time: finds out whether the address is to be avoided. */
  suspect(error: KeywardError): void {
    if (!this.#options.hasOthers || this.#avoided || this.#isProbing) return;
    this.#isServing().then((isServing) => isServing || this.avoid(error));
  }

  #probeAfter(delayMs: number): void {
    const probe = async () => {
      const isServing = await this.#isServing();
      if (!this.#avoided || this.#closing.signal.aborted) return;
      if (isServing) this.#restore();
      else this.#probeAfter(Math.min(delayMs * 2, MAX_PROBE_MS));
    };
    this.#timer = setTimeout(probe, delayMs * (1 + Math.random() / 2)).unref();
  }

  #restore(): void {
    clearTimeout(this.#timer);
    this.#avoided = false;
    this.#options.reporter.connection({ address: this.address, state: 'restored' });
  }

  /** Any answer but that it does not serve will do: an older release has no health. */
  async #isServing(): Promise<boolean> {
    this.#isProbing = true;
    try {
      const { signal: ending } = this.#closing;
      const deadline = Date.now() + HEALTH_MS;
      const metadata = new Metadata();
      const asked = { path: HEALTH, bytes: ASKED, metadata, deadline, ending };
      return SERVING.equals(await this.send(asked));
    } catch (error) {
      return !UNREACHED.includes((error as KeywardError).code);
    } finally {
      this.#isProbing = false;
    }
  }

  /**
   * Gives an attempt up that has no connection in time where another address could have one.
   * `end` returns what it then fails with.
   */
  #patience(
    { client }: Line,
    giveUp: () => void,
  ): { readonly end: () => KeywardError | undefined } | undefined {
    const { hasOthers } = this.#options;
    const isConnected = () => stateOf(client.getChannel()) === channelState.READY;
    if (!hasOthers || isConnected()) return undefined;
    let late: KeywardError | undefined;
    const timer = setTimeout(() => {
      if (isConnected()) return;
      late = unconnected(this.address, `no connection within ${CONNECT_MS / 1000} s`);
      giveUp();
    }, CONNECT_MS);
    return {
      end: () => {
        clearTimeout(timer);
        return late;
      },
    };
  }

  #take(): Line {
    const line = this.#nextLine();
    line.calls += 1;
    return line;
  }

  /** The next one in turn; those that could not connect are passed over while others could. */
  #nextLine(): Line {
    const { length } = this.#lines;
    const inTurn = this.#next;
    for (let passed = 0; passed < length; passed += 1) {
      const index = (inTurn + passed) % length;
      const line = this.#lines[index] as Line;
      if (length > 1 && stateOf(line.client.getChannel()) === channelState.TRANSIENT_FAILURE)
        continue;
      this.#next = (index + 1) % length;
      return line;
    }
    this.#next = (inTurn + 1) % length;
    return this.#lines[inTurn] as Line;
  }

  #release(line: Line): void {
    line.calls -= 1;
    if (line.isRetired && line.calls === 0) line.client.close();
  }

  #connectAll(context: SecureContext): readonly Line[] {
    return Array.from({ length: this.#options.connections }, () => this.#connect(context));
  }

  #connect(context: SecureContext): Line {
    const { address, serverName = hostOf(address), reporter } = this.#options;
    const client = new Client(
      address,
      closingSockets(
        credentials.createFromSecureContext(context, {
          checkServerIdentity: (_host, certificate) => checkServerIdentity(serverName, certificate),
        }),
      ),
      { ...OPTIONS, 'grpc.ssl_target_name_override': sniName(serverName) },
    );
    if (reporter.watchesConnections) this.#watch(client.getChannel());
    return { client, calls: 0, isRetired: false };
  }

  #watch(channel: Channel): void {
    const { address } = this;
    let before = stateOf(channel);
    const next = () =>
      channel.watchConnectivityState(before, Number.POSITIVE_INFINITY, () => {
        const now = stateOf(channel);
        const { reporter } = this.#options;
        if (now === channelState.READY) reporter.connection({ address, state: 'connected' });
        else if (before === channelState.READY) reporter.connection({ address, state: 'closed' });
        else if (now === channelState.TRANSIENT_FAILURE)
          reporter.connection({ address, state: 'failed' });
        before = now;
        if (now !== channelState.SHUTDOWN) next();
      });
    next();
  }
}

/** SHUTDOWN for a channel that is closed. */
function stateOf(channel: Channel): channelState {
  return channel.getConnectivityState(false);
}

const asItIs = (bytes: Buffer): Buffer => bytes;

/**
 * The name sent in the handshake (RFC 6066), which can't be an IP address: grpc-js would send one
 * all the same, and Node warns of that on stderr. Which name the certificate must have is decided
 * by `checkServerIdentity`, not by this.
 */
function sniName(name: string): string {
  return isIP(name) === 0 ? name : 'localhost';
}

/** `127.0.0.1` of `127.0.0.1:5005`, `::1` of `[::1]:5005`. */
function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1');
}
