/**
 * People's passkeys over the wire: registering, seeing and removing them, and what is refused.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { AuthenticatorAlgorithm, NewPasskey } from '../../dev/authenticator.ts';
import { AccessRig } from '../access/access-rig.ts';
import { type Maker, newMaker } from '../support/attestation.ts';
import { eventually, type Service } from '../support/kit.ts';
import { newId, QUICK, sql } from '../support/reconciling.ts';
import {
  challengeOf,
  nameOf,
  newPerson,
  optionsFor,
  type Person,
  RP_ID,
  register,
  send,
} from './passkey-rig.ts';

const SETTINGS = { ...QUICK, KEYWARD_RELYING_PARTY_ID: RP_ID };

let rig: AccessRig;
/** Takes device-bound passkeys alone, whose attestation is by this maker. */
let strict: Service;
let maker: Maker;

before(async () => {
  rig = await AccessRig.start(SETTINGS);
  maker = newMaker('Keys Inc');
  const roots = join(rig.environment.directory, 'roots.pem');
  writeFileSync(roots, maker.rootPem);
  strict = await rig.addReplica({
    KEYWARD_PASSKEYS_DEVICE_BOUND: 'true',
    KEYWARD_PASSKEY_ATTESTATION_ROOTS_FILE: roots,
  });
});

after(() => rig?.[Symbol.asyncDispose]());

const anyone = (options: Parameters<typeof newPerson>[2] = {}) =>
  newPerson(rig, newId('person'), options);
const get = (person: Pick<Person, 'caller'>, credentialId: Buffer) =>
  rig.askByGrpc(person.caller, 'PasskeyService/GetPasskey', { name: nameOf(credentialId) });
/** The names of the passkeys that a person is shown. */
async function list(person: Pick<Person, 'caller'>, principal = ''): Promise<string[]> {
  const { reason, message, answer } = await rig.ask(person.caller, 'PasskeyService/ListPasskeys', {
    principal,
  });
  assert.equal(reason, 'OK', message);
  return (answer['passkeys'] as { name: string }[]).map(({ name }) => name);
}

describe('a person’s first passkey', () => {
  for (const [algorithm, isBackupEligible] of [
    ['ES256', false],
    ['EdDSA', true],
    ['RS256', false],
  ] as const satisfies readonly (readonly [AuthenticatorAlgorithm, boolean])[])
    test(`is registered as its authenticator made it: ${algorithm}`, async () => {
      const person = await anyone({ algorithm, isBackupEligible });
      const had = (await rig.audited()).length;
      const id = await register(rig, person);
      const { answer } = await get(person, id);
      const { createTime, ...passkey } = answer;
      assert.ok(createTime);
      assert.deepEqual(passkey, {
        name: nameOf(id),
        principal: person.name,
        displayName: 'a key',
        publicKey: person.authenticator.publicKeyOf(id),
        algorithm,
        deviceBound: !isBackupEligible,
        attestation: 'none',
        aaguid: '00000000-0000-0000-0000-000000000000',
        relyingPartyId: RP_ID,
        lastUseTime: null,
      });
      assert.deepEqual(await list(person), [nameOf(id)]);
      const entry = (await rig.audited(had)).find(({ resource }) => resource === nameOf(id));
      assert.equal(entry?.tenant, 'acme');
      assert.equal(entry.method, 'keyward.v1.PasskeyService/RegisterPasskey');
      assert.deepEqual(entry.change, {
        kind: 'passkey',
        after: {
          principal: person.name,
          displayName: 'a key',
          algorithm: { ES256: -7, EdDSA: -8, RS256: -257 }[algorithm],
          publicKey: person.authenticator.publicKeyOf(id).toString('base64url'),
          deviceBound: !isBackupEligible,
          attestation: 'none',
          aaguid: '00000000-0000-0000-0000-000000000000',
          relyingPartyId: RP_ID,
        },
      });
    });

  test('is asked for with user verification and as discoverable, for the person alone', async () => {
    const person = await anyone();
    const options = JSON.parse(await optionsFor(rig, person));
    assert.deepEqual(options.rp, { id: RP_ID, name: 'Keyward' });
    assert.equal(options.user.name, person.name);
    assert.deepEqual(options.authenticatorSelection, {
      residentKey: 'required',
      requireResidentKey: true,
      userVerification: 'required',
    });
    assert.deepEqual(options.excludeCredentials, []);
    assert.equal(options.attestation, 'none');
    const again = JSON.parse(await optionsFor(rig, person));
    assert.equal(again.user.id, options.user.id);
    const other = JSON.parse(await optionsFor(rig, await anyone()));
    assert.notEqual(other.user.id, options.user.id);
  });

  test('is looked at and not registered where that is all that is asked for', async () => {
    const person = await anyone();
    const made = person.authenticator.create(await optionsFor(rig, person));
    const { reason, answer } = await send(rig, person, made, { validateOnly: true });
    assert.equal(reason, 'OK');
    assert.equal(answer['name'], nameOf(made.credentialId));
    assert.deepEqual(await list(person), []);
    assert.equal((await send(rig, person, made)).reason, 'OK');
  });

  test('needs a permission in the tenant that the request names', async () => {
    const person = await anyone();
    const made = person.authenticator.create(await optionsFor(rig, person));
    const elsewhere = await send(rig, person, made, { parent: 'tenants/beta' });
    assert.equal(elsewhere.reason, 'RESOURCE_NOT_FOUND');
    await rig.bind('beta', person.name, 'keyViewer');
    await eventually(async () => {
      const { reason } = await send(rig, person, made, { parent: 'tenants/beta' });
      assert.equal(reason, 'PERMISSION_MISSING');
    });
  });
});

