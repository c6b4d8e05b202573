/**
 * The agents' operations on many things at once, each item with a result of its own: batches of
 * callers, as epochs, and bringing stored data keys under another version; epochs that are kept
 * from one operation to the next; and letting go of what was unwrapped.
 *
 * Speaks to `HsmAgents` as the server does; `test/faults/pkcs11.c` counts what the token is asked
 * for, and has it err.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { createSoftHsmToken } from '../../softhsm/token.ts';
import { monotonicNow } from '../../src/call.ts';
import { type AgentStarter, childAgents } from '../../src/hsm/agent-starter.ts';
import { HsmAgents } from '../../src/hsm/agents.ts';
import { PURPOSE, parseHeader } from '../../src/hsm/ciphertext.ts';
import { encode } from '../../src/hsm/codec.ts';
import { ALGORITHM, type SealedKeyVersion, sealedKeyVersion } from '../../src/hsm/key-version.ts';
import { ITEM_OUTCOME, type RequestOf, type ServeSettings } from '../../src/hsm/protocol.ts';
import { initializeToken } from '../../src/hsm/token-commands.ts';
import {
  type AnyId,
  type EnvironmentId,
  idToBytes,
  type KeyId,
  newId,
  type RootKeyId,
  type SealKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { faultsFor, type Pkcs11Faults } from '../faults/pkcs11.ts';
import { NO_ALERTS } from '../support/alerts.ts';
import { testTokenVariables } from '../support/compiled.ts';
import { eventually } from '../support/kit.ts';

const { done, doesNotOpen, sourceCorrupt } = ITEM_OUTCOME;
type Item = RequestOf<'rewrap'>['items'][number];

/** A stored data key, and what it opens to. */
interface Stored {
  readonly item: Item;
  readonly plaintext: Buffer;
}

const tenantId = newId<TenantId>();
const keyId = newId<KeyId>();
const soon = () => monotonicNow() + 120_000;
const bytesOf = (version: SealedKeyVersion) => encode(sealedKeyVersion, version);
const flipped = (bytes: Buffer, offset: number) => {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(offset) ^ 0xff, offset);
  return copy;
};

let directory: string;
let faults: Pkcs11Faults;
let starter: AgentStarter;
let settings: Omit<ServeSettings, 'despiteFailedTry'>;
let agents: HsmAgents;
let first: SealedKeyVersion;
let second: SealedKeyVersion;
let third: SealedKeyVersion;
let ofAnotherKey: SealedKeyVersion;

before(async () => {
  const parent = process.env['KEYWARD_TEST_DIRECTORY'];
  assert.ok(parent);
  directory = mkdtempSync(join(parent, 'rewrap-'));
  const token = await createSoftHsmToken({ directory: join(directory, 'token'), label: 'rewrap' });
  faults = faultsFor(join(directory, 'faults'), testTokenVariables(token));
  const opening = {
    module: faults.variables['KEYWARD_HSM_MODULE'] ?? '',
    token: token.label,
    pinFile: token.pinFile,
    waivers: [],
  };
  starter = childAgents(opening, agentEnvironment());
  const environmentId = newId<EnvironmentId>();
  const made = await initializeToken({ environmentId }, starter);
  settings = { environmentId, ...made, keyCacheSize: 10 };
  agents = await start();
  [first, second, third] = [await create(1), await create(2), await create(3)];
  ofAnotherKey = await create(1, newId<KeyId>());
});

after(async () => {
  await agents?.stop();
  rmSync(directory, { recursive: true, force: true });
});

afterEach(() => faults.set());

function agentEnvironment(): Record<string, string> {
  const { variables } = faults;
  const names = (variables['KEYWARD_HSM_ENVIRONMENT'] ?? '').split(',');
  return Object.fromEntries(names.map((name) => [name, variables[name] ?? '']));
}

