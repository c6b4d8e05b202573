/**
 * Shows the progress of a job or of a growing count as one line on a terminal.
 *
 * - The line fits the terminal, so that it is overwritten and never scrolls.
 * - Without a terminal, nothing is written.
 */
import type { RewrapJob } from 'keyward-client';
import { writeRoughly } from './durations.ts';

/**
 * How wide the bar is, where the terminal leaves it room beside the words; the same for every state
 * of a job.
 */
const BAR = { least: 10, most: 40, words: 54 } as const;

/** Where there is no telling how wide a terminal is. */
const COLUMNS = 80;

/**
 * The line for a job, at most `columns` characters: `[####......]  40%  400/1,000  62/s  10s left`.
 */
export function progressLine(job: RewrapJob, columns: number): string {
  return lineOf(shareOf(job), factsOf(job), columns);
}

/** How far a count is: of how many, and since when, in milliseconds. */
export interface Count {
  readonly done: number;
  readonly total: number;
  readonly elapsedMs: number;
  /** Bytes are shown in units of them. */
  readonly unit?: 'bytes';
}

/** The line for a count, as {@link progressLine}'s. */
export function countLine({ done, total, elapsedMs, unit }: Count, columns: number): string {
  const rate = elapsedMs > 0 ? (done / elapsedMs) * 1000 : 0;
  const shown = unit === 'bytes' ? writeBytes : number;
  const facts = [`${shown(done)}/${shown(total)}`];
  if (rate > 0) facts.push(`${shown(Math.round(rate))}/s`);
  if (rate > 0 && done < total) facts.push(`${writeRoughly((total - done) / rate)} left`);
  return lineOf(total > 0 ? done / total : 1, facts, columns);
}

function lineOf(share: number, facts: readonly string[], columns: number): string {
  const percent = `${String(Math.floor(share * 100)).padStart(3)}%`;
  const words = ['', percent, ...facts].join('  ');
  const width = Math.min(columns - BAR.words, BAR.most);
  if (width < BAR.least) return words.trimStart().slice(0, columns);
  return `[${'#'.repeat(Math.floor(share * width)).padEnd(width, '.')}]${words}`.slice(0, columns);
}

/** How much of it is behind it; what could not be opened is, too. */
function shareOf({ state, total, done, failed }: RewrapJob): number {
  if (total > 0) return Math.min((done + failed) / total, 1);
  return state === 'RUNNING' ? 0 : 1;
}

function factsOf(job: RewrapJob): string[] {
  const { state, total, totalIsFinal, done, failed, paused } = job;
  const facts = [`${number(done)}/${number(total)}${totalIsFinal ? '' : '+'}`];
  if (failed > 0) facts.push(`${number(failed)} failed`);
  if (state !== 'RUNNING') return [...facts, state.toLowerCase()];
  if (paused) return [...facts, 'paused'];
  if (job.rate > 0)
    facts.push(
      `${number(job.rate < 10 ? Math.round(job.rate * 10) / 10 : Math.round(job.rate))}/s`,
    );
  if (job.timeLeftSeconds !== undefined) facts.push(`${writeRoughly(job.timeLeftSeconds)} left`);
  return facts;
}

function number(value: number): string {
  return value.toLocaleString('en-US');
}

const UNITS = ['kB', 'MB', 'GB', 'TB', 'PB'];

/** Returns a number of bytes as people write it: `1.2 GB`. */
export function writeBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const power = Math.min(Math.floor(Math.log10(bytes) / 3), UNITS.length);
  const value = bytes / 1000 ** power;
  return `${value.toFixed(value < 100 ? 1 : 0)} ${UNITS[power - 1]}`;
}

/** A terminal or something else that is written to: all that is needed of `process.stderr`. */
export interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** Shows a job over and over; {@link progressLine} on one line of the terminal, if it is one. */
export function progressOn(screen: Screen): { show(job: RewrapJob): void; end(): void } {
  return linesOn(screen, progressLine);
}

/**
 * How often a count's line is written at most, in milliseconds: a count may grow by the
 * microsecond.
 */
const SHOW_EVERY_MS = 100;

/** Shows a count that begins now; {@link countLine} on one line of the terminal, if it is one. */
export function countOn(
  screen: Screen,
  unit?: Count['unit'],
): { show(done: number, total: number): void; end(): void } {
  const lines = linesOn(screen, countLine);
  const begin = performance.now();
  let shownAt = Number.NEGATIVE_INFINITY;
  return {
    show(done, total) {
      const now = performance.now();
      if (now - shownAt < SHOW_EVERY_MS && done < total) return;
      shownAt = now;
      const elapsedMs = now - begin;
      lines.show({ done, total, elapsedMs, ...(unit === undefined ? {} : { unit }) });
    },
    end: lines.end,
  };
}

function linesOn<State>(
  screen: Screen,
  lineFor: (state: State, columns: number) => string,
): { show(state: State): void; end(): void } {
  if (screen.isTTY !== true) return { show() {}, end() {} };
  let shown = false;
  return {
    show(state) {
      // One less than there are: a full line would make some terminals begin the next.
      const line = lineFor(state, (screen.columns || COLUMNS) - 1);
      screen.write(`\r${line}\u001b[K`);
      shown = true;
    },
    end() {
      if (shown) screen.write('\n');
    },
  };
}
