/**
 * Case 88 at length: a million decryptions and readings of stored data keys while those are
 * re-wrapped, rotation after rotation, and key versions come under new root keys. Takes some three
 * minutes; the short of it is in `test/keyring/rewrap-under-way.test.ts`.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { KeywardClient } from 'keyward-client';
import { newEnvironment, startService } from '../support/kit.ts';
import { endOf, jobOf, newId, QUICK, storeDataKeys } from '../support/reconciling.ts';

const WANTED = 1_000_000;
const BATCH = 200;
const READERS = 6;
const PARENT = 'tenants/acme';
const PAYLOAD = Buffer.from('p');

/**
 * Decrypts in batches, and opens stored data keys, until so many were asked for; a failure of one
 * fails all.
 */
async function read(
  keyward: KeywardClient,
  name: string,
  plaintexts: ReadonlyMap<string, Buffer>,
): Promise<number> {
  const names = [...plaintexts.keys()];
  const { ciphertext } = await keyward.encrypt({ name, plaintext: PAYLOAD });
  let done = 0;
  const reader = async (_: unknown, index: number) => {
    for (let turn = index; done < WANTED; turn++) {
      const requests = Array.from({ length: BATCH }, () => ({ parent: PARENT, ciphertext }));
      for (const result of await keyward.batchDecrypt({ parent: PARENT, requests }))
        assert.deepEqual('response' in result ? result.response.plaintext : result.error, PAYLOAD);
      const wanted = names[turn % names.length] ?? '';
      assert.deepEqual(
        (await keyward.getDataKey({ name: wanted })).plaintext,
        plaintexts.get(wanted),
      );
      done += BATCH + 1;
    }
  };
  await Promise.all(Array.from({ length: READERS }, reader));
  return done;
}

test('case 88: of a million decryptions while everything is re-wrapped none fails', async (t) => {
  await using environment = await newEnvironment();
  await using service = await startService(environment, { ...QUICK, KEYWARD_HSM_AGENTS: '2' });
  const keyward = service.client();
  await keyward.createTenant({ tenantId: 'acme' });
  const { name } = await keyward.createKey({ parent: PARENT, keyId: newId('k') });
  const plaintexts = await storeDataKeys(keyward, name, 2_000);
  let ended = false;
  const reading = read(keyward, name, plaintexts).finally(() => {
    ended = true;
  });
  let rotations = 0;
  while (!ended) {
    await keyward.rotateKey({ name });
    assert.equal((await endOf(keyward, await jobOf(keyward, name))).state, 'SUCCEEDED');
    const { rewrapJob } = await keyward.rotateRootKey({ parent: 'tenants/system' });
    assert.equal((await endOf(keyward, rewrapJob)).state, 'SUCCEEDED');
    rotations += 1;
  }
  t.diagnostic(
    `${await reading} while ${rotations} rotations of the key, and of the root key, were re-wrapped`,
  );
  assert.ok(rotations > 1);
});
