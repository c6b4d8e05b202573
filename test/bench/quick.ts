/** Runs benches quickly, and looks at what they write. Knows no bench. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const MAIN = join(import.meta.dirname, '..', '..', 'bench', 'main.ts');
/** The bench ends when a call fails, and a busy machine refuses some now and then. */
const TRIES = 3;

const directory = mkdtempSync(join(tmpdir(), 'keyward-bench-'));
process.once('exit', () => rmSync(directory, { recursive: true, force: true }));

/** Returns what the benches of these names write, or all of them. */
export async function quickBench(...names: readonly string[]): Promise<string> {
  const output = join(directory, `${names.join('-')}.md`);
  for (let attempt = 1; ; attempt++) {
    try {
      await promisify(execFile)(process.execPath, [
        ...[MAIN, '--quick', `--output=${output}`, ...names],
      ]);
      return readFileSync(output, 'utf8');
    } catch (error) {
      if (attempt === TRIES) throw error;
    }
  }
}

/** A section shows the figure, which is there and has only numbers for places. */
export function assertFigure(text: string, name: string): void {
  assert.match(text, new RegExp(`^!\\[.+\\]\\(figures/${name}\\.svg\\)$`, 'm'));
  const svg = readFileSync(join(directory, 'figures', `${name}.svg`), 'utf8');
  assert.match(svg, /<(polyline|rect) class="(line c|b)0"/);
  assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
}