/** Agents that are all ready. */
async function start(
  changes: {
    readonly count?: number;
    readonly keyCacheSize?: number;
    readonly callTimeoutMs?: number;
  } = {},
): Promise<HsmAgents> {
  const { count = 1, keyCacheSize = settings.keyCacheSize, callTimeoutMs = 5_000 } = changes;
  const started = new HsmAgents({
    settings: { ...settings, keyCacheSize },
    count,
    callTimeoutMs,
    maxCalls: 1_000,
    maxBytes: 1 << 24,
    starter,
    log: { info() {}, warn() {}, error() {} },
    alerts: NO_ALERTS,
  });
  await started.start();
  await eventually(() => assert.equal(started.pids.length, count));
  return started;
}

function create(version: number, ofKey = keyId): Promise<SealedKeyVersion> {
  const objectId = <Id extends AnyId>(role: string) =>
    settings.objects.find((object) => object.role === role)?.objectId as Id;
  const objects = {
    rootKeyId: objectId<RootKeyId>('root'),
    sealKeyId: objectId<SealKeyId>('seal'),
  };
  const algorithm = ALGORITHM.hmacSha512Aes256Gcm;
  return agents.call(
    'createKeyVersion',
    { tenantId, keyId: ofKey, version, algorithm, ...objects },
    soon(),
  );
}

/** Issues a data key under the version; `source` says where that will be among the sources. */
async function store(
  version: SealedKeyVersion,
  source = 0,
  changes: { readonly length?: number; readonly purpose?: number } = {},
): Promise<Stored> {
  const { length = 32, purpose = PURPOSE.storedDataKey } = changes;
  const binding = { subject: randomBytes(16), contextDigest: randomBytes(32) };
  const { plaintext, ciphertext } = await agents.call(
    'issueDataKey',
    { keyVersion: bytesOf(version), purpose, ...binding, length, reveal: 1 },
    soon(),
  );
  return { item: { source, ...binding, ciphertext }, plaintext };
}

async function rewrap(
  items: readonly Item[],
  { target = third, sources = [first, second], by = agents } = {},
) {
  const request = {
    keyVersion: bytesOf(target),
    sourceKeyVersions: sources.map(bytesOf),
    items,
  };
  const { results } = await by.call('rewrap', request, soon());
  assert.equal(results.length, items.length);
  return results;
}

async function open(
  version: SealedKeyVersion,
  { subject, contextDigest, ciphertext }: Omit<Item, 'source'>,
) {
  const keyVersion = bytesOf(version);
  const request = { keyVersion, subject, contextDigest, ciphertext: Buffer.from(ciphertext) };
  return (await agents.call('open', request, soon())).plaintext;
}