/** What is wrong with a new passkey, and what the service says of it. */
const MISTAKES: readonly (readonly [
  string,
  RegExp,
  (person: Person, options: string) => NewPasskey | Promise<NewPasskey>,
])[] = [
  [
    'user verification that did not happen',
    /could not be verified/,
    ({ authenticator }, options) => authenticator.create(options, { userVerified: false }),
  ],
  [
    'a user who was not there',
    /not present/,
    ({ authenticator }, options) => authenticator.create(options, { userPresent: false }),
  ],
  [
    'another site',
    /on a page that is not of/,
    ({ authenticator }, options) =>
      authenticator.create(options, { origin: 'https://attacker.example' }),
  ],
  [
    'a page in another’s frame',
    /on a page that is not of/,
    ({ authenticator }, options) => authenticator.create(options, { crossOrigin: true }),
  ],
  [
    'another relying party',
    /does not verify/,
    ({ authenticator }, options) => authenticator.create(options, { rpId: 'attacker.example' }),
  ],
  [
    'an assertion instead of a registration',
    /not of a registration/,
    ({ authenticator }, options) => authenticator.create(options, { type: 'webauthn.get' }),
  ],
  [
    'a challenge of somebody’s choice',
    /options that the caller was given/,
    ({ authenticator }, options) => authenticator.create(options, { challenge: Buffer.alloc(40) }),
  ],
  [
    'a challenge that says it is good for long',
    /options that the caller was given/,
    ({ authenticator }, options) => {
      const challenge = Buffer.from(JSON.parse(options).challenge, 'base64url');
      challenge.writeBigUInt64BE(challenge.readBigUInt64BE(0) + 1n, 0);
      return authenticator.create(options, { challenge });
    },
  ],
  [
    'the options of somebody else',
    /options that the caller was given/,
    async ({ authenticator }) => authenticator.create(await optionsFor(rig, await anyone())),
  ],
  [
    'the id of another credential',
    /another credential/,
    ({ authenticator }, options) => ({
      ...authenticator.create(options),
      credentialId: Buffer.alloc(32, 7),
    }),
  ],
  [
    'an attestation object that is none',
    /does not verify/,
    ({ authenticator }, options) => ({
      ...authenticator.create(options),
      attestationObject: Buffer.from('a0', 'hex'),
    }),
  ],
  [
    'an attestation object of lists in lists',
    /does not verify/,
    ({ authenticator }, options) => ({
      ...authenticator.create(options),
      attestationObject: Buffer.alloc(32_000, 0x81),
    }),
  ],
  [
    'an attestation that was not asked for',
    /none was asked for/,
    async ({ caller, name }, options) => {
      const attested = await newPerson(rig, newId('person'), { attestation: maker.batch() });
      return { ...attested, caller, name }.authenticator.create(options);
    },
  ],
];

