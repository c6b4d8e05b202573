import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import type { RewrapJob } from '../../client/src/index.ts';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import { type Handler, type Refusal, refusal, startFakeService, wireJob } from './fake-service.ts';

const name = 'tenants/acme/rewrapJobs/j';
const ENDED = { state: 'REWRAP_JOB_STATE_SUCCEEDED', done: 1000, left: 0 };
const LOST: Refusal = {
  code: status.UNAVAILABLE,
  reason: 'SERVER_STOPPING',
  retryDelay: { seconds: 0, nanos: 5_000_000 },
};

/** How much each state says is done. */
async function watched(jobs: AsyncIterable<RewrapJob>): Promise<number[]> {
  return Array.fromAsync(jobs, ({ done }) => done);
}

/** A stream that sends one state and then nothing, and says when it is cancelled. */
function standing() {
  const cancelled = Promise.withResolvers<void>();
  const handler: Handler = (_request, call) => {
    call.on('cancelled', () => cancelled.resolve());
    return (async function* () {
      yield wireJob(name);
      await new Promise(() => {});
    })();
  };
  return { handler, cancelled: cancelled.promise };
}

describe('watching a job', () => {
  it('gives each state as it comes, to the last', async () => {
    const goOn = Promise.withResolvers<void>();
    await using service = await startFakeService({
      WatchRewrapJob: async function* (request) {
        assert.deepEqual(request, { name });
        yield wireJob(name, { done: 1 });
        await goOn.promise;
        yield wireJob(name, { done: 2 });
        yield wireJob(name, ENDED);
      },
    });
    using keyward = service.connect();
    const states: unknown[] = [];
    for await (const { done, state, timeLeftSeconds } of keyward.watchRewrapJob({ name })) {
      states.push([done, state, timeLeftSeconds]);
      goOn.resolve();
    }
    assert.deepEqual(states, [
      [1, 'RUNNING', 8],
      [2, 'RUNNING', 8],
      [1000, 'SUCCEEDED', 8],
    ]);
  });

  it('goes on where the stream broke, as often as it gets on', async () => {
    let calls = 0;
    await using service = await startFakeService({
      WatchRewrapJob: async function* () {
        calls += 1;
        yield wireJob(name, calls === 6 ? ENDED : { done: calls });
        if (calls < 6) throw refusal(LOST);
      },
    });
    using keyward = service.connect();
    assert.deepEqual(await watched(keyward.watchRewrapJob({ name })), [1, 2, 3, 4, 5, 1000]);
  });

  it('gives up after as many tries in a row as the client makes', async () => {
    let calls = 0;
    await using service = await startFakeService({
      WatchRewrapJob: async function* () {
        calls += 1;
        if (calls === 1) yield wireJob(name);
        throw refusal(LOST);
      },
    });
    using keyward = service.connect({ retries: 2 });
    const jobs = keyward.watchRewrapJob({ name });
    assert.equal((await jobs.next()).value?.done, 500);
    await assert.rejects(jobs.next(), { code: 'UNAVAILABLE', reason: 'SERVER_STOPPING' });
    assert.equal(calls, 3);
    assert.deepEqual(await jobs.next(), { done: true, value: undefined });
  });

  it('finds a service that is there again', async () => {
    const ca = createCertificateAuthority('Fake CA');
    const first = await startFakeService({ WatchRewrapJob: standing().handler }, { ca });
    using keyward = first.connect();
    const jobs = keyward.watchRewrapJob({ name });
    assert.equal((await jobs.next()).value?.done, 500);
    await first[Symbol.asyncDispose]();
    const port = Number(first.address.split(':')[1]);
    await using _second = await startFakeService(
      {
        WatchRewrapJob: async function* () {
          yield wireJob(name, ENDED);
        },
      },
      { ca, port },
    );
    assert.deepEqual(await watched(jobs), [1000]);
  });

  it('is not tried again where that can not help, and says what the service says', async () => {
    await using service = await startFakeService({
      WatchRewrapJob: () => {
        throw refusal({ code: status.NOT_FOUND, reason: 'RESOURCE_NOT_FOUND', requestId: 'r-1' });
      },
    });
    using keyward = service.connect();
    await assert.rejects(keyward.watchRewrapJob({ name }).next(), {
      name: 'KeywardError',
      reason: 'RESOURCE_NOT_FOUND',
      requestId: 'r-1',
    });
    assert.equal(service.calls.get('WatchRewrapJob'), 1);
  });

  it('throws for a state that is not whole', async () => {
    await using service = await startFakeService({
      WatchRewrapJob: async function* () {
        yield wireJob(name, { createTime: null });
      },
    });
    using keyward = service.connect();
    await assert.rejects(keyward.watchRewrapJob({ name }).next(), {
      code: 'INTERNAL',
      message: /lacks RewrapJob\.createTime/,
    });
  });
});

