/**
 * What is measured: each kind of call with its encoded requests, and what an answer to it must look
 * like.
 *
 * Owns the sizes: payloads of 1 KiB, data keys of 32 bytes, batches of 100 items, contexts of two
 * entries, one tenant with two keys, and its neighbour with one. Knows no time.
 */
import { randomBytes } from 'node:crypto';
import type { MethodDefinition } from '@grpc/grpc-js';
import { serviceDefinition } from '../src/faces/contract/proto.ts';
import { ECHO_PATH } from './load-protocol.ts';

export const PAYLOAD_BYTES = 1024;
export const BATCH_ITEMS = 100;
/** Different requests of each kind, sent in turn. */
const VARIANTS = 8;

/** Whose keys are measured. */
export const TENANT = 'bench';
const PARENT = `tenants/${TENANT}`;
const KEY = `${PARENT}/keys/first`;
const OTHER_KEY = `${PARENT}/keys/second`;
/** What Encrypt brings. */
export const CONTEXT = {
  purpose: 'customer-records',
  record: '5a2f6c1e-3d0b-4c55-9a36-0f3f6a0c7d11',
};
const OTHER_CONTEXT = { ...CONTEXT, purpose: 'customer-archive' };

/** A kind of call, ready to be sent. */
export interface Workload {
  readonly name: string;
  readonly path: string;
  readonly requests: readonly Buffer[];
  /** What the caller has besides a certificate. */
  readonly token?: string;
  /** Whether the requests are JSON, for the HTTP listener. */
  readonly isJson?: boolean;
  /** How many items a call has; 1 but for batches. */
  readonly items: number;
  /** The workload whose items these are, one by one. */
  readonly unary?: string;
  /** Throws unless the answer is a good one. */
  readonly check: (answer: Buffer) => void;
}

/** Sends requests one after another and returns the last one's answer. */
export type Sender = (path: string, requests: readonly Buffer[]) => Promise<Buffer>;

type Message = Readonly<Record<string, unknown>>;

/** The method `keyward.v1.EncryptionService/Encrypt`, say. */
function methodOf(service: string, name: string): MethodDefinition<object, object> {
  const method = serviceDefinition(`keyward.v1.${service}`)[name];
  if (method === undefined) throw new Error(`proto/ has no ${service}.${name}`);
  return method as MethodDefinition<object, object>;
}

function unary(
  name: string,
  messages: readonly Message[],
  service = 'EncryptionService',
): Workload {
  const { path, requestSerialize, responseDeserialize } = methodOf(service, name);
  const check = (answer: Buffer) => void responseDeserialize(answer);
  return { name, path, requests: messages.map(requestSerialize), items: 1, check };
}

function batch(name: string, messages: readonly Message[], shared: Message = {}): Workload {
  const { path, requestSerialize, responseDeserialize } = methodOf(
    'EncryptionService',
    `Batch${name}`,
  );
  const items = Array.from(
    { length: BATCH_ITEMS },
    (_, index) => messages[index % messages.length] as Message,
  );
  const check = (answer: Buffer) => {
    const { results } = responseDeserialize(answer) as {
      results: { response?: object; error?: object }[];
    };
    const bad = results.find(({ response }) => !response);
    if (results.length !== BATCH_ITEMS || bad)
      throw new Error(`Batch${name}: ${JSON.stringify(bad?.error)}`);
  };
  return {
    name: `Batch${name}`,
    path,
    requests: [requestSerialize({ parent: PARENT, ...shared, requests: items })],
    items: BATCH_ITEMS,
    unary: name,
    check,
  };
}

/**
 * Makes the tenant and its keys, and every workload: the floor apart, then the calls, then their
 * batches.
 */
export async function prepareWorkloads(
  send: Sender,
): Promise<{ floor: Workload; calls: Workload[] }> {
  const admin = unary('CreateTenant', [{ tenantId: TENANT }], 'AdminService');
  await send(admin.path, admin.requests);
  const keys = createKeys(['first', 'second']);
  await send(keys.path, keys.requests);

  const plaintexts = Array.from({ length: VARIANTS }, () => randomBytes(PAYLOAD_BYTES));
  const encrypts = plaintexts.map((plaintext) => ({
    name: KEY,
    plaintext,
    encryptionContext: CONTEXT,
  }));
  const encrypt = unary('Encrypt', encrypts);
  const ciphertexts: Buffer[] = [];
  for (const request of encrypt.requests) {
    const answer = methodOf('EncryptionService', 'Encrypt').responseDeserialize(
      await send(encrypt.path, [request]),
    );
    ciphertexts.push((answer as { ciphertext: Buffer }).ciphertext);
  }
  const decrypts = ciphertexts.map((ciphertext) => ({
    parent: PARENT,
    ciphertext,
    encryptionContext: CONTEXT,
  }));
  const dataKeys = [{ name: KEY, encryptionContext: CONTEXT, length: 32 }];
  const reEncrypts = ciphertexts.map((ciphertext) => ({
    name: OTHER_KEY,
    ciphertext,
    sourceEncryptionContext: CONTEXT,
    destinationEncryptionContext: OTHER_CONTEXT,
  }));
  const kinds = {
    Encrypt: encrypts,
    Decrypt: decrypts,
    GenerateDataKey: dataKeys,
    ReEncrypt: reEncrypts,
  };
  const names = Object.entries(kinds);
  return {
    floor: { ...encrypt, name: 'floor', path: ECHO_PATH, check: () => {} },
    calls: [
      ...names.map(([name, messages]) => unary(name, messages)),
      ...names.map(([name, messages]) => batch(name, messages)),
    ],
  };
}

