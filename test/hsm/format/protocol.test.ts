/**
 * The frames between server and agent: requests, replies and failures, and cutting a stream into
 * them.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { MAX_PLAINTEXT_BYTES } from '../../../src/hsm/ciphertext.ts';
import {
  decodeReply,
  decodeRequest,
  encodeFailure,
  encodeReply,
  encodeRequest,
  frameReader,
  MAX_FRAME_BYTES,
  MAX_PAGED_BYTES,
  OPERATIONS,
  type OperationName,
  pagesOf,
  type ReplyOf,
  type RequestOf,
  readRequest,
  replyId,
  requestBytes,
} from '../../../src/hsm/protocol.ts';
import { OAEP_HASHES, TOKEN_OBJECT_ROLES } from '../../../src/hsm/token-profile.ts';
import {
  type EnvironmentId,
  type KeyId,
  newId,
  type OperationId,
  type RootKeyId,
  type SealKeyId,
  type TenantId,
} from '../../../src/ids.ts';
import { bytes, bytesUpTo, uuid } from './sealing.ts';

const plain = { noNullPrototype: true } as const;
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u16 = fc.integer({ min: 0, max: 0xffff });
const u8 = fc.integer({ min: 0, max: 0xff });
const deadline = fc.double({ noNaN: true });

const bound = { subject: bytes(16), contextDigest: bytes(32), keyVersion: bytesUpTo(200) };
const identity = {
  tenantId: uuid<TenantId>(),
  keyId: uuid<KeyId>(),
  version: u32,
  algorithm: u16,
  rootKeyId: uuid<RootKeyId>(),
  sealKeyId: uuid<SealKeyId>(),
};
const sealedVersion = fc.record(
  { ...identity, wrap: u8, wrapped: bytes(72), checkValue: bytes(16), seal: bytes(32) },
  plain,
);
const text = fc.string({ unit: 'binary' }).map((each) => each.toWellFormed());
const token = { module: text, token: text, pinFile: text, waivers: fc.array(text) };
const environmentId = uuid<EnvironmentId>();
const profile = fc.record(
  {
    keyType: u32,
    wrapMechanism: u32,
    wrap: u8,
    modifiable: fc.constantFrom('last', 'first'),
    valueLength: fc.boolean(),
    allowedMechanisms: fc.boolean(),
    unsupported: fc.array(text),
  },
  plain,
);
const role = fc.constantFrom(...TOKEN_OBJECT_ROLES);
const objects = fc.array(
  fc.record(
    { objectId: uuid(), role, presence: fc.constantFrom('expected', 'possible', 'gone') },
    { ...plain, requiredKeys: ['objectId', 'role'] },
  ),
);
const hash = fc.constantFrom(...OAEP_HASHES);
const offer = fc.record({ modulus: text, hashes: fc.array(hash), wrap: u8 }, plain);
const choice = fc.record(
  { kind: fc.constantFrom('aes-key-wrap', 'rsa-oaep'), hash, wrapped: text },
  plain,
);
const held = { held: fc.array(uuid()), problems: fc.array(text) };

const decided = {
  operation: bytesUpTo(300),
  operationSealKeyId: uuid<SealKeyId>(),
  operationSeal: bytes(32),
  decision: u8,
  passkey: bytesUpTo(300),
  passkeySealKeyId: uuid<SealKeyId>(),
  passkeySeal: bytes(32),
  clientDataJson: bytesUpTo(300),
  authenticatorData: bytesUpTo(64),
  signature: bytesUpTo(300),
  decidedAt: fc.date({ min: new Date(0), noInvalidDate: true }),
};
const sealed = fc.record(
  { content: bytesUpTo(200), sealKeyId: uuid<SealKeyId>(), seal: bytes(32) },
  plain,
);
const warrant = fc.record(
  {
    operationId: uuid<OperationId>(),
    method: text,
    request: bytesUpTo(300),
    requester: text,
    expiresAt: fc.date({ min: new Date(0), noInvalidDate: true }),
    assertions: fc.array(
      fc.record(
        {
          credentialId: bytesUpTo(64),
          clientDataJson: bytesUpTo(200),
          authenticatorData: bytesUpTo(64),
          signature: bytesUpTo(100),
        },
        plain,
      ),
      { maxLength: 3 },
    ),
    tenant: sealed,
  },
  plain,
);
const orNone = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });
const head = fc.record({ generation: fc.nat(), treeSize: fc.maxSafeNat(), rootHash: text }, plain);

/** The bounds of a key's epochs, or none. */
const epoch = orNone(fc.record({ maxMessages: u32, maxAgeSeconds: u32 }, plain));