describe('re-wrapping', () => {
  test('brings data keys of several versions under one, and they stay what they were', async () => {
    const stored = [
      await store(first, 0),
      await store(second, 1),
      await store(first, 0, { length: 16 }),
      await store(second, 1, { length: 64 }),
    ];
    const results = await rewrap(stored.map(({ item }) => item));
    for (const [index, { outcome, ciphertext }] of results.entries()) {
      const { item, plaintext } = stored[index] as Stored;
      assert.equal(outcome, done);
      const header = parseHeader(ciphertext, [PURPOSE.storedDataKey]);
      assert.deepEqual(
        [header.keyId, header.version, header.purpose],
        [keyId, 3, PURPOSE.storedDataKey],
      );
      assert.equal(ciphertext.length, item.ciphertext.length);
      assert.deepEqual(await open(third, { ...item, ciphertext }), plaintext);
      await assert.rejects(open(third, { ...item, subject: randomBytes(16), ciphertext }), {
        reason: 'DECRYPTION_FAILED',
      });
      await assert.rejects(open(third, { ...item, contextDigest: randomBytes(32), ciphertext }), {
        reason: 'DECRYPTION_FAILED',
      });
    }
  });

  test('case 90: names each item that does not open, and does the others', async () => {
    const well = await Promise.all([store(first), store(first), store(first)]);
    const { item } = await store(first);
    const payload = await store(first, 0, { purpose: PURPOSE.dataKey });
    const spoiled: Item[] = [
      ...[0, 1, 2, 3, 4, 23, 24, 56, 68, 100, item.ciphertext.length - 1].map((offset) => ({
        ...item,
        ciphertext: flipped(item.ciphertext, offset),
      })),
      { ...item, ciphertext: item.ciphertext.subarray(0, -1) },
      { ...item, ciphertext: Buffer.alloc(0) },
      { ...item, subject: randomBytes(16) },
      { ...item, contextDigest: randomBytes(32) },
      { ...item, source: 1 },
      payload.item,
    ];
    const items = [well[0], ...spoiled, well[1], well[2]].map((each) =>
      each !== undefined && 'plaintext' in each ? each.item : (each as Item),
    );
    const results = await rewrap(items);
    const outcomes = results.map(({ outcome }) => outcome);
    assert.deepEqual(outcomes, [done, ...spoiled.map(() => doesNotOpen), done, done]);
    for (const { outcome, ciphertext } of results)
      assert.equal(ciphertext.length > 0, outcome === done, 'nothing is handed out of what failed');
  });

  test('case 36: names the items whose version’s row is corrupt, and does the others', async () => {
    const [one, two] = [await store(first, 0), await store(second, 1)];
    for (const change of [
      { seal: flipped(first.seal, 0) },
      { wrapped: flipped(first.wrapped, 0) },
      { checkValue: flipped(first.checkValue, 0) },
      { tenantId: newId<TenantId>() },
      { sealKeyId: newId<SealKeyId>() },
    ]) {
      const sources = [{ ...first, ...change }, second];
      const results = await rewrap([one.item, two.item, one.item], { sources });
      assert.deepEqual(
        results.map(({ outcome }) => outcome),
        [sourceCorrupt, done, sourceCorrupt],
      );
    }
  });

  test('is not done at all under a version whose row is corrupt, nor from one that is not given', async () => {
    const { item } = await store(first);
    const target = { ...third, seal: flipped(third.seal, 0) };
    await assert.rejects(rewrap([item], { target }), { reason: 'STORED_ROW_CORRUPT' });
    await assert.rejects(rewrap([{ ...item, source: 2 }]), { reason: 'INTERNAL' });
    assert.deepEqual(await rewrap([]), []);
  });

  test('what is under another key’s version is not taken for this one’s', async () => {
    const { item } = await store(ofAnotherKey);
    assert.deepEqual(await rewrap([item]), [{ outcome: doesNotOpen, ciphertext: Buffer.alloc(0) }]);
    await assert.rejects(rewrap([item], { sources: [ofAnotherKey] }), { reason: 'INTERNAL' });
  });

  test('more versions than an agent keeps unwrapped are no hindrance', async () => {
    const narrow = await start({ keyCacheSize: 1 });
    try {
      const stored = [await store(first, 0), await store(second, 1), await store(first, 0)];
      const results = await rewrap(
        stored.map(({ item }) => item),
        { by: narrow },
      );
      for (const [index, { outcome, ciphertext }] of results.entries()) {
        const { item, plaintext } = stored[index] as Stored;
        assert.equal(outcome, done);
        assert.deepEqual(await open(third, { ...item, ciphertext }), plaintext);
      }
    } finally {
      await narrow.stop();
    }
  });

  test('case 71: a token that errs is to blame, not the data key: at each of the three times that it is asked', async () => {
    const { item } = await store(first);
    await rewrap([item]);
    for (let asked = 0; asked < 3; asked++) {
      faults.set(`C_Sign flip after ${asked} times 1`);
      // The agent is replaced, and the next one's token is well.
      const outcome = await rewrap([item]).then(
        ([result]) => result?.outcome,
        ({ reason }) => reason,
      );
      assert.equal(faults.met(), 1);
      assert.ok(outcome === done || outcome === 'HSM_UNAVAILABLE', `${asked}: ${outcome}`);
      faults.set();
      await eventually(async () => assert.equal((await rewrap([item]))[0]?.outcome, done));
    }
  });
});

