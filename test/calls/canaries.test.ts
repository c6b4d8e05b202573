/**
 * Canaries over the wire: in form like what they lie among, opened for no caller in whatever way it
 * is tried, recognised before rights are looked at, answered as what does not open, recorded before
 * the answer leaves, reported, and their finders suspended where that is asked for.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { AccessRig, type Caller } from '../access/access-rig.ts';
import type { Outcome } from '../access/outcome.ts';
import { eventually, type LogLine, type Service, startService } from '../support/kit.ts';
import { endOf, jobOf, newId, sql } from '../support/reconciling.ts';

const ACME = 'tenants/acme';
const KEY = `${ACME}/keys/k`;
const CONTEXT = { conversation: 'c-42' };
const CIPHERTEXT = 'CANARY_KIND_CIPHERTEXT';
const WRAPPED = 'CANARY_KIND_WRAPPED_DATA_KEY';
const STORED = 'CANARY_KIND_STORED_DATA_KEY';

let rig: AccessRig;
/** Where nothing is done but what a test says. */
let other: Service;

before(async () => {
  rig = await AccessRig.start();
  other = await rig.addReplica();
});

after(() => rig?.[Symbol.asyncDispose]());

interface Laid {
  readonly name: string;
  readonly ciphertext: Buffer;
  readonly dataKey: string;
}

/** Makes a canary that both replicas know. */
async function lay(kind: string, fields: Readonly<Record<string, unknown>> = {}): Promise<Laid> {
  const { canary, ciphertext } = (await rig.done('CanaryService/CreateCanary', {
    parent: KEY,
    canaryId: newId('c'),
    kind,
    ...fields,
  })) as { canary: { name: string; dataKey: string }; ciphertext: Buffer | string };
  const bytes = typeof ciphertext === 'string' ? Buffer.from(ciphertext, 'base64') : ciphertext;
  await eventually(async () => {
    const get = { name: canary.name };
    const { reason } = await rig.ask(rig.tester, 'CanaryService/GetCanary', get, other);
    assert.equal(reason, 'OK');
  });
  return { name: canary.name, dataKey: canary.dataKey, ciphertext: bytes };
}

/** A ciphertext of a real payload that does not open in `CONTEXT`. */
async function unopenable(length: number): Promise<Buffer> {
  const { ciphertext } = await rig.done('EncryptionService/Encrypt', {
    name: KEY,
    plaintext: Buffer.alloc(length, 1),
    encryptionContext: { another: 'context' },
  });
  return typeof ciphertext === 'string'
    ? Buffer.from(ciphertext, 'base64')
    : (ciphertext as Buffer);
}

const alertsOf = (canary: string, services: readonly Service[] = rig.services): LogLine[] =>
  services
    .flatMap(({ log }) => log)
    .filter((line) => line['alert'] === 'canary-opened' && line['canary'] === canary);

interface Entry {
  readonly tenant: string;
  readonly caller: string;
  readonly method: string;
  readonly outcome: string;
  readonly requestId: string;
  readonly answered: string;
  readonly address: string;
}

/** The entries that say who wanted a canary opened. */
const openingsOf = (canary: string): Promise<Entry[]> =>
  sql<Entry & Record<string, unknown>>(
    rig.environment,
    `SELECT t.name AS tenant, a.caller, a.method, a.outcome, a.request_id AS "requestId",
       a.entry -> 'detail' ->> 'answered' AS answered, a.entry ->> 'address' AS address
     FROM audit_entries a JOIN tenants t USING (tenant_id)
     WHERE a.resource = $1 AND a.outcome = 'CANARY_OPENED' ORDER BY a.at`,
    [canary],
  );

/** Asks over gRPC and as JSON over HTTP, and returns what the caller sees of each. */
async function askBoth(caller: Caller, name: string, request: object): Promise<Outcome[]> {
  return [await rig.askByGrpc(caller, name, request), await rig.askByHttp(caller, name, request)];
}

/** Waits for what is told of a canary's openings by so many calls. */
async function toldOf(canary: string, count: number): Promise<LogLine[]> {
  return eventually(() => {
    const alerts = alertsOf(canary);
    return alerts.length >= count
      ? alerts
      : Promise.reject(new Error(`${alerts.length} alerts so far`));
  });
}

