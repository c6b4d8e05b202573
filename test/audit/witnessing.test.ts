/**
 * Checkpoints that are cosigned by themselves: running services, and witnesses as servers of the
 * test's own, good and bad ones.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import type { AuditCheckpoint, KeywardClient } from 'keyward-client';
import { runHere } from '../cli/here.ts';
import { writeUsersProfiles } from '../cli/run.ts';
import { backUp, inDatabase } from '../running/backups.ts';
import {
  type Environment,
  eventually,
  failureOf,
  type LogLine,
  newEnvironment,
  runCommand,
  type Service,
  startService,
  startServiceWithoutWaiting,
} from '../support/kit.ts';
import { verdict } from './both.ts';
import { HttpWitness, send } from './http-witness.ts';
import { newWitness } from './log.ts';

const KEY = 'tenants/acme/keys/mail';
const COSIGNS = 'a witness cosigns checkpoints';
const FAILS = 'cannot get a cosignature from a witness';
const FORGOT = 'a witness has forgotten what it has cosigned';
const isContradicted = ({ alert }: LogLine) => alert === 'audit-witness-contradicted';

/** Settings with these lines as the file of witnesses, and short periods. */
function asking(environment: Environment, lines: readonly string[]): Record<string, string> {
  const file = join(environment.directory, 'witnesses');
  writeFileSync(file, lines.map((line) => `${line}\n`).join(''));
  return {
    KEYWARD_AUDIT_WITNESSES_FILE: file,
    KEYWARD_AUDIT_WITNESS_MS: '100',
    KEYWARD_AUDIT_CHECKPOINT_MS: '250',
  };
}

async function prepare(client: KeywardClient): Promise<void> {
  await client.createTenant({ tenantId: 'acme' });
  await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
}

const encrypt = (client: KeywardClient) =>
  client.encrypt({ name: KEY, plaintext: Buffer.from('x') });

/** The last checkpoint, of more leaves than that. */
const checkpointOver = (client: KeywardClient, size = 0): Promise<AuditCheckpoint> =>
  eventually(async () => {
    const checkpoint = await client.getAuditCheckpoint();
    assert.ok(checkpoint.treeSize > size, `${checkpoint.treeSize}`);
    return checkpoint;
  });

/**
 * Waits until the witness has cosigned a checkpoint of more leaves than that; makes some. Returns
 * of how many.
 */
function cosignedOver(client: KeywardClient, witness: HttpWitness, size = 0): Promise<number> {
  return eventually(async () => {
    await encrypt(client);
    const { note, treeSize } = await client.getAuditCheckpoint({ cosigned: true });
    assert.ok(
      treeSize > size && note.includes(`\n— ${witness.key.name} `),
      `${treeSize}, not over ${size}`,
    );
    return treeSize;
  });
}

/**
 * Of the witness' lines of the service's log, what they say, in their order. Alerts aside: how
 * often a witness was asked in vain is a matter of time.
 */
const saidOf = ({ log }: Service, { key }: HttpWitness) =>
  log
    .filter(({ witness, alert }) => witness === key.name && alert === undefined)
    .map(({ level, msg }) => [level, msg]);

