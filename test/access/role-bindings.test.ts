/**
 * Giving roles, over the wire: who may give what, and every way to climb that leads nowhere; duties
 * kept apart; the first administrator; conditions; questions about access; requests that come
 * twice.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { PREDEFINED_ROLES } from '../../src/access/permissions.ts';
import { withAdministration } from '../support/grants.ts';
import { eventually, type Service } from '../support/kit.ts';
import { newId, sql } from '../support/reconciling.ts';
import { wellFormed } from '../support/well-formed.ts';
import { AccessRig, type BindingChanges, bindingOf, type Caller, RPCS } from './access-rig.ts';
import type { Outcome } from './outcome.ts';

const CREATE = 'AccessService/CreateRoleBinding';
const KEY = 'tenants/acme/keys/k';
const uri = (name: string) => `spiffe://keyward.test/${name}`;

let rig: AccessRig;

before(async () => {
  rig = await AccessRig.start();
});

after(() => rig?.[Symbol.asyncDispose]());

/** Has the caller give a role. */
const give = (
  caller: Caller,
  tenant: string,
  member: string,
  role: string,
  changes: BindingChanges = {},
) =>
  rig.ask(caller, CREATE, {
    parent: `tenants/${tenant}`,
    roleBinding: bindingOf(member, role, changes),
  });

/** Somebody new with that role. */
async function somebody(
  tenant: string,
  role: string,
  changes: BindingChanges = {},
): Promise<Caller & { readonly name: string }> {
  const name = uri(newId('somebody'));
  await rig.bind(tenant, name, role, changes);
  return { ...rig.certified(name), name };
}

/** A role of the tenant's own. */
async function ownRole(tenant: string, permissions: readonly string[]): Promise<string> {
  const roleId = newId('own');
  const { name } = await rig.done('AccessService/CreateRole', {
    parent: `tenants/${tenant}`,
    roleId,
    role: { permissions },
  });
  return String(name);
}

