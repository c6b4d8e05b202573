/**
 * The benches, in the order in which they run and in which `RESULTS.md` has their sections.
 *
 * To add one: a file beside this one that exports a {@link Bench}, and its row here. What it writes
 * is its section's text and targets; date, machine and load are added to it. Those that leave much
 * in the database come last.
 */
import { access } from './access.ts';
import { audit } from './audit.ts';
import { batches } from './batches.ts';
import type { Bench } from './bench.ts';
import { calls } from './calls.ts';
import { cores } from './cores.ts';
import { envelopes } from './envelopes.ts';
import { http } from './http.ts';
import { manyKeys } from './many-keys.ts';
import { neighbour } from './neighbour.ts';
import { networkHsm } from './network-hsm.ts';
import { overload } from './overload.ts';
import { replicas } from './replicas.ts';
import { rewrap } from './rewrap.ts';
import { soak } from './soak.ts';

export const BENCHES: readonly Bench[] = [
  calls,
  batches,
  http,
  cores,
  access,
  neighbour,
  envelopes,
  replicas,
  overload,
  networkHsm,
  audit,
  rewrap,
  manyKeys,
  soak,
];

/** Returns those of these names, in the table's order: without names, all that run unasked. */
export function benchesNamed(names: readonly string[]): readonly Bench[] {
  const unknown = names.find((name) => !BENCHES.some((bench) => bench.name === name));
  if (unknown !== undefined)
    throw new Error(
      `cannot run bench ${unknown}: there is none; there are ` +
        BENCHES.map(({ name }) => name).join(', '),
    );
  return BENCHES.filter(({ name, onRequest }) =>
    names.length === 0 ? !onRequest : names.includes(name),
  );
}
