/**
 * A writer of the database, who may change any single row in any way that the schema allows: no
 * caller ever gets a wrong answer, on replicas that run and on one that is started on it; what does
 * not verify is named by an alert, and is over when the rows are as they were.
 *
 * Some of the changes, by a seed that is printed; all of them with KEYWARD_TEST_CHANGES=all.
 */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { AccessRig, type Caller } from '../access/access-rig.ts';
import { RELYING_PARTY, registerPasskeys } from '../approvals/people.ts';
import { eventually, type Service } from '../support/kit.ts';
import { randomBy, SEED } from '../support/random.ts';
import { TESTER } from '../support/tester.ts';
import { listChanges, make, type RowChange, undo } from './database-changes.ts';

const KEY = 'tenants/acme/keys/k';
const CONTEXT = { purpose: 'records' };
/** What a running replica may remember, and for how long a change is looked at. */
const AGE_MS = 1_000;
const LOOKED_AT_MS = 1_000;
/** Of more than three hundred changes. */
const SOME = 6;
const RESTARTS = 2;

let rig: AccessRig;
let changes: readonly RowChange[];
let random: () => number;
/** Questions of callers, each with what is right: the end of the call, and what it brought. */
let questions: readonly (readonly [name: string, ask: (of: Service) => Promise<string>])[];
let right: readonly string[];

before(async () => {
  console.log(`seed ${SEED}`);
  random = randomBy(SEED);
  const settings = {
    KEYWARD_CACHE_MAX_AGE_MS: String(AGE_MS),
    KEYWARD_RELYING_PARTY_ID: RELYING_PARTY,
  };
  rig = await AccessRig.start(settings);
  await rig.addReplica(settings);
  questions = await prepare();
  right = await answersOf(rig.service);
  assert.ok(!right.includes('INVALID_FIELD'), right.join());
  changes = await listChanges(rig.environment);
  assert.ok(changes.length > 300, `${changes.length}`);
});

after(() => rig?.[Symbol.asyncDispose]());

function someOf<T>(all: readonly T[], count: number): T[] {
  if (process.env['KEYWARD_TEST_CHANGES'] === 'all') return [...all];
  const rest = [...all];
  return Array.from({ length: count }, () => {
    const [one] = rest.splice(Math.floor(random() * rest.length), 1);
    return one as T;
  });
}

