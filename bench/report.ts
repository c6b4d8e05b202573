/**
 * The results as Markdown: for a terminal and for `bench/RESULTS.md`, whose notes, written by hand,
 * stay.
 *
 * Owns the calls' targets; re-wrapping's part is in `rewrap-report.ts`. Knows figures, not how they
 * were measured.
 */
import { readIfThere } from '../dev/files.ts';
import { ACCESS_ROWS } from './access.ts';
import { type AuditResults, WRITING } from './audit.ts';
import { type BatchResults, batchSection, batchTargets } from './batches.ts';
import { BINDINGS } from './bindings.ts';
import type { EnvelopeResults } from './envelopes.ts';
import { envelopesSection } from './envelopes-report.ts';
import type { IdleResults } from './idle.ts';
import { item, paragraph, table, target } from './markdown.ts';
import type { Row } from './measure.ts';
import { NEIGHBOUR_QUOTA, NEIGHBOUR_TIMES, type NeighbourRow } from './neighbour.ts';
import type { RewrapResults } from './rewrap.ts';
import { rewrapSections, rewrapTargets } from './rewrap-report.ts';
import { BATCH_ITEMS, PAYLOAD_BYTES, type Workload } from './workloads.ts';

export interface Results {
  readonly machine: readonly (readonly [string, string])[];
  readonly idle: IdleResults;
  readonly rows: readonly Row[];
  readonly batches: BatchResults;
  readonly access: readonly Row[];
  readonly http: readonly Row[];
  readonly megabytes: readonly Resident[];
  readonly neighbour: readonly NeighbourRow[];
  readonly audit: AuditResults;
  readonly rewrap: RewrapResults;
  readonly envelopes: EnvelopeResults;
}

/** Resident memory in megabytes, after all slices of a kind. */
export interface Resident {
  readonly after: string;
  readonly server: number;
  readonly agent: number;
}

const ENCRYPT_OF_FLOOR = 0.6;
const ENTRIES_PER_SECOND = 10_000;
const OF_SHORT_LOG = 0.9;
const BATCH_OVER_UNARY = 5;
const ACCESS_OF_FLOOR = 0.9;
const MEGABYTES = 250;
const NEIGHBOUR_P99 = 2;
const IN_FLIGHT = 64;

/** Everything under this heading of the old file is kept. */
const NOTES = '## Notes';

const METHOD = [
  `The service and the floor run on loopback beside their load generator: a plain grpc-js client in
  a process of its own, one HTTP/2 connection, a closed loop with the given number of calls in
  flight, messages encoded beforehand. The floor is a grpc-js server that decodes and encodes an
  EncryptRequest of ${PAYLOAD_BYTES} bytes of plaintext and returns it, under the service's own TLS
  settings (1.3, client certificate). Payloads have ${PAYLOAD_BYTES} bytes, data keys 32, contexts
  two entries; ReEncrypt goes to another key and context; batches have ${BATCH_ITEMS} items. The
  server is the built one, as the image runs it, with its defaults and one agent, and logs a line
  for each call.`,
  `Floor and calls alternate in short slices; a figure is the median of its slices, and "of floor"
  the median (lowest–highest) of each slice's share of the floor's rate in the same round. Rates
  and CPU are of items, which for batches are ${BATCH_ITEMS} a call; latencies are of calls. CPU is
  user and system time by /proc.`,
];

/** The whole report. */
export function report(results: Results, calls: readonly Workload[]): string {
  const { machine, idle, rows, batches, access, http, megabytes } = results;
  const { neighbour, audit, rewrap, envelopes } = results;
  return [
    '# Bench',
    'Written by `npm run bench`.',
    table(['', ''], machine),
    ...METHOD.map((text) => paragraph(text)),
    table(HEADINGS, rows.map(cells)),
    megabytes
      .map(({ after, server, agent }) => {
        const [one, other] = [server.toFixed(0), agent.toFixed(0)];
        const when = `after the ${after} at ${IN_FLIGHT} in flight`;
        return item(`Resident ${when}: server ${one} MB, agent ${other} MB.`);
      })
      .join('\n'),
    idleText(idle),
    batchSection(batches),
    accessSection(access),
    httpSection(http),
    ...neighbourSection(neighbour),
    ...auditSection(audit),
    ...rewrapSections(rewrap),
    envelopesSection(envelopes),
    '## Targets',
    [
      ...targets({ rows, megabytes }, calls),
      ...batchTargets(batches),
      accessTarget(access),
      ...neighbourTargets(neighbour),
      ...auditTargets(audit),
      ...rewrapTargets(rewrap),
    ].join('\n'),
    '',
  ].join('\n\n');
}

function idleText({ server, agent, database }: IdleResults): string {
  const [one, two, three] = [server, agent, database].map((cpu) => cpu.toFixed(0));
  return item(
    `CPU in a minute without calls: server ${one} ms, agent ${two} ms, Postgres ${three} ms.`,
  );
}

const ACCESS = `
  The cost of knowing the caller and the caller's rights: Encrypt by a caller with a client
  certificate and a JWT that is bound to it, in a tenant with ${BINDINGS} role bindings, of which
  the last one read allows it, under a condition on the context. The floor is here the same server
  over the same database and token, with identity and access replaced as its modules are loaded:
  every caller is accepted unproven, and may do everything.`;

function accessSection(rows: readonly Row[]): string {
  return ['## Access', paragraph(ACCESS), table(HEADINGS, rows.map(cells))].join('\n\n');
}

