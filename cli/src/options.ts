/**
 * Adds the options that several commands share, and parses their values.
 */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { readDuration, readTime } from './durations.ts';
import { UsageError } from './failures.ts';

/** Maps the keys of `key=value` options to their values. */
export type Pairs = ReadonlyMap<string, string>;

/** Holds the options of a command that lists. */
export interface ListOptions {
  readonly filter?: string;
}

/** Holds the options of a command that changes something. */
export interface ChangeOptions {
  readonly etag?: string;
  readonly requestId?: string;
}

/** Returns a repeatable option of pairs. */
export function pairsOption(flag: string, description: string): Option {
  return new Option(`${flag} <key=value>`, description)
    .default(new Map(), 'none')
    .argParser((pair: string, before: Pairs): Pairs => {
      const at = pair.indexOf('=');
      if (at < 0) throw new InvalidArgumentError('Write key=value.');
      const key = pair.slice(0, at);
      if (before.has(key)) throw new InvalidArgumentError(`${key} is given twice.`);
      return new Map([...before, [key, pair.slice(at + 1)]]);
    });
}

/** Returns a repeatable option of words. */
export function wordsOption(flags: string, description: string): Option {
  return new Option(flags, description)
    .default([], 'none')
    .argParser((word: string, before: readonly string[]): readonly string[] => [...before, word]);
}

/** Returns `--limit`, of commands that list. */
export function limitOption(): Option {
  return new Option('--limit <count>', 'list at most this many').argParser(fromOne);
}

/** Returns the option of the encryption context. */
export function contextOption(): Option {
  return pairsOption('--context', 'a pair of the encryption context; repeatable');
}

/** Parses the names of nested claims: `chat.id`, or `["https://example.com/chat","id"]`. */
export function claimPath(text: string): string[] {
  if (!text.startsWith('[')) return text.split('.');
  let path: unknown;
  try {
    path = JSON.parse(text);
  } catch {}
  if (Array.isArray(path) && path.every((name) => typeof name === 'string')) return path;
  throw new UsageError(
    `cannot use ${text}: it is not a claim; write chat.id, or a list of names in JSON`,
  );
}

/** Adds `--filter`, by the fields that the list has. */
export function withFilter(
  command: Command,
  fields: string,
  example = 'state = DISABLED',
): Command {
  return command.option(
    '--filter <filter>',
    `only those that match, by ${fields}: '${example}', terms joined by AND`,
  );
}

/**
 * Adds `--force`: without it, no command that writes a file replaces one (`files.ts` has the rule).
 */
export function withForce(command: Command): Command {
  return command.option('--force', 'replace an existing file');
}

/** Adds `--request-id`. */
export function withRequestId(command: Command): Command {
  return command.option(
    '--request-id <uuid>',
    'make the command safe to repeat: the same id within 24 hours changes nothing more',
  );
}

/** Adds `--etag` and `--request-id`. */
export function withEtag(command: Command): Command {
  return withRequestId(
    command.option('--etag <etag>', 'refuse if it has changed since this etag (see --output json)'),
  );
}

/** Returns the options of a change that belong in its request. */
export function changeOf({ etag, requestId }: ChangeOptions): ChangeOptions {
  return given({ etag, requestId });
}

/**
 * Returns the fields that have a value: an `undefined` in a request would make it another request.
 */
export function given<Fields extends object>(
  fields: Fields,
): { readonly [Name in keyof Fields]?: Exclude<Fields[Name], undefined> } {
  const entries = Object.entries(fields).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as ReturnType<typeof given<Fields>>;
}

/** Parses a whole number. */
export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('Write a whole number.');
  return Number(text);
}

/** Parses a whole number that is not 0. */
export function fromOne(text: string): number {
  const number = wholeNumber(text);
  if (number === 0) throw new InvalidArgumentError('Write a whole number from 1 on.');
  return number;
}

/** Parses a count of up to 15 digits, which a number holds exactly. */
export function count(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('Write a whole number.');
  return Number(text);
}

/** Parses a duration into seconds. */
export function duration(text: string): number {
  const seconds = readDuration(text);
  if (seconds === undefined) throw new InvalidArgumentError('Write 90d, 12h, 30m, 45s or 1h30m.');
  return seconds;
}

/** Parses a duration into days. */
export function days(text: string): number {
  const seconds = readDuration(text);
  if (seconds === undefined || seconds % 86_400 !== 0)
    throw new InvalidArgumentError('Write days, as in 30d.');
  return seconds / 86_400;
}

/** Parses a time, or a duration from now on, by the local clock. */
export function ahead(text: string): Date {
  return moment(text, 1);
}

/** Parses a time, or how long ago it was, by the local clock. */
export function before(text: string): Date {
  return moment(text, -1);
}

function moment(text: string, direction: 1 | -1): Date {
  const seconds = readDuration(text);
  const found =
    seconds === undefined ? readTime(text) : new Date(Date.now() + direction * seconds * 1000);
  if (found === undefined || Number.isNaN(found.getTime()))
    throw new InvalidArgumentError('Write 8h or 90d, or RFC 3339, as in 2027-01-31T12:00:00Z.');
  return found;
}
