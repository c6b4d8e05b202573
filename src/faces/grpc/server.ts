/**
 * The gRPC server: services, health, reflection, its start and its end.
 *
 * Invariant: it answers SERVING only while what it stands on is there; every connection and every
 * call passes `connections.ts` and `admission.ts`; after {@link GrpcServer.drain} has begun no new
 * call is taken while those under way are answered, and its limit is kept whatever a peer does.
 * Knows no method and no key.
 */
import type { Http2SecureServer } from 'node:http2';
import {
  type MethodDefinition,
  Server,
  type ServiceDefinition,
  type UntypedHandleCall,
} from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import type { Serving } from '../../calls/serve-call.ts';
import { methodsOf } from '../contract/methods.ts';
import { serviceDefinition } from '../contract/proto.ts';
import { RPCS } from '../contract/rpcs.ts';
import type { ProtocolLimits } from '../transport/protocol-limits.ts';
import type { TlsFileNames } from '../transport/tls-files.ts';
import { type Dispatch, StreamAdmission, type StreamAdmissionParts } from './admission.ts';
import type { CallStream } from './call-stream.ts';
import { MutualTlsCredentials } from './credentials.ts';
import { type AdmittedOf, handlerOf } from './handlers.ts';
import { addReflection } from './reflection.ts';
import { UnaryCalls } from './unary-calls.ts';

export interface GrpcServerOptions
  extends Pick<StreamAdmissionParts, 'admission' | 'connections'>,
    Omit<Serving, 'stopping'> {
  readonly limits: ProtocolLimits & StreamAdmissionParts['limits'];
  /** host:port; port 0 takes a free one. */
  readonly listen: string;
  readonly tls: TlsFileNames;
  readonly reflection: boolean;
}

/** What was destroyed is closed in a moment. */
const CLOSING_MS = 500;

/** Serves the contract over gRPC, with health and reflection. */
export class GrpcServer {
  readonly #server: Server;
  readonly #credentials: MutualTlsCredentials;
  readonly #serving: Serving;
  readonly #unary: UnaryCalls;
  readonly #admission: StreamAdmission;
  readonly #health = new HealthImplementation();
  readonly #options: GrpcServerOptions;
  readonly #stopping = new AbortController();
  #http2Servers: readonly Http2SecureServer[] = [];
  #unwatch: (() => void) | undefined;
  #isReady = false;
  #drained: Promise<void> | undefined;

