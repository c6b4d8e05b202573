/**
 * The client where the service wants a stronger proof: whom it asks, what it sends again, and that
 * it asks once.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import type { StepUp } from '../../client/src/index.ts';
import { failureOf, reasonOf } from '../support/kit.ts';
import { type Handler, refusal, startFakeService, wireJob, wireKey } from './fake-service.ts';

const KEY = { name: 'tenants/acme/keys/orders' };
const JOB = { name: 'tenants/acme/rewrapJobs/1' };
const WANTED = { acr_values: 'silver gold', amr_values: 'hwk mfa', max_age: '900' };

/** A fake that wants a token `strong`, and a client whose caller gives one when asked. */
async function startWith(
  stepUp: (wanted: StepUp) => Promise<string>,
  metadata: Readonly<Record<string, string>> = WANTED,
) {
  const sent: string[] = [];
  const note = (call: Parameters<Handler>[1]) => {
    const [header = ''] = call.metadata.get('authorization');
    sent.push(String(header).replace(/^Bearer /, ''));
    if (sent.at(-1) === 'strong') return;
    throw refusal({ code: status.UNAUTHENTICATED, reason: 'STEP_UP_REQUIRED', metadata });
  };
  const requests: unknown[] = [];
  const service = await startFakeService({
    RotateKey: (request, call) => {
      requests.push(request);
      note(call);
      return wireKey(KEY.name);
    },
    WatchRewrapJob: async function* (_, call) {
      note(call);
      yield wireJob(JOB.name);
    },
  });
  const keyward = service.connect({ token: 'weak', stepUp, retries: 0 });
  return {
    keyward,
    sent,
    requests,
    async [Symbol.asyncDispose]() {
      keyward.close();
      await service[Symbol.asyncDispose]();
    },
  };
}

describe('a client that can step up', () => {
  it('is asked for what the call wants, and makes the same call again', async () => {
    const asked: StepUp[] = [];
    await using rig = await startWith(async (wanted) => {
      asked.push(wanted);
      return 'strong';
    });
    await rig.keyward.rotateKey(KEY);
    assert.deepEqual(asked, [
      { acrValues: ['silver', 'gold'], methods: ['hwk', 'mfa'], maxAgeSeconds: 900 },
    ]);
    assert.deepEqual(rig.sent, ['weak', 'strong']);
    const [first, again] = rig.requests;
    assert.deepEqual(again, first, 'the same request id');
    await rig.keyward.rotateKey(KEY);
    assert.deepEqual([rig.sent.at(-1), asked.length], ['strong', 1], 'as long as it is good');
  });

  it('is asked for anything where the service wants nothing in particular', async () => {
    const asked: StepUp[] = [];
    await using rig = await startWith(async (wanted) => {
      asked.push(wanted);
      return 'strong';
    }, {});
    await rig.keyward.rotateKey(KEY);
    assert.deepEqual(asked, [{ acrValues: [], methods: [], maxAgeSeconds: undefined }]);
  });

  it('steps up for a stream too', async () => {
    await using rig = await startWith(async () => 'strong');
    const seen = [];
    for await (const { name } of rig.keyward.watchRewrapJob(JOB)) seen.push(name);
    assert.deepEqual([seen, rig.sent], [[JOB.name], ['weak', 'strong']]);
  });

  it('is asked once for a call: what it gives may not do', async () => {
    let asked = 0;
    await using rig = await startWith(async () => {
      asked += 1;
      return 'still.weak';
    });
    assert.equal(await reasonOf(rig.keyward.rotateKey(KEY)), 'STEP_UP_REQUIRED');
    assert.deepEqual([asked, rig.sent], [1, ['weak', 'still.weak']]);
  });

  it('fails the call with what it fails with', async () => {
    const nobody = new Error('no person is there');
    await using rig = await startWith(() => Promise.reject(nobody));
    await assert.rejects(rig.keyward.rotateKey(KEY), (error) => error === nobody);
    assert.deepEqual(rig.sent, ['weak']);
  });

  it('has as long as a person needs: that is not the call’s time', async () => {
    const timeoutMs = 2_000;
    const began = Date.now();
    await using rig = await startWith(async () => {
      while (Date.now() < began + timeoutMs) await new Promise(setImmediate);
      return 'strong';
    });
    await rig.keyward.rotateKey(KEY, { timeoutMs });
    assert.deepEqual(rig.sent, ['weak', 'strong']);
  });

  it('is not waited for by a call that is cancelled', async () => {
    const { promise: asked, resolve: ask } = Promise.withResolvers<void>();
    const { promise: never } = Promise.withResolvers<string>();
    await using rig = await startWith(() => {
      ask();
      return never;
    });
    const cancelling = new AbortController();
    const call = failureOf(rig.keyward.rotateKey(KEY, { signal: cancelling.signal }));
    await asked;
    cancelling.abort();
    assert.equal((await call).code, 'CANCELLED');
  });
});