describe('in form a canary is like what it lies among', () => {
  const headerOf = (ciphertext: Buffer) => ciphertext.subarray(0, 24).toString('hex');

  test('a ciphertext: of the length of its plaintext, under the version that encrypts', async () => {
    for (const length of [0, 37, 65_536]) {
      const { ciphertext } = await lay(CIPHERTEXT, { length });
      const real = await unopenable(length);
      assert.equal(ciphertext.length, real.length);
      assert.equal(headerOf(ciphertext), headerOf(real));
      assert.notDeepEqual(ciphertext.subarray(24, 100), real.subarray(24, 100));
    }
  });

  test('a wrapped data key: as GenerateDataKey wraps it', async () => {
    const { ciphertext } = await lay(WRAPPED);
    const generated = await rig.askByGrpc(rig.tester, 'EncryptionService/GenerateDataKey', {
      name: KEY,
    });
    const real = generated.answer['wrappedDataKey'] as Buffer;
    assert.equal(ciphertext.length, real.length);
    assert.equal(headerOf(ciphertext), headerOf(real));
  });

  test('a stored data key: named and listed as others, and returned to no caller', async () => {
    const { dataKey, ciphertext } = await lay(STORED);
    assert.match(dataKey, /\/dataKeys\/dk-[0-9a-f]{32}$/);
    assert.equal(ciphertext.length, 0);
    await rig.done('DataKeyService/CreateDataKey', { parent: KEY, encryptionContext: CONTEXT });
    const { answer } = await rig.askByGrpc(rig.tester, 'DataKeyService/ListDataKeys', {
      parent: KEY,
    });
    const listed = answer['dataKeys'] as Readonly<Record<string, unknown>>[];
    const [canary, real] = [true, false].map((is) =>
      listed.find(({ name }) => (name === dataKey) === is),
    );
    assert.ok(canary && real);
    assert.deepEqual(Object.keys(canary), Object.keys(real));
    assert.equal(canary['length'], real['length']);
    const rows = await sql<{ length: number; header: string }>(
      rig.environment,
      `SELECT octet_length(ciphertext) AS length, encode(substr(ciphertext, 1, 24), 'hex') AS header
       FROM data_keys WHERE name = ANY ($1)`,
      [[canary, real].map(({ name }) => String(name).split('/').at(-1))],
    );
    assert.equal(rows.length, 2);
    assert.deepEqual(rows[0], rows[1]);
  });

  test('what is asked for is looked at', async () => {
    const wrong: readonly (readonly [object, RegExp])[] = [
      [{ kind: CIPHERTEXT, length: 65_537 }, /^length: must be 0 to 65536$/],
      [{ kind: WRAPPED, length: 33 }, /^length: must be one of 16, 32, 64$/],
      [{ kind: WRAPPED, dataKeyId: 'dk' }, /^data_key_id: must be empty unless/],
      [{ kind: 'CANARY_KIND_UNSPECIFIED' }, /^kind: must be a known kind$/],
    ];
    for (const [fields, message] of wrong) {
      const request = { parent: KEY, ...fields };
      const { reason, message: said } = await rig.ask(
        rig.tester,
        'CanaryService/CreateCanary',
        request,
      );
      assert.equal(reason, 'INVALID_FIELD');
      assert.match(said, message);
    }
  });
});