describe('a witness that has a URL', () => {
  it('cosigns checkpoints by itself, and whoever gets an export can tell', async () => {
    await using environment = await newEnvironment();
    await using one = await HttpWitness.start('one.test');
    await using two = await HttpWitness.start('two.test');
    const never = newWitness('never.test');
    const lines = ['# of this test', one.line, never.verifierKey, two.line];
    await using service = await startService(environment, asking(environment, lines));
    const client = service.client();
    await prepare(client);
    const { publicKey } = await checkpointOver(client);
    // It doesn't know the log yet, and says so.
    const { level, err } = await service.logged(
      ({ msg, witness }) => msg === FAILS && witness === 'one.test',
    );
    assert.deepEqual([level, (err as Error).message], ['warn', 'it answers with status 404']);
    const { reason, message } = await failureOf(client.getAuditCheckpoint({ cosigned: true }));
    assert.equal(reason, 'RESOURCE_NOT_FOUND');
    assert.match(message, /none is cosigned yet/);
    for (const witness of [one, two]) witness.trust(publicKey);
    for (const witness of [one, two]) await cosignedOver(client, witness);
    // The last checkpoint is cosigned as well, once nothing happens for a moment.
    await eventually(async () => {
      await sleep(800);
      const { note } = await client.getAuditCheckpoint();
      assert.ok(note.includes('\n— one.test ') && note.includes('\n— two.test '), note);
    });
    await exportAndVerify(environment, service, [one, two]);
    assert.deepEqual([...one.violations, ...two.violations], []);
    assert.deepEqual(saidOf(service, one), [
      ['warn', FAILS],
      ['info', COSIGNS],
    ]);
    const times = ({ visits }: HttpWitness) => visits.filter(({ status }) => status === 200);
    assert.equal(new Set(times(one).map(({ size }) => size)).size, times(one).length, 'each once');
    assert.ok(
      times(one).some(({ old }) => old > 0),
      'with a proof',
    );
  });

  it('is asked on by whichever replica lengthens the log, from where it is', async () => {
    await using environment = await newEnvironment();
    await using witness = await HttpWitness.start('witness.test');
    const variables = asking(environment, [witness.line]);
    const start = () => startService(environment, variables);
    const services: [Service, Service] = [await start(), await start()];
    try {
      await prepare(services[0].client());
      witness.trust((await checkpointOver(services[0].client())).publicKey);
      let size = await cosignedOver(services[0].client(), witness);
      for (const [dies, lives] of [
        [0, 1],
        [1, 0],
      ] as const) {
        await services[dies].kill();
        size = await cosignedOver(services[lives].client(), witness, size);
        services[dies] = await start();
      }
      assert.ok(witness.visits.every(({ status }) => [200, 404, 409].includes(status)));
      assert.deepEqual(witness.violations, []);
      const forgot = services.flatMap(({ log }) => log).filter(({ msg }) => msg === FORGOT);
      assert.deepEqual(forgot, []);
    } finally {
      for (const service of services) await service.stop();
    }
  });

  it('that has lost what it knew, or some of it, is led on from there, which is said', async () => {
    await using environment = await newEnvironment();
    await using witness = await HttpWitness.start('witness.test');
    await using service = await startService(environment, asking(environment, [witness.line]));
    const client = service.client();
    await prepare(client);
    witness.trust((await checkpointOver(client)).publicKey);
    await cosignedOver(client, witness);
    const before = new Map(witness.seen);
    const known = [...before.values()][0]?.size ?? 0;
    await cosignedOver(client, witness, known);
    for (const [left, size] of [
      [before, known],
      [new Map(), 0],
    ] as const) {
      witness.seen.clear();
      for (const [origin, seen] of left) witness.seen.set(origin, seen);
      const from = service.log.length;
      await encrypt(client);
      await service.logged((line) => line.msg === FORGOT && line['size'] === size, from);
      await cosignedOver(client, witness, (await client.getAuditCheckpoint()).treeSize);
    }
    assert.deepEqual(
      service.log.filter(({ msg }) => msg === FORGOT).map(({ size }) => size),
      [known, 0],
    );
    assert.deepEqual(witness.violations, []);
  });
});

/** What a witness may do wrong, by the name that it has. */
function misdeeds(aside: HttpWitness): Record<string, NonNullable<HttpWitness['misbehave']>> {
  return {
    'hangs.test': () => {},
    'hangs-in-the-middle.test': (response) => response.writeHead(200).write('— '),
    'resets.test': (response) => response.destroy(),
    'rubbish.test': (response) => send(response, { status: 200, body: 'x'.repeat(1_000) }),
    'more-than-lines.test': (response, honestly) =>
      send(response, { status: 200, body: `text\n\n${honestly().body}` }),
    'empty.test': (response) => send(response, { status: 200 }),
    'wrong.test': (response, honestly) => {
      const { body = '' } = honestly();
      send(response, { status: 200, body: body.replace(/.{6}\n$/, 'AAAA==\n') });
    },
    'anothers.test': (response, honestly) =>
      send(response, {
        status: 200,
        body: honestly().body?.replace('anothers.test', 'good.test') ?? '',
      }),
    'redirects.test': (response) =>
      response.writeHead(307, { location: `${aside.url}/add-checkpoint` }).end(),
    'elsewhere.test': (response) =>
      send(response, { status: 409, type: 'text/x.tlog.size', body: '1\n' }),
    'busy.test': (response) => send(response, { status: 429 }),
    'broken.test': (response) => send(response, { status: 500 }),
    'endless.test': (response: ServerResponse) => {
      const more = () => {
        if (!response.destroyed) response.write('—'.repeat(10_000), more);
      };
      more();
    },
  };
}

