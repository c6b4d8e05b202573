/**
 * Moving to another token over the wire: while callers work on two replicas, cut off, looked at
 * first, and refused. Cut off at every step it is in `test/long/token-moves.test.ts`.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KeywardClient, KeywardError } from 'keyward-client';
import { createSoftHsmToken, type SoftHsmToken } from '../../softhsm/token.ts';
import { childAgents } from '../../src/hsm/agent-starter.ts';
import { readKeptCheckpoint } from '../../src/hsm/token-commands.ts';
import type { TokenProfile } from '../../src/hsm/token-profile.ts';
import { tokenObjectsOf } from '../../src/keyring/hsm-token/token-objects.ts';
import { type EnvironmentRecord, readEnvironment } from '../../src/store/environment.ts';
import { Store } from '../../src/store/store.ts';
import { RELEASE } from '../store/database.ts';
import { programFrom } from '../support/compiled.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  runCommand,
  type Service,
  startService,
  startServiceWithoutWaiting,
} from '../support/kit.ts';
import { drawHere, SEED } from '../support/random.ts';
import {
  corruptVersion,
  endOf,
  idsOf,
  newId,
  QUICK,
  resealStates,
  sql,
} from '../support/reconciling.ts';

const MAIN = programFrom('src/main.ts');
/** So that callers leave the processor to what they work beside. */
const BETWEEN_CALLS_MS = 250;
const payload = Buffer.from('kept');

/** An environment, and an empty token beside its own. */
interface Bench extends AsyncDisposable {
  readonly environment: Environment;
  readonly next: SoftHsmToken;
  /** Settings besides the environment's: to move to the next token, and to have moved. */
  readonly moving: Record<string, string>;
  readonly moved: Record<string, string>;
  /** The first token's own folder. */
  readonly oldFolder: string;
}

async function newBench(): Promise<Bench> {
  const environment = await newEnvironment();
  const tokens = join(dirname(environment.token.confFile), 'tokens');
  const [first = ''] = readdirSync(tokens);
  const directory = join(environment.directory, 'next');
  const next = await createSoftHsmToken({ directory, label: 'keyward-next' });
  // One process sees what one configuration names, so both tokens are in one folder.
  cpSync(join(directory, 'tokens'), tokens, { recursive: true });
  return {
    environment,
    next,
    moving: {
      KEYWARD_NEXT_HSM_MODULE: next.modulePath,
      KEYWARD_NEXT_HSM_TOKEN: next.label,
      KEYWARD_NEXT_HSM_PIN_FILE: next.pinFile,
    },
    moved: { KEYWARD_HSM_TOKEN: next.label, KEYWARD_HSM_PIN_FILE: next.pinFile },
    oldFolder: join(tokens, first),
    [Symbol.asyncDispose]: () => environment[Symbol.asyncDispose](),
  };
}

/** A ciphertext and the key that it is under. */
interface Kept {
  readonly name: string;
  readonly ciphertext: Buffer;
}

const parentOf = (name: string) => name.split('/').slice(0, 2).join('/');

async function encrypted(keyward: KeywardClient, name: string): Promise<Kept> {
  return { name, ciphertext: (await keyward.encrypt({ name, plaintext: payload })).ciphertext };
}

/** Keys of a tenant, each with an older version, and a ciphertext of each version. */
async function someKeys(
  keyward: KeywardClient,
  parents: readonly string[],
  count = 3,
): Promise<Kept[]> {
  const kept: Kept[] = [];
  for (const parent of parents) {
    for (let index = 0; index < count; index++) {
      const { name } = await keyward.createKey({ parent, keyId: newId('k') });
      kept.push(await encrypted(keyward, name));
      await keyward.rotateKey({ name });
      kept.push(await encrypted(keyward, name));
    }
  }
  return kept;
}

