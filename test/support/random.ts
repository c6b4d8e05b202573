/**
 * Chance by a seed: what a test draws differs from run to run, and `KEYWARD_TEST_SEED` draws the
 * same again.
 */
import { randomInt } from 'node:crypto';

/** This run's seed; a test that draws by it reports it. */
export const SEED = Number(process.env['KEYWARD_TEST_SEED'] ?? randomInt(2 ** 31));

/** Whether everything is tested of which `npm test` draws a part: in test/long/. */
export const IS_WHOLE = process.env['KEYWARD_TEST_WHOLE'] === '1';

/** Returns numbers from 0 to 1, exclusive, the same for a seed (mulberry32). */
export function randomBy(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Returns one of them. */
export function draw<T>(items: readonly T[], random: () => number): T {
  return items[Math.floor(random() * items.length)] as T;
}

/** Returns so many of them, or all if they are fewer, in their order. */
export function drawSome<T>(items: readonly T[], count: number, random: () => number): T[] {
  const order = items.map((_, index) => ({ index, by: random() })).sort((a, b) => a.by - b.by);
  const drawn = new Set(order.slice(0, count).map(({ index }) => index));
  return items.filter((_, index) => drawn.has(index));
}

/** Returns so many of them in `npm test`, as this run's seed draws, and in test/long/ all. */
export function drawHere<T>(items: readonly T[], count = 1): readonly T[] {
  return IS_WHOLE ? items : drawSome(items, count, randomBy(SEED));
}
