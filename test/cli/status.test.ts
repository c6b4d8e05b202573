/**
 * `keyward status`: one screen, and an exit code that says whether there is anything to look into.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { useFakeService, WIRE_SERVICE_STATUS } from './fake.ts';

const fake = useFakeService();

describe('the status of the service', () => {
  it('is one screen, and exit code 0 where all is well', async () => {
    const { code, stdout, stderr } = await fake.keyward('status');
    assert.deepEqual([code, stderr, fake.seen['GetServiceStatus']], [0, '', {}]);
    assert.deepEqual(stdout.split('\n'), [
      'Service:     release 0.2.0, environment 018f0000-0000-4000-8000-000000000009, 1 replica runs',
      'Answered:    by kw-1/7, which is ready',
      'Token:       keyward, serial 0123, SoftHSM v2 by SoftHSM project; 4 objects, as they must be',
      'Database:    PostgreSQL 18.4, schema 0020_replica_reports',
      'Maintenance: on; 0 jobs run, 0 rows left; 1 rotation and 0 destructions due',
      'Audit log:   generation 1, 12 entries, 0 groups wait; checkpoint over 12 signed ' +
        '2023-11-14T22:14:59.000Z',
      'Witnesses:   witness.example/w1 (cosigned what was signed never)',
      'Alerts:      0 active',
      '',
      'REPLICA  RELEASE  STARTED                   LAST SEEN                 AGENTS  STATE',
      'kw-1/7   0.2.0    2023-11-14T22:13:20.000Z  2023-11-14T22:15:00.000Z  2 of 2  READY',
      '',
    ]);
  });

  it('counts one thing as one', async () => {
    const { token, auditLog } = WIRE_SERVICE_STATUS;
    fake.handlers['GetServiceStatus'] = () => ({
      ...WIRE_SERVICE_STATUS,
      token: { ...token, objects: 1 },
      auditLog: { ...auditLog, treeSize: 1, waitingGroups: 1 },
    });
    const { stdout } = await fake.keyward('status');
    assert.match(stdout, /; 1 object, as they must be\n/);
    assert.match(stdout, /, 1 entry, 1 group waits; /);
  });

  it('ends with what there is to look into, and exit code 1', async () => {
    const [replica] = WIRE_SERVICE_STATUS.replicas;
    const problems = ['replica kw-1/7: no HSM agent is ready', 'a text\u001b[31m of a writer'];
    fake.handlers['GetServiceStatus'] = () => ({
      ...{ ...WIRE_SERVICE_STATUS, problems, token: undefined },
      conditions: [{ name: 'hsm', holds: false, problem: 'no HSM agent is ready' }],
      replicas: [
        { ...replica, agentsReady: 0, problems: ['no HSM agent is ready'] },
        { ...replica, name: '', running: false },
      ],
    });
    const { code, stdout, stderr } = await fake.keyward('status');
    assert.deepEqual([code, stderr], [1, 'keyward: not all is well: 2 to look into\n']);
    assert.match(stdout, /\nAnswered: .* which is not ready: no HSM agent is ready\n/);
    assert.match(stdout, /\nToken: +cannot be looked at\n/);
    assert.match(stdout, /\nkw-1\/7 .* 0 of 2 +no HSM agent is ready\n018f\S+a .* SILENT: /);
    const end = `\nTo look into:\n- ${problems[0]}\n- a text?[31m of a writer\n`;
    assert.ok(stdout.endsWith(end), stdout);
  });

  it('has alerts that are active among what there is to look into, unless they are silenced', async () => {
    const time = { seconds: 1_700_000_000, nanos: 0 };
    const alert = {
      ...{ name: 'alerts/018f0000-0000-4000-8000-00000000000a', alert: 'policy-corrupt' },
      ...{ subject: 'tenants/acme', message: 'a policy failed verification' },
      ...{ severity: 'ALERT_SEVERITY_CRITICAL', state: 'ALERT_STATE_ACTIVE' },
      ...{ firstTime: time, lastTime: time, count: 1 },
    };
    fake.handlers['ListAlerts'] = () => ({
      alerts: [alert, { ...alert, silenced: true }, { ...alert, severity: 'ALERT_SEVERITY_INFO' }],
    });
    const { code, stdout } = await fake.keyward('status');
    assert.deepEqual([code, fake.seen['ListAlerts']?.['filter']], [1, 'state = ACTIVE']);
    assert.match(stdout, /\nAlerts: +2 active, and 1 notice within the hour\n/);
    assert.match(
      stdout,
      /\nTo look into:\n- CRITICAL policy-corrupt, tenants\/acme: a policy failed verification\n$/,
    );
  });

  it('in JSON has all of it, with the same exit code', async () => {
    const { code, stdout } = await fake.keyward('status --output json');
    assert.equal(code, 0);
    const { replicas, auditLog } = JSON.parse(stdout);
    assert.equal(replicas[0].seenTime, '2023-11-14T22:15:00.000Z');
    assert.equal(auditLog.checkpointTreeSize, 12);
  });
});
