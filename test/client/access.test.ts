import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { type KeywardClient, KeywardError } from '../../client/src/index.ts';
import { type FakeService, refusal, startFakeService, wireRoleBinding } from './fake-service.ts';

const PARENT = 'tenants/acme';
const KEY = `${PARENT}/keys/orders`;
const BINDING = `${PARENT}/roleBindings/orders`;
const ROLE = `${PARENT}/roles/opener`;
const REQUEST_ID = 'f0000000-0000-4000-8000-000000000000';
const WIRE_ROLE = {
  name: ROLE,
  permissions: ['data.decrypt', 'keys.get'],
  description: 'opens',
  createTime: { seconds: 1_700_000_000, nanos: 0 },
  creator: 'spiffe://acme/admin',
};
const PREDEFINED = { ...WIRE_ROLE, name: 'roles/decrypter', createTime: null, creator: '' };
/** What {@link wireRoleBinding} makes is to be. */
const EXPECTED = {
  ...wireRoleBinding(BINDING),
  group: undefined,
  expireTime: new Date(1_800_000_000_000),
  createTime: new Date(1_700_000_000_000),
  conditions: [
    { contextKey: 'use', equals: '', oneOf: undefined, claim: undefined },
    { contextKey: 'region', equals: undefined, oneOf: ['eu', 'us'], claim: undefined },
    { contextKey: 'conversation', equals: undefined, oneOf: undefined, claim: ['chat', 'id'] },
  ],
};

type Seen = Record<string, Record<string, unknown>>;

/** A fake that gives these answers, and what its methods were asked. */
async function answering(
  answers: Readonly<Record<string, unknown>>,
): Promise<FakeService & { seen: Seen }> {
  const seen: Seen = {};
  const service = await startFakeService(
    Object.fromEntries(
      Object.entries(answers).map(([name, answer]) => [
        name,
        (request: Record<string, unknown>) => {
          seen[name] = request;
          return answer;
        },
      ]),
    ),
  );
  return Object.assign(service, { seen });
}

