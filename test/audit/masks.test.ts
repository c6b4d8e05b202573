/**
 * Whose guesses a reader of the log can try: masks are only in entries of calls that used a key, so
 * that nobody finds a context's values out who may not use keys with it.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type AuditEntryContent,
  connect,
  type KeywardClient,
  readAuditEntry,
} from 'keyward-client';
import { eventually, reasonOf, sharedService } from '../support/kit.ts';

const TENANT = 'tenants/acme';
const KEY = `${TENANT}/keys/mail`;
const SECRET = { patient: '947' };
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: TENANT, keyId: 'mail' });
  await client.createKey({ parent: TENANT, keyId: 'disabled' });
  await client.disableKey({ name: `${TENANT}/keys/disabled` });
});

/** The newest entry that the filter finds, as soon as there is one. */
function entryOf(filter: string): Promise<AuditEntryContent> {
  return eventually(async () => {
    for await (const entry of keyward.auditEntries({ parent: 'tenants/-', filter }))
      return readAuditEntry(entry);
    throw new Error(`no entry with ${filter}`);
  });
}

function clientOf(name: string): KeywardClient {
  const uris = [`spiffe://keyward.test/${name}`];
  const issued = shared.environment.ca.issue({ subject: name, usage: 'client', uris });
  return connect({ ...shared.service.connectOptions(issued), retries: 0 });
}

test('a use that was allowed and ended well has masks, which compare', async () => {
  await keyward.encrypt({ name: KEY, plaintext: Buffer.of(1), encryptionContext: SECRET });
  const { context, maskPeriod } = await entryOf('method = "keyward.v1.EncryptionService/Encrypt"');
  assert.match(String(context?.['patient']), /^[0-9a-f]{32}$/);
  assert.match(String(maskPeriod), /^\d{4}-\d\d$/);
});

/** Calls with a guess by which nothing is used, and what finds their entries. */
const GUESSES: Readonly<
  Record<string, { call(client: KeywardClient): Promise<unknown>; readonly filter: string }>
> = {
  'asking for permissions': {
    call: (client) =>
      client.testPermissions({
        resource: KEY,
        permissions: ['data.decrypt'],
        encryptionContext: SECRET,
      }),
    filter: 'method = "keyward.v1.AccessService/TestPermissions"',
  },
  'asking why somebody has a permission': {
    call: () =>
      keyward.explainAccess({
        resource: KEY,
        permission: 'data.decrypt',
        principal: 'spiffe://keyward.test/auditor',
        encryptionContext: SECRET,
      }),
    filter: 'method = "keyward.v1.AccessService/ExplainAccess"',
  },
  'a call that is denied': {
    call: (client) =>
      reasonOf(client.encrypt({ name: KEY, plaintext: Buffer.of(1), encryptionContext: SECRET })),
    filter: 'method = "keyward.v1.EncryptionService/Encrypt" AND decision = "denied"',
  },
  'a ciphertext that does not open': {
    call: () =>
      reasonOf(
        keyward.decrypt({
          parent: TENANT,
          ciphertext: Buffer.from('junk'),
          encryptionContext: SECRET,
        }),
      ),
    filter: 'outcome = "DECRYPTION_FAILED" AND method = "keyward.v1.EncryptionService/Decrypt"',
  },
  'a key that is disabled': {
    call: () =>
      reasonOf(
        keyward.generateDataKey({ name: `${TENANT}/keys/disabled`, encryptionContext: SECRET }),
      ),
    filter: 'outcome = "KEY_NOT_ENABLED"',
  },
  'a key that is not there': {
    call: () =>
      reasonOf(
        keyward.encrypt({
          name: `${TENANT}/keys/none`,
          plaintext: Buffer.of(1),
          encryptionContext: SECRET,
        }),
      ),
    filter: 'outcome = "RESOURCE_NOT_FOUND" AND method = "keyward.v1.EncryptionService/Encrypt"',
  },
};

for (const [what, { call, filter }] of Object.entries(GUESSES)) {
  test(`${what} leaves the names of the context, and no masks`, async () => {
    // An auditor, who may read the log, and use no key.
    await reasonOf(
      keyward.createRoleBinding({
        parent: TENANT,
        roleBindingId: 'auditor',
        roleBinding: { principal: 'spiffe://keyward.test/auditor', role: 'roles/auditor' },
      }),
    ).catch(() => {});
    using auditor = clientOf('auditor');
    await call(auditor);
    const { context, maskPeriod } = await entryOf(filter);
    assert.deepEqual(context, { patient: null });
    assert.equal(maskPeriod, undefined);
  });
}

test('a stored data key that does not open leaves no masks, nor do items of a batch that failed', async () => {
  const name = `${KEY}/dataKeys/db`;
  await keyward.createDataKey({
    parent: KEY,
    dataKeyId: 'db',
    encryptionContext: { patient: '1' },
  });
  assert.equal(
    await reasonOf(keyward.getDataKey({ name, encryptionContext: SECRET })),
    'DECRYPTION_FAILED',
  );
  const opened = await entryOf('method = "keyward.v1.DataKeyService/GetDataKey"');
  assert.deepEqual([opened.context, opened.maskPeriod], [{ patient: null }, undefined]);
  await keyward.batchDecrypt({
    parent: TENANT,
    requests: [
      { parent: TENANT, ciphertext: Buffer.from('junk'), encryptionContext: SECRET },
      {
        parent: TENANT,
        ciphertext: (
          await keyward.encrypt({ name: KEY, plaintext: Buffer.of(1), encryptionContext: SECRET })
        ).ciphertext,
        encryptionContext: SECRET,
      },
    ],
  });
  const batch = await entryOf('method = "keyward.v1.EncryptionService/BatchDecrypt"');
  const [bad, good] = batch.items as { readonly context: Record<string, string | null> }[];
  assert.deepEqual(bad?.context, { patient: null });
  assert.match(String(good?.context['patient']), /^[0-9a-f]{32}$/);
});
