/**
 * The tables of docs/scaling.md are computed from what bench/RESULTS.md has.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { table } from '../../bench/markdown.ts';
import { assertWritten } from '../support/document.ts';

const DOCUMENT = 'docs/scaling.md';
const WRITER = 'test/documents/scaling.test.ts';
const USED = 0.6;
const RATES = [10_000, 100_000, 1_000_000];
const NETWORK_HSM_SECONDS = 0.002;
const DAY_SECONDS = 86_400;

const results = readFileSync(join(import.meta.dirname, '..', '..', 'bench', 'RESULTS.md'), 'utf8');

function section(title: string): string {
  const found = results.split(/^(?=## )/m).find((part) => part.startsWith(`## ${title}\n`));
  assert.ok(found !== undefined, `bench/RESULTS.md has no section ${title}`);
  return found;
}

/** Microseconds of CPU time for an Encrypt, by who uses it. */
function cpuOfEncrypt() {
  const row = /^\| 64 +\| Encrypt +\|.*$/m.exec(section('Calls'))?.[0].split('|') ?? [];
  const [server, agent, database] = row.slice(7, 10).map(Number);
  assert.ok(server && agent && database, 'bench/RESULTS.md has no Encrypt at 64 in flight');
  return { server, agent, database };
}

/** Entries a second, and bytes on disk for one. */
function log() {
  const text = section('The audit log').replaceAll(/\s+/g, ' ');
  const figure = (pattern: RegExp) => Number(pattern.exec(text)?.[1]);
  const durable = figure(/waiting at any time: (\d+) a second/);
  const leaves = figure(/while there are no calls: (\d+) a second/);
  const bytes = figure(/indexes and tiles: (\d+) bytes/);
  const wal = /for (\d+) bytes of write-ahead log/.exec(text)?.[1];
  assert.ok(durable && leaves && bytes, 'bench/RESULTS.md lacks figures of the audit log');
  return { durable, leaves, bytes, wal };
}

const rounded = (value: number) => Number(value.toPrecision(3)).toLocaleString('en');

function parts(): string {
  const { server, agent, database } = cpuOfEncrypt();
  const { durable, leaves, bytes, wal } = log();
  const aCore = (microseconds: number) => rounded(1e6 / microseconds);
  return table(
    ['', 'costs', 'so at most, each second'],
    [
      ['a server process', `${server} µs of a core for a call`, `${aCore(server)} calls`],
      ['an agent, SoftHSM', `${agent} µs of a core for a call`, `${aCore(agent)} calls`],
      ['a core of the database', `${database} µs for a call`, `${aCore(database)} calls`],
      ['a log, durable entries', '', `${rounded(durable)} calls or batches`],
      ['a log, leaves', '', `${rounded(leaves)} calls or batches`],
      ['an entry on disk', `${bytes} bytes`, ''],
      ...(wal === undefined ? [] : [['an entry in the write-ahead log', `${wal} bytes`, '']]),
    ],
  );
}

function needs(): string {
  const { server, agent, database } = cpuOfEncrypt();
  const { durable, leaves, bytes } = log();
  const cores = (rate: number, microseconds: number) =>
    rounded(Math.ceil((rate * microseconds) / 1e6 / USED));
  const rows: [string, (rate: number) => string][] = [
    ['server processes, a core each', (rate) => cores(rate, server)],
    ['agents with SoftHSM, a core each', (rate) => cores(rate, agent)],
    ['or agents, where a derivation takes 2 ms', (rate) => cores(rate, NETWORK_HSM_SECONDS * 1e6)],
    ['cores of databases', (rate) => cores(rate, database)],
    [
      'environments, by the log',
      (rate) => rounded(Math.ceil(rate / Math.min(durable, leaves) / USED)),
    ],
    ['the log a day, TB', (rate) => rounded((rate * bytes * DAY_SECONDS) / 1e12)],
  ];
  return table(
    ['calls a second', ...RATES.map((rate) => rate.toLocaleString('en'))],
    rows.map(([name, of]) => [name, ...RATES.map(of)]),
  );
}

test('the tables of docs/scaling.md follow from bench/RESULTS.md (UPDATE=1 writes them)', () => {
  assertWritten(DOCUMENT, WRITER, [
    { mark: 'parts', content: parts() },
    { mark: 'needs', content: needs() },
  ]);
});
