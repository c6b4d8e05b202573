/**
 * `keyward audit state`: what an export alone tells of who could do what, held against what the
 * service itself said at the time.
 */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import {
  type AuditState,
  auditStateAt,
  exportAuditLog,
  type KeywardClient,
  type RoleBinding,
} from 'keyward-client';
import { runHere } from '../cli/here.ts';
import { eventually, sharedService } from '../support/kit.ts';
import { entryLine, newLogKey, writeExport } from './log.ts';

const TENANT = 'tenants/acme';
const KEY = `${TENANT}/keys/mail`;
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
});

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const byName = <T extends { readonly name: string }>(items: readonly T[]) =>
  items.toSorted((a, b) => (a.name < b.name ? -1 : 1));

/** A binding as the service shows it, in an entry's words. */
const boundBy = (binding: RoleBinding) => [
  binding.name,
  binding.principal,
  binding.role,
  binding.keyPattern,
  binding.expireTime?.toISOString() ?? null,
  binding.conditions.map(({ contextKey, equals }) => `${contextKey}=${equals}`),
];

/** What the service says there is, in the tenant. */
async function shownNow() {
  const keys = await collect(keyward.keys(TENANT));
  return {
    tenants: (await collect(keyward.tenants({})))
      .filter(({ name }) => name !== 'tenants/system')
      .map(({ name, state }) => [name, state]),
    bindings: (await collect(keyward.roleBindings(TENANT))).map(boundBy),
    roles: (await keyward.listRoles({ parent: TENANT })).roles
      .filter(({ name }) => name.startsWith(TENANT))
      .map(({ name, permissions }) => [name, permissions]),
    keys: await Promise.all(
      keys.map(async ({ name, state, primary }) => [
        name,
        state,
        primary.name,
        (await collect(keyward.keyVersions(name)))
          .map((version) => `${version.name} ${version.state}`)
          .reverse(),
      ]),
    ),
    isPaused: (await keyward.getMaintenance({})).paused,
  };
}

/** The same, as the log says. */
function shownBy({ tenants, roleBindings, roles, keys, maintenance }: AuditState) {
  const of = (items: typeof roleBindings) => items.filter(({ name }) => name.startsWith(TENANT));
  return {
    tenants: tenants.map(({ name, content }) => [name, content['state']]),
    bindings: of(roleBindings).map(({ name, content }) => {
      const { member, role, keyPattern, expireTime, conditions } = content as {
        member: { name: string };
        role: string;
        keyPattern: string;
        expireTime: string | null;
        conditions: { contextKey: string; requirement: { value: string } }[];
      };
      const held = conditions.map((each) => `${each.contextKey}=${each.requirement.value}`);
      return [name, member.name, role, keyPattern, expireTime, held];
    }),
    roles: of(roles).map(({ name, content }) => [name, content['permissions']]),
    keys: keys
      .filter(({ name }) => name.startsWith(TENANT))
      .map(({ name, content, versions }) => [
        name,
        content['state'],
        `${name}/versions/${content['primaryVersion']}`,
        versions.map(({ version, state }) => `${name}/versions/${version} ${state}`),
      ]),
    isPaused: maintenance?.content['paused'] === true,
  };
}

/** What is done, one step after another; after each it is looked at what there is. */
const STEPS: readonly (() => Promise<unknown>)[] = [
  () => keyward.createTenant({ tenantId: 'acme' }),
  () => keyward.createKey({ parent: TENANT, keyId: 'mail', labels: { a: 'b' } }),
  () =>
    keyward.createRoleBinding({
      parent: TENANT,
      roleBindingId: 'ann',
      roleBinding: {
        principal: 'ann',
        role: 'roles/decrypter',
        keyPattern: 'mail*',
        expireTime: new Date(Date.now() + 86_400_000),
        conditions: [{ contextKey: 'patient', equals: '947' }],
      },
    }),
  () =>
    keyward.createRole({
      parent: TENANT,
      roleId: 'reader',
      role: { permissions: ['keys.get', 'keys.list'] },
    }),
  () =>
    keyward.createRoleBinding({
      parent: TENANT,
      roleBindingId: 'bob',
      roleBinding: { principal: 'bob', role: `${TENANT}/roles/reader` },
    }),
  () => keyward.rotateKey({ name: KEY }),
  () => keyward.disableKeyVersion({ name: `${KEY}/versions/1` }),
  () => keyward.deleteRoleBinding({ name: `${TENANT}/roleBindings/bob` }),
  () => keyward.deleteRole({ name: `${TENANT}/roles/reader` }),
  () => keyward.pauseMaintenance({}),
  async () => {
    const { impact } = await keyward.scheduleKeyDestruction({ name: KEY, validateOnly: true });
    await keyward.scheduleKeyDestruction({ name: KEY, etag: impact?.etag ?? '' });
  },
  () => keyward.restoreKey({ name: KEY }),
  () => keyward.resumeMaintenance({}),
  () => keyward.createTenant({ tenantId: 'beta' }),
  () => keyward.disableTenant({ name: 'tenants/beta' }),
];

