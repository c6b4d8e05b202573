/**
 * How large an audit entry gets: at most 64 KiB of UTF-8, whatever a caller sends.
 *
 * Invariants: what is left out is counted, and stands there by its SHA-256, so that whoever has it
 * can prove it; of a batch, what was asked for and what came of it is kept before contexts are; an
 * entry that fits is written as it is. docs/audit.md describes the members.
 */
import { hash } from 'node:crypto';

/** The longest line, without its newline. */
export const MAX_LINE_BYTES = 65_536;
/** No text of UTF-16 units takes more bytes each. */
const MOST_BYTES_PER_UNIT = 3;
/** What a member takes besides its value: name, quotes, colon, comma. */
const MEMBER_BYTES = 64;
/** Smaller members are never left out. */
const LEAST_BYTES = 256;

type Members = Record<string, unknown>;

/** Returns the entry's line, in which as much is left out as is over the limit. */
export function entryLine(entry: Members): string {
  const line = JSON.stringify(entry);
  if (line.length * MOST_BYTES_PER_UNIT <= MAX_LINE_BYTES) return line;
  if (Buffer.byteLength(line) <= MAX_LINE_BYTES) return line;
  return shortened(withFewerItems(entry));
}

/** Returns an entry with a batch's items in groups, and as many whole as there is room for. */
function withFewerItems(entry: Members): Members {
  const { items, ...rest } = entry;
  if (!Array.isArray(items)) return entry;
  const texts = items.map((item) => JSON.stringify(item));
  const counted = {
    itemCount: items.length,
    itemsSha256: sha256(`[${texts.join(',')}]`),
  };
  let room = MAX_LINE_BYTES - sizeOf({ ...rest, ...counted }) - 3 * MEMBER_BYTES;
  const itemGroups: object[] = [];
  let itemsLeftOut = 0;
  for (const { group, count } of groupsOf(items as Members[], `tenants/${rest['tenant']}/`)) {
    const bytes = sizeOf(group) + 1;
    if (bytes <= room) itemGroups.push(group);
    else itemsLeftOut += count;
    room -= bytes <= room ? bytes : 0;
  }
  const whole: unknown[] = [];
  for (const [index, text] of texts.entries()) {
    room -= Buffer.byteLength(text) + 1;
    if (room < 0) break;
    whole.push(items[index]);
  }
  const compact = {
    items: whole,
    ...counted,
    itemGroups,
    ...(itemsLeftOut > 0 ? { itemsLeftOut } : {}),
  };
  // In the place that the items had.
  return Object.fromEntries(
    Object.entries(entry).flatMap(([name, value]) =>
      name === 'items' ? Object.entries(compact) : [[name, value] as const],
    ),
  );
}

/**
 * Items that are alike but for their contexts, by their numbers; those that failed come first.
 * Names are without what all of the tenant's have in common.
 */
function groupsOf(
  items: readonly Members[],
  prefix: string,
): { readonly group: object; readonly count: number }[] {
  const indices = new Map<string, number[]>();
  const short = (name: unknown) =>
    typeof name === 'string' && name.startsWith(prefix) ? name.slice(prefix.length) : name;
  for (const [index, { context: _, sourceContext: __, ...facts }] of items.entries()) {
    const { keyVersion, sourceKeyVersion, resource } = facts;
    const names = { keyVersion, sourceKeyVersion, resource };
    const kind = JSON.stringify({
      ...facts,
      ...Object.fromEntries(Object.entries(names).map(([name, value]) => [name, short(value)])),
    });
    const known = indices.get(kind);
    if (known === undefined) indices.set(kind, [index]);
    else known.push(index);
  }
  const groups = [...indices].map(([kind, own]) => ({
    group: { items: rangesOf(own), ...(JSON.parse(kind) as Members) },
    count: own.length,
  }));
  return groups.sort((a, b) => Number('outcome' in b.group) - Number('outcome' in a.group));
}

/** Numbers in rising order, as `0-3,7`. */
function rangesOf(numbers: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const number of numbers) {
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === number - 1) last[1] = number;
    else ranges.push([number, number]);
  }
  return ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(',');
}

/**
 * Returns the line of an entry whose largest parts are left out until it fits: small parts of what
 * was changed before the whole of it.
 */
function shortened(entry: Members): string {
  const copy = JSON.parse(JSON.stringify(entry)) as Members;
  const change = copy['change'] as Members | undefined;
  const parts = [
    ...partsOf(change?.['before'], change?.['after'], copy['detail']),
    ...partsOf(change),
    ...partsOf(copy).filter(({ name }) => name === 'context' || name === 'items'),
  ];
  for (const { container, name } of parts) {
    const line = JSON.stringify(copy);
    if (Buffer.byteLength(line) <= MAX_LINE_BYTES) return line;
    container[name] = digestOf(container[name]);
  }
  return JSON.stringify(copy);
}

/** The members that are worth leaving out, the largest first. */
function partsOf(...containers: unknown[]): { container: Members; name: string }[] {
  return containers
    .filter((each): each is Members => typeof each === 'object' && each !== null)
    .flatMap((container) => Object.keys(container).map((name) => ({ container, name })))
    .map((part) => ({ ...part, bytes: sizeOf(part.container[part.name]) }))
    .filter(({ bytes }) => bytes > LEAST_BYTES)
    .sort((a, b) => b.bytes - a.bytes);
}

function digestOf(value: unknown): object {
  const text = JSON.stringify(value);
  const members = typeof value === 'object' && value !== null ? Object.keys(value).length : 1;
  return { leftOut: { count: members, bytes: Buffer.byteLength(text), sha256: sha256(text) } };
}

function sizeOf(value: unknown): number {
  return Buffer.byteLength(JSON.stringify(value) ?? '');
}

function sha256(text: string): string {
  return hash('sha256', text);
}