/** Several items of an operation on many. */
const itemsOf = <Rest>(rest: fc.Arbitrary<Rest>) =>
  fc.array(
    fc.tuple(bytes(32), rest).map(([contextDigest, own]) => ({ contextDigest, ...own })),
    { maxLength: 5 },
  );

/** A request of every operation; the types see to it that none is missing. */
const requests: { readonly [Name in OperationName]: fc.Arbitrary<RequestOf<Name>> } = {
  start: fc.record(
    {
      ...token,
      environmentId,
      profile,
      objects,
      keyCacheSize: u16,
      despiteFailedTry: fc.boolean(),
    },
    plain,
  ),
  initializeToken: fc.record({ ...token, environmentId, recorded: objects }, plain),
  createKeyVersion: fc.record(identity, plain),
  seal: fc.record({ ...bound, purpose: u8, plaintext: bytesUpTo(300), epoch }, plain),
  open: fc.record({ ...bound, ciphertext: bytesUpTo(300), epoch }, plain),
  issueDataKey: fc.record({ ...bound, purpose: u8, length: u32, reveal: u8, epoch }, plain),
  reseal: fc.record(
    {
      ...bound,
      sourceKeyVersion: bytesUpTo(200),
      sourceSubject: bytes(16),
      sourceContextDigest: bytes(32),
      ciphertext: bytesUpTo(300),
      sourceEpoch: epoch,
      epoch,
    },
    plain,
  ),
  sealAll: fc.record(
    { keyVersion: bytesUpTo(200), items: itemsOf(fc.record({ plaintext: bytesUpTo(300) }, plain)) },
    plain,
  ),
  openAll: fc.record(
    {
      keyVersion: bytesUpTo(200),
      items: itemsOf(fc.record({ ciphertext: bytesUpTo(300) }, plain)),
    },
    plain,
  ),
  issueDataKeys: fc.record(
    { keyVersion: bytesUpTo(200), items: itemsOf(fc.record({ length: u32 }, plain)) },
    plain,
  ),
  resealAll: fc.record(
    {
      sourceKeyVersion: bytesUpTo(200),
      keyVersion: bytesUpTo(200),
      items: itemsOf(
        fc.record({ sourceContextDigest: bytes(32), ciphertext: bytesUpTo(300) }, plain),
      ),
    },
    plain,
  ),
  rewrap: fc.record(
    {
      keyVersion: bytesUpTo(200),
      sourceKeyVersions: fc.array(bytesUpTo(200), { maxLength: 3 }),
      items: fc.array(
        fc.record(
          { source: u16, subject: bytes(16), contextDigest: bytes(32), ciphertext: bytesUpTo(300) },
          plain,
        ),
        { maxLength: 5 },
      ),
    },
    plain,
  ),
  transfer: fc.record(
    {
      sealKeyId: uuid<SealKeyId>(),
      items: fc.array(
        fc.record({ rootKeyId: uuid<RootKeyId>(), keyVersion: bytesUpTo(200) }, plain),
        {
          maxLength: 5,
        },
      ),
    },
    plain,
  ),
  sealRecords: fc.record(
    {
      sealKeyId: uuid<SealKeyId>(),
      kind: u8,
      contents: fc.array(bytesUpTo(200), { maxLength: 5 }),
    },
    plain,
  ),
  resealRecords: fc.record(
    {
      formerKeyId: uuid<SealKeyId>(),
      sealKeyId: uuid<SealKeyId>(),
      kind: u8,
      items: fc.array(fc.record({ content: bytesUpTo(200), seal: bytesUpTo(40) }, plain), {
        maxLength: 5,
      }),
    },
    plain,
  ),
  sealPolicyChange: fc.record(
    {
      sealKeyId: uuid<SealKeyId>(),
      tenantId: uuid<TenantId>(),
      before: orNone(sealed),
      lines: bytesUpTo(300),
      isAdded: u8,
      line: bytesUpTo(200),
      warrant: orNone(warrant),
    },
    plain,
  ),
  sealRecordChange: fc.record(
    {
      sealKeyId: uuid<SealKeyId>(),
      kind: u8,
      before: orNone(sealed),
      content: bytesUpTo(300),
      warrant: orNone(warrant),
    },
    plain,
  ),
  nameTenant: fc.record({ sealKeyId: uuid<SealKeyId>(), name: text }, plain),
  decide: fc.record({ sealKeyId: uuid<SealKeyId>(), ...decided }, plain),
  verifyRecords: fc.record(
    {
      sealKeyId: uuid<SealKeyId>(),
      kind: u8,
      items: fc.array(fc.record({ content: bytesUpTo(200), seal: bytesUpTo(40) }, plain), {
        maxLength: 5,
      }),
    },
    plain,
  ),
  hold: fc.record({ objects }, plain),
  createTokenKey: fc.record({ ...token, environmentId, profile, role, objectId: uuid() }, plain),
  destroyTokenKeys: fc.record({ ...token, environmentId, objects }, plain),
  measure: fc.record({}, plain),
  forget: fc.record({ ofId: fc.oneof(bytes(0), bytes(16)) }, plain),
  forgetEpochs: fc.record({ ofId: fc.oneof(bytes(0), bytes(16)) }, plain),
  random: fc.record({ length: u32 }, plain),
  deriveMaskKey: fc.record({ tenantId: uuid<TenantId>(), period: u32 }, plain),
  deriveWriterKey: fc.record(
    { replicaId: uuid(), maskKeyId: fc.oneof(bytes(0), bytes(16)) },
    plain,
  ),
  signCheckpoint: fc.record(
    {
      generation: fc.nat(),
      treeSize: fc.maxSafeNat(),
      rootHash: text,
      known: fc.array(text),
      proofs: fc.array(fc.record({ fromSize: fc.maxSafeNat(), hashes: fc.array(text) }, plain)),
    },
    plain,
  ),
  signResumption: fc.record(
    {
      ...token,
      environmentId,
      profile,
      objects,
      generation: fc.nat(),
      left: head,
      from: head,
      before: fc.option(text),
    },
    plain,
  ),
  readKeptCheckpoint: fc.record({}, plain),
  readAuditKey: fc.record({}, plain),
  keepCheckpoint: fc.record(
    { ...token, environmentId, profile, objects, note: text, despiteFailedTry: fc.boolean() },
    plain,
  ),
  report: fc.record({ objects }, plain),
  inspectToken: fc.record(
    { ...token, environmentId, profile, objects, despiteFailedTry: fc.boolean() },
    plain,
  ),
  identifyToken: fc.record(token, plain),
  surveyToken: fc.record({ ...token, environmentId, objects }, plain),
  probeToken: fc.record({ ...token, environmentId }, plain),
  openMoveTarget: fc.record({ ...token, environmentId, profile, objects }, plain),
  openMoveSource: fc.record({ ...token, environmentId, profile, objects, offer }, plain),
  acceptTransport: choice,
  exportKeyVersions: fc.record({ keyVersions: fc.array(bytesUpTo(200), { maxLength: 5 }) }, plain),
  importKeyVersions: fc.record(
    {
      sealKeyId: uuid<SealKeyId>(),
      items: fc.array(
        fc.record(
          { rootKeyId: uuid<RootKeyId>(), keyVersion: bytesUpTo(200), wrapped: bytesUpTo(400) },
          plain,
        ),
        { maxLength: 5 },
      ),
    },
    plain,
  ),
};

