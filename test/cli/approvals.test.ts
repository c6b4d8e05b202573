import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { KEY, useFakeService } from './fake.ts';

const UID = '018f0000-0000-4000-8000-00000000000a';
const NAME = `tenants/acme/pendingOperations/${UID}`;
const BY_BOB = {
  decision: 'DECISION_APPROVE',
  approver: 'jwt:corp/bob',
  decideTime: { seconds: 1_700_000_100, nanos: 0 },
};
const PENDING = {
  name: NAME,
  method: 'keyward.v1.KeyService/DestroyKey',
  resource: KEY,
  request: Buffer.from(JSON.stringify({ name: KEY })),
  preview: Buffer.from('{}'),
  requester: 'jwt:corp/alice',
  state: 'PENDING_OPERATION_STATE_PENDING',
  rule: 'tenants/acme/approvalRules/two',
  approvalsRequired: 2,
  decisions: [BY_BOB],
  createTime: { seconds: 1_700_000_000, nanos: 0 },
  expireTime: { seconds: 4_000_000_000, nanos: 0 },
  environmentId: UID,
  signOffUrl: 'https://keyward.example.com:8443/sign-off',
};

const fake = useFakeService();
const { keyward, refuse } = fake;

describe('what waits for approval', () => {
  it('ends the command that asked with an exit code of its own, and how to look at it', async () => {
    refuse('ScheduleKeyDestruction', {
      code: status.FAILED_PRECONDITION,
      message: 'cannot perform the call yet: it waits for 2 approvals by others, as …',
      reason: 'APPROVAL_REQUIRED',
      metadata: { operation: NAME, expire_time: '2027-01-31T12:00:00.000Z' },
    });
    const { code, stdout, stderr } = await keyward(`keys destroy ${KEY} --confirm e`);
    assert.deepEqual([code, stdout], [4, '']);
    assert.equal(
      stderr,
      'keyward: APPROVAL_REQUIRED: cannot perform the call yet: it waits for 2 approvals by others, ' +
        'as …, until 2027-01-31T12:00:00.000Z; ' +
        `"keyward approvals show ${NAME}" shows it, and how far it is\n`,
    );
  });

  it('is shown with its request, what was answered to a look, and who has decided', async () => {
    fake.handlers['GetPendingOperation'] = () => PENDING;
    const { stdout } = await keyward(`approvals show ${UID} --tenant acme`);
    assert.deepEqual(fake.seen['GetPendingOperation'], { name: NAME });
    for (const line of [
      /^Asked for by +jwt:corp\/alice$/m,
      /^Approvals +1 of 2$/m,
      /^Approved by +jwt:corp\/bob, 2023-/m,
      /^ {2}"name": "tenants\/acme\/keys\/orders"$/m,
      /^What a call that only looks was answered:$/m,
    ])
      assert.match(stdout, line);
    const { stdout: json } = await keyward(`--output json approvals show ${NAME}`);
    assert.equal(JSON.parse(json).request.name, KEY);
  });

  it('has bytes in base64 where it is data, and its name alone where only that is wanted', async () => {
    const assertion = {
      ...{ credentialId: Buffer.of(1, 2), clientDataJson: Buffer.from('{}') },
      ...{ authenticatorData: Buffer.of(3), signature: Buffer.of(255, 254) },
    };
    fake.handlers['GetPendingOperation'] = () => ({
      ...PENDING,
      decisions: [{ ...BY_BOB, assertion }],
    });
    const { stdout } = await keyward(`approvals show ${NAME} -o json`);
    assert.deepEqual(JSON.parse(stdout).decisions[0].assertion, {
      ...{ credentialId: 'AQI=', clientDataJson: 'e30=' },
      ...{ authenticatorData: 'Aw==', signature: '//4=' },
    });
    assert.match((await keyward(`approvals show ${NAME} -o yaml`)).stdout, /signature: \/\/4=$/m);
    assert.equal((await keyward(`approvals show ${NAME} -o name`)).stdout, `${NAME}\n`);
  });

  it('is asked for by a name that one can have, else told where names are', async () => {
    for (const verb of ['show', 'approve', 'reject', 'cancel', 'break-glass --reason fire']) {
      const { code, stderr } = await keyward(`approvals ${verb} nope --tenant acme`);
      assert.equal(code, 2);
      assert.match(
        stderr,
        /cannot use nope: it is not a pending operation, .* "keyward approvals list" shows them\n$/,
      );
    }
    assert.deepEqual(fake.seen, {});
  });

  it('is listed, cancelled and put under a rule for emergencies by its name', async () => {
    fake.handlers['ListPendingOperations'] = () => ({ pendingOperations: [PENDING] });
    const { stdout } = await keyward('approvals list acme');
    assert.match(stdout, /PENDING +DestroyKey +tenants\/acme\/keys\/orders .* 1 of 2 /);
    for (const [args, method] of [
      [`approvals cancel ${NAME}`, 'CancelOperation'],
      [`approvals break-glass ${NAME} --reason fire`, 'BreakGlass'],
    ] as const) {
      fake.handlers[method] = () => PENDING;
      const { code, stderr } = await keyward(args);
      assert.equal(code, 0, stderr);
      assert.equal(fake.seen[method]?.['name'], NAME);
    }
    assert.equal(fake.seen['BreakGlass']?.['reason'], 'fire');
  });

  it('is watched for as long as is wanted', async () => {
    fake.handlers['WatchPendingOperations'] = async function* () {
      yield PENDING;
      await new Promise(() => {});
    };
    const ended = await keyward('approvals watch acme --timeout 0.5 -o name');
    assert.deepEqual([ended.code, ended.stdout, ended.stderr], [0, `${NAME}\n`, '']);
  });

  it('is not signed where it waits no more, where there is no page, or no passkey', async () => {
    const cases = [
      [{ state: 'PENDING_OPERATION_STATE_DONE' }, [{}], 1, /cannot approve .*: it is DONE/],
      [{}, [], 2, /you have no passkey; make one by "keyward passkeys register"/],
      [{ signOffUrl: '' }, [{}], 1, /the service has no sign-off page/],
      [{ signOffUrl: 'http://elsewhere.example/' }, [{}], 2, /must be at an https:\/\/ URL/],
    ] as const;
    for (const [changes, passkeys, expected, says] of cases) {
      fake.handlers['GetPendingOperation'] = () => ({ ...PENDING, ...changes });
      fake.handlers['ListPasskeys'] = () => ({
        passkeys: passkeys.map(() => ({
          name: 'passkeys/AAAA',
          principal: 'jwt:corp/carol',
          relyingPartyId: 'keyward.example.com',
          createTime: { seconds: 1_700_000_000, nanos: 0 },
        })),
      });
      const { code, stderr } = await keyward(`approvals approve ${NAME} --no-browser`);
      assert.equal(code, expected, stderr);
      assert.match(stderr, says);
      // What it is, is shown to those who can decide on it.
      assert.equal(/^Asked for by/m.test(stderr), !/DONE|no passkey/.test(stderr));
      assert.equal(fake.seen['ApproveOperation'], undefined);
    }
  });
});

