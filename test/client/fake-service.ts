/**
 * A gRPC server that speaks the contract and does what a test tells it to, so that the client can
 * be tested alone, and against answers that the real service gives rarely or never.
 *
 * Owns the wire form of an error as the client must read it, written here a second time on purpose.
 * Keeps nothing but how often each method was called.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as grpc from '@grpc/grpc-js';
import { loadSync, type MessageTypeDefinition, type ServiceDefinition } from '@grpc/proto-loader';
import { type ConnectOptions, connect, type KeywardClient } from '../../client/src/index.ts';
import { type CertificateAuthority, createCertificateAuthority } from '../../dev/certificates.ts';
import { crc32c } from '../../src/operations/crc32c.ts';

const PROTO = fileURLToPath(new URL('../../proto', import.meta.url));

const definitions = loadSync(
  [
    ...readdirSync(join(PROTO, 'keyward/v1')).map((name) => `keyward/v1/${name}`),
    'google/rpc/status.proto',
    'google/rpc/error_details.proto',
  ],
  { longs: Number, enums: String, defaults: true, oneofs: true, includeDirs: [PROTO] },
);

/** Every service of the contract, by its full name, with its methods by their names. */
export const SERVICES = Object.entries(definitions).filter(
  (entry): entry is [string, ServiceDefinition] => !('format' in entry[1]),
);

type Call = grpc.ServerUnaryCall<unknown, unknown> | grpc.ServerWritableStream<unknown, unknown>;

/**
 * What a test lets a method do: return the answer, to which {@link checked} is applied, or throw
 * what {@link refusal} makes. A streaming method returns an iterable of its answers, which may
 * throw in the middle.
 */
export type Handler = (request: Record<string, unknown>, call: Call) => unknown;

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

/**
 * The answer with the checksums of its bytes, and the request's confirmed, where the test says
 * nothing else.
 */
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

/** A stored data key as the wire has it. */
export function wireDataKey(name: string) {
  return {
    name,
    uid: '018f0000-0000-4000-8000-000000000002',
    keyVersion: `${name.split('/dataKeys/')[0]}/versions/2`,
    length: 32,
    createTime: { seconds: 1_700_000_000, nanos: 0 },
    rewrapTime: { seconds: 1_700_000_060, nanos: 0 },
    etag: 'd1',
  };
}

/** A re-wrap job as the wire has it: half done, unless `facts` say otherwise. */
export function wireJob(name: string, facts: object = {}) {
  return {
    name,
    scope: 'tenants/acme/keys/orders',
    state: 'REWRAP_JOB_STATE_RUNNING',
    cause: 'ROTATION_CAUSE_REQUEST',
    caller: 'spiffe://acme/admin',
    createTime: { seconds: 1_700_000_000, nanos: 0 },
    endTime: null,
    total: 1000,
    totalIsFinal: true,
    done: 500,
    left: 500,
    failed: 0,
    rate: 62.5,
    timeLeft: { seconds: 8, nanos: 0 },
    failures: [],
    paused: false,
    kind: 'REWRAP_JOB_KIND_DATA_KEYS',
    ...facts,
  };
}

/**
 * A root key in the token as the wire has it: the current one that tenants share, unless `facts`
 * say otherwise.
 */
export function wireTokenKey(name: string, facts: object = {}) {
  return {
    name,
    role: 'TOKEN_OBJECT_ROLE_ROOT',
    state: 'TOKEN_KEY_STATE_CURRENT',
    createTime: { seconds: 1_700_000_000, nanos: 0 },
    activateTime: { seconds: 1_700_000_002, nanos: 0 },
    retireTime: null,
    destroyTime: null,
    caller: 'spiffe://acme/admin',
    rewrapJob: 'tenants/system/rewrapJobs/018f0000',
    keyVersions: 2 ** 40,
    sealedRecords: 2 ** 41,
    ...facts,
  };
}

/**
 * A role binding as the wire has it: a principal's for some keys under each kind of condition,
 * unless `facts` say otherwise.
 */
export function wireRoleBinding(name: string, facts: object = {}) {
  return {
    name,
    principal: 'spiffe://acme/orders',
    role: 'roles/decrypter',
    keyPattern: 'orders-*',
    allTenants: false,
    expireTime: { seconds: 1_800_000_000, nanos: 0 },
    conditions: [
      { contextKey: 'use', equals: '' },
      { contextKey: 'region', oneOf: { values: ['eu', 'us'] } },
      { contextKey: 'conversation', claim: { path: ['chat', 'id'] } },
    ],
    overrideSeparationOfDuties: false,
    description: 'for orders',
    createTime: { seconds: 1_700_000_000, nanos: 0 },
    creator: 'spiffe://acme/admin',
    ...facts,
  };
}

