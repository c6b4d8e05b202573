/**
 * What shows only in what came of calls, and in the surroundings of a replica, is reported: each
 * condition made to happen to a service, by its callers, its clock and its files.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { isNearEnd } from '../../src/commands/self-watch.ts';
import { AccessRig, type Caller } from '../access/access-rig.ts';
import type { LogLine, Service } from '../support/kit.ts';
import { newId, sql } from '../support/reconciling.ts';

const ACME = 'tenants/acme';
const KEY = `${ACME}/keys/k`;
const DAY_MS = 86_400_000;
const CLOCK = join(import.meta.dirname, '..', 'faults', 'clock.ts');

let rig: AccessRig;

before(async () => {
  rig = await AccessRig.start();
});

after(() => rig?.[Symbol.asyncDispose]());

const alert = (id: string, subject: string) => (line: LogLine) =>
  line['alert'] === id && line['subject'] === subject;

const raised = (id: string, service: Service = rig.service) =>
  service.log.filter((line) => line['alert'] === id);

async function newCaller(role: string): Promise<{ name: string; caller: Caller }> {
  const name = `spiffe://keyward.test/${newId('caller')}`;
  await rig.bind('acme', name, role);
  return { name, caller: rig.certified(name) };
}

describe('of calls', () => {
  test('a caller whose ciphertexts do not open again and again is named, also where they are items of a batch', async () => {
    const few = await newCaller('decrypter');
    const many = await newCaller('decrypter');
    const item = { parent: ACME, ciphertext: Buffer.alloc(200, 1) };
    const batch = (count: number) => ({ parent: ACME, requests: Array(count).fill(item) });
    await rig.done('EncryptionService/BatchDecrypt', batch(29), few.caller);
    await rig.done('EncryptionService/BatchDecrypt', batch(29), many.caller);
    const { reason } = await rig.ask(many.caller, 'EncryptionService/Decrypt', item);
    assert.equal(reason, 'DECRYPTION_FAILED');
    const line = await rig.service.logged(alert('decryption-failures', many.name));
    assert.equal(line['count'], 30);
    assert.equal(line['severity'], 'warning');
    for (let i = 0; i < 5; i++) await rig.ask(many.caller, 'EncryptionService/Decrypt', item);
    // Of the few nothing, and of the many nothing more within the minute.
    assert.deepEqual(
      raised('decryption-failures').map(({ subject }) => subject),
      [many.name],
    );
  });

  test('a caller that asks for what is dangerous and may not is named, with a role and without', async () => {
    const viewer = await newCaller('keyViewer');
    const stranger = `spiffe://keyward.test/${newId('stranger')}`;
    const method = 'KeyService/DisableKey';
    const denied: readonly (readonly [string, Caller, string])[] = [
      [viewer.name, viewer.caller, 'PERMISSION_MISSING'],
      [stranger, rig.certified(stranger), 'RESOURCE_NOT_FOUND'],
    ];
    for (const [name, caller, reason] of denied) {
      assert.equal((await rig.ask(caller, method, { name: KEY })).reason, reason);
      const subject = `${name} keyward.v1.${method}`;
      const line = await rig.service.logged(alert('sensitive-denied', subject));
      assert.deepEqual([line['caller'], line['reason'], line['resource']], [name, reason, KEY]);
    }
    // What is not dangerous, and what the tester may do and is not there.
    await rig.ask(viewer.caller, 'EncryptionService/Encrypt', { name: KEY });
    await rig.ask(rig.tester, method, { name: `${ACME}/keys/none` });
    assert.equal(raised('sensitive-denied').length, denied.length);
  });

  test('a quota that is used up is named, with its tenant', async () => {
    const quotas = { keys: 1 };
    await rig.done('AdminService/UpdateTenant', {
      ...{ tenant: { name: 'tenants/beta', quotas }, updateMask: { paths: ['quotas.keys'] } },
    });
    const create = { parent: 'tenants/beta', keyId: newId('k') };
    const { reason } = await rig.ask(rig.tester, 'KeyService/CreateKey', create);
    assert.equal(reason, 'QUOTA_EXCEEDED');
    const line = await rig.service.logged((each) => each['alert'] === 'quota-exhausted');
    assert.deepEqual([line['tenant'], line['limit']], ['beta', '1']);
  });
});

describe('of its surroundings', () => {
  test('a clock that differs from the database’s is reported', async () => {
    await using service = await rig.addReplica({
      NODE_OPTIONS: `--import=${CLOCK}`,
      CLOCK_AHEAD_MS: '-60000',
    });
    const off = (line: LogLine) => line['alert'] === 'clock-off';
    assert.deepEqual(service.log.filter(off), []);
    process.kill(service.pid, 'SIGUSR2');
    const line = await service.logged(off);
    const ahead = Number(line['aheadMs']);
    assert.ok(ahead < -55_000 && ahead > -90_000, String(ahead));
  });

  test('rotations that have been due for hours, and fail, are reported', async () => {
    const keyId = newId('k');
    await rig.done('KeyService/CreateKey', { parent: 'tenants/acme', keyId });
    // No replica obeys a schedule that does not verify.
    await sql(
      rig.environment,
      `UPDATE keys SET rotation_period_seconds = 86400, next_rotation_at = now() - interval '2 hours'
       WHERE name = $1`,
      [keyId],
    );
    const line = await rig.service.logged((each) => each['alert'] === 'rotation-overdue');
    assert.ok(Number(line['seconds']) >= 7_200);
    assert.deepEqual([line['keys'], line['isPaused']], [1, false]);
  });

  test('a certificate near its end is reported, and one that has years is not', async () => {
    const [cert, key] = ['server', 'key'].map((name) =>
      join(rig.environment.directory, `short-${name}.pem`),
    ) as [string, string];
    const { certPem, keyPem } = rig.environment.ca.issue({
      ...{ subject: 'localhost', usage: 'server', ips: ['127.0.0.1'] },
      notBefore: new Date(Date.now() - 300 * DAY_MS),
      notAfter: new Date(Date.now() + 13 * DAY_MS),
    });
    writeFileSync(key, keyPem, { mode: 0o600 });
    writeFileSync(cert, certPem);
    await using service = await rig.addReplica({
      KEYWARD_TLS_CERT_FILE: cert,
      KEYWARD_TLS_KEY_FILE: key,
    });
    const expiring = (line: LogLine) => line['alert'] === 'certificate-expiring';
    const line = await service.logged(expiring);
    assert.equal(line['setting'], 'KEYWARD_TLS_CERT_FILE');
    // The CA's own has years.
    assert.equal(service.log.filter(expiring).length, 1);
  });

  test('a certificate is near its end by its own time, so that short ones do not always are', () => {
    const of = (days: number, left: number) => {
      const now = Date.now();
      return isNearEnd(
        {
          validFromDate: new Date(now - (days - left) * DAY_MS),
          validToDate: new Date(now + left * DAY_MS),
        },
        now,
      );
    };
    assert.deepEqual(
      [of(365, 15), of(365, 13), of(1, 0.5), of(1, 0.1), of(365, -1)],
      [false, true, false, true, true],
    );
  });
});
