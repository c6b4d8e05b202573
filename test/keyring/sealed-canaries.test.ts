/**
 * Case 36, for canaries: whatever somebody with write access to the database does to canaries,
 * suspensions and their seal is noticed, changes nothing on replicas that run, and is over when the
 * rows are as they were.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { AccessRig } from '../access/access-rig.ts';
import { eventually, type LogLine, type Service } from '../support/kit.ts';
import { newId, QUICK, sql } from '../support/reconciling.ts';

const ACME = 'tenants/acme';
const KEY = `${ACME}/keys/k`;
const SUSPECT = 'spiffe://keyward.test/suspect';
/** Short, so that this need not wait: services have 30 seconds. */
const AGE = { ...QUICK, KEYWARD_CACHE_MAX_AGE_MS: '1000' };
const TABLES = ['canaries', 'suspensions', 'canary_seals'] as const;

let rig: AccessRig;
let ciphertext: Buffer;
let canary: string;

before(async () => {
  rig = await AccessRig.start(AGE);
  const made = await rig.askByGrpc(rig.tester, 'CanaryService/CreateCanary', {
    ...{ parent: KEY, canaryId: 'c', kind: 'CANARY_KIND_CIPHERTEXT' },
  });
  ciphertext = made.answer['ciphertext'] as Buffer;
  canary = `${ACME}/canaries/c`;
  await rig.bind('acme', SUSPECT, 'keyViewer');
  await rig.done('CanaryService/CreateSuspension', { parent: ACME, caller: SUSPECT });
});

after(() => rig?.[Symbol.asyncDispose]());

const corrupt = (line: LogLine) => line['alert'] === 'canaries-corrupt';
const opened = (line: LogLine) => line['alert'] === 'canary-opened' && line['canary'] === canary;

/** Fails unless the canary is recognised, and the suspended caller refused. */
async function assertInForce(service: Service = rig.service): Promise<void> {
  const from = service.log.length;
  const request = { parent: ACME, ciphertext };
  await rig.ask(rig.tester, 'EncryptionService/Decrypt', request, service);
  await service.logged(opened, from);
  const list = await rig.ask(
    rig.certified(SUSPECT),
    'KeyService/ListKeys',
    { parent: ACME },
    service,
  );
  assert.equal(list.reason, 'CALLER_SUSPENDED');
}

const create = () =>
  rig.ask(rig.tester, 'CanaryService/CreateCanary', {
    ...{ parent: KEY, canaryId: newId('c'), kind: 'CANARY_KIND_WRAPPED_DATA_KEY' },
  });

/** Keeps the rows, does something, and puts the rows back; `while` what was done stands. */
async function tampered(statement: string, whileSo: () => Promise<void>): Promise<void> {
  for (const table of TABLES)
    await sql(rig.environment, `CREATE TABLE kept_${table} AS SELECT * FROM ${table}`);
  try {
    await sql(rig.environment, statement);
    await whileSo();
  } finally {
    for (const table of TABLES) {
      await sql(rig.environment, `DELETE FROM ${table}`);
      await sql(rig.environment, `INSERT INTO ${table} SELECT * FROM kept_${table}`);
      await sql(rig.environment, `DROP TABLE kept_${table}`);
    }
  }
  await eventually(async () => assert.equal((await create()).reason, 'OK'));
}

const ELSEWHERE = "(SELECT tenant_id FROM tenants WHERE name = 'beta')";
const ELSE = {
  canaries: {
    tenant_id: ELSEWHERE,
    canary_id: "'another'",
    uid: 'gen_random_uuid()',
    key_id: 'gen_random_uuid()',
    version: 'version + 1',
    record: 'set_byte(record, 70, get_byte(record, 70) # 1)',
  },
  suspensions: {
    tenant_id: ELSEWHERE,
    suspension_id: "'another'",
    caller: "'spiffe://keyward.test/tester'",
    canary_id: "'another'",
    request_id: "'another'",
    description: "'another'",
    created_at: "created_at - interval '1 day'",
    creator: "'another'",
  },
  canary_seals: {
    revision: 'revision + 1',
    digests: "'{}'",
    seal_key_id: 'gen_random_uuid()',
    seal: 'set_byte(seal, 31, get_byte(seal, 31) # 1)',
  },
} as const;

