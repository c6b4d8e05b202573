/**
 * Makes text that others have written safe for a terminal.
 */

/**
 * Characters that command a terminal: controls, those that reverse the direction of what follows,
 * and Unicode's own ends of lines.
 */
const COMMANDING = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]+/gu;

/** Returns the text on one line, with `?` for characters that command a terminal. */
export function printable(text: string): string {
  return text.replace(COMMANDING, (found) => (/^\s+$/.test(found) ? ' ' : '?'));
}

/** Returns the text with its lines, each as {@link printable}. */
export function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

/** Returns a JSON text that means the same, with escapes for characters that command a terminal. */
export function printableJson(json: string): string {
  return json.replace(COMMANDING, (found) => [...found].map(escaped).join(''));
}

/** Returns whether the text, on one line, commands no terminal. */
export function isPrintable(text: string): boolean {
  return printable(text) === text;
}

function escaped(character: string): string {
  if (character === '\n') return character;
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
}
