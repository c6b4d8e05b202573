/**
 * Frames at random for 45 s, by callers of every kind; the short form is part of
 * `hostile/floods.test.ts`.
 */
import { test } from 'node:test';
import { randomFrames } from '../hostile/random-frames.ts';
import { CREDENTIALS, startFlooded } from '../hostile/rig.ts';

test('the server outlives 45 s of frames at random, by callers of every kind', async () => {
  await using flooded = await startFlooded({ acceptsTokens: true });
  for (const kind of CREDENTIALS) await flooded.survives(randomFrames(45_000), kind);
});
