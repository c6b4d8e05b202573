/** Timers of which there is one for each connection, each for a time of its own. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { clearRareTimer } from '../../../src/faces/transport/rare-timer.ts';

const TIMERS = 1_000;
/** Node's list, its place in a queue and its name take more than that; a bare list takes 72. */
const LIST_BYTES = 100;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function heldAfter(clear: (timer: NodeJS.Timeout) => void, from: number): number {
  const heap = () => {
    collect();
    return process.memoryUsage().heapUsed;
  };
  for (let index = 0; index < TIMERS; index++) clear(setTimeout(() => {}, from + index).unref());
  const before = heap();
  for (let index = TIMERS; index < 11 * TIMERS; index++)
    clear(setTimeout(() => {}, from + index).unref());
  return (heap() - before) / (10 * TIMERS);
}

test('nothing is left of a timer once it is cleared, though it holds up no process', () => {
  assert.ok(heldAfter(clearTimeout, 1_000_000) > LIST_BYTES, 'Node forgets it by itself now');
  assert.ok(heldAfter(clearRareTimer, 2_000_000) < LIST_BYTES / 2);
});
