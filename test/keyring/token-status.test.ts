/**
 * The token's status over the wire, and by the operator's command: what a real token says of itself
 * and of its objects, also when somebody with the PIN has changed them.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { KeywardClient, TokenStatus } from 'keyward-client';
import { copyToken, type SoftHsmToken, tokenVariables } from '../../softhsm/token.ts';
import { tamperWith } from '../faults/tampering.ts';
import { runSql } from '../store/database.ts';
import {
  type Environment,
  newEnvironment,
  runCommand,
  sharedService,
  startService,
} from '../support/kit.ts';

const PARENT = 'tenants/acme';
let keyward: KeywardClient;
const shared = sharedService(async (client) => {
  keyward = client;
  for (const tenantId of ['acme', 'other']) await keyward.createTenant({ tenantId });
});

const objectOf = ({ objects }: TokenStatus, role: string) => {
  const object = objects.find((each) => each.role === role);
  assert.ok(object, role);
  return object;
};
const versionsUnderRoot = async () => objectOf(await keyward.getTokenStatus(), 'ROOT').keyVersions;
const statesOf = ({ attributes }: { attributes: readonly { name: string; state: string }[] }) =>
  Object.fromEntries(attributes.map(({ name, state }) => [name, state]));
/** A copy of an environment's token, and the settings with which it is used. */
function copyOf({ directory, token }: Environment, name: string): SoftHsmToken {
  return copyToken(join(token.confFile, '..'), join(directory, name), token.label);
}

describe('over the wire', () => {
  test('the token and its library say what they are', async () => {
    const status = await keyward.getTokenStatus();
    assert.equal(status.label, shared.environment.token.label);
    assert.match(status.serialNumber, /^[0-9a-f]{16}$/);
    assert.deepEqual([status.manufacturer, status.model], ['SoftHSM project', 'SoftHSM v2']);
    for (const version of [status.firmwareVersion, status.hardwareVersion, status.module.version])
      assert.match(version, /^\d+\.\d+$/);
    assert.equal(status.module.manufacturer, 'SoftHSM');
    assert.deepEqual(status.profile.wrapMechanism, 'CKM_AES_KEY_WRAP (RFC 3394)');
    assert.deepEqual(status.profile.attributeOrder, 'CKA_MODIFIABLE last when unwrapping');
    assert.match(status.profile.keyType, /^CKK_(GENERIC_SECRET|SHA512_HMAC)$/);
    assert.deepEqual(status.profile.unsupportedAttributes, []);
    const [environment] = await runSql<{ id: string }>(
      shared.environment.urls.superuser,
      'SELECT environment_id AS id FROM environment',
    );
    assert.equal(status.environmentUid, environment?.id);
  });

  test('each of the four objects has every required attribute, enforced', async () => {
    const { objects, unrecordedObjects } = await keyward.getTokenStatus();
    assert.deepEqual(objects.map(({ role }) => role).sort(), [
      'AUDIT_SIGNING',
      'MASK',
      'ROOT',
      'SEAL',
    ]);
    for (const { uid, current, condition, attributes } of objects) {
      assert.match(uid, /^[0-9a-f-]{36}$/);
      assert.deepEqual([current, condition], [true, 'FOUND']);
      assert.ok(attributes.length >= 12);
      for (const { name, state } of attributes) assert.equal(state, 'ENFORCED', name);
    }
    const root = objectOf(await keyward.getTokenStatus(), 'ROOT');
    const required = Object.fromEntries(
      root.attributes.map(({ name, requiredValue }) => [name, requiredValue]),
    );
    assert.deepEqual(
      [
        required['keyType'],
        required['valueLen'],
        required['extractable'],
        required['wrap'],
        required['decrypt'],
      ],
      ['CKK_AES', '32', 'false', 'true', 'false'],
    );
    assert.deepEqual(unrecordedObjects, []);
  });

  test('the key versions of all tenants are counted under their root, destroyed ones aside', async () => {
    const before = await versionsUnderRoot();
    const { name } = await keyward.createKey({ parent: PARENT, keyId: 'k' });
    await keyward.createKey({ parent: 'tenants/other', keyId: 'k' });
    await keyward.rotateKey({ name });
    assert.equal(await versionsUnderRoot(), before + 3);
    await keyward.disableKey({ name });
    assert.equal(await versionsUnderRoot(), before + 3);
    await runSql(
      shared.environment.urls.superuser,
      `UPDATE key_versions v SET state = 'DESTROYED', destroyed_at = now(), wrapped = ''
       FROM keys k JOIN tenants t USING (tenant_id)
       WHERE k.key_id = v.key_id AND t.name = 'acme' AND k.name = 'k' AND v.version = 1`,
    );
    assert.equal(await versionsUnderRoot(), before + 2);
    for (const object of (await keyward.getTokenStatus()).objects)
      if (object.role !== 'ROOT') assert.equal(object.keyVersions, 0);
  });

  test('what somebody does to the token under the running service is seen at the next look', async () => {
    await using environment = await newEnvironment();
    await using service = await startService(environment);
    const client = service.client();
    // A root key, which the service uses for nothing now.
    const root = objectOf(await client.getTokenStatus(), 'ROOT');
    assert.equal(root.condition, 'FOUND');
    await tamperWith(environment.token, {
      role: 'root',
      replace: true,
      attributes: { copyable: true },
    });
    const changed = objectOf(await client.getTokenStatus(), 'ROOT');
    assert.deepEqual([changed.uid, changed.condition], [root.uid, 'FOUND']);
    assert.deepEqual(statesOf(changed), { ...statesOf(root), copyable: 'VIOLATED' });
    await tamperWith(environment.token, { role: 'root', replace: false });
    const doubled = objectOf(await client.getTokenStatus(), 'ROOT');
    assert.deepEqual([doubled.condition, doubled.attributes], ['DUPLICATED', []]);
    await tamperWith(environment.token, { role: 'seal', replace: false, otherId: true });
    const [stranger, ...others] = (await client.getTokenStatus()).unrecordedObjects;
    assert.deepEqual([stranger?.uid, others], ['09090909-0909-0909-0909-090909090909', []]);
    assert.match(stranger?.label ?? '', /^keyward seal /);
    assert.deepEqual((await client.getTokenStatus()).objects.map(({ uid }) => uid).length, 4);
  });

  test('an attribute that the operator waives is WAIVED', async () => {
    await using environment = await newEnvironment();
    await runSql(
      environment.urls.superuser,
      `UPDATE tokens SET profile = jsonb_set(profile, '{unsupported}', '["copyable"]')`,
    );
    await runSql(
      environment.urls.superuser,
      'UPDATE token_key_seals SET seal = NULL, seal_key_id = NULL',
    );
    const waived = { KEYWARD_HSM_WAIVERS: 'copyable' };
    const sealed = await runCommand(environment, ['token', 'seal-states'], waived);
    assert.equal(sealed.code, 0, sealed.output);
    await using service = await startService(environment, waived);
    const status = await service.client().getTokenStatus();
    assert.deepEqual(status.profile.unsupportedAttributes, ['copyable']);
    for (const object of status.objects) assert.equal(statesOf(object)['copyable'], 'WAIVED');
    await service.logged(({ alert }) => alert === 'attribute-waived');
    const unwaived = await runCommand(environment, ['token', 'status']);
    assert.equal(unwaived.code, 1);
    assert.match(unwaived.output, /UNSUPPORTED, not waived: copyable=false/);
    const refused = await runCommand(environment, ['token', 'check']);
    assert.match(refused.output, /name it in KEYWARD_HSM_WAIVERS .*: copyable$/m);
  });
});

