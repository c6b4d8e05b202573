/**
 * The dashboard as a page: each panel of deploy/grafana/keyward.json as lines over time, drawn from
 * what Prometheus has for its expressions.
 *
 * Grafana is not in Debian; this shows what its panels would have to show.
 */
import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CHROMIUM } from '../support/chromium.ts';
import type { Series } from './prometheus.ts';

/** One panel, and what it shows. */
export interface ShownPanel {
  readonly title: string;
  readonly series: readonly Series[];
}

const COLUMNS = 4;
const PANEL = { width: 380, height: 150 };
const GRAPH = { width: 350, height: 80 };
const COLOURS = ['#1f77b4', '#d62728', '#2ca02c', '#9467bd', '#ff7f0e', '#17becf', '#8c564b'];
const LEGENDS = 3;

/** Writes the page and a picture of it into a folder; returns the picture's file. */
export async function picture(directory: string, panels: readonly ShownPanel[]): Promise<string> {
  const page = join(directory, 'dashboard.html');
  const file = join(directory, 'dashboard.png');
  writeFileSync(page, pageOf(panels));
  const width = COLUMNS * (PANEL.width + 12) + 20;
  const height = Math.ceil(panels.length / COLUMNS) * (PANEL.height + 12) + 20;
  await promisify(execFile)(CHROMIUM, [
    ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
    ...[`--user-data-dir=${join(directory, 'chromium')}`, '--hide-scrollbars'],
    ...[`--window-size=${width},${height}`, `--screenshot=${file}`, `file://${page}`],
  ]);
  return file;
}

function pageOf(panels: readonly ShownPanel[]): string {
  const style = `body{font:11px sans-serif;margin:10px;display:flex;flex-wrap:wrap;gap:12px}
    section{width:${PANEL.width}px;height:${PANEL.height}px;border:1px solid #ccc;
    box-sizing:border-box;padding:6px 14px;overflow:hidden}h2{font-size:12px;margin:0 0 4px}
    p{margin:0;white-space:nowrap}`;
  return `<!doctype html><meta charset="utf-8"><title>Keyward</title><style>${style}</style>
${panels.map(sectionOf).join('\n')}`;
}

function sectionOf({ title, series }: ShownPanel): string {
  const values = series.flatMap((each) => each.values.map(([, value]) => Number(value)));
  const finite = values.filter(Number.isFinite);
  const most = Math.max(...finite, 0) || 1;
  const lines = series.map((each, index) => lineOf(each, most, colourOf(index))).join('');
  const legends = series
    .slice(0, LEGENDS)
    .map((each, index) => `<p style="color:${colourOf(index)}">${legendOf(each)}</p>`)
    .join('');
  return `<section><h2>${escaped(title)}</h2>
<svg width="${GRAPH.width}" height="${GRAPH.height}">${lines}</svg>${legends}</section>`;
}

function lineOf({ values }: Series, most: number, colour: string): string {
  const [first = 0] = values[0] ?? [];
  const [last = 0] = values.at(-1) ?? [];
  const points = values
    .filter(([, value]) => Number.isFinite(Number(value)))
    .map(([at, value]) => {
      const x = ((at - first) / (last - first || 1)) * GRAPH.width;
      const y = GRAPH.height - 1 - (Number(value) / most) * (GRAPH.height - 2);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
  const [x = 0, y = 0] = points.at(-1)?.split(',').map(Number) ?? [];
  const end = `<circle cx="${x}" cy="${y}" r="3" fill="${colour}"/>`;
  const line = `<polyline points="${points.join(' ')}" fill="none" stroke="${colour}"/>`;
  return line + end;
}

function legendOf({ metric, values }: Series): string {
  const labels = Object.entries(metric).filter(([name]) => !['job', 'instance'].includes(name));
  const named = labels.map(([, value]) => value).join(' ');
  return escaped(`${named} ${Number(values.at(-1)?.[1]).toPrecision(3)}`);
}

const colourOf = (index: number) => COLOURS[index % COLOURS.length] ?? '#000';

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
