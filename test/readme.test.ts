/**
 * The README's lists, compared with the code: settings, and the files it points to.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { OWNER_SETTINGS, SETTINGS } from '../src/config.ts';

const ROOT = join(import.meta.dirname, '..');
const BEGIN = '<!-- settings: written by UPDATE=1 npm test -- test/readme.test.ts -->\n';
const END = '<!-- /settings -->';

function settingsTable(): string {
  const rows = Object.entries({ ...SETTINGS, ...OWNER_SETTINGS } as Record<
    string,
    { readonly description: string; readonly fallback?: string }
  >).map(
    ([name, { description, fallback }]) => `| \`${name}\` | ${description} | ${fallback ?? ''} |`,
  );
  return ['| variable | what it is | default |', '|---|---|---|', ...rows, ''].join('\n');
}

test('the README lists every setting as the code has it (UPDATE=1 writes it)', () => {
  const file = join(ROOT, 'README.md');
  const text = readFileSync(file, 'utf8');
  const [before, rest] = text.split(BEGIN);
  const after = rest?.split(END)[1];
  assert.ok(before !== undefined && after !== undefined);
  const expected = `${before}${BEGIN}${settingsTable()}${END}${after}`;
  if (process.env['UPDATE'] === '1') writeFileSync(file, expected);
  assert.equal(readFileSync(file, 'utf8'), expected);
});

test('every file that a document points to is there', () => {
  const documents = ['.', 'docs'].flatMap((folder) =>
    readdirSync(join(ROOT, folder))
      .filter((name) => name.endsWith('.md'))
      .map((name) => join(folder, name)),
  );
  const missing = documents.flatMap((document) => {
    const text = readFileSync(join(ROOT, document), 'utf8');
    return [...text.matchAll(/\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)/g)]
      .map(([, target]) => join(document, '..', target ?? ''))
      .filter((target) => !existsSync(join(ROOT, target)))
      .map((target) => `${document} points to ${target}`);
  });
  assert.deepEqual(missing, []);
});

test('no document, source or comment speaks of a package registry’s host', () => {
  const hosts = ['npmjs', 'debian'].map((name) => new RegExp(`(registry|deb)\\.${name}\\.org`));
  const texts = ['package-lock.json', '.npmrc', 'Dockerfile'].filter((name) =>
    existsSync(join(ROOT, name)),
  );
  for (const name of texts)
    for (const host of hosts) assert.doesNotMatch(readFileSync(join(ROOT, name), 'utf8'), host);
});
