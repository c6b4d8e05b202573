/**
 * What every PKCS#11 token must do behind the agents: one suite, run against each module that is at
 * hand.
 *
 * Speaks to agents as the server does, through `HsmAgents`. Knows no module.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { monotonicNow } from '../../src/call.ts';
import { childAgents } from '../../src/hsm/agent-starter.ts';
import { HsmAgents } from '../../src/hsm/agents.ts';
import { NO_SUBJECT, PURPOSE } from '../../src/hsm/ciphertext.ts';
import { encode } from '../../src/hsm/codec.ts';
import { ALGORITHM, type SealedKeyVersion, sealedKeyVersion } from '../../src/hsm/key-version.ts';
import type { ServeSettings } from '../../src/hsm/protocol.ts';
import { RECORD } from '../../src/hsm/record-seal.ts';
import { initializeToken } from '../../src/hsm/token-commands.ts';
import type { TokenReport } from '../../src/hsm/token-profile.ts';
import {
  type AnyId,
  type EnvironmentId,
  type KeyId,
  newId,
  type RootKeyId,
  type SealKeyId,
  type TenantId,
} from '../../src/ids.ts';
import { NO_ALERTS } from '../support/alerts.ts';
import { agentsOn, type FreshToken } from './token-keys-rig.ts';

const quiet = { info() {}, warn() {}, error() {} };
const soon = () => monotonicNow() + 120_000;
const digest = Buffer.alloc(32, 7);

/** Runs the suite on tokens that `makeToken` makes. */
export function conformance(
  name: string,
  options: { skip: string | false },
  makeToken: () => FreshToken,
): void {
  describe(name, options, () => {
    let token: FreshToken;
    let settings: Omit<ServeSettings, 'despiteFailedTry'>;
    let agents: HsmAgents;
    let report: TokenReport;
    let version: SealedKeyVersion;

    const optionsFor = (changes: Partial<typeof settings> = {}) => ({
      settings: { ...settings, ...changes },
      count: 2,
      callTimeoutMs: 30_000,
      maxCalls: 100,
      maxBytes: 1 << 24,
      starter: agentsOn(token),
      log: quiet,
      alerts: NO_ALERTS,
    });
    const objectId = <Id extends AnyId>(role: string): Id => {
      const object = settings.objects.find((each) => each.role === role);
      assert.ok(object);
      return object.objectId as Id;
    };
    const create = (tenantId = newId<TenantId>(), number = 1) =>
      agents.call(
        'createKeyVersion',
        {
          tenantId,
          keyId: newId<KeyId>(),
          version: number,
          algorithm: ALGORITHM.hmacSha512Aes256Gcm,
          rootKeyId: objectId<RootKeyId>('root'),
          sealKeyId: objectId<SealKeyId>('seal'),
        },
        soon(),
      );
    const seal = (keyVersion: SealedKeyVersion, plaintext: Buffer) =>
      agents.call(
        'seal',
        {
          keyVersion: encode(sealedKeyVersion, keyVersion),
          purpose: PURPOSE.payload,
          subject: NO_SUBJECT,
          contextDigest: digest,
          plaintext,
        },
        soon(),
      );
    const open = (keyVersion: SealedKeyVersion, ciphertext: Buffer, contextDigest = digest) =>
      agents.call(
        'open',
        {
          keyVersion: encode(sealedKeyVersion, keyVersion),
          subject: NO_SUBJECT,
          contextDigest,
          ciphertext: Buffer.from(ciphertext),
        },
        soon(),
      );

    before(async () => {
      token = makeToken();
      const environmentId = newId<EnvironmentId>();
      const made = await initializeToken({ environmentId }, agentsOn(token));
      settings = { environmentId, ...made, keyCacheSize: 4 };
      agents = new HsmAgents(optionsFor());
      report = await agents.start();
      version = await create();
    });

    after(async () => {
      await agents?.stop();
      token?.dispose();
    });

    test('initialising again finds the same objects and makes none', async () => {
      const { profile, objects } = await initializeToken(
        { environmentId: settings.environmentId },
        agentsOn(token),
      );
      assert.deepEqual(
        { profile, objects },
        { profile: settings.profile, objects: settings.objects },
      );
    });

    test('every required attribute is enforced, or waived by name', () => {
      for (const { attribute, state } of report.findings) {
        assert.equal(state, 'unsupported');
        assert.ok(token.settings.waivers.includes(attribute));
      }
    });

    test('an attribute that the token can not enforce needs a waiver', async (context) => {
      if (report.findings.length === 0) return context.skip('this token enforces all');
      const starter = childAgents({ ...token.settings, waivers: [] }, token.environment);
      const strict = new HsmAgents({ ...optionsFor(), starter });
      await assert.rejects(strict.start(), /unsupported/);
      await strict.stop();
    });

    test('a new version is wrapped to 72 bytes, and no two are alike', async () => {
      const other = await create();
      assert.equal(version.wrapped.length, 72);
      assert.notDeepEqual(other.wrapped, version.wrapped);
      assert.notDeepEqual(other.checkValue, version.checkValue);
    });

    test('what one agent seals every agent opens', async () => {
      const sealed = await Promise.all(
        Array.from({ length: 20 }, (_, index) => seal(version, Buffer.from(`message ${index}`))),
      );
      const opened = await Promise.all(sealed.map(({ ciphertext }) => open(version, ciphertext)));
      assert.deepEqual(
        opened.map(({ plaintext }) => plaintext.toString()),
        Array.from({ length: 20 }, (_, index) => `message ${index}`),
      );
    });

    test('a data key opens to what was issued', async () => {
      const issued = await agents.call(
        'issueDataKey',
        {
          keyVersion: encode(sealedKeyVersion, version),
          purpose: PURPOSE.dataKey,
          subject: NO_SUBJECT,
          contextDigest: digest,
          length: 32,
          reveal: 1,
        },
        soon(),
      );
      assert.equal(issued.plaintext.length, 32);
      assert.notDeepEqual(issued.plaintext, Buffer.alloc(32));
      assert.deepEqual((await open(version, issued.ciphertext)).plaintext, issued.plaintext);
    });

    test('case 54: of many versions only its own opens a ciphertext', async () => {
      const tenantId = newId<TenantId>();
      const versions = await Promise.all([create(tenantId), create(tenantId), create(), create()]);
      for (const own of versions) {
        const { ciphertext } = await seal(own, Buffer.from('own'));
        for (const other of versions) {
          if (other === own)
            assert.equal((await open(other, ciphertext)).plaintext.toString(), 'own');
          else await assert.rejects(open(other, ciphertext), { reason: 'DECRYPTION_FAILED' });
        }
      }
    });

    test('another context does not open', async () => {
      const { ciphertext } = await seal(version, Buffer.from('x'));
      await assert.rejects(open(version, ciphertext, Buffer.alloc(32)), {
        reason: 'DECRYPTION_FAILED',
      });
    });

    test('case 36: a sealed version with any part changed is refused before it is unwrapped', async () => {
      const { ciphertext } = await seal(version, Buffer.from('x'));
      const flip = (bytes: Buffer) =>
        Buffer.from(bytes.map((byte, index) => (index === 0 ? byte ^ 1 : byte)));
      const changes: Partial<SealedKeyVersion>[] = [
        { tenantId: newId() },
        { keyId: newId() },
        { version: 2 },
        { algorithm: 2 },
        { rootKeyId: newId() },
        { wrap: version.wrap === 1 ? 2 : 1 },
        { wrapped: flip(version.wrapped) },
        { checkValue: flip(version.checkValue) },
        { checkValue: Buffer.alloc(0) },
        { sealKeyId: newId() },
        { sealKeyId: objectId('root') },
        { sealKeyId: objectId('mask') },
        { seal: flip(version.seal) },
        { seal: Buffer.alloc(0) },
      ];
      for (const change of changes) {
        await assert.rejects(open({ ...version, ...change }, ciphertext), {
          reason: 'STORED_ROW_CORRUPT',
        });
      }
      assert.equal((await open(version, ciphertext)).plaintext.toString(), 'x');
    });

    test('case 36: a sealed record with any part changed does not verify, and verifies as no other kind', async () => {
      const sealKeyId = objectId<SealKeyId>('seal');
      const content = Buffer.from('who may do what');
      const sealRecord = { sealKeyId, kind: RECORD.policy, contents: [content, Buffer.alloc(0)] };
      const { seals } = await agents.call('sealRecords', sealRecord, soon());
      const [seal = Buffer.alloc(0), ofNothing = Buffer.alloc(0)] = seals;
      const verify = async (
        kind: number,
        key: SealKeyId,
        items: { content: Buffer; seal: Buffer }[],
      ) => (await agents.call('verifyRecords', { sealKeyId: key, kind, items }, soon())).verified;
      assert.deepEqual(
        await verify(RECORD.policy, sealKeyId, [
          { content, seal },
          { content: Buffer.alloc(0), seal: ofNothing },
          { content, seal: ofNothing },
          { content: Buffer.from('Who may do what'), seal },
          { content, seal: seal.subarray(1) },
          { content, seal: Buffer.alloc(32) },
        ]),
        [1, 1, 0, 0, 0, 0],
      );
      assert.deepEqual(await verify(RECORD.keyState, sealKeyId, [{ content, seal }]), [0]);
      for (const other of [
        newId<SealKeyId>(),
        objectId<SealKeyId>('root'),
        objectId<SealKeyId>('mask'),
      ])
        assert.deepEqual(await verify(RECORD.policy, other, [{ content, seal }]), [0]);
      await assert.rejects(agents.call('sealRecords', { ...sealRecord, kind: 99 }, soon()), {
        reason: 'INTERNAL',
      });
    });

    test('more versions than an agent keeps unwrapped go on opening', async () => {
      const versions = await Promise.all(Array.from({ length: 12 }, () => create()));
      const sealed = await Promise.all(versions.map((each) => seal(each, Buffer.from(each.keyId))));
      for (const [index, each] of versions.entries()) {
        const { plaintext } = await open(each, sealed[index]?.ciphertext ?? Buffer.alloc(0));
        assert.equal(plaintext.toString(), each.keyId);
      }
    });

    test('what is past its deadline is not done', async () => {
      const late = agents.call(
        'seal',
        {
          keyVersion: encode(sealedKeyVersion, version),
          purpose: PURPOSE.payload,
          subject: NO_SUBJECT,
          contextDigest: digest,
          plaintext: Buffer.from('x'),
        },
        monotonicNow() - 1,
      );
      await assert.rejects(late, { reason: 'DEADLINE_EXCEEDED' });
    });

    test('calls beyond what may wait are shed', async () => {
      const outcomes = await Promise.allSettled(
        Array.from({ length: 150 }, () => seal(version, Buffer.from('x'))),
      );
      const shed = outcomes.filter((outcome) => outcome.status === 'rejected');
      assert.equal(shed.length, 50);
      for (const { reason } of shed) assert.equal(reason.reason, 'HSM_QUEUE_FULL');
    });

    test('an environment that the token was not initialised for is refused', async () => {
      const foreign = new HsmAgents(optionsFor({ environmentId: newId<EnvironmentId>() }));
      await assert.rejects(foreign.start(), /another environment/);
      await foreign.stop();
    });

    test('an object that is not there is named', async () => {
      const objects = settings.objects.map((object) => ({ ...object, objectId: newId() }));
      const bare = new HsmAgents(optionsFor({ objects }));
      await assert.rejects(bare.start(), /the token has no root key/);
      await bare.stop();
    });

    test('every call after stop fails', async () => {
      const stopped = new HsmAgents(optionsFor());
      await stopped.start();
      await stopped.stop();
      await assert.rejects(
        stopped.call(
          'open',
          {
            keyVersion: Buffer.alloc(0),
            subject: NO_SUBJECT,
            contextDigest: digest,
            ciphertext: digest,
          },
          soon(),
        ),
        { reason: 'HSM_UNAVAILABLE' },
      );
    });
  });
}
