/**
 * Step-up over the wire: what is dangerous wants a proof that is strong and fresh, by whichever way
 * a caller comes, and is told how to get one (RFC 9470).
 *
 * The issuer `corp` of the rig is not trusted to say how strong a proof is; `people` is.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { AccessRig, type Caller, RPCS } from '../access/access-rig.ts';
import { AUDIENCE, ISSUER, tokenBy } from '../access/issuer.ts';
import type { Outcome } from '../access/outcome.ts';
import { askHttp2 } from '../faces/http/client.ts';
import { openSession } from '../faults/http2.ts';
import { eventually } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';

const PEOPLE = 'https://people.test/';
const ALICE = 'jwt:people/alice';
const WORKLOAD = 'spiffe://keyward.test/batch';
const KEY = 'tenants/acme/keys/k';
const AGE = 300;
/** What clocks may differ by. */
const LEEWAY = 30;

let rig: AccessRig;

before(async () => {
  rig = await AccessRig.start();
  const common = {
    audience: AUDIENCE,
    algorithms: ['ES256'],
    jwksFile: join(rig.environment.directory, 'jwks.json'),
  };
  const issuers = [
    { ...common, name: 'corp', issuer: ISSUER, claims: { principal: 'sub', tenants: 'tenants' } },
    { ...common, name: 'people', issuer: PEOPLE, vouchesForAuthentication: true },
  ];
  writeFileSync(join(rig.environment.directory, 'issuers.json'), JSON.stringify({ issuers }));
  await eventually(async () => assert.equal((await whoami(person())).reason, 'OK'));
  for (const principal of [ALICE, 'jwt:corp/alice', WORKLOAD])
    await rig.bind('acme', principal, 'keyAdmin');
  const rule = { acrValues: ['phr', 'phrh'], amrValues: ['mfa'], maxAge: { seconds: AGE } };
  await set('acme', [{ ...rule, exemptPrincipals: [WORKLOAD, TESTER] }]);
});

after(() => rig?.[Symbol.asyncDispose]());

const now = () => Math.floor(Date.now() / 1_000);
const strong = { acr: 'phr', amr: ['pwd', 'mfa'] };

/** A caller by a token of the issuer that is trusted to say how strong a proof is. */
function person(claims: object = { ...strong, auth_time: now() }): Caller {
  return { token: tokenBy(rig.issuerKey, { claims: { iss: PEOPLE, ...claims } }) };
}

const whoami = (caller: Caller) => rig.ask(caller, 'AccessService/GetCaller');
const set = async (tenant: string, stepUpRules: readonly object[]) => {
  const name = `tenants/${tenant}/approvalRules`;
  const { etag } = await rig.done('ApprovalService/GetApprovalRules', { name });
  await rig.done('ApprovalService/UpdateApprovalRules', {
    approvalRules: { name, etag, stepUpRules },
  });
};
/** Asks for what nothing comes of: the etag is wrong. */
const destroy = (caller: Caller, name = KEY) =>
  rig.ask(caller, 'KeyService/ScheduleKeyDestruction', { name, etag: 'no-such-etag' });

/** Fails unless the caller was told to sign in again, and how. */
function assertAsked({ reason, metadata, status }: Outcome): void {
  assert.equal(reason, 'STEP_UP_REQUIRED');
  assert.equal(status, 16);
  assert.deepEqual(metadata, {
    permission: 'keys.destroy',
    acr_values: 'phr phrh',
    amr_values: 'mfa',
    max_age: '300',
  });
}

test('a proof that is strong and fresh lets a dangerous call through, and a call that is not dangerous needs none', async () => {
  assert.equal((await destroy(person())).reason, 'ETAG_MISMATCH');
  const { reason } = await rig.ask(person({}), 'KeyService/GetKey', { name: KEY });
  assert.equal(reason, 'OK');
});