describe('case 38: whoever isn’t rootAdmin', () => {
  test('gives nothing for all tenants, nor what is beyond a tenant, from within a tenant', async () => {
    const admin = await somebody('acme', 'tenantAdmin');
    const refused: [string, BindingChanges, string][] = [
      ['keyViewer', { allTenants: true }, 'PERMISSION_MISSING'],
      ['rootAdmin', {}, 'INVALID_FIELD'],
      ['rootAdmin', { allTenants: true }, 'PERMISSION_MISSING'],
      ['tenants/system/roles/everything', {}, 'INVALID_FIELD'],
      ['roles/everything', {}, 'INVALID_FIELD'],
      ['roles/constructor', {}, 'INVALID_FIELD'],
    ];
    for (const [role, changes, reason] of refused)
      for (const member of [{}, { group: 'corp/us' }])
        assert.equal(
          (await give(admin, 'acme', admin.name, role, { ...changes, ...member })).reason,
          reason,
          role,
        );
    for (const tenant of ['beta', 'nowhere'])
      assert.equal(
        (await give(admin, tenant, admin.name, 'keyViewer')).reason,
        'RESOURCE_NOT_FOUND',
      );
    assert.equal(
      (await give(admin, 'system', admin.name, 'keyViewer')).reason,
      'PERMISSION_MISSING',
    );
    const { reason } = await rig.ask(admin, 'AccessService/CreateRole', {
      parent: 'tenants/acme',
      roleId: 'climber',
      role: { permissions: ['tenants.list'] },
    });
    assert.equal(reason, 'INVALID_FIELD');
  });

  test('gives from tenants/system nothing that reaches beyond it, though he may create bindings there', async () => {
    const system = await somebody('system', 'tenantAdmin');
    const everywhere = await somebody('system', 'tenantAdmin', { allTenants: true });
    const beyond = [
      'tenants.create',
      'roleBindings.createForAllTenants',
      'tokenKeys.rotateRoot',
      'rewrapJobs.create',
      'rewrapJobs.get',
      'rewrapJobs.list',
      'rewrapJobs.cancel',
    ];
    const own = await Promise.all(
      beyond.map((permission) => ownRole('system', ['keys.get', permission])),
    );
    for (const admin of [system, everywhere]) {
      for (const role of Object.keys(PREDEFINED_ROLES)) {
        const { reason, metadata } = await give(admin, 'system', uri(newId('friend')), role, {
          allTenants: true,
        });
        assert.equal(reason, 'PERMISSION_MISSING', role);
        assert.equal(metadata['permission'], 'roleBindings.createForAllTenants');
      }
      for (const role of ['rootAdmin', 'auditor', 'keyAdmin', 'keyViewer', ...own])
        for (const member of [{}, { group: 'corp/us' }])
          assert.equal(
            (await give(admin, 'system', admin.name, role, member)).reason,
            'PERMISSION_MISSING',
            role,
          );
      assert.equal((await give(admin, 'system', uri(newId('friend')), 'tenantAdmin')).reason, 'OK');
    }
    for (const scope of ['tenants/-', 'tenants/beta', 'tenants/system'])
      assert.notEqual(
        (await rig.ask(system, 'RotationService/CreateRewrapJob', { scope })).reason,
        'OK',
        scope,
      );
  });

  test('can’t do it by a role for some keys, under conditions, or by one that has ended', async () => {
    const role = await ownRole('system', [
      'roleBindings.create',
      'roleBindings.createForAllTenants',
    ]);
    const conditions = [{ contextKey: 'x', equals: '1' }];
    for (const changes of [
      { keyPattern: '*' },
      { keyPattern: 'k' },
      { conditions },
      { expireTime: { seconds: 1 } },
    ]) {
      const limited = await somebody('system', role, changes);
      const { reason } = await give(limited, 'system', limited.name, 'keyViewer', {
        allTenants: true,
      });
      assert.equal(reason, 'PERMISSION_MISSING', JSON.stringify(changes));
    }
  });

  test('can’t do it by a role that is made anew while a replica remembers it as it was', async () => {
    const { variables } = rig.environment;
    await withAdministration(variables, async (there, system) => {
      const call = { id: randomUUID(), method: 'test', caller: 'test', deadline: Infinity };
      const role = { roleId: newId('own'), description: '' };
      const allow = () => {};
      await there.createRole(call, system, { ...role, permissions: ['keys.get'] }, allow);
      await withAdministration(variables, async (here) => {
        // This one hears of no change.
        await here.policyOf(system);
        await there.deleteRole(call, system, role.roleId, allow);
        await there.createRole(call, system, { ...role, permissions: ['tenants.shred'] }, allow);
        const binding = {
          bindingId: newId('b'),
          member: { kind: 'principal', name: 'climber' } as const,
          role: `tenants/system/roles/${role.roleId}`,
          keyPattern: '',
          allTenants: false,
          expiresAt: null,
          conditions: [],
          overridesSeparation: false,
          description: '',
        };
        const refuse = () => {
          throw new Error('beyond');
        };
        await assert.rejects(here.createBinding(call, system, binding, refuse), /beyond/);
        const { bindings } = await there.policyOf(system);
        assert.ok(!bindings.some(({ member }) => member.name === 'climber'));
      });
    });
  });

  test('can’t change what a role comes to that is given', async () => {
    const admin = await somebody('acme', 'tenantAdmin');
    const role = await ownRole('acme', ['keys.get']);
    await rig.bind('acme', uri(newId('given')), role);
    assert.equal(
      (await rig.ask(admin, 'AccessService/DeleteRole', { name: role })).reason,
      'ROLE_IN_USE',
    );
    const again = {
      parent: 'tenants/acme',
      roleId: role.split('/').at(-1),
      role: { permissions: ['keys.create'] },
    };
    assert.equal(
      (await rig.ask(admin, 'AccessService/CreateRole', again)).reason,
      'RESOURCE_EXISTS',
    );
  });

  test('deletes from tenants/system no binding and no role that they could not make, nor makes such a role', async () => {
    const admins = [
      await somebody('system', 'tenantAdmin'),
      await somebody('system', 'tenantAdmin', { allTenants: true }),
    ];
    const [idle, given] = [
      await ownRole('system', ['tenants.shred']),
      await ownRole('system', ['rewrapJobs.list']),
    ];
    const victim = uri(newId('victim'));
    const beyond = [
      ...(await Promise.all(
        ['rootAdmin', 'auditor', 'keyViewer', given].map((role) =>
          rig.bind('system', victim, role),
        ),
      )),
      await rig.bind('system', victim, 'tenantAdmin', { allTenants: true }),
      await rig.bind('system', '', 'rootAdmin', { group: 'corp/us' }),
    ];
    const role = { permissions: ['keys.get', 'tenants.list'] };
    const create = { parent: 'tenants/system', roleId: newId('climber'), role };
    for (const admin of admins) {
      for (const [method, request] of [
        ...beyond.map((name) => ['DeleteRoleBinding', { name }] as const),
        ['DeleteRole', { name: idle }] as const,
        ['CreateRole', create] as const,
      ]) {
        const { reason, metadata } = await rig.ask(admin, `AccessService/${method}`, request);
        assert.equal(reason, 'PERMISSION_MISSING', JSON.stringify(request));
        assert.equal(metadata['permission'], 'roleBindings.createForAllTenants');
      }
      const own = await rig.bind('system', uri(newId('friend')), 'tenantAdmin');
      await rig.done('AccessService/DeleteRoleBinding', { name: own }, admin);
      const roleId = newId('own');
      const harmless = { ...create, roleId, role: { permissions: ['keys.get'] } };
      await rig.done('AccessService/CreateRole', harmless, admin);
      const name = `tenants/system/roles/${roleId}`;
      await rig.done('AccessService/DeleteRole', { name }, admin);
    }
    for (const name of beyond) await rig.done('AccessService/DeleteRoleBinding', { name });
    for (const name of [idle, given]) await rig.done('AccessService/DeleteRole', { name });
  });

  test('has no key rotated by its schedule who may not rotate it', async () => {
    const role = await ownRole('acme', ['keys.update', 'keys.get']);
    const updater = await somebody('acme', role);
    const key = { name: KEY, description: 'mine', rotationPeriod: { seconds: 86_400 } };
    const update = (...paths: string[]) =>
      rig.ask(updater, 'KeyService/UpdateKey', { key, updateMask: { paths } });
    assert.equal((await update('description')).reason, 'OK');
    for (const path of [
      'rotation_period',
      'next_rotation_time',
      'rotation_usage_limit',
      'maintenance_paused',
    ]) {
      const { reason, metadata } = await update('description', path);
      assert.equal(reason, 'PERMISSION_MISSING', path);
      assert.equal(metadata['permission'], 'keys.rotate');
    }
  });

  test('gets no data key’s plaintext who may only have it stored', async () => {
    const storer = await somebody('acme', await ownRole('acme', ['dataKeys.create']));
    const request = { parent: KEY, dataKeyId: newId('dk'), requestId: randomUUID() };
    assert.equal((await rig.ask(storer, 'DataKeyService/CreateDataKey', request)).reason, 'OK');
    const revealing = await rig.ask(storer, 'DataKeyService/CreateDataKey', {
      parent: KEY,
      dataKeyId: newId('dk'),
      returnPlaintext: true,
    });
    assert.equal(revealing.reason, 'PERMISSION_MISSING');
    assert.equal(revealing.metadata['permission'], 'dataKeys.generate');
  });
});