describe('a writer of the database', () => {
  for (const table of TABLES)
    test(`who changes any column of ${table} is noticed by a change, and changes nothing`, async () => {
      for (const [column, value] of Object.entries(ELSE[table])) {
        const only = table === 'canaries' ? ` WHERE canary_id = 'c'` : '';
        const statement = `UPDATE ${table} SET ${column} = ${value}${only}`;
        await tampered(statement, async () => {
          const from = rig.service.log.length;
          // Whatever of it this replica remembers.
          assert.equal((await create()).reason, 'CANARIES_CORRUPT', statement);
          await rig.service.logged(corrupt, from);
          await assertInForce();
        });
      }
    });

  const taken: readonly (readonly [string, string])[] = [
    ['a row', `DELETE FROM canaries WHERE canary_id = 'c'`],
    ['a suspension', 'DELETE FROM suspensions'],
    ['everything', 'DELETE FROM canaries; DELETE FROM suspensions; DELETE FROM canary_seals'],
    [
      'everything, and makes it as if there had never been any',
      `DELETE FROM canaries; DELETE FROM suspensions;
       UPDATE canary_seals SET revision = 0, digests = '{}', seal_key_id = NULL, seal = NULL`,
    ],
  ];
  for (const [what, statement] of taken)
    test(`who takes away ${what} is noticed at the age of caches, and has nothing of it`, async () => {
      const from = rig.service.log.length;
      await tampered(statement, async () => {
        await rig.service.logged(corrupt, from);
        await assertInForce();
      });
    });

  test('who has taken away a row is noticed by a replica that starts, which serves', async () => {
    await tampered(`DELETE FROM canaries WHERE canary_id = 'c'`, async () => {
      await using started = await rig.addReplica(AGE);
      await started.logged(corrupt);
      const request = { parent: ACME, ciphertext };
      const outcome = await rig.ask(rig.tester, 'EncryptionService/Decrypt', request, started);
      assert.equal(outcome.reason, 'DECRYPTION_FAILED');
    });
  });

  test('who has the database finds in it nothing by which a canary can be told', async () => {
    const rows = await sql(rig.environment, 'SELECT to_jsonb(c) AS row FROM canaries c');
    const text = JSON.stringify(rows);
    const salt = ciphertext.subarray(24, 56);
    const digest = createHash('sha256').update(salt).digest();
    for (const telling of [salt, digest, ciphertext.subarray(68, 100)])
      for (const encoding of ['hex', 'base64', 'latin1'] as const)
        assert.ok(!text.includes(telling.toString(encoding)));
    // Nor does its record open for a caller.
    const [{ record } = { record: Buffer.alloc(0) }] = await sql<{ record: Buffer }>(
      rig.environment,
      `SELECT record FROM canaries WHERE canary_id = 'c'`,
    );
    const request = { parent: ACME, ciphertext: record };
    const outcome = await rig.ask(rig.tester, 'EncryptionService/Decrypt', request);
    assert.equal(outcome.reason, 'DECRYPTION_FAILED');
  });
});

test('when the seal key is replaced, canaries come under the new one, and stay in force', async () => {
  const sealedBy = async () => {
    const [row] = await sql<{ id: string }>(
      rig.environment,
      'SELECT seal_key_id AS id FROM canary_seals',
    );
    return row?.id;
  };
  const before = await sealedBy();
  await rig.done('HsmService/RotateSealKey', {});
  await eventually(async () => {
    const [current] = await sql<{ id: string }>(
      rig.environment,
      `SELECT object_id AS id FROM token_objects WHERE role = 'seal' AND is_current`,
    );
    assert.notEqual(current?.id, before);
    assert.equal(await sealedBy(), current?.id);
  });
  await assertInForce();
  assert.equal((await create()).reason, 'OK');
});
