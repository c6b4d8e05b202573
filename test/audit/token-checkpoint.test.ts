/**
 * The checkpoint that the token keeps: what the agents let in and heed, what a process that is
 * killed leaves, and a database that is older than what the token remembers: alone or beside a file
 * as the run's seed draws, both in `test/long/token-moves.test.ts`.
 */
import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { setImmediate as immediate, setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import type { KeywardClient } from 'keyward-client';
import { TokenCheckpoint } from '../../src/audit/token-checkpoint.ts';
import { monotonicNow } from '../../src/call.ts';
import { AgentProcess } from '../../src/hsm/agent-process.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import { checkpointNote, checkpointText } from '../../src/hsm/checkpoint.ts';
import { encodeRequest, type KeepSettings, type ServeSettings } from '../../src/hsm/protocol.ts';
import {
  inspectToken,
  keepCheckpoint,
  readKeptCheckpoint,
  signResumption,
} from '../../src/hsm/token-commands.ts';
import type { TokenProfile } from '../../src/hsm/token-profile.ts';
import { type EnvironmentId, newId } from '../../src/ids.ts';
import { ServingTokens } from '../../src/keyring/hsm-token/serving-tokens.ts';
import { tokenObjectsOf } from '../../src/keyring/hsm-token/token-objects.ts';
import { type EnvironmentRecord, readEnvironment } from '../../src/store/environment.ts';
import { Store } from '../../src/store/store.ts';
import { TokenKeysRig } from '../hsm/token-keys-rig.ts';
import { backUp, folderOf, inDatabase } from '../running/backups.ts';
import { RELEASE } from '../store/database.ts';
import { COMPILED } from '../support/compiled.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  runCommand,
  type Service,
  startService,
} from '../support/kit.ts';
import { drawHere, SEED } from '../support/random.ts';
import { askToSign, type Begun, beginAt, madeUpTree } from './made-up-tree.ts';

const ROOT = Buffer.alloc(32, 7).toString('base64');
const TREE = madeUpTree();
const OTHER_TREE = madeUpTree('another ');
const soon = () => monotonicNow() + 120_000;

/** The token's objects, by the files that SoftHSM has of them. */
function objectFiles(environment: Environment): string[] {
  const names = readdirSync(join(folderOf(environment), 'tokens'), {
    recursive: true,
    encoding: 'utf8',
  });
  return names.filter((name) => name.endsWith('.object') && !name.endsWith('token.object')).sort();
}