describe('role bindings', () => {
  it('are created, looked at, listed and deleted, every field there and back', async () => {
    const wire = wireRoleBinding(BINDING);
    const ofGroup = {
      principal: undefined,
      group: 'corp/admins',
      expireTime: null,
      conditions: [],
    };
    await using service = await answering({
      CreateRoleBinding: wire,
      GetRoleBinding: wire,
      ListRoleBindings: {
        roleBindings: [wire, wireRoleBinding('b', ofGroup)],
        nextPageToken: 'next',
      },
      DeleteRoleBinding: {},
    });
    using keyward = service.connect();
    const roleBinding = {
      principal: 'spiffe://acme/orders',
      role: 'roles/decrypter',
      keyPattern: 'orders-*',
      allTenants: true,
      expireTime: new Date(1_800_000_000_250),
      conditions: [
        { contextKey: 'use', equals: '' },
        { contextKey: 'region', oneOf: ['eu', 'us'] },
        { contextKey: '__proto__', claim: ['https://example.com/chat', 'id'] },
      ],
      overrideSeparationOfDuties: true,
      description: 'for orders',
    };
    const request = { parent: PARENT, roleBindingId: 'orders', requestId: REQUEST_ID };
    assert.deepEqual(await keyward.createRoleBinding({ ...request, roleBinding }), EXPECTED);
    assert.deepEqual(await keyward.getRoleBinding({ name: BINDING }), EXPECTED);
    const page = { pageSize: 2, pageToken: 'here', filter: 'group = "corp/admins"' };
    assert.deepEqual(await keyward.listRoleBindings({ parent: PARENT, ...page }), {
      roleBindings: [EXPECTED, { ...EXPECTED, ...ofGroup, name: 'b', expireTime: undefined }],
      nextPageToken: 'next',
    });
    assert.equal(
      await keyward.deleteRoleBinding({ name: BINDING, requestId: REQUEST_ID }),
      undefined,
    );

    const { roleBinding: sent, ...rest } = service.seen['CreateRoleBinding'] ?? {};
    assert.deepEqual(rest, request);
    assert.deepEqual(sent, {
      ...roleBinding,
      member: 'principal',
      name: '',
      creator: '',
      createTime: null,
      expireTime: { seconds: 1_800_000_000, nanos: 250_000_000 },
      conditions: [
        { contextKey: 'use', equals: '', requirement: 'equals' },
        { contextKey: 'region', oneOf: { values: ['eu', 'us'] }, requirement: 'oneOf' },
        {
          contextKey: '__proto__',
          claim: { path: ['https://example.com/chat', 'id'] },
          requirement: 'claim',
        },
      ],
    });
    assert.deepEqual(service.seen['GetRoleBinding'], { name: BINDING });
    assert.deepEqual(service.seen['ListRoleBindings'], { parent: PARENT, ...page });
    assert.deepEqual(service.seen['DeleteRoleBinding'], { name: BINDING, requestId: REQUEST_ID });
  });

  it('are a group’s, for everything and for ever, where nothing else is said', async () => {
    await using service = await answering({ CreateRoleBinding: wireRoleBinding(BINDING) });
    using keyward = service.connect();
    const roleBinding = { group: 'corp/admins', role: 'roles/keyAdmin' };
    await keyward.createRoleBinding({ parent: PARENT, roleBinding });
    const { roleBinding: sent, requestId, ...rest } = service.seen['CreateRoleBinding'] ?? {};
    assert.deepEqual(rest, { parent: PARENT, roleBindingId: '' });
    assert.match(String(requestId), /^[0-9a-f-]{36}$/);
    assert.deepEqual(sent, {
      ...roleBinding,
      member: 'group',
      name: '',
      keyPattern: '',
      allTenants: false,
      expireTime: null,
      conditions: [],
      overrideSeparationOfDuties: false,
      description: '',
      createTime: null,
      creator: '',
    });
  });

  it('for two members, or under two requirements at once, are refused, and nothing is sent', async () => {
    await using service = await answering({ CreateRoleBinding: wireRoleBinding(BINDING) });
    using keyward = service.connect();
    const whole = { principal: 'spiffe://acme/orders', role: 'roles/decrypter' };
    const under = (condition: object) => ({ ...whole, conditions: [condition] });
    const wrong: [object, RegExp][] = [
      [{ role: 'roles/decrypter' }, /roleBinding\.principal or group must be given/],
      [
        { ...whole, group: 'corp/admins' },
        /principal or group must be given, and only one of them/,
      ],
      [{ ...whole, principal: 7 }, /roleBinding\.principal must be a string/],
      [{ ...whole, role: undefined }, /roleBinding\.role must be a string/],
      [{ ...whole, allTenants: 'yes' }, /roleBinding\.allTenants must be true or false/],
      [{ ...whole, expireTime: '2027-01-31' }, /roleBinding\.expireTime must be a valid Date/],
      [{ ...whole, conditions: {} }, /roleBinding\.conditions must be an array/],
      [under({ contextKey: 'a' }), /roleBinding\.conditions\[0\]\.equals, oneOf or claim must be/],
      [under({ contextKey: 'a', equals: 'b', claim: ['c'] }), /only one of them/],
      [under({ contextKey: 'a', oneOf: 'b' }), /conditions\[0\]\.oneOf must be an array/],
      [under({ contextKey: 'a', claim: ['b', 7] }), /conditions\[0\]\.claim\[1\] must be a string/],
    ];
    for (const [roleBinding, message] of wrong) {
      const request = { parent: PARENT, roleBinding } as Parameters<
        KeywardClient['createRoleBinding']
      >[0];
      await assert.rejects(keyward.createRoleBinding(request), { name: 'TypeError', message });
    }
    assert.equal(service.calls.size, 0);
  });

  it('with a member or a condition that is newer than the client are shown without it', async () => {
    const newer = { principal: undefined, conditions: [{ contextKey: 'a' }] };
    await using service = await answering({ GetRoleBinding: wireRoleBinding(BINDING, newer) });
    using keyward = service.connect();
    const { principal, group, conditions } = await keyward.getRoleBinding({ name: BINDING });
    assert.deepEqual([principal, group], [undefined, undefined]);
    const none = { equals: undefined, oneOf: undefined, claim: undefined };
    assert.deepEqual(conditions, [{ contextKey: 'a', ...none }]);
  });

  it('are walked page by page', async () => {
    await using service = await startFakeService({
      ListRoleBindings: ({ pageToken, filter }) =>
        pageToken === ''
          ? { roleBindings: [wireRoleBinding(`a ${filter}`)], nextPageToken: 'more' }
          : { roleBindings: [wireRoleBinding('b')] },
    });
    using keyward = service.connect();
    const filter = 'role = "roles/decrypter"';
    const names = await Array.fromAsync(
      keyward.roleBindings(PARENT, { filter }),
      ({ name }) => name,
    );
    assert.deepEqual(names, [`a ${filter}`, 'b']);
  });
});

