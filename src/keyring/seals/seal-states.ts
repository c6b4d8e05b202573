/**
 * Sealing how keys stand that nobody has sealed, by an operator with the PIN at hand:
 * `token seal-states`.
 *
 * For keys that were made before states were sealed, and for one whose seal an operator has erased
 * because nothing is left to restore its state from. Invariants: what is sealed is never sealed
 * over; what is sealed now is told before. It vouches for whatever the database says at that
 * moment, so nothing in the service calls it. Knows no PKCS#11 and no SQL.
 */
import { encodeKeyState } from '../../hsm/key-state.ts';
import { RECORD } from '../../hsm/record-seal.ts';
import type { RecordAgent } from '../../hsm/token-commands.ts';
import type { SealKeyId } from '../../ids.ts';
import { formatKeyName } from '../../names.ts';
import type { OwnerConnection } from '../../store/core/owner.ts';
import {
  countSealed,
  FIRST_KEY,
  type KeyPlace,
  type ResealedState,
  readUnsealed,
  writeFirstSeals,
} from '../../store/keys/key-seals.ts';
import type { KeyStateRecord } from '../../store/keys/key-states.ts';

/** So many are sealed in one transaction. */
const BATCH = 200;

export interface SealStatesParts {
  readonly owner: OwnerConnection;
  readonly caller: string;
  /** The current one. */
  readonly sealKeyId: SealKeyId;
  readonly agent: Pick<RecordAgent, 'seal'>;
  /** Only look. */
  readonly dryRun: boolean;
  /** Hears, in words for the operator, what there is and what was done. */
  readonly say: (line: string) => void;
}

/** What there is of unsealed keys. */
interface Counts {
  readonly tenants: Set<string>;
  readonly keys: Map<string, number>;
  readonly versions: Map<string, number>;
}

/**
 * Seals the states of all unsealed keys. Running it again continues. Throws Error, in words for the
 * operator.
 */
export async function sealStates(parts: SealStatesParts): Promise<void> {
  const { owner, dryRun, say } = parts;
  const counts: Counts = { tenants: new Set(), keys: new Map(), versions: new Map() };
  await walk(owner, async (unsealed) => {
    for (const { state, tenant } of unsealed) count(counts, state, tenant);
  });
  const before = await countSealed(owner.query);
  say(
    `${sum(counts.keys)} keys of ${counts.tenants.size} tenants are not sealed${inStates(counts.keys)}`,
  );
  say(`they have ${sum(counts.versions)} versions${inStates(counts.versions)}`);
  say(`${before} keys are already sealed and are left unchanged`);
  if (dryRun) return say('nothing was changed');
  let sealed = 0;
  await walk(owner, async (unsealed) => {
    sealed += await sealSome(parts, unsealed);
  });
  say(`sealed ${sealed} keys`);
}

type Unsealed = Awaited<ReturnType<typeof readUnsealed>>;

/** All unsealed keys, some at a time, each time in a transaction that has locked them. */
async function walk(
  owner: OwnerConnection,
  work: (unsealed: Unsealed) => Promise<void>,
): Promise<void> {
  let after: KeyPlace | undefined = FIRST_KEY;
  while (after !== undefined) {
    const place: KeyPlace = after;
    after = await owner.transaction(async () => {
      const unsealed = await readUnsealed(owner.query, place, BATCH);
      if (unsealed.length > 0) await work(unsealed);
      return unsealed.at(-1)?.state;
    });
  }
}

async function sealSome(
  { owner, caller, sealKeyId, agent }: SealStatesParts,
  unsealed: Unsealed,
): Promise<number> {
  const contents = unsealed.map(contentOf);
  const { seals } = await agent.seal({ sealKeyId, kind: RECORD.keyState, contents });
  const sealed = unsealed.map(
    ({ state, tenant }, index): ResealedState & { readonly resource: string } => ({
      before: state,
      resource: formatKeyName({ tenant, key: state.name }),
      sealKeyId,
      seal: seals[index] ?? Buffer.alloc(0),
    }),
  );
  await writeFirstSeals(
    owner.query,
    { caller, method: 'keyward-server token seal-states' },
    sealed,
  );
  return sealed.length;
}

function contentOf({ state, tenant }: Unsealed[number]): Buffer {
  try {
    return encodeKeyState(state);
  } catch (cause) {
    const name = formatKeyName({ tenant, key: state.name });
    throw new Error(
      `cannot seal ${name}: its row holds no possible state of a key; repair the row`,
      { cause },
    );
  }
}

function count({ tenants, keys, versions }: Counts, state: KeyStateRecord, tenant: string): void {
  const add = (to: Map<string, number>, name: string) => to.set(name, (to.get(name) ?? 0) + 1);
  tenants.add(tenant);
  add(keys, state.state);
  for (const version of state.versions) add(versions, version.state);
}

function sum(counts: ReadonlyMap<string, number>): number {
  return [...counts.values()].reduce((all, each) => all + each, 0);
}

function inStates(counts: ReadonlyMap<string, number>): string {
  const parts = [...counts].map(([state, number]) => `${number} ${state}`).sort();
  return parts.length === 0 ? '' : `: ${parts.join(', ')}`;
}
