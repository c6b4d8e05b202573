/**
 * The gRPC server: services, health, reflection, its start and its end.
 *
 * Invariant: it answers SERVING only while what it stands on is there, and after {@link GrpcServer.drain} has begun no
 * new call is taken while those under way are answered. Knows no method and no key.
 */
import { Server } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { MutualTlsCredentials, type TlsFiles } from './credentials.ts';
import { METHODS } from './methods.ts';
import { packageDefinition, serviceDefinition } from './proto.ts';
import { type Serving, serveCall } from './serve-call.ts';

export interface GrpcServerOptions extends Serving {
  /** host:port; port 0 takes a free one. */
  readonly listen: string;
  readonly tls: TlsFiles;
  readonly reflection: boolean;
}

/** See this file's first paragraph. */
export class GrpcServer {
  readonly #server: Server;
  readonly #credentials: MutualTlsCredentials;
  readonly #health = new HealthImplementation();
  readonly #options: GrpcServerOptions;
  #unwatch: (() => void) | undefined;
  #serving = false;

  constructor(options: GrpcServerOptions) {
    this.#options = options;
    this.#credentials = new MutualTlsCredentials(options.tls);
    this.#server = new Server();
    for (const [service, rows] of Object.entries(METHODS)) {
      const handlers = Object.entries(rows).map(([method, row]) => {
        return [method, serveCall(options, `${service}/${method}`, row)];
      });
      this.#server.addService(serviceDefinition(service), Object.fromEntries(handlers));
    }
    this.#health.addToServer(this.#server);
    if (options.reflection) new ReflectionService(packageDefinition).addToServer(this.#server);
    this.#setHealth('NOT_SERVING');
  }

  /** Begins to listen; returns the port. Calls are answered from here on, SERVING is said by {@link setReady}. */
  async listen(): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#server.bindAsync(this.#options.listen, this.#credentials, (error, port) => {
      if (error) reject(error);
      else resolve(port);
    });
    const port = await promise;
    const { log } = this.#options;
    this.#unwatch = this.#credentials.watch(
      () => log.info('certificates reloaded'),
      (error) => log.error({ err: error }, 'certificates can not be reloaded; the old ones stay'),
    );
    return port;
  }

  /** Says by grpc.health.v1, for the server as a whole and each service, whether it can do its work. */
  setReady(ready: boolean): void {
    if (ready === this.#serving) return;
    this.#serving = ready;
    this.#setHealth(ready ? 'SERVING' : 'NOT_SERVING');
    this.#options.log.info({ ready }, ready ? 'serving' : 'not serving');
  }

  /** Takes no new call, waits up to `limitMs` for those under way, then ends. */
  async drain(limitMs: number): Promise<void> {
    this.setReady(false);
    this.#unwatch?.();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#server.tryShutdown(() => resolve());
    const timer = setTimeout(() => this.#server.forceShutdown(), limitMs);
    await promise;
    clearTimeout(timer);
  }

  #setHealth(status: 'SERVING' | 'NOT_SERVING'): void {
    for (const service of ['', ...Object.keys(METHODS)]) this.#health.setStatus(service, status);
  }
}
