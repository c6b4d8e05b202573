/**
 * Documents and the files that they point to.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const ROOT = join(import.meta.dirname, '..', '..');

const documents = ['.', 'docs', 'bench', 'examples'].flatMap((folder) =>
  readdirSync(join(ROOT, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name)),
);

const textOf = (document: string) => readFileSync(join(ROOT, document), 'utf8');

/** What a document points to in the project: files, and headings in documents. */
const linksOf = (document: string) =>
  [...textOf(document).matchAll(/\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)/g)].map(
    ([, target = '', heading]) => ({
      target: target === '' ? document : join(document, '..', target),
      heading,
    }),
  );

/** The names by which links reach a document's headings. */
const headingsOf = (document: string) =>
  [...textOf(document).matchAll(/^#+ (.*)$/gm)].map(([, title = '']) =>
    title
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );

test('every file and heading that a document points to is there', () => {
  const missing = documents.flatMap((document) =>
    linksOf(document)
      .filter(
        ({ target, heading }) =>
          !existsSync(join(ROOT, target)) ||
          (heading !== undefined && !headingsOf(target).includes(heading)),
      )
      .map(({ target, heading = '' }) => `${document} points to ${target}#${heading}`),
  );
  assert.deepEqual(missing, []);
});

test('docs/README.md is an index of every file in docs/', () => {
  const index = readFileSync(join(ROOT, 'docs', 'README.md'), 'utf8');
  const rows = [...index.matchAll(/^\| \[([^\]]+)\]\(([^)]+)\) \|/gm)].map(([, name, target]) => {
    assert.equal(name, target);
    return name;
  });
  const files = readdirSync(join(ROOT, 'docs')).filter((name) => name !== 'README.md');
  assert.deepEqual(rows.toSorted(), files.toSorted());
});

test('no document, source or comment speaks of a package registry’s host', () => {
  const hosts = ['npmjs', 'debian'].map((name) => new RegExp(`(registry|deb)\\.${name}\\.org`));
  const texts = ['package-lock.json', '.npmrc', 'Dockerfile'].filter((name) =>
    existsSync(join(ROOT, name)),
  );
  for (const name of texts)
    for (const host of hosts) assert.doesNotMatch(readFileSync(join(ROOT, name), 'utf8'), host);
});
