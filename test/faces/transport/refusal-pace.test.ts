/** When a full server refuses what comes, by clocks that the tests move. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { RefusalPace } from '../../../src/faces/transport/refusal-pace.ts';

const TICK_MS = 10;
/** What is refused at once after a quiet time. */
const AT_ONCE = 64;
const MINUTE_MS = 60_000;

beforeEach(() => mock.timers.enable({ apis: ['setInterval'] }));
afterEach(() => mock.timers.reset());

/** A server whose event loop has something to do for this share of the time. */
class Rig {
  busy = 1;
  refused = 0;
  #now = 1_000;
  #idle = 0;
  readonly pace = new RefusalPace({ now: () => this.#now, idle: () => this.#idle });

  come(count: number, { timeoutMs = MINUTE_MS, isOver = false } = {}): void {
    const call = { isOver, fail: () => (this.refused += 1), skipRequest: () => {} };
    for (let index = 0; index < count; index += 1) this.pace.refuse(call, timeoutMs);
  }

  /** Returns how many were refused in this time. */
  after(milliseconds: number, { done = 0 } = {}): number {
    const before = this.refused;
    for (let index = 0; index < done; index += 1) this.pace.done();
    for (let passed = 0; passed < milliseconds; passed += TICK_MS) {
      this.#now += TICK_MS;
      this.#idle += TICK_MS * (1 - this.busy);
      mock.timers.tick(TICK_MS);
    }
    return this.refused - before;
  }
}

test('a server that has time refuses at once, and as much as comes', () => {
  const rig = new Rig();
  rig.busy = 0;
  for (let second = 0; second < 3; second += 1) {
    rig.come(AT_ONCE);
    assert.equal(rig.after(0), 0);
    rig.after(1_000);
    assert.equal(rig.refused, (second + 1) * AT_ONCE);
  }
  rig.come(AT_ONCE);
  assert.equal(rig.refused, 4 * AT_ONCE);
});

test('a busy server refuses one call for six that it does, and fifty a second in any case', () => {
  const rig = new Rig();
  rig.come(1_000);
  assert.equal(rig.refused, AT_ONCE);
  assert.equal(rig.after(1_000), 50);
  assert.equal(rig.after(1_000, { done: 303 }), 50 + 50);
});

test('the more time it has, the more it refuses', () => {
  const rates = [1, 0.9, 0.5].map((busy) => {
    const rig = new Rig();
    rig.come(4_000);
    rig.busy = busy;
    return rig.after(1_000);
  });
  assert.deepEqual(
    rates.map((rate) => Math.round(rate / 10)),
    [5, 30, 130],
  );
});

test('none waits for longer than two and a half seconds, nor than half of its time', () => {
  const rig = new Rig();
  rig.come(AT_ONCE);
  rig.come(300, { timeoutMs: 400 });
  rig.after(190);
  assert.ok(rig.refused < AT_ONCE + 300);
  rig.after(10);
  assert.equal(rig.refused, AT_ONCE + 300);
  rig.come(1_000);
  rig.after(2_490);
  assert.ok(rig.refused < AT_ONCE + 1_300);
  rig.after(10);
  assert.equal(rig.refused, AT_ONCE + 1_300);
});

test('the first to come is the first to be refused, and who has gone holds up nobody', () => {
  const rig = new Rig();
  rig.come(AT_ONCE);
  const order: number[] = [];
  const call = (index: number) => ({
    isOver: index === 1,
    fail: () => order.push(index),
    skipRequest: () => {},
  });
  for (let index = 0; index < 4; index += 1) rig.pace.refuse(call(index), MINUTE_MS);
  rig.after(20);
  assert.deepEqual(order, [0, 1]);
  rig.after(40);
  assert.deepEqual(order, [0, 1, 2, 3]);
});

test('no more than 4,096 wait, and what comes then is refused at once', () => {
  const rig = new Rig();
  rig.come(AT_ONCE + 4_096);
  assert.equal(rig.refused, AT_ONCE);
  rig.come(10);
  assert.equal(rig.refused, AT_ONCE + 10);
});

test('what those who wait send is not kept, and who sends much is refused at that', () => {
  const rig = new Rig();
  rig.come(AT_ONCE);
  let [send, refused] = [(_bytes: Buffer) => {}, 0];
  const call = {
    isOver: false,
    fail: () => (refused += 1),
    skipRequest: (piece: (bytes: Buffer) => void) => (send = piece),
  };
  rig.pace.refuse(call, MINUTE_MS);
  send(Buffer.alloc(16_384));
  assert.equal(refused, 0);
  send(Buffer.alloc(1));
  assert.equal(refused, 1);
});
