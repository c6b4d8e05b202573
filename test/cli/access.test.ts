import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { wireRoleBinding } from '../client/fake-service.ts';
import { BINDING, KEY, ROLE, useFakeService } from './fake.ts';

const PARENT = 'tenants/acme';
const REQUEST_ID = 'f0000000-0000-4000-8000-000000000000';

const fake = useFakeService();
const { keyward, refuse } = fake;

/** What a binding has of which nothing is said. */
const PLAIN = {
  name: '',
  keyPattern: '',
  allTenants: false,
  expireTime: null,
  conditions: [],
  overrideSeparationOfDuties: false,
  description: '',
  createTime: null,
  creator: '',
};

/** The binding that was to be made. */
function sentBinding(): Record<string, unknown> {
  const { roleBinding } = fake.seen['CreateRoleBinding'] ?? {};
  return roleBinding as Record<string, unknown>;
}

describe('access bind', () => {
  it('gives a role to a caller or a group, for everything and for ever unless more is said', async () => {
    const cases: [args: string, request: object, binding: object][] = [
      [
        'bind acme --principal spiffe://acme/orders --role decrypter',
        { parent: PARENT, roleBindingId: '' },
        {
          ...PLAIN,
          principal: 'spiffe://acme/orders',
          member: 'principal',
          role: 'roles/decrypter',
        },
      ],
      [
        `bind ${PARENT} --group corp/admins --role ${ROLE} --id admins`,
        { parent: PARENT, roleBindingId: 'admins' },
        { ...PLAIN, group: 'corp/admins', member: 'group', role: ROLE },
      ],
      [
        'bind system --group corp/root --role roles/keyAdmin --all-tenants --keys orders-* --description all ' +
          '--expires 2099-01-31T12:00:00Z --override-separation-of-duties',
        { parent: 'tenants/system', roleBindingId: '' },
        {
          ...PLAIN,
          group: 'corp/root',
          member: 'group',
          role: 'roles/keyAdmin',
          keyPattern: 'orders-*',
          allTenants: true,
          expireTime: { seconds: Date.parse('2099-01-31T12:00:00Z') / 1000, nanos: 0 },
          overrideSeparationOfDuties: true,
          description: 'all',
        },
      ],
    ];
    for (const [args, request, binding] of cases) {
      const { code, stderr } = await keyward(`access ${args} --request-id ${REQUEST_ID}`);
      assert.deepEqual([code, stderr], [0, ''], args);
      const { roleBinding, ...rest } = fake.seen['CreateRoleBinding'] ?? {};
      assert.deepEqual(rest, { ...request, requestId: REQUEST_ID }, args);
      assert.deepEqual(roleBinding, binding, args);
    }
  });

  it('takes conditions on the encryption context, of each kind', async () => {
    const member = [
      'access',
      'bind',
      'acme',
      '--principal',
      'spiffe://acme/orders',
      '--role',
      'decrypter',
    ];
    const conditions = [
      ...['--context', 'use=a=b', '--context', 'empty='],
      ...['--context-one-of', 'region=eu,us'],
      ...['--context-claim', 'conversation=chat.id'],
      ...['--context-claim', 'url=["https://example.com/chat","id"]'],
    ];
    assert.equal((await keyward([...member, ...conditions])).code, 0);
    assert.deepEqual(sentBinding()['conditions'], [
      { contextKey: 'use', equals: 'a=b', requirement: 'equals' },
      { contextKey: 'empty', equals: '', requirement: 'equals' },
      { contextKey: 'region', oneOf: { values: ['eu', 'us'] }, requirement: 'oneOf' },
      { contextKey: 'conversation', claim: { path: ['chat', 'id'] }, requirement: 'claim' },
      {
        contextKey: 'url',
        claim: { path: ['https://example.com/chat', 'id'] },
        requirement: 'claim',
      },
    ]);
  });

  it('ends after a duration from now', async () => {
    const before = Date.now();
    await keyward(
      'access bind acme --principal spiffe://acme/orders --role decrypter --expires 8h',
    );
    const { seconds } = sentBinding()['expireTime'] as { seconds: number };
    const after = Date.now();
    assert.ok(seconds >= Math.floor(before / 1000) + 28_800, String(seconds));
    assert.ok(seconds <= Math.floor(after / 1000) + 28_800, String(seconds));
  });

  it('prints the binding, and nobody’s text that could command a terminal', async () => {
    const args = 'access bind acme --principal spiffe://acme/orders --role decrypter';
    const { stdout } = await keyward(`${args} --output wide`);
    assert.match(
      stdout,
      /^NAME +MEMBER +ROLE +KEYS +TENANTS +CONTEXT +EXPIRES +DUTIES +CREATED +CREATOR +DESCRIPTION\n/,
    );
    assert.match(
      stdout,
      /\ntenants\/acme\/roleBindings\/orders +spiffe:\/\/acme\/orders +roles\/decrypter +orders-\* +this +use= region=one of eu,us conversation=claim chat\.id +2027-01-15T08:00:00\.000Z +separated +2023-11-14T22:13:20\.000Z +spiffe:\/\/acme\/admin +for orders\n$/,
    );
    const other = {
      principal: undefined,
      group: 'corp/\u001b[2Jroot',
      keyPattern: '',
      allTenants: true,
      expireTime: null,
      overrideSeparationOfDuties: true,
      conditions: [
        { contextKey: 'a', claim: { path: ['https://example.com/chat', 'id'] } },
        { contextKey: 'b' },
      ],
    };
    fake.handlers['GetRoleBinding'] = () => wireRoleBinding(BINDING, other);
    assert.match(
      (await keyward(`access get ${BINDING}`)).stdout,
      / group corp\/\?\[2Jroot +roles\/decrypter +everything +ALL +a=claim \["https:\/\/example\.com\/chat","id"\] b=UNSPECIFIED +never +NOT SEPARATED /,
    );
    const nobody = { principal: undefined, conditions: [] };
    fake.handlers['GetRoleBinding'] = () => wireRoleBinding(BINDING, nobody);
    assert.match(
      (await keyward(`access get ${BINDING}`)).stdout,
      /orders +UNSPECIFIED .* this +any +2027/,
    );
    const json = JSON.parse((await keyward(`${args} --output json`)).stdout);
    assert.deepEqual(json.conditions[1], { contextKey: 'region', oneOf: ['eu', 'us'] });
    assert.deepEqual([json.group, json.expireTime], [undefined, '2027-01-15T08:00:00.000Z']);
  });
});

describe('role bindings and roles', () => {
  it('are named in full or by their ids', async () => {
    const page = { pageSize: 100, pageToken: '' };
    const created = { name: '', createTime: null, creator: '' };
    const filter = 'role="roles/decrypter"';
    const cases: [args: string, method: string, request: object][] = [
      ['bindings acme', 'ListRoleBindings', { parent: PARENT, ...page, filter: '' }],
      [
        `bindings --tenant acme --filter ${filter}`,
        'ListRoleBindings',
        { parent: PARENT, ...page, filter },
      ],
      [`get ${BINDING}`, 'GetRoleBinding', { name: BINDING }],
      ['get orders --tenant acme', 'GetRoleBinding', { name: BINDING }],
      [`unbind ${BINDING}`, 'DeleteRoleBinding', { name: BINDING }],
      ['unbind orders --tenant acme', 'DeleteRoleBinding', { name: BINDING }],
      ['roles acme', 'ListRoles', { parent: PARENT }],
      ['roles --tenant tenants/acme', 'ListRoles', { parent: PARENT }],
      [
        `role create ${ROLE} data.decrypt keys.get`,
        'CreateRole',
        {
          parent: PARENT,
          roleId: 'opener',
          role: { ...created, permissions: ['data.decrypt', 'keys.get'], description: '' },
        },
      ],
      [
        'role create opener keys.get --tenant acme --description opens',
        'CreateRole',
        {
          parent: PARENT,
          roleId: 'opener',
          role: { ...created, permissions: ['keys.get'], description: 'opens' },
        },
      ],
      [`role get ${ROLE}`, 'GetRole', { name: ROLE }],
      ['role get opener --tenant acme', 'GetRole', { name: ROLE }],
      [`role delete ${ROLE}`, 'DeleteRole', { name: ROLE }],
    ];
    for (const [args, method, request] of cases) {
      const { code, stderr } = await keyward(`access ${args}`);
      const { requestId, ...rest } = fake.seen[method] ?? {};
      assert.deepEqual([code, stderr, rest], [0, '', request], args);
      assert.equal(typeof requestId, /^(Get|List)/.test(method) ? 'undefined' : 'string', args);
    }
  });

  it('are changed under the request id that is given, and deleted', async () => {
    const cases: [args: string, method: string][] = [
      [`unbind ${BINDING}`, 'DeleteRoleBinding'],
      [`role delete ${ROLE}`, 'DeleteRole'],
    ];
    for (const [args, method] of cases) {
      const { code, stdout } = await keyward(`access ${args} --request-id ${REQUEST_ID}`);
      const said = `Deleted ${args.split(' ').at(-1)}.\n`;
      const { requestId } = fake.seen[method] ?? {};
      assert.deepEqual([code, stdout, requestId], [0, said, REQUEST_ID], args);
      assert.deepEqual(JSON.parse((await keyward(`access ${args} --output json`)).stdout), {});
    }
    await keyward(`access role create ${ROLE} keys.get --request-id ${REQUEST_ID}`);
    assert.equal(fake.seen['CreateRole']?.['requestId'], REQUEST_ID);
  });

  it('roles print with their permissions', async () => {
    assert.equal(
      (await keyward('access roles acme -o wide')).stdout,
      [
        'NAME                       CREATED                   CREATOR              DESCRIPTION  PERMISSIONS',
        'roles/decrypter            predefined                                     opens        data.decrypt',
        'tenants/acme/roles/opener  2023-11-14T22:13:20.000Z  spiffe://acme/admin  opens        data.decrypt, keys.get',
        '',
      ].join('\n'),
    );
    const listed = JSON.parse((await keyward('access roles acme --output json')).stdout);
    assert.deepEqual(listed[0], {
      name: 'roles/decrypter',
      permissions: ['data.decrypt'],
      description: 'opens',
      creator: '',
    });
  });

  it('that are not given as they must be end with code 2, and nothing is sent', async () => {
    const bind = 'access bind acme --role decrypter';
    const cases: [args: string, refused: RegExp][] = [
      [bind, /no member is named/],
      [`${bind} --principal a --group b`, /cannot be used with option/],
      ['access bind acme --principal a', /required option '--role <role>' not specified/],
      ['access bind a/b --principal a --role b', /is not a tenant/],
      [`${bind} --principal a --expires soon`, /Write 8h or 90d, or RFC 3339/],
      [`${bind} --principal a --context b`, /Write key=value/],
      [`${bind} --principal a --context-claim b=[1]`, /\[1\]: it is not a claim/],
      [`${bind} --principal a --context-claim b=["c"`, /is not a claim; write chat\.id/],
      ['access bindings', /cannot list bindings/],
      ['access get orders', /the role binding orders: its tenant is missing/],
      [`access unbind ${KEY}`, /is not a role binding/],
      ['access roles', /cannot list roles/],
      ['access role get opener', /the role opener: its tenant is missing/],
      ['access role get roles/decrypter', /roles\/decrypter: it is a predefined role/],
      [`access role create ${ROLE}`, /missing required argument 'permissions'/],
      ['access test acme', /missing required argument 'permissions'/],
      ['access explain acme keys.get', /required option '--principal <name>' not specified/],
    ];
    const outcomes = await Promise.all(cases.map(([args]) => keyward(args)));
    for (const [i, { code, stdout, stderr }] of outcomes.entries()) {
      assert.deepEqual([code, stdout], [2, ''], cases[i]?.[0]);
      assert.match(stderr, cases[i]?.[1] ?? /^$/);
      assert.match(stderr, /^keyward: [^\n]+\n$/);
    }
    assert.deepEqual(fake.seen, {});
  });

  it('that can not be given say why', async () => {
    refuse('CreateRoleBinding', {
      code: status.FAILED_PRECONDITION,
      reason: 'SEPARATION_OF_DUTIES',
      message: 'The member would both administer and use a key.',
    });
    const { code, stderr } = await keyward('access bind acme --principal dns:a --role b');
    assert.deepEqual(
      [code, stderr],
      [1, 'keyward: SEPARATION_OF_DUTIES: The member would both administer and use a key.\n'],
    );
    refuse('CreateRoleBinding', {
      code: status.INVALID_ARGUMENT,
      reason: 'INVALID_FIELD',
      message: 'cannot accept the request',
      fieldViolations: [{ field: 'role_binding.role', description: 'must be a role' }],
    });
    const unknown = await keyward('access bind acme --principal dns:a --role b');
    assert.match(unknown.stderr, /: must be a role; "keyward access roles TENANT" lists them\n$/);
  });
});

describe('access test', () => {
  it('shows which permissions the caller has on a key or a tenant', async () => {
    const args = `access test ${KEY} data.decrypt keys.get --context order=17`;
    const { code, stdout } = await keyward(args);
    assert.deepEqual(
      [code, stdout],
      [0, 'PERMISSION    ALLOWED\ndata.decrypt  yes\nkeys.get      yes\n'],
    );
    const permissions = ['data.decrypt', 'keys.get'];
    const encryptionContext = { order: '17' };
    assert.deepEqual(fake.seen['TestPermissions'], {
      resource: KEY,
      permissions,
      encryptionContext,
    });
    const json = await keyward('access test orders keys.get --tenant acme --output json');
    assert.deepEqual([json.code, JSON.parse(json.stdout)], [0, { permissions: ['keys.get'] }]);
    assert.equal(fake.seen['TestPermissions']?.['resource'], KEY);
    await keyward('access test acme keys.create');
    assert.equal(fake.seen['TestPermissions']?.['resource'], PARENT);
  });

  it('ends with code 1 when one is missing, and says which', async () => {
    fake.handlers['TestPermissions'] = () => ({ permissions: ['keys.get'] });
    const args = `access test ${KEY} data.decrypt keys.get data.encrypt`;
    const { code, stdout, stderr } = await keyward(args);
    assert.equal(code, 1);
    assert.match(stdout, /\ndata\.decrypt +no\nkeys\.get +yes\ndata\.encrypt +no\n$/);
    assert.equal(stderr, `keyward: permissions missing on ${KEY}: data.decrypt, data.encrypt\n`);
    const json = await keyward(`${args} --output json`);
    assert.deepEqual([json.code, JSON.parse(json.stdout)], [1, { permissions: ['keys.get'] }]);
  });
});

describe('access explain', () => {
  const args = `access explain ${KEY} data.decrypt --principal jwt:corp/alice`;

  it('asks of a caller by his name, groups and claims, and the context of the call', async () => {
    const more =
      '--group corp/a --group corp/b --claim chat.id=7 --claim ["a.b"]=c --context order=17';
    assert.equal((await keyward(`${args} ${more}`)).code, 0);
    assert.deepEqual(fake.seen['ExplainAccess'], {
      resource: KEY,
      permission: 'data.decrypt',
      principal: 'jwt:corp/alice',
      groups: ['corp/a', 'corp/b'],
      claims: [
        { claim: { path: ['chat', 'id'] }, value: '7' },
        { claim: { path: ['a.b'] }, value: 'c' },
      ],
      encryptionContext: { order: '17' },
      limitedToTenants: false,
      tenants: [],
    });
    await keyward(`${args} --token-tenant acme --token-tenant tenants/beta`);
    const { limitedToTenants, tenants } = fake.seen['ExplainAccess'] ?? {};
    assert.deepEqual([limitedToTenants, tenants], [true, ['tenants/acme', 'tenants/beta']]);
    await keyward('access explain orders keys.get --tenant acme --principal a');
    assert.equal(fake.seen['ExplainAccess']?.['resource'], KEY);
  });

  it('says what each binding lacks', async () => {
    const considered = [
      { roleBinding: 'b/1', role: 'roles/encrypter', obstacles: [1, 2] },
      { roleBinding: 'b/2', role: 'roles/decrypter', obstacles: [3] },
      { roleBinding: 'b/3', role: 'roles/decrypter', obstacles: [4, 99] },
      { roleBinding: 'b/4', role: 'roles/decrypter', obstacles: [5] },
      { roleBinding: 'b/5', role: '', obstacles: [6] },
    ];
    fake.handlers['ExplainAccess'] = () => ({ considered });
    const { code, stdout, stderr } = await keyward(args);
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(
      stdout,
      [
        `jwt:corp/alice does not have data.decrypt on ${KEY}.`,
        '',
        'b/1 (roles/encrypter): the role does not have data.decrypt, and it is for other keys.',
        'b/2 (roles/decrypter): it has expired.',
        'b/3 (roles/decrypter): it requires an encryption context, and none is given, and an obstacle applies that this release of the command does not know.',
        'b/4 (roles/decrypter): the token is not valid for the tenant.',
        'b/5: the service trusts no issuer of the caller’s name.',
        '',
      ].join('\n'),
    );
    const inContext = await keyward(`${args} --context order=17`);
    assert.match(
      inContext.stdout,
      /\nb\/3 \S+ the encryption context does not meet its conditions, and/,
    );
    const tenant = await keyward('access explain acme keys.list --principal a');
    assert.match(
      tenant.stdout,
      /keys\.list, and it is only for some keys, not for the tenant as a whole\./,
    );
    const json = JSON.parse((await keyward(`${args} --output json`)).stdout);
    assert.deepEqual([json.allowed, json.considered[0].obstacles], [false, ['PERMISSION', 'KEY']]);
  });

  it('says by which binding it is allowed, and that there is none', async () => {
    const considered = [{ roleBinding: 'b/\u001b1', role: 'roles/decrypter', obstacles: [] }];
    fake.handlers['ExplainAccess'] = () => ({
      allowed: true,
      roleBinding: 'b/\u001b1',
      considered,
    });
    assert.equal(
      (await keyward(args)).stdout,
      `jwt:corp/alice has data.decrypt on ${KEY}, by b/?1.\n\nb/?1 (roles/decrypter): allows it.\n`,
    );
    fake.handlers['ExplainAccess'] = () => ({
      allowed: true,
      roleBinding: 'b/1',
      tokenTenant: PARENT,
    });
    assert.match(
      (await keyward(args)).stdout,
      /^jwt:corp\/alice has .*, by b\/1, with a token that is valid for tenants\/acme\.\n/,
    );
    fake.handlers['ExplainAccess'] = () => ({});
    assert.match(
      (await keyward(args)).stdout,
      /\n\nNo role binding is for that caller or those groups\.\n$/,
    );
  });
});

describe('whoami', () => {
  it('shows the caller as bindings name him, and how far his token goes', async () => {
    const columns = [
      ...['NAME', 'ISSUER', 'GROUPS', 'TENANTS', 'ACR', 'METHODS', 'SIGNED IN', 'AGE'],
      ...['TOKEN EXPIRES', 'FIRST ADMINISTRATOR', 'ROLES'],
    ];
    assert.match(
      (await keyward('whoami')).stdout,
      new RegExp(
        `^${columns.join(' +')}\nspiffe://acme/orders +any +no +decrypter \\(system, orders-\\*\\)\n$`,
      ),
    );
    assert.deepEqual(
      fake.seen['ListRoleBindings']?.['filter'],
      'principal = "spiffe://acme/orders"',
    );
    fake.handlers['TestPermissions'] = () => ({ permissions: [] });
    const limited = {
      name: 'jwt:corp/alice',
      issuer: 'corp',
      groups: ['corp/a', 'corp/b'],
      limitedToTenants: true,
      tenants: [PARENT],
      acr: 'gold',
      authenticationMethods: ['pwd', 'otp'],
      authenticationTime: { seconds: 1_700_000_000, nanos: 0 },
      expireTime: { seconds: 1_800_000_000, nanos: 0 },
      firstAdministrator: true,
    };
    fake.handlers['GetCaller'] = () => limited;
    assert.match(
      (await keyward('whoami')).stdout,
      /\njwt:corp\/alice +corp +corp\/a, corp\/b +tenants\/acme +gold +pwd, otp +2023-11-14T22:13:20\.000Z +\d+d \d\dh +2027-01-15T08:00:00\.000Z +yes +you may not list role bindings\n$/,
    );
    fake.handlers['GetCaller'] = () => ({ ...limited, tenants: [] });
    assert.match((await keyward('whoami')).stdout, / corp\/b +none +gold /);
    const json = JSON.parse((await keyward('whoami --output json')).stdout);
    assert.deepEqual(json, {
      ...{ ...limited, tenants: [] },
      authenticationTime: '2023-11-14T22:13:20.000Z',
      expireTime: '2027-01-15T08:00:00.000Z',
    });
  });
});

describe('a role that is bound already', () => {
  it('is said to be, and not bound again', async () => {
    const { expireTime } = wireRoleBinding(BINDING);
    const expires = new Date(Number(expireTime?.seconds) * 1000).toISOString();
    const args = [
      ...['access', 'bind', 'acme', '--principal', 'spiffe://acme/orders', '--role', 'decrypter'],
      ...['--keys', 'orders-*', '--expires', expires, '--context', 'use='],
      ...['--context-one-of', 'region=eu,us', '--context-claim', 'conversation=chat.id'],
    ];
    const again = await keyward(args);
    assert.deepEqual(
      [again.code, again.stderr, fake.seen['CreateRoleBinding']],
      [0, 'keyward: nothing to do: this is bound already\n', undefined],
    );
    assert.match(again.stdout, /roleBindings\/orders/);
    assert.equal((await keyward([...args, '--id', 'other'])).stderr, '');
    assert.equal(fake.seen['CreateRoleBinding']?.['roleBindingId'], 'other');
    fake.seen = {};
    assert.equal((await keyward(args.with(-1, 'conversation=other.id'))).stderr, '');
    assert.ok(fake.seen['CreateRoleBinding']);
  });

  it('to a name that no caller can have is warned of', async () => {
    for (const member of ['--principal alice', '--group support']) {
      const { code, stderr } = await keyward(`access bind acme ${member} --role decrypter`);
      assert.equal(code, 0);
      assert.match(
        stderr,
        /^keyward: warning: no caller can (have the name alice|be in the group)/,
      );
    }
    for (const name of ['spiffe://a/b', 'jwt:corp/alice', 'dns:a.b', 'O=Acme,CN=batch'])
      assert.equal((await keyward(`access bind acme --principal ${name} --role x`)).stderr, '');
  });
});

describe('access unbind by what was bound', () => {
  const args = 'access unbind acme --principal spiffe://acme/orders --role decrypter';

  it('deletes the only binding of it, and none of several', async () => {
    assert.equal((await keyward(args)).stdout, `Deleted ${BINDING}.\n`);
    assert.equal(fake.seen['DeleteRoleBinding']?.['name'], BINDING);
    assert.equal(
      fake.seen['ListRoleBindings']?.['filter'],
      'principal = "spiffe://acme/orders" AND role = "roles/decrypter"',
    );
    fake.seen = {};
    const roleBindings = [wireRoleBinding(BINDING), wireRoleBinding(`${BINDING}2`)];
    fake.handlers['ListRoleBindings'] = () => ({ roleBindings });
    const several = await keyward(args);
    assert.equal(several.code, 2);
    assert.match(
      several.stderr,
      /2 are of roles\/decrypter .* name one of \S+orders, \S+orders2\n/,
    );
    fake.handlers['ListRoleBindings'] = () => ({ roleBindings: [] });
    const none = await keyward(args);
    assert.equal(none.code, 1);
    assert.match(none.stderr, /has none of roles\/decrypter .*, or you may not see it\n/);
    assert.equal((await keyward('access unbind acme --role decrypter')).code, 2);
    assert.equal(fake.seen['DeleteRoleBinding'], undefined);
  });
});
