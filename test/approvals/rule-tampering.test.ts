/**
 * Case 36, for approval rules: whatever somebody with write access to the database does to them is
 * noticed before it is obeyed, and is over when the rows are as they were.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { AccessRig } from '../access/access-rig.ts';
import { eventually, type LogLine } from '../support/kit.ts';
import { sql } from '../support/reconciling.ts';

/** What somebody makes of a column, as SQL. */
const CHANGES: Readonly<Record<string, string>> = {
  tenant_id: "(SELECT tenant_id FROM tenants WHERE name = 'beta')",
  revision: 'revision + 1',
  content: `'{"stepUp":[],"approvals":[],"updatedAt":0}'`,
  seal_key_id: 'gen_random_uuid()',
  seal: 'set_byte(seal, 31, get_byte(seal, 31) # 1)',
};
/** Concerns nothing that is done here. */
const RULE = { permissions: ['keys.disable'], amrValues: ['hwk'] };
const OF_ACME = `tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'acme')`;

let rig: AccessRig;

before(async () => {
  rig = await AccessRig.start();
  await set('acme', [{ permissions: ['keys.disable'], amrValues: ['mfa'] }]);
  await set('acme', [{ permissions: ['keys.disable'], amrValues: ['hwk'] }]);
});

after(() => rig?.[Symbol.asyncDispose]());

const get = (tenant: string) =>
  rig.ask(rig.tester, 'ApprovalService/GetApprovalRules', {
    name: `tenants/${tenant}/approvalRules`,
  });
const set = async (tenant: string, stepUpRules: readonly object[]) => {
  const { etag } = (await get(tenant)).answer;
  await rig.done('ApprovalService/UpdateApprovalRules', {
    approvalRules: { name: `tenants/${tenant}/approvalRules`, etag, stepUpRules },
  });
};
/** Asks for what is dangerous, and for what is not; nothing comes of the first. */
const destroy = (tenant: string, service = rig.service) =>
  rig.ask(
    rig.tester,
    'KeyService/ScheduleKeyDestruction',
    { name: `tenants/${tenant}/keys/k`, etag: 'no-such-etag' },
    service,
  );
const look = (tenant: string, service = rig.service) =>
  rig.ask(rig.tester, 'KeyService/GetKey', { name: `tenants/${tenant}/keys/k` }, service);
const refuses = (tenant: string) =>
  eventually(async () =>
    assert.equal((await destroy(tenant)).reason, 'APPROVAL_RULES_CORRUPT', tenant),
  );
const obeys = (tenant: string) =>
  eventually(async () => {
    assert.equal((await destroy(tenant)).reason, 'ETAG_MISMATCH', tenant);
    assert.equal((await look(tenant)).reason, 'OK', tenant);
  });
const corrupt = (line: LogLine) =>
  line['alert'] === 'approval-rules-corrupt' && line['tenant'] === 'acme';

/** Somebody writes to the database, and has every replica read it. */
async function write(statement: string): Promise<void> {
  await sql(rig.environment, statement);
  await sql(
    rig.environment,
    `INSERT INTO changes (tenant_id, kind, subject_id)
     SELECT tenant_id, 'approvalRules', tenant_id FROM tenants`,
  );
}

/** Keeps the rows, has somebody write, and puts the rows back. */
async function tampered(statement: string, during: () => Promise<void>): Promise<void> {
  await sql(rig.environment, 'CREATE TABLE kept AS SELECT * FROM approval_rules');
  try {
    await write(statement);
    await during();
  } finally {
    await write('DELETE FROM approval_rules; INSERT INTO approval_rules SELECT * FROM kept');
    await sql(rig.environment, 'DROP TABLE kept');
  }
  for (const tenant of ['acme', 'beta']) await obeys(tenant);
}