describe('whoever wants a canary opened', () => {
  /** A method that opens something, with the request that names it. */
  const ways: readonly (readonly [string, string, (laid: Laid) => object])[] = [
    [
      'EncryptionService/Decrypt',
      CIPHERTEXT,
      ({ ciphertext }) => ({ parent: ACME, ciphertext, encryptionContext: CONTEXT }),
    ],
    [
      'EncryptionService/Decrypt',
      WRAPPED,
      ({ ciphertext }) => ({ parent: ACME, ciphertext, encryptionContext: CONTEXT }),
    ],
    [
      'EncryptionService/ReEncrypt',
      CIPHERTEXT,
      ({ ciphertext }) => ({ name: KEY, ciphertext, sourceEncryptionContext: CONTEXT }),
    ],
    [
      'DataKeyService/GetDataKey',
      STORED,
      ({ dataKey }) => ({ name: dataKey, encryptionContext: CONTEXT }),
    ],
  ];
  for (const [method, kind, requestFor] of ways)
    test(`by ${method}, a ${kind}, gets what it gets for what does not open, byte for byte`, async () => {
      const laid = await lay(kind, { length: 32 });
      const dataKeyId = newId('dk');
      await rig.done('DataKeyService/CreateDataKey', {
        ...{ parent: KEY, dataKeyId, encryptionContext: { another: 'context' } },
      });
      const real: Laid = {
        name: '',
        ciphertext: await unopenable(32),
        dataKey: `${KEY}/dataKeys/${dataKeyId}`,
      };
      const callers = { allowed: rig.tester, stranger: rig.certified(newCaller()) };
      const seen: Record<string, string[]> = {};
      for (const [who, caller] of Object.entries(callers)) {
        const canary = await askBoth(caller, method, requestFor(laid));
        const expected = await askBoth(caller, method, requestFor(real));
        assert.deepEqual(
          canary.map((outcome) => outcome.seen),
          expected.map((outcome) => outcome.seen),
        );
        seen[who] = canary.map(({ reason }) => reason);
      }
      assert.deepEqual(seen, {
        allowed: ['DECRYPTION_FAILED', 'DECRYPTION_FAILED'],
        stranger: ['RESOURCE_NOT_FOUND', 'RESOURCE_NOT_FOUND'],
      });
      assert.equal((await toldOf(laid.name, 4)).length, 4);
      const entries = await openingsOf(laid.name);
      assert.deepEqual(
        entries.map(({ tenant, method: by, answered }) => [tenant, by, answered]),
        [
          ...Array(2).fill(['acme', `keyward.v1.${method}`, 'DECRYPTION_FAILED']),
          ...Array(2).fill(['acme', `keyward.v1.${method}`, 'RESOURCE_NOT_FOUND']),
        ],
      );
    });

  test('among the items of a batch, is found out, and the other items are done', async () => {
    const laid = await lay(CIPHERTEXT);
    const { ciphertext } = await rig.done('EncryptionService/Encrypt', {
      ...{ name: KEY, plaintext: Buffer.from('real'), encryptionContext: CONTEXT },
    });
    const real = Buffer.isBuffer(ciphertext)
      ? ciphertext
      : Buffer.from(String(ciphertext), 'base64');
    for (const method of ['BatchDecrypt', 'BatchReEncrypt']) {
      const item = (bytes: Buffer) =>
        method === 'BatchDecrypt'
          ? { parent: ACME, ciphertext: bytes, encryptionContext: CONTEXT }
          : { name: KEY, ciphertext: bytes, sourceEncryptionContext: CONTEXT };
      const requests = [item(real), item(laid.ciphertext), item(laid.ciphertext)];
      const outcomes = await askBoth(rig.tester, `EncryptionService/${method}`, {
        ...{ parent: ACME, requests },
      });
      for (const { reason, answer } of outcomes) {
        assert.equal(reason, 'OK');
        const results = answer['results'] as Readonly<Record<string, unknown>>[];
        assert.deepEqual(
          results.map(({ response }) => response != null),
          [true, false, false],
        );
      }
    }
    // Two methods, by two faces, and one for each call however often it is in it.
    assert.equal((await toldOf(laid.name, 4)).length, 4);
    assert.equal((await openingsOf(laid.name)).length, 4);
  });

  test('in another tenant’s name, is recorded where the canary is, and learns no name', async () => {
    const laid = await lay(CIPHERTEXT);
    const name = newCaller();
    await rig.bind('beta', name, 'decrypter');
    const request = {
      ...{ parent: 'tenants/beta', ciphertext: laid.ciphertext, encryptionContext: CONTEXT },
    };
    const outcomes = await askBoth(rig.certified(name), 'EncryptionService/Decrypt', request);
    for (const { reason, seen } of outcomes) {
      assert.equal(reason, 'DECRYPTION_FAILED');
      assert.doesNotMatch(seen, /acme/);
    }
    const entries = await openingsOf(laid.name);
    assert.deepEqual(
      entries.map(({ tenant, caller }) => [tenant, caller]),
      Array(2).fill(['acme', name]),
    );
    const own = await sql<{ entry: string }>(
      rig.environment,
      'SELECT entry::text AS entry FROM audit_entries WHERE request_id = $1 AND outcome <> $2',
      [entries[0]?.requestId, 'CANARY_OPENED'],
    );
    assert.equal(own.length, 1);
    assert.doesNotMatch(String(own[0]?.entry), /acme|canar/i);
  });

  test('with some of its bytes changed, is recognised as well', async () => {
    const laid = await lay(CIPHERTEXT, { length: 32 });
    const changed = Buffer.from(laid.ciphertext);
    changed.writeUInt8(changed.readUInt8(120) ^ 1, 120);
    const request = { parent: ACME, ciphertext: changed, encryptionContext: CONTEXT };
    await rig.ask(rig.certified(newCaller()), 'EncryptionService/Decrypt', request);
    assert.equal((await toldOf(laid.name, 1)).length, 1);
  });

  test('opened by a stolen token, it is reported with the caller’s name, also by another replica', async () => {
    const laid = await lay(CIPHERTEXT);
    const subject = newId('assistant');
    const stolen = rig.tokened(subject, ['acme']);
    const request = { parent: ACME, ciphertext: laid.ciphertext, encryptionContext: CONTEXT };
    const { reason } = await rig.ask(stolen, 'EncryptionService/Decrypt', request, other);
    assert.equal(reason, 'RESOURCE_NOT_FOUND');
    const [alert] = await toldOf(laid.name, 1);
    assert.ok(alert);
    assert.equal(alert['caller'], `jwt:corp/${subject}`);
    assert.equal(alert['severity'], 'critical');
    assert.equal((alert['token'] as { subject?: string }).subject, subject);
    assert.equal(alert['address'], '127.0.0.1');
    assert.equal(alert['method'], 'keyward.v1.EncryptionService/Decrypt');
    const [entry] = await openingsOf(laid.name);
    assert.equal(entry?.caller, `jwt:corp/${subject}`);
    assert.equal(entry.requestId, alert['requestId']);
    assert.equal(entry.address, '127.0.0.1');
    // Nothing says what was to be opened, or with what.
    const text = JSON.stringify([alert, entry]);
    for (const secret of [laid.ciphertext.toString('base64').slice(40, 80), 'c-42', stolen.token])
      assert.ok(!text.includes(String(secret)));
  });

  test('leaves its entry though the process is killed as soon as the answer is there', async () => {
    const laid = await lay(CIPHERTEXT);
    await using doomed = await startService(rig.environment, {
      KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
    });
    const name = newCaller();
    const request = { parent: ACME, ciphertext: laid.ciphertext, encryptionContext: CONTEXT };
    const caller = rig.certified(name);
    await rig.askByGrpc(caller, 'EncryptionService/Decrypt', request, { service: doomed });
    await doomed.kill();
    const entries = await eventually(async () => {
      const found = await openingsOf(laid.name);
      assert.equal(found.length, 1);
      return found;
    });
    assert.equal(entries[0]?.caller, name);
  });
});