describe('a token', () => {
  let environment: Environment;
  let store: Store;
  let record: EnvironmentRecord;
  let rig: TokenKeysRig;
  /** The second generation. */
  let second: Begun;
  let settings: Omit<ServeSettings, 'despiteFailedTry'>;
  /** Those that aren't checkpoints. */
  let others: readonly string[];

  before(async () => {
    environment = await newEnvironment();
    store = await Store.open({
      url: environment.urls.service,
      poolSize: 1,
      waitMs: 300,
      release: RELEASE,
      onError() {},
    });
    record = await readEnvironment(store);
    const { modulePath, label, pinFile, confFile } = environment.token;
    settings = {
      environmentId: record.environmentId,
      profile: record.tokenProfile as TokenProfile,
      objects: tokenObjectsOf(record.tokenObjects),
      keyCacheSize: 4,
      heedsKeptCheckpoint: true,
    };
    const token = {
      settings: { module: modulePath, token: label, pinFile, waivers: [] },
      environment: { SOFTHSM2_CONF: confFile, ...COMPILED },
      dispose() {},
    };
    rig = TokenKeysRig.over(token, settings);
    others = objectFiles(environment);
    second = await beginAt(3, (heads) => signResumption({ ...settings, ...heads }, rig.starter));
  });
  afterEach(() => rig.stopAll());
  after(async () => {
    await store.close();
    await environment[Symbol.asyncDispose]();
  });

  const agentsOf = async (heedsKeptCheckpoint: boolean) => {
    const each = TokenKeysRig.over(rig.token, { ...settings, heedsKeptCheckpoint });
    const agents = await each.start({ count: 1 });
    return { agents, [Symbol.asyncDispose]: () => each.stopAll() };
  };
  const signing = (agents: HsmAgents, treeSize: number, generation = 1, tree = TREE) =>
    askToSign(
      agents,
      treeSize,
      soon(),
      generation === 1 ? { tree } : { generation, begun: second },
    );
  const refusal = async (agents: HsmAgents, treeSize: number, generation = 1, tree = TREE) => {
    const reply = await signing(agents, treeSize, generation, tree);
    return 'conflictsWith' in reply ? reply.conflictsWith : reply;
  };
  const noteOf = async (agents: HsmAgents, treeSize: number, generation = 1, tree = TREE) => {
    const signed = await signing(agents, treeSize, generation, tree);
    assert.ok('note' in signed, JSON.stringify(signed));
    return signed.note;
  };
  /** By an agent of its own, which has signed nothing yet and looks at nothing. */
  const signed = async (treeSize: number, generation = 1, tree = TREE) => {
    await using opened = await agentsOf(false);
    return await noteOf(opened.agents, treeSize, generation, tree);
  };
  const keep = (note: string, changes: Partial<KeepSettings> = {}) =>
    keepCheckpoint({ ...settings, note, despiteFailedTry: false, ...changes }, rig.starter);
  const kept = () => readKeptCheckpoint(settings, rig.starter);
  const checkpointFiles = () => objectFiles(environment).filter((name) => !others.includes(name));

  test('keeps one checkpoint, the latest that it was given, and nobody takes it for a key', async () => {
    assert.equal(await kept(), undefined);
    for (const size of [10, 20, 30]) {
      const note = await signed(size);
      await keep(note);
      assert.equal(await kept(), note);
      assert.equal(checkpointFiles().length, 1);
    }
    const before = checkpointFiles();
    await keep(await signed(30));
    assert.deepEqual(checkpointFiles(), before, 'the same again is not written again');
    const posture = await inspectToken(settings, rig.starter);
    assert.deepEqual(posture.unrecorded, []);
    assert.ok(posture.objects.every(({ condition }) => condition === 'found'));
  });

  test('keeps none in place of a later one, nor another of its size', async () => {
    const last = await kept();
    for (const note of [await signed(29), await signed(30, 1, OTHER_TREE)])
      await assert.rejects(
        keep(note),
        /the checkpoint of \d+ leaves: it does not follow the kept one of 30 leaves/,
      );
    assert.equal(await kept(), last);
  });

  test('keeps nothing that its own key has not signed', async () => {
    const { environmentId } = settings;
    const last = await kept();
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const claim = {
      environmentId,
      generation: 1,
      treeSize: 99,
      rootHash: Buffer.from(ROOT, 'base64'),
    };
    const spki = publicKey.export({ format: 'der', type: 'spki' });
    const signature = sign('sha256', Buffer.from(checkpointText(claim)), privateKey);
    const honest = await signed(99);
    const line = honest.split('\n\n')[1];
    for (const wrong of [
      checkpointNote(claim, spki, signature),
      honest.replace('\n99\n', '\n100\n'),
      `${honest}${line}`,
      honest.replace('\n\n', '\nand more\n\n'),
      'any text',
      '',
    ])
      await assert.rejects(keep(wrong), /the token’s own key has not signed it/);
    await assert.rejects(
      keep(honest, { environmentId: newId<EnvironmentId>() }),
      /another environment/,
    );
    assert.equal(await kept(), last);
    assert.equal(checkpointFiles().length, 1);
  });

  test('has agents that were started since sign nothing that its checkpoint is not followed by', async () => {
    await using heeding = await agentsOf(true);
    const { agents } = heeding;
    assert.equal(await refusal(agents, 29), 30);
    assert.equal(await refusal(agents, 30, 1, OTHER_TREE), 30);
    await noteOf(agents, 30);
    await noteOf(agents, 31);
    await noteOf(agents, 5, 2);
    await using opened = await agentsOf(false);
    await noteOf(opened.agents, 29);
    // Until it is asked for what is kept.
    await opened.agents.call('readKeptCheckpoint', {}, soon());
    assert.equal(await refusal(opened.agents, 29), 30);
  });

  test('keeps a shorter one of a later generation, and none of an earlier one then', async () => {
    const note = await signed(5, 2);
    await keep(note);
    await assert.rejects(keep(await signed(1_000)), /does not follow/);
    assert.equal(await kept(), note);
    assert.equal(checkpointFiles().length, 1);
  });

  test('has a later one besides where the earlier was not destroyed any more, until the next', async () => {
    const [file = ''] = checkpointFiles();
    const path = join(folderOf(environment), 'tokens', file);
    const files = [path, path.replace(/object$/, 'lock')].map(
      (each) => [each, readFileSync(each)] as const,
    );
    const later = await signed(6, 2);
    await keep(later);
    // As if the agent had been killed before it came to destroying.
    for (const [each, content] of files) writeFileSync(each, content, { mode: 0o600 });
    assert.equal(checkpointFiles().length, 2);
    assert.equal(await kept(), later);
    const last = await signed(7, 2);
    await keep(last);
    assert.equal(await kept(), last);
    assert.equal(checkpointFiles().length, 1);
  });

  test('has the last one, or the one before, whenever the agent that writes is killed', async () => {
    await using heedless = await agentsOf(false);
    const { agents } = heedless;
    let last = await kept();
    // A few moments in each run; those of many runs are spread over what it takes.
    for (let round = 0; round < 2; round++) {
      const note = await noteOf(agents, 100 + round, 2);
      await killedWhileKeeping(note, round + Math.random());
      const now = await kept();
      assert.ok(now !== undefined && (now === last || now === note), `after ${round}: ${now}`);
      last = now;
    }
    const note = await noteOf(agents, 200, 2);
    await keep(note);
    assert.equal(await kept(), note);
  });

  test('has the last one whichever byte SoftHSM has come to when it was killed', async () => {
    const note = await signed(210, 2);
    const before = checkpointFiles();
    await keep(note);
    const tokens = join(folderOf(environment), 'tokens');
    const [file = ''] = checkpointFiles().filter((name) => !before.includes(name));
    const content = readFileSync(join(tokens, file));
    for (const length of content.keys()) {
      const torn = join(tokens, file, '..', `${newId()}`);
      writeFileSync(`${torn}.object`, content.subarray(0, length), { mode: 0o600 });
      writeFileSync(`${torn}.lock`, '', { mode: 0o600 });
    }
    assert.equal(await kept(), note);
    const next = await signed(211, 2);
    await keep(next);
    assert.equal(await kept(), next);
    await using heeding = await agentsOf(true);
    assert.equal(await refusal(heeding.agents, 210, 2), 211);
  });

  /** SIGKILL so many milliseconds after the first file of a new object is there. */
  async function killedWhileKeeping(note: string, later: number): Promise<void> {
    const ended = Promise.withResolvers<void>();
    const agent = new AgentProcess({
      starter: rig.starter,
      use: 'command',
      onOutput() {},
      onExit: () => ended.resolve(),
    });
    const before = new Set(objectFiles(environment));
    const request = { ...settings, note, despiteFailedTry: false };
    let answered = false;
    const answer = () => {
      answered = true;
    };
    agent.send({
      name: 'keepCheckpoint',
      encode: (requestId) => encodeRequest(requestId, 'keepCheckpoint', soon(), request),
      attempts: 0,
      startedAfter: 0,
      settle: answer,
      fail: answer,
    });
    const isNew = () => objectFiles(environment).some((name) => !before.has(name));
    while (!answered && !isNew()) await immediate();
    for (const until = monotonicNow() + later; monotonicNow() < until; );
    if (agent.pid !== undefined) process.kill(agent.pid, 'SIGKILL');
    await ended.promise;
  }

  test('is given a PIN that it has rejected once only, until the PIN file changes', async () => {
    const { pinFile } = environment.token;
    const pin = readFileSync(pinFile, 'utf8');
    let tries = 0;
    const tokens = await ServingTokens.prepare({
      store,
      environment: record,
      current: rig.starter,
      next: undefined,
      keyCacheSize: 4,
      heedsKeptCheckpoint: true,
      openPool: () => rig.agents(),
      identify: () => assert.fail('nothing to tell apart'),
      createKey: () => assert.fail('nothing to make'),
      keepCheckpoint: (given) => {
        tries += 1;
        return keepCheckpoint(given, rig.starter);
      },
      onMisplaced: (why) => assert.fail(why),
      log: { info() {}, warn() {}, error() {} },
    });
    const note = await signed(300, 2);
    writeFileSync(pinFile, 'not the PIN\n');
    await assert.rejects(tokens.keepCheckpoint(note), /does not accept the PIN/);
    await assert.rejects(tokens.keepCheckpoint(note), /has rejected the PIN/);
    assert.equal(tries, 1);
    writeFileSync(pinFile, pin);
    await tokens.keepCheckpoint(note);
    assert.equal(await kept(), note);
  });
});