describe('case 22: a dangerous call without fresh multi-factor proof is answered by a challenge', () => {
  test('over gRPC and as JSON, with what the proof must be', async () => {
    for (const ask of [rig.askByGrpc.bind(rig), rig.askByHttp.bind(rig)]) {
      const request = { name: KEY, etag: 'no-such-etag' };
      assertAsked(await ask(person({}), 'KeyService/ScheduleKeyDestruction', request));
    }
  });

  const CHALLENGE =
    'Bearer error="insufficient_user_authentication", acr_values="phr phrh", max_age="300"';
  const destruction = () => {
    const { definition } =
      RPCS.find(({ name }) => name === 'KeyService/ScheduleKeyDestruction') ?? {};
    assert.ok(definition);
    return definition;
  };

  test('over gRPC in the trailer www-authenticate', async () => {
    const { ca } = rig.environment;
    const client = new Client(
      `127.0.0.1:${rig.service.port}`,
      credentials.createSsl(Buffer.from(ca.certPem)),
      { 'grpc.ssl_target_name_override': 'localhost' },
    );
    try {
      const { path, requestSerialize, responseDeserialize } = destruction();
      const headers = new Metadata();
      headers.set('authorization', `Bearer ${person({}).token}`);
      const error = await new Promise<ServiceError | null>((resolve) =>
        client.makeUnaryRequest(
          ...([path, requestSerialize, responseDeserialize] as const),
          ...([{ name: KEY, etag: 'x' }, headers, resolve] as const),
        ),
      );
      assert.equal(error?.code, status.UNAUTHENTICATED);
      assert.deepEqual(error.metadata.get('www-authenticate'), [CHALLENGE]);
    } finally {
      client.close();
    }
  });

  test('over HTTP in WWW-Authenticate', async () => {
    using session = openSession({
      port: rig.service.httpPort,
      ca: rig.environment.ca.certPem,
    });
    const { status: httpStatus, headers } = await askHttp2(session, {
      path: destruction().path,
      body: Buffer.from(JSON.stringify({ name: KEY, etag: 'x' })),
      headers: {
        'content-type': 'application/json',
        authorization: `Bearer ${person({}).token}`,
      },
    });
    assert.equal(httpStatus, 401);
    assert.equal(headers['www-authenticate'], CHALLENGE);
  });
});

describe('case 23: a proof that is weak, old or not vouched for is refused', () => {
  const fresh = () => ({ auth_time: now() });
  const weak: readonly (readonly [string, () => object])[] = [
    ['amr only pwd', () => ({ ...strong, ...fresh(), amr: ['pwd'] })],
    ['no amr', () => ({ ...fresh(), acr: 'phr' })],
    ['another acr', () => ({ ...strong, ...fresh(), acr: 'loa1' })],
    ['an acr in other capitals', () => ({ ...strong, ...fresh(), acr: 'PHR' })],
    ['no acr', () => ({ ...fresh(), amr: ['mfa'] })],
    ['no auth_time', () => strong],
    ['an old auth_time', () => ({ ...strong, auth_time: now() - AGE - LEEWAY - 1 })],
  ];
  for (const [what, claims] of weak)
    test(what, async () => assertAsked(await destroy(person(claims()))));

  test('but of several methods the others do not matter, nor does age within what clocks differ by', async () => {
    const amr = ['face', 'mfa', 'hwk'];
    assert.equal((await destroy(person({ ...strong, ...fresh(), amr }))).reason, 'ETAG_MISMATCH');
    const old = { ...strong, auth_time: now() - AGE - LEEWAY + 20 };
    assert.equal((await destroy(person(old))).reason, 'ETAG_MISMATCH');
  });

  test('from an issuer that is not trusted for it, which is said', async () => {
    const outcome = await destroy(rig.tokened('alice', ['acme'], { ...strong, ...fresh() }));
    assertAsked(outcome);
    assert.match(outcome.message, /corp .*vouchesForAuthentication/);
  });

  test('an auth_time in the future, or claims of another form, make no token at all', async () => {
    const wrong: readonly object[] = [
      { ...strong, auth_time: now() + LEEWAY + 60 },
      { ...strong, auth_time: String(now()) },
      { ...fresh(), acr: 1, amr: ['mfa'] },
      { ...fresh(), acr: 'phr', amr: { mfa: true } },
    ];
    for (const claims of wrong)
      assert.equal((await destroy(person(claims))).reason, 'CREDENTIALS_INVALID');
  });
});