test('a stored canary stays one when its key is rotated and it is re-wrapped, which opens none', async () => {
  const keyward = rig.service.client();
  const parent = (await keyward.createKey({ parent: ACME, keyId: newId('k') })).name;
  const laid = await lay(STORED, { parent });
  await keyward.rotateKey({ name: parent });
  await endOf(keyward, await jobOf(keyward, parent));
  const [row] = (await keyward.listDataKeys({ parent })).dataKeys;
  assert.equal(row?.keyVersion, `${parent}/versions/2`);
  assert.deepEqual(alertsOf(laid.name), []);
  const request = { name: laid.dataKey, encryptionContext: CONTEXT };
  const { reason } = await rig.ask(rig.tester, 'DataKeyService/GetDataKey', request);
  assert.equal(reason, 'DECRYPTION_FAILED');
  assert.equal((await toldOf(laid.name, 1)).length, 1);
});

test('a canary that is deleted is none any more, opens no more than before, and takes its data key along', async () => {
  const laid = await lay(CIPHERTEXT);
  const stored = await lay(STORED);
  for (const { name } of [laid, stored]) await rig.done('CanaryService/DeleteCanary', { name });
  const open = { parent: ACME, ciphertext: laid.ciphertext, encryptionContext: CONTEXT };
  const { reason } = await rig.ask(rig.tester, 'EncryptionService/Decrypt', open);
  assert.equal(reason, 'DECRYPTION_FAILED');
  const get = { name: stored.dataKey, encryptionContext: CONTEXT };
  assert.equal(
    (await rig.ask(rig.tester, 'DataKeyService/GetDataKey', get)).reason,
    'RESOURCE_NOT_FOUND',
  );
  assert.deepEqual(await openingsOf(laid.name), []);
  assert.deepEqual(await openingsOf(stored.name), []);
  const again = await rig.ask(rig.tester, 'CanaryService/DeleteCanary', { name: laid.name });
  assert.equal(again.reason, 'RESOURCE_NOT_FOUND');
});

test('canaries are listed by name, page by page, with what people said of them and no ciphertext', async () => {
  const [first, second] = [
    await lay(CIPHERTEXT, { description: 'in the backup' }),
    await lay(WRAPPED),
  ];
  const names: string[] = [];
  const keyward = rig.service.client();
  for await (const canary of keyward.canaries(ACME, { pageSize: 2 })) names.push(canary.name);
  assert.deepEqual(names, names.toSorted());
  assert.ok(names.includes(first.name) && names.includes(second.name));
  const canary = await keyward.getCanary({ name: first.name });
  assert.equal(canary.description, 'in the backup');
  assert.equal(canary.kind, 'CIPHERTEXT');
  assert.equal(canary.key, KEY);
  assert.equal(canary.creator, 'spiffe://keyward.test/tester');
});