describe('names', () => {
  test('of certificates, tokens and groups are never taken for each other, in whatever letters', async () => {
    const alice = rig.tokened('alice', ['acme'], { groups: ['alice', 'admins'] });
    const read = async (caller: Caller) =>
      (await rig.ask(caller, 'KeyService/GetKey', { name: KEY })).reason;
    const lookalikes = [
      'corp/alice',
      'jwt:corp/Alice',
      'jwt:open/alice',
      'jwt:corp/alice/',
      'jwt:corp/аlice',
      'JWT:corp/alice',
      'group:corp/admins',
      'corp/admins',
      'principal:jwt:corp/alice',
    ];
    for (const name of lookalikes) await rig.bind('acme', name, 'keyViewer');
    for (const group of ['corp/alices', 'open/admins', 'corp/jwt:corp/alice'])
      await rig.bind('acme', '', 'keyViewer', { group });
    assert.equal(await read(alice), 'RESOURCE_NOT_FOUND');
    await rig.bind('acme', '', 'keyViewer', { group: 'corp/admins' });
    assert.equal(await read(alice), 'OK');
    assert.equal(await read(rig.unlimited('alice')), 'OK', 'by its own name');
    assert.equal(
      await read(rig.certified('spiffe://keyward.test/jwt:corp/alice')),
      'RESOURCE_NOT_FOUND',
    );
  });

  test('that don’t show what they are, patterns that are none, and what is too much, are refused by field', async () => {
    const wrong: [string, BindingChanges][] = [
      ['principal', { principal: 'a\u202eb' }],
      ['principal', { principal: ' a' }],
      ['principal', { principal: 'a\n' }],
      ['principal', { principal: 'x'.repeat(2_049) }],
      ['group', { group: 'corp' }],
      ['group', { group: 'Corp/a' }],
      ['group', { group: 'corp/' }],
      ['role', { role: 'encrypter' }],
      ['role', { role: '' }],
      ['key_pattern', { keyPattern: 'a*b' }],
      ['key_pattern', { keyPattern: '**' }],
      ['key_pattern', { keyPattern: 'A' }],
      ['key_pattern', { keyPattern: 'a/b' }],
      ['key_pattern', { keyPattern: 'a\n' }],
      [
        'conditions',
        { conditions: Array.from({ length: 17 }, () => ({ contextKey: 'x', equals: '1' })) },
      ],
      ['conditions', { conditions: [{ contextKey: 'x' }] }],
      ['conditions', { conditions: [{ contextKey: '', equals: '1' }] }],
      ['conditions', { conditions: [{ contextKey: 'keyward:x', equals: '1' }] }],
      ['conditions', { conditions: [{ contextKey: 'x', equals: '\u0000' }] }],
      ['conditions', { conditions: [{ contextKey: 'x', oneOf: { values: [] } }] }],
      [
        'conditions',
        { conditions: [{ contextKey: 'x', oneOf: { values: Array(101).fill('1') } }] },
      ],
      ['conditions', { conditions: [{ contextKey: 'x', claim: { path: [] } }] }],
      ['conditions', { conditions: [{ contextKey: 'x', claim: { path: Array(6).fill('a') } }] }],
      ['conditions', { conditions: [{ contextKey: 'x', claim: { path: ['a\u0000'] } }] }],
      ['description', { description: 'x'.repeat(1025) }],
      ['description', { description: 'a\u0007' }],
    ];
    const beyond = bindingOf(uri('x'), 'keyViewer', { expireTime: { seconds: 1e13 } });
    const late = { parent: 'tenants/acme', roleBinding: beyond };
    // JSON has no such time.
    assert.equal((await rig.askByGrpc(rig.tester, CREATE, late)).reason, 'INVALID_FIELD');
    for (const [field, changes] of wrong) {
      const request = {
        parent: 'tenants/acme',
        roleBinding: bindingOf(uri('x'), 'keyViewer', changes),
      };
      const { reason, message } = await rig.ask(rig.tester, CREATE, request);
      assert.equal(reason, 'INVALID_FIELD', `${field} ${JSON.stringify(changes)}: ${message}`);
    }
    const nobody = { parent: 'tenants/acme', roleBinding: { role: 'roles/keyViewer' } };
    assert.equal((await rig.ask(rig.tester, CREATE, nobody)).reason, 'INVALID_FIELD');
    assert.equal(
      (await rig.ask(rig.tester, CREATE, { parent: 'tenants/acme' })).reason,
      'INVALID_FIELD',
    );
    assert.equal(
      (await rig.ask(rig.tester, CREATE, { parent: 'tenants/-' })).reason,
      'INVALID_FIELD',
    );
    const roles = [['no.such'], ['toString'], [], ['keys.get', 'keys.get']];
    for (const permissions of roles) {
      const request = { parent: 'tenants/acme', roleId: newId('own'), role: { permissions } };
      const { reason } = await rig.ask(rig.tester, 'AccessService/CreateRole', request);
      assert.equal(reason, 'INVALID_FIELD', String(permissions));
    }
  });

  test('of conditions may be those of any object’s own, and times those of long ago', async () => {
    const conditions = ['__proto__', 'constructor'].map((contextKey) => ({
      contextKey,
      equals: 'x',
    }));
    const caller = await somebody('acme', 'encrypter', { conditions });
    const encrypt = (encryptionContext: object) =>
      rig.ask(caller, 'EncryptionService/Encrypt', { name: KEY, encryptionContext });
    assert.equal((await encrypt({})).reason, 'PERMISSION_MISSING');
    const context = Object.fromEntries([
      ['__proto__', 'x'],
      ['constructor', 'x'],
    ]);
    assert.equal((await encrypt(context)).reason, 'OK');
    const ended = await somebody('acme', 'encrypter', { expireTime: { seconds: -62_135_596_800 } });
    const { reason } = await rig.ask(ended, 'EncryptionService/Encrypt', { name: KEY });
    assert.equal(reason, 'RESOURCE_NOT_FOUND');
  });
});

