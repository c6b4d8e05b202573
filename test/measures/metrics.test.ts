/**
 * Metrics as an operator's program reads them from a running service: what is counted, that each
 * call is counted once, what the labels hold, and what a hostile peer can do there.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { describe, test } from 'node:test';
import { METRICS } from '../../src/signals/metrics/table.ts';
import { ask } from '../faces/http/client.ts';
import { eventually, reasonOf, sharedService } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { getPage, type Scrape, scrape } from './scrape.ts';

const KEY = 'tenants/acme/keys/payroll';
const ENCRYPT = 'EncryptionService/Encrypt';
const SECRET = randomBytes(24).toString('hex');
const CONTEXT = `context-${SECRET}`;
/** The newest that Prometheus 2 sends. */
const OPEN_METRICS =
  'application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,' +
  'text/plain;version=0.0.4;q=0.5,*/*;q=0.1';

const shared = sharedService(
  async (keyward) => {
    for (const tenantId of ['acme', 'globex']) await keyward.createTenant({ tenantId });
    await keyward.createKey({ parent: 'tenants/acme', keyId: 'payroll' });
  },
  {
    KEYWARD_METRICS_LISTEN: '127.0.0.1:0',
    KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
    // `system`, and the first of the others.
    KEYWARD_METRICS_TENANTS: '2',
  },
);

/** What is there once `isThere` finds it. */
function scraped(isThere: (now: Scrape) => boolean, accept?: string): Promise<Scrape> {
  return eventually(async () => {
    const now = await scrape(shared.service.operatorsPort, accept);
    assert.ok(isThere(now), 'not there yet');
    return now;
  });
}

/** By how much a sum grows while `work` is done, once it has grown by at least that. */
async function growth(
  name: string,
  labels: Readonly<Record<string, string>>,
  { atLeast, work }: { readonly atLeast: number; readonly work: () => Promise<unknown> },
): Promise<number> {
  // Texts are kept for a moment: one that is asked for later is not from before the work.
  const before = (await scraped(() => true)).sum(name, labels);
  await work();
  const after = await scraped((now) => now.sum(name, labels) - before >= atLeast);
  return after.sum(name, labels) - before;
}

function encrypt() {
  return shared.keyward.encrypt({
    name: KEY,
    plaintext: Buffer.from(SECRET),
    encryptionContext: { conversation: CONTEXT },
  });
}

function encryptByHttp(name = KEY, headers: Readonly<Record<string, string>> = {}) {
  return ask(httpPeer(), 'HTTP/2', {
    path: `/keyward.v1.${ENCRYPT}`,
    headers,
    body: { name, plaintext: Buffer.from('text').toString('base64') },
  });
}

function httpPeer() {
  const { ca, cert, key } = shared.service.connectOptions();
  return { port: shared.service.httpPort, ca: `${ca}`, cert: `${cert}`, key: `${key}` };
}

