/**
 * `npm run bench -- --profile`: where the time of a call goes in the server and the agent, by
 * function and by file.
 *
 * The rates of a run with a profiler say nothing.
 */
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import type { Profiler } from 'node:inspector';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { exists } from '../dev/files.ts';
import { BATCHES_IN_FLIGHT } from './batches.ts';
import { type Context, say, warmUp } from './bench.ts';
import { table } from './markdown.ts';
import { prepareSmallBatches } from './workloads.ts';

const TOP_FUNCTIONS = 45;
const TOP_FILES = 25;
const WRITE_TIMEOUT_MS = 10_000;
const WARM_UP_MS = { full: 1_500, quick: 50 };
const PROFILE_MS = 5_000;
const IN_FLIGHT = 64;
const UNLESS_NAMED = ['Encrypt', 'BatchEncrypt'];

/** What the service has to be started with, to be profiled into `directory`. */
export function profilingVariables(directory: string): Record<string, string> {
  return {
    NODE_OPTIONS: `--import=${pathToFileURL(join(import.meta.dirname, 'profiler.ts')).href}`,
    KEYWARD_BENCH_PROFILES: directory,
    KEYWARD_HSM_ENVIRONMENT: 'SOFTHSM2_CONF,NODE_OPTIONS,KEYWARD_BENCH_PROFILES',
  };
}

/** Profiles the calls of these names, on a service that was started for it. */
export async function profileCalls(
  context: Context,
  directory: string,
  names: readonly string[],
): Promise<void> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const { load, environment, isQuick } = context;
  const { target } = environment;
  const pairs = context.calls.map((each) => [target, each] as const);
  await warmUp(load, pairs, isQuick ? WARM_UP_MS.quick : WARM_UP_MS.full);
  const small = await prepareSmallBatches(context.send);
  const all = [
    ...context.calls.map((call) => ({ ...call, inFlight: IN_FLIGHT })),
    ...small.map((each) => ({ ...each, name: `small ${each.name}`, inFlight: BATCHES_IN_FLIGHT })),
  ];
  const wanted = names.length > 0 ? names : UNLESS_NAMED;
  const pids = { server: target.serverPid, agent: target.agentPid };
  for (const { name, path, requests, items, inFlight } of all) {
    if (!wanted.includes(name)) continue;
    const timing = { inFlight, rampMs: 0, measureMs: PROFILE_MS, once: false };
    const slice = { address: target.address, path, requests, ...timing };
    const work = async () => (await load.run(slice)).completed * items;
    const text = await profileWhile(directory, pids, work);
    say(`\n## ${name}, ${inFlight} in flight\n\n${text}`);
  }
}

/** Profiles the processes while `work` goes on; the summary of each is a table of self times. */
async function profileWhile(
  directory: string,
  pids: Readonly<Record<string, number>>,
  work: () => Promise<number>,
): Promise<string> {
  const toggle = () => {
    for (const pid of Object.values(pids)) process.kill(pid, 'SIGUSR2');
  };
  toggle();
  const items = await work();
  toggle();
  const parts: string[] = [];
  for (const [name, pid] of Object.entries(pids)) {
    const file = join(directory, `${pid}.cpuprofile`);
    for (const until = performance.now() + WRITE_TIMEOUT_MS; !exists(file); await sleep(50)) {
      if (performance.now() > until) throw new Error(`no profile of ${name} came`);
    }
    parts.push(summary(name, JSON.parse(readFileSync(file, 'utf8')) as Profiler.Profile, items));
    rmSync(file);
  }
  return parts.join('\n\n');
}

function summary(title: string, profile: Profiler.Profile, items: number): string {
  const functions = new Map<string, number>();
  const files = new Map<string, number>();
  let busy = 0;
  for (const [place, name, microseconds] of selfTimes(profile)) {
    if (name === '(idle)') continue;
    busy += microseconds;
    const label = place === '' ? name : `${name} ${place}`;
    functions.set(label, (functions.get(label) ?? 0) + microseconds);
    const file = place.replace(/:\d+$/, '') || name;
    files.set(file, (files.get(file) ?? 0) + microseconds);
  }
  const rowsOf = (times: ReadonlyMap<string, number>, count: number) =>
    [...times]
      .sort(([, a], [, b]) => b - a)
      .slice(0, count)
      .map(([label, time]) => [
        (time / items).toFixed(2),
        `${((100 * time) / busy).toFixed(1)} %`,
        label.replaceAll('|', '\\|'),
      ]);
  return [
    `### ${title}: ${(busy / items).toFixed(1)} µs for each item`,
    table(['µs', 'share', 'self time in'], rowsOf(functions, TOP_FUNCTIONS)),
    table(['µs', 'share', 'by file'], rowsOf(files, TOP_FILES)),
  ].join('\n\n');
}

function* selfTimes(profile: Profiler.Profile): Generator<readonly [string, string, number]> {
  const nodes = new Map(profile.nodes.map((node) => [node.id, node]));
  const { samples = [], timeDeltas = [] } = profile;
  for (const [index, id] of samples.entries()) {
    const frame = nodes.get(id)?.callFrame;
    if (frame === undefined) continue;
    // The time until the next sample is this one's.
    yield [placeOf(frame), frame.functionName || '(anonymous)', timeDeltas[index + 1] ?? 0];
  }
}

/** The file, from its package's or the clone's folder on, and the line. */
function placeOf({ url, lineNumber }: Profiler.Profile['nodes'][number]['callFrame']): string {
  if (url === '') return '';
  const root = pathToFileURL(join(import.meta.dirname, '..', '/')).href;
  const file = url.startsWith('file:')
    ? url.replace(root, '').replace(/^.*node_modules\//, '')
    : url;
  return `${file.replace(/^.*\/node_modules\//, '')}:${lineNumber + 1}`;
}