describe('case 37: a condition on the encryption context', () => {
  const sourceOf = async (context: object) =>
    (await rig.done('EncryptionService/Encrypt', { name: KEY, encryptionContext: context }))[
      'ciphertext'
    ];

  test('that a call doesn’t meet keeps its binding from allowing it, in every method that brings one', async () => {
    const conditions = [{ contextKey: 'region', oneOf: { values: ['eu', 'us'] } }];
    const names = ['encrypter', 'decrypter', 'dataKeyIssuer'];
    const caller = await somebody('acme', 'encrypter', { conditions });
    for (const role of names.slice(1)) await rig.bind('acme', caller.name, role, { conditions });
    const stored = { parent: KEY, dataKeyId: newId('dk'), encryptionContext: { region: 'asia' } };
    const { dataKey } = (await rig.done('DataKeyService/CreateDataKey', stored)) as {
      dataKey: { name: string };
    };
    const met = { region: 'eu', more: '1' };
    const calls: [string, (context: object) => Promise<object>][] = [
      [
        'EncryptionService/Encrypt',
        async (encryptionContext) => ({ name: KEY, encryptionContext }),
      ],
      [
        'EncryptionService/GenerateDataKey',
        async (encryptionContext) => ({ name: KEY, encryptionContext }),
      ],
      [
        'EncryptionService/GenerateDataKeyWithoutPlaintext',
        async (encryptionContext) => ({ name: KEY, encryptionContext }),
      ],
      [
        'DataKeyService/CreateDataKey',
        async (encryptionContext) => ({ parent: KEY, encryptionContext }),
      ],
      [
        'EncryptionService/ReEncrypt',
        async (destinationEncryptionContext) => ({
          name: KEY,
          ciphertext: await sourceOf(met),
          sourceEncryptionContext: met,
          destinationEncryptionContext,
        }),
      ],
      [
        'EncryptionService/ReEncrypt',
        async (sourceEncryptionContext) => ({
          name: KEY,
          ciphertext: await sourceOf(sourceEncryptionContext),
          sourceEncryptionContext,
          destinationEncryptionContext: met,
        }),
      ],
      [
        'EncryptionService/Decrypt',
        async (encryptionContext) => ({
          parent: 'tenants/acme',
          ciphertext: await sourceOf(encryptionContext),
          encryptionContext,
        }),
      ],
    ];
    for (const [method, request] of calls) {
      for (const context of [
        {},
        { region: 'asia' },
        { region: '' },
        { Region: 'eu' },
        { regions: 'eu' },
      ]) {
        const { reason } = await rig.ask(caller, method, await request(context));
        assert.equal(reason, 'PERMISSION_MISSING', `${method} ${JSON.stringify(context)}`);
      }
      assert.equal((await rig.ask(caller, method, await request(met))).reason, 'OK', method);
    }
    const get = { name: dataKey.name, encryptionContext: stored.encryptionContext };
    assert.equal(
      (await rig.ask(caller, 'DataKeyService/GetDataKey', get)).reason,
      'PERMISSION_MISSING',
    );
    const lied = { ...get, encryptionContext: met };
    assert.equal(
      (await rig.ask(caller, 'DataKeyService/GetDataKey', lied)).reason,
      'DECRYPTION_FAILED',
    );
    for (const [method, request] of [
      ['EncryptionService/GenerateRandomBytes', { parent: 'tenants/acme', length: 1 }],
      ['KeyService/GetKey', { name: KEY }],
    ] as const)
      assert.equal((await rig.ask(caller, method, request)).reason, 'PERMISSION_MISSING', method);
  });
});

