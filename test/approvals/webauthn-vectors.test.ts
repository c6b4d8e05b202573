/**
 * Test vectors of WebAuthn Level 3, section 16: what other implementations have made and verified.
 *
 * Most of its assertions are without user verification, or from within a frame: they are refused
 * for that, which is looked at first.
 */
import assert from 'node:assert/strict';
import { createPublicKey } from 'node:crypto';
import { describe, test } from 'node:test';
import { verifyRegistration } from '../../src/approvals/registration.ts';
import { type Assertion, PASSKEY_ALGORITHMS } from '../../src/hsm/approval-records.ts';
import { verifyAssertion } from '../../src/hsm/assertion.ts';
import { VERDICT } from '../../src/hsm/protocol.ts';

const RULES = {
  relyingPartyId: 'example.org',
  isDeviceBoundOnly: false,
  attestationRoots: undefined,
};
const RP_ID_HASH = 'bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b5';
const hex = (text: string) => Buffer.from(text, 'hex');

/** Client data as the vectors have it, of a page of example.org. */
const clientData = (type: string, challenge: Buffer, more: string) =>
  Buffer.from(
    `{"type":"webauthn.${type}","challenge":"${challenge.toString('base64url')}",` +
      `"origin":"https://example.org","crossOrigin":${more}}`,
  );
const extraData = (random: string) =>
  'false,"extraData":"clientDataJSON may be extended with additional fields in the future, such ' +
  `as this: ${random}"`;

/** 16.3, “ES256 Credential with Self Attestation”. */
const SELF = {
  challenge: hex('7869c2b772d4b58eba9378cf8f29e26cf935aa77df0da89fa99c0bdc0a76f7e5'),
  random: 'U9hTXvKE2URkMnb_0xYHVg',
  credentialId: hex('455ef34e2043a87db3d4afeb39bbcb6cc32df9347c789a865ecdca129cbef58c'),
  x: hex('eb151c8176b225cc651559fecf07af450fd85802046656b34c18f6cf193843c5'),
  y: hex('927b8aa427a2be1b8834d233a2d34f61f13bfd44119c325d5896e183fee484f2'),
  attestationObject: hex(
    'a363666d74667061636b65646761747453746d74a263616c6726637369675846' +
      '30440220067a20754ab925005dbf378097c92120031581c73228d1fb4f5b881b' +
      'cd7da98302207fc7b147558c7c0eba3af18bd9d121fa3d3a26d17fe3f2202721' +
      `78f473b6006d68617574684461746158a4${RP_ID_HASH}` +
      '5d00000000df850e09db6afbdfab51697791506cfc0020' +
      '455ef34e2043a87db3d4afeb39bbcb6cc32df9347c789a865ecdca129cbef58c' +
      'a5010203262001215820' +
      'eb151c8176b225cc651559fecf07af450fd85802046656b34c18f6cf193843c5' +
      '225820927b8aa427a2be1b8834d233a2d34f61f13bfd44119c325d5896e183fee484f2',
  ),
};

/** SPKI of a P-256 key. */
const spki = (x: Buffer, y: Buffer) =>
  createPublicKey({
    key: { kty: 'EC', crv: 'P-256', x: x.toString('base64url'), y: y.toString('base64url') },
    format: 'jwk',
  }).export({ format: 'der', type: 'spki' });

describe('a registration of the standard’s', () => {
  const registration = () => ({
    credentialId: SELF.credentialId,
    clientDataJson: clientData('create', SELF.challenge, extraData(SELF.random)),
    attestationObject: SELF.attestationObject,
  });

  test('by self attestation is accepted, and believed as if it had none', async () => {
    assert.deepEqual(await verifyRegistration(registration(), SELF.challenge, RULES), {
      credentialId: SELF.credentialId,
      algorithm: PASSKEY_ALGORITHMS.ES256,
      publicKey: spki(SELF.x, SELF.y),
      signCount: 0,
      isBackupEligible: true,
      aaguid: 'df850e09-db6a-fbdf-ab51-697791506cfc',
      attestation: 'none',
      relyingPartyId: 'example.org',
    });
  });

  test('by self attestation is refused where a maker is to vouch for it', async () => {
    const rules = { ...RULES, attestationRoots: [] };
    await assert.rejects(verifyRegistration(registration(), SELF.challenge, rules), {
      reason: 'PASSKEY_NOT_ACCEPTED',
      message: /no attestation by its maker/,
    });
  });

  test('whose self attestation is another’s is refused', async () => {
    const changed = registration();
    const { attestationObject } = changed;
    const at = attestationObject.indexOf(SELF.credentialId);
    const forged = Buffer.from(attestationObject);
    forged.writeUInt8(forged.readUInt8(at) ^ 1, at);
    const credentialId = forged.subarray(at, at + 32);
    await assert.rejects(
      verifyRegistration(
        { ...changed, credentialId, attestationObject: forged },
        SELF.challenge,
        RULES,
      ),
      { reason: 'PASSKEY_NOT_ACCEPTED', message: /attestation does not verify/ },
    );
  });
});