describe('what is kept in the token', () => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const spki = publicKey.export({ format: 'der', type: 'spki' });
  const environmentId = newId<EnvironmentId>();
  const noteOf = (treeSize: number, generation = 1, key = spki) => {
    const claim = { environmentId, generation, treeSize, rootHash: Buffer.from(ROOT, 'base64') };
    return checkpointNote(
      claim,
      key,
      sign('sha256', Buffer.from(checkpointText(claim)), privateKey),
    );
  };

  function opened(keep: (note: string) => Promise<void>, periodMs = Number.POSITIVE_INFINITY) {
    const warnings: string[] = [];
    const log = { warn: (_: object, message: string) => warnings.push(message) };
    const agents = { call: () => assert.fail('nothing to ask') };
    return { warnings, checkpoint: new TokenCheckpoint({ agents, keep, periodMs, log }) };
  }

  test('is written first, then not before its time, and at the end', async () => {
    const written: string[] = [];
    const { checkpoint } = opened(async (note) => void written.push(note));
    const notes = [1, 2, 3].map((size) => noteOf(size));
    for (const note of notes) await checkpoint.write(note);
    await checkpoint.flush();
    assert.deepEqual(written, [notes[0], notes[2]]);
    await checkpoint.flush();
    assert.equal(written.length, 2);
    const eager = opened(async (note) => void written.push(note), 0).checkpoint;
    for (const note of notes) {
      await eager.write(note);
      await sleep(0);
    }
    assert.deepEqual(written.slice(2), notes);
  });

  test('is written at once for a log that was begun anew, and under another token’s key', async () => {
    const written: string[] = [];
    const { checkpoint } = opened(async (note) => void written.push(note));
    const notes = [noteOf(9), noteOf(5, 2), noteOf(6, 2, Buffer.alloc(91))];
    for (const note of notes) {
      await checkpoint.write(note);
      await sleep(0);
    }
    assert.deepEqual(written, notes);
  });

  test('holds up nothing when the token is slow or refuses, which is said', async () => {
    const refusing = opened(() => Promise.reject(new Error('CKR_DEVICE_MEMORY')));
    await refusing.checkpoint.write(noteOf(1));
    await refusing.checkpoint.flush();
    assert.deepEqual(
      new Set(refusing.warnings),
      new Set(['cannot keep the last checkpoint in the token']),
    );
    let calls = 0;
    const hanging = opened(() => {
      calls += 1;
      return new Promise(() => {});
    }, 0);
    await hanging.checkpoint.write(noteOf(1));
    await hanging.checkpoint.write(noteOf(2));
    assert.deepEqual(
      [calls, hanging.warnings],
      [1, ['cannot keep the checkpoint in the token: it is still keeping the one before']],
    );
  });
});

