/**
 * Histories to be: calls about a few keys at some replicas, and what goes wrong meanwhile, drawn
 * from a seed.
 *
 * A plan is a flat list, so that any part of it is a plan: a failing one shrinks by leaving steps
 * out. Knows no service.
 */
import { randomBy } from '../support/random.ts';

/** What a key's caller may do next. */
export const CALLS = [
  'rotate',
  'disable',
  'enable',
  'describe',
  'describeStale',
  'encrypt',
  'encrypt',
  'decrypt',
  'get',
  'addDataKey',
  'openDataKey',
  'removeDataKey',
  'bind',
  'unbind',
  'use',
  'use',
  'repeat',
] as const;
export type CallKind = (typeof CALLS)[number];

/**
 * What may go wrong: a replica that is stopped for a while, or killed and started again, an agent
 * that is killed; a link to the database that is cut, refused, or slow; a COMMIT that does not
 * arrive, whose answer is lost, or that comes late; more calls than a replica takes.
 */
export const FAULTS = [
  'stop',
  'kill',
  'killAgent',
  'cut',
  'refuse',
  'slow',
  'loseCommit',
  'loseAnswer',
  'lateCommit',
  'overload',
] as const;
export type Fault = (typeof FAULTS)[number];

export type Step =
  | {
      readonly call: CallKind;
      readonly key: number;
      readonly replica: number;
      /** Which of several it is about, and how long it may take. */
      readonly pick: number;
    }
  | { readonly fault: Fault; readonly replica: number; readonly ms: number };

/** How much there is to be. */
export interface Extent {
  readonly steps: number;
  readonly keys: number;
  readonly replicas: number;
  readonly faults: readonly Fault[];
}

/** How often a step is something that goes wrong. */
const FAULT_SHARE = 0.08;
const LONGEST_FAULT_MS = 1_500;

/** Returns the plan of a seed. */
export function planOf(seed: number, { steps, keys, replicas, faults }: Extent): Step[] {
  const random = randomBy(seed);
  const below = (end: number) => Math.floor(random() * end);
  const oneOf = <T>(list: readonly T[]): T => list[below(list.length)] as T;
  return Array.from({ length: steps }, (): Step => {
    const replica = below(replicas);
    if (random() < FAULT_SHARE)
      return { fault: oneOf(faults), replica, ms: 50 + below(LONGEST_FAULT_MS) };
    return { call: oneOf(CALLS), key: below(keys), replica, pick: below(1_000_000) };
  });
}

/**
 * Returns a part of the plan that fails still, with as few steps as `attempts` runs find: halves
 * are left out, then quarters, and so on.
 */
export async function shrink(
  plan: readonly Step[],
  fails: (plan: readonly Step[]) => Promise<boolean>,
  attempts: number,
): Promise<readonly Step[]> {
  let smallest = plan;
  let left = attempts;
  for (let size = Math.ceil(plan.length / 2); size >= 1 && left > 0; ) {
    let found = false;
    for (let start = 0; start < smallest.length && left > 0; start += size) {
      const part = [...smallest.slice(0, start), ...smallest.slice(start + size)];
      left -= 1;
      if (part.length === 0 || !(await fails(part))) continue;
      smallest = part;
      found = true;
      break;
    }
    if (found) size = Math.min(size, Math.ceil(smallest.length / 2));
    else if (size === 1) break;
    else size = Math.ceil(size / 2);
  }
  return smallest;
}
