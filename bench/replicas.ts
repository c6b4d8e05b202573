/**
 * How soon what one replica changes holds at the others: three servers on one database and one
 * token, each under load, with and without a pooler before the database.
 *
 * Each change is made at one replica; the others are called all the time. It holds at one from the
 * first call on, counted from its answer, that is answered accordingly; were any later call
 * answered as before, the bench would fail.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { connect, type KeywardClient, KeywardError } from 'keyward-client';
import { type ClientIdentity, PRINCIPALS } from '../dev/identities.ts';
import { type Bench, type Context, encryptOf, type Section, say } from './bench.ts';
import { histogram } from './figure.ts';
import { figure, item, paragraph, table, target } from './markdown.ts';
import { OpenLoop } from './open-loop.ts';
import { startPooler } from './pooler.ts';

const FULL = { rounds: 15, callsPerSecond: 300 };
const QUICK = { rounds: 1, callsPerSecond: 50 };
const REPLICAS = 3;
const HOLDS_MS = 2_000;
const PATIENCE_MS = 15_000;
const LOOK_MS = 3;
/** Calls after the first one that are to be answered as that one. */
const CONFIRMATIONS = 5;
const RETRIES = 10;
const STRANGER_ROLE = 'roles/encrypter';
const METHOD = `
  ${REPLICAS} servers on one database and one token. A change is made at one of them, each in its
  turn, and both others are called all the time: it holds at one from the first call on that is
  answered accordingly, counted from the answer that the change itself had. "pooler" is PgBouncer in
  transaction mode between all servers and the database.`;
const BUSY: readonly string[] = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED'];
const REFUSALS: readonly string[] = ['FAILED_PRECONDITION', 'PERMISSION_DENIED', 'NOT_FOUND'];

/** How long each change took to hold at another replica, in milliseconds, by its name. */
type Held = ReadonlyMap<string, readonly number[]>;

/** A replica's clients. */
interface Callers {
  /** Makes changes; tries again where the replica is busy. */
  readonly patient: KeywardClient;
  /** Calls once. */
  readonly admin: KeywardClient;
  readonly stranger: KeywardClient;
}

/** A change, each time it is made, and what shows that it holds. */
interface Change {
  readonly name: string;
  /** Makes it by one replica. */
  make(at: KeywardClient): Promise<unknown>;
  /** Whether a call of another is answered by it. */
  holds(at: Callers): Promise<boolean>;
  /** Takes it back, or has the next one be another. */
  undo(at: KeywardClient): Promise<unknown>;
}

/** See this file's first paragraph. */
export const replicas: Bench = {
  name: 'replicas',
  title: 'Replicas',
  measures: 'how soon what one replica changes holds at the others, through a pooler too',
  async run(context) {
    const { environment, isQuick } = context;
    const plan = isQuick ? QUICK : FULL;
    say(`${REPLICAS} replicas …`);
    const direct = await measureHolding(context, plan, 'direct', {});
    await using pooler = await startPooler(environment.variables['DATABASE_URL'] ?? '');
    let pooled: Held | undefined;
    if (pooler !== undefined) {
      say(`${REPLICAS} replicas through a pooler …`);
      const extra = { DATABASE_URL: pooler.url };
      await environment.restart(extra);
      pooled = await measureHolding(context, plan, 'pooler', extra);
      // Before the pooler ends.
      await environment.restart();
    }
    return sectionOf(direct, pooled, plan.callsPerSecond);
  },
};

async function measureHolding(
  { environment, ...context }: Context,
  { rounds, callsPerSecond }: typeof FULL,
  way: string,
  extra: Readonly<Record<string, string>>,
): Promise<Held> {
  await using stack = new AsyncDisposableStack();
  const addresses = [environment.client.address];
  while (addresses.length < REPLICAS)
    addresses.push(stack.use(await environment.startBeside(extra)).address);
  const callers = addresses.map((address): Callers => {
    const of = (identity: ClientIdentity, retries = 0) =>
      stack.use(connect({ ...identity, address, retries }));
    const { client, stranger } = environment;
    return { patient: of(client, RETRIES), admin: of(client), stranger: of(stranger) };
  });
  const { path, requests } = encryptOf(context);
  for (const address of addresses) {
    const load = new OpenLoop(environment.client);
    // Its last answers are waited for, so that no call fails because its server ended first.
    stack.defer(() => load.end().then(() => load[Symbol.dispose]()));
    await load.begin({ address, path, requests, perSecond: callsPerSecond, mayFail: true });
  }
  const changes = await changesOf(callers, `replicas-${way}`);
  const held = new Map(changes.map(({ name }): [string, number[]] => [name, []]));
  for (let round = 0; round < rounds; round++)
    for (const change of changes)
      held.get(change.name)?.push(...(await measureChange(change, callers, round % REPLICAS)));
  return held;
}

async function measureChange(
  change: Change,
  callers: readonly Callers[],
  at: number,
): Promise<number[]> {
  const { patient } = callers[at] as Callers;
  const others = callers.filter((_, index) => index !== at);
  await Promise.all(others.map((other) => until(() => change.holds(other), false)));
  await change.make(patient);
  const madeAt = performance.now();
  const times = await Promise.all(
    others.map(async (other) => {
      const since = await until(() => change.holds(other), true);
      for (let call = 0; call < CONFIRMATIONS; call++)
        if ((await answered(change.holds(other))) === false)
          throw new Error(`${change.name}: held at a replica, and then not`);
      return Math.max(0, since - madeAt);
    }),
  );
  await change.undo(patient);
  return times;
}

