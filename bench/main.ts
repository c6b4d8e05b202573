/**
 * `npm run bench`: what the service costs beside what gRPC costs anyway, as a table and in
 * `bench/RESULTS.md`.
 *
 * `--quick` takes seconds, says little, and writes only where `--output=<file>` says; `--profile`
 * says where the time goes instead, for Encrypt and its batch or the calls named:
 * `--profile Decrypt`; `--access` and `--http` measure only what these cost, and write nothing, and
 * so does `batches`, which is for items of batches.
 * `envelopes` measures only envelopes and files, and writes their section; `--gigabytes` says how
 * large the file is, 1 unless given.
 * Decides the order of the steps, and how long they take: a full run about a quarter of an hour,
 * much of it for filling the audit log.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { measureAccess } from './access.ts';
import { type AuditPlan, measureAudit } from './audit.ts';
import {
  BATCHES_IN_FLIGHT,
  type BatchPlan,
  batchSection,
  batchTargets,
  measureBatches,
} from './batches.ts';
import { type EnvelopePlan, measureEnvelopes } from './envelopes.ts';
import { envelopesSection, withEnvelopesSection } from './envelopes-report.ts';
import { BENCH_DIRECTORY, Environment, startEcho } from './environment.ts';
import { measureHttp } from './http.ts';
import { measureIdle } from './idle.ts';
import { alternate, Load, measureSlice, type Row, type Target, type Timing } from './measure.ts';
import { measureNeighbour } from './neighbour.ts';
import { describeMachine, residentMegabytes } from './processes.ts';
import { profileWhile, profilingVariables } from './profile.ts';
import {
  accessText,
  httpSection,
  type Resident,
  type Results,
  report,
  withNotesOf,
} from './report.ts';
import { measureRewrap, type RewrapPlan } from './rewrap.ts';
import {
  createKeys,
  firstUses,
  prepareSmallBatches,
  prepareWorkloads,
  type Sender,
  type Workload,
} from './workloads.ts';

const IN_FLIGHT = [1, 10, 64] as const;
const RESULTS = join(import.meta.dirname, 'RESULTS.md');

/** How much is done: all slices together are what the run's length is made of. */
interface Plan extends Timing {
  readonly warmUpMs: number;
  /** How long nobody calls. */
  readonly idleMs: number;
  /** CreateKey, at each number of calls in flight. */
  readonly createKeys: number;
  /** Keys that are used for the first time. */
  readonly firstUses: number;
  readonly batches: BatchPlan;
  /** For what a tenant notices of another. */
  readonly neighbour: Timing;
  readonly audit: AuditPlan;
  readonly rewrap: RewrapPlan;
  readonly envelopes: EnvelopePlan;
}
const FULL: Plan = {
  rampMs: 150,
  measureMs: 700,
  rounds: 5,
  warmUpMs: 1_500,
  idleMs: 30_000,
  createKeys: 400,
  firstUses: 400,
  batches: { rampMs: 150, measureMs: 1_500, rounds: 5, warmUpMs: 4_000 },
  neighbour: { rampMs: 150, measureMs: 2_000, rounds: 5 },
  audit: { rampMs: 150, measureMs: 3_000, rounds: 5, entries: 10_000_000 },
  rewrap: {
    dataKeys: { rows: 1_000_000, jobSliceMs: 10_000, floorSliceMs: 3_000 },
    keyVersions: { rows: 100_000, jobSliceMs: 2_000, floorSliceMs: 1_000 },
    callers: { rampMs: 150, measureMs: 2_000, rounds: 5 },
  },
  envelopes: { rounds: 9, values: 20_000, chunks: 2_048, files: { rounds: 5, bytes: 1e9 } },
};
const QUICK: Plan = {
  rampMs: 20,
  measureMs: 100,
  rounds: 1,
  warmUpMs: 50,
  idleMs: 1_000,
  createKeys: 20,
  firstUses: 20,
  batches: { rampMs: 20, measureMs: 100, rounds: 1, warmUpMs: 50 },
  neighbour: { rampMs: 20, measureMs: 200, rounds: 1 },
  audit: { rampMs: 20, measureMs: 300, rounds: 1, entries: 20_000 },
  rewrap: {
    dataKeys: { rows: 2_000, jobSliceMs: 10_000, floorSliceMs: 100 },
    keyVersions: { rows: 500, jobSliceMs: 10_000, floorSliceMs: 100 },
    callers: { rampMs: 20, measureMs: 500, rounds: 1 },
  },
  envelopes: { rounds: 1, values: 2_000, chunks: 200, files: { rounds: 1, bytes: 8e6 } },
};
const ONCE_LIMIT_MS = 10_000;
const PROFILE_MS = 5_000;
/** Of files whose size is given. */
const LARGE_ROUNDS = 3;

