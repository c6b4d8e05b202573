/**
 * A person's first passkey where rules want others to approve it, and the next ones, for which the
 * first one vouches.
 */
import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { registrationAssertionChallenge } from '../../src/approvals/passkeys.ts';
import { People, type Person } from './people.ts';

let people: People;
before(async () => {
  people = await People.start();
});
after(() => people?.[Symbol.asyncDispose]());

/** A tenant in which a person's first passkey wants an approval, and one who may approve. */
async function careful(): Promise<{ readonly tenant: string; readonly approver: Person }> {
  const tenant = await people.tenant();
  const approver = await people.approver(tenant);
  await people.setRules(tenant, [{ permissions: ['passkeys.create'] }]);
  return { tenant, approver };
}

/** Has the person's authenticator make a passkey, and asks for its registration. */
async function ask(tenant: string, person: Person, by?: Buffer) {
  const options = await people.rig.done(
    'PasskeyService/BeginPasskeyRegistration',
    {},
    person.caller,
  );
  const json = JSON.parse(String(options['creationOptionsJson']));
  const made = person.authenticator.create(JSON.stringify({ ...json, excludeCredentials: [] }));
  const { credentialId, clientDataJson, attestationObject } = made;
  const challenge = registrationAssertionChallenge(made);
  const assertion = by && person.authenticator.get({ challenge, credentialId: by });
  const outcome = await people.rig.ask(person.caller, 'PasskeyService/RegisterPasskey', {
    ...{ parent: `tenants/${tenant}`, credentialId, clientDataJson, attestationObject },
    ...{ displayName: 'a key', assertion },
  });
  return { credentialId, outcome };
}

async function countOf(person: Person): Promise<number> {
  const { passkeys } = await people.rig.done('PasskeyService/ListPasskeys', {}, person.caller);
  return (passkeys as object[]).length;
}

it('waits for another’s approval, and is the person’s then', async () => {
  const { tenant, approver } = await careful();
  const person = await people.person(tenant, ['approver']);
  const { outcome } = await ask(tenant, person);
  assert.equal(outcome.reason, 'APPROVAL_REQUIRED', outcome.message);
  assert.equal(await countOf(person), 0);
  const name = String(outcome.metadata['operation']);
  await people.decided(approver, name);
  await people.until(name, 'DONE');
  assert.equal(await countOf(person), 1);
});

it('that would not be registered asks for no approval', async () => {
  const { tenant } = await careful();
  const [person, other] = [
    await people.person(tenant, ['approver']),
    await people.person(tenant, ['approver']),
  ];
  const options = await people.rig.done(
    'PasskeyService/BeginPasskeyRegistration',
    {},
    other.caller,
  );
  const made = person.authenticator.create(String(options['creationOptionsJson']));
  const { credentialId, clientDataJson, attestationObject } = made;
  const stolen = await people.rig.ask(person.caller, 'PasskeyService/RegisterPasskey', {
    ...{ parent: `tenants/${tenant}`, credentialId, clientDataJson, attestationObject },
    displayName: 'another’s options',
  });
  assert.equal(stolen.reason, 'PASSKEY_NOT_ACCEPTED');
});

it('vouches for the next one, which waits for no approval', async () => {
  const { tenant, approver } = await careful();
  const [first] = approver.credentials;
  assert.ok(first);
  const { outcome } = await ask(tenant, approver, first);
  assert.equal(outcome.reason, 'OK', outcome.message);
  assert.equal(await countOf(approver), 2);
});

it('cannot be passed over: not without a signature, nor by that of another person’s', async () => {
  const { tenant, approver } = await careful();
  const [first] = approver.credentials;
  assert.ok(first);
  const without = await ask(tenant, approver);
  assert.equal(without.outcome.reason, 'ASSERTION_NOT_ACCEPTED');
  const person = await people.person(tenant, ['approver']);
  const borrowed = { ...person, authenticator: approver.authenticator };
  const { outcome } = await ask(tenant, borrowed, first);
  assert.equal(outcome.reason, 'ASSERTION_NOT_ACCEPTED');
  assert.equal(await countOf(person), 0);
});