describe('roles', () => {
  it('are created, looked at, listed and deleted, every field there and back', async () => {
    await using service = await answering({
      CreateRole: WIRE_ROLE,
      GetRole: WIRE_ROLE,
      ListRoles: { roles: [PREDEFINED, WIRE_ROLE] },
      DeleteRole: {},
    });
    using keyward = service.connect();
    const expected = { ...WIRE_ROLE, createTime: new Date(1_700_000_000_000) };
    const request = { parent: PARENT, roleId: 'opener', requestId: REQUEST_ID };
    const role = { permissions: WIRE_ROLE.permissions, description: 'opens' };
    assert.deepEqual(await keyward.createRole({ ...request, role }), expected);
    assert.deepEqual(await keyward.getRole({ name: ROLE }), expected);
    const { roles } = await keyward.listRoles({ parent: PARENT });
    assert.deepEqual(roles, [{ ...PREDEFINED, createTime: undefined }, expected]);
    assert.equal(await keyward.deleteRole({ name: ROLE, requestId: REQUEST_ID }), undefined);
    assert.deepEqual(service.seen, {
      CreateRole: { ...request, role: { ...role, name: '', createTime: null, creator: '' } },
      GetRole: { name: ROLE },
      ListRoles: { parent: PARENT },
      DeleteRole: { name: ROLE, requestId: REQUEST_ID },
    });
    const wrong = { ...request, role: { permissions: 'data.decrypt' } };
    await assert.rejects(
      keyward.createRole(wrong as unknown as Parameters<KeywardClient['createRole']>[0]),
      {
        name: 'TypeError',
        message: 'role.permissions must be an array of strings',
      },
    );
  });
});

