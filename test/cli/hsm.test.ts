import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import { wireJob, wireTokenKey } from '../client/fake-service.ts';
import { ENDED, TOKEN_KEY, useFakeService } from './fake.ts';

const UID = '018f0000-0000-4000-8000-00000000000a';
const JOB = 'tenants/system/rewrapJobs/018f0000';
const REQUEST_ID = 'f0000000-0000-4000-8000-000000000000';

const fake = useFakeService();
const { keyward, refuse } = fake;

describe('keys in the HSM', () => {
  it('are those that tenants share unless a tenant is named', async () => {
    const own = `tenants/acme/tokenKeys/${UID}`;
    const cases: [args: string, method: string, request: object][] = [
      ['hsm rotate-root', 'RotateRootKey', { parent: 'tenants/system' }],
      ['hsm rotate-root acme', 'RotateRootKey', { parent: 'tenants/acme' }],
      ['hsm rotate-root tenants/acme --watch', 'RotateRootKey', { parent: 'tenants/acme' }],
      ['hsm rotate-seal', 'RotateSealKey', {}],
      ['hsm keys', 'ListTokenKeys', { parent: 'tenants/system' }],
      ['hsm keys acme', 'ListTokenKeys', { parent: 'tenants/acme' }],
      [`hsm key ${UID}`, 'GetTokenKey', { name: TOKEN_KEY }],
      [`hsm key ${UID} --tenant acme`, 'GetTokenKey', { name: own }],
      [`hsm key ${own}`, 'GetTokenKey', { name: own }],
    ];
    for (const [args, method, request] of cases) {
      const { code, stderr } = await keyward(args);
      const { requestId, ...rest } = fake.seen[method] ?? {};
      assert.deepEqual([code, stderr, rest], [0, '', request], args);
      assert.equal(typeof requestId, /^(Get|List)/.test(method) ? 'undefined' : 'string', args);
    }
  });

  it('are rotated under the request id that is given', async () => {
    for (const [args, method] of [
      ['hsm rotate-root acme', 'RotateRootKey'],
      ['hsm rotate-seal --watch', 'RotateSealKey'],
    ] as const) {
      await keyward(`${args} --request-id ${REQUEST_ID}`);
      assert.equal(fake.seen[method]?.['requestId'], REQUEST_ID, args);
    }
  });

  it('that are not named as they must be are refused with code 2, and nothing is sent', async () => {
    const cases: [string, RegExp][] = [
      ['hsm rotate-root tenants/acme/keys/orders', /is not a tenant/],
      ['hsm keys tenants/', /is not a tenant/],
      ['hsm key tenants/acme/keys/orders', /is not a token key; write tenants\/acme\/tokenKeys\/…/],
      [`hsm key ${TOKEN_KEY} --tenant acme`, /is not a token key of tenants\/acme/],
      ['hsm rotate-seal acme', /too many arguments/],
    ];
    for (const [args, line] of cases) {
      const { code, stdout, stderr } = await keyward(args);
      assert.deepEqual([code, stdout], [2, ''], args);
      assert.match(stderr, line);
    }
    assert.deepEqual(fake.seen, {});
  });

  it('are shown with their lives, as a table or as JSON', async () => {
    const at = (seconds: number) => ({ seconds: 1_700_000_000 + seconds, nanos: 0 });
    const destroyed = {
      state: 'TOKEN_KEY_STATE_DESTROYED',
      retireTime: at(10),
      destroyTime: at(20),
    };
    const abandoned = { state: 'TOKEN_KEY_STATE_ABANDONED', activateTime: null, rewrapJob: '' };
    fake.handlers['ListTokenKeys'] = () => ({
      tokenKeys: [
        wireTokenKey(TOKEN_KEY),
        wireTokenKey('tenants/system/tokenKeys/b', {
          ...destroyed,
          keyVersions: 0,
          sealedRecords: 0,
          caller: '',
        }),
        wireTokenKey('tenants/system/tokenKeys/c', {
          ...abandoned,
          keyVersions: 0,
          sealedRecords: 5,
          caller: 'a\u001b[2J',
        }),
      ],
    });
    const { stdout } = await keyward('hsm keys -o wide');
    const [head, current, old, never, ...rest] = stdout.split('\n');
    assert.match(
      head ?? '',
      /^UID +ROLE +STATE +CREATED +CURRENT SINCE +RETIRED +DESTROYED +KEY VERSIONS +SEALED RECORDS +CALLER$/,
    );
    assert.match(
      current ?? '',
      /^018f\S+a +ROOT +CURRENT +2023\S+:20\.000Z +2023\S+:22\.000Z +1099511627776 +2199023255552 +spiffe:\/\/acme\/admin$/,
    );
    assert.match(
      old ?? '',
      /^b +ROOT +DESTROYED +\S+:20\S+ +\S+:22\S+ +\S+:30\S+ +\S+:40\S+ +0 +0$/,
    );
    assert.match(never ?? '', /^c +ROOT +ABANDONED +2023\S+ +0 +5 +a\?\[2J$/);
    assert.deepEqual(rest, ['']);
    const [listed] = JSON.parse((await keyward('hsm keys --output json')).stdout);
    assert.deepEqual([listed.name, listed.rewrapJob], [TOKEN_KEY, JOB]);
    const one = JSON.parse((await keyward(`hsm key ${UID} --output json`)).stdout);
    assert.deepEqual(one, listed);
  });
});

describe('hsm rotate-root and rotate-seal', () => {
  it('show the new key as it is', async () => {
    const state = 'TOKEN_KEY_STATE_CREATED';
    fake.handlers['RotateRootKey'] = () => wireTokenKey(TOKEN_KEY, { state, activateTime: null });
    const { code, stdout } = await keyward('hsm rotate-root');
    assert.equal(code, 0);
    assert.match(stdout, /^UID[^\n]+\n018f\S+a +ROOT +CREATED [^\n]+\n$/);
    assert.match((await keyward('hsm rotate-seal')).stdout, /\n018f\S+a +SEAL +CURRENT [^\n]+\n$/);
  });

  it('watch the job of this very rotation, and show it as it ended', async () => {
    const kind = 'REWRAP_JOB_KIND_KEY_VERSIONS';
    fake.handlers['WatchRewrapJob'] = () => [
      wireJob(JOB, { kind }),
      wireJob(JOB, { kind, ...ENDED }),
    ];
    for (const command of ['rotate-root', 'rotate-root acme', 'rotate-seal']) {
      const { code, stdout, stderr } = await keyward(`hsm ${command} --watch`);
      assert.deepEqual([code, stderr], [0, ''], command);
      assert.deepEqual(fake.seen['WatchRewrapJob'], { name: JOB });
      assert.match(
        stdout,
        /^NAME +SCOPE[^\n]+\n\S+018f0000 [^\n]+ KEY_VERSIONS +SUCCEEDED [^\n]+\n$/,
      );
    }
    fake.handlers['WatchRewrapJob'] = () => [wireJob(JOB, { state: 'REWRAP_JOB_STATE_CANCELLED' })];
    const cancelled = await keyward('hsm rotate-root --watch --output json');
    assert.equal(cancelled.code, 1);
    assert.equal(JSON.parse(cancelled.stderr).error.message, 'the job was cancelled');
    assert.equal(JSON.parse(cancelled.stdout).state, 'CANCELLED');
  });

  it('wait for the key to become current before they watch', async () => {
    const waiting = (state: string) =>
      wireTokenKey(TOKEN_KEY, {
        state: `TOKEN_KEY_STATE_${state}`,
        activateTime: null,
        rewrapJob: '',
      });
    const states = ['CREATED', 'CURRENT'];
    fake.handlers['RotateRootKey'] = () => waiting('CREATING');
    fake.handlers['GetTokenKey'] = () => {
      const state = states.shift();
      return state === 'CREATED' ? waiting(state) : wireTokenKey(TOKEN_KEY);
    };
    fake.handlers['WatchRewrapJob'] = () => [wireJob(JOB, ENDED)];
    const { code, stderr } = await keyward('hsm rotate-root --watch');
    assert.deepEqual([code, stderr, states], [0, '', []]);
    assert.deepEqual(fake.seen['GetTokenKey'], { name: TOKEN_KEY });
    assert.deepEqual(fake.seen['WatchRewrapJob'], { name: JOB });
  });

  it('say that there is a new key when what comes after fails', async () => {
    refuse('WatchRewrapJob', { code: status.INTERNAL, reason: 'INTERNAL', message: 'Bad.' });
    const head = `keyward: rotating to ${TOKEN_KEY}, but cannot watch its job:\n`;
    const lost = await keyward('hsm rotate-root --watch');
    assert.deepEqual([lost.code, lost.stderr], [1, `${head}keyward: INTERNAL: Bad.\n`]);
    const facts = { activateTime: null, rewrapJob: '' };
    const answers = (state: string) => () =>
      wireTokenKey(TOKEN_KEY, { ...facts, state: `TOKEN_KEY_STATE_${state}` });
    fake.handlers['RotateRootKey'] = answers('ABANDONED');
    const abandoned = await keyward('hsm rotate-root --watch');
    assert.deepEqual(
      [abandoned.code, abandoned.stderr],
      [1, `${head}keyward: ${TOKEN_KEY} has started no job and is ABANDONED\n`],
    );
    fake.handlers['RotateRootKey'] = answers('CREATED');
    fake.handlers['GetTokenKey'] = answers('CREATED');
    const late = await keyward('hsm rotate-root --watch --timeout 3');
    assert.deepEqual(
      [late.code, late.stderr],
      [1, `${head}keyward: ${TOKEN_KEY} is still CREATED\n`],
    );
    refuse('RotateRootKey', {
      code: status.FAILED_PRECONDITION,
      reason: 'TOKEN_KEY_ROTATION_UNDER_WAY',
      message: 'Wait.',
    });
    const { stderr } = await keyward('hsm rotate-root --watch');
    assert.equal(stderr, 'keyward: TOKEN_KEY_ROTATION_UNDER_WAY: Wait.\n');
  });
});
