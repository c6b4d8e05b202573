/**
 * Approvals in an export, by both verifiers (`both.ts`): entries written here from
 * docs/approvals.md, signed by an authenticator in software.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { verifyAuditExport } from '../../client/src/index.ts';
import {
  type AssertionRequest,
  type AuthenticatorAlgorithm,
  SoftwareAuthenticator,
} from '../../dev/authenticator.ts';
import { verdict } from './both.ts';
import { ENVIRONMENT, entryLine, newLogKey, sha256, writeExport } from './log.ts';

const key = newLogKey();
const folders: string[] = [];
after(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

const REQUEST = Buffer.from('{"name":"tenants/acme/keys/orders"}');
const METHOD = 'keyward.v1.KeyService/DestroyKey';
const REQUESTER = 'jwt:corp/ann';
const EXPIRES_AT = 1_800_000_000_000 + 86_400_000;
const RP_ID = 'keyward.example';
const UUID = '018f0000-0000-4000-8000-00000000aaaa';
const OPERATION = `tenants/acme/pendingOperations/${UUID}`;

/** A person with one passkey. */
class Person {
  readonly name: string;
  readonly algorithm: AuthenticatorAlgorithm;
  readonly authenticator: SoftwareAuthenticator;
  readonly credentialId: Buffer;

  constructor(name: string, algorithm: AuthenticatorAlgorithm = 'ES256') {
    this.name = name;
    this.algorithm = algorithm;
    const origin = `https://kms.${RP_ID}`;
    this.authenticator = new SoftwareAuthenticator({ rpId: RP_ID, origin, algorithm });
    this.credentialId = this.authenticator.hold();
  }
}

const bob = new Person('jwt:corp/bob');
const cleo = new Person('jwt:corp/cleo', 'EdDSA');
const dan = new Person('jwt:corp/dan', 'RS256');
const ann = new Person(REQUESTER);
const COSE = { ES256: -7, EdDSA: -8, RS256: -257 } as const;
const base64url = (bytes: Buffer) => bytes.toString('base64url');

/** What may be otherwise than in a good decision. */
interface Otherwise {
  /** In the evidence, signed as it stands. */
  readonly evidence?: Readonly<Record<string, unknown>>;
  /** In the evidence, changed after it was signed. */
  readonly changed?: Readonly<Record<string, unknown>>;
  /** In the entry. */
  readonly entry?: Readonly<Record<string, unknown>>;
  /** In what is hashed to the challenge, in the place of the environment's UUID. */
  readonly environment?: string;
  /** In what the authenticator signs. */
  readonly signed?: Partial<AssertionRequest>;
}

function registered({ name, credentialId, authenticator }: Person) {
  const publicKey = base64url(authenticator.publicKeyOf(credentialId));
  return {
    method: 'keyward.v1.PasskeyService/RegisterPasskey',
    ...{ caller: name, resource: `passkeys/${base64url(credentialId)}` },
    change: { kind: 'passkey', after: { publicKey } },
  };
}

function asked(approvalsRequired: number, caller = REQUESTER) {
  return {
    ...{ method: METHOD, caller, outcome: 'APPROVAL_REQUIRED' },
    detail: {
      pendingOperation: OPERATION,
      requestDigest: base64url(sha256(REQUEST)),
      approvalsRequired,
    },
  };
}

function withLength(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.of(bytes.length >> 8, bytes.length & 0xff), bytes]);
}

function decided(person: Person, otherwise: Otherwise = {}) {
  const evidence = {
    ...{ operation: OPERATION, method: METHOD, request: base64url(REQUEST) },
    requestDigest: base64url(sha256(REQUEST)),
    ...{ requester: REQUESTER, decision: 'approve', approver: person.name },
    expiresAt: new Date(EXPIRES_AT).toISOString(),
    credentialId: base64url(person.credentialId),
    publicKey: base64url(person.authenticator.publicKeyOf(person.credentialId)),
    ...{ algorithm: COSE[person.algorithm], relyingPartyId: RP_ID },
    ...otherwise.evidence,
  };
  const uuid = evidence.operation.slice(-36);
  const expiry = Buffer.alloc(8);
  expiry.writeBigUInt64BE(BigInt(Date.parse(evidence.expiresAt)));
  const challenge = sha256(
    Buffer.from('keyward/v1/approval\0', 'latin1'),
    ...[otherwise.environment ?? ENVIRONMENT, uuid].map((each) =>
      Buffer.from(each.replaceAll('-', ''), 'hex'),
    ),
    ...[withLength(evidence.method), Buffer.from(evidence.requestDigest, 'base64url')],
    ...[withLength(evidence.requester), Buffer.of(evidence.decision === 'approve' ? 1 : 2), expiry],
  );
  const { credentialId, authenticator } = person;
  const assertion = authenticator.get({ challenge, credentialId, ...otherwise.signed });
  const method = evidence.decision === 'approve' ? 'ApproveOperation' : 'RejectOperation';
  return {
    ...{ method: `keyward.v1.ApprovalService/${method}`, caller: person.name },
    detail: {
      evidence: {
        ...evidence,
        clientDataJson: base64url(assertion.clientDataJson),
        authenticatorData: base64url(assertion.authenticatorData),
        signature: base64url(assertion.signature),
        ...otherwise.changed,
      },
    },
    ...otherwise.entry,
  };
}

