/**
 * Entries over the wire: which calls have one, what it says and what not, and that no call is
 * answered without.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { before, describe, test } from 'node:test';
import { type AuditEntryContent, type KeywardClient, readAuditEntry } from 'keyward-client';
import { eventually, reasonOf, sharedService } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

const TESTER = 'spiffe://keyward.test/tester';
const KEY = 'tenants/acme/keys/mail';
const SECRET = 'a very private value';
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await client.createTenant({ tenantId: 'acme' });
  await client.createTenant({ tenantId: 'other' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
});

/** All entries of a method, the newest first, as soon as there are so many. */
function entriesOf(method: string, count = 1, parent = 'tenants/-'): Promise<AuditEntryContent[]> {
  return eventually(async () => {
    const found: AuditEntryContent[] = [];
    const filter = `method = "keyward.v1.${method}"`;
    for await (const entry of keyward.auditEntries({ parent, filter }))
      found.push(readAuditEntry(entry));
    assert.ok(found.length >= count, `${found.length} entries of ${method}`);
    return found;
  });
}

const encrypt = (encryptionContext: Record<string, string> = {}) =>
  keyward.encrypt({ name: KEY, plaintext: Buffer.from('plaintext'), encryptionContext });

describe('a call that only uses a key', () => {
  let entry: AuditEntryContent;

  before(async () => {
    await encrypt({ conversation: SECRET, __proto__x: '', user: 'u-1' });
    [entry] = (await entriesOf('EncryptionService/Encrypt')) as [AuditEntryContent];
  });

  test('has one entry, which says who, from where, what, with which version, and how it ended', async () => {
    const {
      id,
      time,
      requestId,
      replica,
      durationMs,
      certificate,
      context,
      maskPeriod,
      binding,
      tenantId,
      keyId,
      ...rest
    } = entry;
    assert.deepEqual(rest, {
      v: 1,
      tenant: 'acme',
      caller: TESTER,
      address: '127.0.0.1',
      method: 'keyward.v1.EncryptionService/Encrypt',
      resource: KEY,
      keyVersion: `${KEY}/versions/1`,
      decision: 'allowed',
      outcome: 'OK',
    });
    for (const uuid of [tenantId, keyId]) assert.match(String(uuid), /^[0-9a-f-]{36}$/);
    assert.match(String(binding), /^tenants\/system\/roleBindings\//);
    assert.match(String(replica), /^\S+\/\d+$/);
    assert.match(String(certificate), /^[\w-]{43}$/);
    assert.equal(maskPeriod, time.slice(0, 7));
    assert.ok(Number(durationMs) > 0);
    const line = await shared.service.logged((each) => each['requestId'] === requestId);
    assert.equal(line['outcome'], 'OK');
    assert.notEqual(id, requestId);
  });

  test('names what is in the encryption context, with masks that compare and tell nothing', async () => {
    const masks = entry.context ?? {};
    assert.deepEqual(Object.keys(masks), ['__proto__x', 'conversation', 'user']);
    for (const mask of Object.values(masks)) assert.match(String(mask), /^[0-9a-f]{32}$/);
    await encrypt({ conversation: SECRET, user: 'u-2' });
    const [next] = await entriesOf('EncryptionService/Encrypt', 2);
    assert.equal(next?.context?.['conversation'], masks['conversation']);
    assert.notEqual(next?.context?.['user'], masks['user']);
    await keyward.createKey({ parent: 'tenants/other', keyId: 'mail' });
    await keyward.encrypt({
      name: 'tenants/other/keys/mail',
      plaintext: Buffer.alloc(0),
      encryptionContext: { conversation: SECRET },
    });
    const [elsewhere] = await entriesOf('EncryptionService/Encrypt', 1, 'tenants/other');
    assert.notEqual(elsewhere?.context?.['conversation'], masks['conversation']);
    const rows = await sql<{ leaf: string }>(
      shared.environment,
      'SELECT leaf FROM audit_log UNION ALL SELECT leaves FROM audit_inbox',
    );
    assert.ok(rows.length > 4);
    assert.deepEqual(
      rows.filter(({ leaf }) => leaf.includes(SECRET)),
      [],
    );
  });
});

describe('a stored data key', () => {
  const encryptionContext = { database: SECRET };
  const name = `${KEY}/dataKeys/db`;

  /** The entry of the last call of a method, but for what differs from call to call. */
  async function lastOf(method: string) {
    const [entry] = await entriesOf(`DataKeyService/${method}`);
    const { resource, keyVersion, outcome, context, maskPeriod, time } = entry ?? assert.fail();
    assert.equal(maskPeriod, time.slice(0, 7));
    assert.match(String(context?.['database']), /^[0-9a-f]{32}$/);
    return { resource, keyVersion, outcome };
  }

  test('is made with an entry that names its context, masked, and the key version', async () => {
    const request = { parent: KEY, dataKeyId: 'db', encryptionContext, returnPlaintext: true };
    await keyward.createDataKey(request);
    assert.deepEqual(await lastOf('CreateDataKey'), {
      resource: name,
      keyVersion: `${KEY}/versions/1`,
      outcome: 'OK',
    });
  });

  test('is opened with an entry that names both, too, and without the version if it did not open', async () => {
    await keyward.getDataKey({ name, encryptionContext });
    const opened = { resource: name, keyVersion: `${KEY}/versions/1`, outcome: 'OK' };
    assert.deepEqual(await lastOf('GetDataKey'), opened);
    const other = { database: 'another' };
    await reasonOf(keyward.getDataKey({ name, encryptionContext: other }));
    const [failed] = await entriesOf('DataKeyService/GetDataKey', 2);
    assert.equal(failed?.outcome, 'DECRYPTION_FAILED');
    assert.deepEqual(Object.keys(failed?.context ?? {}), ['database']);
    assert.equal(failed?.keyVersion, undefined);
  });
});

test('a call that fails after its decision has an entry with the reason', async () => {
  const reason = await reasonOf(
    keyward.decrypt({ parent: 'tenants/acme', ciphertext: Buffer.from('junk') }),
  );
  assert.equal(reason, 'DECRYPTION_FAILED');
  const [entry] = await entriesOf('EncryptionService/Decrypt');
  assert.deepEqual([entry?.outcome, entry?.tenant, entry?.keyVersion], [reason, 'acme', undefined]);
});

test('a call that changes something has the one entry that was committed with the change', async () => {
  await keyward.createKey({ parent: 'tenants/acme', keyId: 'changed' });
  const own = await entriesOf('KeyService/CreateKey" AND resource = "tenants/acme/keys/changed');
  assert.deepEqual(
    own.map(({ outcome, decision, caller, address }) => [outcome, decision, caller, address]),
    [['OK', 'allowed', TESTER, '127.0.0.1']],
  );
});

test('a mutation sent again has an entry each time', async () => {
  const request = { parent: 'tenants/acme', keyId: 'twice', requestId: randomUUID() };
  await keyward.createKey(request);
  await keyward.createKey(request);
  const entries = await entriesOf(
    'KeyService/CreateKey" AND resource = "tenants/acme/keys/twice',
    2,
  );
  assert.deepEqual(
    entries.map(({ outcome }) => outcome),
    ['OK', 'OK'],
  );
  assert.notEqual(entries[0]?.requestId, entries[1]?.requestId);
});

describe('a change that takes longer than its caller has time', () => {
  const KEYS = 'tenants/acme/keys/slow';
  before(() =>
    sql(
      shared.environment,
      `CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2.1); RETURN NULL; END';
       CREATE CONSTRAINT TRIGGER take_long AFTER INSERT ON keys DEFERRABLE INITIALLY DEFERRED
       FOR EACH ROW WHEN (NEW.name LIKE 'slow%') EXECUTE FUNCTION take_long()`,
    ),
  );

  test('has one entry, which says that it was made, though its caller was told of the deadline', () =>
    eventually(async () => {
      const keyId = `slow-${randomUUID().slice(0, 8)}`;
      const request = { parent: 'tenants/acme', keyId };
      assert.equal(
        await reasonOf(keyward.createKey(request, { timeoutMs: 2_000 })),
        'DEADLINE_EXCEEDED',
      );
      const name = `${KEYS}${keyId.slice(4)}`;
      await eventually(async () => {
        const committing = await sql(
          shared.environment,
          "SELECT 1 FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'",
        );
        assert.equal(committing.length, 0);
      });
      // On a busy machine it may not have come so far: then again.
      await keyward.getKey({ name });
      // What else there is of it comes before what is recorded later.
      await encrypt();
      const entries = await entriesOf(`KeyService/CreateKey" AND resource = "${name}`);
      assert.deepEqual(
        entries.map(({ outcome }) => outcome),
        ['OK'],
      );
    }));
});

test('a call that ran out of time has one entry, when nothing of it goes on', async () => {
  const { name } = await keyward.createKey({ parent: 'tenants/acme', keyId: 'hurried' });
  const began = performance.now();
  await keyward.rotateKey({ name });
  const usual = performance.now() - began;
  for (let time = 4; time < 24; time += 1)
    await keyward.rotateKey({ name }, { timeoutMs: (usual * time) / 14 }).catch(() => {});
  const method = `KeyService/RotateKey" AND resource = "${name}`;
  await entriesOf(method);
  // Whatever was going on then is over, and recorded, before this is.
  await keyward.rotateKey({ name });
  const entries = await entriesOf(method, 2);
  const calls = Map.groupBy(entries, ({ requestId }) => requestId);
  assert.deepEqual(
    [...calls.values()].filter(({ length }) => length > 1),
    [],
  );
});

test('a batch has one entry, with an item for each of its items', async () => {
  const plaintext = Buffer.from('x');
  await keyward.batchEncrypt({
    parent: 'tenants/acme',
    requests: [
      { name: KEY, plaintext, encryptionContext: { conversation: SECRET } },
      { name: 'tenants/acme/keys/none', plaintext },
      { name: KEY, plaintext },
    ],
  });
  const [entry, ...more] = await entriesOf('EncryptionService/BatchEncrypt');
  assert.equal(more.length, 0);
  const [first, second, third] = (entry?.items ?? []) as Record<string, unknown>[];
  assert.equal(first?.['keyVersion'], `${KEY}/versions/1`);
  assert.match(
    (first?.['context'] as Record<string, string> | undefined)?.['conversation'] ?? '',
    /^[0-9a-f]{32}$/,
  );
  assert.deepEqual(second, { resource: 'tenants/acme/keys/none', outcome: 'RESOURCE_NOT_FOUND' });
  assert.deepEqual(third, { keyVersion: `${KEY}/versions/1` });
});

test('re-encrypting says both versions and both contexts', async () => {
  const { ciphertext } = await encrypt({ conversation: SECRET });
  await keyward.reEncrypt({
    name: KEY,
    ciphertext,
    sourceEncryptionContext: { conversation: SECRET },
    destinationEncryptionContext: { conversation: 'moved' },
  });
  const [entry] = await entriesOf('EncryptionService/ReEncrypt');
  const detail = entry?.detail as {
    sourceKeyVersion: string;
    sourceContext: Record<string, string>;
  };
  assert.equal(detail.sourceKeyVersion, `${KEY}/versions/1`);
  assert.match(detail.sourceContext['conversation'] ?? '', /^[0-9a-f]{32}$/);
  assert.notEqual(detail.sourceContext['conversation'], entry?.context?.['conversation']);
});

test('a tenant’s list has that tenant’s entries and no others; one that there isn’t has none', async () => {
  await keyward.listKeys({ parent: 'tenants/other' });
  await entriesOf('KeyService/ListKeys', 1, 'tenants/other');
  for await (const entry of keyward.auditEntries({ parent: 'tenants/other' }))
    assert.equal(readAuditEntry(entry).tenant, 'other');
  assert.equal(
    await reasonOf(keyward.listAuditEntries({ parent: 'tenants/nobody' })),
    'RESOURCE_NOT_FOUND',
  );
});

test('what is no request that anything could be decided of has no entry', async () => {
  const before = await sql(shared.environment, 'SELECT 1 FROM audit_entries WHERE outcome = $1', [
    'INVALID_FIELD',
  ]);
  assert.equal(await reasonOf(keyward.listKeys({ parent: 'nonsense' })), 'INVALID_FIELD');
  const after = await sql(shared.environment, 'SELECT 1 FROM audit_entries WHERE outcome = $1', [
    'INVALID_FIELD',
  ]);
  assert.equal(after.length, before.length);
});

describe('a stream', () => {
  test('has its entry before its first answer', async () => {
    const reading = keyward.readAuditEntries({ parent: 'tenants/acme', firstLeafIndex: 0 });
    const first = await reading.next();
    assert.ok(!first.done && first.value.length > 0);
    const rows = await sql(
      shared.environment,
      "SELECT outcome FROM audit_entries WHERE method = 'keyward.v1.AuditService/ReadEntries'",
    );
    assert.deepEqual(rows, [{ outcome: 'OK' }]);
    await reading.return();
  });

  test('follows the log as it grows', async () => {
    const { treeSize } = await keyward.getAuditCheckpoint();
    const reading = keyward.readAuditEntries({ parent: 'tenants/acme', firstLeafIndex: treeSize });
    await encrypt({ follow: 'me' });
    for await (const entries of reading)
      if (entries.some((entry) => 'follow' in (readAuditEntry(entry).context ?? {}))) break;
  });
});