const encrypt = (client: KeywardClient, count: number) =>
  Promise.all(
    Array.from({ length: count }, () =>
      client.encrypt({ name: 'tenants/acme/keys/mail', plaintext: Buffer.from('x') }),
    ),
  );
const checkpointOver = (client: KeywardClient, size: number) =>
  eventually(async () => {
    const checkpoint = await client.getAuditCheckpoint();
    assert.ok(checkpoint.treeSize > size, `${checkpoint.treeSize}`);
    return checkpoint;
  });

for (const besides of drawHere([false, true]))
  test(`an older database is noticed by what the token keeps${besides ? ' and a file' : ' alone'}, by new processes too, until an operator has the log go on (seed ${SEED})`, async () => {
    await using environment = await newEnvironment();
    const file = pathToFileURL(join(environment.directory, 'checkpoint')).href;
    const variables = {
      KEYWARD_AUDIT_CHECKPOINT_MS: '250',
      KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: '600',
      ...(besides ? { KEYWARD_AUDIT_KEPT_CHECKPOINT: file } : {}),
    };
    const serving = async <T>(where: Environment, work: (client: KeywardClient) => Promise<T>) => {
      await using service = await startService(where, variables);
      return await work(service.client());
    };
    const keys = objectFiles(environment);
    const checkpointFiles = () => objectFiles(environment).filter((name) => !keys.includes(name));
    const first = await serving(environment, async (client) => {
      await client.createTenant({ tenantId: 'acme' });
      await client.createKey({ parent: 'tenants/acme', keyId: 'mail' });
      await encrypt(client, 20);
      return checkpointOver(client, 22);
    });
    await using backup = await backUp(environment);
    const earlier = checkpointFiles();
    await serving(environment, async (client) => {
      let { treeSize } = first;
      let files: string[] | undefined;
      for (let round = 0; round < 4; round++) {
        await encrypt(client, 5);
        ({ treeSize } = await checkpointOver(client, treeSize + 4));
        // Once by this process, and then not before its time.
        await eventually(() => {
          assert.equal(checkpointFiles().length, 1);
          assert.notDeepEqual(checkpointFiles(), earlier);
        });
        if (round === 1) files = checkpointFiles();
        if (round > 1)
          assert.deepEqual(checkpointFiles(), files, 'it is not written at every checkpoint');
      }
    });
    const ended = checkpointFiles();
    assert.equal(ended.length, 1);

    const restored = inDatabase(environment, backup.database);
    const resume = (where: Environment, given: Record<string, string> = variables) =>
      runCommand(where, ['audit', 'resume'], {
        MIGRATION_DATABASE_URL: where.urls.owner,
        ...given,
      });
    const unset = await resume(environment, {});
    assert.deepEqual([unset.code, /is set/.test(unset.output)], [1, true], unset.output);
    const needless = await resume(environment);
    assert.deepEqual(
      [needless.code, /nothing to do/.test(needless.output)],
      [1, true],
      needless.output,
    );
    const contradicted = async (service: Service) => {
      const { contradiction } = await service.logged(
        ({ alert }) => alert === 'audit-log-contradicted',
      );
      assert.match(
        String(contradiction),
        /^the log has \d+ leaves, but a checkpoint of \d+ was signed$/,
      );
      await encrypt(service.client(), 3);
      assert.ok((await service.client().getAuditCheckpoint()).treeSize <= first.treeSize + 2);
    };
    {
      await using service = await startService(restored, variables);
      await contradicted(service);
    }
    assert.deepEqual(checkpointFiles(), ended);
    {
      await using service = await startService(restored, variables);
      await contradicted(service);
      const resumed = await resume(restored);
      assert.equal(resumed.code, 0, resumed.output);
      const { note, environmentId } = await checkpointOver(service.client(), first.treeSize + 2);
      assert.ok(note.startsWith(`keyward/${environmentId}/2\n`), note);
      await eventually(() => {
        assert.equal(checkpointFiles().length, 1);
        assert.notDeepEqual(checkpointFiles(), ended);
      });
    }
    await serving(restored, (client) => checkpointOver(client, first.treeSize + 3));
  });
