/**
 * What a policy allows and what its seal is over, for whatever policies there may be.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import {
  isOfSystem,
  isPermission,
  PERMISSIONS,
  type Permission,
  PREDEFINED_ROLES,
} from '../../src/access/permissions.ts';
import {
  allows,
  LATER,
  obstaclesOf,
  Policy,
  patternsOverlap,
  type Subject,
  type Target,
} from '../../src/access/policy.ts';
import { policyBytes, policyContent } from '../../src/hsm/policy-record.ts';
import { newId, type TenantId } from '../../src/ids.ts';
import {
  type ContextCondition,
  type CustomRole,
  findPolicy,
  insertRole,
  insertRoleBinding,
  type PolicyRecord,
  type RoleBinding,
} from '../../src/store/access/policies.ts';
import type { Store } from '../../src/store/store.ts';
import { callOf, migratedDatabase, newTenant, type TestDatabase } from '../store/database.ts';

const permissions = Object.keys(PERMISSIONS).filter(isPermission);
const permission = fc.constantFrom(...permissions);
/** Few letters, so that patterns and names meet. */
const name = fc.stringMatching(/^[ab]([ab-]{0,3}[ab])?$/);
const pattern = fc.oneof(fc.constantFrom('', '*'), name, fc.stringMatching(/^[ab][ab-]{0,2}\*$/));
const id = fc.stringMatching(/^[a-z]([a-z0-9-]{0,6}[a-z0-9])?$/);
const text = fc
  .string({ unit: 'binary', maxLength: 8 })
  .map((raw) => raw.replaceAll(/[\0\p{Cs}]/gu, '?'));
const time = fc.date({
  min: new Date('0001-01-01T00:00:00Z'),
  max: new Date('9999-12-31T23:59:59.999Z'),
});
const validTime = time.filter((date) => !Number.isNaN(date.getTime()));

const requirement: fc.Arbitrary<ContextCondition['requirement']> = fc.oneof(
  fc.record({ kind: fc.constant('equals' as const), value: fc.constantFrom('', '1', '2') }),
  fc.record({
    kind: fc.constant('oneOf' as const),
    values: fc.array(fc.constantFrom('1', '2', '3'), { minLength: 1, maxLength: 3 }),
  }),
  fc.record({
    kind: fc.constant('claim' as const),
    path: fc.array(fc.constantFrom('c', 'd', '__proto__'), { minLength: 1, maxLength: 2 }),
  }),
);
const condition: fc.Arbitrary<ContextCondition> = fc.record({
  contextKey: fc.constantFrom('x', 'y', '__proto__', 'constructor'),
  requirement,
});

const binding: fc.Arbitrary<RoleBinding> = fc.record({
  bindingId: id,
  member: fc.record({ kind: fc.constantFrom('principal' as const, 'group' as const), name: text }),
  role: fc.constantFrom(
    ...Object.keys(PREDEFINED_ROLES).map((role) => `roles/${role}`),
    'roles/toString',
  ),
  keyPattern: pattern,
  allTenants: fc.boolean(),
  expiresAt: fc.option(validTime),
  conditions: fc.array(condition, { maxLength: 2 }),
  overridesSeparation: fc.boolean(),
  description: text,
  createdAt: validTime,
  creator: text,
});
const role: fc.Arbitrary<CustomRole> = fc.record({
  roleId: id,
  permissions: fc.uniqueArray(permission, { minLength: 1, maxLength: 4 }),
  description: text,
  createdAt: validTime,
  creator: text,
});
const record: fc.Arbitrary<PolicyRecord> = fc.record({
  bindings: fc.uniqueArray(binding, { maxLength: 4, selector: ({ bindingId }) => bindingId }),
  roles: fc.uniqueArray(role, { maxLength: 3, selector: ({ roleId }) => roleId }),
});

const context = fc.option(
  fc
    .array(
      fc.tuple(
        fc.constantFrom('x', 'y', '__proto__', 'constructor'),
        fc.constantFrom('', '1', '2'),
      ),
    )
    .map((entries) => new Map(entries)),
  { nil: undefined },
);
const claims = fc.dictionary(
  fc.constantFrom('["c"]', '["d"]', '["c","d"]'),
  fc.constantFrom('1', '2'),
);