describe('a rule for the agents', () => {
  it('wants one person at least, as the agents do', async () => {
    const { code, stderr } = await keyward('passkeys rule --approvals 0');
    assert.equal(code, 2);
    assert.match(stderr, /--approvals .* Write a whole number from 1 on\.\n$/);
  });

  const passkeys = ['bob', 'bob', 'eve'].map((who, index) => ({
    name: `passkeys/AAA${index}`,
    principal: `jwt:corp/${who}`,
    publicKey: Buffer.of(index),
    algorithm: 'ES256',
    deviceBound: true,
    relyingPartyId: 'keyward.example.com',
    createTime: { seconds: 1_700_000_000, nanos: 0 },
  }));

  it('is printed of the passkeys of everyone, or of those who are named', async () => {
    fake.handlers['ListPasskeys'] = () => ({ passkeys });
    const { stdout } = await keyward('passkeys rule --approvals 1 --approver jwt:corp/bob');
    assert.equal(fake.seen['ListPasskeys']?.['principal'], '-');
    const passkey = (index: number) => ({
      credentialId: `AAA${index}`,
      publicKey: Buffer.of(index).toString('base64url'),
      algorithm: 'ES256',
      deviceBound: true,
    });
    assert.deepEqual(JSON.parse(stdout), {
      relyingPartyId: 'keyward.example.com',
      approvers: [{ name: 'jwt:corp/bob', passkeys: [passkey(0), passkey(1)] }],
      approvals: { policies: 1, approvalRules: 1, passkeys: 1, tokenKeys: 1, removals: 0 },
    });
    const { stdout: all } = await keyward('passkeys rule');
    assert.equal(JSON.parse(all).approvers.length, 2);
  });

  it('is not printed where too few could approve, or the passkeys are of several pages', async () => {
    fake.handlers['ListPasskeys'] = () => ({ passkeys });
    const other = { ...passkeys[2], relyingPartyId: 'other.example' };
    for (const [args, says] of [
      ['--approvals 3', /it wants 3 people to approve, and 2 have a passkey/],
      ['--approver jwt:corp/kim', /jwt:corp\/kim has no passkey/],
    ] as const) {
      const { code, stderr } = await keyward(`passkeys rule ${args}`);
      assert.equal(code, 2, stderr);
      assert.match(stderr, says);
    }
    fake.handlers['ListPasskeys'] = () => ({ passkeys: [passkeys[0], other] });
    assert.match((await keyward('passkeys rule')).stderr, /of several relying parties/);
  });
});