describe('a watch ends', () => {
  it('at the service too when its loop is left', async () => {
    const { handler, cancelled } = standing();
    await using service = await startFakeService({ WatchRewrapJob: handler });
    using keyward = service.connect();
    for await (const { done } of keyward.watchRewrapJob({ name })) {
      assert.equal(done, 500);
      break;
    }
    await cancelled;
    assert.equal(service.calls.get('WatchRewrapJob'), 1);
  });

  it('by a signal, whose reason is the cause', async () => {
    const { handler, cancelled } = standing();
    await using service = await startFakeService({ WatchRewrapJob: handler });
    using keyward = service.connect();
    const controller = new AbortController();
    const jobs = keyward.watchRewrapJob({ name }, { signal: controller.signal });
    await jobs.next();
    const next = assert.rejects(jobs.next(), (error: Error & { code: string }) => {
      assert.deepEqual([error.code, (error.cause as Error).message], ['CANCELLED', 'enough']);
      return true;
    });
    controller.abort(new Error('enough'));
    await next;
    await cancelled;
  });

  it('by a signal without what had come in already, and before anything is sent when it is aborted', async () => {
    await using service = await startFakeService({
      WatchRewrapJob: async function* () {
        for (let done = 0; done < 3; done++) yield wireJob(name, { done });
      },
    });
    using keyward = service.connect();
    const controller = new AbortController();
    const jobs = keyward.watchRewrapJob({ name }, { signal: controller.signal });
    await jobs.next();
    await sleep(50);
    controller.abort();
    await assert.rejects(jobs.next(), { code: 'CANCELLED' });
    const late = keyward.watchRewrapJob({ name }, { signal: controller.signal });
    await assert.rejects(late.next(), { code: 'CANCELLED' });
    assert.equal(service.calls.get('WatchRewrapJob'), 1);
  });

  it('while it waits to try again', async () => {
    await using service = await startFakeService({
      WatchRewrapJob: () => {
        throw refusal({ ...LOST, retryDelay: { seconds: 60, nanos: 0 } });
      },
    });
    const keyward = service.connect();
    const next = assert.rejects(keyward.watchRewrapJob({ name }).next(), {
      message: 'The client is closed.',
    });
    while (service.calls.size === 0) await sleep(5);
    await sleep(50);
    keyward.close();
    await next;
  });

  it('with the client, and later ones say that it is closed', async () => {
    const { handler, cancelled } = standing();
    await using service = await startFakeService({ WatchRewrapJob: handler });
    const keyward = service.connect();
    const jobs = keyward.watchRewrapJob({ name });
    await jobs.next();
    const next = assert.rejects(jobs.next(), {
      code: 'CANCELLED',
      message: 'The client is closed.',
    });
    keyward.close();
    await next;
    await cancelled;
    await assert.rejects(keyward.watchRewrapJob({ name }).next(), {
      message: 'The client is closed.',
    });
  });

  it('by its own deadline, and has none unless it is given', async () => {
    const { handler } = standing();
    const deadlines: unknown[] = [];
    await using service = await startFakeService({
      WatchRewrapJob: (request, call) => {
        deadlines.push(call.getDeadline());
        return handler(request, call);
      },
    });
    using keyward = service.connect({ defaultTimeoutMs: 50 });
    const jobs = keyward.watchRewrapJob({ name }, { timeoutMs: 200 });
    assert.equal((await jobs.next()).value?.done, 500);
    await assert.rejects(jobs.next(), { code: 'DEADLINE_EXCEEDED', reason: undefined });
    const patient = keyward.watchRewrapJob({ name });
    await patient.next();
    assert.equal(deadlines[1], Number.POSITIVE_INFINITY);
    await patient.return();
    for (const timeoutMs of [Number.NaN, Number.POSITIVE_INFINITY, -1]) {
      await assert.rejects(keyward.watchRewrapJob({ name }, { timeoutMs }).next(), TypeError);
    }
  });
});
