/**
 * What text that an assistant reads can make it do with its keys: nothing but with the conversation
 * that it is in.
 *
 * An assistant works for tenant acme, in conversation 42. It holds a token of the company's issuer,
 * bound to its certificate, with the claim `conversation`; its role bindings let it encrypt,
 * decrypt and have data keys issued under the keys `chat-*`, where the encryption context's entry
 * `conversation` is what the token says. Then it reads a text that was written for it, and does all
 * that the text asks for.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { PERMISSIONS } from '../../src/access/permissions.ts';
import { eventually } from '../support/kit.ts';
import { wellFormed } from '../support/well-formed.ts';
import { AccessRig, bindingOf, type Caller, RPCS } from './access-rig.ts';

const ACME = 'tenants/acme';
const CHAT = `${ACME}/keys/chat-2026`;
const ASSISTANT = 'jwt:corp/assistant';
const OURS = { conversation: '42' };
const THEIRS = { conversation: '43' };
const MEMORY = Buffer.from('what was said in conversation 42');
const SECRET = Buffer.from('what was said in conversation 43');

let rig: AccessRig;
let certificate: Caller;
let assistant: Caller;
/** What the company has kept of both conversations. */
const kept: {
  ours?: unknown;
  theirs?: unknown;
  ofOther?: unknown;
  ourKey?: unknown;
  theirKey?: unknown;
} = {};

before(async () => {
  rig = await AccessRig.start();
  for (const keyId of ['chat-2026', 'chat-open', 'payroll', 'attackers'])
    await rig.done('KeyService/CreateKey', { parent: ACME, keyId });
  certificate = rig.certified('spiffe://keyward.test/assistant');
  assistant = rig.bound('assistant', ['acme'], certificate, { conversation: '42' });
  const conditions = [{ contextKey: 'conversation', claim: { path: ['conversation'] } }];
  for (const role of ['encrypter', 'decrypter', 'dataKeyIssuer'])
    await rig.bind('acme', ASSISTANT, role, { keyPattern: 'chat-*', conditions });
  await rig.bind('acme', 'spiffe://keyward.test/attacker', 'decrypter', {
    keyPattern: 'attackers',
  });
  const encrypt = async (name: string, plaintext: Buffer, encryptionContext: object) =>
    (await rig.done('EncryptionService/Encrypt', { name, plaintext, encryptionContext }))[
      'ciphertext'
    ];
  kept.ours = await encrypt(CHAT, MEMORY, OURS);
  kept.theirs = await encrypt(CHAT, SECRET, THEIRS);
  kept.ofOther = await encrypt(`${ACME}/keys/payroll`, SECRET, OURS);
  const store = (dataKeyId: string, encryptionContext: object) =>
    rig.done('DataKeyService/CreateDataKey', { parent: CHAT, dataKeyId, encryptionContext });
  kept.ourKey = ((await store('ours', OURS))['dataKey'] as { name: string }).name;
  kept.theirKey = ((await store('theirs', THEIRS))['dataKey'] as { name: string }).name;
  await eventually(() => opensItsOwn());
});

after(() => rig?.[Symbol.asyncDispose]());

/** The assistant's work, which goes on whatever it has read. */
async function opensItsOwn(): Promise<void> {
  const decrypt = { parent: ACME, ciphertext: kept.ours, encryptionContext: OURS };
  const { plaintext } = await rig.done('EncryptionService/Decrypt', decrypt, assistant);
  assert.deepEqual(plaintext, MEMORY);
  const get = { name: kept.ourKey, encryptionContext: OURS };
  await rig.done('DataKeyService/GetDataKey', get, assistant);
}

/** One thing that the text asks for. */
interface Attempt {
  readonly method: string;
  readonly request: object;
  /** How it is refused, if not by its lacking the permission. */
  readonly reason?: string;
  /** In whose audit log. */
  readonly tenant?: string;
}

/**
 * The assistant does as it is told. Each time it is refused, that is recorded, and its own
 * conversation still opens.
 */
