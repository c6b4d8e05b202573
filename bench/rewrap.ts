/**
 * Re-wrapping, measured: how fast against a plain batched UPDATE of the same rows, what callers notice of it, what memory
 * it takes, and what a tick costs that finds nothing to do.
 *
 * The service works all the time for the first (share 100, two agents for two cores), and as it comes for the second.
 * Floor and job alternate in slices, by the maintenance switch. The rows are one real data key's, under many names: each
 * is opened, wrapped and opened again as any other. Knows the database's tables, as it fills them past the service.
 */
import { connect, type KeywardClient, type RewrapJob } from 'keyward-client';
import pg from 'pg';
import { monotonicNow } from '../src/call.ts';
import { findDue } from '../src/store/maintenance.ts';
import { Store } from '../src/store/store.ts';
import type { Environment } from './environment.ts';
import { type Load, measureSlice, median, type Timing } from './measure.ts';
import { cpuMicroseconds, residentMegabytes } from './processes.ts';
import type { Workload } from './workloads.ts';

const PARENT = 'tenants/bench';
const KEY = `${PARENT}/keys/first`;
/** As the service's own batches. */
const BATCH = 500;
/** As many as the service has workers. */
const FLOOR_CONNECTIONS = 5;
const AGENTS = 2;
const PASSES = 2;
const TICKS = 200;
const DUE_LIMIT = 100;
const RELEASE = '0.1.0';

/** How much is done. */
export interface RewrapPlan {
  readonly rows: number;
  readonly jobSliceMs: number;
  readonly floorSliceMs: number;
  /** Keys of which none is due. */
  readonly keys: number;
  /** For what callers notice. */
  readonly callers: Timing;
}

/** One pass over all rows. */
export interface RewrapPass {
  readonly perSecond: number;
  /** Of the plain UPDATE, in alternating slices. */
  readonly floorPerSecond: number;
  /** Microseconds of CPU time for each row. */
  readonly serverCpu: number;
  readonly agentsCpu: number;
  /** Of the server and its agents, when a tenth was done and at the end. */
  readonly megabytesBegin: number;
  readonly megabytesEnd: number;
}

/** What callers see of a job that takes its share. */
export interface CallersWithout {
  readonly inFlight: number;
  readonly p99Without: number;
  readonly p99With: number;
}

export interface RewrapResults {
  readonly rows: number;
  readonly passes: readonly RewrapPass[];
  readonly callers: readonly CallersWithout[];
  readonly tick: { readonly keys: number; readonly p50Ms: number; readonly p99Ms: number };
}

/** Everything above, on the bench's environment, which is restarted for it. */
export async function measureRewrap(
  environment: Environment,
  load: Load,
  encrypt: Workload,
  plan: RewrapPlan,
): Promise<RewrapResults> {
  const owner = new pg.Client({ connectionString: environment.variables['MIGRATION_DATABASE_URL'] ?? '' });
  await owner.connect();
  try {
    await environment.restart({ KEYWARD_REWRAP_SHARE: '100', KEYWARD_HSM_AGENTS: String(AGENTS) });
    const rows = await fill(environment, owner, plan.rows);
    const passes: RewrapPass[] = [];
    for (let pass = 0; pass < PASSES; pass++) passes.push(await measurePass(environment, owner, plan));
    await environment.restart();
    const callers = await measureCallers(environment, load, encrypt, plan.callers);
    const tick = await measureTick(environment, owner, plan.keys);
    return { rows, passes, callers, tick };
  } finally {
    await owner.end();
  }
}

/** One data key, made by the service, and copies of its row; and all of them again in a table for the floor. */
async function fill(environment: Environment, owner: pg.Client, rows: number): Promise<number> {
  using client = connect(environment.client);
  await client.createDataKey({ parent: KEY, dataKeyId: 'original' });
  await owner.query(
    `INSERT INTO data_keys (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
     SELECT tenant_id, key_id, 'copy-' || lpad(n::text, 9, '0'), data_key_id, context_digest, ciphertext
     FROM data_keys, generate_series(2, $1::integer) n WHERE name = 'original'`,
    [rows],
  );
  await owner.query('CREATE TABLE floor (LIKE data_keys INCLUDING ALL)');
  await owner.query(
    `INSERT INTO floor (tenant_id, key_id, name, data_key_id, context_digest, ciphertext)
     SELECT tenant_id, key_id, name, data_key_id, context_digest, ciphertext FROM data_keys`,
  );
  await owner.query('ANALYZE floor');
  return rows;
}