describe('a batch', () => {
  const contexts = Array.from({ length: 20 }, (_, index) => Buffer.alloc(32, index % 3));
  const plaintexts = contexts.map((_, index) => Buffer.from(`item ${index}`));
  const sealAll = async (version = first) => {
    const items = contexts.map((contextDigest, index) => ({
      contextDigest,
      plaintext: Buffer.from(plaintexts[index] as Buffer),
    }));
    const request = { keyVersion: bytesOf(version), items };
    return (await agents.call('sealAll', request, soon())).ciphertexts;
  };
  const openAll = async (version: SealedKeyVersion, ciphertexts: readonly Buffer[]) => {
    const items = ciphertexts.map((ciphertext, index) => ({
      contextDigest: contexts[index] as Buffer,
      ciphertext: Buffer.from(ciphertext),
    }));
    const request = { keyVersion: bytesOf(version), items };
    const { results } = await agents.call('openAll', request, soon());
    return results.map(({ outcome, plaintext }) => (outcome === done ? `${plaintext}` : outcome));
  };
  const texts = plaintexts.map(String);

  test('is sealed for two HMACs of the token, which must be the same, and opened for one', async () => {
    await openAll(first, await sealAll());
    faults.set('C_Sign');
    const ciphertexts = await sealAll();
    assert.equal(faults.met(), 2);
    assert.deepEqual(await openAll(first, ciphertexts), texts);
    assert.equal(faults.met(), 3);
  });

  test('of which nothing opens asks the token once more, for the epoch and not for each item', async () => {
    const ciphertexts = (await sealAll()).map((each) => flipped(each, each.length - 1));
    faults.set('C_Sign');
    assert.deepEqual(
      await openAll(first, ciphertexts),
      ciphertexts.map(() => doesNotOpen),
    );
    assert.equal(faults.met(), 2);
  });

  test('opens one by one, and what was sealed one by one opens in a batch, beside those of epochs', async () => {
    const ciphertexts = await sealAll();
    const subject = Buffer.alloc(16);
    const alone: Buffer[] = [];
    for (const [index, contextDigest] of contexts.entries()) {
      const ciphertext = ciphertexts[index] as Buffer;
      const plaintext = plaintexts[index] as Buffer;
      assert.deepEqual(await open(first, { subject, contextDigest, ciphertext }), plaintext);
      const { ciphertext: single } = await agents.call(
        'seal',
        {
          keyVersion: bytesOf(first),
          purpose: PURPOSE.payload,
          subject,
          contextDigest,
          plaintext: Buffer.from(plaintext),
        },
        soon(),
      );
      alone.push(single);
    }
    const more = await sealAll();
    const mixed = [ciphertexts, alone, more];
    const chosen = contexts.map((_, index) => mixed[index % 3]?.[index] as Buffer);
    assert.deepEqual(await openAll(first, chosen), texts);
  });

  test('names each item that does not open, and does the others', async () => {
    const ciphertexts = await sealAll();
    const ofOthers = await sealAll(second);
    const wrong: Record<number, Buffer> = {
      0: flipped(ciphertexts[0] as Buffer, 24),
      3: flipped(ciphertexts[3] as Buffer, 67),
      5: ciphertexts[6] as Buffer,
      8: ofOthers[8] as Buffer,
      9: Buffer.alloc(0),
      11: flipped(ciphertexts[11] as Buffer, 1),
    };
    const results = await openAll(
      first,
      ciphertexts.map((each, index) => wrong[index] ?? each),
    );
    assert.deepEqual(
      results,
      texts.map((text, index) => (index in wrong ? doesNotOpen : text)),
    );
  });

  test('is brought under another version and other contexts, item by item, for its purpose', async () => {
    const ciphertexts = [...(await sealAll())];
    const { dataKeys } = await agents.call(
      'issueDataKeys',
      {
        keyVersion: bytesOf(first),
        items: [16, 32, 64].map((length) => ({ contextDigest: contexts[0] as Buffer, length })),
      },
      soon(),
    );
    assert.deepEqual(
      dataKeys.map(({ plaintext }) => plaintext.length),
      [16, 32, 64],
    );
    const [, dataKey] = dataKeys;
    ciphertexts[0] = Buffer.from(dataKey?.ciphertext ?? '');
    ciphertexts[4] = flipped(ciphertexts[4] as Buffer, 100);
    const { results } = await agents.call(
      'resealAll',
      {
        sourceKeyVersion: bytesOf(first),
        keyVersion: bytesOf(ofAnotherKey),
        items: ciphertexts.map((ciphertext, index) => ({
          sourceContextDigest: contexts[index] as Buffer,
          contextDigest: contexts[0] as Buffer,
          ciphertext,
        })),
      },
      soon(),
    );
    for (const [index, { outcome, ciphertext }] of results.entries()) {
      assert.equal(outcome, index === 4 ? doesNotOpen : done);
      if (outcome !== done) continue;
      const purpose = index === 0 ? PURPOSE.dataKey : PURPOSE.payload;
      assert.equal(parseHeader(ciphertext, [purpose]).keyId, ofAnotherKey.keyId);
      const bound = { subject: Buffer.alloc(16), contextDigest: contexts[0] as Buffer, ciphertext };
      const expected = index === 0 ? dataKey?.plaintext : plaintexts[index];
      assert.deepEqual(await open(ofAnotherKey, bound), expected);
    }
  });

  test('case 71: is not sealed by a token that errs, and one that errs is to blame for what does not open', async () => {
    const ciphertexts = await sealAll();
    for (const asked of [0, 1]) {
      faults.set(`C_Sign flip after ${asked} times 1`);
      await assert.rejects(sealAll(), { reason: 'HSM_UNAVAILABLE' });
      assert.equal(faults.met(), 1);
      faults.set();
      await eventually(async () => void (await sealAll()));
    }
    faults.set('C_Sign flip times 1');
    await assert.rejects(openAll(first, ciphertexts), { reason: 'HSM_UNAVAILABLE' });
    faults.set();
    await eventually(async () => assert.deepEqual(await openAll(first, ciphertexts), texts));
  });

  test('case 36: under a version whose row is corrupt is refused as a whole', async () => {
    const corrupt = { ...first, seal: flipped(first.seal, 0) };
    await assert.rejects(sealAll(corrupt), { reason: 'STORED_ROW_CORRUPT' });
    await assert.rejects(openAll(corrupt, await sealAll()), { reason: 'STORED_ROW_CORRUPT' });
  });
});

