/**
 * What took longest in a run of the tests, told by `npm test -- --slowest`: by files, and by tests.
 *
 * Plain JavaScript for Node 20.
 */
import { relative } from 'node:path';

/** Of so many files, and tests, it is told how long they took. */
const NAMED = 20;

/** @typedef {import('node:test/reporters').TestEvent} TestEvent */

/** Adds up how long files and tests took. */
export class Slowest {
  /** @type {Map<string, number>} */
  #files = new Map();
  /** @type {[string, number][]} */
  #tests = [];

  /** @param {TestEvent} event */
  add(event) {
    if (event.type !== 'test:pass' && event.type !== 'test:fail') return;
    const { name, nesting, details } = event.data;
    const { type, duration_ms: ms } = details;
    const file = relative(process.cwd(), event.data.file ?? '');
    if (nesting === 0) this.#files.set(file, (this.#files.get(file) ?? 0) + ms);
    if (type !== 'suite') this.#tests.push([`${file}: ${name}`, ms]);
  }

  /** The lines that tell it. */
  toString() {
    return [
      'What took longest, by files (the sum of their tests):',
      ...linesOf([...this.#files]),
      'By tests:',
      ...linesOf(this.#tests),
      '',
    ].join('\n');
  }
}

/** @param {[string, number][]} all */
function linesOf(all) {
  return all
    .toSorted(([, a], [, b]) => b - a)
    .slice(0, NAMED)
    .map(([what, ms]) => `${(ms / 1000).toFixed(1).padStart(8)} s  ${what}`);
}
