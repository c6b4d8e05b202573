/**
 * Re-wrapping's part of the report: for each kind of job its method, its passes and what callers
 * notice; its targets.
 *
 * Knows figures, not how they were measured.
 */
import { REWRAP_SIZES } from '../src/keyring/pace.ts';
import { KEY_VERSION_BATCH } from './key-versions.ts';
import { item, paragraph, table, target } from './markdown.ts';
import { CONNECTIONS } from './plain-update.ts';
import type { RewrapResults } from './rewrap.ts';
import type { Callers, JobPass } from './rewrap-job.ts';

const REWRAP_PER_SECOND = 15_000;
const REWRAP_OF_UPDATE = 0.5;
const CALLERS_P99 = 1.5;
const TICK_MS = 5;
/** What a collection of garbage more or less makes, and no more than that. */
const MEMORY_GROWTH = 1.25;

const DATA_KEYS_METHOD = `
  A job over stored data keys of one key, with a share of 100 percent and two agents; in
  alternation with it, by the maintenance switch, a plain batched UPDATE of the same rows in a
  table of its own, ${REWRAP_SIZES.batch} at a time read and written back on ${CONNECTIONS}
  connections, as many as the job has workers. The second pass goes over what the first has
  written. Rates are medians of slices; memory is the server's and its agents' together. What
  callers notice is measured with the defaults: one agent, a share of 25 percent.`;

const KEY_VERSIONS_METHOD = `
  A job over key versions in the same way, one version each of as many keys: agents have made them
  without the service, and they verify as any other. Every pass begins with a new root key in the
  token. Each version is unwrapped, wrapped by that key, unwrapped again to be proven by its check
  value, and its row sealed again. The plain UPDATE writes the same columns, ${KEY_VERSION_BATCH}
  rows at a time, as the job does.`;

/** Returns the section. */
export function rewrapText({ dataKeys, keyVersions, tick }: RewrapResults): string {
  const [p50, p99] = [tick.p50Ms.toFixed(2), tick.p99Ms.toFixed(2)];
  return [
    paragraph(DATA_KEYS_METHOD),
    passTable('data keys', dataKeys.passes),
    callerLines(dataKeys.callers),
    '### Root rotation',
    paragraph(KEY_VERSIONS_METHOD),
    passTable('key versions', keyVersions.passes),
    callerLines(keyVersions.callers),
    `A tick with nothing due among ${tick.keys} keys: p50 ${p50} ms, p99 ${p99} ms.`,
  ].join('\n\n');
}

function passTable(things: string, passes: readonly JobPass[]): string {
  const headings = [
    'pass',
    things,
    `${things}/s`,
    'plain UPDATE/s',
    'of it',
    'server CPU µs',
    'agents CPU µs',
    'MB at a tenth',
    'MB at the end',
  ];
  const cells = (pass: JobPass, index: number) => [
    String(index + 1),
    String(pass.rows),
    pass.perSecond.toFixed(0),
    pass.floorPerSecond.toFixed(0),
    (pass.perSecond / pass.floorPerSecond).toFixed(2),
    pass.serverCpu.toFixed(1),
    pass.agentsCpu.toFixed(1),
    pass.megabytesBegin.toFixed(0),
    pass.megabytesEnd.toFixed(0),
  ];
  return table(headings, passes.map(cells));
}

function callerLines(callers: readonly Callers[]): string {
  return callers
    .map(({ inFlight, p99Without, p99With }) => {
      const [without, during] = [p99Without.toFixed(2), p99With.toFixed(2)];
      return item(
        `Encrypt at ${inFlight} in flight: p99 ${without} ms while no job runs, ` +
          `${during} ms while one takes its share.`,
      );
    })
    .join('\n');
}

/** What came of its targets. */
export function rewrapTargets({ dataKeys, keyVersions, tick }: RewrapResults): string[] {
  return [
    ...dataKeys.passes.map(rateTarget),
    ...memoryTargets('re-wrapping', dataKeys.passes),
    ...callerTargets('re-wrapping', dataKeys.callers),
    ...memoryTargets('root rotation', keyVersions.passes),
    ...callerTargets('root rotation', keyVersions.callers),
    target(
      tick.p99Ms < TICK_MS,
      `a tick with nothing due: ${tick.p99Ms.toFixed(2)} ms; to stay under ${TICK_MS}`,
    ),
  ];
}

function rateTarget({ perSecond, floorPerSecond }: JobPass, index: number): string {
  const least = Math.min(REWRAP_PER_SECOND, floorPerSecond * REWRAP_OF_UPDATE);
  const text =
    `re-wrapping, pass ${index + 1}: ${perSecond.toFixed(0)}/s; to reach ${least.toFixed(0)}, ` +
    `the less of ${REWRAP_PER_SECOND} and half of the plain UPDATE's`;
  return target(perSecond >= least, text);
}

function memoryTargets(what: string, passes: readonly JobPass[]): string[] {
  return passes.map(({ megabytesBegin, megabytesEnd }, index) => {
    const text =
      `memory in pass ${index + 1} of ${what}: ${megabytesBegin.toFixed(0)} MB at a tenth, ` +
      `${megabytesEnd.toFixed(0)} at the end; to stay under ${MEMORY_GROWTH} times as much`;
    return target(megabytesEnd <= megabytesBegin * MEMORY_GROWTH, text);
  });
}

function callerTargets(what: string, callers: readonly Callers[]): string[] {
  return callers.map(({ inFlight, p99Without, p99With }) => {
    const times = p99With / p99Without;
    const text =
      `Encrypt's p99 at ${inFlight} in flight during throttled ${what}: ${times.toFixed(2)} ` +
      `times that without; to stay under ${CALLERS_P99}`;
    return target(times <= CALLERS_P99, text);
  });
}
