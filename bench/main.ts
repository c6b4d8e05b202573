/**
 * `npm run bench`: what the service costs beside what gRPC costs anyway, on the terminal and in
 * `bench/RESULTS.md`, a section for each bench of `benches.ts`.
 *
 * `npm run bench -- NAME…` runs those, and replaces their sections alone. `--quick` takes seconds,
 * says little, and writes only where `--output=<file>` says; `--profile` says where the time goes
 * instead, for Encrypt and its batch or the calls named: `--profile Decrypt`; `--help` lists the
 * benches and their options. A full run takes about a quarter of an hour, much of it for filling
 * the audit log. Decides the order of things, and measures nothing.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Context } from './bench.ts';
import { say } from './bench.ts';
import { BENCHES, benchesNamed } from './benches.ts';
import { BENCH_DIRECTORY, Environment, startEcho } from './environment.ts';
import { Load } from './measure.ts';
import { describeMachine } from './processes.ts';
import { profileCalls, profilingVariables } from './profile.ts';
import { sectionText, writeFigures, writeSections } from './results.ts';
import { prepareWorkloads, type Sender } from './workloads.ts';

const RESULTS = join(import.meta.dirname, 'RESULTS.md');
const PROFILES = join(BENCH_DIRECTORY, 'profiles');
const ONCE_LIMIT_MS = 10_000;

/** Set by a signal: what was being measured then fails, which is no news. */
let ending: Promise<void> | undefined;

const flag = { type: 'boolean' } as const;
const value = { type: 'string' } as const;
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    built: flag,
    help: flag,
    quick: flag,
    profile: flag,
    output: value,
    ...Object.fromEntries(
      BENCHES.flatMap(({ options = {} }) => Object.keys(options)).map((name) => [name, value]),
    ),
  },
});

async function main(): Promise<void> {
  if (values.help) {
    say(helpText());
    return;
  }
  const { profile = false, quick: isQuick = false } = values;
  const chosen = profile ? [] : benchesNamed(positionals);
  await using stack = new AsyncDisposableStack();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      ending ??= stack.disposeAsync().finally(() => process.exit(1));
    });
  }
  const context = await openContext(stack, isQuick, profile ? profilingVariables(PROFILES) : {});
  if (profile) {
    await profileCalls(context, PROFILES, positionals);
    return;
  }
  const output = values.output ?? (isQuick ? undefined : RESULTS);
  const { environment } = context;
  for (const [index, bench] of chosen.entries()) {
    if (index > 0) await environment.restart();
    const machine = await describeMachine(environment.variables['DATABASE_URL'] ?? '');
    const section = await bench.run(context);
    const text = sectionText(bench, machine, section);
    say(`\n${text}\n`);
    if (output === undefined) continue;
    // At once, so that what was measured is kept if another bench fails.
    writeSections(output, BENCHES, new Map([[bench.title, text]]));
    writeFigures(output, section);
  }
}

/** Starts what every bench is given; `stack` ends it. */
async function openContext(
  stack: AsyncDisposableStack,
  isQuick: boolean,
  variables: Readonly<Record<string, string>>,
): Promise<Context> {
  const opening = Environment.open(variables);
  // Also when the end comes before it is open. A failure to open has cleaned up, and is thrown
  // below.
  stack.defer(() => opening.then((opened) => opened[Symbol.asyncDispose]()).catch(() => {}));
  const environment = await opening;
  const load = stack.use(new Load(environment.client));
  const echo = stack.use(await startEcho(environment.variables));
  const { address } = environment.client;
  const once = { inFlight: 1, rampMs: 0, measureMs: ONCE_LIMIT_MS, once: true };
  const send: Sender = async (path, requests) =>
    Buffer.from((await load.run({ address, path, requests, ...once })).lastAnswer);
  const { floor, calls } = await prepareWorkloads(send);
  const target = { address: echo.address, serverPid: echo.pid };
  const option = (name: string) => {
    const given = values[name as keyof typeof values];
    return typeof given === 'string' ? given : undefined;
  };
  return { isQuick, option, environment, load, floor: [target, floor], calls, send };
}

function helpText(): string {
  return BENCHES.flatMap(({ name, measures, options = {}, onRequest = false }) => [
    `${name.padEnd(12)} ${measures}${onRequest ? '; only where it is named' : ''}`,
    ...Object.entries(options).map(([option, text]) => `${''.padEnd(12)} --${option}: ${text}`),
  ]).join('\n');
}

try {
  await main();
} catch (error) {
  if (ending === undefined) throw error;
  await ending;
}