/**
 * A token's status as the wire has it: a root key of which one attribute is violated, and a key
 * that nobody knows.
 */
export function wireTokenStatus() {
  return {
    environmentUid: '018f0000-0000-4000-8000-000000000009',
    module: { description: 'Implementation of PKCS11', version: '2.6', manufacturer: 'SoftHSM' },
    label: 'keyward',
    serialNumber: '0123',
    manufacturer: 'SoftHSM project',
    model: 'SoftHSM v2',
    firmwareVersion: '2.6',
    hardwareVersion: '2.5',
    profile: {
      keyType: 'CKK_GENERIC_SECRET',
      wrapMechanism: 'CKM_AES_KEY_WRAP (RFC 3394)',
      attributeOrder: 'CKA_MODIFIABLE last when unwrapping',
      valueLength: false,
      allowedMechanisms: true,
      unsupportedAttributes: ['copyable'],
    },
    objects: [
      {
        uid: '018f0000-0000-4000-8000-00000000000a',
        role: 'TOKEN_OBJECT_ROLE_ROOT',
        current: true,
        condition: 'TOKEN_OBJECT_CONDITION_FOUND',
        attributes: [
          { name: 'keyType', requiredValue: 'CKK_AES', state: 'TOKEN_ATTRIBUTE_STATE_ENFORCED' },
          { name: 'copyable', requiredValue: 'false', state: 'TOKEN_ATTRIBUTE_STATE_WAIVED' },
          { name: 'extractable', requiredValue: 'false', state: 'TOKEN_ATTRIBUTE_STATE_VIOLATED' },
        ],
        keyVersions: 2 ** 40,
        tenant: 'tenants/acme',
        toDo: 'Nothing is under it: keyward-server token destroy-key',
      },
      {
        uid: '018f0000-0000-4000-8000-00000000000b',
        role: 'TOKEN_OBJECT_ROLE_SEAL',
        current: false,
        condition: 'TOKEN_OBJECT_CONDITION_MISSING',
        attributes: [],
        keyVersions: 0,
        tenant: 'tenants/system',
        toDo: '',
      },
    ],
    unrecordedObjects: [{ uid: '00ff', label: 'keyward root elsewhere' }],
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

/**
 * Starts a fake on a free port of 127.0.0.1, or on `port`; methods without a handler answer
 * UNIMPLEMENTED.
 */
export async function startFakeService(
  handlers: Readonly<Record<string, Handler>>,
  {
    port = 0,
    ips = ['127.0.0.1'],
    dns = [],
    ca = createCertificateAuthority('Fake CA'),
    wantsCertificate = true,
  }: {
    port?: number;
    ips?: readonly string[];
    dns?: readonly string[];
    ca?: CertificateAuthority;
    wantsCertificate?: boolean;
  } = {},
): Promise<FakeService> {
  const own = ca.issue({ subject: 'fake', usage: 'server', ips, dns });
  const client = ca.issue({ subject: 'test', usage: 'client' });
  const calls = new Map<string, number>();
  const server = new grpc.Server();
  for (const [, service] of SERVICES) {
    server.addService(
      service as unknown as grpc.ServiceDefinition,
      implementation(service, handlers, calls),
    );
  }
  const credentials = grpc.ServerCredentials.createSsl(
    Buffer.from(ca.certPem),
    [{ private_key: Buffer.from(own.keyPem), cert_chain: Buffer.from(own.certPem) }],
    wantsCertificate,
  );
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, credentials, (error, at) =>
      error ? reject(error) : resolve(at),
    );
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
  const handle = (name: string, call: Call) => {
    calls.set(name, (calls.get(name) ?? 0) + 1);
    const handler = handlers[name];
    if (handler === undefined) throw { code: grpc.status.UNIMPLEMENTED };
    return handler(call.request as Record<string, unknown>, call);
  };
  const unary = (name: string): grpc.handleUnaryCall<unknown, unknown> => {
    return async (call, callback) => {
      try {
        callback(null, checked(await handle(name, call)));
      } catch (error) {
        callback(error as Partial<grpc.StatusObject>);
      }
    };
  };
  const streaming = (name: string): grpc.handleServerStreamingCall<unknown, unknown> => {
    return async (call) => {
      try {
        for await (const answer of handle(name, call) as AsyncIterable<unknown>) call.write(answer);
        call.end();
      } catch (error) {
        call.emit('error', error);
      }
    };
  };
  return Object.fromEntries(
    Object.entries(service).map(([name, { responseStream }]) => [
      name,
      responseStream ? streaming(name) : unary(name),
    ]),
  );
}
