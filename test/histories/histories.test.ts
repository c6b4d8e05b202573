/**
 * Random calls at several replicas, while their links to the database, their agents and they
 * themselves fail: every answer is one that a model allows, and the audit log has every change
 * once. Much more of it is `test/long/histories.test.ts`.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { TENANT } from './history.ts';
import { type Fault, planOf, type Step, shrink } from './plan.ts';
import { PROMISED_MS, Register } from './register.ts';
import { Replicas } from './replicas.ts';
import { runPlan } from './run.ts';

/** What doesn't take long. */
const FAULTS: readonly Fault[] = [
  'stop',
  'killAgent',
  'cut',
  'slow',
  'loseCommit',
  'loseAnswer',
  'lateCommit',
  'overload',
];

test('a short history of two replicas breaks no promise', async () => {
  await using replicas = await Replicas.start(2, TENANT);
  const plan = planOf(17, { steps: 150, keys: 5, replicas: 2, faults: FAULTS });
  assert.equal((await runPlan(replicas, plan))?.message, undefined);
});

describe('what the model allows', () => {
  const at = (began: number) => ({ began, ended: began + 1 });

  test('is at once what was acknowledged, where it was', () => {
    const register = new Register('a');
    register.change('b', { began: 10, ended: 20 }, 0);
    assert.deepEqual(register.visible(at(20), 0), ['b']);
    assert.deepEqual(register.visible(at(20), 1), ['b', 'a']);
    register.told(1, 30);
    assert.deepEqual(register.visible(at(29), 1), ['b', 'a']);
    assert.deepEqual(register.visible(at(30), 1), ['b']);
  });

  test('is elsewhere what was there before for as long as is promised, and not what comes', () => {
    const register = new Register('a');
    register.change('b', { began: 10, ended: 20 }, 0);
    register.change('c', { began: 900, ended: 910 }, 0);
    assert.deepEqual(register.visible(at(5), 1), ['a']);
    assert.deepEqual(register.visible(at(905), 0), ['c', 'b']);
    assert.deepEqual(register.visible(at(20 + PROMISED_MS), 1), ['c', 'b']);
    assert.deepEqual(register.visible(at(910 + PROMISED_MS), 1), ['c']);
  });
});

describe('a plan', () => {
  const extent = { steps: 100, keys: 3, replicas: 2, faults: FAULTS };

  test('is the same for a seed, and another for another', () => {
    assert.deepEqual(planOf(1, extent), planOf(1, extent));
    assert.notDeepEqual(planOf(1, extent), planOf(2, extent));
  });

  test('shrinks to the steps that fail together', async () => {
    const plan = planOf(3, extent);
    const guilty = [plan[7], plan[40], plan[93]];
    const fails = async (part: readonly Step[]) =>
      guilty.every((step) => part.includes(step as Step));
    assert.deepEqual(await shrink(plan, fails, 1_000), guilty);
  });
});