describe('duties', () => {
  const USERS = ['encrypter', 'decrypter', 'dataKeyIssuer'];

  test('are kept apart for every pair of roles, in either order, and for no other pair', async () => {
    const roles = Object.keys(PREDEFINED_ROLES).filter((role) => role !== 'rootAdmin');
    for (const first of roles)
      for (const second of roles) {
        const { name } = await somebody('acme', first);
        const isBoth =
          [first, second].includes('keyAdmin') &&
          [first, second].some((role) => USERS.includes(role));
        const { reason } = await give(rig.tester, 'acme', name, second);
        assert.equal(reason, isBoth ? 'SEPARATION_OF_DUTIES' : 'OK', `${first} and ${second}`);
      }
  });

  test('may be one member’s where they are about different keys', async () => {
    const pairs: [string, string, boolean][] = [
      ['chat-*', 'chat-*', true],
      ['chat-*', 'chat-1', true],
      ['c*', 'chat-*', true],
      ['', 'chat-1', true],
      ['*', 'chat-1', true],
      ['chat-1', 'chat-1', true],
      ['chat-1', 'chat-2', false],
      ['chat-1*', 'chat-2*', false],
      ['chat', 'chat-*', false],
    ];
    for (const [a, b, overlaps] of pairs)
      for (const [first, second] of [[a, b] as const, [b, a] as const]) {
        const { name } = await somebody('acme', 'keyAdmin', { keyPattern: first });
        const { reason } = await give(rig.tester, 'acme', name, 'decrypter', {
          keyPattern: second,
        });
        assert.equal(reason, overlaps ? 'SEPARATION_OF_DUTIES' : 'OK', `${first} and ${second}`);
      }
  });

  test('are kept apart between a tenant and all tenants, by group, and within a role of one’s own', async () => {
    const inTenant = await somebody('acme', 'keyAdmin');
    const everywhere = { allTenants: true };
    assert.equal(
      (await give(rig.tester, 'system', inTenant.name, 'encrypter', everywhere)).reason,
      'SEPARATION_OF_DUTIES',
    );
    assert.equal(
      (await give(rig.tester, 'system', inTenant.name, 'keyViewer', everywhere)).reason,
      'OK',
    );
    assert.equal(
      (await give(rig.tester, 'beta', inTenant.name, 'encrypter')).reason,
      'OK',
      'of another tenant',
    );
    const ofAll = await somebody('system', 'encrypter', everywhere);
    for (const tenant of ['acme', 'beta'])
      assert.equal(
        (await give(rig.tester, tenant, ofAll.name, 'keyAdmin')).reason,
        'SEPARATION_OF_DUTIES',
      );
    assert.equal(
      (await give(rig.tester, 'acme', '', 'keyAdmin', { group: 'corp/both' })).reason,
      'OK',
    );
    assert.equal(
      (await give(rig.tester, 'acme', '', 'decrypter', { group: 'corp/both' })).reason,
      'SEPARATION_OF_DUTIES',
    );
    const both = await ownRole('acme', ['keys.rotate', 'data.decrypt']);
    assert.equal(
      (await give(rig.tester, 'acme', uri(newId('x')), both)).reason,
      'SEPARATION_OF_DUTIES',
    );
  });

  test('are kept apart where bindings in a tenant and in system are made at once, on any replicas', async () => {
    const other = rig.services[1] ?? (await rig.addReplica());
    for (let round = 0; round < 15; round++) {
      const member = uri(newId('at-once'));
      const ask = (tenant: string, role: string, changes: BindingChanges, service: Service) =>
        rig.ask(
          rig.tester,
          CREATE,
          { parent: `tenants/${tenant}`, roleBinding: bindingOf(member, role, changes) },
          service,
        );
      const outcomes = await Promise.all([
        ask('system', 'keyAdmin', { allTenants: true }, rig.service),
        ask('acme', 'decrypter', {}, round % 2 === 0 ? rig.service : other),
      ]);
      assert.deepEqual(
        outcomes.map(({ reason }) => reason).sort(),
        ['OK', 'SEPARATION_OF_DUTIES'],
        `round ${round}`,
      );
    }
  });

  test('that are kept apart in many tenants at once keep no call waiting for another', async () => {
    const member = uri(newId('everywhere'));
    const outcomes = await Promise.all(
      Array.from({ length: 30 }, (_, index) =>
        index % 3 === 0
          ? give(rig.tester, 'system', member, 'keyAdmin', { allTenants: true })
          : give(rig.tester, index % 3 === 1 ? 'acme' : 'beta', member, 'decrypter'),
      ),
    );
    const reasons = new Set(outcomes.map(({ reason }) => reason));
    assert.deepEqual([...reasons].sort(), ['OK', 'SEPARATION_OF_DUTIES']);
  });

  test('of a binding that has ended don’t count, those of one that ends later do', async () => {
    const ended = await somebody('acme', 'keyAdmin', { expireTime: { seconds: 1_000_000_000 } });
    assert.equal((await give(rig.tester, 'acme', ended.name, 'decrypter')).reason, 'OK');
    const ends = await somebody('acme', 'keyAdmin', { expireTime: { seconds: 4_000_000_000 } });
    assert.equal(
      (await give(rig.tester, 'acme', ends.name, 'decrypter')).reason,
      'SEPARATION_OF_DUTIES',
    );
  });

  test('may be both by a binding that says so, which the audit log shows; what is neither is given on', async () => {
    const { name } = await somebody('acme', 'keyAdmin');
    const from = (await rig.audited()).length;
    const override = { overrideSeparationOfDuties: true };
    const { answer } = await give(rig.tester, 'acme', name, 'decrypter', override);
    assert.equal(answer['overrideSeparationOfDuties'], true);
    const rows = (await rig.audited(from)).filter(({ resource }) => resource === answer['name']);
    assert.deepEqual(
      rows.map(({ outcome, change }) => [outcome, change?.after?.['overridesSeparation']]),
      [['OK', true]],
    );
    assert.equal((await give(rig.tester, 'acme', name, 'keyViewer')).reason, 'OK');
    assert.equal(
      (await give(rig.tester, 'acme', name, 'encrypter')).reason,
      'SEPARATION_OF_DUTIES',
    );
  });
});

