/**
 * `keyward approval-rules` against the service: rules from a file and back, and files that are not
 * rules.
 */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { AccessRig } from '../access/access-rig.ts';
import { RELYING_PARTY, registerPasskeys } from '../approvals/people.ts';
import { TESTER } from '../support/tester.ts';
import { runHere } from './here.ts';
import { type Outcome, writeUsersProfiles } from './run.ts';

const given = new AsyncDisposableStack();
let folder: string;

before(async () => {
  const variables = { KEYWARD_RELYING_PARTY_ID: RELYING_PARTY };
  const rig = given.use(await AccessRig.start(variables));
  const { environment, service } = rig;
  const names = ['spiffe://keyward.test/bystander-1', 'spiffe://keyward.test/bystander-2'];
  await registerPasskeys(
    rig,
    names.map((name) => ({ name, caller: rig.certified(name) })),
  );
  const { certPem: cert, keyPem: key } = environment.ca.issue({
    ...{ subject: 'cli', usage: 'client', uris: [TESTER] },
  });
  folder = join(environment.directory, 'cli');
  mkdirSync(folder);
  const ca = environment.ca.certPem;
  writeUsersProfiles(folder, { cli: { address: `127.0.0.1:${service.port}`, ca, cert, key } });
});

after(() => given.disposeAsync());

const keyward = (args: string, input = ''): Promise<Outcome> =>
  runHere(['approval-rules', ...args.split(' ')], { cwd: folder, input });

/** Returns what a command that must succeed has printed. */
async function done(args: string, input = ''): Promise<string> {
  const { code, stdout, stderr } = await keyward(args, input);
  assert.deepEqual([code, stderr], [0, ''], args);
  return stdout;
}

const RULES = {
  stepUpRules: [{ permissions: ['keys.destroy'], amrValues: ['mfa'], maxAgeSeconds: 300 }],
  approvalRules: [
    { ruleId: 'two', approvals: 2, approvers: ['group:corp/officers'], breakGlass: true },
  ],
};

test('rules of a file are set as a whole, shown, and set again by what was shown', async () => {
  writeFileSync(join(folder, 'rules.json'), JSON.stringify(RULES));
  assert.match(await done('set acme rules.json --validate-only'), /approvalRules, revision 1$/m);
  assert.match(await done('get acme'), /approvalRules, revision 0$/m);
  const set = await done('set acme rules.json');
  assert.match(set, /^keys\.destroy +any +mfa +5m +no caller$/m);
  assert.match(set, /^two +all that are dangerous +2 +yes +group:corp\/officers +no caller$/m);
  const shown = JSON.parse(await done('get tenants/acme --output json'));
  assert.equal(shown.etag, '1');
  assert.equal(shown.stepUpRules[0].maxAgeSeconds, 300);
  // What was shown has the etag.
  const again = JSON.parse(await done('set acme - --output json', JSON.stringify(shown)));
  assert.deepEqual([again.revision, again.stepUpRules], [2, shown.stepUpRules]);
  const late = await keyward('set acme', JSON.stringify(shown));
  assert.equal(late.code, 1);
  assert.match(late.stderr, /it has changed since the etag was read/);
  await done('set acme --etag 2', JSON.stringify({}));
  assert.deepEqual(JSON.parse(await done('get acme --output json')).stepUpRules, []);
});

test('rules that too few people have passkeys for are refused, which is said', async () => {
  const { etag } = JSON.parse(await done('get acme --output json'));
  const rules = { approvalRules: [{ ruleId: 'three', approvals: 3 }] };
  const { code, stderr } = await keyward(`set acme --etag ${etag}`, JSON.stringify(rules));
  assert.equal(code, 1);
  assert.match(stderr, /cannot set the approval rule three: .* 2 people have a passkey/);
});

test('the example is rules that can be set, by who meets them', async () => {
  const example = JSON.parse(await done('example'));
  for (const rule of example.stepUpRules) rule.exemptPrincipals = [TESTER];
  const { etag } = JSON.parse(await done('get system --output json'));
  await done(`set system --etag ${etag} --validate-only`, JSON.stringify(example));
});

test('a file that is no rules, or has a member that no rule has, changes nothing and is named', async () => {
  const cases: readonly (readonly [unknown, RegExp])[] = [
    ['{', /cannot use standard input: it is not JSON/],
    [[], /the rules must be an object/],
    [{ stepUp: [] }, /the rules cannot have stepUp; known are .*stepUpRules/],
    [{ stepUpRules: {} }, /stepUpRules is not a list/],
    [{ stepUpRules: [{ maxAge: '5m' }] }, /a rule in stepUpRules cannot have maxAge/],
    [{ approvalRules: [{ ruleId: 'a', approvals: 1, approver: 'x' }] }, /cannot have approver;/],
    [
      { name: 'tenants/beta/approvalRules' },
      /it has tenants\/beta\/approvalRules, not tenants\/acme/,
    ],
  ];
  for (const [rules, message] of cases) {
    const input = typeof rules === 'string' ? rules : JSON.stringify(rules);
    const { code, stderr } = await keyward('set acme', input);
    assert.equal(code, 2, input);
    assert.match(stderr, message);
  }
});
