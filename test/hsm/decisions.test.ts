/**
 * What an agent seals as a person's decision, and all that it does not: the mistakes that others
 * have made with WebAuthn, one by one, against a real token.
 */
import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import {
  type AssertionRequest,
  type AuthenticatorAlgorithm,
  newPrivateKey,
  type SignedAssertion,
  SoftwareAuthenticator,
} from '../../dev/authenticator.ts';
import { monotonicNow } from '../../src/call.ts';
import type { HsmAgents } from '../../src/hsm/agents.ts';
import {
  assertionDigestOf,
  challengeOf,
  PASSKEY_ALGORITHMS,
  type PasskeyRecord,
  type PendingOperationRecord,
  passkeyContent,
  pendingOperationContent,
  readDecision,
  readPasskey,
} from '../../src/hsm/approval-records.ts';
import { type RequestOf, VERDICT } from '../../src/hsm/protocol.ts';
import { RECORD, type RecordKind } from '../../src/hsm/record-seal.ts';
import {
  type AnyId,
  type EnvironmentId,
  newId,
  type OperationId,
  type SealKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { readEnvironment } from '../../src/store/environment.ts';
import { Store } from '../../src/store/store.ts';
import { RELEASE } from '../store/database.ts';
import { openAgents } from '../support/grants.ts';
import { type Environment, newEnvironment } from '../support/kit.ts';

type DecideRequest = RequestOf<'decide'>;
type VerdictName = keyof typeof VERDICT;

const RP_ID = 'keyward.example';
const ORIGIN = 'https://keyward.example';
const HOUR = 3_600_000;

let environment: Environment;
let environmentId: EnvironmentId;
let sealKeyId: SealKeyId;
let agents: HsmAgents;

before(async () => {
  environment = await newEnvironment();
  const store = await Store.open({
    url: environment.urls.service,
    poolSize: 1,
    waitMs: 300,
    release: RELEASE,
    onError() {},
  });
  const record = await readEnvironment(store);
  await store.close();
  ({ environmentId } = record);
  const current = record.tokenObjects.find(
    ({ role, state }) => role === 'seal' && state === 'CURRENT',
  );
  assert.ok(current);
  sealKeyId = current.objectId as AnyId as SealKeyId;
  agents = openAgents(environment.variables, record);
  await agents.start();
});

after(async () => {
  await agents?.stop();
  await environment?.[Symbol.asyncDispose]();
});

const deadline = () => monotonicNow() + 120_000;

async function sealOf(kind: RecordKind, content: Buffer): Promise<Buffer> {
  const request = { sealKeyId, kind, contents: [content] };
  const { seals } = await agents.call('sealRecords', request, deadline());
  assert.ok(seals[0]);
  return Buffer.from(seals[0]);
}

async function isSealed(kind: RecordKind, content: Buffer, seal: Buffer): Promise<boolean> {
  const request = { sealKeyId, kind, items: [{ content, seal }] };
  const { verified } = await agents.call('verifyRecords', request, deadline());
  return verified[0] === 1;
}

/** How a person decides: what differs from the usual. */
interface Situation {
  readonly algorithm?: AuthenticatorAlgorithm;
  readonly isBackupEligible?: boolean;
  readonly rpId?: string;
  readonly origin?: string;
  readonly operation?: Partial<PendingOperationRecord>;
  readonly passkey?: Partial<PasskeyRecord>;
  /** What is signed, where it is not what is decided. */
  readonly challenge?: Partial<Parameters<typeof challengeOf>[0]>;
  readonly answer?: Partial<AssertionRequest>;
  readonly assertion?: (assertion: SignedAssertion) => Partial<SignedAssertion>;
  readonly request?: (request: DecideRequest) => Partial<DecideRequest>;
}

/** Asks an agent to decide, and returns its verdict by name, and what it has sealed. */
async function decide(situation: Situation = {}) {
  const {
    algorithm = 'ES256',
    isBackupEligible = false,
    rpId = RP_ID,
    origin = ORIGIN,
  } = situation;
  const authenticator = new SoftwareAuthenticator({ rpId, origin, isBackupEligible, algorithm });
  const credentialId = authenticator.hold();
  const now = Date.now();
  const operation: PendingOperationRecord = {
    operationId: newId<OperationId>(),
    tenantId: newId<TenantId>(),
    revision: 1n,
    state: 'PENDING',
    method: 'keyward.v1.KeyService/DestroyKey',
    permission: 'keys.destroy',
    resource: 'tenants/acme/keys/payroll',
    requestDigest: createHash('sha256').update('{}').digest(),
    previewDigest: undefined,
    requester: 'spiffe://keyward.test/anna',
    requesterGroups: [],
    requesterTenants: undefined,
    rule: { tenant: 'acme', ruleId: 'two-persons', approvals: 1, approvers: [] },
    isGlassBroken: false,
    deciders: [],
    createdAt: new Date(now - HOUR),
    expiresAt: new Date(now + HOUR),
    ...situation.operation,
  };
  const passkey: PasskeyRecord = {
    credentialId,
    principal: 'spiffe://keyward.test/bert',
    algorithm: PASSKEY_ALGORITHMS[algorithm],
    publicKey: authenticator.publicKeyOf(credentialId),
    signCount: 0,
    isBackupEligible,
    relyingPartyId: rpId,
    aaguid: newId<AnyId>(),
    attestation: 'none',
    displayName: 'a key',
    createdAt: new Date(now - HOUR),
    lastUsedAt: undefined,
    isRemoved: false,
    revision: 4n,
    ...situation.passkey,
  };
  const challenge = challengeOf({
    environmentId,
    ...operation,
    decision: 'approve',
    ...situation.challenge,
  });
  const signed = authenticator.get({ challenge, credentialId, ...situation.answer });
  const assertion = { ...signed, ...situation.assertion?.(signed) };
  const operationBytes = pendingOperationContent(operation);
  const passkeyBytes = passkeyContent(passkey);
  const request: DecideRequest = {
    sealKeyId,
    operation: operationBytes,
    operationSealKeyId: sealKeyId,
    operationSeal: await sealOf(RECORD.pendingOperation, operationBytes),
    decision: 1,
    passkey: passkeyBytes,
    passkeySealKeyId: sealKeyId,
    passkeySeal: await sealOf(RECORD.passkey, passkeyBytes),
    clientDataJson: assertion.clientDataJson,
    authenticatorData: assertion.authenticatorData,
    signature: assertion.signature,
    decidedAt: new Date(now),
  };
  const reply = await agents.call(
    'decide',
    { ...request, ...situation.request?.(request) },
    deadline(),
  );
  const verdict = (Object.keys(VERDICT) as VerdictName[]).find(
    (name) => VERDICT[name] === reply.verdict,
  );
  return { verdict, reply, operation, passkey, challenge, assertion, now };
}

describe('an agent seals a decision', () => {
  for (const algorithm of ['ES256', 'EdDSA', 'RS256'] as const)
    test(`that a passkey has signed, by ${algorithm}`, async () => {
      const { verdict, reply, operation, passkey, challenge, assertion, now } = await decide({
        algorithm,
      });
      assert.equal(verdict, 'done');
      assert.deepEqual(readDecision(reply.decision), {
        operationId: operation.operationId,
        decision: 'approve',
        approver: passkey.principal,
        credentialId: passkey.credentialId,
        challenge,
        assertionDigest: assertionDigestOf(assertion),
        decidedAt: new Date(now),
      });
      assert.ok(await isSealed(RECORD.decision, reply.decision, reply.decisionSeal));
      assert.deepEqual(readPasskey(reply.passkey), {
        ...passkey,
        signCount: 1,
        lastUsedAt: new Date(now),
        revision: 5n,
      });
      assert.ok(await isSealed(RECORD.passkey, reply.passkey, reply.passkeySeal));
    });

  test('to reject, by a signature over that', async () => {
    const { verdict, reply } = await decide({
      challenge: { decision: 'reject' },
      request: () => ({ decision: 2 }),
    });
    assert.equal(verdict, 'done');
    assert.equal(readDecision(reply.decision).decision, 'reject');
  });

  test('from a site below the relying party’s domain, and from localhost without TLS', async () => {
    for (const situation of [
      { origin: 'https://sign.keyward.example' },
      { origin: 'https://keyward.example:8443' },
      { origin: 'http://localhost:8080', rpId: 'localhost' },
      { origin: 'https://localhost', rpId: 'localhost' },
    ])
      assert.equal((await decide(situation)).verdict, 'done', situation.origin);
  });

  test('by a passkey on several devices, whose counter stays or goes back', async () => {
    for (const [signCount, before] of [
      [0, 0],
      [7, 7],
      [3, 9],
    ] as const) {
      const { verdict } = await decide({
        isBackupEligible: true,
        passkey: { signCount: before },
        answer: { signCount },
      });
      assert.equal(verdict, 'done');
    }
  });

  test('by a device-bound passkey that has no counter', async () => {
    assert.equal((await decide({ answer: { signCount: 0 } })).verdict, 'done');
  });

  test('and never one that it is merely handed', async () => {
    const { reply } = await decide();
    await assert.rejects(sealOf(RECORD.decision, Buffer.from(reply.decision)), {
      reason: 'INTERNAL',
    });
  });
});

const flipped = (bytes: Buffer, at: number) => {
  const copy = Buffer.from(bytes);
  copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
  return copy;
};
/** The same ECDSA signature, its first length written in two bytes as only BER may. */
const inLongForm = (signature: Buffer) =>
  Buffer.concat([signature.subarray(0, 1), Buffer.of(0x81), signature.subarray(1)]);
const requestDigest = createHash('sha256').update('{"name":"another"}').digest();
const later = () => new Date(Date.now() + 2 * HOUR);

/** What is wrong, and what the agent says of it. */
const MISTAKES: readonly (readonly [string, VerdictName, Situation])[] = [
  ['user verification that did not happen', 'userNotVerified', { answer: { userVerified: false } }],
  ['a user who was not there', 'userNotPresent', { answer: { userPresent: false } }],
  ['a challenge of somebody’s choice', 'challenge', { answer: { challenge: Buffer.alloc(32) } }],
  ['no challenge', 'challenge', { answer: { challenge: Buffer.alloc(0) } }],
  [
    'a signature for another operation',
    'challenge',
    { challenge: { operationId: newId<OperationId>() } },
  ],
  ['a signature for the other decision', 'challenge', { request: () => ({ decision: 2 }) }],
  [
    'a signature for another environment',
    'challenge',
    { challenge: { environmentId: newId<EnvironmentId>() } },
  ],
  ['a signature for another request', 'challenge', { challenge: { requestDigest } }],
  [
    'a signature for another method',
    'challenge',
    { challenge: { method: 'keyward.v1.KeyService/RestoreKey' } },
  ],
  [
    'a signature for another’s request',
    'challenge',
    { challenge: { requester: 'spiffe://keyward.test/carl' } },
  ],
  ['a signature for another expiry', 'challenge', { challenge: { expiresAt: later() } }],
  ['a registration instead of an assertion', 'clientData', { answer: { type: 'webauthn.create' } }],
  [
    'client data that is no JSON',
    'clientData',
    { assertion: () => ({ clientDataJson: Buffer.from('{"type":"webauthn.get"') }) },
  ],
  [
    'client data that is no UTF-8',
    'clientData',
    {
      assertion: ({ clientDataJson }) => ({
        clientDataJson: Buffer.concat([
          clientDataJson.subarray(0, -1),
          Buffer.from(',"\xff":1}', 'latin1'),
        ]),
      }),
    },
  ],
  ['another site', 'origin', { answer: { origin: 'https://keyward.example.attacker.example' } }],
  ['a site whose name ends alike', 'origin', { answer: { origin: 'https://notkeyward.example' } }],
  ['a site without TLS', 'origin', { answer: { origin: 'http://keyward.example' } }],
  ['localhost, for a domain', 'origin', { answer: { origin: 'http://localhost' } }],
  [
    'a host below localhost without TLS',
    'origin',
    { rpId: 'localhost', origin: 'http://sub.localhost' },
  ],
  ['an origin with a path', 'origin', { answer: { origin: 'https://keyward.example/a' } }],
  ['an origin that is a user', 'origin', { answer: { origin: 'https://keyward.example@a.test' } }],
  ['an app', 'origin', { answer: { origin: 'android:apk-key-hash:AAAA' } }],
  ['no origin', 'origin', { answer: { origin: '' } }],
  ['a page in another’s frame', 'origin', { answer: { crossOrigin: true } }],
  ['a page said to be in a frame', 'origin', { answer: { topOrigin: 'https://keyward.example' } }],
  ['a frame that is said oddly', 'origin', { answer: { crossOrigin: 'false' } }],
  ['another relying party', 'relyingParty', { answer: { rpId: 'attacker.example' } }],
  [
    'authenticator data that ends early',
    'authenticatorData',
    {
      assertion: ({ authenticatorData }) => ({
        authenticatorData: authenticatorData.subarray(0, 36),
      }),
    },
  ],
  [
    'authenticator data with more than its flags say',
    'authenticatorData',
    { answer: { extraData: Buffer.of(0) } },
  ],
  [
    'a device-bound passkey that was copied',
    'backupEligibility',
    { answer: { backupEligible: true } },
  ],
  [
    'a passkey that was copied and says that it cannot be',
    'backupEligibility',
    { answer: { backedUp: true } },
  ],
  [
    'a copied passkey that is said to be device-bound',
    'backupEligibility',
    { isBackupEligible: true, answer: { backupEligible: false } },
  ],
  [
    'the right credential id and another’s key',
    'signature',
    { answer: { signWith: newPrivateKey('ES256') } },
  ],
  [
    'a flag that was set afterwards',
    'signature',
    {
      answer: { userVerified: false },
      assertion: ({ authenticatorData }) => {
        const data = Buffer.from(authenticatorData);
        data.writeUInt8(data.readUInt8(32) | 0x04, 32);
        return { authenticatorData: data };
      },
    },
  ],
  [
    'client data that was written again',
    'signature',
    {
      assertion: ({ clientDataJson }) => ({
        clientDataJson: Buffer.from(`${clientDataJson.toString()} `),
      }),
    },
  ],
  ['no signature', 'signature', { assertion: () => ({ signature: Buffer.alloc(0) }) }],
  [
    'a signature with a byte behind it',
    'signature',
    { assertion: ({ signature }) => ({ signature: Buffer.concat([signature, Buffer.of(0)]) }) },
  ],
  [
    'a signature that is not DER',
    'signature',
    { assertion: ({ signature }) => ({ signature: inLongForm(signature) }) },
  ],
  [
    'another algorithm than the passkey’s: a P-256 key as Ed25519',
    'signature',
    { passkey: { algorithm: PASSKEY_ALGORITHMS.EdDSA } },
  ],
  [
    'another algorithm than the passkey’s: an RSA key as P-256',
    'signature',
    { algorithm: 'RS256', passkey: { algorithm: PASSKEY_ALGORITHMS.ES256 } },
  ],
  ['an algorithm that there is not', 'signature', { passkey: { algorithm: 0 } }],
  ['a key that is none', 'signature', { passkey: { publicKey: Buffer.from('none') } }],
  [
    'a device-bound passkey whose counter stays',
    'counter',
    { passkey: { signCount: 7 }, answer: { signCount: 7 } },
  ],
  [
    'a device-bound passkey whose counter goes back',
    'counter',
    { passkey: { signCount: 7 }, answer: { signCount: 6 } },
  ],
  [
    'a device-bound passkey that has no counter any more',
    'counter',
    { passkey: { signCount: 7 }, answer: { signCount: 0 } },
  ],
  ['an operation that is decided on', 'notPending', { operation: { state: 'APPROVED' } }],
  ['an operation that was cancelled', 'notPending', { operation: { state: 'CANCELLED' } }],
  ['an operation past its expiry', 'expired', { operation: { expiresAt: new Date(0) } }],
  [
    'a time long ago, when the operation was not past its expiry',
    'wrongTime',
    {
      operation: { expiresAt: new Date(Date.now() - HOUR) },
      request: () => ({ decidedAt: new Date(Date.now() - 2 * HOUR) }),
    },
  ],
  ['a time to come', 'wrongTime', { request: () => ({ decidedAt: later() }) }],
  ['one’s own operation', 'ownOperation', { passkey: { principal: 'spiffe://keyward.test/anna' } }],
  ['a passkey that was removed', 'passkeyRemoved', { passkey: { isRemoved: true } }],
  [
    'an operation that was changed by a byte',
    'operationNotSealed',
    { request: ({ operation }) => ({ operation: flipped(operation, 60) }) },
  ],
  [
    'an operation whose seal was changed by a byte',
    'operationNotSealed',
    { request: ({ operationSeal }) => ({ operationSeal: flipped(operationSeal, 31) }) },
  ],
  [
    'an operation under a seal key that there is not',
    'operationNotSealed',
    { request: () => ({ operationSealKeyId: newId<SealKeyId>() }) },
  ],
  [
    'a passkey that was changed by a byte',
    'passkeyNotSealed',
    { request: ({ passkey }) => ({ passkey: flipped(passkey, 60) }) },
  ],
  [
    'a passkey whose seal was changed by a byte',
    'passkeyNotSealed',
    { request: ({ passkeySeal }) => ({ passkeySeal: flipped(passkeySeal, 0) }) },
  ],
  [
    'a passkey with the seal of the operation',
    'passkeyNotSealed',
    { request: ({ operationSeal }) => ({ passkeySeal: operationSeal }) },
  ],
];

describe('an agent seals no decision by', () => {
  for (const [what, verdict, situation] of MISTAKES)
    test(what, async () => {
      const found = await decide(situation);
      assert.equal(found.verdict, verdict);
      const { decision, decisionSeal, passkey, passkeySeal } = found.reply;
      for (const sealed of [decision, decisionSeal, passkey, passkeySeal])
        assert.equal(sealed.length, 0);
    });

  test('an RSA key of fewer than 2,048 bits, or a key on another curve', async () => {
    const { privateKey: short, publicKey } = generateKeyPairSync('rsa', { modulusLength: 1_024 });
    const weak = await decide({
      algorithm: 'RS256',
      passkey: { publicKey: publicKey.export({ format: 'der', type: 'spki' }) },
      answer: { signWith: short },
    });
    assert.equal(weak.verdict, 'signature');
    const other = generateKeyPairSync('ec', { namedCurve: 'P-384' });
    const elsewhere = await decide({
      passkey: { publicKey: other.publicKey.export({ format: 'der', type: 'spki' }) },
      answer: { signWith: other.privateKey },
    });
    assert.equal(elsewhere.verdict, 'signature');
  });

  test('a decision that is neither to approve nor to reject', async () => {
    await assert.rejects(decide({ request: () => ({ decision: 3 }) }), { reason: 'INTERNAL' });
  });
});
