/**
 * Root and seal keys on a token that misbehaves while they are made, or while key versions come
 * under them. All that may go wrong with the bytes is `test/long/hsm-faults.test.ts`'s.
 */
import assert from 'node:assert/strict';
import { readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { TokenKey } from 'keyward-client';
import { CKR } from '../faults/pkcs11.ts';
import { type FaultyService, PARENT, PLAINTEXT, startFaultyService } from '../faults/service.ts';
import { reasonOf } from '../support/kit.ts';
import { drawHere } from '../support/random.ts';
import { endOf, expireLeases, newId, QUICK, sql } from '../support/reconciling.ts';

const SYSTEM = 'tenants/system';
const uidOf = ({ name }: TokenKey) => name.split('/').at(-1);

describe('a token that misbehaves', () => {
  let faulty: FaultyService;
  before(async () => {
    faulty = await startFaultyService({ variables: QUICK });
  });
  after(() => faulty[Symbol.asyncDispose]());

  /** A few keys, each with a ciphertext. */
  async function someKeys() {
    const kept: { readonly name: string; readonly ciphertext: Buffer }[] = [];
    for (let index = 0; index < 5; index++) {
      const { name } = await faulty.keyward.createKey({ parent: PARENT, keyId: newId('k') });
      kept.push({
        name,
        ciphertext: (await faulty.keyward.encrypt({ name, plaintext: PLAINTEXT })).ciphertext,
      });
    }
    return kept;
  }

  async function newestRoot(): Promise<TokenKey | undefined> {
    const { tokenKeys } = await faulty.keyward.listTokenKeys({ parent: SYSTEM });
    return tokenKeys.find(({ role }) => role === 'ROOT');
  }

  /**
   * Replaces a key while the token fails once, so many PKCS#11 calls after the work is let go on.
   * Returns whether that met the work, and not what the service does besides.
   */
  async function replaceWith(
    fault: string,
    rotate: () => Promise<TokenKey>,
    failed: RegExp,
  ): Promise<{ readonly fresh: TokenKey; readonly isMet: boolean }> {
    await faulty.keyward.pauseMaintenance();
    const fresh = await rotate();
    assert.equal(fresh.state, 'CURRENT');
    const from = faulty.service.log.length;
    faulty.faults.set(`${fault} times 1`);
    await faulty.keyward.resumeMaintenance().catch(() => faulty.keyward.resumeMaintenance());
    const hasFailed = () =>
      faulty.service.log.slice(from).some(({ msg }) => failed.test(String(msg)));
    await Promise.race([
      faulty.service.logged(({ msg }) => failed.test(String(msg)), from),
      endOf(faulty.keyward, fresh.rewrapJob),
    ]);
    return { fresh, isMet: hasFailed() };
  }

  const versions = () =>
    sql(faulty.environment, 'SELECT key_id, seal FROM key_versions ORDER BY 1');

  async function assertDone(fresh: TokenKey, kept: Awaited<ReturnType<typeof someKeys>>) {
    await faulty.well();
    await expireLeases(faulty.environment);
    const job = await endOf(faulty.keyward, fresh.rewrapJob);
    assert.deepEqual([job.state, job.failed], ['SUCCEEDED', 0]);
    for (const { ciphertext } of kept)
      assert.deepEqual((await faulty.decrypt(ciphertext)).plaintext, PLAINTEXT);
    assert.ok(
      (await faulty.keyward.listKeys({ parent: PARENT })).keys.length > 0,
      'every state verifies',
    );
  }

  for (const fault of drawHere(['C_WrapKey flip', 'C_WrapKey shorten 8']))
    test(`case 71: what comes under a new root key with wrong bytes is not written, and is done once the token is well (${fault})`, async () => {
      const kept = await someKeys();
      const before = await versions();
      const rotate = () => faulty.keyward.rotateRootKey({ parent: SYSTEM });
      const { fresh, isMet } = await replaceWith(fault, rotate, /re-wrapping failed/);
      assert.ok(isMet);
      assert.equal(faulty.faults.met(), 1);
      assert.deepEqual(await versions(), before);
      await assertDone(fresh, kept);
    });

  test('case 71: what comes under a new seal key with wrong bytes is not written, and is done once the token is well', async () => {
    const kept = await someKeys();
    // Under a new seal key come the seals of all records and of key versions, at the same time.
    const failed = /(sealing again|re-wrapping) failed/;
    let met = 0;
    // Resuming maintenance signs as well, and what the service verifies by itself.
    for (let calls = 0; met < 2; calls++) {
      assert.ok(calls < 12, 'the token’s fault meets nothing');
      const fault = calls === 0 ? 'C_Sign flip' : `C_Sign flip after ${calls}`;
      const rotate = () => faulty.keyward.rotateSealKey();
      const { fresh, isMet } = await replaceWith(fault, rotate, failed);
      if (isMet) met += 1;
      await assertDone(fresh, kept);
    }
  });

  test('case 61: a root key that the token does not make is given up, and the next try makes one', async () => {
    const current = await newestRoot();
    faulty.faults.set(`C_GenerateKey return ${CKR.DEVICE_ERROR} times 1`);
    assert.equal(
      await reasonOf(faulty.keyward.rotateRootKey({ parent: SYSTEM })),
      'HSM_UNAVAILABLE',
    );
    assert.equal(faulty.faults.met(), 1);
    const abandoned = await newestRoot();
    assert.deepEqual([abandoned?.state, abandoned?.keyVersions], ['ABANDONED', 0]);
    await faulty.well();
    const fresh = await faulty.keyward.rotateRootKey({ parent: SYSTEM });
    assert.equal(fresh.state, 'CURRENT');
    assert.notEqual(uidOf(fresh), current && uidOf(current));
    await endOf(faulty.keyward, fresh.rewrapJob);
  });

  test('case 72: a root key that comes out with a right too many is given up, and nothing is ever under it', async () => {
    // CKA_EXTRACTABLE, as the making agent reads it back.
    faulty.faults.set('C_GetAttributeValue report 0x162 1');
    assert.equal(
      await reasonOf(faulty.keyward.rotateRootKey({ parent: SYSTEM })),
      'HSM_UNAVAILABLE',
    );
    faulty.faults.set();
    const abandoned = await newestRoot();
    assert.equal(abandoned?.state, 'ABANDONED');
    await faulty.well();
    await someKeys();
    assert.equal((await faulty.keyward.getTokenKey({ name: abandoned.name })).keyVersions, 0);
  });

  test('case 69: with the token’s directory gone no root key is made, and once it is back one is', async () => {
    const tokens = join(faulty.environment.token.confFile, '..', 'tokens');
    const objects = () =>
      readdirSync(tokens, { recursive: true, encoding: 'utf8' }).filter((name) =>
        name.endsWith('.object'),
      );
    const there = objects().length;
    renameSync(tokens, `${tokens}-away`);
    assert.equal(
      await reasonOf(faulty.keyward.rotateRootKey({ parent: SYSTEM })),
      'HSM_UNAVAILABLE',
    );
    renameSync(`${tokens}-away`, tokens);
    assert.equal(objects().length, there);
    await faulty.well();
    assert.equal((await newestRoot())?.state, 'ABANDONED');
    const fresh = await faulty.keyward.rotateRootKey({ parent: SYSTEM });
    assert.equal(fresh.state, 'CURRENT');
    assert.equal((await endOf(faulty.keyward, fresh.rewrapJob)).state, 'SUCCEEDED');
  });
});