describe('calls', () => {
  test('are counted once each, by method, face and code, and by tenant', async () => {
    const grpc = { method: ENCRYPT, face: 'grpc', code: 'OK' };
    const http = { method: ENCRYPT, face: 'http', code: 'OK' };
    const work = async () => {
      for (let call = 0; call < 3; call += 1) await encrypt();
      for (let call = 0; call < 2; call += 1) assert.equal((await encryptByHttp()).status, 200);
    };
    const before = await scraped(() => true);
    assert.equal(await growth('keyward_calls_total', grpc, { atLeast: 3, work }), 3);
    const after = await scraped(() => true);
    const grown = (name: string, labels: Readonly<Record<string, string>>) =>
      after.sum(name, labels) - before.sum(name, labels);
    assert.equal(grown('keyward_calls_total', http), 2);
    assert.equal(grown('keyward_call_duration_seconds_count', { method: ENCRYPT }), 5);
    assert.equal(grown('keyward_tenant_calls_total', { tenant: 'acme', code: 'OK' }), 5);
    assert.ok(grown('keyward_call_duration_seconds_sum', { method: ENCRYPT }) > 0);
    assert.ok(grown('keyward_audit_group_entries_sum', {}) >= 5);
    assert.ok(grown('keyward_hsm_call_duration_seconds_count', { operation: 'seal' }) >= 5);
  });

  test('that fail are counted by their reason, be they let in or not', async () => {
    const missing = { method: ENCRYPT, reason: 'RESOURCE_NOT_FOUND' };
    const fail = () =>
      reasonOf(shared.keyward.encrypt({ name: `${KEY}x`, plaintext: Buffer.from('x') }));
    assert.equal(
      await growth('keyward_call_failures_total', missing, { atLeast: 1, work: fail }),
      1,
    );
    const unknown = { face: 'http', reason: 'METHOD_UNKNOWN' };
    const call = () => ask(httpPeer(), 'HTTP/2', { path: `/no.such.Service/${SECRET}`, body: {} });
    assert.equal(
      await growth('keyward_calls_refused_total', unknown, { atLeast: 1, work: call }),
      1,
    );
    const now = await scraped(() => true);
    assert.ok(now.sum('keyward_calls_total', { method: 'other', code: 'UNIMPLEMENTED' }) >= 1);
    const stranger = shared.environment.ca.issue({
      subject: 'stranger',
      usage: 'client',
      uris: ['spiffe://keyward.test/stranger'],
    });
    const denied = { method: ENCRYPT, reason: 'RESOURCE_NOT_FOUND' };
    const { ca } = shared.environment;
    const { certPem: cert, keyPem: key } = stranger;
    const peer = { port: shared.service.httpPort, ca: ca.certPem, cert, key };
    const tenants = now.sum('keyward_tenant_calls_total');
    const work = () => ask(peer, 'HTTP/2', { path: `/keyward.v1.${ENCRYPT}`, body: { name: KEY } });
    assert.equal(await growth('keyward_call_failures_total', denied, { atLeast: 1, work }), 1);
    const after = await scraped(() => true);
    assert.equal(after.sum('keyward_tenant_calls_total'), tenants, 'a tenant that is not theirs');
  });

  test('that lack a fresh proof are counted as refusals, where its permission wants one', async () => {
    const clerk = 'spiffe://keyward.test/clerk';
    const parent = 'tenants/globex';
    await shared.keyward.createRoleBinding({
      ...{ parent, roleBinding: { principal: clerk, role: 'roles/keyViewer' } },
    });
    await shared.keyward.updateApprovalRules({
      approvalRules: {
        name: `${parent}/approvalRules`,
        stepUpRules: [{ permissions: ['keys.list'], exemptPrincipals: [TESTER] }],
      },
    });
    const { ca } = shared.environment;
    const made = ca.issue({ subject: 'clerk', usage: 'client', uris: [clerk] });
    const { certPem: cert, keyPem: key } = made;
    const peer = { port: shared.service.httpPort, ca: ca.certPem, cert, key };
    const list = async () => {
      const path = '/keyward.v1.KeyService/ListKeys';
      const { status } = await ask(peer, 'HTTP/2', { path, body: { parent } });
      assert.equal(status, 401);
    };
    const refused = { reason: 'STEP_UP_REQUIRED' };
    const name = 'keyward_access_refusals_total';
    assert.equal(await growth(name, refused, { atLeast: 1, work: list }), 1);
  });

  test('of more tenants than are told apart are counted together', async () => {
    const work = () => shared.keyward.listKeys({ parent: 'tenants/globex' });
    const other = { tenant: 'other', code: 'OK' };
    assert.equal(await growth('keyward_tenant_calls_total', other, { atLeast: 1, work }), 1);
    const tenants = (await scraped(() => true)).series('keyward_tenant_calls_total');
    assert.deepEqual(
      new Set(tenants.map(({ labels }) => labels['tenant'])),
      new Set(['system', 'acme', 'other']),
    );
  });
});