describe('the first administrator', () => {
  test('may create role bindings everywhere and nothing else, as the log says at every start', async () => {
    const FIRST = 'jwt:open/first';
    const replica = await rig.addReplica({ KEYWARD_FIRST_ADMINISTRATOR: FIRST });
    const warned = replica.log.find(({ firstAdministrator }) => firstAdministrator !== undefined);
    assert.match(
      String(warned?.['msg']),
      /KEYWARD_FIRST_ADMINISTRATOR may create role bindings; unset it/,
    );
    assert.equal(warned?.['firstAdministrator'], FIRST);
    assert.ok(!rig.service.log.some(({ firstAdministrator }) => firstAdministrator !== undefined));
    const named = await sql(
      rig.environment,
      `SELECT 1 FROM audit_entries WHERE entry ->> 'method' = $1
         AND entry -> 'detail' ->> 'firstAdministrator' = $2`,
      ['keyward.v1.Maintenance/NameFirstAdministrator', FIRST],
    );
    assert.equal(named.length, 1, 'the audit log names him, before he has done anything');
    const first = rig.unlimited('first');
    const nobody = rig.certified(uri('nobody'));
    const ofEveryCaller: Readonly<Record<string, string>> = {
      [CREATE]: 'OK',
      'AccessService/TestPermissions': 'OK',
      'AccessService/GetCaller': 'OK',
      'PasskeyService/BeginPasskeyRegistration': 'PASSKEYS_NOT_CONFIGURED',
      'PasskeyService/GetPasskey': 'RESOURCE_NOT_FOUND',
    };
    for (const tenant of ['acme', 'system'])
      for (const rpc of RPCS) {
        if (rpc.name === 'KeyService/CreateKey' && tenant === 'system') continue;
        if (rpc.name === 'EncryptionService/GenerateRandomBytes' && tenant === 'system') continue;
        const request = await wellFormed(rig, nobody, rpc, { tenant });
        const { reason } = await rig.ask(first, rpc.name, request, replica);
        const expected = ofEveryCaller[rpc.name] ?? 'PERMISSION_MISSING';
        assert.equal(reason, expected, `${rpc.name} in ${tenant}`);
        if (rpc.name !== CREATE) continue;
        assert.equal(
          (await rig.ask(first, rpc.name, request)).reason !== 'OK',
          true,
          'by another replica',
        );
      }
    const roleBinding = bindingOf(uri('second'), 'rootAdmin', { allTenants: true });
    const made = await rig.ask(first, CREATE, { parent: 'tenants/system', roleBinding }, replica);
    assert.equal(made.reason, 'OK');
    assert.equal(made.answer['creator'], FIRST);
    const second = rig.certified(uri('second'));
    await eventually(() => rig.done('AdminService/ListTenants', {}, second));
    const { answer } = await rig.ask(first, 'AccessService/GetCaller', {}, replica);
    assert.equal(answer['firstAdministrator'], true);
  });

  test('isn’t it where his token is no good: not for the service by a token for a tenant', async () => {
    const replica = await rig.addReplica({ KEYWARD_FIRST_ADMINISTRATOR: 'jwt:corp/first' });
    const ask = (tenants: readonly string[], tenant: string, allTenants: boolean) =>
      rig.ask(
        rig.tokened('first', tenants),
        CREATE,
        {
          parent: `tenants/${tenant}`,
          roleBinding: bindingOf(uri('third'), 'keyViewer', { allTenants }),
        },
        replica,
      );
    assert.equal((await ask(['acme'], 'acme', false)).reason, 'OK');
    assert.equal((await ask(['acme'], 'beta', false)).reason, 'RESOURCE_NOT_FOUND');
    assert.equal((await ask(['acme'], 'system', false)).reason, 'PERMISSION_MISSING');
    assert.equal((await ask(['acme'], 'system', true)).reason, 'PERMISSION_MISSING');
    assert.equal((await ask(['system'], 'system', true)).reason, 'OK');
  });
});

