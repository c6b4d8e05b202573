/**
 * What took longest in a run of the tests, told by `npm test -- --slowest`: by files, with their
 * CPU time, and by tests.
 *
 * KEYWARD_TEST_SLOWEST names the file in which the run's processes note their CPU time. Plain
 * JavaScript for Node 20.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { cpuSeconds } from './processes.js';

/** Of so many files, and tests, it is told how long they took. */
const NAMED = 20;

/** @typedef {import('node:test/reporters').TestEvent} TestEvent */

/**
 * Notes the CPU time of a process and of all that it has waited for, where the run wants to know.
 *
 * @param {string} what as it is listed
 * @param {number} pid
 */
export function noteCpu(what, pid) {
  const notes = process.env['KEYWARD_TEST_SLOWEST'];
  if (notes !== undefined) appendFileSync(notes, `${JSON.stringify([what, cpuSeconds(pid)])}\n`);
}

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
    if (nesting === 0) this.#files.set(file, (this.#files.get(file) ?? 0) + ms / 1_000);
    if (type !== 'suite') this.#tests.push([`${file}: ${name}`, ms / 1_000]);
  }

  /**
   * The lines that tell it.
   *
   * @param {string} notes the file of KEYWARD_TEST_SLOWEST
   */
  report(notes) {
    const cpu = readNotes(notes);
    const all = cpu.reduce((sum, [, seconds]) => sum + seconds, 0);
    return [
      'What took longest, by files (the sum of their tests):',
      ...linesOf([...this.#files]),
      `What used most CPU time, of ${all.toFixed(1)} s, by files with the processes they started:`,
      ...linesOf(cpu),
      'What took longest, by tests:',
      ...linesOf(this.#tests),
      '',
    ].join('\n');
  }
}

/**
 * @param {string} file
 * @returns {[string, number][]}
 */
function readNotes(file) {
  const lines = existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
  return lines.map((line) => JSON.parse(line));
}

/** @param {[string, number][]} all */
function linesOf(all) {
  return all
    .toSorted(([, a], [, b]) => b - a)
    .slice(0, NAMED)
    .map(([what, seconds]) => `${seconds.toFixed(1).padStart(8)} s  ${what}`);
}