describe('an epoch that is kept', () => {
  const contextDigest = Buffer.alloc(32, 5);
  const binding = { subject: Buffer.alloc(16), contextDigest };
  const epoch = { maxMessages: 10, maxAgeSeconds: 3_600 };
  type Kept = { readonly epoch?: typeof epoch | undefined; readonly by?: HsmAgents };
  const sealOne = async (text: string, version = first, { by = agents, ...bounds }: Kept = {}) => {
    const plaintext = Buffer.from(text);
    const request = {
      keyVersion: bytesOf(version),
      purpose: PURPOSE.payload,
      ...binding,
      plaintext,
    };
    return (await by.call('seal', { ...request, epoch, ...bounds }, soon())).ciphertext;
  };
  const openOne = async (given: Buffer, version = first, { by = agents, ...bounds }: Kept = {}) => {
    const ciphertext = Buffer.from(given);
    const request = { keyVersion: bytesOf(version), ...binding, ciphertext };
    return `${(await by.call('open', { ...request, epoch, ...bounds }, soon())).plaintext}`;
  };
  const saltOf = (ciphertext: Buffer) => ciphertext.toString('hex', 24, 56);
  const suiteOf = (ciphertext: Buffer) => ciphertext[1];
  const forget = (id: Buffer) => agents.call('forgetEpochs', { ofId: id }, soon());
  const forgotten = async () => {
    await forget(Buffer.alloc(0));
    // Unwraps the version where that has not been done.
    await openOne(await sealOne('', first, { epoch: undefined }), first);
  };

  test('is sealed in for two HMACs of the token, and opened in for none, or one by another agent', async () => {
    await forgotten();
    faults.set('C_Sign');
    const ciphertexts = [];
    for (const text of ['one', 'two', 'three']) ciphertexts.push(await sealOne(text));
    assert.equal(faults.met(), 2);
    assert.deepEqual([...new Set(ciphertexts.map(suiteOf))], [2]);
    assert.equal(new Set(ciphertexts.map(saltOf)).size, 1);
    assert.equal(new Set(ciphertexts.map((each) => each.toString('hex', 56, 68))).size, 3);
    for (const [index, text] of ['one', 'two', 'three'].entries())
      assert.equal(await openOne(ciphertexts[index] as Buffer), text);
    assert.equal(faults.met(), 2);
    const other = await start();
    try {
      await openOne(await sealOne('x', first, { by: other }), first, { by: other });
      faults.set('C_Sign');
      for (const [index, text] of ['one', 'two', 'three'].entries())
        assert.equal(await openOne(ciphertexts[index] as Buffer, first, { by: other }), text);
      assert.equal(faults.met(), 1);
    } finally {
      await other.stop();
    }
  });

  test('ends with its last message, sealed or opened', async () => {
    await forgotten();
    const salts = [];
    const [ciphertext = Buffer.alloc(0)] = [await sealOne('one')];
    for (let number = 2; number <= 5; number++) salts.push(saltOf(await sealOne('more')));
    for (let number = 6; number <= 10; number++) assert.equal(await openOne(ciphertext), 'one');
    assert.deepEqual([...new Set(salts)], [saltOf(ciphertext)]);
    faults.set('C_Sign');
    assert.equal(await openOne(ciphertext), 'one');
    assert.equal(faults.met(), 1, 'derived to open it, which does not seal');
    const next = await sealOne('next');
    assert.equal(faults.met(), 3);
    assert.notEqual(saltOf(next), saltOf(ciphertext));
  });

  test('by bounds of one message is each message’s own', async () => {
    const bounds = { epoch: { maxMessages: 1, maxAgeSeconds: 3_600 } };
    const ciphertexts = [await sealOne('a', first, bounds), await sealOne('b', first, bounds)];
    assert.equal(new Set(ciphertexts.map(saltOf)).size, 2);
    faults.set('C_Sign');
    assert.equal(await openOne(ciphertexts[0] as Buffer, first, bounds), 'a');
    assert.equal(await openOne(ciphertexts[0] as Buffer, first, bounds), 'a');
    assert.equal(faults.met(), 2);
  });

  test('is of one version, and what is sealed without bounds is in none', async () => {
    await forgotten();
    const [one, two, plain] = [
      await sealOne('x', first),
      await sealOne('x', second),
      await sealOne('x', first, { epoch: undefined }),
    ];
    assert.deepEqual([one, two, plain].map(suiteOf), [2, 2, 1]);
    assert.equal(new Set([one, two, plain].map(saltOf)).size, 3);
    await assert.rejects(openOne(one, second), { reason: 'DECRYPTION_FAILED' });
    assert.equal(await openOne(one, first, { epoch: undefined }), 'x');
  });

  test('is forgotten with its key’s, and no other key’s is', async () => {
    await forgotten();
    const [mine, others] = [await sealOne('x', first), await sealOne('x', ofAnotherKey)];
    await forget(idToBytes(keyId));
    faults.set('C_Sign');
    assert.equal(await openOne(others, ofAnotherKey), 'x');
    assert.equal(saltOf(await sealOne('x', ofAnotherKey)), saltOf(others));
    assert.equal(faults.met(), 0);
    assert.notEqual(saltOf(await sealOne('x', first)), saltOf(mine));
    assert.equal(await openOne(mine), 'x');
    assert.equal(faults.met(), 3);
    await agents.forget(ofAnotherKey.keyId);
    const next = await sealOne('x', ofAnotherKey);
    assert.notEqual(saltOf(next), saltOf(others));
    await forget(idToBytes(newId<TenantId>()));
    assert.equal(saltOf(await sealOne('x', ofAnotherKey)), saltOf(next));
    await forget(idToBytes(tenantId));
    assert.notEqual(saltOf(await sealOne('x', ofAnotherKey)), saltOf(next));
  });

  test('issues data keys and takes what is re-encrypted, whose plaintexts are not shown', async () => {
    await forgotten();
    const issue = { purpose: PURPOSE.dataKey, ...binding, length: 32, reveal: 1 };
    const { plaintext, ciphertext } = await agents.call(
      'issueDataKey',
      { keyVersion: bytesOf(first), ...issue, epoch },
      soon(),
    );
    const resealed = await agents.call(
      'reseal',
      {
        sourceKeyVersion: bytesOf(first),
        sourceSubject: binding.subject,
        sourceContextDigest: contextDigest,
        ciphertext: Buffer.from(ciphertext),
        sourceEpoch: epoch,
        keyVersion: bytesOf(second),
        ...binding,
        epoch,
      },
      soon(),
    );
    assert.deepEqual([ciphertext, resealed.ciphertext].map(suiteOf), [2, 2]);
    for (const [version, sealed] of [
      [first, ciphertext],
      [second, resealed.ciphertext],
    ] as const)
      assert.deepEqual(await open(version, { ...binding, ciphertext: sealed }), plaintext);
  });

  test('case 71: is not begun by a token that errs, and one that errs is to blame for what does not open', async () => {
    for (const asked of [0, 1]) {
      await forgotten();
      faults.set(`C_Sign flip after ${asked} times 1`);
      const ciphertext = await sealOne('x').catch(() => undefined);
      assert.equal(faults.met(), 1);
      faults.set();
      if (ciphertext !== undefined) assert.equal(await openOne(ciphertext), 'x');
      await eventually(async () => assert.equal(await openOne(await sealOne('x')), 'x'));
    }
    const ciphertext = await sealOne('x');
    await forgotten();
    faults.set('C_Sign flip times 1');
    // The agent is replaced, and the next one's token is well.
    const opened = await openOne(ciphertext).catch(({ reason }) => reason);
    assert.ok(opened === 'x' || opened === 'HSM_UNAVAILABLE', opened);
    faults.set();
    await eventually(async () => assert.equal(await openOne(ciphertext), 'x'));
  });

  test('what does not open in it is asked of the token once more, and leaves it as it was', async () => {
    await forgotten();
    const ciphertext = await sealOne('x');
    faults.set('C_Sign');
    for (const offset of [56, 68, 100, ciphertext.length - 1])
      await assert.rejects(openOne(flipped(ciphertext, offset)), { reason: 'DECRYPTION_FAILED' });
    assert.equal(faults.met(), 4);
    assert.equal(await openOne(ciphertext), 'x');
    assert.equal(faults.met(), 4);
    // Of a salt that there is not, nothing is kept.
    for (let time = 1; time <= 2; time++)
      await assert.rejects(openOne(flipped(ciphertext, 24)), { reason: 'DECRYPTION_FAILED' });
    assert.equal(faults.met(), 8);
  });

  test('ends with its agent, whose ciphertexts open by the next', async () => {
    const alone = await start();
    try {
      const ciphertext = await sealOne('x', first, { by: alone });
      const [pid = 0] = alone.pids;
      process.kill(pid, 'SIGKILL');
      await eventually(() => assert.ok(alone.pids.length === 1 && alone.pids[0] !== pid));
      assert.equal(await openOne(ciphertext, first, { by: alone }), 'x');
      const next = await sealOne('x', first, { by: alone });
      assert.notEqual(saltOf(next), saltOf(ciphertext));
    } finally {
      await alone.stop();
    }
  });
});

