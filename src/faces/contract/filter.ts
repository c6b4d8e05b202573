/**
 * Filters of lists: a small part of AIP-160, `state = DISABLED AND labels.team = "payments"`.
 *
 * ```
 *  filter = [ term *( "AND" term ) ]     term = field ( "=" / "!=" ) value
 *  field = name [ "." name ]             value = bare word / text in double quotes, with \" and \\
 * ```
 *
 * Knows the grammar; which fields a list has, and which values a field, is told by the list, and
 * what a term means in SQL is the store's.
 */
import type { Condition } from '../../store/core/conditions.ts';

const MAX_LENGTH = 1_024;
const TERM =
  /\s*([a-z_]+)(?:\.([a-z][a-z0-9_-]*))?\s*(!=|=)\s*(?:"((?:[^"\\]|\\["\\])*)"|([^\s"()=!]+))\s*/y;
const AND = /AND(?=\s)/y;

/** Any text may be a field's value. */
export const ANY_TEXT = 'any text';

/** What may be named: each field's values; `labels.` stands for its members. */
export type FilterFields = Readonly<Record<string, readonly string[] | typeof ANY_TEXT>>;

/** The conditions, or in words what is wrong. */
export function parseFilter(text: string, fields: FilterFields): readonly Condition[] | string {
  if (text.trim() === '') return [];
  if (text.length > MAX_LENGTH) return `must have at most ${MAX_LENGTH} characters`;
  const conditions: Condition[] = [];
  for (let position = 0; ; ) {
    TERM.lastIndex = position;
    const match = TERM.exec(text);
    if (match === null)
      return `must have a term at position ${position}: write field = value, joined by AND`;
    const [, field = '', member, operator, quoted, bare] = match;
    const named = member === undefined ? field : `${field}.`;
    const values = Object.hasOwn(fields, named) ? fields[named] : undefined;
    if (values === undefined)
      return `must not name ${field}${member === undefined ? '' : `.${member}`}, which this list cannot be filtered by`;
    const value = bare ?? (quoted ?? '').replaceAll(/\\(["\\])/g, '$1');
    if (values !== ANY_TEXT && !values.includes(value))
      return `must have one of ${values.join(', ')} for ${field}`;
    const condition = { field, operator: operator as Condition['operator'], value };
    conditions.push(member === undefined ? condition : { ...condition, member });
    position = TERM.lastIndex;
    if (position === text.length) return conditions;
    AND.lastIndex = position;
    if (!AND.test(text)) return `must have AND at position ${position}`;
    position = AND.lastIndex;
  }
}