const done = (otherwise: Readonly<Record<string, unknown>> = {}) => ({
  ...{ method: METHOD, caller: REQUESTER, outcome: 'OK' },
  detail: { pendingOperation: OPERATION, approvers: [] },
  ...otherwise,
});

/** What both verifiers say of a log of these entries: undefined, or the entry that is wrong. */
async function wrongIn(entries: readonly object[], first = 0): Promise<number | undefined> {
  const outcome = await verdict(exported(entries, first), { publicKeys: [key.publicPem] });
  if ('verified' in outcome) return undefined;
  assert.equal(outcome.problem, 'APPROVAL');
  return outcome.leafIndex;
}

function exported(entries: readonly object[], first = 0): string {
  const folder = mkdtempSync(join(tmpdir(), 'keyward-approvals-'));
  folders.push(folder);
  const lines = entries.map((entry, index) => entryLine(index, entry));
  writeExport(folder, { key, lines, first });
  return folder;
}

const people = [bob, cleo, dan, ann].map(registered);
/** The place of the first entry behind the registrations. */
const NEXT = people.length;

describe('approvals in an export', () => {
  test('verify where as many people signed the request as it wanted, by each algorithm', async () => {
    const entries = [...people, asked(3), ...[bob, cleo, dan].map((each) => decided(each)), done()];
    assert.equal(await wrongIn(entries), undefined);
    const { approvals } = await verifyAuditExport(exported(entries), {
      publicKeys: [key.publicPem],
    });
    assert.deepEqual(approvals, { decisions: 3, operations: 1, begunBefore: [] });
  });

  test('verify where one person rejected, and nothing was done', async () => {
    const no = decided(bob, { evidence: { decision: 'reject' } });
    assert.equal(await wrongIn([...people, asked(2), no]), undefined);
  });

  test('name what was done on fewer approvals than it wanted', async () => {
    const entries = [...people, asked(2), decided(bob), done()];
    assert.equal(await wrongIn(entries), NEXT + 2);
  });

  test('name what was done on a rejection', async () => {
    const no = decided(bob, { evidence: { decision: 'reject' } });
    assert.equal(await wrongIn([...people, asked(1), no, done()]), NEXT + 2);
  });

  test('name what was done twice on one approval', async () => {
    const entries = [...people, asked(1), decided(bob), done(), done()];
    assert.equal(await wrongIn(entries), NEXT + 3);
  });

  test('name what was done instead of what was approved', async () => {
    const other = done({ method: 'keyward.v1.AdminService/ShredTenant' });
    assert.equal(await wrongIn([...people, asked(1), decided(bob), other]), NEXT + 2);
    const by = done({ caller: cleo.name });
    assert.equal(await wrongIn([...people, asked(1), decided(bob), by]), NEXT + 2);
  });

  test('name what was done as approved and never asked for', async () => {
    assert.equal(await wrongIn([...people, done()]), NEXT);
    assert.equal(await wrongIn([...people, decided(bob), done()]), NEXT);
  });

  test('count one person once, whatever passkeys they have', async () => {
    const second = new Person(bob.name);
    const entries = [
      ...people,
      registered(second),
      asked(2),
      decided(bob),
      decided(second),
      done(),
    ];
    assert.equal(await wrongIn(entries), NEXT + 3);
  });

  test('say that a call was sent again or only looked, which changed nothing', async () => {
    const nothing = ({ change: _, detail: __, ...entry }: { change?: object; detail?: object }) => [
      { ...entry, detail: { repeated: true } },
      { ...entry, detail: { validateOnly: true } },
    ];
    const repeats = [registered(bob), brokenGlass(1), decided(bob), done()].flatMap(nothing);
    assert.equal(await wrongIn([...repeats, ...people, asked(1), decided(bob), done()]), undefined);
    // None of these counts, and what was changed was not sent again.
    assert.equal(await wrongIn([...people, asked(1), ...repeats, done()]), NEXT + 9);
    const twice = { ...done(), change: { kind: 'key', after: {} } };
    const again = { ...twice, detail: { ...twice.detail, repeated: true } };
    assert.equal(await wrongIn([...people, asked(1), decided(bob), twice, again]), NEXT + 3);
  });

  const brokenGlass = (approvals: number) => ({
    method: 'keyward.v1.ApprovalService/BreakGlass',
    ...{ caller: REQUESTER, resource: OPERATION },
    change: { kind: 'pendingOperation', after: { rule: { approvals } } },
  });

  test('count by the rule for emergencies once the glass is broken, and from then on', async () => {
    const start = [...people, asked(3), brokenGlass(1)];
    assert.equal(await wrongIn([...start, decided(bob), done()]), undefined);
    assert.equal(await wrongIn([...start, done()]), NEXT + 2);
    const before = [...people, asked(3), decided(bob), brokenGlass(1), done()];
    assert.equal(await wrongIn(before), NEXT + 3);
    assert.equal(await wrongIn([...people, brokenGlass(1)]), NEXT);
  });

  const mistakes: Readonly<Record<string, Otherwise>> = {
    'an authenticator that did not verify who signed': { signed: { userVerified: false } },
    'an authenticator at which no person was': { signed: { userPresent: false } },
    'another challenge': { signed: { challenge: Buffer.alloc(32) } },
    'another page’s assertion': { signed: { origin: 'https://evil.example' } },
    'a page whose name only ends alike': { signed: { origin: `https://evil${RP_ID}` } },
    'a page without TLS': { signed: { origin: `http://${RP_ID}` } },
    'a page within another': { signed: { crossOrigin: true } },
    'an assertion for another relying party': { signed: { rpId: 'evil.example' } },
    'a registration in the place of an assertion': { signed: { type: 'webauthn.create' } },
    'another person’s key': {
      signed: { signWith: cleo.authenticator.privateKeyOf(cleo.credentialId) },
    },
    'another operation': {
      changed: { operation: OPERATION.replace('aaaa', 'aaab') },
    },
    'another method': { changed: { method: 'keyward.v1.AdminService/ShredTenant' } },
    'another request': {
      changed: {
        request: base64url(Buffer.from('{}')),
        requestDigest: base64url(sha256(Buffer.from('{}'))),
      },
    },
    'a request that is not the digest’s': { changed: { request: base64url(Buffer.from('{}')) } },
    'what was signed in another environment': {
      environment: '018f0000-0000-4000-8000-0000000000ef',
    },
    'another requester': { changed: { requester: dan.name } },
    'a later expiry': { changed: { expiresAt: new Date(EXPIRES_AT + 1).toISOString() } },
    'the rejection of it': {
      evidence: { decision: 'reject' },
      changed: { decision: 'approve' },
      entry: { method: 'keyward.v1.ApprovalService/ApproveOperation' },
    },
    'a decision after the expiry': { entry: { time: '2099-01-01T00:00:00.000Z' } },
    'a decision by another caller than the passkey’s': {
      evidence: { approver: cleo.name },
      entry: { caller: cleo.name },
    },
    'a key that was not registered': {
      changed: { publicKey: base64url(cleo.authenticator.publicKeyOf(cleo.credentialId)) },
    },
    'a passkey that was not registered': { changed: { credentialId: base64url(Buffer.alloc(32)) } },
    'an algorithm that is not the key’s': { changed: { algorithm: -257 } },
    'no evidence': { entry: { detail: {} } },
    'evidence without a signature': { changed: { signature: undefined } },
    'evidence in another encoding': { changed: { signature: 'AB==' } },
  };
  for (const [what, otherwise] of Object.entries(mistakes))
    test(`are not borne out by ${what}`, async () => {
      assert.equal(await wrongIn([...people, asked(1), decided(bob, otherwise)]), NEXT + 1);
    });

  test('are not borne out by the requester’s own passkey', async () => {
    assert.equal(await wrongIn([...people, asked(1), decided(ann)]), NEXT + 1);
  });

  test('of an export that begins later are checked as far as it goes, and said to be', async () => {
    const before = Array.from({ length: 256 - NEXT - 1 }, () => ({}));
    const entries = [...people, asked(2), ...before, decided(bob), done()];
    assert.equal(await wrongIn(entries, 256), undefined);
    const { approvals } = await verifyAuditExport(exported(entries, 256), {
      publicKeys: [key.publicPem],
    });
    assert.deepEqual(approvals, { decisions: 1, operations: 0, begunBefore: [OPERATION] });
    const wrong = decided(bob, { signed: { userVerified: false } });
    assert.equal(await wrongIn([...people, asked(2), ...before, wrong], 256), 256);
  });
});
