/**
 * Derivation epochs over the wire: off unless a key says so; then single calls share an epoch
 * within its bounds, in each agent; and nothing of it is kept once the key, a version or the tenant
 * was changed, or the setting itself.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { connect, type KeywardClient } from 'keyward-client';
import { scrape } from '../measures/scrape.ts';
import { eventually, failureOf, reasonOf, sharedService } from '../support/kit.ts';
import { newId, sql } from '../support/reconciling.ts';

let keyward: KeywardClient;
const shared = sharedService(
  async (client) => {
    keyward = client;
  },
  { KEYWARD_HSM_AGENTS: '1', KEYWARD_METRICS_LISTEN: '127.0.0.1:0' },
);

const plaintext = Buffer.from('p');
const saltOf = (ciphertext: Buffer) => ciphertext.toString('hex', 24, 56);
const suiteOf = (ciphertext: Buffer) => ciphertext[1];

/** Of epochs that are soon gone: others count how many there are. */
const SHORT = { epochMaxMessages: 1_000, epochMaxAgeSeconds: 3 };

/** A key of a tenant of its own, with epochs unless it is to have none. */
async function newKey(bounds: object = SHORT) {
  const tenantId = newId('t');
  const parent = `tenants/${tenantId}`;
  await keyward.createTenant({ tenantId });
  const { name } = await keyward.createKey({ parent, keyId: 'k', ...bounds });
  const encrypt = async () => (await keyward.encrypt({ name, plaintext })).ciphertext;
  const decrypt = async (ciphertext: Buffer) =>
    `${(await keyward.decrypt({ parent, ciphertext })).plaintext}`;
  return { parent, name, encrypt, decrypt };
}

/** How many keys of epochs the agent keeps, once it is so many. */
const kept = (count: number) => eventually(() => countKept(count));

async function countKept(count: number): Promise<void> {
  const now = await scrape(shared.service.operatorsPort);
  assert.equal(now.sum('keyward_hsm_epochs_kept'), count);
}