const posture = fc.record(
  {
    module: fc.record({ description: text, version: text, manufacturer: text }, plain),
    label: text,
    serialNumber: text,
    manufacturer: text,
    model: text,
    firmwareVersion: text,
    hardwareVersion: text,
    profile: fc.record(
      {
        keyType: text,
        wrapMechanism: text,
        attributeOrder: text,
        valueLength: fc.boolean(),
        allowedMechanisms: fc.boolean(),
        unsupportedAttributes: fc.array(text),
      },
      plain,
    ),
    objects: fc.array(
      fc.record(
        {
          objectId: uuid(),
          role,
          condition: fc.constantFrom('found', 'missing', 'duplicated', 'mislabelled'),
          attributes: fc.array(
            fc.record(
              {
                attribute: text,
                required: text,
                state: fc.constantFrom('enforced', 'unsupported', 'waived', 'violated'),
              },
              plain,
            ),
          ),
        },
        plain,
      ),
    ),
    unrecorded: fc.array(fc.record({ objectId: text, label: text }, plain)),
  },
  plain,
);

/** A reply of every operation. */
const replies: { readonly [Name in OperationName]: fc.Arbitrary<ReplyOf<Name>> } = {
  start: fc.record(
    { module: text, token: text, serialNumber: text, findings: fc.constant([]), ...held },
    plain,
  ),
  initializeToken: fc.record({ profile, objects, label: text, serialNumber: text }, plain),
  createKeyVersion: sealedVersion,
  seal: fc.record({ ciphertext: bytesUpTo(300) }, plain),
  open: fc.record({ plaintext: bytesUpTo(300) }, plain),
  issueDataKey: fc.record({ plaintext: bytesUpTo(64), ciphertext: bytesUpTo(300) }, plain),
  reseal: fc.record({ ciphertext: bytesUpTo(300) }, plain),
  sealAll: fc.record({ ciphertexts: fc.array(bytesUpTo(300), { maxLength: 5 }) }, plain),
  openAll: fc.record(
    {
      results: fc.array(fc.record({ outcome: u8, plaintext: bytesUpTo(300) }, plain), {
        maxLength: 5,
      }),
    },
    plain,
  ),
  issueDataKeys: fc.record(
    {
      dataKeys: fc.array(
        fc.record({ plaintext: bytesUpTo(64), ciphertext: bytesUpTo(300) }, plain),
        { maxLength: 5 },
      ),
    },
    plain,
  ),
  resealAll: fc.record(
    {
      results: fc.array(fc.record({ outcome: u8, ciphertext: bytesUpTo(300) }, plain), {
        maxLength: 5,
      }),
    },
    plain,
  ),
  rewrap: fc.record(
    {
      results: fc.array(fc.record({ outcome: u8, ciphertext: bytesUpTo(300) }, plain), {
        maxLength: 5,
      }),
    },
    plain,
  ),
  transfer: fc.record({ keyVersions: fc.array(bytesUpTo(300), { maxLength: 5 }) }, plain),
  sealRecords: fc.record({ seals: fc.array(bytes(32), { maxLength: 5 }) }, plain),
  resealRecords: fc.record({ seals: fc.array(bytes(32), { maxLength: 5 }) }, plain),
  sealPolicyChange: fc.record({ seal: bytes(32) }, plain),
  sealRecordChange: fc.record({ seal: bytes(32) }, plain),
  nameTenant: fc.record(
    { tenantId: uuid<TenantId>(), content: bytesUpTo(100), seal: bytes(32) },
    plain,
  ),
  decide: fc.record(
    {
      verdict: u8,
      decision: bytesUpTo(300),
      decisionSeal: bytesUpTo(32),
      passkey: bytesUpTo(300),
      passkeySeal: bytesUpTo(32),
    },
    plain,
  ),
  verifyRecords: fc.record({ verified: fc.array(u8, { maxLength: 5 }) }, plain),
  hold: fc.record(held, plain),
  createTokenKey: fc.record({}, plain),
  destroyTokenKeys: fc.record({ destroyed: fc.nat() }, plain),
  forget: fc.record({}, plain),
  forgetEpochs: fc.record({}, plain),
  random: fc.record({ bytes: bytesUpTo(300) }, plain),
  deriveMaskKey: fc.record({ key: bytes(32) }, plain),
  deriveWriterKey: fc.record({ key: fc.oneof(bytes(0), bytes(32)), maskKeyId: uuid() }, plain),
  signCheckpoint: fc.oneof(
    fc.record({ note: text, spki: text }, plain),
    fc.record({ needsProofFrom: fc.maxSafeNat() }, plain),
    fc.record({ conflictsWith: fc.maxSafeNat(), conflictingNote: text }, plain),
  ),
  signResumption: fc.record({ note: text, hasSignedBefore: fc.boolean() }, plain),
  readKeptCheckpoint: fc.record({ note: fc.option(text) }, plain),
  readAuditKey: fc.record({ spki: bytesUpTo(200) }, plain),
  keepCheckpoint: fc.record({}, plain),
  report: posture,
  inspectToken: posture,
  identifyToken: fc.record({ label: text, serialNumber: text }, plain),
  surveyToken: fc.record(
    {
      label: text,
      serialNumber: text,
      module: text,
      lacks: fc.array(text),
      wraps: fc.array(u8),
      oaep: fc.boolean(),
      objects: fc.array(
        fc.record(
          { objectId: uuid(), role, condition: fc.constantFrom('found', 'missing') },
          plain,
        ),
      ),
      unrecorded: fc.array(fc.record({ objectId: text, label: text }, plain)),
    },
    plain,
  ),
  probeToken: fc.record({ profile }, plain),
  openMoveTarget: offer,
  openMoveSource: choice,
  acceptTransport: fc.record({}, plain),
  exportKeyVersions: fc.record({ wrapped: fc.array(bytesUpTo(400), { maxLength: 5 }) }, plain),
  importKeyVersions: fc.record({ keyVersions: fc.array(bytesUpTo(300), { maxLength: 5 }) }, plain),
  measure: fc.record(
    {
      keysLoaded: fc.nat(),
      epochsKept: fc.nat(),
      operations: fc.dictionary(
        text,
        fc.record({ count: fc.nat(), seconds: fc.nat() }, plain),
        plain,
      ),
    },
    plain,
  ),
};