async function assertAllOpen(
  clients: readonly KeywardClient[],
  kept: readonly Kept[],
): Promise<void> {
  for (const client of clients) {
    const rest = kept.values();
    const openRest = async () => {
      for (const { name, ciphertext } of rest) {
        const opened = await client.decrypt({ parent: parentOf(name), ciphertext });
        assert.deepEqual(opened.plaintext, payload, name);
      }
    };
    await Promise.all(Array.from({ length: 8 }, openRest));
  }
}

/** What is recorded now. */
async function environmentOf({ environment }: Bench): Promise<EnvironmentRecord> {
  const url = environment.urls.service;
  const store = await Store.open({ url, poolSize: 1, waitMs: 300, release: RELEASE, onError() {} });
  return readEnvironment(store).finally(() => store.close());
}

/** What the token and the database hold of objects, tokens and copies. */
async function stateOf({ environment }: Bench): Promise<unknown> {
  const tables = ['tokens', 'token_objects', 'moved_key_versions', 'key_versions', 'audit_entries'];
  const rows = await Promise.all(
    tables.map((table) => sql(environment, `SELECT r::text AS row FROM ${table} r ORDER BY 1`)),
  );
  const tokens = join(dirname(environment.token.confFile), 'tokens');
  return { rows, files: readdirSync(tokens, { recursive: true, encoding: 'utf8' }).sort() };
}

const migrate = (bench: Bench, ...options: string[]) =>
  runCommand(bench.environment, ['token', 'migrate', ...options], bench.moving);

/** How many versions are under each token. */
const versionsByToken = ({ environment }: Bench) =>
  sql<{ state: string; versions: number }>(
    environment,
    `SELECT p.state, count(v.version)::integer AS versions FROM tokens p
       JOIN token_objects o USING (token_id) LEFT JOIN key_versions v ON v.root_key_id = o.object_id AND v.state <> 'DESTROYED'
     WHERE o.role = 'root' GROUP BY p.token_id, p.state ORDER BY p.state`,
  );

/** The newest ciphertext of each version, by the header that names that: 24 bytes. */
function lastOfEachVersion(kept: readonly Kept[]): Kept[] {
  const byVersion = kept.map((each) => [each.ciphertext.toString('hex', 0, 24), each] as const);
  return [...new Map(byVersion).values()];
}

/** Has whoever copies wait, once some copies are there. */
async function holdCopying(environment: Environment): Promise<void> {
  await sql(
    environment,
    `CREATE FUNCTION hold_copying() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
     BEGIN
       IF EXISTS (SELECT FROM public.moved_key_versions) THEN PERFORM pg_sleep(3600); END IF;
       RETURN NULL;
     END $$;
     CREATE TRIGGER hold_copying BEFORE INSERT ON moved_key_versions
       FOR EACH STATEMENT EXECUTE FUNCTION hold_copying()`,
  );
}

/** Ends that, with the connection of who waited and was killed, which Postgres does not notice. */
async function letCopy(environment: Environment): Promise<void> {
  await sql(
    environment,
    `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event = 'PgSleep'`,
  );
  await sql(environment, 'DROP FUNCTION hold_copying CASCADE');
}

/**
 * The tokens, and whether their current seal key, that any state of a key or policy is sealed by.
 */
const recordsByToken = ({ environment }: Bench) =>
  sql(
    environment,
    `SELECT DISTINCT p.state, o.is_current AS "isCurrent" FROM tokens p JOIN token_objects o USING (token_id)
     WHERE o.object_id IN (SELECT state_seal_key_id FROM keys UNION SELECT seal_key_id FROM access_policies)`,
  );

/** What a service has found wrong with rows of the audit log's inbox. */
function inboxProblems({ log }: Service): unknown[] {
  return log.filter(({ alert }) => alert === 'audit-inbox').map(({ problem }) => problem);
}