test('case 36: a change to any column of the rules of a tenant fails what is dangerous there, and nothing else', async () => {
  const columns = await sql<{ column: string }>(
    rig.environment,
    `SELECT column_name AS column FROM information_schema.columns
     WHERE table_schema = 'public' AND table_name = 'approval_rules'`,
  );
  assert.deepEqual(columns.map(({ column }) => column).sort(), Object.keys(CHANGES).sort());
  for (const [column, value] of Object.entries(CHANGES)) {
    const from = rig.service.log.length;
    const statement = `UPDATE approval_rules SET ${column} = ${value} WHERE ${OF_ACME}`;
    await tampered(statement, async () => {
      await refuses('acme');
      await rig.service.logged(corrupt, from);
      assert.equal((await look('acme')).reason, 'OK');
      // To another tenant it makes rules of no meaning there.
      if (column === 'tenant_id') await refuses('beta');
      else await obeys('beta');
      // Nor can they be replaced, which would hide it.
      const replaced = await rig.ask(rig.tester, 'ApprovalService/UpdateApprovalRules', {
        approvalRules: { name: 'tenants/acme/approvalRules', etag: '2' },
      });
      assert.equal(replaced.reason, 'APPROVAL_RULES_CORRUPT');
    });
  }
});

test('case 36: rules that are deleted, or put back as they were with their seal, whether a replica remembers newer ones or not', async () => {
  await sql(rig.environment, 'CREATE TABLE older AS SELECT * FROM approval_rules');
  await set('acme', [RULE]);
  const attacks = [
    `DELETE FROM approval_rules WHERE ${OF_ACME}`,
    `DELETE FROM approval_rules WHERE ${OF_ACME};
     INSERT INTO approval_rules SELECT * FROM older WHERE ${OF_ACME}`,
  ];
  for (const attack of attacks) {
    const from = rig.service.log.length;
    await tampered(attack, async () => {
      await refuses('acme');
      await rig.service.logged(
        ({ problem }) => problem === 'its revision is older than one read before',
        from,
      );
      // Nor are they taken for the newest by a replica that remembers none: the tenant's row tells.
      await using started = await rig.addReplica();
      assert.equal((await destroy('acme', started)).reason, 'APPROVAL_RULES_CORRUPT');
      await started.logged(
        ({ problem }) => problem === 'its revision is older than the tenant’s row has it',
      );
    });
  }
});

test('rules hold within the age of caches where a writer of the database discards all announcements', async () => {
  await using other = await rig.addReplica({ KEYWARD_CACHE_MAX_AGE_MS: '1000' });
  assert.equal((await destroy('acme', other)).reason, 'ETAG_MISMATCH');
  await sql(
    rig.environment,
    `CREATE FUNCTION withhold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER withhold BEFORE INSERT ON changes FOR EACH ROW EXECUTE FUNCTION withhold()`,
  );
  try {
    await set('acme', [{ permissions: ['keys.destroy'], amrValues: ['hwk'] }]);
    await eventually(async () =>
      assert.equal((await destroy('acme', other)).reason, 'STEP_UP_REQUIRED'),
    );
    await other.logged(
      ({ alert, kind }) => alert === 'changes-missing' && kind === 'approvalRules',
    );
  } finally {
    await sql(rig.environment, 'DROP TRIGGER withhold ON changes; DROP FUNCTION withhold');
  }
  await set('acme', [RULE]);
  await eventually(async () =>
    assert.equal((await destroy('acme', other)).reason, 'ETAG_MISMATCH'),
  );
});

test('case 36: the rules of a tenant, with their seal, in the place of another’s', async () => {
  await set('beta', [RULE]);
  await tampered(
    `UPDATE approval_rules a SET revision = b.revision, content = b.content,
       seal_key_id = b.seal_key_id, seal = b.seal
     FROM approval_rules b WHERE a.${OF_ACME} AND b.tenant_id <> a.tenant_id`,
    async () => {
      await refuses('acme');
      await obeys('beta');
    },
  );
});

test('case 36: rules of tenants/system that do not verify fail what is dangerous in every tenant, and on a replica that never verified them all that needs a permission', async () => {
  await set('system', [RULE]);
  const ofSystem = `tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'system')`;
  await tampered(`UPDATE approval_rules SET content = '{}' WHERE ${ofSystem}`, async () => {
    for (const tenant of ['acme', 'beta']) {
      await refuses(tenant);
      assert.equal((await look(tenant)).reason, 'OK');
    }
    await using started = await rig.addReplica();
    for (const ask of [destroy, look])
      assert.equal((await ask('acme', started)).reason, 'APPROVAL_RULES_CORRUPT');
  });
});