describe('the state after an entry of an export', () => {
  test('is what the service said at that time, at each of many moments', async () => {
    const moments: { at: number; shown: Awaited<ReturnType<typeof shownNow>> }[] = [];
    for (const step of STEPS) {
      await step();
      // So that the tenant is there to be asked about, and no change comes in between.
      const shown = await shownNow();
      const at = await eventually(async () => {
        const [last] = await collect(
          keyward.auditEntries({
            parent: 'tenants/-',
            filter: 'method = "keyward.v1.AdminService/GetMaintenance"',
          }),
        );
        assert.ok(last !== undefined && last.leafIndex > (moments.at(-1)?.at ?? -1));
        return last.leafIndex;
      });
      moments.push({ at, shown });
    }
    const folder = join(shared.environment.directory, 'export');
    await eventually(async () => {
      const { treeSize } = await keyward.getAuditCheckpoint();
      assert.ok(treeSize > (moments.at(-1)?.at ?? 0));
    });
    await exportAuditLog(keyward, folder);
    const { publicKey } = await keyward.getAuditCheckpoint();
    for (const { at, shown } of moments) {
      const state = await auditStateAt(folder, { at, publicKeys: [publicKey] });
      assert.deepEqual(shownBy(state), {
        ...shown,
        tenants: shown.tenants.toSorted(),
        bindings: shown.bindings.toSorted(),
      });
      assert.deepEqual([state.at, state.unknown], [at, []]);
    }

    const pem = join(shared.environment.directory, 'log.pem');
    writeFileSync(pem, publicKey);
    const { at } = moments[3] ?? assert.fail();
    const args = ['audit', 'state', folder, '--at', String(at), '--public-key', pem];
    const table = await runHere(args, { cwd: shared.environment.directory });
    assert.deepEqual([table.code, table.stderr], [0, '']);
    assert.match(table.stdout, new RegExp(`^After entry ${at}, of \\d{4}-`));
    assert.match(
      table.stdout,
      /role binding {2}tenants\/acme\/roleBindings\/ann .*ann: roles\/decrypter, keys mail\*, if .*947.*, expires /,
    );
    assert.match(table.stdout, /tenants\/acme\/roles\/reader .*keys\.get, keys\.list/);
    assert.match(table.stdout, /tenants\/acme\/keys\/mail +ENABLED +primary 1; versions 1 ENABLED/);
    const json = await runHere([...args, '--output', 'json'], {
      cwd: shared.environment.directory,
    });
    const printed = JSON.parse(json.stdout) as AuditState;
    assert.deepEqual(
      byName(printed.roleBindings.filter(({ name }) => name.startsWith(TENANT))).map(
        ({ name }) => name,
      ),
      [`${TENANT}/roleBindings/ann`],
    );
    const beyond = await runHere([...args.slice(0, 4), '999999', ...args.slice(5)], {
      cwd: shared.environment.directory,
    });
    assert.equal(beyond.code, 2);
    assert.match(beyond.stderr, /entry 999999 is not in the export/);
  });
});

describe('what the entries cannot tell', () => {
  const key = newLogKey();
  const tenantId = '018f0000-0000-4000-8000-00000000000a';
  let folders = 0;

  async function stateOf(lines: readonly string[], first = 0): Promise<AuditState> {
    const folder = join(shared.environment.directory, `made-${folders++}`);
    mkdirSync(folder, { recursive: true });
    writeExport(folder, { lines, key, first });
    return auditStateAt(folder, { publicKeys: [key.publicPem] });
  }

  const binding = (index: number, policyRevision: string, id = 'ann') =>
    entryLine(index, {
      tenantId,
      resource: `${TENANT}/roleBindings/${id}`,
      change: { kind: 'roleBinding', after: { role: 'roles/decrypter' }, policyRevision },
    });

  test('is named: entries of an earlier release, and those that are not in the export', async () => {
    const lines = Array.from({ length: 300 }, (_, index) => entryLine(index, { tenantId }));
    lines[3] = entryLine(3);
    const [earlier, ...none] = (await stateOf(lines)).unknown;
    assert.match(String(earlier), /^entries from 3 up to 3 were written by an earlier release/);
    assert.deepEqual(none, []);
    const { unknown } = await stateOf(lines, 256);
    assert.deepEqual(unknown, [
      'entries before 256 are not in the export: what was made in them is missing here unless it was changed since',
    ]);
  });

  test('is named: changes that are missing between two, and who might act by configuration', async () => {
    const { roleBindings, unknown } = await stateOf([
      binding(0, '1'),
      binding(1, '3', 'bob'),
      entryLine(2, { tenantId, caller: 'root', binding: 'KEYWARD_FIRST_ADMINISTRATOR' }),
      entryLine(3, {
        tenantId,
        method: 'keyward.v1.Maintenance/NameFirstAdministrator',
        detail: { firstAdministrator: 'heir' },
      }),
    ]);
    assert.equal(roleBindings.length, 2);
    assert.match(String(unknown[0]), /^root could make role bindings .* from entry 2 on/);
    assert.match(String(unknown[1]), /^heir could make role bindings .* from entry 3 on/);
    assert.match(String(unknown[2]), /^entry 1 makes revision 3 of the policy of tenants\/acme/);
  });

  test('is not in the state: what a call that failed would have changed', async () => {
    const failed = JSON.parse(binding(0, '1')) as object;
    const { roleBindings } = await stateOf([JSON.stringify({ ...failed, outcome: 'CONFLICT' })]);
    assert.deepEqual(roleBindings, []);
  });
});
