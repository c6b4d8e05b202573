/**
 * Parts of documents that are written from the code: between two marks, at 100 columns at most.
 *
 * A test that owns such a part compares it and, with UPDATE=1, writes it.
 */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '..', '..');

/** One part: its mark, and what is to be between. */
export interface Written {
  readonly mark: string;
  readonly content: string;
}

/** Asserts that a document has the parts as given; with UPDATE=1, writes them first. */
export function assertWritten(document: string, writer: string, parts: readonly Written[]): void {
  const file = join(ROOT, document);
  const text = readFileSync(file, 'utf8');
  const expected = parts.reduce((before, part) => withPart(before, document, writer, part), text);
  if (process.env['UPDATE'] === '1') writeFileSync(file, expected);
  assert.equal(readFileSync(file, 'utf8'), expected);
}

function withPart(
  text: string,
  document: string,
  writer: string,
  { mark, content }: Written,
): string {
  const begin = `<!-- ${mark}: written by UPDATE=1 npm test -- ${writer} -->\n`;
  const end = `<!-- /${mark} -->`;
  const [before, rest] = text.split(begin);
  const after = rest?.split(end)[1];
  assert.ok(before !== undefined && after !== undefined, `${document} has no place for ${mark}`);
  return `${before}${begin}\n${content}\n${end}${after}`;
}
