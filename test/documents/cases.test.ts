/** The numbered cases: `test/CASES.md` and the tests' titles name the same ones. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const TESTS = join(import.meta.dirname, '..');

const numbersOf = (text: string, pattern: RegExp): number[] =>
  Array.from(text.matchAll(pattern), ([, numbers = '']) => numbers.split(', ').map(Number)).flat();
const listed = numbersOf(readFileSync(join(TESTS, 'CASES.md'), 'utf8'), /^- (\d+): /gm);
const files = readdirSync(TESTS, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => ({ name, text: readFileSync(join(TESTS, name), 'utf8') }));

test('CASES.md has each case once, in order', () => {
  assert.deepEqual(
    listed,
    [...new Set(listed)].sort((a, b) => a - b),
  );
});

test('every case has a test whose title begins with its number', () => {
  const tested = new Set(
    files.flatMap(({ text }) => numbersOf(text, /['"`]case (\d+(?:, \d+)*)/g)),
  );
  assert.deepEqual(
    listed.filter((number) => !tested.has(number)),
    [],
  );
});

test('every case that a test names is in CASES.md', () => {
  const unknown = files.flatMap(({ name, text }) =>
    numbersOf(text, /\bcases? (\d+(?:, \d+)*)/gi)
      .filter((number) => !listed.includes(number))
      .map((number) => `${name}: case ${number}`),
  );
  assert.deepEqual(unknown, []);
});