async function measurePass(
  environment: Environment,
  owner: pg.Client,
  plan: RewrapPlan,
): Promise<RewrapPass> {
  using client = connect(environment.client);
  const pids = [environment.serverPid, ...environment.agentPids];
  const cpu = () => pids.map(cpuMicroseconds);
  const megabytes = () => pids.map(residentMegabytes).reduce((sum, each) => sum + each, 0);
  const floor = new Floor(environment, plan.rows);
  const ratios: { job: number; floor: number }[] = [];
  let [begin, done] = [0, 0];
  const before = cpu();
  await client.pauseMaintenance();
  await client.rotateKey({ name: KEY });
  const [rotation] = (await client.listRotations({ parent: KEY, pageSize: 1 })).rotations;
  const name = rotation?.rewrapJob ?? '';
  for (let state: RewrapJob['state'] = 'RUNNING'; state === 'RUNNING'; ) {
    const slice = await jobSlice(client, name, plan.jobSliceMs);
    ({ state } = slice.job);
    if (begin === 0 && slice.job.done >= plan.rows / 10) begin = megabytes();
    // The last slice is a rest of one, and says little, unless there is no other.
    const rate = (slice.job.done - done) / slice.seconds;
    done = slice.job.done;
    if (state === 'RUNNING' || ratios.length === 0)
      ratios.push({ job: rate, floor: await floor.run(owner, plan.floorSliceMs) });
    if (state !== 'RUNNING' && state !== 'SUCCEEDED') throw new Error(`the job ended ${state}`);
  }
  const after = cpu();
  const used = after.map((each, index) => (each - (before[index] ?? 0)) / plan.rows);
  return {
    perSecond: median(ratios.map(({ job }) => job)),
    floorPerSecond: median(ratios.map((each) => each.floor)),
    serverCpu: used[0] ?? Number.NaN,
    agentsCpu: used.slice(1).reduce((sum, each) => sum + each, 0),
    megabytesBegin: begin,
    megabytesEnd: megabytes(),
  };
}

/** Lets the job run for so long, and no longer than it takes. */
async function jobSlice(
  client: KeywardClient,
  name: string,
  milliseconds: number,
): Promise<{ job: RewrapJob; seconds: number }> {
  await client.resumeMaintenance();
  const began = monotonicNow();
  for (;;) {
    const job = await client.getRewrapJob({ name });
    const elapsed = monotonicNow() - began;
    if (elapsed >= milliseconds || job.state !== 'RUNNING') {
      await client.pauseMaintenance();
      return { job, seconds: elapsed / 1000 };
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(100, milliseconds - elapsed)));
  }
}

/** The plain batched UPDATE: rows read and written back in batches, by keyset, on as many connections as there are workers. */
class Floor {
  readonly #environment: Environment;
  readonly #names: string[];
  #next = 0;

  constructor(environment: Environment, rows: number) {
    this.#environment = environment;
    this.#names = Array.from({ length: Math.ceil(rows / BATCH) }, (_, index) =>
      index === 0 ? '' : `copy-${String(index * BATCH).padStart(9, '0')}`,
    );
  }

  /** Rows a second, for so long. */
  async run(owner: pg.Client, milliseconds: number): Promise<number> {
    const clients = [owner];
    while (clients.length < FLOOR_CONNECTIONS) {
      const connectionString = this.#environment.variables['MIGRATION_DATABASE_URL'] ?? '';
      const client = new pg.Client({ connectionString });
      await client.connect();
      clients.push(client);
    }
    const began = monotonicNow();
    const counts = await Promise.all(
      clients.map(async (client) => {
        let count = 0;
        while (monotonicNow() - began < milliseconds) count += await this.#batch(client);
        return count;
      }),
    );
    const seconds = (monotonicNow() - began) / 1000;
    await Promise.all(clients.slice(1).map((client) => client.end()));
    return counts.reduce((sum, count) => sum + count, 0) / seconds;
  }

  async #batch(client: pg.Client): Promise<number> {
    const after = this.#names[this.#next++ % this.#names.length];
    const { rows } = await client.query<{ name: string; ciphertext: Buffer }>(
      `SELECT name, data_key_id, context_digest, ciphertext, version FROM floor
       WHERE (tenant_id, key_id) = (SELECT tenant_id, key_id FROM floor LIMIT 1) AND name > $1 ORDER BY name LIMIT $2`,
      [after, BATCH],
    );
    await client.query(
      `UPDATE floor f SET ciphertext = b.after, rewrapped_at = now()
       FROM unnest($1::text[], $2::bytea[]) AS b (name, after)
       WHERE (f.tenant_id, f.key_id) = (SELECT tenant_id, key_id FROM floor LIMIT 1) AND f.name = b.name
         AND f.name BETWEEN $3 AND $4`,
      [
        rows.map(({ name }) => name),
        rows.map(({ ciphertext }) => ciphertext),
        rows[0]?.name,
        rows.at(-1)?.name,
      ],
    );
    return rows.length;
  }
}