test('a certificate is no fresh proof, which is said, unless the rule exempts its caller', async () => {
  const outcome = await destroy(rig.certified('spiffe://keyward.test/admin'));
  assert.equal(outcome.reason, 'RESOURCE_NOT_FOUND');
  await rig.bind('acme', 'spiffe://keyward.test/admin', 'keyAdmin');
  await eventually(async () => {
    const refused = await destroy(rig.certified('spiffe://keyward.test/admin'));
    assertAsked(refused);
    assert.match(refused.message, /a certificate is none/);
  });
  assert.equal((await destroy(rig.certified(WORKLOAD))).reason, 'ETAG_MISMATCH');
});

test('who lacks the permission is not told what proof it would take', async () => {
  const nobody = person({ sub: 'nobody' });
  assert.equal((await destroy(nobody)).reason, 'RESOURCE_NOT_FOUND');
  await rig.bind('acme', 'jwt:people/viewer', 'keyViewer');
  await eventually(async () =>
    assert.equal((await destroy(person({ sub: 'viewer' }))).reason, 'PERMISSION_MISSING'),
  );
});

test('to look at what a call would do needs no fresh proof', async () => {
  const looked = await rig.ask(person({}), 'KeyService/ScheduleKeyDestruction', {
    ...{ name: KEY, validateOnly: true },
  });
  assert.equal(looked.reason, 'OK', looked.message);
});

test('a step-up leaves no lasting session: a proof that grows old while its connection is open is refused', async () => {
  // So old that it is in order for some seconds yet.
  const caller = person({ ...strong, auth_time: now() - AGE - LEEWAY + 12 });
  assert.equal((await destroy(caller)).reason, 'ETAG_MISMATCH');
  await eventually(async () => assertAsked(await destroy(caller)));
  // The token itself is as good as before.
  assert.equal((await whoami(caller)).reason, 'OK');
});

test('a stream that is open ends once its caller’s proof has grown too old', async () => {
  await rig.done('AdminService/CreateTenant', { tenantId: 'watched' });
  await rig.bind('watched', ALICE, 'tenantAdmin');
  await set('watched', [
    {
      permissions: ['operations.list'],
      maxAge: { seconds: AGE },
      exemptPrincipals: [TESTER],
    },
  ]);
  const request = { parent: 'tenants/watched' };
  const watch = (caller: Caller) =>
    rig.askByGrpc(caller, 'ApprovalService/WatchPendingOperations', request, {
      // Later than any of the proofs below: it is not the deadline that ends it.
      headers: { 'grpc-timeout': '60S' },
    });
  // A proof that is good for some seconds, and longer each time that those were over before the
  // stream was open, as on a machine that is busy.
  for (let seconds = 4; ; seconds *= 2) {
    const auth_time = now() - AGE - LEEWAY + seconds;
    const caller = person({ ...strong, auth_time });
    const begun = performance.now();
    const { reason } = await watch(caller);
    assert.equal(reason, 'STEP_UP_REQUIRED');
    if (performance.now() - begun > (seconds - 2) * 1_000) break;
    assert.ok(seconds < 30, 'the stream never opened, or ended early');
  }
});

test('a stream does not begin when its caller’s proof is too old', async () => {
  await set('beta', [
    {
      permissions: ['rewrapJobs.get'],
      maxAge: { seconds: AGE },
      exemptPrincipals: [TESTER],
    },
  ]);
  await rig.bind('beta', ALICE, 'keyViewer');
  const { name } = await rig.done('RotationService/CreateRewrapJob', {
    scope: 'tenants/beta/keys/k',
  });
  const watch = (caller: Caller) => rig.ask(caller, 'RotationService/WatchRewrapJob', { name });
  await eventually(async () => assert.equal((await watch(person())).reason, 'OK'));
  const old = person({ ...strong, auth_time: now() - AGE - LEEWAY - 1 });
  assert.equal((await watch(old)).reason, 'STEP_UP_REQUIRED');
});

test('a permission that a handler asks for besides wants its proof as well', async () => {
  await set('beta', [{ permissions: ['keys.rotate'], exemptPrincipals: [TESTER] }]);
  await rig.bind('beta', ALICE, 'keyAdmin');
  const update = (caller: Caller, key: object, path: string) =>
    rig.ask(caller, 'KeyService/UpdateKey', {
      key: { name: 'tenants/beta/keys/k', ...key },
      updateMask: { paths: [path] },
    });
  await eventually(async () =>
    assert.equal((await update(person({}), { description: 'd' }, 'description')).reason, 'OK'),
  );
  const paused = { maintenancePaused: true };
  const weak = await update(person({}), paused, 'maintenance_paused');
  assert.equal(weak.reason, 'STEP_UP_REQUIRED');
  assert.equal((await update(person(), paused, 'maintenance_paused')).reason, 'OK');
});

