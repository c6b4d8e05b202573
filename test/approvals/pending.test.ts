/**
 * Pending operations over the wire: asked for, looked at, decided on, and done once.
 */
import assert from 'node:assert/strict';
import { createPublicKey, hash, randomUUID, verify } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { keepHouse } from '../../src/store/housekeeping.ts';
import { Store } from '../../src/store/store.ts';
import { RELEASE } from '../store/database.ts';
import { eventually } from '../support/kit.ts';
import { idsOf, resealStates, sql } from '../support/reconciling.ts';
import { idOf, type Operation, People, type Person } from './people.ts';

const DESTROY = 'KeyService/ScheduleKeyDestruction';
const APPROVE = 'ApprovalService/ApproveOperation';
const MAX_OWN = 10;
const MAX_OF_TENANT = 100;

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

describe('a call that a rule wants approved', () => {
  it('waits for another person, who approves it, and is done then, once', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const from = people.rig.service.log.length;
    const name = await people.ask(anna, key);
    await people.rig.service.logged(
      (line) => line['alert'] === 'operation-pending' && line['subject'] === name,
      from,
    );
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
    const operation = await people.get(name, bert.caller);
    assert.equal(operation.state, 'PENDING_OPERATION_STATE_PENDING');
    assert.equal(operation.requester, anna.name);
    assert.deepEqual(JSON.parse(operation.request.toString()).name, key);
    const preview = JSON.parse(operation.preview.toString());
    assert.equal(preview.impact.keyVersions, 1);

    await people.decided(bert, name);
    const done = await people.until(name, 'DONE');
    assert.equal(await people.stateOf(key), 'KEY_STATE_DESTROY_SCHEDULED');
    assert.deepEqual(
      done.decisions.map(({ approver, decision }) => ({ approver, decision })),
      [{ approver: bert.name, decision: 'DECISION_APPROVE' }],
    );
    const entries = await people.entries(name);
    assert.deepEqual(
      entries.map(({ caller, method, outcome }) => ({ caller, method: last(method), outcome })),
      [
        { caller: anna.name, method: 'ScheduleKeyDestruction', outcome: 'APPROVAL_REQUIRED' },
        { caller: bert.name, method: 'ApproveOperation', outcome: 'OK' },
        { caller: anna.name, method: 'ScheduleKeyDestruction', outcome: 'OK' },
        { caller: 'keyward', method: 'EndOperation', outcome: 'OK' },
      ],
    );
    assert.deepEqual(JSON.parse(entries[2]?.detail ?? '').approvers, [bert.name]);
  });

  it('leaves evidence that proves the approval by itself', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const name = await people.ask(anna, await people.key(tenant));
    await people.decided(bert, name);
    const done = await people.until(name, 'DONE');
    const entry = (await people.entries(name)).find(({ caller }) => caller === bert.name);
    const { evidence } = JSON.parse(entry?.detail ?? '{}');
    assert.equal(evidence.operation, name);
    assert.equal(evidence.requester, anna.name);
    assert.equal(evidence.approver, bert.name);
    const bytes = (member: string) => Buffer.from(evidence[member], 'base64url');
    assert.deepEqual(bytes('request'), done.request);
    assert.deepEqual(bytes('requestDigest'), hash('sha256', done.request, 'buffer'));
    const clientData = bytes('clientDataJson');
    const signed = Buffer.concat([
      bytes('authenticatorData'),
      hash('sha256', clientData, 'buffer'),
    ]);
    const key = createPublicKey({ key: bytes('publicKey'), format: 'der', type: 'spki' });
    assert.ok(verify('sha256', signed, key, bytes('signature')));
    const expected = challengeFrom(evidence, done.environmentId);
    assert.equal(JSON.parse(clientData.toString()).challenge, expected.toString('base64url'));
  });

  it('is one operation however often it is asked for, and another once it has ended', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const first = await people.ask(anna, key);
    assert.equal(await people.ask(anna, key), first);
    const [other, another] = [await people.requester(tenant), await people.key(tenant)];
    assert.notEqual(await people.ask(other, key), first);
    assert.notEqual(await people.ask(anna, another), first);
    await people.decided(bert, first, 'reject');
    assert.notEqual(await people.ask(anna, key), first);
  });

  it('is answered by what was done when it comes with the operation’s id', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const request = await people.destruction(key);
    const name = await people.ask(anna, key);
    await people.decided(bert, name);
    await people.until(name, 'DONE');
    const requestId = name.slice(name.lastIndexOf('/') + 1);
    const answer = await people.rig.done(DESTROY, { ...request, requestId }, anna.caller);
    assert.ok(answer['impact']);
  });

  it('is not kept waiting where it would fail at once, or where it only looks', async () => {
    const tenant = await people.tenant();
    const anna = await people.requester(tenant);
    const key = await people.key(tenant);
    const asked = await people.destruction(key);
    const ask = async (changes: object) =>
      (await people.rig.ask(anna.caller, DESTROY, { ...asked, ...changes })).reason;
    assert.equal(await ask({ etag: 'other' }), 'ETAG_MISMATCH');
    assert.equal(await ask({ etag: '' }), 'INVALID_FIELD');
    assert.equal(await ask({ name: `${key}x` }), 'RESOURCE_NOT_FOUND');
    assert.equal(await ask({ validateOnly: true }), 'OK');
    assert.deepEqual(await list(tenant), []);
  });

  it('is refused as ever where its caller may not do it', async () => {
    const tenant = await people.tenant();
    const bert = await people.approver(tenant);
    const request = await people.destruction(await people.key(tenant));
    const { reason } = await people.rig.ask(bert.caller, DESTROY, request);
    assert.equal(reason, 'PERMISSION_MISSING');
    assert.deepEqual(await list(tenant), []);
  });

  it('is done at once for a caller that the rule exempts', async () => {
    const name = 'spiffe://keyward.test/batch';
    const tenant = await people.tenant({ exemptPrincipals: [name] });
    await people.rig.bind(tenant, name, 'keyAdmin');
    const request = await people.destruction(await people.key(tenant));
    await people.rig.done(DESTROY, request, people.rig.certified(name));
    assert.deepEqual(await list(tenant), []);
  });

  it('is refused when ten of the caller’s wait, until one is cancelled', async () => {
    const tenant = await people.tenant();
    const anna = await people.requester(tenant);
    const names = [];
    for (let each = 0; each < MAX_OWN; each += 1)
      names.push(await people.ask(anna, await people.key(tenant)));
    const key = await people.key(tenant);
    const request = await people.destruction(key);
    const { reason } = await people.rig.ask(anna.caller, DESTROY, request);
    assert.equal(reason, 'PENDING_OPERATIONS_FULL');
    await cancel(anna, names[0] ?? '');
    await people.ask(anna, key);
  });

  it('is refused when a hundred wait in its tenant, until one of them has ended', async () => {
    const [tenant, other] = [await people.tenant(), await people.tenant()];
    const requests: object[] = [];
    for (let each = 0; each < MAX_OWN; each += 1)
      requests.push(await people.destruction(await people.key(tenant)));
    const ask = async ({ caller }: Person, request = requests[0]) =>
      people.rig.ask(caller, DESTROY, request);
    const waiting = new Set<string>();
    for (let asked = 0; asked < MAX_OF_TENANT / MAX_OWN; asked += 1) {
      const requester = await people.requester(tenant);
      for (const request of requests) {
        const { metadata, message } = await ask(requester, request);
        assert.ok(metadata['operation'], message);
        waiting.add(metadata['operation']);
      }
    }
    assert.equal(waiting.size, MAX_OF_TENANT);
    const anna = await people.requester(tenant);
    assert.equal((await ask(anna)).reason, 'PENDING_OPERATIONS_FULL');
    // Each tenant has its own.
    await people.ask(await people.requester(other), await people.key(other));
    const [first = ''] = waiting;
    await people.decided(await people.approver(tenant), first, 'reject');
    assert.equal((await ask(anna)).reason, 'APPROVAL_REQUIRED');
    assert.equal((await ask(await people.requester(tenant))).reason, 'PENDING_OPERATIONS_FULL');
  });
});