const subjectOf = (
  claimed: Readonly<Record<string, string>>,
  caller = 'me',
  groups: string[] = [],
): Subject => ({
  name: caller,
  groups,
  claim: (path) =>
    Object.hasOwn(claimed, JSON.stringify(path)) ? claimed[JSON.stringify(path)] : undefined,
});

/** Every name of those letters that patterns of theirs can tell apart. */
const NAMES = Array.from({ length: 5 })
  .reduce<string[]>(
    (all) => ['', ...all.flatMap((rest) => ['a', 'b', '-'].map((letter) => `${letter}${rest}`))],
    [''],
  )
  .filter((each) => /^[ab]([ab-]*[ab])?$/.test(each));
const fits = (wanted: string, key: string) =>
  wanted === '' || (wanted.endsWith('*') ? key.startsWith(wanted.slice(0, -1)) : wanted === key);

describe('a binding', () => {
  it('allows what its role, its keys, its time and its conditions allow, all four, and names each that doesn’t', () => {
    fc.assert(
      fc.property(
        binding,
        permission,
        fc.option(name, { nil: undefined }),
        context,
        claims,
        validTime,
        (given, wanted, key, brought, claimed, now) => {
          const [grant] = new Policy({
            tenant: 'system',
            revision: 1n,
            bindings: [given],
            roles: [],
          }).grantsOf({
            name: given.member.kind === 'principal' ? given.member.name : '\u0000',
            groups: given.member.kind === 'group' ? [given.member.name] : [],
          });
          assert.ok(grant);
          const of = PREDEFINED_ROLES[given.role.slice(6) as keyof typeof PREDEFINED_ROLES];
          const has =
            given.role !== 'roles/toString' &&
            (of.permissions as readonly string[]).includes(wanted);
          const hasKey = key === undefined ? given.keyPattern === '' : fits(given.keyPattern, key);
          const ended = given.expiresAt !== null && given.expiresAt.getTime() <= now.getTime();
          const isMet = given.conditions.every(({ contextKey, requirement: wants }) => {
            const value = (brought as ReadonlyMap<string, string> | undefined)?.get(contextKey);
            if (value === undefined) return false;
            if (wants.kind === 'equals') return wants.value === value;
            if (wants.kind === 'oneOf') return wants.values.includes(value);
            return claimed[JSON.stringify(wants.path)] === value;
          });
          const expected = [
            ...(has ? [] : ['permission']),
            ...(hasKey ? [] : ['key']),
            ...(ended ? ['expired'] : []),
            ...(isMet ? [] : ['context']),
          ];
          const target: Target = { key, context: brought };
          const question = [grant, wanted, target, subjectOf(claimed), now.getTime()] as const;
          assert.deepEqual(obstaclesOf(...question), expected);
          assert.equal(allows(...question), expected.length === 0);
        },
      ),
    );
  });

  it('that may fit a key or a context which is found out later is taken to fit until then, and in nothing else', () => {
    fc.assert(
      fc.property(binding, permission, validTime, (given, wanted, now) => {
        const grant = { binding: given, permissions: new Set<Permission>([wanted]) };
        const later = obstaclesOf(
          grant,
          wanted,
          { key: LATER, context: LATER },
          subjectOf({}),
          now.getTime(),
        );
        const ended = given.expiresAt !== null && given.expiresAt.getTime() <= now.getTime();
        assert.deepEqual(later, ended ? ['expired'] : []);
      }),
    );
  });

  it('reaches whom it names and nobody whose name reads like it', () => {
    fc.assert(
      fc.property(binding, text, fc.array(text, { maxLength: 3 }), (given, caller, groups) => {
        const policy = new Policy({ tenant: 'acme', revision: 1n, bindings: [given], roles: [] });
        const isMember =
          given.member.kind === 'principal'
            ? given.member.name === caller
            : groups.includes(given.member.name);
        assert.equal([...policy.grantsOf({ name: caller, groups })].length > 0, isMember);
      }),
    );
  });

  it('of a tenant gives nothing that is beyond it, by whatever role', () => {
    fc.assert(
      fc.property(fc.array(permission), (all) => {
        const own = {
          roleId: 'own',
          permissions: all,
          description: '',
          createdAt: new Date(0),
          creator: '',
        };
        const policyOf = (tenant: string) =>
          new Policy({
            tenant,
            revision: 1n,
            roles: [own],
            bindings: [sampleBinding({ role: `tenants/${tenant}/roles/own` })],
          });
        const given = (tenant: string) =>
          [...policyOf(tenant).grantsOf({ name: 'me', groups: [] })].flatMap((grant) => [
            ...grant.permissions,
          ]);
        assert.deepEqual(new Set(given('system')), new Set(all));
        assert.deepEqual(new Set(given('acme')), new Set(all.filter((each) => !isOfSystem(each))));
      }),
    );
  });
});