describe('forgetting', () => {
  const use = (version: SealedKeyVersion, by = agents) =>
    by.call(
      'issueDataKey',
      {
        keyVersion: bytesOf(version),
        purpose: PURPOSE.dataKey,
        subject: Buffer.alloc(16),
        contextDigest: Buffer.alloc(32),
        length: 32,
        reveal: 0,
      },
      soon(),
    );

  test('a key destroys the handles of its versions, and of no other key’s', async () => {
    for (const version of [first, second, ofAnotherKey]) await use(version);
    await agents.forget(newId<KeyId>());
    faults.set('C_UnwrapKey', 'C_DestroyObject');
    for (const version of [first, second, ofAnotherKey]) await use(version);
    assert.deepEqual([faults.met(0), faults.met(1)], [0, 0], 'all are there');
    await agents.forget(ofAnotherKey.keyId);
    assert.equal(faults.met(1), 1);
    for (const version of [first, second]) await use(version);
    assert.equal(faults.met(0), 0);
    await use(ofAnotherKey);
    assert.equal(faults.met(0), 1, 'unwrapped anew');
    await use(ofAnotherKey);
    assert.equal(faults.met(0), 1);
  });

  test('a tenant destroys the handles of all its keys, and of no other tenant’s', async () => {
    for (const version of [first, second, ofAnotherKey]) await use(version);
    await agents.forget(newId<TenantId>());
    faults.set('C_UnwrapKey', 'C_DestroyObject');
    for (const version of [first, second, ofAnotherKey]) await use(version);
    assert.deepEqual([faults.met(0), faults.met(1)], [0, 0], 'all are there');
    await agents.forget(tenantId);
    assert.equal(faults.met(1), 3);
  });

  test('all keys destroys every handle, and what was sealed still opens', async () => {
    const { item, plaintext } = await store(first);
    for (const version of [first, second, ofAnotherKey]) await use(version);
    await agents.forget();
    faults.set('C_UnwrapKey', 'C_DestroyObject');
    await agents.forget();
    assert.equal(faults.met(1), 0, 'nothing is left to destroy');
    assert.deepEqual(await open(first, item), plaintext);
    await use(second);
    assert.equal(faults.met(0), 2);
  });

  test('is done by every agent, and one that is dead holds nobody up', async () => {
    const pair = await start({ count: 2 });
    try {
      await Promise.all(Array.from({ length: 40 }, () => use(first, pair)));
      faults.set('C_DestroyObject');
      await pair.forget(first.keyId);
      assert.equal(faults.met(), 2);
      const [pid = 0] = pair.pids;
      process.kill(pid, 'SIGKILL');
      await pair.forget(first.keyId);
      await use(first, pair);
    } finally {
      await pair.stop();
    }
  });

  test('an agent that fails at it is replaced, and its handles are gone with it', async () => {
    const alone = await start();
    try {
      await use(first, alone);
      const [pid] = alone.pids;
      faults.set('C_DestroyObject return 0x30 times 1', 'C_UnwrapKey');
      await alone.forget(first.keyId);
      await eventually(() => assert.ok(alone.pids.length === 1 && alone.pids[0] !== pid));
      await use(first, alone);
      assert.equal(faults.met(1), 1);
    } finally {
      await alone.stop();
    }
  });

  test('an agent that hangs at it is killed for that', async () => {
    const alone = await start({ callTimeoutMs: 500 });
    try {
      await use(first, alone);
      const [pid] = alone.pids;
      faults.set('C_DestroyObject hang times 1');
      await alone.forget(first.keyId);
      faults.set();
      await eventually(() => assert.ok(alone.pids.length === 1 && alone.pids[0] !== pid));
      await use(first, alone);
    } finally {
      await alone.stop();
    }
  });
});
