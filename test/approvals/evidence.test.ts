/**
 * What was approved, in an export of the running service's log: both verifiers accept it, and what
 * of it is changed they do not.
 */
import assert from 'node:assert/strict';
import { hash, randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import {
  type AuditExportReport,
  exportAuditLog,
  verifyAuditExport,
} from '../../client/src/index.ts';
import { verdict } from '../audit/both.ts';
import { eventually } from '../support/kit.ts';
import { People, type Person } from './people.ts';

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

  const folder = await verified({ decisions: 3, operations: 1 });
  assert.match(readFileSync(join(folder, 'entries', '0.jsonl'), 'utf8'), /"evidence":/);
});

test('what was sent again, or only looked, is no evidence, and speaks against none', async () => {
  const tenant = await people.tenant({}, { ruleId: 'emergency', breakGlass: true });
  const requester = await people.requester(tenant);
  const approver = await people.approver(tenant);
  const { approvals: before } = (await exportNow()).report;
  const twice = async ({ caller }: Person, method: string, request: object) => {
    for (let sent = 0; sent < 2; sent += 1) await people.rig.done(method, request, caller);
  };
  const { request: passkey } = await people.newPasskey(tenant, approver);
  const register = 'PasskeyService/RegisterPasskey';
  await people.rig.done(register, { ...passkey, validateOnly: true }, approver.caller);
  await twice(approver, register, { ...passkey, requestId: randomUUID() });

  const name = await people.ask(requester, await people.key(tenant));
  const reason = 'cannot wait';
  const breaking = { name, reason, requestId: randomUUID() };
  await twice(requester, 'ApprovalService/BreakGlass', breaking);
  const assertion = await people.signed(approver, name, 'approve');
  const approval = { name, assertion, requestId: randomUUID() };
  await twice(approver, 'ApprovalService/ApproveOperation', approval);
  await people.until(name, 'DONE');
  await verified({ decisions: before.decisions + 1, operations: before.operations + 1 });
});

// By a rule whose approvers, twice in an entry of 64 KiB, would leave no room for the evidence, its
// largest part.
for (const [what, length, isWhole] of [
  ['that is just within 16 KiB, by a rule with a hundred long names, is there whole', 158, true],
  ['of over 16 KiB is there as its digest alone', 190, false],
] as const)
  test(`the evidence of a request ${what}, and verifies`, async () => {
    const tenant = await people.tenant({ permissions: ['keys.restore'] });
    const requester = await people.person(tenant, ['tenantAdmin']);
    const approver = await people.approver(tenant);
    const approvers = [approver.name, ...longNames(99, 186)].map((each) => `principal:${each}`);
    await people.setRules(tenant, [{ permissions: ['approvalRules.update'], approvers }]);
    const name = `tenants/${tenant}/approvalRules`;
    const { etag } = await people.rig.done('ApprovalService/GetApprovalRules', { name });
    const rule = { ruleId: 'new', permissions: ['keys.destroy'], approvals: 1 };
    const { metadata, message } = await people.rig.ask(
      requester.caller,
      'ApprovalService/UpdateApprovalRules',
      {
        approvalRules: {
          ...{ name, etag },
          approvalRules: [{ ...rule, exemptPrincipals: longNames(100, length) }],
        },
      },
    );
    const operation = metadata['operation'];
    assert.ok(operation, message);
    const { approvals: before } = (await exportNow()).report;
    await people.decided(approver, operation);
    const { request } = await people.until(operation, 'DONE');
    assert.equal(request.length <= 16_384, isWhole, `${request.length} bytes`);
    assert.ok(request.length > 14_000, `${request.length} bytes`);

    await verified({ decisions: before.decisions + 1, operations: before.operations + 1 });
    const entry = (await people.entries(operation)).find(({ caller }) => caller === approver.name);
    const { evidence } = JSON.parse(entry?.detail ?? '{}');
    assert.equal(evidence.requestDigest, hash('sha256', request, 'base64url'));
    assert.equal(evidence.request, isWhole ? request.toString('base64url') : undefined);
  });

/** So many names of callers, of so many characters each. */
function longNames(count: number, length: number): string[] {
  return Array.from({ length: count }, (_, index) =>
    `spiffe://keyward.test/long/${index}/`.padEnd(length, 'x'),
  );
}

interface Exported {
  readonly folder: string;
  readonly report: AuditExportReport;
  readonly publicKey: string;
}

/** An export of the log as it is, which verifies. */
async function exportNow(): Promise<Exported> {
  const auditor = people.rig.service.client();
  const { publicKey } = await auditor.getAuditCheckpoint();
  const folder = mkdtempSync(join(people.rig.environment.directory, 'approvals-'));
  await exportAuditLog(auditor, folder);
  return {
    folder,
    report: await verifyAuditExport(folder, { publicKeys: [publicKey] }),
    publicKey,
  };
}

/**
 * Waits until an export has so many decisions, and operations that were done, has both verifiers
 * accept it, and returns its folder.
 */
async function verified(wanted: {
  readonly decisions: number;
  readonly operations: number;
}): Promise<string> {
  const { folder, report, publicKey } = await eventually(async () => {
    const made = await exportNow();
    assert.deepEqual(made.report.approvals, { ...wanted, begunBefore: [] });
    return made;
  });
  assert.deepEqual(await verdict(folder, { publicKeys: [publicKey] }), {
    verified: report.entries,
    root: report.rootHash.toString('hex'),
  });
  return folder;
}