/** What every step needs. */
interface Bench {
  readonly plan: Plan;
  readonly environment: Environment;
  readonly load: Load;
  readonly floor: readonly [Target, Workload];
  readonly calls: readonly Workload[];
  readonly send: Sender;
}

const say = (line: string) => console.log(line);

/** Set by a signal: what was being measured then fails, which is no news. */
let ending: Promise<void> | undefined;

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      built: { type: 'boolean' },
      quick: { type: 'boolean' },
      profile: { type: 'boolean' },
      access: { type: 'boolean' },
      http: { type: 'boolean' },
      output: { type: 'string' },
      gigabytes: { type: 'string' },
    },
  });
  const plan = values.quick ? QUICK : FULL;
  const profiles = join(BENCH_DIRECTORY, 'profiles');
  await using stack = new AsyncDisposableStack();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      ending ??= stack.disposeAsync().finally(() => process.exit(1));
    });
  }
  const opening = Environment.open(values.profile ? profilingVariables(profiles) : {});
  // Also when the end comes before it is open. A failure to open has cleaned up, and is thrown
  // below.
  stack.defer(() => opening.then((opened) => opened[Symbol.asyncDispose]()).catch(() => {}));
  const environment = await opening;
  const load = stack.use(new Load(environment.client));
  const echo = stack.use(await startEcho(environment.variables));
  const { address } = environment.client;
  const send: Sender = async (path, requests) => {
    const slice = {
      address,
      path,
      requests,
      inFlight: 1,
      rampMs: 0,
      measureMs: ONCE_LIMIT_MS,
      once: true,
    };
    return Buffer.from((await load.run(slice)).lastAnswer);
  };
  const { floor, calls } = await prepareWorkloads(send);
  const target = { address: echo.address, serverPid: echo.pid };
  const bench: Bench = { plan, environment, load, floor: [target, floor], calls, send };
  if (values.profile) {
    await profile(
      bench,
      profiles,
      positionals.length > 0 ? positionals : ['Encrypt', 'BatchEncrypt'],
    );
    return;
  }
  if (values.access) {
    await warmUp(bench);
    say(`\n${accessText(await measureAccessOf(bench))}`);
    return;
  }
  if (values.http) {
    await warmUp(bench);
    say(`\n${httpSection(await measureHttpOf(bench))}`);
    return;
  }
  if (positionals.includes('batches')) {
    const batches = await measureBatchesOf(bench);
    say(`\n${[batchSection(batches), ...batchTargets(batches)].join('\n')}`);
    return;
  }
  const output = values.output ?? (values.quick ? undefined : RESULTS);
  if (positionals.includes('envelopes')) {
    const { files } = plan.envelopes;
    const large = values.gigabytes !== undefined && {
      ...{ bytes: Number(values.gigabytes) * 1e9, rounds: LARGE_ROUNDS },
    };
    const machine = await describeMachine(environment.variables['DATABASE_URL'] ?? '');
    const measured = await measureEnvelopesOf(bench, { ...files, ...large });
    const section = envelopesSection(measured, machine);
    say(`\n${section}`);
    if (output !== undefined)
      writeFileSync(
        output,
        existsSync(output) ? withEnvelopesSection(readFileSync(output, 'utf8'), section) : section,
      );
    return;
  }
  const text = report(await measure(bench), calls);
  say(`\n${text}`);
  if (output !== undefined) writeFileSync(output, withNotesOf(output, text));
}

async function measure(bench: Bench): Promise<Results> {
  const { environment, plan, load, floor, calls } = bench;
  const machine = await describeMachine(environment.variables['DATABASE_URL'] ?? '');
  await warmUp(bench);
  const service = environment.target;
  say('idle …');
  const idle = await measureIdle(service, plan.idleMs);
  const rows: Row[] = [];
  const megabytes: Resident[] = [];
  for (const kind of ['calls', 'batches'] as const) {
    const others = calls.filter(({ unary }) => (unary === undefined) === (kind === 'calls'));
    for (const inFlight of IN_FLIGHT) {
      say(`${kind}, ${inFlight} in flight …`);
      const timing = { ...plan, inFlight };
      const both = others.map((workload) => [service, workload] as const);
      const measured = await alternate(load, floor, both, timing);
      // The batches have a floor of their own to be compared with; once in the table is enough.
      rows.push(...(kind === 'calls' ? measured : measured.slice(1)));
    }
    const [server, agent] = [
      residentMegabytes(service.serverPid),
      residentMegabytes(service.agentPid),
    ];
    megabytes.push({ after: kind, server, agent });
  }
  rows.push(...(await measureKeys(bench)));
  const batches = await measureBatchesOf(bench);
  const access = await measureAccessOf(bench);
  const http = await measureHttpOf(bench);
  say('beside a noisy neighbour …');
  const parts = { load, identity: environment.client, send: bench.send };
  const neighbour = await measureNeighbour(
    parts,
    environment.target,
    encryptOf(bench),
    plan.neighbour,
  );
  say('the audit log …');
  const audit = await measureAudit(environment, load, encryptOf(bench), plan.audit);
  say('re-wrapping …');
  const rewrap = await measureRewrap(environment, load, encryptOf(bench), plan.rewrap);
  const envelopes = await measureEnvelopesOf(bench, plan.envelopes.files);
  return {
    ...{ machine, idle, rows, batches, access, http, megabytes },
    ...{ neighbour, audit, rewrap, envelopes },
  };
}