it('two patterns overlap exactly if some key fits both', () => {
  fc.assert(
    fc.property(pattern, pattern, (a, b) => {
      const both = NAMES.some((key) => fits(a, key) && fits(b, key));
      assert.equal(patternsOverlap(a, b), both, `${a} ${b}`);
      assert.equal(patternsOverlap(b, a), both, `${b} ${a}`);
    }),
    { numRuns: 2_000 },
  );
});

const TENANT = '11111111-1111-4111-8111-111111111111' as TenantId;

function sampleBinding(changes: Partial<RoleBinding> = {}): RoleBinding {
  return {
    bindingId: 'b1',
    member: { kind: 'principal', name: 'me' },
    role: 'roles/decrypter',
    keyPattern: 'chat-*',
    allTenants: false,
    expiresAt: new Date(1_800_000_000_000),
    conditions: [
      { contextKey: 'conversation', requirement: { kind: 'claim', path: ['chat', 'id'] } },
    ],
    overridesSeparation: false,
    description: 'für „Gespräche“',
    createdAt: new Date(1_700_000_000_123),
    creator: 'spiffe://keyward.test/admin',
    ...changes,
  };
}

describe('what a policy’s seal is over', () => {
  const roles: CustomRole[] = [
    {
      roleId: 'opener',
      permissions: ['data.decrypt', 'keys.get'],
      description: '',
      createdAt: new Date(1_700_000_000_456),
      creator: 'jwt:corp/alice',
    },
  ];
  const others: RoleBinding[] = [
    sampleBinding({
      bindingId: 'a',
      member: { kind: 'group', name: 'corp/admins' },
      role: 'tenants/acme/roles/opener',
      keyPattern: '',
      expiresAt: null,
      conditions: [
        { contextKey: 'x', requirement: { kind: 'equals', value: '1' } },
        { contextKey: 'y', requirement: { kind: 'oneOf', values: ['1', '2'] } },
      ],
    }),
    sampleBinding(),
  ];

  it('stays to the byte what it was when seals were made over it', () => {
    const content = policyContent(TENANT, 7n, { bindings: others, roles });
    const lines = createHash('sha256').update(GOLDEN).digest('hex');
    assert.equal(content.toString('hex'), `${TENANT.replaceAll('-', '')}0000000000000007${lines}`);
    assert.equal(lines, 'da6219668f8c5754d25ad388b5680c0215a35f57b87414724de11af2064d3637');
  });

  it('doesn’t depend on the order in which rows come', () => {
    fc.assert(
      fc.property(record, ({ bindings, roles: own }) => {
        const turned = { bindings: bindings.toReversed(), roles: own.toReversed() };
        assert.deepEqual(
          policyContent(TENANT, 1n, turned),
          policyContent(TENANT, 1n, { bindings, roles: own }),
        );
        assert.equal(policyBytes(turned), policyBytes({ bindings, roles: own }));
      }),
    );
  });

  it('differs for two policies that differ in anything', () => {
    const key = ({ bindings, roles: own }: PolicyRecord) =>
      JSON.stringify([
        bindings.toSorted((a, b) => (a.bindingId < b.bindingId ? -1 : 1)),
        own.toSorted((a, b) => (a.roleId < b.roleId ? -1 : 1)),
      ]);
    fc.assert(
      fc.property(record, record, (a, b) => {
        const same = policyContent(TENANT, 1n, a).equals(policyContent(TENANT, 1n, b));
        assert.equal(same, key(a) === key(b));
      }),
    );
    const changes: Partial<RoleBinding>[] = [
      { bindingId: 'b2' },
      { member: { kind: 'group', name: 'me' } },
      { member: { kind: 'principal', name: 'you' } },
      { role: 'roles/encrypter' },
      { keyPattern: 'chat-' },
      { allTenants: true },
      { expiresAt: null },
      { expiresAt: new Date(1_800_000_000_001) },
      { conditions: [] },
      {
        conditions: [{ contextKey: 'other', requirement: { kind: 'claim', path: ['chat', 'id'] } }],
      },
      {
        conditions: [
          { contextKey: 'conversation', requirement: { kind: 'claim', path: ['chat,id'] } },
        ],
      },
      {
        conditions: [
          { contextKey: 'conversation', requirement: { kind: 'oneOf', values: ['chat', 'id'] } },
        ],
      },
      { overridesSeparation: true },
      { description: '' },
      { createdAt: new Date(1_700_000_000_124) },
      { creator: '' },
    ];
    const contents = [{}, ...changes].map((change) =>
      policyContent(TENANT, 1n, { bindings: [sampleBinding(change)], roles }).toString('hex'),
    );
    contents.push(
      policyContent(TENANT, 2n, { bindings: [sampleBinding()], roles }).toString('hex'),
    );
    contents.push(
      policyContent(newId(), 1n, { bindings: [sampleBinding()], roles }).toString('hex'),
    );
    contents.push(
      policyContent(TENANT, 1n, { bindings: [sampleBinding()], roles: [] }).toString('hex'),
    );
    assert.equal(new Set(contents).size, contents.length);
  });
});

