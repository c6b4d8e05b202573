/**
 * Many things that are done together and fail one by one.
 *
 * Invariants: an outcome stands in the place of what it is the outcome of; what fails as a whole
 * fails for each; so many at a time that one caller's batch does not fill a queue for all others.
 * Knows no key.
 */
import { type KeywardError, toKeywardError } from '../../errors.ts';

/** What became of one of many: its answer, or a failure of its own. */
export type Outcome<T> = { readonly answer: T } | { readonly error: KeywardError };

/** So many are loaded at a time. */
const LOADS = 64;
/** So many groups are under way at a time: enough to keep the agents busy. */
const GROUPS = 4;
/** An agent works at most so long on one group: 256 small items take it some 2 ms (measured). */
const GROUP_ITEMS = 256;
const GROUP_BYTES = 262_144;
/**
 * Each is at least one call of the token, which a network may take 20 ms for, and twice as many
 * where nothing opens.
 */
const GROUP_DERIVATIONS = 32;

/** Returns what `work` returns, or what it throws. */
export function outcomeOf<T>(work: () => T): Outcome<T> {
  try {
    return { answer: work() };
  } catch (thrown) {
    return { error: toKeywardError(thrown) };
  }
}

/** Returns the answer. Throws the error. */
export function answerOf<T>(outcome: Outcome<T> | undefined): T {
  if (outcome === undefined) throw new Error('nothing became of one of many');
  if ('error' in outcome) throw outcome.error;
  return outcome.answer;
}

/**
 * Loads each of the things that keys name, once, and returns what gives it by its key, or throws
 * why it could not be loaded.
 */
export async function loadEach<Key, T>(
  keys: Iterable<Key>,
  load: (key: Key) => Promise<T>,
): Promise<(key: Key) => T> {
  const loaded = new Map<Key, Outcome<T>>();
  await inWindow([...new Set(keys)], LOADS, async (key) => {
    loaded.set(key, await settled(load(key)));
  });
  return (key) => answerOf(loaded.get(key));
}

/** Part of a group, prepared to be done with the rest of it. */
export interface Prepared<Group> {
  readonly group: Group;
  /** About how many bytes it takes of a message. */
  readonly bytes: number;
  /**
   * What shares the token's derivation with others of the group; undefined for what needs one of
   * its own.
   */
  readonly derivation: string | undefined;
}

/**
 * Has items done in groups: those that `prepare` puts in one and that fit, by one call of `work`,
 * which returns an outcome for each. Returns an outcome for each item. Never rejects.
 */
export async function inGroups<Item, P extends Prepared<unknown>, T>(
  items: readonly Item[],
  prepare: (item: Item) => P,
  work: (group: P['group'], members: readonly P[]) => Promise<readonly Outcome<T>[]>,
): Promise<Outcome<T>[]> {
  const outcomes: Outcome<T>[] = [];
  const groups = new Groups<P>();
  for (const [index, item] of items.entries()) {
    const prepared = outcomeOf(() => prepare(item));
    if ('error' in prepared) outcomes[index] = prepared;
    else groups.add(prepared.answer, index);
  }
  await inWindow(groups.all, GROUPS, async ({ group, members, indices }) => {
    const done = await settled(work(group, members));
    for (const [place, index] of indices.entries())
      outcomes[index] =
        'error' in done ? done : (done.answer[place] ?? outcomeOf(() => answerOf(undefined)));
  });
  return outcomes;
}

interface Group<P extends Prepared<unknown>> {
  readonly group: P['group'];
  readonly members: P[];
  readonly indices: number[];
  bytes: number;
  /** What is derived once for several, and how much is derived for one. */
  readonly shared: Set<string>;
  alone: number;
}

/** Groups within their limits, in the order in which they began. */
class Groups<P extends Prepared<unknown>> {
  readonly all: Group<P>[] = [];
  readonly #open = new Map<P['group'], Group<P>>();

  add(prepared: P, index: number): void {
    const { group, bytes, derivation } = prepared;
    let open = this.#open.get(group);
    if (open === undefined || !hasRoom(open, prepared)) {
      open = { group, members: [], indices: [], bytes: 0, shared: new Set(), alone: 0 };
      this.#open.set(group, open);
      this.all.push(open);
    }
    open.members.push(prepared);
    open.indices.push(index);
    open.bytes += bytes;
    if (derivation === undefined) open.alone += 1;
    else open.shared.add(derivation);
  }
}

function hasRoom<P extends Prepared<unknown>>(
  { members, bytes, shared, alone }: Group<P>,
  added: P,
): boolean {
  const isDerived = added.derivation !== undefined && shared.has(added.derivation);
  return (
    members.length < GROUP_ITEMS &&
    bytes + added.bytes <= GROUP_BYTES &&
    (isDerived || shared.size + alone < GROUP_DERIVATIONS)
  );
}

/** Returns what comes of it. Never rejects. */
export async function settled<T>(working: Promise<T>): Promise<Outcome<T>> {
  try {
    return { answer: await working };
  } catch (thrown) {
    return { error: toKeywardError(thrown) };
  }
}

async function inWindow<T>(
  all: readonly T[],
  window: number,
  work: (each: T) => Promise<void>,
): Promise<void> {
  const rest = all.values();
  const worker = async () => {
    for (const each of rest) await work(each);
  };
  await Promise.all(Array.from({ length: Math.min(window, all.length) }, worker));
}