const NAMES = Object.keys(OPERATIONS) as OperationName[];

/** Asserts that a request is read as it was written. */
function requestSurvives<Name extends OperationName>(name: Name): void {
  fc.assert(
    fc.property(requests[name], u32, deadline, (request, requestId, until) => {
      const frame = encodeRequest(requestId, name, until, request);
      const read = readRequest(frame);
      assert.deepEqual(
        { requestId: read.requestId, name: read.name, deadline: read.deadline },
        { requestId, name, deadline: until },
      );
      assert.deepEqual(decodeRequest(name, read.frame), request);
      assert.equal(frame.readUInt32BE(0), frame.length - 4);
      assert.equal(requestBytes(name, request), frame.length - 17);
    }),
  );
}

/** Asserts that a reply is read as it was written. */
function replySurvives<Name extends OperationName>(name: Name): void {
  fc.assert(
    fc.property(replies[name], u32, (reply, requestId) => {
      const frame = encodeReply(requestId, name, reply);
      assert.deepEqual(decodeReply(name, frame), { reply });
      assert.equal(replyId(frame), requestId);
      assert.equal(frame.readUInt32BE(0), frame.length - 4);
    }),
  );
}

describe('a request', () => {
  for (const name of NAMES) {
    it(`${name} is read as it was written, with its id and deadline`, () => requestSurvives(name));
  }

  it('with the largest plaintext fits into a frame', () => {
    fc.assert(
      fc.property(requests.seal, (request) => {
        const largest = { ...request, plaintext: Buffer.alloc(MAX_PLAINTEXT_BYTES) };
        const seen: Buffer[] = [];
        frameReader((frame) => seen.push(frame))(encodeRequest(1, 'seal', 0, largest));
        assert.equal(seen.length, 1);
      }),
      { numRuns: 5 },
    );
  });

  it('that names no operation throws RangeError', () => {
    const known = new Set<number>(Object.values(OPERATIONS).map(({ code }) => code));
    assert.equal(known.size, Object.keys(OPERATIONS).length, 'two operations have one code');
    const frame = Buffer.alloc(17);
    for (let code = 0; code < 256; code++) {
      frame.writeUInt8(code, 8);
      if (known.has(code)) assert.equal(OPERATIONS[readRequest(frame).name].code, code);
      else assert.throws(() => readRequest(frame), RangeError);
    }
  });

  it('cut within its head or its record throws RangeError', () => {
    fc.assert(
      fc.property(requests.seal, fc.nat(), (request, at) => {
        const frame = encodeRequest(1, 'seal', 0, request);
        const cut = frame.subarray(0, at % frame.length);
        assert.throws(() => decodeRequest('seal', readRequest(cut).frame), RangeError);
      }),
    );
  });
});