/** Two tenants with data under two versions, and callers who may do one thing each, or nothing. */
async function prepare(): Promise<typeof questions> {
  const user = rig.certified('spiffe://keyward.test/user');
  const attacker = rig.certified('spiffe://keyward.test/attacker');
  for (const role of ['encrypter', 'decrypter']) {
    await rig.bind('acme', 'spiffe://keyward.test/user', role);
    await rig.bind('beta', 'spiffe://keyward.test/attacker', role);
  }
  await rig.bind('beta', 'spiffe://keyward.test/attacker', 'keyViewer');
  const role = { permissions: ['keys.list'], description: 'd' };
  await rig.done('AccessService/CreateRole', { parent: 'tenants/acme', roleId: 'own', role });
  const encrypt = async (name: string, text: string, caller: Caller) => {
    const plaintext = Buffer.from(text);
    const request = { name, plaintext, encryptionContext: CONTEXT };
    return (await rig.done('EncryptionService/Encrypt', request, caller))['ciphertext'];
  };
  const old = await encrypt(KEY, 'old', user);
  await rig.done('KeyService/RotateKey', { name: KEY });
  const recent = await encrypt(KEY, 'recent', user);
  const foreign = await encrypt('tenants/beta/keys/k', 'foreign', attacker);
  for (const dataKeyId of ['one', 'two']) {
    const encryptionContext = { of: dataKeyId };
    await rig.done('DataKeyService/CreateDataKey', { parent: KEY, dataKeyId, encryptionContext });
  }
  const { operation, destruction, owners } = await prepareApproval(user);
  const asks =
    (caller: Caller, method: string, request: object, field?: string) => async (of: Service) => {
      const { reason, answer } = await rig.ask(caller, method, request, of);
      const found = field === undefined ? '' : answer[field];
      return reason === 'OK'
        ? `OK ${Buffer.isBuffer(found) ? found.toString('base64') : found}`
        : reason;
    };
  const decrypts = (caller: Caller, parent: string, ciphertext: unknown) =>
    asks(
      caller,
      'EncryptionService/Decrypt',
      { parent, ciphertext, encryptionContext: CONTEXT },
      'plaintext',
    );
  const dataKey = (name: string) =>
    asks(
      rig.tester,
      'DataKeyService/GetDataKey',
      { name: `${KEY}/dataKeys/${name}`, encryptionContext: { of: name }, includePlaintext: true },
      'plaintext',
    );
  return [
    ['the user encrypts', asks(user, 'EncryptionService/Encrypt', { name: KEY })],
    ['the user decrypts what is old', decrypts(user, 'tenants/acme', old)],
    ['the user decrypts what is recent', decrypts(user, 'tenants/acme', recent)],
    ['the user reads the key', asks(user, 'KeyService/GetKey', { name: KEY }, 'state')],
    ['the user opens what is the attacker’s', decrypts(user, 'tenants/acme', foreign)],
    ['the attacker opens what is the user’s', decrypts(attacker, 'tenants/acme', recent)],
    ['the attacker opens it in their own tenant', decrypts(attacker, 'tenants/beta', recent)],
    ['the attacker opens what is theirs', decrypts(attacker, 'tenants/beta', foreign)],
    ['the attacker reads the key', asks(attacker, 'KeyService/GetKey', { name: KEY }, 'state')],
    [
      'the attacker reads tenants',
      asks(attacker, 'AdminService/GetTenant', { name: 'tenants/acme' }),
    ],
    ['the tester reads the key', asks(rig.tester, 'KeyService/GetKey', { name: KEY }, 'state')],
    [
      'the tester reads the tenant',
      asks(rig.tester, 'AdminService/GetTenant', { name: 'tenants/acme' }, 'state'),
    ],
    [
      'the user lists keys, without the proof that it wants',
      asks(user, 'KeyService/ListKeys', { parent: 'tenants/acme' }),
    ],
    [
      'the user destroys the key, without the approval that it wants',
      asks(user, 'KeyService/ScheduleKeyDestruction', destruction),
    ],
    [
      'the tester reads the operation that waits',
      asks(rig.tester, 'ApprovalService/GetPendingOperation', { name: operation }, 'state'),
    ],
    [
      'the tester reads what it asks for',
      asks(rig.tester, 'ApprovalService/GetPendingOperation', { name: operation }, 'request'),
    ],
    ...owners.map(
      ({ name, caller, passkey }) =>
        [
          `${name} reads whose their passkey is`,
          asks(caller, 'PasskeyService/GetPasskey', { name: passkey }, 'principal'),
        ] as const,
    ),
    ['the tester opens one data key', dataKey('one')],
    ['the tester opens the other', dataKey('two')],
  ];
}

/** Rules of two tenants, people with a passkey each, and two operations that wait. */
async function prepareApproval(user: Caller) {
  const requester = 'spiffe://keyward.test/user';
  const names = ['spiffe://keyward.test/one', 'spiffe://keyward.test/two'];
  const approvers = names.map((name) => ({ name, caller: rig.certified(name) }));
  await registerPasskeys(rig, approvers);
  await rig.bind('acme', requester, 'keyAdmin', { overrideSeparationOfDuties: true });
  for (const tenant of ['acme', 'beta'])
    await rig.done('ApprovalService/UpdateApprovalRules', {
      approvalRules: {
        name: `tenants/${tenant}/approvalRules`,
        stepUpRules: [{ permissions: ['keys.list'], exemptPrincipals: [TESTER] }],
        approvalRules: [{ ruleId: 'two', permissions: ['keys.destroy'], approvals: 1 }],
      },
    });
  const operations: string[] = [];
  const requests: object[] = [];
  for (const windowDays of [7, 8]) {
    const request = { name: KEY, windowDays };
    const looked = { ...request, validateOnly: true };
    const { impact } = await rig.done('KeyService/ScheduleKeyDestruction', looked, user);
    const { etag } = impact as { readonly etag: string };
    const asked = { ...request, etag };
    const { metadata } = await rig.ask(user, 'KeyService/ScheduleKeyDestruction', asked);
    operations.push(String(metadata['operation']));
    requests.push(asked);
  }
  const owners: { name: string; caller: Caller; passkey: string }[] = [];
  for (const { name, caller } of approvers) {
    const { passkeys } = await rig.done('PasskeyService/ListPasskeys', {}, caller);
    const [passkey] = passkeys as { readonly name: string }[];
    owners.push({ name, caller, passkey: passkey?.name ?? '' });
  }
  const [[operation], [destruction]] = [operations, requests];
  assert.ok(operation && destruction);
  return { operation, destruction, owners };
}

