/**
 * A look at a large request's JSON before it is parsed: whose it is, and whether parsing it costs
 * what an honest one costs.
 *
 * Three characters make an empty item, so 4 MiB are over a million of them. Linear, copies nothing:
 * 1 ms for 2.8 MB of payloads. What is behind the JSON is counted again by `request-scan.ts`; that
 * a text is no JSON is found out by parsing it.
 */
import { KeywardError } from '../../errors.ts';

/** The request, its list, an item, and a map in it; a message in an item would be two more. */
const MAX_DEPTH = 8;
/** Objects and lists: a batch of 1,000 items with two maps each has 3,002. */
const MAX_BRACKETS = 4_096;
/** Members and items: such a batch with 64 entries in each map has 128,000 and some. */
const MAX_COMMAS = 400_000;
/** Of the request itself: it has fewer fields. */
const MAX_OWN_STRINGS = 256;
/** The addressee's name with each character escaped. */
const LONGEST_KEY = 64;

const CHARACTERS = Buffer.from('"\\{}[],');
const [QUOTE, SLASH, OPEN, CLOSE, LIST, UNLIST, COMMA] = CHARACTERS;

/**
 * Returns the text that the request's own member `addressee` has; empty where it has none. Throws
 * MESSAGE_TOO_LARGE for more than is parsed, and MALFORMED_REQUEST.
 */
export function addresseeOf(text: Buffer, addressee: string): string {
  let depth = 0;
  let brackets = 0;
  let commas = 0;
  let ownStrings = 0;
  let found: string | undefined;
  /** The string that came last, if only a colon can have come since. */
  let last: string | undefined;
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (character === QUOTE) {
      const end = endOfString(text, at);
      if (depth === 1) {
        ownStrings += 1;
        if (ownStrings > MAX_OWN_STRINGS) throw tooMany(MAX_OWN_STRINGS);
        if (last === addressee) {
          if (found !== undefined) throw new KeywardError('MALFORMED_REQUEST');
          found = stringAt(text, at, end);
        }
        last = end - at < LONGEST_KEY ? stringAt(text, at, end) : undefined;
      }
      at = end;
    } else if (character === OPEN || character === LIST) {
      depth += 1;
      brackets += 1;
      if (depth > MAX_DEPTH || brackets > MAX_BRACKETS) throw tooMany(MAX_BRACKETS);
      last = undefined;
    } else if (character === CLOSE || character === UNLIST) depth -= 1;
    else if (character === COMMA) {
      commas += 1;
      if (commas > MAX_COMMAS) throw tooMany(MAX_COMMAS);
      last = undefined;
    }
  }
  return found ?? '';
}

function endOfString(text: Buffer, start: number): number {
  for (let at = text.indexOf(QUOTE as number, start + 1); at >= 0; ) {
    let slashes = 0;
    while (text[at - 1 - slashes] === SLASH) slashes += 1;
    if (slashes % 2 === 0) return at;
    at = text.indexOf(QUOTE as number, at + 1);
  }
  throw new KeywardError('MALFORMED_REQUEST');
}

function stringAt(text: Buffer, start: number, end: number): string {
  try {
    return JSON.parse(text.toString('utf8', start, end + 1));
  } catch {
    throw new KeywardError('MALFORMED_REQUEST');
  }
}

function tooMany(limit: number): KeywardError {
  return new KeywardError('MESSAGE_TOO_LARGE', {
    message: 'cannot accept the request: it has more JSON values than a method takes',
    metadata: { limit: String(limit), unit: 'values' },
  });
}
