/**
 * The results as Markdown: for a terminal and for `bench/RESULTS.md`, whose notes, written by hand, stay.
 *
 * Owns the targets. Knows figures, not how they came about.
 */
import { readIfThere } from '../dev/files.ts';
import type { Row } from './measure.ts';
import type { RewrapResults } from './rewrap.ts';
import { BATCH_ITEMS, PAYLOAD_BYTES, type Workload } from './workloads.ts';

export interface Results {
  readonly machine: readonly (readonly [string, string])[];
  readonly rows: readonly Row[];
  readonly megabytes: readonly Resident[];
  readonly rewrap: RewrapResults;
}

/** Resident memory in megabytes, after all slices of a kind. */
export interface Resident {
  readonly after: string;
  readonly server: number;
  readonly agent: number;
}

const ENCRYPT_OF_FLOOR = 0.7;
const BATCH_OVER_UNARY = 5;
const MEGABYTES = 250;
const IN_FLIGHT = 64;

/** Everything under this heading of the old file is kept. */
const NOTES = '## Notes';

const METHOD = `\
The service and the floor run on loopback beside their load generator: a plain grpc-js client in a process of its own,
one HTTP/2 connection, a closed loop with so many calls in flight, messages encoded beforehand. The floor is a grpc-js
server that decodes and encodes an EncryptRequest of ${PAYLOAD_BYTES} bytes of plaintext and returns it, under the service's own
TLS settings (1.3, client certificate). Payloads have ${PAYLOAD_BYTES} bytes, data keys 32, contexts two entries; ReEncrypt goes to another
key and context; batches have ${BATCH_ITEMS} items. The server is the built one, as the image runs it, with
its defaults and one agent, and logs a line for each call.

Floor and calls alternate in short slices; a figure is the median of its slices, and "of floor" the median (lowest–highest)
of what each slice had of the floor's in the same round. Rates and CPU are of items, which for batches are ${BATCH_ITEMS} a call;
latencies are of calls. CPU is user and system time by /proc.`;

/** The whole report. */
export function report({ machine, rows, megabytes, rewrap }: Results, calls: readonly Workload[]): string {
  return [
    '# Bench',
    'Written by `npm run bench`.',
    table(['', ''], machine),
    METHOD,
    table(HEADINGS, rows.map(cells)),
    megabytes
      .map(({ after, server, agent }) => {
        const [one, other] = [server.toFixed(0), agent.toFixed(0)];
        return `Resident after the ${after} at ${IN_FLIGHT} in flight: server ${one} MB, agent ${other} MB.`;
      })
      .join('\n'),
    '## Re-wrapping',
    REWRAP_METHOD,
    table(
      REWRAP_HEADINGS,
      rewrap.passes.map((pass, index) => rewrapCells(pass, index, rewrap.rows)),
    ),
    rewrap.callers
      .map(
        ({ inFlight, p99Without, p99With }) =>
          `Encrypt at ${inFlight} in flight: p99 ${p99Without.toFixed(2)} ms while no job runs, ${p99With.toFixed(2)} ms while one takes its share.`,
      )
      .join('\n'),
    `A tick with nothing due among ${rewrap.tick.keys} keys: p50 ${rewrap.tick.p50Ms.toFixed(2)} ms, p99 ${rewrap.tick.p99Ms.toFixed(2)} ms.`,
    '## Targets',
    [...targets({ rows, megabytes }, calls), ...rewrapTargets(rewrap)].join('\n'),
    '',
  ].join('\n\n');
}

/** The report, and the notes of the file that it is to replace. */
export function withNotesOf(file: string, text: string): string {
  const old = readIfThere(file) ?? '';
  const at = old.indexOf(NOTES);
  return at === -1 ? text : `${text.trimEnd()}\n\n${old.slice(at)}`;
}

const HEADINGS = [
  'in flight',
  'call',
  'items/s',
  'of floor',
  'p50 ms',
  'p99 ms',
  'server CPU µs',
  'agent CPU µs',
  'client CPU µs',
];

function cells(row: Row): string[] {
  const { ofFloor, agentCpu } = row;
  return [
    String(row.inFlight),
    row.name,
    row.perSecond.toFixed(0),
    ofFloor === undefined
      ? '–'
      : `${ofFloor[0].toFixed(2)} (${ofFloor[1].toFixed(2)}–${ofFloor[2].toFixed(2)})`,
    row.p50Ms.toFixed(2),
    row.p99Ms.toFixed(2),
    row.serverCpu.toFixed(1),
    agentCpu === undefined ? '–' : agentCpu.toFixed(1),
    row.clientCpu.toFixed(1),
  ];
}