async function measureBatchesOf({ environment, load, floor, plan, send }: Bench) {
  say('small batches …');
  const batches = await prepareSmallBatches(send);
  return await measureBatches(load, floor, environment.target, batches, plan.batches);
}

function measureEnvelopesOf(bench: Bench, files: EnvelopePlan['files']) {
  say('envelopes and files …');
  const { environment, send, plan } = bench;
  return measureEnvelopes(environment, send, { ...plan.envelopes, files });
}

function measureAccessOf(bench: Bench): Promise<Row[]> {
  say('access …');
  return measureAccess(bench.environment, bench.load, encryptOf(bench), bench.plan);
}

function measureHttpOf(bench: Bench): Promise<Row[]> {
  say('HTTP …');
  return measureHttp(bench.environment, bench.load, encryptOf(bench), bench.plan);
}

function encryptOf({ calls: [encrypt] }: Bench): Workload {
  if (encrypt === undefined) throw new Error('there is no Encrypt');
  return encrypt;
}

async function warmUp({ plan, load, floor, calls, environment }: Bench): Promise<void> {
  say('warming up …');
  const service = environment.target;
  for (const [target, workload] of [floor, ...calls.map((each) => [service, each] as const)]) {
    await measureSlice(load, target, workload, {
      rampMs: 0,
      measureMs: plan.warmUpMs,
      inFlight: 10,
    });
  }
}

/** Making keys, and using them when neither server nor agent has them. */
async function measureKeys(bench: Bench): Promise<Row[]> {
  const { plan, load, environment } = bench;
  say('making keys …');
  const rows: Row[] = [];
  const once = { rampMs: 0, measureMs: ONCE_LIMIT_MS, once: true };
  const idsOf = (inFlight: number) =>
    Array.from({ length: plan.createKeys }, (_, index) => `made-${inFlight}-${index}`);
  for (const inFlight of [1, 10]) {
    const workload = createKeys(idsOf(inFlight));
    const figures = await measureSlice(load, environment.target, workload, { ...once, inFlight });
    rows.push({ ...figures, inFlight, name: workload.name, ofFloor: undefined });
  }
  await environment.restart();
  const service = environment.target;
  await measureSlice(load, service, encryptOf(bench), {
    rampMs: 0,
    measureMs: plan.warmUpMs,
    inFlight: 10,
  });
  const workload = firstUses(idsOf(1).slice(0, plan.firstUses));
  const figures = await measureSlice(load, service, workload, { ...once, inFlight: 1 });
  return [...rows, { ...figures, inFlight: 1, name: workload.name, ofFloor: undefined }];
}

async function profile(bench: Bench, directory: string, names: readonly string[]): Promise<void> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  await warmUp(bench);
  const { serverPid, agentPid, address } = bench.environment.target;
  const small = await prepareSmallBatches(bench.send);
  const all = [
    ...bench.calls.map((call) => ({ ...call, inFlight: 64 })),
    ...small.map((each) => ({ ...each, name: `small ${each.name}`, inFlight: BATCHES_IN_FLIGHT })),
  ];
  for (const { name, path, requests, items, inFlight } of all) {
    if (!names.includes(name)) continue;
    const slice = {
      address,
      path,
      requests,
      inFlight,
      rampMs: 0,
      measureMs: PROFILE_MS,
      once: false,
    };
    const text = await profileWhile(directory, { server: serverPid, agent: agentPid }, async () => {
      return (await bench.load.run(slice)).completed * items;
    });
    say(`\n## ${name}, ${inFlight} in flight\n\n${text}`);
  }
}

try {
  await main();
} catch (error) {
  if (ending === undefined) throw error;
  await ending;
}