/** Returns when the first call began that is answered so. */
async function until(ask: () => Promise<boolean>, wanted: boolean): Promise<number> {
  const giveUpAt = performance.now() + PATIENCE_MS;
  for (;;) {
    const began = performance.now();
    if ((await answered(ask())) === wanted) return began;
    if (began > giveUpAt) throw new Error('a change does not come to hold at another replica');
    await delay(LOOK_MS);
  }
}

/** Returns the answer; undefined of a replica too busy to give one, which shows nothing. */
async function answered(asked: Promise<boolean>): Promise<boolean | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof KeywardError && BUSY.includes(error.code)) return undefined;
    throw error;
  }
}

/** In a tenant of their own, which is made for them. */
async function changesOf([first]: readonly Callers[], tenantId: string): Promise<Change[]> {
  const { patient: admin } = first as Callers;
  const { name: parent } = await admin.createTenant({ tenantId });
  for (const keyId of ['disabled', 'version', 'rotated', 'plain'])
    await admin.createKey({ parent, keyId });
  const plaintext = Buffer.from('replicas');
  const key = (id: string) => `${parent}/keys/${id}`;
  const encrypt = (client: KeywardClient, id: string) =>
    client.encrypt({ name: key(id), plaintext });
  const { ciphertext, keyVersion: primary } = await encrypt(admin, 'version');
  let version = 2;
  let binding = '';
  const bind = async (at: KeywardClient) => {
    const roleBinding = { principal: PRINCIPALS.service, role: STRANGER_ROLE };
    binding = (await at.createRoleBinding({ parent, roleBinding })).name;
  };
  await bind(admin);
  return [
    {
      name: 'DisableKey',
      make: (at) => at.disableKey({ name: key('disabled') }),
      holds: (at) => isRefused(encrypt(at.admin, 'disabled')),
      undo: (at) => at.enableKey({ name: key('disabled') }),
    },
    {
      name: 'DisableKeyVersion',
      make: (at) => at.disableKeyVersion({ name: primary }),
      holds: (at) => isRefused(at.admin.decrypt({ parent, ciphertext })),
      undo: (at) => at.enableKeyVersion({ name: primary }),
    },
    {
      name: 'DeleteRoleBinding',
      make: (at) => at.deleteRoleBinding({ name: binding }),
      holds: (at) => isRefused(encrypt(at.stranger, 'plain')),
      undo: bind,
    },
    {
      name: 'RotateKey',
      make: (at) => at.rotateKey({ name: key('rotated') }),
      holds: async (at) =>
        (await encrypt(at.admin, 'rotated')).keyVersion.endsWith(`/versions/${version}`),
      undo: async () => {
        version += 1;
      },
    },
    {
      name: 'DisableTenant',
      make: (at) => at.disableTenant({ name: parent }),
      holds: (at) => isRefused(encrypt(at.admin, 'plain')),
      undo: (at) => at.enableTenant({ name: parent }),
    },
  ];
}

async function isRefused(call: Promise<unknown>): Promise<boolean> {
  try {
    await call;
    return false;
  } catch (error) {
    if (error instanceof KeywardError && REFUSALS.includes(error.code)) return true;
    throw error;
  }
}

function sectionOf(direct: Held, pooled: Held | undefined, callsPerSecond: number): Section {
  const ways = [
    { name: 'direct', held: direct },
    ...(pooled === undefined ? [] : [{ name: 'pooler', held: pooled }]),
  ];
  const rows = ways.flatMap(({ name: way, held }) =>
    [...held].map(([name, values]) => [name, way, ...spreadOf(values)]),
  );
  const series = ways.map(({ name, held }) => ({ name, values: [...held.values()].flat() }));
  const worst = series.map(({ name, values }) => {
    const most = Math.max(...values);
    const text = `the slowest change (${name}) held everywhere after ${most.toFixed(0)} ms`;
    return target(most <= HOLDS_MS, `${text}; to hold within ${HOLDS_MS}`);
  });
  const title = 'Changes by how long they took to hold at another replica';
  const axes = { x: { label: 'milliseconds' }, y: { label: 'changes' } };
  return {
    text: [
      paragraph(`${METHOD} Each replica answers ${callsPerSecond} Encrypts a second besides.`),
      table(['change', 'database', 'measured', 'p50 ms', 'p90 ms', 'most ms'], rows),
      ...(pooled === undefined ? [item('Through a pooler: not measured, for want of one.')] : []),
      figure('replicas', title),
    ].join('\n\n'),
    targets: worst,
    figures: { replicas: histogram({ title, ...axes }, series) },
  };
}

function spreadOf(values: readonly number[]): string[] {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => sorted[Math.ceil(sorted.length * share) - 1] ?? Number.NaN;
  return [String(sorted.length), ...[0.5, 0.9, 1].map((share) => at(share).toFixed(0))];
}
