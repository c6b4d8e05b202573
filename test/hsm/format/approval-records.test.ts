/**
 * Pending operations, passkeys and decisions as bytes, and the challenge that a passkey signs:
 * nothing of them can be changed without changing the bytes.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import {
  assertionDigestOf,
  type ChallengeInput,
  challengeOf,
  type DecisionRecord,
  decisionContent,
  type PasskeyRecord,
  PENDING_OPERATION_STATES,
  type PendingOperationRecord,
  passkeyContent,
  pendingOperationContent,
  readDecision,
  readPasskey,
  readPendingOperation,
} from '../../../src/hsm/approval-records.ts';
import type { AnyId, EnvironmentId, OperationId, TenantId } from '../../../src/ids.ts';
import { bytesUpTo } from './sealing.ts';

const plain = { noNullPrototype: true } as const;
/** Few of each, so that two records often differ in one thing alone. */
const text = fc.string({ maxLength: 3, unit: fc.constantFrom('a', '"', '\\', ',', '\0', 'ü') });
const time = fc.integer({ min: 0, max: 3 }).map((ms) => new Date(ms));
const revision = fc.bigInt({ min: 0n, max: 3n });
const id = <Id extends AnyId>() =>
  fc.constantFrom(
    '6eabe15a-6bf6-40d1-b6d8-bf485b3e2f05' as Id,
    '3bbcb5e8-6f31-4d00-a771-acdd58a64a76' as Id,
  );
const few = bytesUpTo(1);
const decision = fc.constantFrom('approve' as const, 'reject' as const);

const operation: fc.Arbitrary<PendingOperationRecord> = fc.record(
  {
    operationId: id<OperationId>(),
    tenantId: id<TenantId>(),
    revision,
    state: fc.constantFrom(...PENDING_OPERATION_STATES),
    method: text,
    permission: text,
    resource: text,
    requestDigest: few,
    previewDigest: fc.option(few, { nil: undefined }),
    requester: text,
    requesterGroups: fc.array(text, { maxLength: 2 }),
    requesterTenants: fc.option(fc.array(text, { maxLength: 2 }), { nil: undefined }),
    rule: fc.record(
      {
        tenant: text,
        ruleId: text,
        approvals: fc.integer({ min: 0, max: 3 }),
        approvers: fc.array(
          fc.record({ kind: fc.constantFrom('principal', 'group'), name: text }, plain),
          { maxLength: 2 },
        ),
      },
      plain,
    ),
    isGlassBroken: fc.boolean(),
    deciders: fc.array(
      fc.record(
        {
          name: text,
          groups: fc.array(text, { maxLength: 2 }),
          tenants: fc.option(fc.array(text, { maxLength: 2 }), { nil: undefined }),
        },
        plain,
      ),
      { maxLength: 2 },
    ),
    createdAt: time,
    expiresAt: time,
  },
  plain,
);
const passkey: fc.Arbitrary<PasskeyRecord> = fc.record(
  {
    credentialId: few,
    principal: text,
    algorithm: fc.constantFrom(-7, -8, -257),
    publicKey: few,
    signCount: fc.integer({ min: 0, max: 3 }),
    isBackupEligible: fc.boolean(),
    relyingPartyId: text,
    aaguid: id<AnyId>(),
    attestation: text,
    displayName: text,
    createdAt: time,
    lastUsedAt: fc.option(time, { nil: undefined }),
    isRemoved: fc.boolean(),
    revision,
  },
  plain,
);
const decided: fc.Arbitrary<DecisionRecord> = fc.record(
  {
    operationId: id<OperationId>(),
    decision,
    approver: text,
    credentialId: few,
    challenge: few,
    assertionDigest: few,
    decidedAt: time,
  },
  plain,
);
const challenge: fc.Arbitrary<ChallengeInput> = fc.record(
  {
    environmentId: id<EnvironmentId>(),
    operationId: id<OperationId>(),
    method: text,
    requestDigest: fc.constantFrom(Buffer.alloc(32, 1), Buffer.alloc(32, 2)),
    requester: text,
    decision,
    expiresAt: time,
  },
  plain,
);

const isSame = (one: unknown, other: unknown) => {
  try {
    assert.deepEqual(one, other);
    return true;
  } catch {
    return false;
  }
};

/** That a kind of record has a content of its own for each, which reads back as it was. */
function hasItsOwnContent<T extends object>(
  record: fc.Arbitrary<T>,
  contentOf: (record: T) => Buffer,
  read: (content: Buffer) => T,
): void {
  fc.assert(
    fc.property(record, record, fc.nat(), (one, other, index) => {
      const content = contentOf(one);
      assert.deepEqual(read(content), one);
      assert.equal(contentOf(other).equals(content), isSame(one, other));
      const names = Object.keys(one) as (keyof T)[];
      const name = names[index % names.length] as keyof T;
      const changed = { ...one, [name]: other[name] };
      assert.equal(contentOf(changed).equals(content), isSame(one[name], other[name]));
    }),
    { numRuns: 1_000 },
  );
}

