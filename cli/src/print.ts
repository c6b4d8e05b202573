/**
 * Results as a table for people or JSON for programs.
 *
 * Owns which columns a thing has. JSON has the client's field names, times in RFC 3339, bytes in base64.
 */
import type { Key, KeyVersion, Tenant } from 'keyward-client';
import { printable } from './failures.ts';
import { writeStandardOutput } from './files.ts';
import { lastPart } from './names.ts';

/** What a table shows of a thing. */
export type Columns<Item> = Readonly<Record<string, (item: Item) => string>>;

/** A tenant's columns. */
export const TENANT: Columns<Tenant> = {
  NAME: ({ name }) => name,
  STATE: ({ state }) => state,
  UID: ({ uid }) => uid,
  CREATED: ({ createTime }) => createTime.toISOString(),
};

/** A key's columns; the primary's own state is shown where it is what keeps the key from encrypting. */
export const KEY: Columns<Key> = {
  NAME: ({ name }) => name,
  PRIMARY: ({ primary: { name, state } }) =>
    state === 'ENABLED' ? lastPart(name) : `${lastPart(name)} (${state})`,
  STATE: ({ state }) => state,
  UID: ({ uid }) => uid,
  CREATED: ({ createTime }) => createTime.toISOString(),
  LABELS: ({ labels }) =>
    Object.entries(labels)
      .map(([name, value]) => `${name}=${value}`)
      .sort()
      .join(','),
  DESCRIPTION: ({ description }) => shortened(description),
};

/** A key version's columns. */
export const KEY_VERSION: Columns<KeyVersion> = {
  NAME: ({ name }) => name,
  STATE: ({ state }) => state,
  ALGORITHM: ({ algorithm }) => algorithm,
  CREATED: ({ createTime }) => createTime.toISOString(),
};

/** The longest description that a table shows, in characters; JSON has it all. */
const SHOWN_CHARACTERS = 60;

function shortened(text: string): string {
  const characters = [...text];
  return characters.length <= SHOWN_CHARACTERS
    ? text
    : `${characters.slice(0, SHOWN_CHARACTERS - 1).join('')}…`;
}

/** Prints one thing: an object in JSON. */
export async function printOne<Item>(output: string, columns: Columns<Item>, item: Item): Promise<void> {
  await (output === 'json' ? printJson(item) : printTable(columns, [item]));
}

/** Prints a list: an array in JSON. */
export async function printAll<Item>(
  output: string,
  columns: Columns<Item>,
  items: AsyncIterable<Item>,
): Promise<void> {
  const all: Item[] = [];
  for await (const item of items) all.push(item);
  await (output === 'json' ? printJson(all) : printTable(columns, all));
}

/** Prints JSON, indented. */
export async function printJson(value: unknown): Promise<void> {
  await writeStandardOutput(`${JSON.stringify(value, null, 2)}\n`);
}

async function printTable<Item>(columns: Columns<Item>, items: readonly Item[]): Promise<void> {
  const rows = [
    Object.keys(columns),
    ...items.map((item) => Object.values(columns).map((cell) => printable(cell(item)))),
  ];
  const widths = Object.keys(columns).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  const lines = rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  await writeStandardOutput(`${lines.join('\n')}\n`);
}