describe('a reply', () => {
  for (const name of NAMES) {
    it(`of ${name} is read as it was written, under the id of its request`, () =>
      replySurvives(name));
  }

  it('that is a failure is one for every operation, with its kind and detail', () => {
    fc.assert(
      fc.property(u32, text, (requestId, detail) => {
        const frame = encodeFailure(requestId, { kind: 'row-corrupt', detail });
        assert.equal(replyId(frame), requestId);
        for (const name of NAMES) {
          assert.deepEqual(decodeReply(name, frame), { failure: { kind: 'row-corrupt', detail } });
        }
      }),
    );
  });
});

describe('a stream of frames', () => {
  const frames = fc.array(
    bytesUpTo(60).map((body) => {
      const frame = Buffer.alloc(4 + body.length);
      frame.writeUInt32BE(body.length);
      body.copy(frame, 4);
      return frame;
    }),
    { maxLength: 8 },
  );

  it('gives the same frames however it is cut into chunks', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(500), { maxLength: 30 }), (sent, cuts) => {
        const stream = Buffer.concat(sent);
        assert.deepEqual(received(chunksOf(stream, cuts)), sent);
      }),
      { numRuns: 1_000 },
    );
  });

  it('gives the same frames byte by byte, with empty chunks between', () => {
    fc.assert(
      fc.property(frames, (sent) => {
        const single = [...Buffer.concat(sent)].flatMap((byte) => [
          Buffer.from([byte]),
          Buffer.alloc(0),
        ]);
        assert.deepEqual(received(single), sent);
      }),
    );
  });

  it('gives each frame as soon as its last byte is there, and not before', () => {
    const frame = Buffer.from('00000003616263', 'hex');
    const seen: Buffer[] = [];
    const read = frameReader((each) => seen.push(each));
    read(frame.subarray(0, -1));
    assert.equal(seen.length, 0);
    read(frame.subarray(-1));
    assert.deepEqual(seen, [frame]);
  });

  it('may hold a frame of the largest size, and throws RangeError at the head of a larger one', () => {
    const head = (length: number) => {
      const four = Buffer.alloc(4);
      four.writeUInt32BE(length);
      return four;
    };
    const largest = Buffer.concat([head(MAX_FRAME_BYTES - 4), Buffer.alloc(MAX_FRAME_BYTES - 4)]);
    // Not deepEqual: to show how two of these differ takes minutes.
    assert.deepEqual(
      received([largest]).map((frame) => frame.equals(largest)),
      [true],
    );
    for (const length of [MAX_FRAME_BYTES - 3, MAX_FRAME_BYTES, 0x7fffffff, 0xffffffff]) {
      assert.throws(() => received([head(length)]), RangeError, `${length}`);
      // Also when the head comes in two chunks, behind a whole frame.
      assert.throws(
        () =>
          received([
            Buffer.from('0000000161', 'hex'),
            head(length).subarray(0, 2),
            head(length).subarray(2),
          ]),
        RangeError,
      );
    }
  });
});