describe('questions about access', () => {
  it('carry every field, and are answered in friendly words', async () => {
    const considered = [
      { roleBinding: BINDING, role: 'roles/decrypter', obstacles: [] },
      {
        roleBinding: 'b',
        role: ROLE,
        obstacles: [1, 2, 3, 4, 5, 6, 0, 99],
      },
    ];
    await using service = await answering({
      TestPermissions: { permissions: ['keys.get'] },
      ExplainAccess: { allowed: true, roleBinding: BINDING, considered, tokenTenant: PARENT },
    });
    using keyward = service.connect();
    const encryptionContext = new Map([
      ['__proto__', 'x'],
      ['order', '17'],
    ]);
    const test = { resource: KEY, permissions: ['keys.get', 'data.decrypt'] };
    assert.deepEqual(await keyward.testPermissions({ ...test, encryptionContext }), {
      permissions: ['keys.get'],
    });
    const question = { resource: KEY, permission: 'data.decrypt', principal: 'jwt:corp/alice' };
    const groups = ['corp/admins'];
    const proof = { limitedToTenants: true, tenants: [PARENT] };
    const answer = await keyward.explainAccess({
      ...question,
      groups,
      claims: [{ claim: ['https://example.com/chat', 'id'], value: '7' }],
      encryptionContext,
      ...proof,
    });
    assert.deepEqual(answer, {
      allowed: true,
      roleBinding: BINDING,
      tokenTenant: PARENT,
      considered: [
        considered[0],
        {
          ...considered[1],
          obstacles: [
            'PERMISSION',
            'KEY',
            'EXPIRED',
            'CONTEXT',
            'TENANT',
            'ISSUER',
            'UNSPECIFIED',
            'UNSPECIFIED',
          ],
        },
      ],
    });
    const { encryptionContext: tested, ...testRest } = service.seen['TestPermissions'] ?? {};
    const { encryptionContext: explained, ...explainRest } = service.seen['ExplainAccess'] ?? {};
    assert.deepEqual(testRest, test);
    const claims = [{ claim: { path: ['https://example.com/chat', 'id'] }, value: '7' }];
    assert.deepEqual(explainRest, { ...question, ...proof, groups, claims });
    for (const sent of [tested, explained]) {
      assert.deepEqual(new Map(Object.entries(sent as object)), encryptionContext);
    }
    await keyward.explainAccess(question);
    assert.deepEqual(service.seen['ExplainAccess'], {
      ...question,
      groups: [],
      claims: [],
      encryptionContext: {},
      limitedToTenants: false,
      tenants: [],
    });
    const wrong = { ...question, claims: [{ claim: 'chat', value: '7' }] };
    await assert.rejects(
      keyward.explainAccess(wrong as unknown as Parameters<KeywardClient['explainAccess']>[0]),
      { name: 'TypeError', message: 'claims[0].claim must be an array of strings' },
    );
  });

  it('say who the caller is, with a token and without', async () => {
    const withToken = {
      name: 'jwt:corp/alice',
      issuer: 'corp',
      groups: ['corp/admins'],
      limitedToTenants: true,
      tenants: [PARENT],
      expireTime: { seconds: 1_800_000_000, nanos: 0 },
      firstAdministrator: false,
      acr: 'phr',
      authenticationMethods: ['pwd', 'hwk'],
      authenticationTime: { seconds: 1_799_999_000, nanos: 0 },
    };
    await using service = await answering({ GetCaller: withToken });
    using keyward = service.connect();
    const expireTime = new Date(1_800_000_000_000);
    const authenticationTime = new Date(1_799_999_000_000);
    assert.deepEqual(await keyward.getCaller(), {
      ...{ ...withToken, expireTime, authenticationTime },
    });
    assert.deepEqual(service.seen, { GetCaller: {} });
    await using other = await answering({
      GetCaller: { name: 'spiffe://a', firstAdministrator: true },
    });
    using anew = other.connect();
    assert.deepEqual(await anew.getCaller({}), {
      name: 'spiffe://a',
      issuer: '',
      groups: [],
      limitedToTenants: false,
      tenants: [],
      expireTime: undefined,
      firstAdministrator: true,
      acr: '',
      authenticationMethods: [],
      authenticationTime: undefined,
    });
  });
});

describe('a call that is not allowed', () => {
  it('says which permission is missing on what, and is not tried again', async () => {
    const metadata = { permission: 'data.decrypt', resource: KEY };
    await using service = await startFakeService({
      Decrypt: () => {
        throw refusal({ code: status.PERMISSION_DENIED, reason: 'PERMISSION_MISSING', metadata });
      },
    });
    using keyward = service.connect();
    await assert.rejects(
      keyward.decrypt({ parent: PARENT, ciphertext: new Uint8Array(1) }),
      (error: unknown) => {
        assert.ok(error instanceof KeywardError);
        assert.deepEqual([error.code, error.reason], ['PERMISSION_DENIED', 'PERMISSION_MISSING']);
        assert.deepEqual(Object.fromEntries(error.metadata), metadata);
        return true;
      },
    );
    assert.equal(service.calls.get('Decrypt'), 1);
  });
});