describe('a question about access', () => {
  test('is answered for the caller himself: who he is, and what he may do', async () => {
    const caller = rig.tokened('asker', ['acme', 'beta'], { groups: ['a', 'b'] });
    const who = await rig.done('AccessService/GetCaller', {}, caller);
    const { expireTime, ...rest } = who;
    assert.ok(expireTime);
    assert.deepEqual(rest, {
      name: 'jwt:corp/asker',
      issuer: 'corp',
      groups: ['corp/a', 'corp/b'],
      limitedToTenants: true,
      tenants: ['tenants/acme', 'tenants/beta'],
      firstAdministrator: false,
      // Its issuer is not trusted to say.
      acr: '',
      authenticationMethods: [],
      authenticationTime: null,
    });
    const conditions = [{ contextKey: 'sub', claim: { path: ['sub'] } }];
    await rig.bind('acme', '', 'decrypter', { group: 'corp/b', keyPattern: 'k', conditions });
    const may = async (resource: string, encryptionContext = {}) => {
      const permissions = ['keys.get', 'data.decrypt', 'dataKeys.get', 'data.encrypt'];
      const request = { resource, permissions, encryptionContext };
      return (await rig.done('AccessService/TestPermissions', request, caller))['permissions'];
    };
    assert.deepEqual(await may(KEY, { sub: 'asker' }), ['data.decrypt', 'dataKeys.get']);
    assert.deepEqual(await may(KEY, { sub: 'another' }), []);
    assert.deepEqual(await may(KEY), []);
    assert.deepEqual(await may('tenants/acme', { sub: 'asker' }), []);
    assert.deepEqual(await may('tenants/beta', { sub: 'asker' }), []);
    assert.deepEqual(await may('tenants/nowhere', { sub: 'asker' }), []);
  });

  test('why somebody may not do something is answered with every obstacle of every binding of his', async () => {
    const name = `jwt:open/${newId('explained')}`;
    const conditions = [{ contextKey: 'conversation', claim: { path: ['chat', 'id'] } }];
    const bound: [string, BindingChanges, string[]][] = [
      ['decrypter', { keyPattern: 'chat-*', conditions }, []],
      ['encrypter', { keyPattern: 'chat-*' }, ['PERMISSION']],
      ['decrypter', { keyPattern: 'mail-*' }, ['KEY']],
      ['decrypter', { expireTime: { seconds: 1_000_000_000 } }, ['EXPIRED']],
      ['decrypter', { conditions: [{ contextKey: 'conversation', equals: '43' }] }, ['CONTEXT']],
      [
        'encrypter',
        {
          keyPattern: 'mail-1',
          expireTime: { seconds: 1 },
          conditions: [{ contextKey: 'x', equals: '' }],
        },
        ['PERMISSION', 'KEY', 'EXPIRED', 'CONTEXT'],
      ],
    ];
    const expected = new Map<string, string[]>();
    for (const [role, changes, obstacles] of bound)
      expected.set(await rig.bind('acme', name, role, changes), obstacles);
    expected.set(await rig.bind('acme', '', 'keyViewer', { group: 'open/x' }), ['PERMISSION']);
    expected.set(
      await rig.bind('system', name, 'decrypter', { allTenants: true, keyPattern: 'z' }),
      ['KEY'],
    );
    await rig.bind('system', name, 'tenantAdmin');
    await rig.bind('beta', name, 'decrypter');
    const auditor = await somebody('acme', 'auditor');
    const claim = (value: string) => [{ claim: { path: ['chat', 'id'] }, value }];
    const explain = (changes: object) =>
      rig.done(
        'AccessService/ExplainAccess',
        {
          resource: 'tenants/acme/keys/chat-1',
          permission: 'data.decrypt',
          principal: name,
          groups: ['open/x'],
          encryptionContext: { conversation: '42' },
          ...changes,
        },
        auditor,
      );
    const answer = await explain({ claims: claim('42') });
    assert.equal(answer['allowed'], true);
    assert.equal(answer['roleBinding'], [...expected.keys()][0]);
    const considered = answer['considered'] as { roleBinding: string; obstacles: string[] }[];
    assert.deepEqual(
      new Map(
        considered.map((each) => [
          each.roleBinding,
          each.obstacles.map((obstacle) => obstacle.replace('ACCESS_OBSTACLE_', '')),
        ]),
      ),
      expected,
    );
    for (const claims of [claim('43'), claim(''), []]) {
      const refused = await explain({ claims });
      assert.deepEqual([refused['allowed'], refused['roleBinding']], [false, '']);
    }
    assert.deepEqual(await explain({ principal: uri('unknown'), groups: [] }), {
      allowed: false,
      roleBinding: '',
      considered: [],
      tokenTenant: '',
    });
  });

  test('is answered as the call is: by what the token is valid for, and whether it can be one at all', async () => {
    const id = newId('token');
    const names = [`jwt:corp/${id}`, `jwt:open/${id}`, `jwt:nobody/${id}`, uri(id)];
    for (const [index, name] of names.entries()) {
      await rig.bind('acme', name, 'keyViewer');
      await rig.bind('system', name, 'keyViewer', { allTenants: true, keyPattern: `x${index}` });
    }
    const explain = (principal: string, changes: object = {}) =>
      rig.ask(rig.tester, 'AccessService/ExplainAccess', {
        resource: KEY,
        permission: 'keys.get',
        principal,
        ...changes,
      });
    const holds = async (principal: string, changes: object = {}) => {
      const { reason, answer } = await explain(principal, changes);
      assert.equal(reason, 'OK', principal);
      return answer;
    };
    const called = async (caller: Caller) =>
      (await rig.ask(caller, 'KeyService/GetKey', { name: KEY })).reason === 'OK';
    const [corp = '', open = '', nobody = '', certified = ''] = names;
    for (const tenants of [['acme'], ['beta'], [], ['beta', 'acme', 'system'], ['system']]) {
      const given = {
        limitedToTenants: true,
        tenants: tenants.map((tenant) => `tenants/${tenant}`),
      };
      const { allowed, tokenTenant, considered } = await holds(corp, given);
      assert.equal(tokenTenant, '');
      assert.equal(allowed, await called(rig.tokened(id, tenants)), `${tenants}`);
      const lacks = (considered as { obstacles: string[] }[]).map(({ obstacles }) => obstacles);
      const isGood = tenants.includes('acme');
      assert.deepEqual(lacks, [
        isGood ? [] : ['ACCESS_OBSTACLE_TENANT'],
        ['ACCESS_OBSTACLE_KEY', ...(isGood ? [] : ['ACCESS_OBSTACLE_TENANT'])],
      ]);
    }
    // Where that is not told, the answer tells it.
    const untold = await holds(corp);
    assert.deepEqual([untold['allowed'], untold['tokenTenant']], [true, 'tenants/acme']);
    const unlimited = await holds(open);
    assert.deepEqual([unlimited['allowed'], unlimited['tokenTenant']], [true, '']);
    assert.ok(await called(rig.unlimited(id)));
    const byCertificate = await holds(certified);
    assert.deepEqual([byCertificate['allowed'], byCertificate['tokenTenant']], [true, '']);
    const { allowed, considered } = await holds(nobody);
    assert.equal(allowed, false);
    assert.deepEqual((considered as { obstacles: string[] }[])[0]?.obstacles, [
      'ACCESS_OBSTACLE_ISSUER',
    ]);
    for (const [principal, changes] of [
      [certified, { groups: ['corp/a'] }],
      [certified, { claims: [{ claim: { path: ['a'] }, value: 'b' }] }],
      [certified, { limitedToTenants: true }],
      [corp, { groups: ['corp/a', 'open/a'] }],
      [corp, { tenants: ['tenants/acme'] }],
    ] as const)
      assert.equal((await explain(principal, changes)).reason, 'INVALID_FIELD');
  });

  test('is answered of the first administrator as well', async () => {
    const name = uri(newId('first'));
    const replica = await rig.addReplica({ KEYWARD_FIRST_ADMINISTRATOR: name });
    const question = { resource: 'tenants/acme', principal: name };
    const of = async (permission: string) => {
      const request = { ...question, permission };
      return (await rig.ask(rig.tester, 'AccessService/ExplainAccess', request, replica)).answer;
    };
    const { allowed, roleBinding } = await of('roleBindings.create');
    assert.deepEqual([allowed, roleBinding], [true, 'KEYWARD_FIRST_ADMINISTRATOR']);
    assert.equal((await of('keys.list'))['allowed'], false);
  });

  test('which bindings there are is answered in pages and by filters, and one by its name', async () => {
    const { name: tenant } = await rig.done('AdminService/CreateTenant', {
      tenantId: newId('lists'),
    });
    const id = String(tenant).split('/').at(-1) ?? '';
    const names: string[] = [];
    for (let index = 0; index < 5; index += 1)
      names.push(
        await rig.bind(id, uri(`listed-${index % 2}`), index < 3 ? 'keyViewer' : 'auditor'),
      );
    names.push(await rig.bind(id, '', 'keyViewer', { group: 'corp/listed' }));
    const list = async (request: object) => {
      const found: string[] = [];
      let pageToken = '';
      do {
        const page = await rig.done('AccessService/ListRoleBindings', {
          parent: tenant,
          ...request,
          pageToken,
        });
        const bindings = page['roleBindings'] as { name: string }[];
        assert.ok(bindings.length <= 2);
        found.push(...bindings.map((each) => each.name));
        pageToken = String(page['nextPageToken']);
      } while (pageToken !== '');
      return found;
    };
    const wanted = (indexes: number[]) => indexes.map((index) => names[index]).sort();
    assert.deepEqual(await list({ pageSize: 2 }), wanted([0, 1, 2, 3, 4, 5]));
    const filters: [string, number[]][] = [
      [`principal = "${uri('listed-1')}"`, [1, 3]],
      ['group = "corp/listed"', [5]],
      ['role = "roles/auditor"', [3, 4]],
      [`role = "roles/auditor" AND principal != "${uri('listed-1')}"`, [4]],
      ['principal = "nobody"', []],
    ];
    for (const [filter, indexes] of filters)
      assert.deepEqual(await list({ pageSize: 2, filter }), wanted(indexes), filter);
    const bad = { parent: tenant, filter: 'creator = "x"' };
    assert.equal(
      (await rig.ask(rig.tester, 'AccessService/ListRoleBindings', bad)).reason,
      'INVALID_FIELD',
    );
    assert.equal(
      (await rig.done('AccessService/GetRoleBinding', { name: names[0] }))['name'],
      names[0],
    );
  });
});

