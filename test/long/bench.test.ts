/**
 * Every bench runs, quickly, and every one of its rows has numbers. What they are is no matter
 * here. Every `npm test` has one of them.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findCommand } from '../../scripts/system-packages.js';
import { assertFigure, quickBench } from '../bench/quick.ts';

const CALLS = ['Encrypt', 'Decrypt', 'GenerateDataKey', 'ReEncrypt'];
const IN_FLIGHT = ['1', '10', '64'];
const ROWS = [
  ...IN_FLIGHT.flatMap((inFlight) => ['floor', ...CALLS].map((name) => `${inFlight} ${name}`)),
  ...IN_FLIGHT.flatMap((inFlight) => CALLS.map((name) => `${inFlight} Batch${name}`)),
  '1 CreateKey',
  '10 CreateKey',
  '1 Encrypt, key not loaded',
  '64 Encrypt over gRPC',
  '64 Encrypt as JSON over HTTP',
  '64 Encrypt, callers unproven',
  '64 Encrypt with certificate, JWT and roles',
];

test('a quick bench fills every row with numbers', async () => {
  const text = await quickBench();
  const cells = text.split('\n').map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  const rows = cells.filter(
    (row) => row.length === 11 && /^[A-Za-z]/.test(row[1] ?? '') && /^\d/.test(row[0] ?? ''),
  );
  assert.deepEqual(
    rows.map(([inFlight, name]) => `${inFlight} ${name}`),
    ROWS,
  );
  for (const [, name, ...figures] of rows) {
    // A dash where the floor has no agent, or there is nothing to compare with.
    for (const figure of figures)
      assert.match(figure, /^(\d+(\.\d+)?( \(.*\))?|–)$/, `${name}: ${figure}`);
  }
  assert.match(text, /server \d+ MB, agent \d+ MB/);
  assert.match(text, /without calls: server \d+ ms, agent \d+ ms, Postgres \d+ ms/);
  assert.match(text, /audit entries made durable: \d+ a second/);
  assert.match(text, /Encrypt with a long audit log: \d+\.\d\d of its rate/);
  for (const things of ['data keys', 'key versions']) {
    const headings = cells.findIndex((row) => row[0] === 'pass' && row[1] === things);
    const passes = cells.slice(headings + 2, headings + 4);
    assert.deepEqual(
      passes.map(([pass]) => pass),
      ['1', '2'],
      things,
    );
    for (const cell of passes.flat()) assert.match(cell, /^\d+(\.\d+)?$/, things);
  }
  const batches = cells.filter((row) => row.length === 6 && /^Batch/.test(row[0] ?? ''));
  assert.equal(batches.length, 4);
  for (const [name, ...figures] of batches)
    for (const figure of figures) assert.match(figure, /^\d+(\.\d+)?( \(.*\))?$/, name);
  const neighbours = cells.findIndex((row) => row[0] === 'in flight' && row[1] === 'p99 ms alone');
  for (const row of cells.slice(neighbours + 2, neighbours + 4)) {
    assert.equal(row.length, 6);
    for (const cell of row) assert.match(cell, /^\d+(\.\d+)?( \(.*\))?$/);
  }
  assert.equal(text.match(/^- Encrypt at \d+ in flight: p99 /gm)?.length, 4);
  const ofFiles = findCommand('openssl') === undefined ? 0 : 4;
  const ofPooler = findCommand('pgbouncer') === undefined ? 0 : 1;
  assert.equal(text.match(/^- [✓✗] /gmu)?.length, 65 + ofFiles + ofPooler);
  const changes = cells.filter((row) => /^(direct|pooler)$/.test(row[1] ?? ''));
  assert.equal(changes.length, 5 + 5 * ofPooler);
  for (const [change, , ...figures] of changes)
    for (const figure of figures) assert.match(figure, /^\d+$/, change);
  const overloads = cells.filter((row) => /^(SoftHSM|2 ms)$/.test(row[0] ?? ''));
  assert.deepEqual(
    overloads.map(([, clients, , times]) => `${clients} ${times}`),
    ['SoftHSM', '2 ms'].flatMap(() => [
      ...['others 1.5', 'others 2', 'others 4'],
      ...['keyward-client 2', 'keyward-client 4'],
    ]),
  );
  for (const name of ['throughput', 'latency', 'replicas']) assertFigure(text, name);
  const lines = text.split('\n').filter((line) => /NaN|Infinity|undefined/.test(line));
  assert.deepEqual(lines, []);
});

test('a quick soak says of each figure how it went, and draws memory', async () => {
  const text = await quickBench('soak');
  const rows = text.match(/^\| [^|]+ \| -?\d[^|]* \| -?\d[^|]* \| -?\d[^|]* \| .+ ± .+ \|$/gm);
  assert.equal(rows?.length, 8);
  assert.equal(text.match(/^- [✓✗] .* an hour; to stay flat$/gmu)?.length, 8);
  assertFigure(text, 'soak');
});