describe('moving to another token', () => {
  test('goes on under callers of two replicas, and leaves nothing that needs the old token', async () => {
    await using bench = await newBench();
    const { environment, moving, moved } = bench;
    const services: Service[] = [];
    const start = async (settings: Record<string, string>, agents: string) =>
      startService(environment, { ...QUICK, ...settings, KEYWARD_HSM_AGENTS: agents });
    try {
      services.push(await start(moving, '2'), await start(moving, '1'));
      const clients = services.map((service) => service.client({ retries: 5 }));
      const keyward = clients[0] as KeywardClient;
      for (const tenantId of ['acme', 'globex']) await keyward.createTenant({ tenantId });
      await keyward.createTenant({ tenantId: 'sealed', dedicatedRootKey: true });
      const kept = await someKeys(keyward, ['tenants/acme', 'tenants/globex', 'tenants/sealed']);
      const stop = keepWorking(clients, kept);

      const { code, output } = await migrate(bench);
      assert.equal(code, 0, output);
      assert.match(output, /AES key wrap by an AES-256 transport key/);
      assert.match(output, /the current token is "keyward-next"/);
      await stop.more(40);
      const { calls, failures, made } = await stop.end();
      assert.deepEqual(failures, []);
      assert.ok(calls > 40, `${calls}`);
      kept.push(...lastOfEachVersion(made));
      await assertAllOpen(clients, kept);
      // Both tokens are open here still: a new root key is made in the one that it is recorded for.
      assert.equal((await keyward.rotateRootKey({ parent: 'tenants/sealed' })).state, 'CURRENT');
      const [current, former] = await versionsByToken(bench);
      assert.deepEqual([current?.state, former?.state, former?.versions], ['CURRENT', 'FORMER', 0]);
      assert.ok((current?.versions ?? 0) > 18);
      assert.match(output, /sealed the records of \d+ keys and policies again/);
      assert.deepEqual(await recordsByToken(bench), [{ state: 'CURRENT', isCurrent: true }]);

      const again = await migrate(bench);
      assert.equal(again.code, 0, again.output);
      assert.match(again.output, /is already the current one/);
      const refused = startServiceWithoutWaiting(environment, QUICK);
      assert.equal(await refused.ended, 1);
      assert.match(JSON.stringify(refused.log), /the current token is .{1,3}keyward-next/);

      // With the settings as they were, too: the next token is the current one by now.
      await services[1]?.stop();
      services[1] = await start(moving, '1');
      await assertAllOpen([services[1].client()], kept);

      const before = services.splice(0);
      for (const service of before) await service.stop();
      assert.deepEqual(before.flatMap(inboxProblems), [], 'rows are proven by either token');
      const left = await sql<{ id: string }>(
        environment,
        `SELECT object_id AS id FROM token_objects JOIN tokens p USING (token_id)
         WHERE p.state = 'FORMER' AND role IN ('root', 'mask')`,
      );
      for (const { id } of left) {
        const destroyed = await runCommand(environment, ['token', 'destroy-key', id]);
        assert.match(destroyed.output, /1 of 1 were in this token/);
      }
      rmSync(bench.oldFolder, { recursive: true });
      services.push(await start(moved, '2'));
      const alone = services.map((service) => service.client());
      await assertAllOpen(alone, kept);
      const fresh = await someKeys(
        alone[0] as KeywardClient,
        ['tenants/acme', 'tenants/sealed'],
        1,
      );
      await assertAllOpen(alone, fresh);
      const root = await (alone[0] as KeywardClient).rotateRootKey({ parent: 'tenants/system' });
      assert.equal(root.state, 'CURRENT');
      await assertAllOpen(alone, kept);
      const status = await runCommand(environment, ['token', 'status'], moved);
      assert.equal(status.code, 0, status.output);
      assert.match(
        status.output,
        /current {6}"keyward-next"[\s\S]*former {7}"keyward-test".*not destroyed: 2/,
      );
      // A command for the token that was left cannot have the current one prove its entries.
      const problems = new Set(services.flatMap(inboxProblems));
      problems.delete('forged');
      assert.deepEqual([...problems], []);
    } finally {
      for (const service of services) await service.stop();
    }
  });

  test('has the next token keep the audit log’s checkpoint, too, once one is signed there', async () => {
    await using bench = await newBench();
    const { environment, next, moving } = bench;
    const service = await startService(environment, {
      ...QUICK,
      ...moving,
      KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: '600',
    });
    try {
      const keyward = service.client();
      await keyward.createTenant({ tenantId: 'acme' });
      const { code, output } = await migrate(bench);
      assert.equal(code, 0, output);
      const { environmentId, tokenProfile, tokenObjects } = await environmentOf(bench);
      const note = await eventually(async () => {
        // What was logged by the move itself may have been signed before this replica heard of it.
        await keyward.listTenants();
        const kept = await readKeptCheckpoint(
          {
            environmentId,
            profile: tokenProfile as TokenProfile,
            objects: tokenObjectsOf(tokenObjects),
            keyCacheSize: 1,
          },
          childAgents(
            { module: next.modulePath, token: next.label, pinFile: next.pinFile, waivers: [] },
            { SOFTHSM2_CONF: environment.token.confFile },
          ),
        );
        return kept ?? Promise.reject(new Error('none is kept yet'));
      });
      assert.ok(note.startsWith(`keyward/${environmentId}\n`), note);
    } finally {
      await service.stop();
    }
  });

  test('looked at first by a dry run, changes nothing in tokens and database', async () => {
    await using bench = await newBench();
    await using service = await startService(bench.environment, QUICK);
    const keyward = service.client();
    await keyward.createTenant({ tenantId: 'acme' });
    await someKeys(keyward, ['tenants/acme'], 1);
    await service.stop();
    const before = await stateOf(bench);
    const { code, output } = await migrate(bench, '--dry-run');
    assert.equal(code, 0, output);
    assert.match(output, /from {7}"keyward-test"[\s\S]*to {9}"keyward-next"/);
    assert.match(output, /transport {2}AES key wrap by an AES-256 transport key/);
    assert.match(output, /4 to make[\s\S]*2 key versions, 0 copied[\s\S]*nothing was changed/);
    assert.deepEqual(await stateOf(bench), before);
  });

  test('cut off in the middle of copying, goes on when it is run again; and waits for every replica', async () => {
    await using bench = await newBench();
    const { environment } = bench;
    await using service = await startService(environment, QUICK);
    const keyward = service.client();
    await keyward.createTenant({ tenantId: 'acme' });
    const kept = await someKeys(keyward, ['tenants/acme'], 2);
    // More than are copied at once.
    await manyKeys(keyward, 'tenants/acme', 200);
    await holdCopying(environment);
    const copied = async () =>
      (
        await sql<{ n: number }>(
          environment,
          'SELECT count(*)::integer AS n FROM moved_key_versions',
        )
      )[0]?.n;

    const first = startMigrating(bench);
    await eventually(async () => assert.ok(((await copied()) ?? 0) > 0), first.output);
    first.child.kill('SIGKILL');
    await first.ended;
    await letCopy(environment);
    const before = (await copied()) ?? 0;
    assert.ok(before < 204, `${before} were copied already`);
    await assertAllOpen([keyward], kept);

    const second = startMigrating(bench);
    await eventually(
      () => assert.match(second.output(), /waiting for 1 of 1 replicas/),
      second.output,
    );
    assert.match(second.output(), /continuing the move/);
    const status = await runCommand(environment, ['token', 'status']);
    assert.equal(status.code, 0, status.output);
    assert.match(status.output, /next {9}"keyward-next"[\s\S]*204 of 204 key versions are copied/);
    const busy = await migrate(bench);
    assert.match(busy.output, /cannot move key versions: another command is already moving them/);
    // While it waits versions are made, and all are brought under another root key: their copies
    // are out of date.
    kept.push(...(await someKeys(keyward, ['tenants/acme'], 1)));
    const root = await keyward.rotateRootKey({ parent: 'tenants/system' });
    assert.equal((await endOf(keyward, root.rewrapJob)).state, 'SUCCEEDED');
    kept.push(...(await someKeys(keyward, ['tenants/acme'], 1)));
    // A tenant comes with a root key of its own, which the next token has to have too.
    await keyward.createTenant({ tenantId: 'late', dedicatedRootKey: true });
    kept.push(...(await someKeys(keyward, ['tenants/late'], 1)));
    // What is destroyed meanwhile takes its copies with it.
    const [gone] = kept.splice(0, 2);
    assert.ok(gone);
    const { impact } = await keyward.scheduleKeyDestruction({
      name: gone.name,
      validateOnly: true,
    });
    await keyward.scheduleKeyDestruction({ name: gone.name, etag: impact.etag, windowDays: 7 });
    const { keyId } = await idsOf(environment, gone.name);
    const copies = () =>
      sql(environment, 'SELECT 1 FROM moved_key_versions WHERE key_id = $1', [keyId]);
    assert.equal((await copies()).length, 2);
    await sql(
      environment,
      "UPDATE keys SET destroy_at = now() - interval '1 s' WHERE key_id = $1",
      [keyId],
    );
    await resealStates(environment, 'k.key_id = $1', [keyId]);
    await eventually(async () =>
      assert.equal((await keyward.getKey({ name: gone.name })).state, 'DESTROYED'),
    );
    assert.deepEqual(await copies(), []);

    await using another = await startService(environment, { ...QUICK, ...bench.moving });
    await service.stop();
    assert.equal(await second.ended, 0, second.output());
    await assertAllOpen([another.client()], kept);
    const [, former] = await versionsByToken(bench);
    assert.deepEqual(former, { state: 'FORMER', versions: 0 });
  });

  test(`cut off at one step after the other, is finished by the last run, while no service runs (seed ${SEED})`, async () => {
    await using bench = await newBench();
    const { environment } = bench;
    const service = await startService(environment, QUICK);
    await service.client().createTenant({ tenantId: 'sealed', dedicatedRootKey: true });
    const kept = await someKeys(service.client(), ['tenants/sealed'], 2);
    await service.stop();
    const steps = [
      /the next token is/,
      /made the root key/,
      /made the seal key/,
      /moving key versions by/,
      /copied \d/,
    ];
    for (const step of drawHere(steps, 2)) {
      const { child, ended, output } = startMigrating(bench);
      child.stdout?.on('data', () => step.test(output()) && child.kill('SIGKILL'));
      const code = await ended;
      // It was faster than the signal.
      if (code === 0) break;
    }
    const { code, output } = await migrate(bench);
    assert.equal(code, 0, output);
    rmSync(bench.oldFolder, { recursive: true });
    await using alone = await startService(environment, { ...QUICK, ...bench.moved });
    await assertAllOpen([alone.client()], kept);
    const status = await runCommand(environment, ['token', 'status'], bench.moved);
    assert.equal(status.code, 0, status.output);
  });

  test('is refused while a version does not verify, which is named; goes on once it is mended, or left behind', async () => {
    await using bench = await newBench();
    const { environment } = bench;
    await using service = await startService(environment, { ...QUICK, ...bench.moving });
    const keyward = service.client();
    await keyward.createTenant({ tenantId: 'acme' });
    const kept = await someKeys(keyward, ['tenants/acme'], 2);
    const [first, , third] = kept;
    assert.ok(first && third);
    for (const { name } of [first, third]) await corruptVersion(environment, name, 1);
    const refused = await migrate(bench);
    assert.equal(refused.code, 1, refused.output);
    assert.match(refused.output, /2 key versions failed verification/);
    for (const { name } of [first, third]) assert.ok(refused.output.includes(`${name}/versions/1`));
    await corruptVersion(environment, first.name, 1);
    const still = await migrate(bench);
    assert.match(still.output, /1 key versions failed verification/);
    assert.equal((await versionsByToken(bench))[1]?.state, 'NEXT');

    const { code, output } = await migrate(bench, '--leave-behind');
    assert.equal(code, 0, output);
    const opening = kept.filter((each) => each !== third);
    await eventually(() => assertAllOpen([keyward], opening));
    assert.equal(
      await reasonOf(keyward.decrypt({ parent: 'tenants/acme', ciphertext: third.ciphertext })),
      'STORED_ROW_CORRUPT',
    );
    assert.deepEqual((await versionsByToken(bench))[1], { state: 'FORMER', versions: 1 });
  });

  test('with a wrong PIN for the next token, or with the token that serves, is refused, and nothing is made', async () => {
    await using bench = await newBench();
    const before = await stateOf(bench);
    const wrong = join(bench.environment.directory, 'wrong-pin');
    writeFileSync(wrong, 'not-the-pin', { mode: 0o600 });
    const { code, output } = await runCommand(bench.environment, ['token', 'migrate'], {
      ...bench.moving,
      KEYWARD_NEXT_HSM_PIN_FILE: wrong,
    });
    assert.equal(code, 1);
    assert.match(output, /does not accept the PIN/);
    const same = await runCommand(bench.environment, ['token', 'migrate'], {
      ...bench.moving,
      KEYWARD_NEXT_HSM_TOKEN: bench.environment.token.label,
      KEYWARD_NEXT_HSM_PIN_FILE: bench.environment.token.pinFile,
    });
    assert.equal(same.code, 1);
    assert.match(same.output, /names the current token/);
    assert.deepEqual(await stateOf(bench), before);
    const none = await runCommand(bench.environment, ['token', 'migrate']);
    assert.match(none.output, /KEYWARD_NEXT_HSM_\* is not set/);
  });
});

