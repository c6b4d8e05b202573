/**
 * Options that several commands have, and how their values are read.
 */
import { InvalidArgumentError, Option } from 'commander';

/** `key=value` pairs, each key once. */
export type Pairs = ReadonlyMap<string, string>;

/** An option that is repeated for more pairs. */
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

/** An option that is repeated for more words. */
export function wordsOption(flags: string, description: string): Option {
  return new Option(flags, description)
    .default([], 'none')
    .argParser((word: string, before: readonly string[]): readonly string[] => [...before, word]);
}

/** The encryption context. */
export function contextOption(): Option {
  return pairsOption('--context', 'a pair of the encryption context; repeat it for more');
}

/** For an option's or argument's value. */
export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('Write a whole number.');
  return Number(text);
}
