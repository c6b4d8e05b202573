/**
 * Parses JSON in valid UTF-8 in which every object has each name once.
 *
 * - `JSON.parse` takes the last of several members with one name, and other readers take the first.
 *   What two readers understand differently is refused (RFC 7519, 4).
 */

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]:]/g;
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Returns the value of `bytes`. Throws for what is not JSON, not UTF-8, or has a name twice in one
 * object.
 */
export function parseStrictJson(bytes: Uint8Array): unknown {
  const text = utf8.decode(bytes);
  const value: unknown = JSON.parse(text);
  /** The names of each object that is open; an array has none. */
  const open: Set<string>[] = [];
  let lastString = '';
  for (const [token] of text.matchAll(TOKEN)) {
    if (token === '{' || token === '[') open.push(new Set());
    else if (token === '}' || token === ']') open.pop();
    else if (token === ':') addName(open.at(-1), JSON.parse(lastString));
    else lastString = token;
  }
  return value;
}

function addName(names: Set<string> | undefined, name: string): void {
  if (names === undefined || names.has(name)) throw new SyntaxError('a name occurs twice');
  names.add(name);
}