/** Encrypt in slices, while a job takes its share and while it stands still, in turn. */
async function measureCallers(
  environment: Environment,
  load: Load,
  encrypt: Workload,
  timing: Timing,
): Promise<CallersWithout[]> {
  using client = connect(environment.client);
  await client.pauseMaintenance();
  await client.rotateKey({ name: KEY });
  const { address } = environment.client;
  const target = { address, serverPid: environment.serverPid, agentPid: environment.agentPid };
  const results: CallersWithout[] = [];
  for (const inFlight of [1, 10]) {
    const [without, during]: [number[], number[]] = [[], []];
    for (let round = 0; round < timing.rounds; round++) {
      without.push((await measureSlice(load, target, encrypt, { ...timing, inFlight })).p99Ms);
      await client.resumeMaintenance();
      during.push((await measureSlice(load, target, encrypt, { ...timing, inFlight })).p99Ms);
      await client.pauseMaintenance();
    }
    results.push({ inFlight, p99Without: median(without), p99With: median(during) });
  }
  const [rotation] = (await client.listRotations({ parent: KEY, pageSize: 1 })).rotations;
  const job = await client.cancelRewrapJob({ name: rotation?.rewrapJob ?? '' });
  if (job.done === 0) throw new Error('the job did nothing while callers were measured');
  await client.resumeMaintenance();
  return results;
}

/** How long it takes to find that nothing is due, with many keys that all have a schedule. */
async function measureTick(
  environment: Environment,
  owner: pg.Client,
  keys: number,
): Promise<RewrapResults['tick']> {
  await owner.query('BEGIN');
  await owner.query(
    `CREATE TEMPORARY TABLE many ON COMMIT DROP AS
     SELECT gen_random_uuid() AS id, n FROM generate_series(1, $1::integer) n`,
    [keys],
  );
  await owner.query(
    `INSERT INTO keys (tenant_id, key_id, name, primary_version, rotation_period_seconds, next_rotation_at)
     SELECT k.tenant_id, many.id, 'many-' || many.n, 1, 7776000, now() + interval '90 days' * (1 - many.n::float8 / $1 / 2)
     FROM many, keys k WHERE k.name = 'first'`,
    [keys],
  );
  await owner.query(
    `INSERT INTO key_versions (tenant_id, key_id, version, state, algorithm, root_key_id, wrap, wrapped, check_value,
       seal_key_id, seal)
     SELECT v.tenant_id, many.id, 1, v.state, v.algorithm, v.root_key_id, v.wrap, v.wrapped, v.check_value, v.seal_key_id,
       v.seal
     FROM many, key_versions v JOIN keys k USING (tenant_id, key_id) WHERE k.name = 'first' AND v.version = 1`,
  );
  await owner.query('COMMIT');
  const store = await Store.open({
    url: environment.variables['DATABASE_URL'] ?? '',
    poolSize: 1,
    release: RELEASE,
    onError: () => {},
  });
  try {
    const times: number[] = [];
    for (let tick = 0; tick < TICKS; tick++) {
      const began = monotonicNow();
      const due = await findDue(store, { deadline: began + 10_000 }, DUE_LIMIT);
      times.push(monotonicNow() - began);
      if (due.rotations.length > 0) throw new Error('something was due');
    }
    times.sort((a, b) => a - b);
    const at = (share: number) => times[Math.floor(times.length * share)] ?? Number.NaN;
    return { keys, p50Ms: at(0.5), p99Ms: at(0.99) };
  } finally {
    await store.close();
  }
}
