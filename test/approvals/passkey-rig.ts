/**
 * What the tests of passkeys share: people with authenticators, and what their browsers send.
 *
 * Knows no test.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  type AuthenticatorOptions,
  type NewPasskey,
  type SignedAssertion,
  SoftwareAuthenticator,
} from '../../dev/authenticator.ts';
import type { AccessRig, Caller } from '../access/access-rig.ts';
import type { Outcome } from '../access/outcome.ts';
import type { Service } from '../support/kit.ts';

/** The relying party of services in tests, and a page of it. */
export const RP_ID = 'keyward.example';
export const ORIGIN = 'https://sign.keyward.example';

/** A person: a caller with an authenticator. */
export interface Person {
  readonly name: string;
  readonly caller: Caller;
  readonly authenticator: SoftwareAuthenticator;
}

/** Returns a person with a role in a tenant, and an authenticator. */
export async function newPerson(
  rig: AccessRig,
  name: string,
  options: Partial<AuthenticatorOptions> & { readonly tenant?: string } = {},
): Promise<Person> {
  const { tenant = 'acme', ...authenticator } = options;
  const uri = `spiffe://keyward.test/${name}`;
  await rig.bind(tenant, uri, 'approver');
  return {
    name: uri,
    caller: rig.certified(uri),
    authenticator: new SoftwareAuthenticator({ rpId: RP_ID, origin: ORIGIN, ...authenticator }),
  };
}

/** What the service gives a caller to make a passkey with. */
export async function optionsFor(
  rig: AccessRig,
  { caller }: Pick<Person, 'caller'>,
  service?: Service,
): Promise<string> {
  const { reason, message, answer } = await rig.ask(
    caller,
    'PasskeyService/BeginPasskeyRegistration',
    {},
    service,
  );
  assert.equal(reason, 'OK', message);
  return String(answer['creationOptionsJson']);
}

/** What a passkey signs to have another registered. */
export function challengeOf({ clientDataJson, attestationObject }: NewPasskey): Buffer {
  const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest();
  return sha256(
    Buffer.concat([
      Buffer.from('keyward/v1/passkey-registration\0', 'latin1'),
      sha256(clientDataJson),
      sha256(attestationObject),
    ]),
  );
}

/** Sends a new passkey, by gRPC. */
export function send(
  rig: AccessRig,
  { caller }: Pick<Person, 'caller'>,
  { credentialId, clientDataJson, attestationObject }: NewPasskey,
  more: Readonly<Record<string, unknown>> & { readonly assertion?: SignedAssertion } = {},
  service?: Service,
): Promise<Outcome> {
  const request = { parent: 'tenants/acme', credentialId, clientDataJson, attestationObject };
  return rig.askByGrpc(
    caller,
    'PasskeyService/RegisterPasskey',
    { ...request, displayName: 'a key', ...more },
    service && { service },
  );
}

/** Makes a passkey and registers it, vouched for by one that the person has, and returns its id. */
export async function register(
  rig: AccessRig,
  person: Person,
  { by, parent = 'tenants/acme' }: { readonly by?: Buffer; readonly parent?: string } = {},
): Promise<Buffer> {
  const { authenticator } = person;
  const options = await optionsFor(rig, person);
  // As another authenticator of theirs, which holds none of those.
  const made = authenticator.create(
    JSON.stringify({ ...JSON.parse(options), excludeCredentials: [] }),
  );
  const assertion = by && authenticator.get({ challenge: challengeOf(made), credentialId: by });
  const { reason, message } = await send(rig, person, made, {
    parent,
    ...(assertion && { assertion }),
  });
  assert.equal(reason, 'OK', message);
  return made.credentialId;
}

/** The name of a passkey. */
export const nameOf = (credentialId: Buffer) => `passkeys/${credentialId.toString('base64url')}`;
