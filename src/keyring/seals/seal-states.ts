/**
 * Sealing how keys stand that nobody has sealed, by an operator with the PIN at hand:
 * `token seal-states`, which seals tenants first (`first-tenant-seals.ts`).
 *
 * For keys that were made before states were sealed, for those sealed without their schedules, as
 * an older release did it, and for one whose seal an operator has erased because nothing is left to
 * restore its state from. Invariants: what is sealed is never sealed over, but by the same with its
 * schedule, after its seal was verified; what is sealed now is told before. It vouches for whatever
 * the database says at that moment, so nothing in the service calls it. Knows no PKCS#11 and no
 * SQL.
 */
import { encodeFormerKeyState, encodeKeyState } from '../../hsm/key-state.ts';
import { RECORD, type RecordKind } from '../../hsm/record-seal.ts';
import type { RecordAgent } from '../../hsm/token-commands.ts';
import type { SealKeyId } from '../../ids.ts';
import { formatKeyName } from '../../names.ts';
import type { OwnerConnection } from '../../store/core/owner.ts';
import {
  countSealed,
  FIRST_KEY,
  type KeyPlace,
  type ResealedState,
  readSealed,
  readUnsealed,
  writeVouchedSeals,
} from '../../store/keys/key-seals.ts';
import type { KeyStateRecord } from '../../store/keys/key-states.ts';
import { sealTenantsByOperator } from './first-tenant-seals.ts';

/** So many are sealed in one transaction. */
const BATCH = 200;
/** So many names of what doesn't verify are told. */
const NAMED = 20;
const METHOD = 'keyward-server token seal-states';

export interface SealStatesParts {
  readonly owner: OwnerConnection;
  readonly caller: string;
  /** The current one. */
  readonly sealKeyId: SealKeyId;
  readonly agent: RecordAgent;
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
 * Seals the states of all unsealed keys, and brings those without their schedules under seals with
 * them. Running it again continues. Throws Error, in words for the operator.
 */
export async function sealStates(parts: SealStatesParts): Promise<void> {
  const { owner, dryRun, say } = parts;
  await sealTenantsByOperator(parts, parts);
  const counts: Counts = { tenants: new Set(), keys: new Map(), versions: new Map() };
  await walk(owner, readUnsealed, async (unsealed) => {
    for (const { state, tenant } of unsealed) count(counts, state, tenant);
  });
  const before = await countSealed(owner.query);
  say(
    `${sum(counts.keys)} keys of ${counts.tenants.size} tenants are not sealed${inStates(counts.keys)}`,
  );
  say(`they have ${sum(counts.versions)} versions${inStates(counts.versions)}`);
  say(`${before} keys are already sealed and are left unchanged`);
  await sealFormer(parts);
  if (dryRun) return say('nothing was changed');
  let sealed = 0;
  await walk(owner, readUnsealed, async (unsealed) => {
    sealed += await sealSome(parts, unsealed);
  });
  say(`sealed ${sealed} keys`);
}

type Read = Awaited<ReturnType<typeof readUnsealed>>;

/** All that `read` finds, some at a time, each time in one transaction. */
async function walk(
  owner: OwnerConnection,
  read: typeof readUnsealed,
  work: (found: Read) => Promise<void>,
): Promise<void> {
  let after: KeyPlace | undefined = FIRST_KEY;
  while (after !== undefined) {
    const place: KeyPlace = after;
    after = await owner.transaction(async () => {
      const found = await read(owner.query, place, BATCH);
      if (found.length > 0) await work(found);
      return found.at(-1)?.state;
    });
  }
}

/** Those that verify without their schedules only; tells of what doesn't verify at all. */
async function sealFormer(parts: SealStatesParts): Promise<void> {
  const { owner, agent, dryRun, say } = parts;
  let former = 0;
  const corrupt: string[] = [];
  await walk(owner, readSealed, async (sealed) => {
    const unsound = await unverified(agent, RECORD.keyState, encodeKeyState, sealed);
    const neither = await unverified(agent, RECORD.formerKeyState, encodeFormerKeyState, unsound);
    const sound = unsound.filter((each) => !neither.includes(each));
    corrupt.push(...neither.map(nameOf));
    former += sound.length;
    if (!dryRun && sound.length > 0) await sealSome(parts, sound);
  });
  if (former > 0)
    say(
      `${former} keys are sealed without their schedules, as an older release did it${dryRun ? '' : '; sealed again, with them'}`,
    );
  if (corrupt.length === 0) return;
  say(`${corrupt.length} keys have seals that do not match and are left unchanged:`);
  for (const name of corrupt.slice(0, NAMED)) say(`  ${name}`);
  if (corrupt.length > NAMED) say(`  and ${corrupt.length - NAMED} more`);
}

/** Those of which the seal isn't of that. */
async function unverified(
  agent: Pick<RecordAgent, 'verify'>,
  kind: RecordKind,
  encode: (state: KeyStateRecord) => Buffer,
  states: Read,
): Promise<Read> {
  const sound = new Set<Read[number]>();
  for (const [sealKeyId, some] of Map.groupBy(states, ({ state }) => state.sealKeyId)) {
    const items = some.flatMap((each) => {
      const { seal } = each.state;
      const content = contentOf(encode, each);
      return seal === null || content === undefined ? [] : [{ each, seal, content }];
    });
    if (sealKeyId === null || items.length === 0) continue;
    const request = { sealKeyId, kind, items: items.map(({ each: _, ...item }) => item) };
    const { verified } = await agent.verify(request);
    for (const [index, { each }] of items.entries()) if (verified[index] === 1) sound.add(each);
  }
  return states.filter((each) => !sound.has(each));
}

async function sealSome(
  { owner, caller, sealKeyId, agent }: Omit<SealStatesParts, 'dryRun' | 'say'>,
  states: Read,
): Promise<number> {
  const contents = states.map((each) => {
    const content = contentOf(encodeKeyState, each);
    if (content !== undefined) return content;
    throw new Error(
      `cannot seal ${nameOf(each)}: its row holds no possible state of a key; repair the row`,
    );
  });
  const { seals } = await agent.seal({ sealKeyId, kind: RECORD.keyState, contents });
  const sealed = states.map((each, index): ResealedState & { readonly resource: string } => ({
    before: each.state,
    resource: nameOf(each),
    sealKeyId,
    seal: seals[index] ?? Buffer.alloc(0),
  }));
  await writeVouchedSeals(owner, { caller, method: METHOD }, sealed);
  return sealed.length;
}

/** Undefined for what can be no key's state. */
function contentOf(
  encode: (state: KeyStateRecord) => Buffer,
  { state }: Read[number],
): Buffer | undefined {
  try {
    return encode(state);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function nameOf({ state, tenant }: Read[number]): string {
  return formatKeyName({ tenant, key: state.name });
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