describe('the command keyward-server token status', () => {
  const status = (
    environment: Environment,
    token = environment.token,
    args: readonly string[] = [],
  ) => runCommand(environment, ['token', 'status', ...args], tokenVariables(token));

  test('shows every object with its attributes, also beside a running service', async () => {
    const { code, output } = await status(shared.environment);
    assert.equal(code, 0, output);
    const { objects, serialNumber } = await keyward.getTokenStatus();
    assert.ok(
      output.includes(`${shared.environment.token.label} (serial ${serialNumber})`),
      output,
    );
    for (const { uid, role, attributes } of objects) {
      const word = role.toLowerCase().replace('_', '-');
      const count = role === 'ROOT' ? `, ${await versionsUnderRoot()} key versions` : '';
      assert.ok(output.includes(`${word} ${uid}, current${count}\n  enforced: `), output);
      for (const { name, requiredValue } of attributes)
        assert.ok(output.includes(` ${name}=${requiredValue}`));
    }
    assert.doesNotMatch(output, /VIOLATED|UNSUPPORTED/);
  });

  test('with --json prints the message of the contract', async () => {
    const { code, output } = await status(shared.environment, undefined, ['--json']);
    assert.equal(code, 0, output);
    const printed = JSON.parse(output);
    const over = await keyward.getTokenStatus();
    assert.deepEqual(
      [printed.environmentUid, printed.module, printed.profile, printed.unrecordedObjects],
      [over.environmentUid, over.module, over.profile, []],
    );
    assert.deepEqual(
      printed.objects.map(({ uid, role, keyVersions }: Record<string, unknown>) => [
        uid,
        role,
        keyVersions,
      ]),
      over.objects.map(({ uid, role, keyVersions }) => [
        uid,
        `TOKEN_OBJECT_ROLE_${role}`,
        keyVersions,
      ]),
    );
  });

  test('shows what a service refuses to start on, and ends with code 1', async () => {
    const violated = copyOf(shared.environment, 'violated');
    await tamperWith(violated, { role: 'root', replace: true, attributes: { extractable: true } });
    const shown = await status(shared.environment, violated);
    assert.equal(shown.code, 1);
    assert.match(shown.output, /\n {2}VIOLATED: .*extractable=false/);
    assert.match(shown.output, /cannot serve with this token:\n.*root \S+ extractable: violated/);
    const bare = copyOf(shared.environment, 'bare');
    await tamperWith(bare, { role: 'seal', replace: true, only: 'destroy' });
    const missing = await status(shared.environment, bare);
    assert.equal(missing.code, 1);
    assert.match(missing.output, /\nseal \S+, current, MISSING\n/);
    const json = await status(shared.environment, bare, ['--json']);
    assert.match(json.output, /"condition": "TOKEN_OBJECT_CONDITION_MISSING"/);
  });
});
