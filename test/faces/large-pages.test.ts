/**
 * Lists of things that are as large as they may be: pages end early, so that no answer is larger
 * than clients take by default, and lead through the whole list all the same.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import type { MethodDefinition } from '@grpc/grpc-js';
import { serviceDefinition } from '../../src/faces/contract/proto.ts';
import { call, grpcFrame, openSession } from '../faults/http2.ts';
import { type HostileService, KEY, PARENT, startHostile } from '../hostile/service.ts';
import { eventually } from '../support/kit.ts';

const LIMIT = 4_194_304;

type Message = Readonly<Record<string, unknown>>;

let hostile: HostileService;

before(async () => {
  hostile = await startHostile({ KEYWARD_DEADLINE_MS: '120000' });
});

after(() => hostile?.[Symbol.asyncDispose]());

/** The messages that a method answers with, and how long each is. */
async function ask(
  service: string,
  name: string,
  request: object,
): Promise<{ message: Message; bytes: number }[]> {
  const method = serviceDefinition(`keyward.v1.${service}`)[name] as MethodDefinition<
    object,
    Message
  >;
  using session = openSession(hostile.peer);
  const body = [grpcFrame(method.requestSerialize(request))];
  const answer = await call(session, { path: method.path, body });
  assert.equal(answer.status, 0, `${name}: ${answer.message}`);
  const messages: { message: Message; bytes: number }[] = [];
  for (let rest = answer.body; rest.length > 0; ) {
    const bytes = rest.readUInt32BE(1);
    messages.push({ message: method.responseDeserialize(rest.subarray(5, 5 + bytes)), bytes });
    rest = rest.subarray(5 + bytes);
  }
  return messages;
}

/**
 * All of a list by the largest pages there are, of which there are several and none is too large.
 */
async function listed(
  service: string,
  name: string,
  field: string,
  request: object,
): Promise<Message[]> {
  const found: Message[] = [];
  const pages: number[] = [];
  let pageToken = '';
  do {
    const [page] = await ask(service, name, { ...request, pageSize: 1_000, pageToken });
    assert.ok(page);
    pages.push(page.bytes);
    found.push(...(page.message[field] as Message[]));
    pageToken = String(page.message['nextPageToken']);
  } while (pageToken !== '');
  assert.ok(pages.length > 1, `one page of ${pages} bytes`);
  assert.ok(Math.max(...pages) <= LIMIT, `pages of ${pages} bytes`);
  assert.ok(Math.max(...pages) > LIMIT / 2, `pages of no more than ${pages} bytes`);
  return found;
}

/** Does so many things, some at once. */
async function repeat(count: number, work: (index: number) => Promise<unknown>): Promise<void> {
  const indices = Array.from({ length: count }).keys();
  const worker = async () => {
    for (const index of indices) await work(index);
  };
  await Promise.all(Array.from({ length: 8 }, worker));
}

test('keys with all that labels and a description may hold', async () => {
  const labels = Object.fromEntries(
    Array.from({ length: 64 }, (_, index) => [`l${index}`.padEnd(63, 'x'), '\u{1f511}'.repeat(63)]),
  );
  const description = '\u{1f511}'.repeat(1_024);
  const count = 180;
  await hostile.keyward.createTenant({ tenantId: 'large' });
  await repeat(count, (index) =>
    hostile.keyward.createKey({ parent: 'tenants/large', keyId: `k${index}`, labels, description }),
  );
  const keys = await listed('KeyService', 'ListKeys', 'keys', { parent: 'tenants/large' });
  assert.equal(new Set(keys.map(({ name }) => name)).size, count);
});

test('role bindings with conditions of many values', async () => {
  const values = Array.from({ length: 100 }, (_, index) => `${index}`.padEnd(70, 'x'));
  const condition = { contextKey: 'conversation', oneOf: { values } };
  const roleBinding = {
    role: 'roles/encrypter',
    conditions: Array.from({ length: 16 }, () => condition),
  };
  const count = 40;
  for (let index = 0; index < count; index += 1)
    await ask('AccessService', 'CreateRoleBinding', {
      parent: PARENT,
      roleBindingId: `b${index}`,
      roleBinding: { principal: `p${index}`, ...roleBinding },
    });
  const bindings = await listed('AccessService', 'ListRoleBindings', 'roleBindings', {
    parent: PARENT,
  });
  assert.equal(new Set(bindings.map(({ name }) => name)).size, count);
});

test('audit entries of batches with many contexts, listed and read: each of 64 KiB at most', async () => {
  const encryptionContext = Object.fromEntries(
    Array.from({ length: 64 }, (_, index) => [`${index}`.padStart(20, 'k'), '']),
  );
  const batch = {
    parent: PARENT,
    requests: Array.from({ length: 40 }, () => ({ name: KEY, encryptionContext })),
  };
  const count = 80;
  for (let index = 0; index < count; index += 1)
    assert.ok(
      (await hostile.keyward.batchGenerateDataKey(batch)).every((result) => 'response' in result),
    );
  const request = { parent: PARENT, filter: 'outcome = OK' };
  await eventually(async () => {
    const entries = await listed('AuditService', 'ListEntries', 'entries', request);
    const lengths = entries.map(({ leaf }) => (leaf as Buffer).length);
    assert.ok(lengths.every((length) => length <= 65_536));
    assert.equal(lengths.filter((length) => length > 50_000).length, count);
    assert.equal(new Set(entries.map(({ leafIndex }) => leafIndex)).size, entries.length);
    const treeSize = Number(entries[0]?.['leafIndex']) + 1;
    const read = await ask('AuditService', 'ReadEntries', { ...request, treeSize });
    assert.ok(read.every(({ bytes }) => bytes <= LIMIT));
    const indices = read
      .flatMap(({ message }) => message['entries'] as Message[])
      .map(({ leafIndex }) => leafIndex);
    assert.deepEqual(indices, entries.map(({ leafIndex }) => leafIndex).reverse());
  });
});
