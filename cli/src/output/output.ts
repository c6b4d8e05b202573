/**
 * Prints results in the format that the user asks for.
 *
 * - A kind of thing is described once, by its columns (`resources.ts`): tables and names come from
 *   that. `json`, `jsonl` and `yaml` have all of a thing instead: the client's field names, times
 *   in RFC 3339, bytes in base64.
 * - A table fits the terminal; into a file or a pipe nothing is cut.
 * - Nothing that is printed commands the terminal.
 */
import { remarkLine } from '../failures.ts';
import { printText, writeStandardOutput } from '../files.ts';
import { printable, printableJson } from './printable.ts';
import { type Look, tableText } from './table.ts';

/** What `--output` may be. */
export const FORMATS = ['table', 'wide', 'json', 'jsonl', 'yaml', 'name'] as const;

/** One of {@link FORMATS}. */
export type Format = (typeof FORMATS)[number];

/** Returns whether a format is for programs. */
export function isData(format: Format): boolean {
  return ['json', 'jsonl', 'yaml'].includes(format);
}

/** Maps the columns of a table to their texts; {@link wide} ones are only in `wide`. */
export type Columns<Item> = Readonly<Record<string, Cell<Item>>>;

type Cell<Item> = ((item: Item) => string) & { readonly isWide?: true };

/** Returns a column's text as one that only `--output wide` shows. */
export function wide<Item>(text: (item: Item) => string): Cell<Item> {
  return Object.assign((item: Item) => text(item), { isWide: true } as const);
}

/** What the user asks for. */
export interface OutputOptions {
  readonly format: Format;
  readonly headers: boolean;
  /** The most that is printed of a list. */
  readonly limit?: number | undefined;
}

/** Standard output, in one format. */
export class Output {
  readonly format: Format;
  /** Whether it is for programs: one value, and no words round it. */
  readonly isData: boolean;
  readonly #headers: boolean;
  readonly #limit: number;
  #documents = 0;

  constructor({ format, headers, limit = Number.POSITIVE_INFINITY }: OutputOptions) {
    this.format = format;
    this.isData = isData(format);
    this.#headers = headers;
    this.#limit = limit;
  }

  /** Prints one thing. */
  async one<Item>(columns: Columns<Item>, item: Item): Promise<void> {
    if (this.isData) await this.data(item);
    else await this.table(columns, [item]);
  }

  /**
   * Prints a list, up to the limit: JSON lines as the items come, all else at once. Of an empty
   * table standard error says that there are no `things`.
   */
  async all<Item>(
    columns: Columns<Item>,
    items: AsyncIterable<Item> | Iterable<Item>,
    things: string,
  ): Promise<void> {
    const listed = upTo(this.#limit, items);
    if (this.format === 'jsonl') {
      for await (const item of listed) await this.data(item);
      return;
    }
    const all: Item[] = [];
    for await (const item of listed) all.push(item);
    if (this.isData) await this.data(all);
    else if (all.length > 0 || this.format === 'name') await this.table(columns, all);
    else this.remark(`no ${things}`);
  }

  /** Prints one thing, which people are shown in words instead of a table. */
  async described(thing: { readonly name: string }, words: string): Promise<void> {
    if (this.isData) await this.data(thing);
    else await printText(this.format === 'name' ? `${printable(thing.name)}\n` : words);
  }

  /** Prints a value that means this one exactly, whatever of it people are shown. */
  async data(value: unknown): Promise<void> {
    const json = JSON.stringify(value, bytesAsText, this.format === 'jsonl' ? undefined : 2);
    if (this.format !== 'yaml') return writeStandardOutput(`${printableJson(json)}\n`);
    const { yamlText } = await import('./yaml.ts');
    const separator = this.#documents++ > 0 ? '---\n' : '';
    await writeStandardOutput(separator + yamlText(JSON.parse(json)));
  }

  /** Prints that something was done which has no result. */
  async done(what: string): Promise<void> {
    if (this.isData) await this.data({});
    else if (this.format !== 'name') await printText(`${what}\n`);
  }

  /** Writes something to note to standard error, where no result is. */
  remark(words: string, facts: object = {}): void {
    process.stderr.write(remarkLine(words, this.isData, facts));
  }

  /** Prints a table, after `before`; its head even if there are no rows. */
  async table<Item>(columns: Columns<Item>, items: readonly Item[], before = ''): Promise<void> {
    if (this.format === 'name')
      return printText(items.map((item) => nameOf(columns, item)).join(''));
    const shown = Object.entries(columns).filter(
      ([, { isWide = false }]) => this.format === 'wide' || !isWide,
    );
    const head = shown.map(([title]) => title);
    const rows = items.map((item) => shown.map(([, text]) => printable(text(item))));
    const look = { ...lookOf(process.stdout), headers: this.#headers };
    await printText(before);
    await writeStandardOutput(tableText(head, rows, look));
  }
}

/** Has JSON.stringify write bytes in base64; a Buffer is asked for its own JSON before. */
function bytesAsText(this: unknown, name: string, value: unknown): unknown {
  const own = (this as Readonly<Record<string, unknown>>)[name];
  return own instanceof Uint8Array ? Buffer.from(own).toString('base64') : value;
}

/** Returns how a stream shows tables: a terminal has a width, and colours without NO_COLOR. */
export function lookOf({ isTTY, columns }: { isTTY?: boolean; columns?: number }): Look {
  if (isTTY !== true) return { width: undefined, colours: false };
  const { NO_COLOR, TERM } = process.env;
  return { width: columns || undefined, colours: !NO_COLOR && TERM !== 'dumb' };
}

/** A thing's resource name, else what its first column has. */
function nameOf<Item>(columns: Columns<Item>, item: Item): string {
  const { name } = item as { readonly name?: unknown };
  const [first = () => ''] = Object.values(columns);
  return `${printable(typeof name === 'string' ? name : first(item))}\n`;
}

async function* upTo<Item>(
  limit: number,
  items: AsyncIterable<Item> | Iterable<Item>,
): AsyncIterable<Item> {
  let count = 0;
  if (limit > 0)
    for await (const item of items) {
      yield item;
      if (++count === limit) return;
    }
}