/** The command, running. */
function startMigrating({ environment, moving }: Bench) {
  const child: ChildProcess = spawn(process.execPath, [MAIN, 'token', 'migrate'], {
    env: {
      ...environment.variables,
      KEYWARD_MODE: environment.mode,
      MIGRATION_DATABASE_URL: environment.urls.owner,
      ...moving,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { child, ended, output: () => output };
}

/** So many keys, as fast as can be. */
async function manyKeys(keyward: KeywardClient, parent: string, count: number): Promise<void> {
  let left = count;
  const make = async () => {
    while (left-- > 0) await keyward.createKey({ parent, keyId: newId('many') });
  };
  await Promise.all(Array.from({ length: 16 }, make));
}

/**
 * Calls of every kind until told to end; returns how many, what failed, and what was encrypted
 * under what was made.
 */
function keepWorking(clients: readonly KeywardClient[], kept: readonly Kept[]) {
  let ending = false;
  let calls = 0;
  const failures: unknown[] = [];
  const made: Kept[] = [];
  const work = async (client: KeywardClient, turn: number) => {
    const { name, ciphertext } = kept[turn % kept.length] as Kept;
    const parent = parentOf(name);
    assert.deepEqual((await client.decrypt({ parent, ciphertext })).plaintext, payload);
    made.push(await encrypted(client, name));
    const anew = await client.reEncrypt({ name, ciphertext });
    made.push({ name, ciphertext: anew.ciphertext });
    if (turn % 10 === 0) await client.rotateKey({ name });
    if (turn % 15 !== 0) return;
    const created = await client.createKey({ parent, keyId: newId('meanwhile') });
    made.push(await encrypted(client, created.name));
  };
  const run = async (client: KeywardClient, start: number) => {
    for (let turn = start; !ending; turn++) {
      await work(client, turn).catch((error: KeywardError) => failures.push(error.reason ?? error));
      calls += 1;
      await sleep(BETWEEN_CALLS_MS);
    }
  };
  const running = [...clients, ...clients].map(run);
  return {
    more: async (count: number) => {
      const until = calls + count;
      await eventually(() => assert.ok(calls >= until));
    },
    end: async () => {
      ending = true;
      await Promise.all(running);
      return { calls, failures, made };
    },
  };
}
