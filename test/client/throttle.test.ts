/** What a client does not send to a service that is full. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { status } from '@grpc/grpc-js';
import fc from 'fast-check';
import { type CallEnd, KeywardError } from '../../client/src/index.ts';
import { Throttle } from '../../client/src/throttle.ts';
import { refusal, startFakeService, wireKey } from './fake-service.ts';

const KEY = 'tenants/acme/keys/orders';
const CALLS = 200;
const STEP_MS = 10;

const BUSY = new KeywardError({
  code: 'RESOURCE_EXHAUSTED',
  message: 'busy',
  reason: 'SERVER_BUSY',
  retryDelayMs: 200,
});
const QUOTA = new KeywardError({
  code: 'RESOURCE_EXHAUSTED',
  message: 'quota',
  reason: 'QUOTA_EXCEEDED',
  retryDelayMs: 100,
});
const UNREACHED = new KeywardError({ code: 'UNAVAILABLE', message: 'cannot reach it' });

/** Numbers from 0 up to 1 that are the same for the same seed (mulberry32). */
function numbersFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A client that offers calls at a pace of its own to a service that takes so many a second. */
class Model {
  readonly #throttle: Throttle;
  #now = 0;
  #due = 0;
  #room = 0;

  constructor(seed: number) {
    this.#throttle = new Throttle({ now: () => this.#now, random: numbersFrom(seed) });
  }

  /** Returns what came of the calls of these seconds. */
  run(seconds: number, { offered, capacity }: { offered: number; capacity: number }) {
    const came = { offered: 0, sent: 0, taken: 0 };
    for (const until = this.#now + seconds * 1_000; this.#now < until; this.#now += STEP_MS) {
      this.#room = Math.min(capacity / 10, this.#room + (capacity * STEP_MS) / 1_000);
      for (this.#due += (offered * STEP_MS) / 1_000; this.#due >= 1; this.#due -= 1) {
        came.offered += 1;
        if (!this.#isSent()) continue;
        came.sent += 1;
        if (this.#room >= 1) {
          this.#room -= 1;
          came.taken += 1;
          this.#throttle.succeeded();
        } else this.#throttle.failed(BUSY);
      }
    }
    return came;
  }

  #isSent(): boolean {
    try {
      this.#throttle.admit();
      return true;
    } catch {
      return false;
    }
  }
}

describe('the throttle', () => {
  it('never holds a call back where none was refused as full', () => {
    const outcome = fc.constantFrom(undefined, QUOTA, UNREACHED, new Error('another'));
    const waits = fc.integer({ min: 0, max: 100_000 });
    fc.assert(
      fc.property(fc.array(fc.tuple(outcome, waits), { maxLength: 300 }), (outcomes) => {
        let now = 0;
        const throttle = new Throttle({ now: () => now, random: () => 0 });
        for (const [error, waitMs] of outcomes) {
          throttle.admit();
          if (error === undefined) throttle.succeeded();
          else throttle.failed(error);
          now += waitMs;
        }
      }),
    );
  });

  it('sends a full service what it takes and half as much again, and everything once it is not full', () => {
    const load = fc.record({
      seed: fc.integer(),
      capacity: fc.integer({ min: 40, max: 100 }),
      times: fc.double({ min: 2, max: 8, noNaN: true }),
    });
    fc.assert(
      fc.property(load, ({ seed, capacity, times }) => {
        const offered = capacity * times;
        const model = new Model(seed);
        const before = model.run(10, { offered: capacity / 2, capacity });
        assert.equal(before.sent, before.offered);
        model.run(30, { offered, capacity });
        const full = model.run(30, { offered, capacity });
        assert.ok(full.taken >= 0.95 * 30 * capacity, `${full.taken} taken`);
        assert.ok(full.sent <= 1.65 * full.taken + 60, `${full.sent} sent, ${full.taken} taken`);
        model.run(60, { offered, capacity: 2 * offered });
        const after = model.run(10, { offered, capacity: 2 * offered });
        assert.equal(after.sent, after.offered);
      }),
      { numRuns: 6 },
    );
  });

  it('goes on asking a service that takes nothing', () => {
    const model = new Model(1);
    model.run(60, { offered: 100, capacity: 0 });
    const { sent } = model.run(60, { offered: 100, capacity: 0 });
    assert.ok(sent >= 5 && sent <= 60, `${sent} sent`);
  });
});

describe('a client of a full service', () => {
  const refusing = (reason: string) => () => {
    const retryDelay = { seconds: 0, nanos: 200_000_000 };
    throw refusal({ code: status.RESOURCE_EXHAUSTED, reason, retryDelay });
  };

  it('refuses most calls itself, as the service does, and says that it has not sent them', async () => {
    await using service = await startFakeService({ GetKey: refusing('SERVER_BUSY') });
    const ends: CallEnd[] = [];
    const hooks = { onCallEnd: (_call: unknown, end: CallEnd) => ends.push(end) };
    using keyward = service.connect({ retries: 0, hooks });
    for (let calls = 0; calls < CALLS; calls += 1)
      await keyward.getKey({ name: KEY }).catch(() => {});
    const sent = service.calls.get('GetKey') ?? 0;
    assert.ok(sent < CALLS / 2, `${sent} sent`);
    const heldBack = ends.filter(({ attempts }) => attempts === 0);
    assert.equal(heldBack.length, CALLS - sent);
    for (const { error, outcome } of heldBack) {
      assert.ok(error instanceof KeywardError);
      assert.equal(outcome, 'SERVER_BUSY');
      const { code, reason, retryable, retryDelayMs, metadata } = error;
      assert.deepEqual([code, reason, retryable], ['RESOURCE_EXHAUSTED', 'SERVER_BUSY', true]);
      assert.deepEqual([retryDelayMs, metadata.get('refused_by')], [200, 'client']);
      assert.match(error.message, /the client did not send this one/);
    }
  });

  it('sends what the service refuses for another reason, and calls of other methods', async () => {
    await using service = await startFakeService({
      GetKey: refusing('SERVER_BUSY'),
      ListKeys: refusing('QUOTA_EXCEEDED'),
      RotateKey: () => wireKey(KEY),
    });
    using keyward = service.connect({ retries: 0 });
    for (let calls = 0; calls < CALLS; calls += 1) {
      await keyward.getKey({ name: KEY }).catch(() => {});
      await keyward.listKeys({ parent: 'tenants/acme' }).catch(() => {});
      await keyward.rotateKey({ name: KEY });
    }
    assert.equal(service.calls.get('ListKeys'), CALLS);
    assert.equal(service.calls.get('RotateKey'), CALLS);
  });

  it('sends every call where it is told to', async () => {
    await using service = await startFakeService({ GetKey: refusing('SERVER_BUSY') });
    using keyward = service.connect({ retries: 0, throttle: false });
    for (let calls = 0; calls < CALLS; calls += 1)
      await keyward.getKey({ name: KEY }).catch(() => {});
    assert.equal(service.calls.get('GetKey'), CALLS);
  });
});