describe('the text', () => {
  test('has every metric of the table, as the table has it, and those of the process', async () => {
    await encrypt();
    const { types } = await scraped(() => true);
    for (const [name, { type }] of Object.entries(METRICS))
      assert.equal(types.get(name), type, name);
    for (const name of ['process_cpu_seconds_total', 'nodejs_eventloop_lag_p99_seconds'])
      assert.ok(types.has(name), name);
  });

  test('tells what agents, the database and the audit log are doing', async () => {
    await encrypt();
    const now = await scraped(
      (each) =>
        each.sum('keyward_hsm_keys_loaded') >= 1 &&
        each.sum('keyward_hsm_operations_total', { operation: 'seal' }) >= 1 &&
        each.sum('keyward_audit_checkpoint_size') > 0,
    );
    const expected: readonly (readonly [string, Readonly<Record<string, string>>, number])[] = [
      ['keyward_ready', {}, 1],
      ['keyward_ready_condition', { condition: 'hsm' }, 1],
      ['keyward_changes_fresh', {}, 1],
      ['keyward_replicas', {}, 1],
      ['keyward_hsm_agents', { token: 'current', state: 'ready' }, 1],
      ['keyward_hsm_agents_configured', { token: 'current' }, 1],
      ['keyward_database_connections_limit', { pool: 'calls' }, 40],
      ['keyward_calls_in_flight_limit', { pool: 'key_uses' }, 2048],
      ['keyward_audit_sequencing', {}, 1],
      ['keyward_audit_generation', {}, 1],
      ['keyward_maintenance_paused', {}, 0],
      ['keyward_rotations_due', {}, 0],
      ['keyward_rewrap_rows_stale', { kind: 'data-keys' }, 0],
      ['keyward_build_info', { node: process.versions.node }, 1],
    ];
    for (const [name, labels, value] of expected)
      assert.deepEqual(
        now.series(name, labels).map((each) => each.value),
        [value],
        name,
      );
    for (const name of [
      'keyward_hsm_operation_seconds_total',
      'keyward_audit_log_size',
      'keyward_cache_entries',
      'keyward_cache_lookups_total',
      'keyward_database_connections_open',
      'keyward_reconciler_passes_total',
      'keyward_connections',
    ])
      assert.ok(now.sum(name) > 0, name);
    const age = Date.now() / 1_000 - now.sum('keyward_audit_checkpoint_timestamp_seconds');
    assert.ok(Math.abs(age) < 3_600, `${age} s`);
  });

  test('is OpenMetrics for a scraper that asks for it, with the same series', async () => {
    const names = (each: Scrape) => new Set(each.samples.map(({ name }) => name));
    // Between two scrapes a part may have its first figures.
    const open = await eventually(async () => {
      const plain = await scraped(() => true);
      const other = await scraped(
        ({ type }) => type.startsWith('application/openmetrics'),
        OPEN_METRICS,
      );
      assert.deepEqual(names(other), names(plain));
      return other;
    });
    assert.match(open.text, /\n# EOF\n$/);
    assert.equal(open.types.get('keyward_calls'), 'counter');
    // And the other way round: asking for one leaves the other as it is.
    const again = await scraped(() => true);
    assert.equal(again.types.get('keyward_calls_total'), 'counter');
  });

  test('has the trace of a sampled call as an exemplar, where it is OpenMetrics', async () => {
    const traceId = randomBytes(16).toString('hex');
    const traced = (flags: string) => ({ traceparent: `00-${traceId}-${'ab'.repeat(8)}-${flags}` });
    assert.equal((await encryptByHttp(KEY, traced('00'))).status, 200);
    assert.ok(!(await scraped(() => true, OPEN_METRICS)).text.includes(traceId), 'not sampled');
    assert.equal((await encryptByHttp(KEY, traced('01'))).status, 200);
    const { text } = await scraped((now) => now.text.includes(traceId), OPEN_METRICS);
    const bucket = new RegExp(
      `^keyward_call_duration_seconds_bucket\\{.*\\} \\d+ # \\{trace_id="${traceId}"\\} `,
      'm',
    );
    assert.match(text, bucket);
    assert.ok(!(await scraped(() => true)).text.includes(traceId));
  });

  test('has nothing of what callers send', async () => {
    await encrypt();
    const { text } = await scraped(() => true);
    assert.ok(!text.includes(SECRET));
    assert.ok(!text.includes('payroll'));
  });
});

test('an agent that is killed is counted by the cause of its end', async () => {
  const [agent] = shared.service.agentPids;
  assert.ok(agent !== undefined);
  const work = async () => process.kill(agent, 'SIGKILL');
  const crashed = { token: 'current', cause: 'crashed' };
  assert.equal(await growth('keyward_hsm_agent_exits_total', crashed, { atLeast: 1, work }), 1);
  const sums = await scraped((now) => now.sum('keyward_hsm_agents', { state: 'ready' }) === 1);
  assert.ok(sums.sum('keyward_hsm_operations_total', { operation: 'seal' }) > 0, 'it is forgotten');
});

describe('the listener', () => {
  /** Sends bytes; returns what comes back until the connection is closed. */
  async function sent(bytes: string): Promise<string> {
    const socket = raw();
    socket.write(bytes);
    let received = '';
    socket.on('data', (chunk: Buffer) => {
      received += chunk;
    });
    await once(socket, 'close');
    return received;
  }

  function raw(): Socket {
    const socket = connect(shared.service.operatorsPort, '127.0.0.1');
    socket.on('error', () => {});
    return socket;
  }

  const get = (path: string, headers = '') => `GET ${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n`;

  test('serves GET and HEAD of its pages, and nothing else', async () => {
    const { operatorsPort: port } = shared.service;
    const head = await getPage(port, { method: 'HEAD' });
    assert.deepEqual([head.status, head.text], [200, '']);
    assert.equal((await getPage(port, { path: '/metrics?x=y' })).status, 200);
    assert.equal((await getPage(port, { path: '/' })).status, 404);
    for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS'])
      assert.equal((await getPage(port, { method })).status, 405, method);
  });

  test('ends connections that send what is no request, or do not wait for answers', async () => {
    assert.equal(await sent('\x16\x03\x01\x00\xf4 no HTTP\r\n\r\n'), '');
    assert.equal(await sent('CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n'), '');
    assert.equal(await sent(get('/metrics', `x: ${'y'.repeat(20_000)}\r\n`)), '');
    assert.doesNotMatch(await sent(get('/metrics').repeat(3)), /200 OK[\s\S]*200 OK/);
    assert.doesNotMatch(await sent(get('/nothing').repeat(500)), /(404[\s\S]*){50}/);
    // A body is not waited for.
    const answer = await sent(get('/metrics', 'Content-Length: 1000000\r\n'));
    assert.match(answer, /^HTTP\/1\.1 200 OK/);
  });

  test('answers a scraper while others fill it, and the service serves', async () => {
    const peers = Array.from({ length: 200 }, (_, peer) => {
      const socket = raw();
      // Silent, slow, or taking no answers.
      if (peer % 3 === 1) socket.write('GET /metr');
      if (peer % 3 === 2) {
        socket.pause();
        socket.write(get('/metrics'));
      }
      return socket;
    });
    try {
      await Promise.all(peers.map((socket) => socket.closed || once(socket, 'connect')));
      await scraped((now) => now.sum('keyward_ready') === 1);
      await encrypt();
      await shared.service.logged(({ msg }) =>
        String(msg).startsWith('monitoring connections were ended'),
      );
    } finally {
      for (const socket of peers) socket.destroy();
    }
    assert.ok(!shared.service.log.some(({ msg }) => msg === 'cannot answer a monitoring request'));
  });
});