/** That bytes are read only as what they would be written of, or not at all. */
function readsNoOther<T>(
  record: fc.Arbitrary<T>,
  contentOf: (record: T) => Buffer,
  read: (content: Buffer) => T,
): void {
  fc.assert(
    fc.property(record, fc.nat(), fc.integer({ min: 1, max: 255 }), (one, position, change) => {
      const bytes = contentOf(one);
      const at = position % bytes.length;
      bytes.writeUInt8(bytes.readUInt8(at) ^ change, at);
      let reading: T;
      try {
        reading = read(bytes);
      } catch (error) {
        assert.ok(error instanceof RangeError);
        return;
      }
      assert.ok(contentOf(reading).equals(bytes));
    }),
    { numRuns: 2_000 },
  );
  for (const content of ['', 'null', '[]', '{}', '[1', '"text"'])
    assert.throws(() => read(Buffer.from(content)), RangeError);
}

describe('a pending operation as bytes', () => {
  it('is read as it was written, and no two are the same', () =>
    hasItsOwnContent(operation, pendingOperationContent, readPendingOperation));
  it('is read from no other bytes', () =>
    readsNoOther(operation, pendingOperationContent, readPendingOperation));
  it('is refused with a time that is none', () => {
    const [sound] = fc.sample(operation, 1);
    assert.ok(sound);
    const wrong = { ...sound, expiresAt: new Date(Number.NaN) };
    assert.throws(() => pendingOperationContent(wrong), RangeError);
  });
});

describe('a passkey as bytes', () => {
  it('is read as it was written, and no two are the same', () =>
    hasItsOwnContent(passkey, passkeyContent, readPasskey));
  it('is read from no other bytes', () => readsNoOther(passkey, passkeyContent, readPasskey));
});

describe('a decision as bytes', () => {
  it('is read as it was written, and no two are the same', () =>
    hasItsOwnContent(decided, decisionContent, readDecision));
  it('is read from no other bytes', () => readsNoOther(decided, decisionContent, readDecision));
});

describe('a challenge', () => {
  it('is another as soon as anything is that it is made of', () => {
    fc.assert(
      fc.property(challenge, challenge, (one, other) => {
        assert.equal(challengeOf(one).equals(challengeOf(other)), isSame(one, other));
      }),
      { numRuns: 1_000 },
    );
  });

  it('is what the documentation has, byte by byte', () => {
    const given: ChallengeInput = {
      environmentId: '00112233-4455-6677-8899-aabbccddeeff' as EnvironmentId,
      operationId: 'ffeeddcc-bbaa-9988-7766-554433221100' as OperationId,
      method: 'keyward.v1.KeyService/DestroyKey',
      requestDigest: createHash('sha256').update('{}').digest(),
      requester: 'spiffe://example.org/anna',
      decision: 'reject',
      expiresAt: new Date(1_767_225_600_000),
    };
    const input = Buffer.concat([
      Buffer.from('keyward/v1/approval\0', 'latin1'),
      Buffer.from('00112233445566778899aabbccddeeff', 'hex'),
      Buffer.from('ffeeddccbbaa99887766554433221100', 'hex'),
      Buffer.from('0020', 'hex'),
      Buffer.from('keyward.v1.KeyService/DestroyKey'),
      Buffer.from('44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a', 'hex'),
      Buffer.from('0019', 'hex'),
      Buffer.from('spiffe://example.org/anna'),
      Buffer.from('02', 'hex'),
      Buffer.from('0000019b76daa800', 'hex'),
    ]);
    assert.deepEqual(challengeOf(given), createHash('sha256').update(input).digest());
  });

  it('is refused for a digest of another length', () => {
    fc.assert(
      fc.property(challenge, bytesUpTo(40), (one, requestDigest) => {
        fc.pre(requestDigest.length !== 32);
        assert.throws(() => challengeOf({ ...one, requestDigest }), RangeError);
      }),
    );
  });
});

describe('the digest of an assertion', () => {
  const assertion = fc.record({ clientDataJson: few, authenticatorData: few, signature: few });
  it('is another as soon as a byte stands elsewhere', () => {
    fc.assert(
      fc.property(assertion, assertion, (one, other) => {
        assert.equal(
          assertionDigestOf(one).equals(assertionDigestOf(other)),
          isSame({ ...one }, { ...other }),
        );
      }),
      { numRuns: 1_000 },
    );
  });
});
