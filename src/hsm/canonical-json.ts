/**
 * JSON in its one canonical form (RFC 8785): members by the UTF-16 code units of their names,
 * nothing between tokens. What people approve is written so, and agents read nothing else.
 */

/** What JSON can say. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject;
/** An object in JSON. */
export interface JsonObject {
  readonly [name: string]: Json;
}

/** Returns the canonical text of a value. */
export function canonicalJson(value: Json): string {
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  if (isList(value)) return `[${value.map(canonicalJson).join(',')}]`;
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  const texts = members.map(([name, each]) => `${JSON.stringify(name)}:${canonicalJson(each)}`);
  return `{${texts.join(',')}}`;
}

/** Returns the object that a text is of. Throws RangeError for one not in canonical form. */
export function parseCanonicalJson(text: Buffer): JsonObject {
  let value: Json;
  try {
    value = JSON.parse(text.toString('utf8'));
  } catch {
    throw new RangeError('a text that is not JSON');
  }
  const isObject = value !== null && typeof value === 'object' && !isList(value);
  if (!isObject || !Buffer.from(canonicalJson(value)).equals(text))
    throw new RangeError('a text that is not an object in the canonical form of JSON');
  return value as JsonObject;
}

function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}