it('witnesses that do wrong hurt nobody: not callers, not the log, not another witness', async () => {
  await using environment = await newEnvironment();
  await using good = await HttpWitness.start('good.test');
  await using aside = await HttpWitness.start('aside.test');
  const wrongs = misdeeds(aside);
  await using stack = new AsyncDisposableStack();
  const bad: HttpWitness[] = [];
  for (const [name, misbehave] of Object.entries(wrongs)) {
    const witness = stack.use(await HttpWitness.start(name));
    witness.misbehave = misbehave;
    bad.push(witness);
  }
  const unreachable = `${newWitness('unreachable.test').verifierKey} http://127.0.0.1:1`;
  const lines = [...bad.map(({ line }) => line), good.line, unreachable];
  await using service = await startService(environment, asking(environment, lines));
  const client = service.client();
  await prepare(client);
  const { publicKey } = await checkpointOver(client);
  for (const witness of [good, aside, ...bad]) witness.trust(publicKey);
  let size = 0;
  for (let times = 0; times < 5; times++) size = await cosignedOver(client, good, size);
  for (const name of [...Object.keys(wrongs), 'unreachable.test'])
    await service.logged(({ msg, witness }) => msg === FAILS && witness === name);
  await service.logged(
    ({ alert, witness }) => alert === 'audit-witness-silent' && witness === 'unreachable.test',
  );
  assert.ok(!service.log.some(({ alert, witness }) => alert && witness === good.key.name));
  const { note } = await client.getAuditCheckpoint({ cosigned: true });
  assert.deepEqual(
    note.split('\n').filter((line) => line.startsWith('— ') && !line.startsWith('— keyward/'))
      .length,
    1,
    note,
  );
  assert.deepEqual([...aside.visits, ...aside.violations], [], 'no redirect was followed');
  // What is said of each is said once, and what is well again is told.
  const reset = bad.find(({ key }) => key.name === 'resets.test') as HttpWitness;
  assert.deepEqual(saidOf(service, reset), [['warn', FAILS]]);
  reset.misbehave = undefined;
  await cosignedOver(client, reset, size);
  await service.logged(({ msg, witness }) => msg === COSIGNS && witness === 'resets.test');
  const hangs = bad.find(({ key }) => key.name === 'hangs.test') as HttpWitness;
  assert.deepEqual(hangs.violations, []);
  assert.equal(await service.stop(), 0, 'it ends in order, whatever hangs');
});

