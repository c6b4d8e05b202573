/**
 * Runs a plan on replicas, and looks at the audit log when it is over.
 */
import { randomUUID } from 'node:crypto';
import { sql } from '../support/reconciling.ts';
import { KeyHistory, PARENT, Violation } from './history.ts';
import type { Step } from './plan.ts';
import type { Replicas } from './replicas.ts';

/** Returns what was violated; undefined when nothing was. */
export async function runPlan(
  replicas: Replicas,
  plan: readonly Step[],
): Promise<Violation | undefined> {
  const run = randomUUID().slice(0, 8);
  const numbers = new Set(plan.flatMap((step) => ('key' in step ? [step.key] : [])));
  const keys = new Map(
    [...numbers].map((number) => [number, new KeyHistory(replicas, `h${run}-${number}`)]),
  );
  const bystander = new KeyHistory(replicas, `h${run}-bystander`);
  try {
    await Promise.all([bystander, ...keys.values()].map((key) => key.create()));
    await perform(replicas, plan, keys, bystander.name);
    await replicas.healed();
    for (const key of keys.values()) await requireEntries(replicas, key);
    return undefined;
  } catch (error) {
    await replicas.healed();
    if (error instanceof Violation) return error;
    throw error;
  }
}

/** Each key's calls one after another, those of other keys meanwhile. */
async function perform(
  replicas: Replicas,
  plan: readonly Step[],
  keys: ReadonlyMap<number, KeyHistory>,
  bystander: string,
): Promise<void> {
  const busy = new Map<number, Promise<void>>();
  for (const step of plan) {
    if ('fault' in step) {
      replicas.break(step.fault, step.replica, step.ms, bystander);
      continue;
    }
    const { key, call, replica, pick } = step;
    await busy.get(key);
    const calling = keys.get(key)?.call(call, replica, pick) ?? Promise.resolve();
    calling.catch(() => {});
    busy.set(key, calling);
  }
  await Promise.all(busy.values());
}

/** One entry for each change that was made, and one at most for each call. */
async function requireEntries(replicas: Replicas, key: KeyHistory): Promise<void> {
  const found = await sql<{ method: string; made: boolean; unknown: boolean; request: string }>(
    replicas.environment,
    `SELECT split_part(method, '/', 2) AS method, request_id AS request,
         coalesce(entry -> 'detail' ->> 'changeUnknown', '') = 'true' AS unknown,
         outcome = 'OK' AND coalesce(entry -> 'detail' ->> 'repeated', '') <> 'true' AS made
       FROM audit_entries WHERE resource = $1 OR resource LIKE $1 || '/%' OR
         (resource LIKE $2 || '/roleBindings/%' AND entry -> 'change' ->> 'kind' = 'roleBinding'
          AND entry::text LIKE '%' || $3 || '"%')`,
    [key.name, PARENT, key.name.split('/').at(-1)],
  );
  for (const [method, count] of key.changes) {
    const made = found.filter((each) => each.method === method && each.made).length;
    if (made !== count)
      throw new Violation(`${key.name}: ${count} times ${method}, and ${made} entries of it`);
  }
  const encrypted = found.filter(({ method, made }) => method === 'Encrypt' && made).length;
  if (encrypted < key.encrypted)
    throw new Violation(`${key.name}: ${key.encrypted} encrypted, ${encrypted} recorded`);
  // One that says that a change may have been made comes beside the change's own.
  const certain = found.filter(({ unknown }) => !unknown);
  const calls = Map.groupBy(certain, ({ request }) => request);
  for (const [request, entries] of calls)
    if (entries.length > 1)
      throw new Violation(`${key.name}: ${entries.length} entries of the call ${request}`);
}