test('rules of tenants/system hold in every tenant, beside its own, and all of them must be met', async () => {
  const exemptPrincipals = [WORKLOAD, TESTER];
  await set('system', [
    { permissions: ['keys.destroy'], acrValues: ['phrh'], amrValues: ['hwk'], exemptPrincipals },
  ]);
  try {
    await eventually(async () => {
      const { reason, metadata } = await destroy(person());
      assert.equal(reason, 'STEP_UP_REQUIRED');
      // The strongest of all: what both take of acr, what each wants of amr, the shorter age.
      const { acr_values, amr_values, max_age } = metadata;
      assert.deepEqual([acr_values, amr_values, max_age], ['phrh', 'hwk mfa', '300']);
    });
    const both = person({ acr: 'phrh', amr: ['mfa', 'hwk'], auth_time: now() });
    assert.equal((await destroy(both)).reason, 'ETAG_MISMATCH');
  } finally {
    await set('system', []);
  }
  await eventually(async () => assert.equal((await destroy(person())).reason, 'ETAG_MISMATCH'));
});

test('rules apply to who changes them, and nobody sets rules that they do not meet', async () => {
  await rig.bind('acme', ALICE, 'tenantAdmin');
  const name = 'tenants/acme/approvalRules';
  const { etag, stepUpRules } = await rig.done('ApprovalService/GetApprovalRules', { name });
  const change = (caller: Caller, rules: unknown) =>
    rig.ask(caller, 'ApprovalService/UpdateApprovalRules', {
      approvalRules: { name, etag, stepUpRules: rules },
      validateOnly: false,
    });
  await eventually(async () =>
    assert.equal((await change(person({}), [])).reason, 'STEP_UP_REQUIRED'),
  );
  const tighter = await change(person(), [{ amrValues: ['hwk'], exemptPrincipals: [TESTER] }]);
  assert.equal(tighter.reason, 'STEP_UP_REQUIRED');
  assert.equal(tighter.metadata['amr_values'], 'hwk');
  const same = await change(person(), stepUpRules);
  assert.equal(same.reason, 'OK', same.message);
});

test('GetCaller says how strong a proof is and when it was made, where its issuer is trusted for that', async () => {
  const at = now() - 60;
  const { answer } = await whoami(person({ ...strong, auth_time: at }));
  const { seconds } = answer['authenticationTime'] as { seconds: unknown };
  assert.deepEqual(
    [answer['acr'], answer['authenticationMethods'], Number(seconds)],
    ['phr', ['pwd', 'mfa'], at],
  );
  for (const caller of [rig.tokened('alice', ['acme'], strong), rig.tester]) {
    const { answer: other } = await whoami(caller);
    assert.deepEqual([other['acr'], other['authenticationMethods']], ['', []]);
    assert.equal(other['authenticationTime'] ?? null, null);
  }
});

test('the entry of a dangerous call has how its caller has proven who they are, and that of a refused one why', async () => {
  const from = (await rig.audited()).length;
  await destroy(person({ ...strong, auth_time: now() - 60 }));
  await destroy(person({ amr: ['pwd'] }));
  await eventually(async () => {
    const entries = (await rig.audited(from)).map(
      ({ outcome, caller, detail }): Record<string, unknown> => ({
        ...{ outcome, caller, ...JSON.parse(detail) },
      }),
    );
    const found = (outcome: string) => entries.find((entry) => entry['outcome'] === outcome);
    const done = found('ETAG_MISMATCH')?.['authentication'] as Record<string, unknown>;
    assert.deepEqual([done['acr'], done['amr']], ['phr', ['pwd', 'mfa']]);
    assert.ok(Number(done['ageSeconds']) >= 60 && Number(done['ageSeconds']) < 120);
    const refused = found('STEP_UP_REQUIRED');
    assert.equal(refused?.['caller'], ALICE);
    assert.match(String(refused['denied']), /keys\.destroy needs a fresh proof/);
  });
});
