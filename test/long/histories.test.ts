/**
 * A long random history of four replicas: `npm run test:long -- histories --seed 7`. Without a seed
 * one is drawn, and said. A history that breaks a promise shrinks to as few steps as show it.
 */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { it } from 'node:test';
import { TENANT } from '../histories/history.ts';
import { FAULTS, planOf, type Step, shrink } from '../histories/plan.ts';
import { Replicas } from '../histories/replicas.ts';
import { runPlan } from '../histories/run.ts';

const SEED = Number(process.env['KEYWARD_TEST_SEED'] ?? randomInt(1_000_000));
const EXTENT = { steps: 3_000, keys: 12, replicas: 4, faults: FAULTS };
/** A part of a plan fails by chance perhaps: so often it is given one. */
const CHANCES = 3;
const ATTEMPTS = 60;

it(`a history of seed ${SEED} breaks no promise`, async (t) => {
  await using replicas = await Replicas.start(EXTENT.replicas, TENANT);
  t.diagnostic(`seed ${SEED}`);
  const plan = planOf(SEED, EXTENT);
  const violation = await runPlan(replicas, plan);
  if (violation === undefined) return;
  t.diagnostic(`${violation.message}; shrinking`);
  const fails = async (part: readonly Step[]) => {
    for (let chance = 0; chance < CHANCES; chance += 1)
      if ((await runPlan(replicas, part)) !== undefined) return true;
    return false;
  };
  const smallest = await shrink(plan, fails, ATTEMPTS);
  for (const step of smallest) t.diagnostic(JSON.stringify(step));
  assert.fail(`${violation.message}; ${smallest.length} steps show it, above`);
});
