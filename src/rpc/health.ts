/**
 * Health for those that have no certificate: grpc.health.v1 in plaintext on an address of its own, and the question
 * that `keyward-server health` asks there.
 *
 * Kubernetes' probes speak no TLS, and a container's own check should need no identity that could call the service.
 * Invariant: nothing but SERVING or NOT_SERVING can be learned here, and little be held. The empty service says whether
 * calls can be served; {@link LIVENESS} is SERVING while the process answers at all, since restarting it brings back
 * neither database nor HSM. The port with TLS has health as well (`server.ts`). Knows no key.
 */
import { Client, credentials, Metadata, Server, ServerCredentials } from '@grpc/grpc-js';
import { HealthImplementation, service } from 'grpc-health-check';

/** The service name that a liveness probe asks for. */
export const LIVENESS = 'liveness';

const CHECK_TIMEOUT_MS = 3_000;
/** Answers are of a few bytes, and so are questions. */
const LIMITS = {
  'grpc.max_receive_message_length': 1_024,
  'grpc.max_metadata_size': 4_096,
  'grpc.max_concurrent_streams': 8,
  'grpc.max_connection_idle_ms': 60_000,
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
};

/** See this file's first paragraph. */
export class HealthListener {
  readonly #server = new Server(LIMITS);
  readonly #health = new HealthImplementation({ '': 'NOT_SERVING', [LIVENESS]: 'SERVING' });
  #ready = false;

  constructor() {
    this.#health.addToServer(this.#server);
  }

  /** Begins to listen on host:port; returns the port. */
  async listen(address: string): Promise<number> {
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#server.bindAsync(address, ServerCredentials.createInsecure(), (error, port) => {
      if (error) reject(error);
      else resolve(port);
    });
    return promise;
  }

  /** Says whether calls can be served. */
  setReady(ready: boolean): void {
    if (ready === this.#ready) return;
    this.#ready = ready;
    this.#health.setStatus('', ready ? 'SERVING' : 'NOT_SERVING');
  }

  /** Ends at once. */
  stop(): void {
    this.#server.forceShutdown();
  }
}

/** What the listener on `address` answers: SERVING, NOT_SERVING, or why there was no answer. */
export async function askHealth(address: string): Promise<string> {
  const check = service['Check'];
  if (check === undefined) throw new Error('grpc-health-check has no Check');
  const client = new Client(reachable(address), credentials.createInsecure(), {
    'grpc.enable_http_proxy': 0,
  });
  const { promise, resolve } = Promise.withResolvers<string>();
  client.makeUnaryRequest(
    check.path,
    check.requestSerialize,
    check.responseDeserialize,
    { service: '' },
    new Metadata(),
    { deadline: Date.now() + CHECK_TIMEOUT_MS },
    (error, response) => resolve(error?.message ?? (response as { status: string }).status),
  );
  try {
    return await promise;
  } finally {
    client.close();
  }
}

/** Where a listener on all addresses is reached from the same machine. */
function reachable(address: string): string {
  return address.replace(/^0\.0\.0\.0:/, '127.0.0.1:').replace(/^\[[0:]+\]:/, '[::1]:');
}