/** A table in Markdown, its columns padded to be read as text too. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((_, column) =>
    Math.max(3, ...[headings, ...rows].map((row) => row[column]?.length ?? 0)),
  );
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  return [line(headings), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

function targets(
  { rows, megabytes }: Pick<Results, 'rows' | 'megabytes'>,
  calls: readonly Workload[],
): string[] {
  const rate = (name: string) =>
    rows.find((row) => row.inFlight === IN_FLIGHT && row.name === name)?.perSecond ?? Number.NaN;
  const encrypt = rows.find((row) => row.inFlight === IN_FLIGHT && row.name === 'Encrypt');
  const share = encrypt?.ofFloor?.[0] ?? Number.NaN;
  return [
    line(
      share >= ENCRYPT_OF_FLOOR,
      `Encrypt at ${IN_FLIGHT} in flight: ${share.toFixed(2)} of the floor; to reach ${ENCRYPT_OF_FLOOR.toFixed(2)}`,
    ),
    ...calls.flatMap(({ name, unary }) => {
      if (unary === undefined) return [];
      const times = rate(name) / rate(unary);
      const text = `${name} at ${IN_FLIGHT} in flight: ${times.toFixed(1)} times the items of ${unary}; to reach ${BATCH_OVER_UNARY}`;
      return [line(times >= BATCH_OVER_UNARY, text)];
    }),
    ...megabytes.map(({ after, server, agent }) => {
      const total = server + agent;
      const text = `server and agent after the ${after}: ${total.toFixed(0)} MB; to stay under ${MEGABYTES}`;
      return line(total < MEGABYTES, text);
    }),
  ];
}

function line(reached: boolean, text: string): string {
  return `- ${reached ? '✓' : '✗'} ${text}`;
}

const REWRAP_METHOD = `\
A job over stored data keys of one key, with a share of 100 percent and two agents; in alternation with it, by the
maintenance switch, a plain batched UPDATE of the same rows in a table of its own, 500 at a time read and written back on five
connections, as many as the job has workers. The second pass goes over what the first has written. Rates are medians of slices; memory is the server's and
its agents' together. What callers notice is measured with the defaults: one agent, a share of 25 percent.`;

const REWRAP_HEADINGS = [
  'pass',
  'data keys',
  'data keys/s',
  'plain UPDATE/s',
  'of it',
  'server CPU µs',
  'agents CPU µs',
  'MB at a tenth',
  'MB at the end',
];

const REWRAP_PER_SECOND = 15_000;
const REWRAP_OF_UPDATE = 0.5;
const CALLERS_P99 = 1.5;
const TICK_MS = 5;
/** What a collection of garbage more or less makes, and no more than that. */
const MEMORY_GROWTH = 1.25;

function rewrapCells(pass: RewrapResults['passes'][number], index: number, rows: number): string[] {
  return [
    String(index + 1),
    String(rows),
    pass.perSecond.toFixed(0),
    pass.floorPerSecond.toFixed(0),
    (pass.perSecond / pass.floorPerSecond).toFixed(2),
    pass.serverCpu.toFixed(1),
    pass.agentsCpu.toFixed(1),
    pass.megabytesBegin.toFixed(0),
    pass.megabytesEnd.toFixed(0),
  ];
}

function rewrapTargets({ passes, callers, tick }: RewrapResults): string[] {
  return [
    ...passes.map(({ perSecond, floorPerSecond }, index) => {
      const least = Math.min(REWRAP_PER_SECOND, floorPerSecond * REWRAP_OF_UPDATE);
      const text = `re-wrapping, pass ${index + 1}: ${perSecond.toFixed(0)}/s; to reach ${least.toFixed(0)}, the less of ${REWRAP_PER_SECOND} and half of the plain UPDATE's`;
      return line(perSecond >= least, text);
    }),
    ...passes.map(({ megabytesBegin, megabytesEnd }, index) => {
      const text = `memory in pass ${index + 1}: ${megabytesBegin.toFixed(0)} MB at a tenth, ${megabytesEnd.toFixed(0)} at the end; to stay under ${MEMORY_GROWTH} times as much`;
      return line(megabytesEnd <= megabytesBegin * MEMORY_GROWTH, text);
    }),
    ...callers.map(({ inFlight, p99Without, p99With }) => {
      const times = p99With / p99Without;
      const text = `Encrypt's p99 at ${inFlight} in flight during a throttled job: ${times.toFixed(2)} times that without; to stay under ${CALLERS_P99}`;
      return line(times <= CALLERS_P99, text);
    }),
    line(
      tick.p99Ms < TICK_MS,
      `a tick with nothing due: ${tick.p99Ms.toFixed(2)} ms; to stay under ${TICK_MS}`,
    ),
  ];
}