async function answersOf(of: Service): Promise<string[]> {
  const answers: string[] = [];
  for (const [, ask] of questions) answers.push(await ask(of));
  return answers;
}

/** What is wrong with answers: one that was given, and is not the right one. */
function wrongIn(answers: readonly string[]): string[] {
  return answers.flatMap((answer, index) =>
    answer.startsWith('OK') && answer !== right[index]
      ? [`${questions[index]?.[0]}: ${answer}, and not ${right[index]}`]
      : [],
  );
}

/** Asks until the change has been looked at for long enough; returns why calls were refused. */
async function lookAt(change: RowChange, services: readonly Service[]): Promise<Set<string>> {
  const refusals = new Set<string>();
  const end = performance.now() + LOOKED_AT_MS;
  do {
    for (const service of services) {
      const answers = await answersOf(service);
      assert.deepEqual(wrongIn(answers), [], change.what);
      for (const [index, answer] of answers.entries())
        if (answer !== right[index]) refusals.add(answer);
    }
    await delay(50);
  } while (performance.now() < end);
  return refusals;
}

/** Waits for an alert if something did not verify. */
async function assertNamed(
  { what }: RowChange,
  refusals: ReadonlySet<string>,
  services: readonly Service[],
  from: readonly number[],
): Promise<void> {
  if (![...refusals].some((reason) => reason.endsWith('_CORRUPT'))) return;
  await eventually(() => {
    const alerts = services.flatMap(({ log }, index) =>
      log.slice(from[index]).filter(({ alert }) => alert !== undefined),
    );
    assert.ok(alerts.length > 0, `${what}: ${[...refusals]}, and no alert`);
  });
}

async function assertRight(services: readonly Service[]): Promise<void> {
  for (const service of services)
    await eventually(async () => assert.deepEqual(await answersOf(service), right));
}

test('whatever row is changed while replicas run, no caller gets a wrong answer', async (t) => {
  let made = 0;
  const why = new Map<string, number>();
  for (const change of someOf(changes, SOME)) {
    const { services, environment } = rig;
    const from = services.map(({ log }) => log.length);
    if (!(await make(environment, change))) continue;
    made += 1;
    try {
      const refusals = await lookAt(change, services);
      await assertNamed(change, refusals, services, from);
      for (const reason of refusals) why.set(reason, (why.get(reason) ?? 0) + 1);
    } finally {
      await undo(environment, change);
    }
    await assertRight(services);
  }
  t.diagnostic(`${made} changes, of ${changes.length}; refused: ${JSON.stringify([...why])}`);
  assert.ok(made > 0);
});

test('nor from a replica that is started on what was changed', async (t) => {
  let started = 0;
  for (const change of someOf(changes, RESTARTS)) {
    const { environment } = rig;
    if (!(await make(environment, change))) continue;
    try {
      const replica = await rig.addReplica().catch(() => undefined);
      // One that does not start answers nobody.
      if (replica === undefined) continue;
      started += 1;
      const refusals = await lookAt(change, [replica]);
      await assertNamed(change, refusals, [replica], [0]);
    } finally {
      await undo(environment, change);
      const replica = rig.services.length > 2 ? rig.services.pop() : undefined;
      await replica?.stop();
    }
  }
  await assertRight(rig.services);
  t.diagnostic(`${started} were started`);
});