async function tries(attempts: readonly Attempt[]): Promise<void> {
  for (const { method, request, reason = 'PERMISSION_MISSING', tenant = 'acme' } of attempts) {
    const from = (await rig.audited()).length;
    const outcome = await rig.ask(assistant, method, request);
    const words = `${method} ${JSON.stringify(request).slice(0, 200)}`;
    assert.equal(outcome.reason, reason, `${words}: ${outcome.message}`);
    assert.ok(!JSON.stringify(outcome).includes(SECRET.toString()), words);
    const entries = await rig.audited(from);
    assert.deepEqual(
      entries.map((entry) => [entry.tenant, entry.caller, entry.method, entry.outcome]),
      [[tenant, ASSISTANT, `keyward.v1.${method}`, reason]],
      words,
    );
    assert.match(entries[0]?.detail ?? '', /missing|cannot find the resource/);
  }
  await opensItsOwn();
}

describe('an assistant in conversation 42, bound to its certificate', () => {
  test('opens and keeps what is said in its own conversation', async () => {
    await opensItsOwn();
    const encrypt = { name: CHAT, plaintext: MEMORY, encryptionContext: OURS };
    await rig.done('EncryptionService/Encrypt', encrypt, assistant);
    await rig.done(
      'EncryptionService/GenerateDataKey',
      { name: CHAT, encryptionContext: OURS },
      assistant,
    );
    const moved = await rig.done(
      'EncryptionService/ReEncrypt',
      {
        name: `${ACME}/keys/chat-open`,
        ciphertext: kept.ours,
        sourceEncryptionContext: OURS,
        destinationEncryptionContext: { ...OURS, topic: 'weather' },
      },
      assistant,
    );
    assert.ok(moved['ciphertext']);
  });

  test('“show me the other conversation”', async () => {
    const method = 'EncryptionService/Decrypt';
    const ciphertext = kept.theirs;
    await tries([
      { method, request: { parent: ACME, ciphertext, encryptionContext: THEIRS } },
      { method, request: { parent: ACME, ciphertext, encryptionContext: THEIRS, key: CHAT } },
      { method, request: { parent: ACME, ciphertext } },
      { method, request: { parent: ACME, ciphertext: kept.ours } },
      { method, request: { parent: ACME, ciphertext, encryptionContext: { Conversation: '42' } } },
      { method, request: { parent: ACME, ciphertext, encryptionContext: { conversation: '42 ' } } },
      { method, request: { parent: ACME, ciphertext, encryptionContext: { conversation: '٤٢' } } },
      {
        method: 'DataKeyService/GetDataKey',
        request: { name: kept.theirKey, encryptionContext: THEIRS },
      },
      { method: 'DataKeyService/GetDataKey', request: { name: kept.theirKey } },
    ]);
  });

  test('“say that it is yours”: what is of another conversation doesn’t open by another name', async () => {
    const decrypt = { parent: ACME, ciphertext: kept.theirs, encryptionContext: OURS };
    assert.equal(
      (await rig.ask(assistant, 'EncryptionService/Decrypt', decrypt)).reason,
      'DECRYPTION_FAILED',
    );
    const get = { name: kept.theirKey, encryptionContext: OURS };
    assert.equal(
      (await rig.ask(assistant, 'DataKeyService/GetDataKey', get)).reason,
      'DECRYPTION_FAILED',
    );
    await opensItsOwn();
  });

  test('“open the payroll”: a key that isn’t its own can’t be told from one that there isn’t', async () => {
    const decrypt = { parent: ACME, ciphertext: kept.ofOther, encryptionContext: OURS };
    await tries([
      { method: 'EncryptionService/Decrypt', request: decrypt, reason: 'DECRYPTION_FAILED' },
      { method: 'EncryptionService/Decrypt', request: { ...decrypt, key: `${ACME}/keys/payroll` } },
    ]);
    const garbage = { ...decrypt, ciphertext: Buffer.alloc(200, 1) };
    const [known, unknown] = await Promise.all(
      [decrypt, garbage].map((request) => rig.ask(assistant, 'EncryptionService/Decrypt', request)),
    );
    assert.equal(known?.seen, unknown?.seen);
  });

  test('“look what there is”: it lists no keys, data keys, bindings, and asks nothing about others', async () => {
    await tries([
      { method: 'KeyService/ListKeys', request: { parent: ACME } },
      { method: 'KeyService/GetKey', request: { name: CHAT } },
      { method: 'KeyService/ListKeyVersions', request: { parent: CHAT } },
      { method: 'DataKeyService/ListDataKeys', request: { parent: CHAT } },
      { method: 'AccessService/ListRoleBindings', request: { parent: ACME } },
      { method: 'AccessService/ListRoles', request: { parent: ACME } },
      {
        method: 'AccessService/ExplainAccess',
        request: { resource: CHAT, permission: 'data.decrypt', principal: ASSISTANT },
      },
      { method: 'AdminService/GetTenant', request: { name: ACME } },
      { method: 'AdminService/ListTenants', request: {}, tenant: 'system' },
      { method: 'AdminService/GetTokenStatus', request: {}, tenant: 'system' },
    ]);
  });

  test('“send it to me”: it re-encrypts to no key and no context that somebody else reads, nor from one', async () => {
    const method = 'EncryptionService/ReEncrypt';
    const own = { ciphertext: kept.ours, sourceEncryptionContext: OURS };
    const another = { ciphertext: kept.theirs, sourceEncryptionContext: THEIRS };
    await tries([
      {
        method,
        request: { ...own, name: `${ACME}/keys/attackers`, destinationEncryptionContext: OURS },
      },
      { method, request: { ...own, name: `${ACME}/keys/attackers` } },
      { method, request: { ...own, name: CHAT, destinationEncryptionContext: THEIRS } },
      { method, request: { ...own, name: CHAT } },
      { method, request: { ...another, name: CHAT, destinationEncryptionContext: OURS } },
      { method, request: { ...another, name: CHAT, destinationEncryptionContext: THEIRS } },
      {
        method,
        request: { ...another, name: CHAT, sourceKey: CHAT, destinationEncryptionContext: OURS },
      },
      {
        method,
        request: {
          name: CHAT,
          ciphertext: kept.ofOther,
          sourceEncryptionContext: OURS,
          destinationEncryptionContext: OURS,
        },
        reason: 'DECRYPTION_FAILED',
      },
      { method: 'EncryptionService/Encrypt', request: { name: CHAT, encryptionContext: THEIRS } },
      {
        method: 'EncryptionService/Encrypt',
        request: { name: `${ACME}/keys/attackers`, encryptionContext: OURS },
      },
      {
        method: 'EncryptionService/GenerateDataKey',
        request: { name: CHAT, encryptionContext: THEIRS },
      },
      {
        method: 'DataKeyService/CreateDataKey',
        request: { parent: CHAT, encryptionContext: THEIRS, returnPlaintext: true },
      },
    ]);
  });

  test('“hide it among others”: of a batch only what is its own is done, and the rest recorded', async () => {
    const from = (await rig.audited()).length;
    const contexts = [OURS, THEIRS, {}, OURS];
    const ciphertexts = [kept.ours, kept.theirs, kept.ours, kept.theirs];
    const requests = contexts.map((encryptionContext, index) => ({
      parent: ACME,
      ciphertext: ciphertexts[index],
      encryptionContext,
    }));
    const answer = await rig.done(
      'EncryptionService/BatchDecrypt',
      { parent: ACME, requests },
      assistant,
    );
    const results = answer['results'] as {
      response?: { plaintext: Buffer };
      error?: { message: string };
    }[];
    assert.deepEqual(results[0]?.response?.plaintext, MEMORY);
    for (const { response } of results.slice(1)) assert.equal(response, undefined);
    const entries = await rig.audited(from);
    assert.deepEqual(
      entries.map(({ caller, outcome, detail }) => [
        caller,
        outcome,
        JSON.parse(detail).missing.length,
      ]),
      [[ASSISTANT, 'OK', 2]],
    );
    const encrypted = await rig.done(
      'EncryptionService/BatchEncrypt',
      {
        parent: ACME,
        requests: [
          { name: CHAT, encryptionContext: OURS },
          { name: `${ACME}/keys/attackers`, encryptionContext: OURS },
          { name: 'tenants/beta/keys/k', encryptionContext: OURS },
        ],
      },
      assistant,
    );
    const done = (encrypted['results'] as { response?: object }[]).map(
      ({ response }) => response !== undefined,
    );
    assert.deepEqual(done, [true, false, false]);
    await opensItsOwn();
  });

  test('“say it for all at once”: the context of a batch is asked about like an item’s own', async () => {
    const opened = async (encryptionContext: object, own: object) => {
      const answer = await rig.done(
        'EncryptionService/BatchDecrypt',
        {
          parent: ACME,
          encryptionContext,
          requests: [kept.ours, kept.theirs].map((ciphertext) => ({
            parent: ACME,
            ciphertext,
            encryptionContext: own,
          })),
        },
        assistant,
      );
      return (answer['results'] as { response?: { plaintext: Buffer } }[]).map(
        ({ response }) => response?.plaintext,
      );
    };
    assert.deepEqual(await opened(OURS, {}), [MEMORY, undefined]);
    assert.deepEqual(await opened(OURS, OURS), [MEMORY, undefined]);
    for (const [shared, own] of [
      [THEIRS, {}],
      [THEIRS, OURS],
      [OURS, THEIRS],
    ] as const)
      assert.deepEqual(await opened(shared, own), [undefined, undefined]);
  });

  test('“let us in”: it changes no binding and makes no role, its own included', async () => {
    const binding = bindingOf('spiffe://keyward.test/attacker', 'decrypter');
    const { roleBindings } = await rig.done('AccessService/ListRoleBindings', {
      parent: ACME,
      filter: `principal = "${ASSISTANT}"`,
    });
    const [own] = roleBindings as { name: string }[];
    await tries([
      {
        method: 'AccessService/CreateRoleBinding',
        request: { parent: ACME, roleBinding: binding },
      },
      {
        method: 'AccessService/CreateRoleBinding',
        request: { parent: 'tenants/system', roleBinding: { ...binding, allTenants: true } },
        tenant: 'system',
      },
      {
        method: 'AccessService/CreateRoleBinding',
        request: { parent: ACME, roleBinding: bindingOf(ASSISTANT, 'decrypter') },
      },
      { method: 'AccessService/GetRoleBinding', request: { name: own?.name } },
      { method: 'AccessService/DeleteRoleBinding', request: { name: own?.name } },
      {
        method: 'AccessService/CreateRole',
        request: { parent: ACME, roleId: 'all', role: { permissions: ['data.decrypt'] } },
      },
      { method: 'AccessService/DeleteRole', request: { name: `${ACME}/roles/all` } },
    ]);
  });

  test('“destroy it”: it rotates, disables, destroys and deletes nothing', async () => {
    await tries([
      { method: 'KeyService/RotateKey', request: { name: CHAT } },
      { method: 'KeyService/DisableKey', request: { name: CHAT } },
      { method: 'KeyService/ScheduleKeyDestruction', request: { name: CHAT } },
      { method: 'KeyService/ScheduleKeyDestruction', request: { name: CHAT, validateOnly: true } },
      {
        method: 'KeyService/ScheduleKeyVersionDestruction',
        request: { name: `${CHAT}/versions/1` },
      },
      {
        method: 'KeyService/UpdateKey',
        request: {
          key: { name: CHAT, rotationPeriod: { seconds: 1 } },
          updateMask: { paths: ['rotation_period'] },
        },
      },
      { method: 'KeyService/CreateKey', request: { parent: ACME, keyId: 'chat-mine' } },
      { method: 'DataKeyService/DeleteDataKey', request: { name: kept.ourKey } },
      { method: 'RotationService/CreateRewrapJob', request: { scope: CHAT } },
      {
        method: 'RotationService/CreateRewrapJob',
        request: { scope: 'tenants/-' },
        tenant: 'system',
      },
      { method: 'AdminService/DisableTenant', request: { name: ACME } },
      { method: 'AdminService/PauseMaintenance', request: {}, tenant: 'system' },
      {
        method: 'HsmService/RotateRootKey',
        request: { parent: 'tenants/system' },
        tenant: 'system',
      },
    ]);
  });

  test('“try everything that there is”: no method does anything for it, in its tenant or another', async () => {
    const nobody = rig.certified('spiffe://keyward.test/nobody');
    // What every caller may ask about themselves.
    const ownQuestions = [
      'AccessService/GetCaller',
      'AccessService/TestPermissions',
      'PasskeyService/BeginPasskeyRegistration',
    ];
    for (const rpc of RPCS.filter(({ name }) => !ownQuestions.includes(name)))
      for (const tenant of ['acme', 'beta', 'nowhere']) {
        const { reason } = await rig.ask(
          assistant,
          rpc.name,
          await wellFormed(rig, nobody, rpc, { tenant }),
        );
        const isBatch = rpc.name.startsWith('EncryptionService/Batch') && tenant === 'acme';
        const refused = isBatch ? ['OK'] : ['PERMISSION_MISSING', 'RESOURCE_NOT_FOUND'];
        assert.ok(refused.includes(reason), `${rpc.name} in ${tenant}: ${reason}`);
      }
    await opensItsOwn();
  });

  test('“who are you?”: it can say who it is and what it may do, and no more', async () => {
    const { name } = await rig.done('AccessService/GetCaller', {}, assistant);
    assert.equal(name, ASSISTANT);
    const permissions = Object.keys(PERMISSIONS).slice(0, 100);
    const ask = async (resource: string, encryptionContext: object) =>
      (
        await rig.done(
          'AccessService/TestPermissions',
          { resource, permissions, encryptionContext },
          assistant,
        )
      )['permissions'];
    const may = [
      'data.encrypt',
      'data.decrypt',
      'data.reEncryptFrom',
      'data.reEncryptTo',
      'dataKeys.generate',
      'dataKeys.generateWithoutPlaintext',
      'dataKeys.create',
      'dataKeys.get',
      'random.generate',
    ];
    assert.deepEqual(
      await ask(CHAT, OURS),
      permissions.filter((permission) => may.includes(permission)),
    );
    for (const [resource, context] of [
      [CHAT, THEIRS],
      [CHAT, {}],
      [`${ACME}/keys/payroll`, OURS],
      [ACME, OURS],
      ['tenants/beta', OURS],
      ['tenants/system', OURS],
    ] as const)
      assert.deepEqual(await ask(resource, context), [], resource);
  });

  test('“give me your token”: it is worth nothing without the certificate, nor the certificate without it', async () => {
    const request = { parent: ACME, ciphertext: kept.ours, encryptionContext: OURS };
    const open = async (caller: Caller) =>
      (await rig.ask(caller, 'EncryptionService/Decrypt', request)).reason;
    const { token = '' } = assistant;
    const attacker = rig.certified('spiffe://keyward.test/attacker');
    assert.equal(await open({ token }), 'TOKEN_NOT_BOUND');
    assert.equal(await open({ ...attacker, token }), 'TOKEN_NOT_BOUND');
    assert.equal(await open(certificate), 'RESOURCE_NOT_FOUND');
    const [head, payload = '', signature] = token.split('.');
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as object;
    const forged = Buffer.from(JSON.stringify({ ...claims, conversation: '43' })).toString(
      'base64url',
    );
    assert.equal(
      await open({ ...certificate, token: `${head}.${forged}.${signature}` }),
      'CREDENTIALS_INVALID',
    );
    const unsaid = rig.bound('assistant', ['acme'], certificate);
    assert.equal(
      await open(unsaid),
      'PERMISSION_MISSING',
      'a token that names no conversation opens none',
    );
    const listed = rig.bound('assistant', ['acme'], certificate, { conversation: ['42', '43'] });
    assert.equal(await open(listed), 'PERMISSION_MISSING', 'nor does one that names several');
    const number = rig.bound('assistant', ['acme'], certificate, { conversation: 42 });
    assert.equal(await open(number), 'PERMISSION_MISSING', 'nor one whose claim is no text');
    await opensItsOwn();
  });
});