  constructor(options: GrpcServerOptions) {
    const { services, recording, replays, outcomes, canaryWatch } = options;
    const { stepUp, approvalGate, log, limits } = options;
    this.#options = options;
    this.#credentials = new MutualTlsCredentials(options.tls, limits);
    this.#serving = {
      ...{ services, recording, replays, outcomes, canaryWatch, stepUp, approvalGate, log },
      stopping: this.#stopping.signal,
    };
    this.#unary = new UnaryCalls<CallStream>({
      serving: this.#serving,
      admission: options.admission,
      maxMessageBytes: limits.maxMessageBytes,
    });
    this.#admission = new StreamAdmission({ ...options, unary: this.#unary });
    this.#server = new Server({
      'grpc.max_receive_message_length': limits.maxMessageBytes,
      // Counts of every call and connection, for a service that isn't served.
      'grpc.enable_channelz': 0,
    });
    for (const service of Object.keys(RPCS)) this.#addService(service);
    this.#addHealth();
    if (options.reflection) addReflection(this.#server);
    this.#setHealth('NOT_SERVING');
  }

  /**
   * Begins to listen; returns the port. Calls are answered from here on, SERVING is said by
   * {@link setReady}.
   */
  async listen(): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#server.bindAsync(this.#options.listen, this.#credentials, (error, port) => {
      if (error) {
        reject(error);
        return;
      }
      // Before the event loop turns, and so before the first connection.
      this.#http2Servers = http2ServersOf(this.#server);
      for (const http2Server of this.#http2Servers) this.#guard(http2Server);
      resolve(port);
    });
    const port = await promise;
    const { log } = this.#options;
    this.#unwatch = this.#credentials.watch(
      () => log.info('certificates reloaded'),
      (error) =>
        log.error({ err: error }, 'cannot reload the certificates; the old ones stay in use'),
    );
    return port;
  }

  /** Looks at once whether the TLS files have changed. */
  reload(): void {
    this.#credentials.look();
  }

  /**
   * Says by grpc.health.v1, for the server as a whole and each service, whether it can do its work.
   */
  setReady(ready: boolean): void {
    if (ready === this.#isReady) return;
    this.#isReady = ready;
    this.#setHealth(ready ? 'SERVING' : 'NOT_SERVING');
    this.#options.log.info({ ready }, ready ? 'serving' : 'not serving');
  }

  /**
   * Takes no new call, waits up to `limitMs` for those under way, then ends, also where a peer
   * never does. Called again, it waits for the same end.
   */
  drain(limitMs: number): Promise<void> {
    this.#drained ??= this.#drain(limitMs);
    return this.#drained;
  }

  async #drain(limitMs: number): Promise<void> {
    this.setReady(false);
    this.#unwatch?.();
    this.#stopping.abort();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.tryShutdown(() => resolve());
    // Sockets that have not shaken hands have no call under way, and grpc-js would wait for them.
    const { connections } = this.#options;
    for (const each of this.#http2Servers) connections.destroyUnfinished(each);
    const timer = setTimeout(() => {
      this.#server.forceShutdown();
      for (const each of this.#http2Servers) connections.destroyAll(each);
      // HTTP/2 can lose count of connections that were reset, and waits for them for ever.
      setTimeout(resolve, CLOSING_MS);
    }, limitMs);
    await promise;
    clearTimeout(timer);
  }

  /**
   * Messages pass grpc-js as bytes, so that decoding and encoding, which may fail, are in the
   * wrapper.
   */
  #addService(service: string): void {
    const admittedOf: AdmittedOf = (rpc) => this.#admission.take(rpc.metadata);
    const streams: Record<string, UntypedHandleCall> = {};
    for (const [name, method] of Object.entries(methodsOf(service))) {
      if ('stream' in method.rpc.operation)
        streams[name] = handlerOf(this.#serving, admittedOf, method);
      else this.#unary.add(method);
    }
    const definition = Object.entries(serviceDefinition(service)).filter(
      ([name]) => streams[name] !== undefined,
    );
    // grpc-js takes no service without methods.
    if (definition.length === 0) return;
    this.#server.addService(withMethods(Object.fromEntries(definition), inBytes), streams);
  }

  /**
   * grpc-health-check remembers every name that was ever watched: those that it doesn't know become
   * one.
   */
  #addHealth(): void {
    const known = new Set(['', ...Object.keys(RPCS)]);
    const bounded: MethodChange = (method) => ({
      ...method,
      requestDeserialize: (bytes) => {
        const request = method.requestDeserialize(bytes) as { readonly service?: string };
        const { service } = request;
        return service === undefined || known.has(service)
          ? request
          : { ...request, service: 'unknown' };
      },
    });
    const addService: Server['addService'] = (definition, implementation) =>
      this.#server.addService(withMethods(definition, bounded), implementation);
    // All that it does with the server.
    this.#health.addToServer({ addService } as Server);
  }

  /**
   * Puts connections' limits and {@link StreamAdmission} before what grpc-js does with a server of
   * its own.
   */
  #guard(http2Server: Http2SecureServer): void {
    const [dispatch, ...others] = http2Server.listeners('stream');
    if (dispatch === undefined || others.length > 0)
      throw new Error('cannot serve: this grpc-js release receives streams in another way');
    this.#options.connections.watch(http2Server);
    http2Server.removeAllListeners('stream');
    http2Server.on('stream', this.#admission.before(dispatch.bind(http2Server) as Dispatch));
  }

  #setHealth(status: 'SERVING' | 'NOT_SERVING'): void {
    for (const service of ['', ...Object.keys(RPCS)]) this.#health.setStatus(service, status);
  }
}

type Method = MethodDefinition<object, object>;
type MethodChange = (method: Method) => MethodDefinition<object | Buffer, object | Buffer>;

const inBytes: MethodChange = (method) => ({
  ...method,
  requestDeserialize: (bytes) => bytes,
  responseSerialize: (bytes) => bytes as Buffer,
});

function withMethods(definition: ServiceDefinition, change: MethodChange): ServiceDefinition {
  return Object.fromEntries(
    Object.entries(definition).map(([name, method]) => [name, change(method as Method)]),
  );
}

/**
 * The HTTP/2 servers under a grpc-js server: the only thing of its that is private and used here.
 * It has no public way to connections, PINGs, or the headers of a call before it acts on them. The
 * server doesn't start if they are not there.
 */
function http2ServersOf(server: Server): Http2SecureServer[] {
  const { http2Servers } = server as unknown as {
    readonly http2Servers?: ReadonlyMap<Http2SecureServer, unknown>;
  };
  if (!(http2Servers instanceof Map) || http2Servers.size === 0) {
    throw new Error('cannot serve: this grpc-js release keeps its HTTP/2 servers elsewhere');
  }
  return [...http2Servers.keys()];
}