/** An assertion of the standard's, and what is said of it. */
interface Vector extends Assertion {
  readonly name: string;
  readonly verdict: keyof typeof VERDICT;
  readonly challenge: Buffer;
  readonly publicKey: Buffer;
}

const VECTORS: readonly Vector[] = [
  {
    name: '16.7, “Packed Attestation with ES256 Credential”',
    verdict: 'done',
    challenge: hex('b1106fa46a57bef1781511c0557dc898a03413d5f0f17d244630c194c7e1adb5'),
    publicKey: spki(
      hex('1cf27f25da591208a4239c2e324f104f585525479a29edeedd830f48e77aeae5'),
      hex('59e4b7da6c0106e206ce390c93ab98a15a5ec3887e57f0cc2bece803b920c423'),
    ),
    authenticatorData: hex(`${RP_ID_HASH}0d00000000`),
    clientDataJson: clientData(
      'get',
      hex('b1106fa46a57bef1781511c0557dc898a03413d5f0f17d244630c194c7e1adb5'),
      extraData('AZMwyMxIbD8-uguFNp6r8Q'),
    ),
    signature: hex(
      '30450220694969d3ee928de6f02ef23a9c644d7d779916451734a94b432542f498a1ebe9' +
        '0221008b0819c824218a97152cd099c55bfb1477b29d900a49a64018314f9bfccda163',
    ),
  },
  {
    name: '16.3, “ES256 Credential with Self Attestation”, without user verification',
    verdict: 'userNotVerified',
    challenge: hex('4478a10b1352348dd160c1353b0d469b5db19eb91c27f7dfa6fed39fe26af20b'),
    publicKey: spki(SELF.x, SELF.y),
    authenticatorData: hex(`${RP_ID_HASH}0900000000`),
    clientDataJson: clientData(
      'get',
      hex('4478a10b1352348dd160c1353b0d469b5db19eb91c27f7dfa6fed39fe26af20b'),
      extraData('gTb53rz6EhSWomXGzimC1Q'),
    ),
    signature: hex(
      '304402203310b9431903c401f1be2bdc8d23a4007682dbbddcf846994947b7f465daf840' +
        '02204e94dd00047b316061b3b99772b7efd95994a83ef584b3b6b825ea3550251b66',
    ),
  },
  {
    name: '16.4, “ES256 Credential with "crossOrigin": true in clientDataJSON”',
    verdict: 'origin',
    challenge: hex('876aa517ba83fdee65fcffdbca4c84eeae5d54f8041a1fc85c991e5bbb273137'),
    publicKey: spki(
      hex('22200a473f90b11078851550d03b4e44a2279f8c4eca27b3153dedfe03e4e97d'),
      hex('cbd0be95e746ad6f5a8191be11756e4c0420e72f65b466d39bc56b8b123a9c6e'),
    ),
    authenticatorData: hex(`${RP_ID_HASH}0500000000`),
    clientDataJson: clientData(
      'get',
      hex('876aa517ba83fdee65fcffdbca4c84eeae5d54f8041a1fc85c991e5bbb273137'),
      extraData('92pcTVD0Aby-q4dtmj6efg').replace('false', 'true'),
    ),
    signature: hex(
      '3046022100eb12fcf23b12764c0f122e22371fab92e283879fd798f38ee1841c951b6e40e7' +
        '022100c76237ff9db77b3c56f30837cda6a09acfa2e915544e609c0733b1184036d1cf',
    ),
  },
];

describe('an assertion of the standard’s', () => {
  for (const { name, verdict, challenge, publicKey, ...assertion } of VECTORS)
    test(`${name}: ${verdict}`, () => {
      const passkey = {
        algorithm: PASSKEY_ALGORITHMS.ES256,
        publicKey,
        signCount: 0,
        isBackupEligible: (assertion.authenticatorData.readUInt8(32) & 0x08) !== 0,
        relyingPartyId: 'example.org',
      };
      assert.equal(verifyAssertion(passkey, challenge, assertion), VERDICT[verdict]);
    });
});
