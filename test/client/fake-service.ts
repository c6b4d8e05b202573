/**
 * A gRPC server that speaks the contract and does what a test tells it to, so that the client can be tested alone, and
 * against answers that the real service gives rarely or never.
 *
 * Owns the wire form of an error as the client must read it, written here a second time on purpose. Keeps nothing but
 * how often each method was called.
 */
import { fileURLToPath } from 'node:url';
import * as grpc from '@grpc/grpc-js';
import { loadSync, type MessageTypeDefinition, type ServiceDefinition } from '@grpc/proto-loader';
import { type ConnectOptions, connect, type KeywardClient } from '../../client/src/index.ts';
import { type CertificateAuthority, createCertificateAuthority } from '../../dev/certificates.ts';
import { crc32c } from '../../src/rpc/crc32c.ts';

const definitions = loadSync(
  [
    'keyward/v1/admin.proto',
    'keyward/v1/key.proto',
    'keyward/v1/encryption.proto',
    'google/rpc/status.proto',
    'google/rpc/error_details.proto',
  ],
  {
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
    includeDirs: [fileURLToPath(new URL('../../proto', import.meta.url))],
  },
);

const SERVICES = ['keyward.v1.AdminService', 'keyward.v1.KeyService', 'keyward.v1.EncryptionService'];

/** What a test lets a method do: return the answer, to which {@link checked} is applied, or throw what {@link refusal} makes. */
export type Handler = (
  request: Record<string, unknown>,
  call: grpc.ServerUnaryCall<unknown, unknown>,
) => unknown;

/** An error as the service sends it. */
export interface Refusal {
  readonly code: grpc.status;
  readonly message?: string;
  readonly reason?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly fieldViolations?: readonly { readonly field: string; readonly description: string }[];
  readonly retryDelay?: { readonly seconds: number; readonly nanos: number };
  readonly requestId?: string;
  readonly domain?: string;
}

/** The status and trailer for a refusal: google.rpc.Status in `grpc-status-details-bin`. */
export function refusal(facts: Refusal): Partial<grpc.StatusObject> {
  const message = wireStatus(facts);
  const trailer = new grpc.Metadata();
  trailer.set('grpc-status-details-bin', serialize('google.rpc.Status', message));
  return { code: message.code, details: message.message, metadata: trailer };
}

/** google.rpc.Status for a refusal, as a batch's item has it. */
export function wireStatus(facts: Refusal) {
  const { code, message = 'Refused.' } = facts;
  const details = [];
  if (facts.reason !== undefined) {
    const { reason, domain = 'keyward', metadata } = facts;
    details.push(any('google.rpc.ErrorInfo', { reason, domain, metadata }));
  }
  if (facts.fieldViolations) {
    details.push(any('google.rpc.BadRequest', { fieldViolations: facts.fieldViolations }));
  }
  if (facts.retryDelay) details.push(any('google.rpc.RetryInfo', { retryDelay: facts.retryDelay }));
  if (facts.requestId) details.push(any('google.rpc.RequestInfo', { requestId: facts.requestId }));
  return { code, message, details };
}

function any(type: string, message: object) {
  return { type_url: `type.googleapis.com/${type}`, value: serialize(type, message) };
}

function serialize(type: string, message: object): Buffer {
  return (definitions[type] as MessageTypeDefinition<object, object>).serialize(message);
}

/** The answer with the checksums of its bytes, and the request's confirmed, where the test says nothing else. */
export function checked(answer: unknown): Record<string, unknown> {
  const given = answer as Record<string, unknown>;
  const sums = Object.entries(given).flatMap(([name, value]) =>
    value instanceof Uint8Array ? [[`${name}Crc32c`, crc32c(value)]] : [],
  );
  const verified = { verifiedPlaintextCrc32c: true, verifiedCiphertextCrc32c: true };
  return { ...verified, ...Object.fromEntries(sums), ...given };
}

/** A key as the wire has it. */
export function wireKey(name: string, version = 1) {
  const createTime = { seconds: 1_700_000_000, nanos: 123_456_789 };
  return {
    name,
    uid: '018f0000-0000-4000-8000-000000000001',
    primary: {
      name: `${name}/versions/${version}`,
      state: 'KEY_VERSION_STATE_ENABLED',
      algorithm: 'ALGORITHM_HMAC_SHA512_AES_256_GCM',
      createTime,
      etag: 'v1',
    },
    createTime,
    state: 'KEY_STATE_ENABLED',
    description: 'for orders',
    labels: { team: 'payments' },
    etag: 'k1',
  };
}

/** A running fake, and how to reach it. */
export interface FakeService extends AsyncDisposable {
  readonly address: string;
  readonly caPem: string;
  readonly client: { readonly certPem: string; readonly keyPem: string };
  /** How often each method was called. */
  readonly calls: Map<string, number>;
  connect(options?: Partial<ConnectOptions>): KeywardClient;
}

/** Starts a fake on a free port of 127.0.0.1, or on `port`; methods without a handler answer UNIMPLEMENTED. */
export async function startFakeService(
  handlers: Readonly<Record<string, Handler>>,
  {
    port = 0,
    ips = ['127.0.0.1'],
    dns = [],
    ca = createCertificateAuthority('Fake CA'),
  }: {
    port?: number;
    ips?: readonly string[];
    dns?: readonly string[];
    ca?: CertificateAuthority;
  } = {},
): Promise<FakeService> {
  const own = ca.issue({ subject: 'fake', usage: 'server', ips, dns });
  const client = ca.issue({ subject: 'test', usage: 'client' });
  const calls = new Map<string, number>();
  const server = new grpc.Server();
  for (const service of SERVICES) {
    server.addService(
      definitions[service] as unknown as grpc.ServiceDefinition,
      implementation(definitions[service] as ServiceDefinition, handlers, calls),
    );
  }
  const credentials = grpc.ServerCredentials.createSsl(
    Buffer.from(ca.certPem),
    [{ private_key: Buffer.from(own.keyPem), cert_chain: Buffer.from(own.certPem) }],
    true,
  );
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, credentials, (error, at) => (error ? reject(error) : resolve(at)));
  });
  const address = `127.0.0.1:${bound}`;
  return {
    address,
    caPem: ca.certPem,
    client,
    calls,
    connect: (options = {}) =>
      connect({
        address,
        ca: ca.certPem,
        cert: client.certPem,
        key: client.keyPem,
        ...options,
      } as ConnectOptions),
    async [Symbol.asyncDispose]() {
      server.forceShutdown();
    },
  };
}

function implementation(
  service: ServiceDefinition,
  handlers: Readonly<Record<string, Handler>>,
  calls: Map<string, number>,
): grpc.UntypedServiceImplementation {
  const methods = Object.keys(service).map((name): [string, grpc.handleUnaryCall<unknown, unknown>] => [
    name,
    async (call, callback) => {
      calls.set(name, (calls.get(name) ?? 0) + 1);
      const handler = handlers[name];
      if (handler === undefined) return callback({ code: grpc.status.UNIMPLEMENTED });
      try {
        callback(null, checked(await handler(call.request as Record<string, unknown>, call)));
      } catch (error) {
        callback(error as Partial<grpc.StatusObject>);
      }
    },
  ]);
  return Object.fromEntries(methods);
}