describe('derivation epochs', () => {
  test('are off unless a key has them, and are shown, changed and taken away', async () => {
    const { name, encrypt } = await newKey({});
    const boundsOf = async () => {
      const { epochMaxMessages, epochMaxAgeSeconds } = await keyward.getKey({ name });
      return [epochMaxMessages, epochMaxAgeSeconds];
    };
    assert.deepEqual(await boundsOf(), [0, undefined]);
    assert.equal(suiteOf(await encrypt()), 1);
    const update = (bounds: { epochMaxMessages?: number; epochMaxAgeSeconds?: number | null }) =>
      keyward.updateKey({ key: { name, ...bounds } });
    const alone = update({ epochMaxAgeSeconds: 60 });
    assert.equal(await reasonOf(alone), 'INVALID_FIELD', 'an age of no epochs');
    await update({ epochMaxMessages: 500 });
    assert.deepEqual(await boundsOf(), [500, 300]);
    assert.equal(suiteOf(await encrypt()), 2);
    await update({ epochMaxAgeSeconds: 60 });
    assert.deepEqual(await boundsOf(), [500, 60]);
    await update({ epochMaxMessages: 400 });
    assert.deepEqual(await boundsOf(), [400, 60]);
    await keyward.updateKey({ key: { name, description: 'changed' } });
    assert.deepEqual(await boundsOf(), [400, 60], 'which stay as they are');
    await update({ epochMaxMessages: 0 });
    assert.deepEqual(await boundsOf(), [0, undefined]);
    assert.equal(suiteOf(await encrypt()), 1);
    const entries = await sql<{ after: string }>(
      shared.environment,
      `SELECT entry -> 'change' -> 'after' ->> 'epochMaxMessages' AS after FROM audit_entries
       WHERE method LIKE '%/UpdateKey' AND resource = $1 AND outcome = 'OK' ORDER BY 1`,
      [name],
    );
    const said = entries.map(({ after }) => after).sort();
    assert.deepEqual(said, ['400', '400', '500', '500', null], 'and the log says so');
  });

  test('have bounds that are refused where they are none', async () => {
    for (const [field, bounds] of [
      ['epoch_max_messages', { epochMaxMessages: -1 }],
      ['epoch_max_messages', { epochMaxMessages: 100_001 }],
      ['epoch_max_age', { epochMaxMessages: 1, epochMaxAgeSeconds: 0 }],
      ['epoch_max_age', { epochMaxMessages: 1, epochMaxAgeSeconds: 3_601 }],
      ['epoch_max_age', { epochMaxAgeSeconds: 60 }],
    ] as const) {
      const error = await failureOf(newKey(bounds));
      assert.deepEqual([error.reason, error.fieldViolations[0]?.field], ['INVALID_FIELD', field]);
    }
    await newKey({ epochMaxMessages: 100_000, epochMaxAgeSeconds: 3_600 });
    await newKey({ epochMaxMessages: 1, epochMaxAgeSeconds: 1 });
  });

  test('are shared by single calls, data keys and what is re-encrypted, and by no canary', async () => {
    const { name, encrypt, decrypt } = await newKey();
    // That the key was created, agents may hear only now, and forget.
    const { first, moved } = await eventually(async () => {
      const ciphertexts = [await encrypt(), await encrypt()] as const;
      const { wrappedDataKey } = await keyward.generateDataKey({ name });
      const [first] = ciphertexts;
      const moved = (await keyward.reEncrypt({ name, ciphertext: first })).ciphertext;
      const all = [...ciphertexts, wrappedDataKey, moved];
      assert.equal(new Set(all.map(saltOf)).size, 1);
      assert.equal(new Set(all.map((each) => each.toString('hex', 56, 68))).size, 4);
      return { first, moved };
    });
    for (const each of [first, moved]) assert.equal(await decrypt(each), 'p');
    // By its salt a canary is recognised: one that others had would make canaries of them.
    const request = { parent: name, canaryId: 'c', kind: 'CIPHERTEXT' } as const;
    const { ciphertext: canary } = await keyward.createCanary(request);
    assert.equal(suiteOf(canary), 1);
    assert.equal(await reasonOf(decrypt(canary)), 'DECRYPTION_FAILED');
    assert.equal(await decrypt(first), 'p');
  });

  test('end with their last message', async () => {
    const { encrypt, decrypt } = await newKey({ ...SHORT, epochMaxMessages: 3 });
    const ciphertexts: Buffer[] = [];
    for (let count = 0; count < 7; count++) ciphertexts.push(await encrypt());
    const counts = [...Map.groupBy(ciphertexts, saltOf).values()].map(({ length }) => length);
    assert.ok(
      counts.every((count) => count <= 3),
      `${counts}`,
    );
    for (const each of ciphertexts) assert.equal(await decrypt(each), 'p');
  });

  test('end with their age, used or not', async () => {
    const { encrypt, decrypt } = await newKey({ epochMaxMessages: 9, epochMaxAgeSeconds: 1 });
    const ciphertext = await encrypt();
    await kept(0);
    assert.notEqual(saltOf(await encrypt()), saltOf(ciphertext));
    assert.equal(await decrypt(ciphertext), 'p');
  });

  const ends = {
    'its key is disabled': {
      end: ({ name }) => keyward.disableKey({ name }),
      undo: ({ name }) => keyward.enableKey({ name }),
      while: 'KEY_NOT_ENABLED',
    },
    'its version is disabled': {
      end: ({ name }) => keyward.disableKeyVersion({ name: `${name}/versions/1` }),
      undo: ({ name }) => keyward.enableKeyVersion({ name: `${name}/versions/1` }),
      while: 'KEY_VERSION_NOT_ENABLED',
    },
    'its tenant is disabled': {
      end: ({ parent }) => keyward.disableTenant({ name: parent }),
      undo: ({ parent }) => keyward.enableTenant({ name: parent }),
      while: 'TENANT_DISABLED',
    },
    'its key has epochs no longer': {
      end: ({ name }) => keyward.updateKey({ key: { name, epochMaxMessages: 0 } }),
      undo: ({ name }) => keyward.updateKey({ key: { name, epochMaxMessages: 9 } }),
      while: undefined,
    },
    'its key is to be destroyed': {
      end: async ({ name }) => {
        const { key } = await keyward.scheduleKeyDestruction({ name, validateOnly: true });
        await keyward.scheduleKeyDestruction({ name, etag: key.etag });
      },
      undo: async ({ name }) => {
        await keyward.restoreKey({ name });
        await keyward.enableKey({ name });
      },
      while: 'KEY_NOT_ENABLED',
    },
  } satisfies Record<
    string,
    {
      readonly end: (key: Awaited<ReturnType<typeof newKey>>) => Promise<unknown>;
      readonly undo: (key: Awaited<ReturnType<typeof newKey>>) => Promise<unknown>;
      readonly while: string | undefined;
    }
  >;
  for (const [what, { end, undo, while: reason }] of Object.entries(ends)) {
    test(`are kept no longer once ${what}`, async () => {
      const key = await newKey({ epochMaxMessages: 100_000, epochMaxAgeSeconds: 3_600 });
      await kept(0);
      const ciphertext = await eventually(async () => {
        const sealed = await key.encrypt();
        // As above.
        await countKept(1);
        return sealed;
      });
      await end(key);
      await kept(0);
      if (reason !== undefined) {
        assert.equal(await reasonOf(key.encrypt()), reason);
        assert.equal(await reasonOf(key.decrypt(ciphertext)), reason);
      } else {
        assert.equal(suiteOf(await key.encrypt()), 1);
        assert.equal(await key.decrypt(ciphertext), 'p');
      }
      await kept(0);
      await undo(key);
      assert.equal(await key.decrypt(ciphertext), 'p');
      assert.notEqual(saltOf(await key.encrypt()), saltOf(ciphertext));
      await keyward.disableKey({ name: key.name });
      await kept(0);
    });
  }

  test('end with the agent, and what they sealed opens by the next', async () => {
    const { encrypt, decrypt } = await newKey();
    const ciphertext = await encrypt();
    const [pid = 0] = shared.service.agentPids;
    process.kill(pid, 'SIGKILL');
    await eventually(async () => assert.equal(await decrypt(ciphertext), 'p'));
    assert.notEqual(saltOf(await encrypt()), saltOf(ciphertext));
  });

  test('are turned on only by a caller who may create the key', async () => {
    const { parent, name } = await newKey({});
    const permissions = ['keys.get', 'keys.update'];
    await keyward.createRole({ parent, roleId: 'labeller', role: { permissions } });
    const principal = 'spiffe://keyward.test/labeller';
    await keyward.createRoleBinding({
      parent,
      roleBindingId: 'labeller',
      roleBinding: { principal, role: `${parent}/roles/labeller` },
    });
    const { ca } = shared.environment;
    const certificate = ca.issue({ subject: 'labeller', usage: 'client', uris: [principal] });
    await using theirs = connect(shared.service.connectOptions(certificate));
    await theirs.updateKey({ key: { name, description: 'labelled' } });
    const refused = theirs.updateKey({ key: { name, epochMaxMessages: 9 } });
    assert.equal(await reasonOf(refused), 'PERMISSION_MISSING');
  });
});
