/**
 * A service whose agents hold a rule: it asks people for what agents want to see, and what they
 * have approved is done, with the service's own rules wanting nothing.
 *
 * The rule is placed as docs/people.md says: people register passkeys, the command prints the rule,
 * and the service is started with it.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { runHere } from '../cli/here.ts';
import { eventually } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';
import { People, type Person } from './people.ts';

let people: People;
let [bert, cora]: Person[] = [];
let anna: Person;
const TENANT = 'acme';

before(async () => {
  people = await People.start();
  const everywhere = { allTenants: true };
  [bert, cora] = [await people.approver(TENANT), await people.approver(TENANT)];
  anna = await people.person(TENANT, ['tenantAdmin', 'approver']);
  for (const { name } of [bert, cora])
    await people.rig.bind('system', name, 'approver', everywhere);
  await people.rig.bind('system', anna.name, 'rootAdmin', everywhere);
  await restartWithRule();
});
after(() => people?.[Symbol.asyncDispose]());

/** The two whose approval counts. */
const both = (): readonly Person[] => [bert, cora].filter((each) => each !== undefined);

async function restartWithRule(): Promise<void> {
  const { rig } = people;
  const rule = join(rig.environment.directory, 'rule.json');
  const chosen = both().flatMap(({ name }) => ['--approver', name]);
  const { directory: cwd } = rig.environment;
  const { address, ca, cert, key } = rig.service.connectOptions();
  const file = (name: string, content: unknown) => {
    writeFileSync(join(cwd, name), String(content), { mode: 0o600 });
    return name;
  };
  const options = [
    ...['--address', address, '--ca-file', file('cli-ca.pem', ca)],
    ...['--cert-file', file('cli.pem', cert), '--key-file', file('cli-key.pem', key)],
  ];
  const args = [...options, 'passkeys', 'rule', '--approvals', '2', ...chosen];
  const { stdout, stderr } = await runHere(args, { cwd });
  assert.match(stdout, /"approvals": \{\n {4}"policies": 2,/, stderr);
  writeFileSync(rule, stdout, { mode: 0o600 });
  const [first] = rig.services.splice(0, 1);
  await rig.addReplica({ KEYWARD_AGENT_RULE: rule });
  await first?.stop();
}

/** Asks for what must wait, and returns the operation. */
async function asked(person: Person, method: string, request: object): Promise<string> {
  const { reason, message, metadata } = await people.rig.ask(person.caller, method, request);
  assert.equal(reason, 'APPROVAL_REQUIRED', message);
  return String(metadata['operation']);
}

/** Has an operation approved by both, and done. */
async function approved(operation: string) {
  for (const each of both()) await people.decided(each, operation);
  return people.until(operation, 'DONE');
}

const parent = `tenants/${TENANT}`;

describe('a service whose agents hold a rule', () => {
  it('gives roles once two of those have approved whom the rule names', async () => {
    const principal = 'spiffe://keyward.test/given';
    const roleBinding = { principal, role: 'roles/encrypter' };
    const request = { parent, roleBinding };
    const name = await asked(anna, 'AccessService/CreateRoleBinding', request);
    const [first] = both();
    assert.ok(first);
    await people.decided(first, name);
    const { state, rule } = await people.get(name);
    assert.equal(state, 'PENDING_OPERATION_STATE_PENDING');
    assert.match(rule, /agents$/);
    const dora = await asOther();
    assert.equal((await people.decide(dora, name)).reason, 'APPROVER_NOT_NAMED');
    await people.decided(both()[1] as Person, name);
    await people.until(name, 'DONE');
    const filter = `principal = "${principal}"`;
    const listed = await people.rig.done('AccessService/ListRoleBindings', { parent, filter });
    const [binding] = listed['roleBindings'] as { readonly name: string }[];
    assert.ok(binding);
    // What goes takes nobody's approval, and is gone.
    await people.rig.done('AccessService/DeleteRoleBinding', { name: binding.name });
  });

  it('changes approval rules, roles and passkeys in the same way', async () => {
    const role = { permissions: ['keys.get', 'keys.list'], description: 'looks' };
    const looker = { parent, roleId: 'looker', role };
    await approved(await asked(anna, 'AccessService/CreateRole', looker));
    const name = `${parent}/approvalRules`;
    const { etag } = await people.rig.done('ApprovalService/GetApprovalRules', { name });
    const approvalRules = {
      ...{ name, etag },
      stepUpRules: [{ permissions: ['keys.destroy'], maxAge: { seconds: 600, nanos: 0 } }],
      approvalRules: [
        { ruleId: 'own', permissions: ['tenants.shred'], approvals: 1, breakGlass: false },
      ],
    };
    const update = await asked(anna, 'ApprovalService/UpdateApprovalRules', { approvalRules });
    await approved(update);
    const now = await people.rig.done('ApprovalService/GetApprovalRules', { name });
    assert.equal((now['approvalRules'] as unknown[]).length, 1);
    const first = both()[0] as Person;
    // By a passkey of theirs, which would stand for others' approval without the agents' rule.
    const { request, credentialId } = await people.newPasskey(TENANT, first);
    assert.equal(
      (await people.rig.ask(first.caller, 'PasskeyService/RegisterPasskey', request)).reason,
      'APPROVAL_REQUIRED',
    );
    const own = await people.newPasskey(TENANT, anna);
    await approved(await asked(anna, 'PasskeyService/RegisterPasskey', own.request));
    const passkey = `passkeys/${own.credentialId.toString('base64url')}`;
    await people.rig.done('PasskeyService/GetPasskey', { name: passkey });
    assert.notDeepEqual(own.credentialId, credentialId);
  });

  it('makes tenants and keys, and rotates these, as without one', async () => {
    await people.rig.done('AdminService/CreateTenant', { tenantId: 'free' });
    await people.rig.done('KeyService/CreateKey', { parent: 'tenants/free', keyId: 'k' });
    await people.rig.done('KeyService/RotateKey', { name: 'tenants/free/keys/k' });
    await people.rig.done('AdminService/DisableTenant', { name: 'tenants/free' });
    await people.rig.done('AdminService/EnableTenant', { name: 'tenants/free' });
  });

  it('replaces seal and root keys by approval, and brings all that is sealed along', async () => {
    await approved(await asked(anna, 'HsmService/RotateRootKey', { parent: 'tenants/system' }));
    const seal = await asked(anna, 'HsmService/RotateSealKey', {});
    await approved(seal);
    await eventually(async () => {
      const left = await sql(
        people.rig.environment,
        `SELECT o.object_id FROM token_objects o WHERE role = 'seal' AND NOT is_current AND (
           EXISTS (SELECT FROM access_policies p WHERE p.seal_key_id = o.object_id) OR
           EXISTS (SELECT FROM approval_rules p WHERE p.seal_key_id = o.object_id) OR
           EXISTS (SELECT FROM passkeys p WHERE p.seal_key_id = o.object_id) OR
           EXISTS (SELECT FROM tenants p WHERE p.seal_key_id = o.object_id))`,
      );
      assert.deepEqual(left, []);
    });
    // And it goes on from there.
    const roleBinding = { principal: 'spiffe://keyward.test/later', role: 'roles/encrypter' };
    const request = { parent, roleBindingId: 'later', roleBinding };
    await approved(await asked(anna, 'AccessService/CreateRoleBinding', request));
  });

  it('makes a tenant with a root key of its own by approval', async () => {
    const request = { tenantId: 'apart', dedicatedRootKey: true };
    await approved(await asked(anna, 'AdminService/CreateTenant', request));
    await eventually(() =>
      people.rig.done('KeyService/CreateKey', { parent: 'tenants/apart', keyId: 'k' }),
    );
  });

  it('reports what the agents want where they refuse', async () => {
    const name = await asked(anna, 'AccessService/CreateRoleBinding', {
      ...{ parent, roleBindingId: 'late' },
      roleBinding: { principal: 'spiffe://keyward.test/late', role: 'roles/encrypter' },
    });
    await people.hold(name, true);
    for (const each of both()) await people.decided(each, name);
    // The service believes what an agent has sealed; agents look at what was signed.
    await sql(
      people.rig.environment,
      `UPDATE operation_decisions SET signature = '\\x00' WHERE operation_id = $1`,
      [name.split('/').at(-1)],
    );
    await people.hold(name, false);
    const failed = await people.until(name, 'FAILED');
    assert.equal(failed.errorReason, 'AGENT_RULE_NOT_MET');
    assert.match(failed.errorMessage, /wants 2 people to have approved it, and 0 did/);
  });
});

/** Someone who may approve by role bindings, and whom the rule does not name. */
async function asOther(): Promise<Person> {
  const name = 'spiffe://keyward.test/bystander-1';
  return { ...(both()[0] as Person), name, caller: people.rig.certified(name) };
}
