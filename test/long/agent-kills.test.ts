/**
 * Case 68 at length: every operation, each killed in the middle a thousand times. Takes about a
 * quarter of an hour; the short form, at some points, is part of `faults.test.ts`.
 * KEYWARD_TEST_KILLS=14 has each point once.
 */
import { test } from 'node:test';
import { killInTheMiddle } from '../faults/kills.ts';
import { startFaultyService } from '../faults/service.ts';

/** Fewer for trying it out: KEYWARD_TEST_KILLS. */
const ROUNDS = Number(process.env['KEYWARD_TEST_KILLS'] ?? 1_000);

test('case 68: an agent killed in the middle of an operation costs that call alone, 1,000 times each', {
  timeout: 3 * 3_600_000,
}, async () => {
  await using faulty = await startFaultyService();
  await killInTheMiddle(faulty, { rounds: ROUNDS });
  await faulty.well();
});