describe('a request that comes twice', () => {
  const request = () => ({
    parent: 'tenants/acme',
    requestId: randomUUID(),
    roleBinding: bindingOf(uri(newId('twice')), 'keyViewer'),
  });
  const countOf = async (given: { readonly roleBinding: object }) => {
    const { principal } = given.roleBinding as { principal: string };
    const filter = `principal = "${principal}"`;
    const { roleBindings } = await rig.done('AccessService/ListRoleBindings', {
      parent: 'tenants/acme',
      filter,
    });
    return (roleBindings as object[]).length;
  };

  test('case 89: has one effect and one answer, at once or later; another body is refused', async () => {
    const again = request();
    const answers = await Promise.all([1, 2, 3].map(() => rig.ask(rig.tester, CREATE, again)));
    const later = await rig.ask(rig.tester, CREATE, again);
    for (const each of [...answers, later]) assert.deepEqual(each.answer, later.answer);
    assert.equal(later.reason, 'OK');
    assert.equal(await countOf(again), 1);
    const other = { ...again, roleBinding: bindingOf(uri('other'), 'keyViewer') };
    assert.equal((await rig.ask(rig.tester, CREATE, other)).reason, 'REQUEST_ID_REUSED');
    const { name } = later.answer;
    const gone = { name, requestId: randomUUID() };
    for (let time = 0; time < 2; time += 1)
      assert.equal(
        (await rig.ask(rig.tester, 'AccessService/DeleteRoleBinding', gone)).reason,
        'OK',
      );
    const afterwards = await rig.ask(rig.tester, CREATE, again);
    assert.deepEqual(afterwards.answer, later.answer);
    assert.equal(await countOf(again), 0);
  });

  test('isn’t answered with what has its name by now', async () => {
    const first = { ...request(), roleBindingId: newId('named') };
    const made = (await rig.ask(rig.tester, CREATE, first)).answer;
    const { name } = made;
    await rig.done('AccessService/DeleteRoleBinding', { name });
    const admin = await somebody('acme', 'tenantAdmin');
    const second = { ...first, requestId: '', roleBinding: bindingOf(uri('secret'), 'auditor') };
    assert.equal((await rig.ask(admin, CREATE, second)).reason, 'OK');
    assert.deepEqual((await rig.ask(rig.tester, CREATE, first)).answer, made);
  });

  test('is asked about as the first time: by another caller, after the right is gone, it gets nothing', async () => {
    const stored: Outcome[] = [];
    const issuer = rig.certified(uri(newId('issuer')));
    const name = String((await rig.done('AccessService/GetCaller', {}, issuer))['name']);
    const binding = await rig.bind('acme', name, 'dataKeyIssuer');
    const create = {
      parent: KEY,
      dataKeyId: newId('dk'),
      returnPlaintext: true,
      requestId: randomUUID(),
    };
    for (let time = 0; time < 2; time += 1)
      stored.push(await rig.ask(issuer, 'DataKeyService/CreateDataKey', create));
    assert.deepEqual(stored[0]?.answer, stored[1]?.answer);
    const other = await somebody('acme', 'dataKeyIssuer');
    assert.equal(
      (await rig.ask(other, 'DataKeyService/CreateDataKey', create)).reason,
      'RESOURCE_EXISTS',
    );
    await rig.done('AccessService/DeleteRoleBinding', { name: binding });
    await eventually(async () => {
      const { reason, answer } = await rig.ask(issuer, 'DataKeyService/CreateDataKey', create);
      assert.equal(reason, 'RESOURCE_NOT_FOUND');
      assert.deepEqual(answer, {});
    });
  });
});
