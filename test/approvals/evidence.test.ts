/**
 * What was approved, in an export of the running service's log: both verifiers accept it, and what
 * of it is changed they do not.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { exportAuditLog, verifyAuditExport } from '../../client/src/index.ts';
import { verdict } from '../audit/both.ts';
import { eventually } from '../support/kit.ts';
import { People } from './people.ts';

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

test('the evidence of every approval verifies from an export and public keys alone', async () => {
  const tenant = await people.tenant({ approvals: 2 });
  const [anna, bert] = [await people.requester(tenant), await people.approver(tenant)];
  const cora = await people.approver(tenant);
  const [done, rejected] = [await people.key(tenant), await people.key(tenant)];
  const name = await people.ask(anna, done);
  await people.decided(bert, name);
  await people.decided(cora, name);
  await people.until(name, 'DONE');
  await people.decided(cora, await people.ask(anna, rejected), 'reject');

  const auditor = people.rig.service.client();
  const { publicKey } = await auditor.getAuditCheckpoint();
  const { folder, report } = await eventually(async () => {
    const parent = people.rig.environment.directory;
    const next = mkdtempSync(join(parent, 'approvals-'));
    await exportAuditLog(auditor, next);
    const found = await verifyAuditExport(next, { publicKeys: [publicKey] });
    assert.deepEqual(found.approvals, { decisions: 3, operations: 1, begunBefore: [] });
    return { folder: next, report: found };
  });
  const outcome = await verdict(folder, { publicKeys: [publicKey] });
  assert.deepEqual(outcome, {
    verified: report.entries,
    root: report.rootHash.toString('hex'),
  });
  assert.match(readFileSync(join(folder, 'entries', '0.jsonl'), 'utf8'), /"evidence":/);
});