describe('a frame that travels in pages', () => {
  const frameOf = (length: number) => {
    const frame = randomBytes(length);
    frame.writeUInt32BE(length - 4, 0);
    return frame;
  };

  it('comes out as it went in, however it is cut, between others', () => {
    const sent = [5, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1, 12, 3 * MAX_FRAME_BYTES, 4].map(frameOf);
    const stream = Buffer.concat(sent.flatMap(pagesOf));
    for (const step of [stream.length, MAX_FRAME_BYTES, 65_536, 1_000_003]) {
      const cuts = Array.from({ length: Math.floor(stream.length / step) }, (_, i) => i * step);
      const frames = received(chunksOf(stream, cuts));
      assert.deepEqual(
        frames.map((frame, index) => frame.equals(sent[index] ?? Buffer.alloc(0))),
        sent.map(() => true),
      );
    }
  });

  it('has no page beyond the largest frame, and shares its bytes with them', () => {
    const frame = frameOf(2 * MAX_FRAME_BYTES);
    const pages = pagesOf(frame);
    assert.ok(pages.every(({ length }) => length <= MAX_FRAME_BYTES));
    frame.fill(0);
    assert.ok(pages.filter((_, index) => index % 2 === 1).every((part) => part.every((b) => !b)));
    const small = frameOf(100);
    assert.deepEqual(pagesOf(small), [small]);
  });

  it('has an end: RangeError for pages without one, and for a message that needs them', () => {
    const page = Buffer.alloc(MAX_FRAME_BYTES);
    page.writeUInt32BE(MAX_FRAME_BYTES - 4 + 0x8000_0000, 0);
    const read = frameReader(() => assert.fail('it never ends'));
    const pages = Math.ceil(MAX_PAGED_BYTES / MAX_FRAME_BYTES);
    assert.throws(() => {
      for (let count = 0; count <= pages; count++) read(Buffer.from(page));
    }, RangeError);
    const contents = [Buffer.alloc(MAX_PAGED_BYTES)];
    const request = { sealKeyId: newId<SealKeyId>(), kind: 1, contents };
    assert.throws(() => encodeRequest(1, 'sealRecords', 0, request), RangeError);
    assert.throws(() => encodeReply(1, 'sealRecords', { seals: contents }), RangeError);
  });
});

/** Copies, as an agent zeroes frames once they are done with. */
function received(chunks: readonly Buffer[]): Buffer[] {
  const seen: Buffer[] = [];
  const read = frameReader((frame) => {
    seen.push(Buffer.from(frame));
    frame.fill(0);
  });
  for (const chunk of chunks) read(Buffer.from(chunk));
  return seen;
}

function chunksOf(stream: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [0, ...cuts.filter((cut) => cut < stream.length), stream.length].sort(
    (a, b) => a - b,
  );
  return places.slice(1).map((end, index) => stream.subarray(places[index], end));
}
