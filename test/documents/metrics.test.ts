/**
 * The one table of metrics, src/signals/metrics/table.ts: docs/metrics.md has what it has, and the
 * rules and the dashboard in deploy/ name metrics and labels that there are, and nothing else.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { item } from '../../bench/markdown.ts';
import { Metrics } from '../../src/signals/metrics/metrics.ts';
import { METRICS, type MetricRow } from '../../src/signals/metrics/table.ts';
import { namesIn, type Query, queriesOf, RULES } from '../measures/deployed.ts';
import { Scrape } from '../measures/scrape.ts';
import { assertWritten } from '../support/document.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const ROWS: Readonly<Record<string, MetricRow>> = METRICS;
/** What Prometheus adds to every series. */
const ITS_OWN = ['job', 'instance', 'le'];
const PARTS = /_(bucket|sum|count)$/;
const PROMTOOL = '/usr/bin/promtool';

/** Names of documents in a text, as links from docs/. */
const linked = (text: string) => text.replaceAll(/docs\/([\w-]+\.md)(#[\w-]+)?/g, '[$1]($1$2)');

function metricsList(): string {
  const groups = Map.groupBy(Object.entries(ROWS), ([, { group }]) => group);
  return Array.from(
    groups,
    ([group, rows]) => `## ${group}\n\n${rows.map(line).join('\n')}\n`,
  ).join('\n');
}

function line([name, { type, labels, help }]: readonly [string, MetricRow]): string {
  const by = labels.length > 0 ? `, by ${labels.map((label) => `\`${label}\``).join(', ')}` : '';
  return item(`**\`${name}\`** (${type}${by}): ${linked(help)}.`);
}

test('docs/metrics.md lists every metric as the code has it (UPDATE=1 writes it)', () => {
  const parts = [{ mark: 'metrics', content: metricsList() }];
  assertWritten('docs/metrics.md', 'test/documents/metrics.test.ts', parts);
});

test('names follow Prometheus’ conventions: counters end in _total, and nothing else does', () => {
  for (const [name, { type, labels, buckets }] of Object.entries(ROWS)) {
    assert.match(name, /^keyward_[a-z]+(_[a-z]+)*$/);
    assert.equal(name.endsWith('_total'), type === 'counter', name);
    assert.doesNotMatch(name, /_(ms|milliseconds|kb|percent)(_|$)/);
    assert.ok(!labels.includes('le'), name);
    assert.equal(buckets !== undefined, type === 'histogram', name);
  }
});

test('every label that a metric has is explained in docs/metrics.md', () => {
  const text = readFileSync(join(ROOT, 'docs', 'metrics.md'), 'utf8');
  const labels = new Set(Object.values(ROWS).flatMap((row) => row.labels));
  const unexplained = [...labels].filter((label) => !text.includes(`\n| \`${label}\` |`));
  assert.deepEqual(unexplained, []);
});

/** The row that a series of that name belongs to; undefined where there is none. */
function rowOf(series: string): MetricRow | undefined {
  const row = ROWS[series] ?? ROWS[series.replace(PARTS, '')];
  return row?.type === 'histogram' && ROWS[series] === row ? undefined : row;
}

/** What is wrong with a query's names. */
function mistakesIn({ where, expression }: Query, ofProcess: ReadonlySet<string>): string[] {
  const { metrics, grouping } = namesIn(expression);
  const own = metrics.filter(({ metric }) => !ofProcess.has(metric));
  const lacking = own.flatMap(({ metric, labels }) => {
    const row = rowOf(metric);
    if (row === undefined) return [`${where}: there is no metric ${metric}`];
    return labels
      .filter((label) => !row.labels.includes(label) && !ITS_OWN.includes(label))
      .map((label) => `${where}: ${metric} has no label ${label}`);
  });
  const all = new Set([...ITS_OWN, ...own.flatMap(({ metric }) => rowOf(metric)?.labels ?? [])]);
  const unknown = grouping
    .filter((label) => !all.has(label))
    .map((label) => `${where}: none of its metrics has a label ${label}`);
  return [...lacking, ...unknown];
}

test('the rules and the dashboard name metrics and labels that there are', async () => {
  const metrics = new Metrics();
  metrics.measureProcess();
  const { type, body } = await metrics.text('');
  const ofProcess = [...new Scrape(type, body.toString()).types.keys()].filter(
    (name) => !name.startsWith('keyward_'),
  );
  const queries = queriesOf();
  assert.ok(queries.length > 40);
  const known = new Set(['up', ...ofProcess]);
  assert.deepEqual(
    queries.flatMap((query) => mistakesIn(query, known)),
    [],
  );
  const invented = { where: 'here', expression: 'rate(keyward_none_total[5m]) > 0' };
  assert.equal(mistakesIn(invented, known).length, 1);
  const labelled = { where: 'here', expression: 'sum by (nothing) (keyward_ready)' };
  assert.equal(mistakesIn(labelled, known).length, 1);
});

test('every group of metrics has a panel, and every critical rule says what to do', () => {
  const inPanels = new Set(
    queriesOf()
      .filter(({ where }) => where.startsWith('panel'))
      .flatMap(({ expression }) => namesIn(expression).metrics.map(({ metric }) => metric)),
  );
  const shown = [...inPanels].flatMap((name) => rowOf(name) ?? []);
  assert.deepEqual(
    new Set(shown.map(({ group }) => group)),
    new Set(Object.values(ROWS).map(({ group }) => group)),
  );
  const rules = readFileSync(RULES, 'utf8').split('- alert: ').slice(1);
  for (const rule of rules)
    assert.match(rule, /severity: (critical|warning|info)\n[\s\S]*summary: [\s\S]*description: /);
});

test('promtool takes the rules', {
  skip: existsSync(PROMTOOL) ? false : 'no promtool: apt-get install prometheus',
}, () => {
  const said = execFileSync(PROMTOOL, ['check', 'rules', RULES], { encoding: 'utf8' });
  assert.match(said, /SUCCESS: \d+ rules found/);
});

test('promtool finds nothing to lint in the text', {
  skip: existsSync(PROMTOOL) ? false : 'no promtool: apt-get install prometheus',
}, async () => {
  const metrics = new Metrics();
  for (const [name, { type, labels }] of Object.entries(ROWS)) {
    const named = Object.fromEntries(labels.map((label) => [label, 'x'])) as never;
    if (type === 'counter') metrics.counter(name as 'keyward_calls_total', named).value += 1;
    else if (type === 'gauge') metrics.read(name as 'keyward_ready', () => [[named, 1]]);
    else metrics.histogram(name as 'keyward_call_duration_seconds', named).observe(0.1);
  }
  const { body } = await metrics.text('');
  const { status, stderr } = spawnSync(PROMTOOL, ['check', 'metrics'], {
    input: body,
    encoding: 'utf8',
  });
  assert.deepEqual([status, stderr], [0, '']);
});
