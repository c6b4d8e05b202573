/**
 * Rows of measured calls as a table.
 */
import { spread, table } from './markdown.ts';
import type { Row } from './measure.ts';

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
  'these of floor',
  'client CPU µs',
];

/** Returns the table. */
export function rowTable(rows: readonly Row[]): string {
  return table(HEADINGS, rows.map(cells));
}

function cells(row: Row): string[] {
  const { ofFloor, agentCpu, databaseCpu } = row;
  return [
    String(row.inFlight),
    row.name,
    row.perSecond.toFixed(0),
    ofFloor === undefined ? '–' : spread(ofFloor.rate),
    row.p50Ms.toFixed(2),
    row.p99Ms.toFixed(2),
    row.serverCpu.toFixed(1),
    agentCpu?.toFixed(1) ?? '–',
    databaseCpu?.toFixed(1) ?? '–',
    ofFloor === undefined ? '–' : spread(ofFloor.cpu),
    row.clientCpu.toFixed(1),
  ];
}