describe('a suspended caller', () => {
  const decrypt = (laid: Laid) => ({
    ...{ parent: ACME, ciphertext: laid.ciphertext, encryptionContext: CONTEXT },
  });
  const list = (caller: Caller, parent: string, service: Service) =>
    rig.ask(caller, 'KeyService/ListKeys', { parent }, service);
  const refused = (caller: Caller, parent: string, service: Service) =>
    eventually(async () =>
      assert.equal((await list(caller, parent, service)).reason, 'CALLER_SUSPENDED'),
    );
  const allowed = (caller: Caller, parent: string, service: Service) =>
    eventually(async () => assert.equal((await list(caller, parent, service)).reason, 'OK'));

  test('is who wanted a canary opened that asks for it: refused on all replicas, old and new, until it is lifted', async () => {
    const name = newCaller();
    for (const tenant of ['acme', 'beta']) await rig.bind(tenant, name, 'keyViewer');
    const caller = rig.certified(name);
    for (const service of rig.services) await allowed(caller, ACME, service);
    const laid = await lay(CIPHERTEXT, { suspendCaller: true });
    await rig.ask(caller, 'EncryptionService/Decrypt', decrypt(laid));
    for (const service of [rig.service, other]) await refused(caller, ACME, service);
    // It is of the canary's tenant alone.
    await allowed(caller, 'tenants/beta', other);
    await using started = await startService(rig.environment, {
      KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
    });
    assert.equal((await list(caller, ACME, started)).reason, 'CALLER_SUSPENDED');
    const { suspensions } = await rig.service.client().listSuspensions({ parent: ACME });
    const [own] = suspensions.filter((each) => each.caller === name);
    assert.equal(own?.canary, laid.name);
    const [entry] = await openingsOf(laid.name);
    assert.equal(own.callId, entry?.requestId);
    const made = await rig.audited();
    const recorded = made.find(({ resource }) => resource === own.name);
    assert.deepEqual(recorded?.change?.after?.['caller'], name);
    assert.equal(recorded.method, 'keyward.v1.Maintenance/SuspendCaller');
    await rig.done('CanaryService/DeleteSuspension', { name: own.name });
    for (const service of [rig.service, other, started]) await allowed(caller, ACME, service);
  });

  test('is who an administrator suspends: in system, in all tenants', async () => {
    const name = newCaller();
    for (const tenant of ['acme', 'beta']) await rig.bind(tenant, name, 'keyViewer');
    const caller = rig.certified(name);
    const suspended = await rig.done('CanaryService/CreateSuspension', {
      ...{ parent: 'tenants/system', caller: name, description: 'incident 7' },
    });
    for (const parent of [ACME, 'tenants/beta']) await refused(caller, parent, other);
    const again = { parent: 'tenants/system', caller: name };
    assert.equal(
      (await rig.ask(rig.tester, 'CanaryService/CreateSuspension', again)).reason,
      'RESOURCE_EXISTS',
    );
    await rig.done('CanaryService/DeleteSuspension', { name: suspended['name'] });
    await allowed(caller, ACME, other);
  });

  test('whose tenant gives it nothing, is told nothing of it', async () => {
    const name = newCaller();
    await rig.done('CanaryService/CreateSuspension', { parent: ACME, caller: name });
    const caller = rig.certified(name);
    const seen = async (parent: string) => (await list(caller, parent, rig.service)).seen;
    assert.equal((await seen(ACME)).replaceAll('acme', 'none'), await seen('tenants/none'));
  });

  test('has an open stream ended', async () => {
    const keyward = rig.service.client();
    await keyward.pauseMaintenance({});
    const name = newCaller();
    await rig.bind('acme', name, 'keyViewer');
    const { name: job } = await keyward.createRewrapJob({ scope: KEY });
    const watching = rig.askByGrpc(rig.certified(name), 'RotationService/WatchRewrapJob', {
      name: job,
    });
    await rig.done('CanaryService/CreateSuspension', { parent: ACME, caller: name });
    assert.equal((await watching).reason, 'CALLER_SUSPENDED');
    await keyward.resumeMaintenance({});
  });
});

function newCaller(): string {
  return `spiffe://keyward.test/${newId('caller')}`;
}