describe('a passkey is not registered by', () => {
  for (const [what, problem, make] of MISTAKES)
    test(what, async () => {
      const person = await anyone();
      const made = await make(person, await optionsFor(rig, person));
      const { reason, message } = await send(rig, person, made);
      assert.equal(reason, 'PASSKEY_NOT_ACCEPTED');
      assert.match(message, problem);
      assert.deepEqual(await list(person), []);
    });

  test('a P-256 key whose algorithm says otherwise', async () => {
    const person = await anyone();
    const made = person.authenticator.create(await optionsFor(rig, person));
    // COSE's algorithm −7 (26) becomes −8 (27).
    const at = made.attestationObject.indexOf(Buffer.from('a5010203', 'hex')) + 4;
    made.attestationObject.writeUInt8(0x27, at);
    const { reason, message } = await send(rig, person, made);
    assert.equal(reason, 'PASSKEY_NOT_ACCEPTED');
    assert.match(message, /not of its algorithm/);
  });
});

describe('a person’s next passkey', () => {
  test('is vouched for by one that they have, which is noted with its use', async () => {
    const person = await anyone();
    const first = await register(rig, person);
    const had = (await rig.audited()).length;
    const second = await register(rig, person, { by: first });
    const both = [first, second].map(nameOf);
    assert.deepEqual((await list(person)).sort(), both.sort());
    assert.ok((await get(person, first)).answer['lastUseTime']);
    const entry = (await rig.audited(had)).find(({ resource }) => resource === nameOf(second));
    const { assertion } = (entry?.change?.after ?? {}) as {
      readonly assertion?: Readonly<Record<string, string>>;
    };
    assert.equal(assertion?.['credentialId'], first.toString('base64url'));
    assert.deepEqual(JSON.parse(await optionsFor(rig, person)).excludeCredentials.length, 2);
  });

  for (const [what, problem, sign] of [
    ['nothing', 'missing', () => undefined],
    [
      'a signature over another passkey',
      'challenge',
      ({ authenticator }: Person, by: Buffer) =>
        authenticator.get({ challenge: Buffer.alloc(32), credentialId: by }),
    ],
    [
      'a signature without user verification',
      'userNotVerified',
      ({ authenticator }: Person, by: Buffer, challenge: Buffer) =>
        authenticator.get({ challenge, credentialId: by, userVerified: false }),
    ],
  ] as const)
    test(`is not registered by ${what}`, async () => {
      const person = await anyone();
      const first = await register(rig, person);
      await register(rig, person, { by: first });
      const options = JSON.parse(await optionsFor(rig, person));
      const made = person.authenticator.create(
        JSON.stringify({ ...options, excludeCredentials: [] }),
      );
      const assertion = sign(person, first, challengeOf(made));
      const { reason, metadata } = await send(rig, person, made, assertion && { assertion });
      assert.equal(reason, 'ASSERTION_NOT_ACCEPTED');
      assert.equal(metadata['problem'], problem);
      assert.equal((await list(person)).length, 2);
    });

  test('is not registered by the passkey of somebody else, nor by one that was removed', async () => {
    const [person, other] = [await anyone(), await anyone()];
    const first = await register(rig, person);
    const removed = await register(rig, person, { by: first });
    await rig.done('PasskeyService/DeletePasskey', { name: nameOf(removed) });
    const theirs = await register(rig, other);
    for (const [by, { authenticator }] of [
      [theirs, other],
      [removed, person],
    ] as const) {
      const options = JSON.parse(await optionsFor(rig, person));
      const made = person.authenticator.create(
        JSON.stringify({ ...options, excludeCredentials: [] }),
      );
      const assertion = authenticator.get({ challenge: challengeOf(made), credentialId: by });
      const { reason, metadata } = await send(rig, person, made, { assertion });
      assert.equal(reason, 'ASSERTION_NOT_ACCEPTED');
      assert.equal(metadata['problem'], 'unknownPasskey');
    }
  });

  test('is not registered by a counter that has not grown, which is an alert', async () => {
    const person = await anyone();
    const { authenticator } = person;
    const first = await register(rig, person);
    await register(rig, person, { by: first });
    const options = JSON.parse(await optionsFor(rig, person));
    const made = authenticator.create(JSON.stringify({ ...options, excludeCredentials: [] }));
    const request = { challenge: challengeOf(made), credentialId: first, signCount: 1 };
    const from = rig.service.log.length;
    const { reason, metadata } = await send(rig, person, made, {
      assertion: authenticator.get(request),
    });
    assert.equal(reason, 'ASSERTION_NOT_ACCEPTED');
    assert.equal(metadata['problem'], 'counter');
    const line = await rig.service.logged(({ alert }) => alert === 'passkey-counter', from);
    assert.equal(line['passkey'], nameOf(first));
    assert.equal((await list(person)).length, 2);
  });

  test('is not registered as the first by a signature of no passkey', async () => {
    const [person, other] = [await anyone(), await anyone()];
    const theirs = await register(rig, other);
    const made = person.authenticator.create(await optionsFor(rig, person));
    const challenge = challengeOf(made);
    const assertion = other.authenticator.get({ challenge, credentialId: theirs });
    const { reason, metadata } = await send(rig, person, made, { assertion });
    assert.equal(reason, 'ASSERTION_NOT_ACCEPTED');
    assert.equal(metadata['problem'], 'unknownPasskey');
  });

  test('is the twentieth at the most', async () => {
    const person = await anyone({ isBackupEligible: true });
    const first = await register(rig, person);
    for (let count = 2; count <= 20; count++) await register(rig, person, { by: first });
    const options = JSON.parse(await optionsFor(rig, person));
    const made = person.authenticator.create(
      JSON.stringify({ ...options, excludeCredentials: [] }),
    );
    const assertion = person.authenticator.get({
      challenge: challengeOf(made),
      credentialId: first,
    });
    assert.equal((await send(rig, person, made, { assertion })).reason, 'PASSKEYS_FULL');
  });
});

