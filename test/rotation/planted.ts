/**
 * Copies of the sources with a mistake in them, to see that the harness catches it.
 *
 * Invariant: the text that is changed stands in its file exactly once, so that a mistake which
 * can't be planted any more fails instead of passing.
 */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadModules, type Modules } from './replica.ts';

const ROOT = join(import.meta.dirname, '..', '..');
/** The sources, and what they read beside themselves. */
const COPIED = ['src', 'migrations', 'package.json'];

/** One change of a file's text. */
export interface Edit {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/** Returns the texts of the files with these changes, by their paths. */
export function edited(edits: readonly Edit[]): ReadonlyMap<string, string> {
  const texts = new Map<string, string>();
  for (const { file, from, to } of edits) {
    const parts = (texts.get(file) ?? readFileSync(join(ROOT, file), 'utf8')).split(from);
    assert.equal(parts.length, 2, `${file} holds ${parts.length - 1} times: ${from}`);
    texts.set(file, parts.join(to));
  }
  return texts;
}

/**
 * The modules of a copy with these changes. The copy goes with the run's folder, which lies inside
 * the repository.
 */
export async function plant(...edits: readonly Edit[]): Promise<Modules> {
  const parent = process.env['KEYWARD_TEST_DIRECTORY'];
  if (parent === undefined) throw new Error('run tests by npm test');
  const copy = mkdtempSync(join(parent, 'planted-'));
  for (const name of COPIED) cpSync(join(ROOT, name), join(copy, name), { recursive: true });
  for (const [file, text] of edited(edits)) writeFileSync(join(copy, file), text);
  return loadModules(copy);
}
