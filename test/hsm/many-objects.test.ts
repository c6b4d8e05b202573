/**
 * More token keys than one frame has room for: every key that was ever made stays recorded, and
 * agents are told of all of them and report on all of them.
 *
 * On SoftHSM, whose token has the few that are in use.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { createSoftHsmToken } from '../../softhsm/token.ts';
import { monotonicNow } from '../../src/call.ts';
import { MAX_FRAME_BYTES, requestBytes } from '../../src/hsm/protocol.ts';
import { destroyTokenKeys, surveyToken } from '../../src/hsm/token-commands.ts';
import type { TokenObject } from '../../src/hsm/token-profile.ts';
import { newId } from '../../src/ids.ts';
import { testTokenVariables } from '../support/compiled.ts';
import { createVersion, open, seal, TokenKeysRig } from './token-keys-rig.ts';

const LABEL = 'many-objects';
const COUNT = 15_000;

let directory: string;
let rig: TokenKeysRig;
let many: TokenObject[];

before(async () => {
  const tests = process.env['KEYWARD_TEST_DIRECTORY'];
  assert.ok(tests);
  directory = mkdtempSync(join(tests, 'many-objects-'));
  const softHsm = await createSoftHsmToken({ directory: join(directory, 'token'), label: LABEL });
  const variables = testTokenVariables(softHsm);
  const passed = (variables['KEYWARD_HSM_ENVIRONMENT'] ?? '').split(',');
  rig = await TokenKeysRig.open({
    settings: {
      module: variables['KEYWARD_HSM_MODULE'] ?? '',
      token: LABEL,
      pinFile: softHsm.pinFile,
      waivers: [],
    },
    environment: Object.fromEntries(passed.map((each) => [each, variables[each] ?? ''])),
    dispose: () => {},
  });
  many = [
    ...rig.objects,
    ...Array.from(
      { length: COUNT },
      (_, index): TokenObject => ({
        objectId: newId(),
        role: index % 2 === 0 ? 'root' : 'seal',
        presence: 'gone',
      }),
    ),
  ];
});
after(async () => {
  await rig?.stopAll();
  rmSync(directory, { recursive: true, force: true });
});

test('agents start on 15,000 recorded token keys, are told of others, and report on all', async () => {
  assert.ok(requestBytes('hold', { objects: many }) > MAX_FRAME_BYTES);
  const agents = await rig.start({ objects: many, count: 1 });
  const version = await createVersion(agents, rig.keys);
  const pids = agents.pids;
  const more: TokenObject[] = [
    ...many,
    { objectId: newId(), role: 'root', presence: 'possible' },
    await rig.make('root'),
  ];
  await agents.hold(more);
  assert.deepEqual(agents.pids, pids, 'no agent was replaced');
  assert.equal(await open(agents, version, await seal(agents, version, 'x')), 'x');
  const posture = await agents.call('report', { objects: more }, monotonicNow() + 120_000);
  assert.equal(posture.objects.length, more.length);
  assert.equal(posture.objects.filter(({ condition }) => condition === 'found').length, 5);
  assert.deepEqual(posture.unrecorded, []);
});

test('commands in agents of their own are told of as many', async () => {
  const { environmentId } = rig.settings;
  const objects = [...many, ...rig.objects.slice(-1)];
  const survey = await surveyToken({ environmentId, objects }, rig.starter);
  assert.equal(survey.objects.length, objects.length);
  const gone = many.filter(({ presence }) => presence === 'gone');
  assert.equal(await destroyTokenKeys({ environmentId, objects: gone }, rig.starter), 0);
});
