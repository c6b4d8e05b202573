/**
 * The project's text: no line of more than 100 columns, and none of the words that have a better
 * one (test/support/words.ts). Part of `npm run check`.
 *
 * Exempt from the columns, because a line can't be broken or may not be changed:
 *
 * - what is not ours or is generated: `proto/google`, the reflection protos, docs/schema.sql
 * - migrations that have landed
 * - rows of the bench's measured tables
 * - titles of tests, imports, and regular expressions
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { COLUMNS } from '../bench/markdown.ts';
import { REPLACEMENTS } from './support/words.ts';

const ROOT = join(import.meta.dirname, '..');

/** Where the columns of literals in code are not held yet. */
const PENDING_LITERALS = /^(src|test)\//;

const TEXT = /\.(md|ts|js|proto|sql|yaml|sh)$/;
const WORDED = /(\.md|\.proto)$|^cli\/src\/|^src\/errors\.ts$/;
const FOREIGN = /^proto\/google\/|\/reflection\.proto$|^docs\/schema\.sql$/;
const LAST_LONG_MIGRATION = 11;

const FOLDERS = [
  ...['bench', 'cli', 'client', 'compose', 'dev', 'docs', 'examples', 'migrations'],
  ...['proto', 'scripts', 'softhsm', 'src', 'test'],
];
const MADE = /(^|\/)(node_modules|dist|generated|local)\//;

const files = [
  ...readdirSync(ROOT),
  ...FOLDERS.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map((name) =>
      join(folder, name),
    ),
  ),
].filter((file) => TEXT.test(file) && !FOREIGN.test(file) && !MADE.test(file));

interface Line {
  readonly file: string;
  readonly number: number;
  readonly text: string;
}

function linesOf(file: string): Line[] {
  const text = readFileSync(join(ROOT, file), 'utf8');
  return text.split('\n').map((line, index) => ({ file, number: index + 1, text: line }));
}

const lines = files.flatMap(linesOf);

function isExempt({ file, text }: Line): boolean {
  const migration = /^migrations\/(\d+)/.exec(file)?.[1];
  if (migration !== undefined) return Number(migration) <= LAST_LONG_MIGRATION;
  if (file.startsWith('bench/') && file.endsWith('.md')) return text.startsWith('|');
  if (!/\.(ts|js)$/.test(file)) return false;
  if (/^\s*(\/\/|\/?\*)/.test(text)) return false;
  if (/^\s*(test|it|describe)(\.\w+)?\(/.test(text)) return true;
  if (/^import .* from '[^']+';$|^\s*\/.*\/\w*;$/.test(text)) return true;
  return PENDING_LITERALS.test(file);
}

test('there are files to look at, of each kind', () => {
  for (const suffix of ['.md', '.ts', '.js', '.proto', '.sql', '.yaml', '.sh'])
    assert.ok(
      lines.some(({ file }) => file.endsWith(suffix)),
      suffix,
    );
});

test('no line has more than 100 columns', () => {
  const long = lines
    .filter((line) => line.text.length > COLUMNS && [...line.text].length > COLUMNS)
    .filter((line) => !isExempt(line))
    .map(({ file, number, text }) => `${file}:${number} has ${[...text].length} columns`);
  assert.deepEqual(long, []);
});

/** A word as it may be broken over two lines, also of a comment. */
const anywhere = ({ source, flags }: RegExp) =>
  new RegExp(source.replaceAll(' ', String.raw`\s+(?:(?:\*|//)\s+)?`), `${flags}g`);

test('no word stands where there is a better one', () => {
  const wrong = files
    .filter((file) => WORDED.test(file))
    .flatMap((file) => {
      const text = readFileSync(join(ROOT, file), 'utf8');
      return REPLACEMENTS.flatMap(({ word, instead }) =>
        [...text.matchAll(anywhere(word))].map(({ 0: found, index }) => {
          const number = text.slice(0, index).split('\n').length;
          return `${file}:${number}: "${found.replaceAll(/\s+/g, ' ')}"; write instead: ${instead}`;
        }),
      );
    });
  assert.deepEqual(wrong, []);
});