/** Of the policy above, a line for each binding and role. */
const GOLDEN = `\
["binding","a","group","corp/admins","tenants/acme/roles/opener","",false,null,[["x","equals","1"],["y","oneOf",["1","2"]]],false,"für „Gespräche“",1700000000123,"spiffe://keyward.test/admin"]
["binding","b1","principal","me","roles/decrypter","chat-*",false,1800000000000,[["conversation","claim",["chat","id"]]],false,"für „Gespräche“",1700000000123,"spiffe://keyward.test/admin"]
["role","opener",["data.decrypt","keys.get"],"",1700000000456,"jwt:corp/alice"]
`;

describe('what is stored of a policy', () => {
  let database: TestDatabase;
  let store: Store;

  before(async () => {
    database = await migratedDatabase();
    store = await database.open();
  });

  after(async () => {
    await store?.close();
    await database?.[Symbol.asyncDispose]();
  });

  for (const zone of ['UTC', 'Europe/Berlin', 'America/New_York'])
    it(`is read back as it was sealed, by a service in ${zone}`, async () => {
      const local = process.env['TZ'];
      process.env['TZ'] = zone;
      try {
        await fc.assert(
          fc.asyncProperty(record, async (written) => {
            const tenantId = await newTenant(database, `t${newId()}`);
            const mutation = { tenantId, resource: 'r' };
            await store.mutate(callOf(), mutation, async (tx) => {
              for (const each of written.bindings) await insertRoleBinding(tx, tenantId, each);
              for (const each of written.roles) await insertRole(tx, tenantId, each);
            });
            const read = await store.read(callOf(), tenantId, (tx) => findPolicy(tx, tenantId));
            assert.deepEqual(
              policyContent(tenantId, 1n, read),
              policyContent(tenantId, 1n, written),
            );
          }),
          { numRuns: 25 },
        );
      } finally {
        if (local === undefined) delete process.env['TZ'];
        else process.env['TZ'] = local;
      }
    });
});