describe('a credential', () => {
  test('is registered once, whoever brings it', async () => {
    const person = await anyone();
    const made = person.authenticator.create(await optionsFor(rig, person));
    assert.equal((await send(rig, person, made)).reason, 'OK');
    const assertion = person.authenticator.get({
      challenge: challengeOf(made),
      credentialId: made.credentialId,
    });
    assert.equal((await send(rig, person, made, { assertion })).reason, 'RESOURCE_EXISTS');
  });

  test('that was removed is not found any more, and never comes back', async () => {
    const person = await anyone();
    const made = person.authenticator.create(await optionsFor(rig, person));
    assert.equal((await send(rig, person, made)).reason, 'OK');
    const had = (await rig.audited()).length;
    await rig.done('PasskeyService/DeletePasskey', { name: nameOf(made.credentialId) });
    assert.equal((await get(person, made.credentialId)).reason, 'RESOURCE_NOT_FOUND');
    assert.deepEqual(await list(person), []);
    assert.equal((await send(rig, person, made)).reason, 'RESOURCE_EXISTS');
    const gone = { name: nameOf(made.credentialId) };
    const again = await rig.ask(rig.tester, 'PasskeyService/DeletePasskey', gone);
    assert.equal(again.reason, 'RESOURCE_NOT_FOUND');
    const [entry] = await rig.audited(had);
    assert.equal(entry?.tenant, 'system');
    assert.equal(
      (entry.change as { before?: { principal?: string } } | null)?.before?.principal,
      person.name,
    );
  });

  test('of two registrations at once is one passkey', async () => {
    const person = await anyone();
    const made = person.authenticator.create(await optionsFor(rig, person));
    const outcomes = await Promise.all([1, 2, 3].map(() => send(rig, person, made)));
    const reasons = outcomes.map(({ reason }) => reason).sort();
    // The others meet a person who has a passkey, and bring no assertion.
    assert.deepEqual(reasons, ['ASSERTION_NOT_ACCEPTED', 'ASSERTION_NOT_ACCEPTED', 'OK']);
  });
});