describe('a pending operation', () => {
  it('case 31: is not approved by its requester, whatever role and passkey they have', async () => {
    const tenant = await people.tenant();
    const anna = await people.person(tenant, ['keyAdmin', 'approver'], 2);
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    for (const credential of anna.credentials) {
      const { reason } = await people.decide(anna, name, 'approve', { credential });
      assert.equal(reason, 'OWN_OPERATION');
    }
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_PENDING');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  });

  it('wants as many people as the rule says, each of whom counts once', async () => {
    const tenant = await people.tenant({ approvals: 2 });
    const anna = await people.requester(tenant);
    const bert = await people.person(tenant, ['approver'], 2);
    const cora = await people.approver(tenant);
    const name = await people.ask(anna, await people.key(tenant));
    await people.decided(bert, name);
    for (const credential of bert.credentials) {
      const { reason } = await people.decide(bert, name, 'approve', { credential });
      assert.equal(reason, 'ALREADY_DECIDED');
    }
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_PENDING');
    await people.decided(cora, name);
    await people.until(name, 'DONE');
  });

  it('is approved only by those whom the rule names, and who have the permission', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const cora = await people.person(tenant, ['approver'], 1);
    const others = [cora.name, 'spiffe://keyward.test/other'];
    await people.setRules(tenant, [{ approvers: others.map((each) => `principal:${each}`) }]);
    const name = await people.ask(anna, await people.key(tenant));
    assert.equal((await people.decide(bert, name)).reason, 'APPROVER_NOT_NAMED');
    const dora = await people.person(tenant, ['tenantAdmin'], 1);
    assert.equal((await people.decide(dora, name)).reason, 'PERMISSION_MISSING');
    await people.decided(cora, name);
    await people.until(name, 'DONE');
  });

  it('is not done once someone has rejected it', async () => {
    const tenant = await people.tenant({ approvals: 2 });
    const anna = await people.requester(tenant);
    const [bert, cora] = [await people.approver(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    await people.decided(bert, name);
    await people.decided(cora, name, 'reject');
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_REJECTED');
    const dora = await people.approver(tenant);
    assert.equal((await people.decide(dora, name)).reason, 'OPERATION_NOT_PENDING');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
  });

  it('is cancelled by its requester, and by nobody else', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const name = await people.ask(anna, await people.key(tenant));
    assert.equal((await cancel(bert, name)).reason, 'PERMISSION_MISSING');
    assert.equal((await cancel(anna, name)).reason, 'OK');
    assert.equal((await people.decide(bert, name)).reason, 'OPERATION_NOT_PENDING');
    assert.equal((await cancel(anna, name)).reason, 'OPERATION_NOT_PENDING');
  });

  it('takes a signature for itself, for this decision, and for no other', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    const other = await people.get(await people.ask(await people.requester(tenant), key));
    const { reason } = await people.decide(bert, name, 'approve', { signs: other });
    assert.equal(reason, 'ASSERTION_NOT_ACCEPTED');
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_PENDING');
  });

  it('answers an approval that is sent again as it did then', async () => {
    const tenant = await people.tenant({ approvals: 2 });
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const name = await people.ask(anna, await people.key(tenant));
    const requestId = randomUUID();
    await people.decided(bert, name, 'approve', { requestId });
    const { reason } = await people.decide(bert, name, 'approve', { requestId });
    // Another signature, so another request.
    assert.equal(reason, 'REQUEST_ID_REUSED');
    assert.equal((await people.get(name)).decisions.length, 1);
  });

  it('counts an approval once that is sent again byte for byte, whatever became of it', async () => {
    const tenant = await people.tenant({ approvals: 2 });
    const anna = await people.requester(tenant);
    const [bert, cora] = [await people.approver(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    const assertion = await people.signed(bert, name, 'approve');
    const request = { name, assertion, requestId: randomUUID() };
    const first = await people.rig.done(APPROVE, request, bert.caller);
    assert.equal(first['state'], 'PENDING_OPERATION_STATE_PENDING');
    assert.deepEqual(await people.rig.done(APPROVE, request, bert.caller), first);
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_PENDING');
    await people.decided(cora, name);
    const done = await people.until(name, 'DONE');
    assert.equal(done.decisions.length, 2);
    assert.deepEqual(await people.rig.done(APPROVE, request, bert.caller), first);
    const counted = (await people.entries(name)).filter(
      ({ caller, method, change }) =>
        caller === bert.name && last(method) === 'ApproveOperation' && change !== null,
    );
    assert.equal(counted.length, 1);
    // Without its request id it is another approval of theirs.
    const { reason } = await people.rig.ask(bert.caller, APPROVE, { name, assertion });
    assert.equal(reason, 'OPERATION_NOT_PENDING');
  });

  it('takes no decision whose authenticator did not verify who signs', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const key = await people.key(tenant);
    const name = await people.ask(anna, key);
    for (const decision of ['approve', 'reject'] as const) {
      const unverified = { userVerified: false };
      const { reason, metadata } = await people.decide(bert, name, decision, unverified);
      assert.equal(reason, 'ASSERTION_NOT_ACCEPTED');
      assert.equal(metadata['problem'], 'userNotVerified');
    }
    assert.deepEqual((await people.get(name)).decisions, []);
    assert.equal((await people.get(name)).state, 'PENDING_OPERATION_STATE_PENDING');
    assert.equal(await people.stateOf(key), 'KEY_STATE_ENABLED');
    await people.decided(bert, name);
    await people.until(name, 'DONE');
  });

  it('is seen in its tenant alone', async () => {
    const [tenant, other] = [await people.tenant(), await people.tenant()];
    const [anna, bert] = [await people.requester(tenant), await people.approver(other)];
    const name = await people.ask(anna, await people.key(tenant));
    const get = (asked: string) =>
      people.rig.ask(bert.caller, 'ApprovalService/GetPendingOperation', { name: asked });
    assert.equal((await get(name)).reason, 'RESOURCE_NOT_FOUND');
    assert.equal((await get(name.replace(tenant, other))).reason, 'RESOURCE_NOT_FOUND');
    assert.equal((await people.decide(bert, name)).reason, 'RESOURCE_NOT_FOUND');
  });

  it('is listed, the newest first, page by page and by state', async () => {
    const tenant = await people.tenant();
    const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
    const names = [];
    for (let each = 0; each < 3; each += 1)
      names.push(await people.ask(anna, await people.key(tenant)));
    await people.decided(bert, names[1] ?? '', 'reject');
    assert.deepEqual(await list(tenant), names.toReversed());
    assert.deepEqual(await list(tenant, { filter: 'state = REJECTED' }), [names[1]]);
    assert.deepEqual(await list(tenant, { filter: `requester = "${bert.name}"` }), []);
    const page = await people.rig.done('ApprovalService/ListPendingOperations', {
      ...{ parent: `tenants/${tenant}`, pageSize: 2 },
    });
    const pageToken = page['nextPageToken'];
    assert.deepEqual(await list(tenant, { pageSize: 2, pageToken }), [names[0]]);
  });
});

it('a watch has what waits, then each that is new or has changed', async () => {
  const tenant = await people.tenant();
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const first = await people.ask(anna, await people.key(tenant));
  const ending = new AbortController();
  const seen: string[] = [];
  const client = people.rig.service.client();
  const watched = client.watchPendingOperations(
    { parent: `tenants/${tenant}` },
    { signal: ending.signal },
  );
  const watching = (async () => {
    for await (const { name, state } of watched) seen.push(`${name} ${state}`);
  })().catch(() => {});
  const sees = (line: string) => eventually(() => assert.ok(seen.includes(line), line));
  await sees(`${first} PENDING`);
  const second = await people.ask(anna, await people.key(tenant));
  await sees(`${second} PENDING`);
  await people.decided(bert, first, 'reject');
  await sees(`${first} REJECTED`);
  assert.equal(seen.filter((line) => line === `${second} PENDING`).length, 1);
  ending.abort();
  await watching;
});

it('what the service does by schedule waits for nobody', async () => {
  const tenant = await people.tenant();
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const key = await people.key(tenant);
  const name = await people.ask(anna, key);
  await people.decided(bert, name);
  await people.until(name, 'DONE');
  const { environment } = people.rig;
  const { keyId } = await idsOf(environment, key);
  const due = "UPDATE keys SET destroy_at = now() - interval '1 s' WHERE key_id = $1";
  await sql(environment, due, [keyId]);
  await resealStates(environment, 'k.key_id = ANY ($1)', [[keyId]]);
  await eventually(async () => assert.equal(await people.stateOf(key), 'KEY_STATE_DESTROYED'));
});

it('a call that nobody approves in time is over, and stays undone', async () => {
  await using short = await People.start({ KEYWARD_APPROVAL_SECONDS: '1' });
  const tenant = await short.tenant();
  const [anna, bert] = [await short.requester(tenant), await short.approver(tenant)];
  const key = await short.key(tenant);
  const name = await short.ask(anna, key);
  await short.until(name, 'EXPIRED');
  assert.equal((await short.decide(bert, name)).reason, 'OPERATION_NOT_PENDING');
  assert.equal(await short.stateOf(key), 'KEY_STATE_ENABLED');
});

it('an operation is kept for 90 days after it ended, with what was decided, and then removed', async () => {
  const tenant = await people.tenant();
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const ended = async () => {
    const name = await people.ask(anna, await people.key(tenant));
    await people.decided(bert, name, 'reject');
    return name;
  };
  const [old, recent] = [await ended(), await ended()];
  const open = await people.ask(anna, await people.key(tenant));
  const { environment } = people.rig;
  for (const [name, days] of [
    [old, '90.1'],
    [recent, '89.9'],
  ] as const)
    await sql(
      environment,
      `UPDATE pending_operations SET ended_at = ended_at - $2 * interval '1 day'
       WHERE operation_id = $1`,
      [idOf(name), days],
    );
  await keptHouse();
  assert.deepEqual(await list(tenant), [open, recent]);
  const get = (name: string) =>
    people.rig.ask(bert.caller, 'ApprovalService/GetPendingOperation', { name });
  assert.equal((await get(old)).reason, 'RESOURCE_NOT_FOUND');
  assert.equal((await people.get(recent)).decisions.length, 1);
  const decisions = await sql(
    environment,
    'SELECT operation_id AS id FROM operation_decisions WHERE operation_id = ANY ($1)',
    [[idOf(old), idOf(recent)]],
  );
  assert.deepEqual(decisions, [{ id: idOf(recent) }]);
});

/** Has what every replica does every ten minutes done now, with a replica’s rights. */
async function keptHouse(): Promise<void> {
  const store = await Store.open({
    ...{ url: people.rig.environment.urls.service, poolSize: 1, waitMs: 300, release: RELEASE },
    onError() {},
  });
  try {
    await keepHouse(store);
  } finally {
    await store.close();
  }
}

function cancel(person: Person, name: string) {
  return people.rig.ask(person.caller, 'ApprovalService/CancelOperation', { name });
}

async function list(tenant: string, changes: object = {}): Promise<string[]> {
  const answer = await people.rig.done('ApprovalService/ListPendingOperations', {
    ...{ parent: `tenants/${tenant}`, ...changes },
  });
  return (answer['pendingOperations'] as Operation[]).map(({ name }) => name);
}

const last = (method: string) => method.slice(method.lastIndexOf('/') + 1);

/** The challenge, put together from the evidence as docs/approvals.md has it. */
function challengeFrom(evidence: Readonly<Record<string, string>>, environment: string): Buffer {
  const uuid = (text: string) => Buffer.from(text.replaceAll('-', ''), 'hex');
  const sized = (text = '') => {
    const length = Buffer.alloc(2);
    length.writeUInt16BE(Buffer.byteLength(text));
    return Buffer.concat([length, Buffer.from(text)]);
  };
  const end = Buffer.alloc(9);
  end.writeUInt8(evidence['decision'] === 'approve' ? 1 : 2);
  end.writeBigUInt64BE(BigInt(Date.parse(evidence['expiresAt'] ?? '')), 1);
  const { operation = '', requestDigest = '' } = evidence;
  const parts = [
    Buffer.from('keyward/v1/approval\0'),
    uuid(environment),
    uuid(operation.slice(operation.lastIndexOf('/') + 1)),
    sized(evidence['method']),
    Buffer.from(requestDigest, 'base64url'),
    sized(evidence['requester']),
    end,
  ];
  return hash('sha256', Buffer.concat(parts), 'buffer');
}