it('a log that is less than what a witness has cosigned is reported, and signed as before; as another log it is new', async () => {
  await using environment = await newEnvironment();
  await using witness = await HttpWitness.start('witness.test');
  const variables = asking(environment, [witness.line]);
  const keeping = {
    ...variables,
    KEYWARD_AUDIT_KEPT_CHECKPOINT: pathToFileURL(join(environment.directory, 'checkpoint')).href,
  };
  await serving(environment, keeping, async (client) => {
    await prepare(client);
    witness.trust((await checkpointOver(client)).publicKey);
    await cosignedOver(client, witness);
  });
  await using backup = await backUp(environment);
  const size = await serving(environment, keeping, async (client) => {
    for (let times = 0; times < 30; times++) await encrypt(client);
    return cosignedOver(client, witness, (await client.getAuditCheckpoint()).treeSize);
  });
  const restored = inDatabase(environment, backup.database);
  {
    // Nothing but the witness remembers.
    await using service = await startService(restored, variables);
    const client = service.client();
    await encrypt(client);
    const { level, contradiction } = await service.logged(isContradicted);
    assert.equal(level, 'error');
    const [, theirs, ours] =
      /^the witness has cosigned a checkpoint of (\d+) leaves, and the log’s last is of (\d+)$/.exec(
        String(contradiction),
      ) ?? [];
    assert.ok(Number(theirs) >= size && Number(ours) < size, String(contradiction));
    const visits = witness.visits.length;
    await eventually(async () => {
      await encrypt(client);
      assert.ok((await client.getAuditCheckpoint()).treeSize > Number(theirs) + 20);
    });
    // Longer than what was cosigned it is still another.
    await eventually(() =>
      assert.ok(witness.visits.slice(visits).some(({ status }) => status === 422)),
    );
    assert.equal(witness.seen.values().next().value?.size, Number(theirs), 'nothing was cosigned');
    assert.equal(service.log.filter(isContradicted).length, 1);
  }
  const operator = { ...keeping, MIGRATION_DATABASE_URL: restored.urls.owner };
  const resumed = await runCommand(restored, ['audit', 'resume'], operator);
  assert.equal(resumed.code, 0, resumed.output);
  const before = witness.visits.length;
  await serving(restored, keeping, async (client) => {
    const { environmentId } = await client.getAuditCheckpoint();
    await cosignedOver(client, witness);
    const [first] = witness.visits.slice(before);
    assert.deepEqual(
      [first?.origin, first?.old, first?.status],
      [`keyward/${environmentId}/2`, 0, 200],
    );
  });
  assert.deepEqual(witness.violations, []);
});

it('a service does not start on a file of witnesses that it can not read, and names the line', async () => {
  await using environment = await newEnvironment();
  const { verifierKey } = newWitness('witness.test');
  const wrong = asking(environment, ['# one', `${verifierKey} ftp://witness.test`]);
  const service = startServiceWithoutWaiting(environment, wrong);
  assert.equal(await service.ended, 1);
  assert.match(
    String(service.log.at(-1)?.['text']),
    /KEYWARD_AUDIT_WITNESSES_FILE must name a list of witnesses: .*: line 2: .* http: or https:/,
  );
});

async function serving<T>(
  environment: Environment,
  variables: Readonly<Record<string, string>>,
  work: (client: KeywardClient) => Promise<T>,
): Promise<T> {
  await using service = await startService(environment, variables);
  return await work(service.client());
}

/** By the command, as its users would; and by the verifier that is written from the document. */
async function exportAndVerify(
  { directory }: Environment,
  service: Service,
  witnesses: readonly HttpWitness[],
): Promise<void> {
  const folder = join(directory, 'cli');
  mkdirSync(folder, { recursive: true });
  writeUsersProfiles(folder, { caller: service.connectOptions() });
  const cli = async (...args: readonly string[]) => {
    const { code, stdout, stderr } = await runHere(args, { cwd: folder });
    const said = args.includes('public-key') ? /was not compared with the HSM token/ : /^$/;
    assert.equal(code, 0, args.join(' '));
    assert.match(stderr, said, args.join(' '));
    return stdout;
  };
  writeFileSync(join(folder, 'log.pem'), await cli('audit', 'public-key'));
  const keys = witnesses.map(({ key }) => key.verifierKey);
  const asked = keys.flatMap((verifierKey) => ['--witness', verifierKey]);
  let number = 0;
  // One of them may just have cosigned what the other is about to.
  const name = await eventually(async () => {
    number += 1;
    await cli('audit', 'export', '--cosigned', `export${number}`);
    await cli('audit', 'verify', `export${number}`, '--public-key', 'log.pem', ...asked);
    return `export${number}`;
  });
  const publicKeys = [readFileSync(join(folder, 'log.pem'), 'utf8')];
  const outcome = await verdict(join(folder, name), { publicKeys, witnesses: keys });
  assert.ok('verified' in outcome && outcome.verified > 0, JSON.stringify(outcome));
  const note = await cli('audit', 'checkpoint', '--cosigned');
  for (const { key: witness } of witnesses) assert.ok(note.includes(`\n— ${witness.name} `), note);
}