describe('who may see passkeys', () => {
  test('a person sees their own alone, and somebody with passkeys.list in tenants/system all', async () => {
    const [person, other] = [await anyone(), await anyone()];
    const [own, theirs] = [await register(rig, person), await register(rig, other)];
    assert.deepEqual(await list(person, person.name), [nameOf(own)]);
    assert.equal((await get(person, theirs)).reason, 'RESOURCE_NOT_FOUND');
    for (const principal of [other.name, '-']) {
      const { reason } = await rig.ask(person.caller, 'PasskeyService/ListPasskeys', { principal });
      assert.equal(reason, 'PERMISSION_MISSING');
    }
    await rig.bind('system', person.name, 'auditor');
    await eventually(async () => assert.equal((await get(person, theirs)).reason, 'OK'));
    assert.deepEqual(await list(person, other.name), [nameOf(theirs)]);
    const all = await list(person, '-');
    assert.ok([own, theirs].map(nameOf).every((name) => all.includes(name)));
  });

  test('a list is cut into pages', async () => {
    const person = await anyone({ isBackupEligible: true });
    const first = await register(rig, person);
    for (let count = 0; count < 2; count++) await register(rig, person, { by: first });
    const seen: string[] = [];
    let pageToken = '';
    do {
      const page = { pageSize: 1, pageToken };
      const answer = await rig.done('PasskeyService/ListPasskeys', page, person.caller);
      const passkeys = answer['passkeys'] as { name: string }[];
      assert.equal(passkeys.length, 1);
      seen.push(...passkeys.map(({ name }) => name));
      pageToken = String(answer['nextPageToken']);
    } while (pageToken !== '');
    assert.deepEqual(seen.sort(), (await list(person)).sort());
    assert.equal(seen.length, 3);
  });
});

describe('a service that wants device-bound passkeys by a maker whom it knows', () => {
  const made = async (options: Parameters<typeof newPerson>[2]) => {
    const person = await anyone(options);
    const creation = await optionsFor(rig, person, strict);
    assert.equal(JSON.parse(creation).attestation, 'direct');
    const passkey = person.authenticator.create(creation);
    // A replica hears of the person's role a moment later.
    return eventually(async () => {
      const outcome = await send(rig, person, passkey, {}, strict);
      assert.notEqual(outcome.reason, 'RESOURCE_NOT_FOUND');
      return outcome;
    });
  };

  test('takes one that its maker vouches for, by an intermediate certificate or without', async () => {
    for (const hasIntermediate of [false, true]) {
      const { reason, message, answer } = await made({
        attestation: maker.batch({ hasIntermediate }),
      });
      assert.equal(reason, 'OK', message);
      assert.equal(answer['attestation'], 'packed');
    }
  });

  test('refuses one that can be copied', async () => {
    const { reason, message } = await made({
      attestation: maker.batch(),
      isBackupEligible: true,
    });
    assert.equal(reason, 'PASSKEY_NOT_ACCEPTED');
    assert.match(message, /only device-bound passkeys/);
  });

  test('refuses one that nobody vouches for', async () => {
    const { reason, message } = await made({});
    assert.equal(reason, 'PASSKEY_NOT_ACCEPTED');
    assert.match(message, /no attestation by its maker/);
  });

  test('refuses one of another maker, of the same name too, or whose certificate is past', async () => {
    for (const attestation of [
      newMaker('Keys Inc').batch(),
      newMaker('Others Inc').batch({ hasIntermediate: true }),
      maker.batch({ isExpired: true }),
    ]) {
      const { reason } = await made({ attestation });
      assert.equal(reason, 'PASSKEY_NOT_ACCEPTED');
    }
  });

  test('refuses one by a certificate of the maker whose key did not sign', async () => {
    const { certificates } = maker.batch();
    const { key } = maker.batch();
    const { reason } = await made({ attestation: { key, certificates } });
    assert.equal(reason, 'PASSKEY_NOT_ACCEPTED');
  });
});

test('without a relying party there are no passkeys', async () => {
  await using bare = await AccessRig.start();
  const person = { caller: bare.tester };
  const begun = await bare.ask(person.caller, 'PasskeyService/BeginPasskeyRegistration');
  assert.equal(begun.reason, 'PASSKEYS_NOT_CONFIGURED');
  const made = (await anyone()).authenticator.create(await optionsFor(rig, await anyone()));
  assert.equal((await send(bare, person, made)).reason, 'PASSKEYS_NOT_CONFIGURED');
});

