/**
 * `keyward alerts` against the service, a receiver that takes what it is told, and one that does
 * not.
 */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { hook, receiversIn, tamper, Webhook } from '../alerts/rig.ts';
import { type Environment, eventually, newEnvironment, startService } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { runHere } from './here.ts';
import { type Outcome, writeUsersProfiles } from './run.ts';

const CONDITION = 'maintenance-corrupt';

const given = new AsyncDisposableStack();
let folder: string;
let taking: Webhook;
let environment: Environment;
let raise: () => Promise<void>;

before(async () => {
  environment = given.use(await newEnvironment());
  const [good, bad] = [given.use(await Webhook.start()), given.use(await Webhook.start())];
  taking = good;
  bad.status = () => 500;
  const receivers = [hook('pager', good), hook('broken', bad)];
  const service = given.use(await startService(environment, receiversIn(environment, receivers)));
  const client = service.client();
  raise = () => tamper(environment, client);
  const { certPem: cert, keyPem: key } = environment.ca.issue({
    ...{ subject: 'cli', usage: 'client', uris: [TESTER] },
  });
  folder = join(environment.directory, 'cli');
  mkdirSync(folder);
  const ca = environment.ca.certPem;
  writeUsersProfiles(folder, { cli: { address: `127.0.0.1:${service.port}`, ca, cert, key } });
});

after(() => given.disposeAsync());

const keyward = (...args: string[]): Promise<Outcome> =>
  runHere(['alerts', ...args], { cwd: folder });

/** Returns what a command shows as JSON. */
async function shown(...args: string[]): Promise<Record<string, unknown>[]> {
  const { code, stdout, stderr } = await keyward(...args, '--output', 'json');
  assert.deepEqual([code, stderr], [0, '']);
  return JSON.parse(stdout) as Record<string, unknown>[];
}

test('test tells each receiver, shows what it answered, and fails where one did not take it', async () => {
  const { code, stdout } = await keyward('test');
  assert.equal(code, 1);
  assert.match(stdout, /^pager +yes +status 200$/m);
  assert.match(stdout, /^broken +no +it answers with status 500$/m);
  assert.equal((await keyward('test', 'pager')).code, 0);
  assert.equal(taking.told.length, 2);
  const unknown = await keyward('test', 'nowhere');
  assert.equal(unknown.code, 1);
  assert.match(unknown.stderr, /cannot find nowhere: it does not exist, or you may not see it/);
  const word = await keyward('silence', 'nothing', '--for', '1h');
  assert.match(word.stderr, /INVALID_FIELD: nothing: must be a kind of alert/);
  const silence = await keyward('unsilence', 'nope');
  assert.equal(silence.code, 2);
  assert.match(silence.stderr, /is not a silence, .* "keyward alerts silences" shows them/);
});

test('list shows an alert and which receivers lack it; silenced, it says so, and unsilenced no more', async () => {
  await raise();
  const listed = () => shown('list', '--filter', `alert = ${CONDITION}`);
  await eventually(async () => {
    const [alert] = await listed();
    assert.deepEqual([alert?.['alert'], alert?.['state']], [CONDITION, 'ACTIVE']);
    const failures = alert?.['deliveryFailures'] as { receiver: string }[];
    assert.deepEqual(
      failures.map(({ receiver }) => receiver),
      ['broken'],
    );
  });
  const both = await keyward(
    'silence',
    CONDITION,
    '--for',
    '1h',
    '--until',
    '2100-01-01T00:00:00Z',
  );
  assert.match(both.stderr, /give either --for or --until/);
  assert.equal((await keyward('silence', CONDITION, '--for', '1h', '--reason', 'a drill')).code, 0);
  const [silence] = await shown('silences');
  assert.deepEqual([silence?.['alert'], silence?.['reason']], [CONDITION, 'a drill']);
  assert.equal((await listed())[0]?.['silenced'], true);
  assert.equal((await keyward('unsilence', String(silence?.['name']))).code, 0);
  assert.deepEqual(await shown('silences'), []);
  assert.equal((await listed())[0]?.['silenced'], false);
});
