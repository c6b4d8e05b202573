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
const OF_ACME = `tenant_id = (SELECT tenant_id FROM tenants WHERE name = 'acme')`;

let rig: AccessRig;

before(async () => {
  rig = await AccessRig.start();
  await set('acme', '', [{ amrValues: ['mfa'] }]);
  await set('acme', '1', [{ amrValues: ['hwk'] }]);
});

after(() => rig?.[Symbol.asyncDispose]());

const set = (tenant: string, etag: string, stepUpRules: readonly object[]) =>
  rig.done('ApprovalService/UpdateApprovalRules', {
    approvalRules: { name: `tenants/${tenant}/approvalRules`, etag, stepUpRules },
  });
const get = (tenant: string) =>
  rig.ask(rig.tester, 'ApprovalService/GetApprovalRules', {
    name: `tenants/${tenant}/approvalRules`,
  });
const reads = (tenant: string, reason: string) =>
  eventually(async () => assert.equal((await get(tenant)).reason, reason, tenant));
const corrupt = (line: LogLine) =>
  line['alert'] === 'approval-rules-corrupt' && line['tenant'] === 'acme';

/** Somebody writes to the database, and has every replica read it. */
async function write(statement: string): Promise<void> {
  await sql(rig.environment, statement);
  await sql(
    rig.environment,
    `INSERT INTO changes (tenant_id, kind, subject_id)
     SELECT tenant_id, 'approvalRules', tenant_id FROM tenants WHERE name IN ('acme', 'beta')`,
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
  await reads('acme', 'OK');
}

test('case 36: a change to any column of the rules of a tenant', async () => {
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
      await reads('acme', 'APPROVAL_RULES_CORRUPT');
      await rig.service.logged(corrupt, from);
      if (column === 'tenant_id') await reads('beta', 'APPROVAL_RULES_CORRUPT');
      // Nor can they be replaced, which would hide it.
      const replaced = await rig.ask(rig.tester, 'ApprovalService/UpdateApprovalRules', {
        approvalRules: { name: 'tenants/acme/approvalRules', etag: '2' },
      });
      assert.equal(replaced.reason, 'APPROVAL_RULES_CORRUPT');
    });
    await reads('beta', 'OK');
  }
});