const HTTP = `
  The cost of JSON: the same Encrypt by the HTTP listener of the same service, with Node's own
  HTTP/2 client, beside that over gRPC, which is the floor here.`;

/** What JSON over HTTP costs beside gRPC. */
export function httpSection(rows: readonly Row[]): string {
  return ['## JSON over HTTP', paragraph(HTTP), table(HEADINGS, rows.map(cells))].join('\n\n');
}

/** What access costs, and whether that is little enough. */
export function accessText(rows: readonly Row[]): string {
  return `${accessSection(rows)}\n\n${accessTarget(rows)}`;
}

function accessTarget(rows: readonly Row[]): string {
  const share = rows.find(({ name }) => name === ACCESS_ROWS.thing)?.ofFloor?.[0] ?? Number.NaN;
  return target(
    share >= ACCESS_OF_FLOOR,
    `${ACCESS_ROWS.thing} at ${IN_FLIGHT} in flight: ${share.toFixed(2)} of its rate without; ` +
      `to reach ${ACCESS_OF_FLOOR.toFixed(2)}`,
  );
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
  'Postgres CPU µs',
  'client CPU µs',
];

function cells(row: Row): string[] {
  const { ofFloor, agentCpu, databaseCpu } = row;
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
    agentCpu?.toFixed(1) ?? '–',
    databaseCpu?.toFixed(1) ?? '–',
    row.clientCpu.toFixed(1),
  ];
}

const NEIGHBOUR_METHOD = `
  Encrypt for one tenant, in slices alone and in slices beside another tenant, in turn. The
  neighbour has a quota of ${NEIGHBOUR_QUOTA} calls a second, and a process of its own sends
  ${NEIGHBOUR_TIMES} times that, Encrypt too, in an open loop. The ratio is the median
  (lowest–highest) of the rounds'.`;

/** What one tenant notices of another at many times its quota. */
function neighbourSection(rows: readonly NeighbourRow[]): string[] {
  const headings = [
    'in flight',
    'p99 ms alone',
    'p99 ms beside',
    'ratio',
    'neighbour sends/s',
    'is let through/s',
  ];
  const cells = rows.map(({ inFlight, p99Without, p99With, ratio, sent, letThrough }) => [
    String(inFlight),
    p99Without.toFixed(2),
    p99With.toFixed(2),
    `${ratio[0].toFixed(2)} (${ratio[1].toFixed(2)}–${ratio[2].toFixed(2)})`,
    sent.toFixed(0),
    letThrough.toFixed(0),
  ]);
  return ['## A noisy neighbour', paragraph(NEIGHBOUR_METHOD), table(headings, cells)];
}

function neighbourTargets(rows: readonly NeighbourRow[]): string[] {
  return rows.map(({ inFlight, ratio: [ratio] }) => {
    const text =
      `Encrypt's p99 at ${inFlight} in flight beside a tenant at ${NEIGHBOUR_TIMES} times its ` +
      `quota: ${ratio.toFixed(2)} times that alone; at most ${NEIGHBOUR_P99}`;
    return target(ratio <= NEIGHBOUR_P99, text);
  });
}

function auditSection(results: AuditResults): string[] {
  const { entries, ofShortLog } = results;
  const [written, sequenced] = [results.written.toFixed(0), results.sequenced.toFixed(0)];
  const text = `
    Every call above is recorded, durably, before it is answered, and its entry becomes a leaf of
    the log. Entries of Encrypt with a context of two, by the group commit alone, ${WRITING}
    waiting at any time: ${written} a second. Entries made leaves, while there are no calls:
    ${sequenced} a second. On disk, with indexes and tiles: ${results.bytesPerEntry.toFixed(0)}
    bytes each. Encrypt at ${IN_FLIGHT} in flight with ${entries} entries in the log:
    ${ofShortLog.toFixed(2)} of its rate before.`;
  return ['## The audit log', paragraph(text)];
}

function auditTargets({ written, ofShortLog }: AuditResults): string[] {
  return [
    target(
      written >= ENTRIES_PER_SECOND,
      `audit entries made durable: ${written.toFixed(0)} a second; to reach ${ENTRIES_PER_SECOND}`,
    ),
    target(
      ofShortLog >= OF_SHORT_LOG,
      `Encrypt with a long audit log: ${ofShortLog.toFixed(2)} of its rate with a short one; ` +
        `to reach ${OF_SHORT_LOG.toFixed(2)}`,
    ),
  ];
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
    target(
      share >= ENCRYPT_OF_FLOOR,
      `Encrypt at ${IN_FLIGHT} in flight: ${share.toFixed(2)} of the floor; ` +
        `to reach ${ENCRYPT_OF_FLOOR.toFixed(2)}`,
    ),
    ...calls.flatMap(({ name, unary }) => {
      if (unary === undefined) return [];
      const times = rate(name) / rate(unary);
      const text =
        `${name} at ${IN_FLIGHT} in flight: ${times.toFixed(1)} times the items of ${unary}; ` +
        `to reach ${BATCH_OVER_UNARY}`;
      return [target(times >= BATCH_OVER_UNARY, text)];
    }),
    ...megabytes.map(({ after, server, agent }) => {
      const total = server + agent;
      const text =
        `server and agent after the ${after}: ${total.toFixed(0)} MB; ` +
        `to stay under ${MEGABYTES}`;
      return target(total < MEGABYTES, text);
    }),
  ];
}