const SMALL_BYTES = 32;

/**
 * Batches of small items whose context the batch has: to be encrypted, and to be decrypted and
 * re-encrypted as one batch made them; and to be decrypted as so many calls made them.
 */
export async function prepareSmallBatches(send: Sender): Promise<Workload[]> {
  const plaintexts = Array.from({ length: BATCH_ITEMS }, () => randomBytes(SMALL_BYTES));
  const items = plaintexts.map((plaintext) => ({ name: KEY, plaintext }));
  const encrypt = batch('Encrypt', items, { encryptionContext: CONTEXT });
  const { responseDeserialize } = methodOf('EncryptionService', 'BatchEncrypt');
  const { results } = responseDeserialize(await send(encrypt.path, encrypt.requests)) as {
    results: { response: { ciphertext: Buffer } }[];
  };
  const made = results.map(({ response: { ciphertext } }) => ciphertext);
  const alone: Buffer[] = [];
  for (const message of items) {
    const single = unary('Encrypt', [{ ...message, encryptionContext: CONTEXT }]);
    const answer = methodOf('EncryptionService', 'Encrypt').responseDeserialize(
      await send(single.path, single.requests),
    );
    alone.push((answer as { ciphertext: Buffer }).ciphertext);
  }
  const toDecrypt = (ciphertext: Buffer) => ({ parent: PARENT, ciphertext });
  const shared = { encryptionContext: CONTEXT };
  const moved = {
    sourceEncryptionContext: CONTEXT,
    destinationEncryptionContext: OTHER_CONTEXT,
  };
  const reEncrypts = made.map((ciphertext) => ({ name: OTHER_KEY, ciphertext }));
  return [
    encrypt,
    batch('Decrypt', made.map(toDecrypt), shared),
    batch('ReEncrypt', reEncrypts, moved),
    { ...batch('Decrypt', alone.map(toDecrypt), shared), name: 'BatchDecrypt, encrypted singly' },
  ];
}

/** Encrypt as JSON, of the same requests. */
export function encryptAsJson({ path, requests, ...encrypt }: Workload, name: string): Workload {
  const { requestDeserialize } = methodOf('EncryptionService', 'Encrypt');
  const inJson = (request: Buffer) => {
    const message = requestDeserialize(request) as { readonly plaintext: Buffer };
    const plaintext = message.plaintext.toString('base64');
    return Buffer.from(JSON.stringify({ ...message, plaintext }));
  };
  const check = (answer: Buffer) => {
    const { ciphertext } = JSON.parse(answer.toString()) as { readonly ciphertext?: unknown };
    if (typeof ciphertext !== 'string') throw new Error(`${name}: no ciphertext`);
  };
  return { ...encrypt, name, path, requests: requests.map(inJson), isJson: true, check };
}

/** CreateKey, once for each id. */
export function createKeys(ids: readonly string[]): Workload {
  const messages = ids.map((keyId) => ({ parent: PARENT, keyId }));
  return unary('CreateKey', messages, 'KeyService');
}

/**
 * Makes another tenant, which may make so many calls each second; returns what it sends, Encrypt.
 */
export async function prepareNeighbour(send: Sender, callsPerSecond: number): Promise<Workload> {
  const key = await prepareTenant(send, 'neighbour', callsPerSecond);
  const message = {
    name: `${key.parent}/keys/only`,
    plaintext: randomBytes(PAYLOAD_BYTES),
    encryptionContext: CONTEXT,
  };
  return unary('Encrypt', [message]);
}

/** Makes a tenant that may have so many items done each second; returns its large batches. */
export async function prepareLargeBatches(
  send: Sender,
  itemsPerSecond: number,
  bytes: number,
): Promise<Workload> {
  const key = await prepareTenant(send, 'heavy', itemsPerSecond);
  const item = { name: `${key.parent}/keys/only`, plaintext: randomBytes(bytes) };
  return batch('Encrypt', [item], { ...key, encryptionContext: CONTEXT });
}

/** Makes a tenant with a quota and one key, `only`. */
async function prepareTenant(send: Sender, tenantId: string, callsPerSecond: number) {
  const parent = `tenants/${tenantId}`;
  const made = [
    unary('CreateTenant', [{ tenantId }], 'AdminService'),
    unary('CreateKey', [{ parent, keyId: 'only' }], 'KeyService'),
    unary(
      'UpdateTenant',
      [{ tenant: { name: parent, quotas: { callsPerSecond } }, updateMask: { paths: ['quotas'] } }],
      'AdminService',
    ),
  ];
  for (const { path, requests } of made) await send(path, requests);
  return { parent };
}

/** CreateTenant, once for each id. */
export function createTenants(ids: readonly string[]): Workload {
  const messages = ids.map((tenantId) => ({ tenantId }));
  return unary('CreateTenant', messages, 'AdminService');
}

/** Encrypt, once under each of these keys of the bench's tenant. */
export function firstUses(ids: readonly string[]): Workload {
  const names = ids.map((id) => `${PARENT}/keys/${id}`);
  return { ...encryptUnder(names), name: 'Encrypt, key not loaded' };
}

/** Encrypt, under each of these keys in turn. */
export function encryptUnder(names: readonly string[]): Workload {
  const plaintext = randomBytes(PAYLOAD_BYTES);
  return unary(
    'Encrypt',
    names.map((name) => ({ name, plaintext, encryptionContext: CONTEXT })),
  );
}