test('when the seal key is replaced, passkeys come under the new one, removed ones too', async () => {
  const person = await anyone();
  const first = await register(rig, person);
  const removed = await register(rig, person, { by: first });
  await rig.done('PasskeyService/DeletePasskey', { name: nameOf(removed) });
  const before = (await get(person, first)).answer;
  const sealedBy = async () => {
    const rows = await sql<{ id: string }>(
      rig.environment,
      'SELECT DISTINCT seal_key_id AS id FROM passkeys',
    );
    return rows.map(({ id }) => id);
  };
  const former = await sealedBy();
  const name = `tenants/system/tokenKeys/${former[0]}`;
  const countOf = async () =>
    Number((await rig.done('HsmService/GetTokenKey', { name }))['sealedRecords']);
  const count = await countOf();
  await register(rig, await anyone());
  // One more, and a role binding's policy is sealed as before.
  assert.equal(await countOf(), count + 1);
  await rig.done('HsmService/RotateSealKey', {});
  await eventually(async () => {
    const [current] = await sql<{ id: string }>(
      rig.environment,
      `SELECT object_id AS id FROM token_objects WHERE role = 'seal' AND is_current`,
    );
    assert.notDeepEqual([current?.id], former);
    assert.deepEqual(await sealedBy(), [current?.id]);
  });
  assert.deepEqual((await get(person, first)).answer, before);
  assert.equal((await get(person, removed)).reason, 'RESOURCE_NOT_FOUND');
  await register(rig, person, { by: first });
});

/** What somebody makes of a person's row, and whose passkey is met then. */
const TAMPERED: readonly (readonly [string, string])[] = [
  [
    'the public key in what was sealed',
    `content = set_byte(content, 150, get_byte(content, 150) # 1)`,
  ],
  ['its seal', 'seal = set_byte(seal, 31, get_byte(seal, 31) # 1)'],
  ['its seal key', 'seal_key_id = gen_random_uuid()'],
  ['its revision', 'revision = revision + 1'],
  ['whether it was removed', 'is_removed = true'],
  [
    'what was sealed, for that of another of the person’s',
    `(content, seal) = (SELECT content, seal FROM passkeys o WHERE o.credential_id = $2)`,
  ],
];

describe('case 36, for passkeys: a writer of the database', () => {
  for (const [what, change] of TAMPERED)
    test(`who changes ${what} is noticed before it counts`, async () => {
      const person = await anyone();
      const id = await register(rig, person);
      const other = await register(rig, person, { by: id });
      const from = rig.service.log.length;
      await sql(
        rig.environment,
        `UPDATE passkeys SET ${change} WHERE credential_id = $1 AND $2::bytea IS NOT NULL`,
        [id, other],
      );
      const { reason } = await get(person, id);
      assert.equal(reason, 'PASSKEY_CORRUPT');
      const line = await rig.service.logged(({ alert }) => alert === 'passkey-corrupt', from);
      assert.match(String(line['detail']), new RegExp(nameOf(id)));
    });

  test('who gives somebody’s passkey to another is noticed, and the other has none', async () => {
    const [person, thief] = [await anyone(), await anyone()];
    const id = await register(rig, person);
    await sql(rig.environment, 'UPDATE passkeys SET principal = $2 WHERE credential_id = $1', [
      id,
      thief.name,
    ]);
    assert.equal((await get(thief, id)).reason, 'PASSKEY_CORRUPT');
    const { reason } = await rig.ask(thief.caller, 'PasskeyService/ListPasskeys');
    assert.equal(reason, 'PASSKEY_CORRUPT');
  });

  test('who puts a removed passkey’s old row back is noticed, while it is remembered', async () => {
    const person = await anyone();
    const id = await register(rig, person);
    await sql(rig.environment, 'CREATE TABLE kept AS SELECT * FROM passkeys');
    await rig.done('PasskeyService/DeletePasskey', { name: nameOf(id) });
    assert.equal((await get(person, id)).reason, 'RESOURCE_NOT_FOUND');
    await sql(
      rig.environment,
      `UPDATE passkeys p SET (is_removed, revision, content, seal) =
         (SELECT is_removed, revision, content, seal FROM kept k WHERE k.credential_id = p.credential_id)
       WHERE credential_id = $1`,
      [id],
    );
    assert.equal((await get(person, id)).reason, 'PASSKEY_CORRUPT');
  });
});
