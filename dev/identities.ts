/**
 * Who there is in development: an administrator, a service of the tenant `demo`, an auditor, and
 * the people of `people.ts`, who sign in; what they call with, and which roles they have.
 *
 * Owns their files beside the certificates: tokens, renewed while we run, and the command's
 * profiles. Each calls in another of the ways that there are: by a certificate, by a token that is
 * bound to a certificate, by a token alone. Invariant: the administrator uses no key, the service
 * administers none.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { type KeywardClient, KeywardError } from 'keyward-client';
import { writePrivate, writePrivateJson } from './files.ts';
import type { Issuers, TokenRequest } from './issuers.ts';
import { CLIENT_ID, PEOPLE, RESOURCE, SIGN_IN_ISSUER } from './people.ts';

/** SPIFFE ids of those who are known by their certificates. */
export const PRINCIPALS = {
  admin: 'spiffe://keyward.dev/development/admin',
  service: 'spiffe://keyward.dev/development/service',
  firstAdministrator: 'spiffe://keyward.dev/development/first-administrator',
} as const;

const TENANT = 'demo';
const AUDITORS = 'auditors';
/**
 * Well before a token expires, so that whoever has read one an instant ago can still use it for a
 * while.
 */
const RENEW_AFTER_MS = 20 * 60_000;
/** Short, so that a machine that was asleep soon has good ones. */
const LOOK_EVERY_MS = 60_000;

/** A certificate's and its key's file. */
export interface CredentialFiles {
  readonly cert: string;
  readonly key: string;
}

/** Somebody with a certificate. */
export interface ClientIdentity {
  readonly address: string;
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

/** Somebody with a token alone. */
export interface TokenIdentity {
  readonly address: string;
  readonly caFile: string;
  readonly tokenFile: string;
}

/** What each calls with. */
export interface Identities {
  readonly admin: ClientIdentity;
  readonly service: ClientIdentity & TokenIdentity;
  readonly auditor: TokenIdentity;
  readonly firstAdministrator: ClientIdentity;
}

export interface IdentityFiles {
  readonly certificates: Readonly<
    Record<'ca' | 'client' | 'service' | 'firstAdministrator', CredentialFiles>
  >;
  readonly tokens: Readonly<Record<'service' | 'auditor', string>>;
}

/** Who calls the server at `address` with these files. */
export function identitiesOf(address: string, { certificates, tokens }: IdentityFiles): Identities {
  const caFile = certificates.ca.cert;
  const by = ({ cert, key }: CredentialFiles) => ({
    address,
    caFile,
    certFile: cert,
    keyFile: key,
  });
  return {
    admin: by(certificates.client),
    service: { ...by(certificates.service), tokenFile: tokens.service },
    auditor: { address, caFile, tokenFile: tokens.auditor },
    firstAdministrator: by(certificates.firstAdministrator),
  };
}

/**
 * Writes the command's profiles, their paths relative to the folder that the file is in: of those
 * who have a certificate or a token, and of the people who sign in at `signIn`, if any.
 */
export function writeProfiles(
  folder: string,
  file: string,
  { admin, service, auditor }: Omit<Identities, 'firstAdministrator'>,
  signIn?: string,
): void {
  const shortened = (identity: object) =>
    Object.fromEntries(
      Object.entries(identity).map(([name, value]) => [
        name,
        name.endsWith('File') ? relative(folder, String(value)) : value,
      ]),
    );
  const { address, caFile } = admin;
  const person = { address, caFile, issuer: signIn, clientId: CLIENT_ID, resource: RESOURCE };
  const people = Object.fromEntries(
    signIn === undefined ? [] : PEOPLE.map(({ id }) => [id, person]),
  );
  const all = Object.entries({ admin, service, auditor, ...people });
  const profiles = Object.fromEntries(all.map(([name, identity]) => [name, shortened(identity)]));
  writePrivateJson(file, { default: 'admin', profiles });
}

/**
 * Has the command use them: it uses a folder's profiles only where its user has allowed that.
 * Returns what it says, and whether it could.
 */
export function allowProfiles(root: string): { readonly allowed: boolean; readonly said: string } {
  const command = [join(root, 'cli', 'src', 'main.ts'), 'profiles', 'allow', root];
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { encoding: 'utf8' });
  return { allowed: status === 0, said: `${stdout}${stderr}`.trim() };
}

/**
 * Writes tokens for those who have one, and has new ones in their files in time until disposed of.
 */
export async function keepTokens(
  issuers: Issuers,
  { service, auditor }: Identities,
  onError: (error: unknown) => void,
): Promise<Disposable> {
  const requests: readonly (readonly [string, TokenRequest])[] = [
    [
      service.tokenFile,
      {
        issuer: 'dev-services',
        subject: 'service',
        tenants: [TENANT],
        certificate: readFileSync(service.certFile, 'utf8'),
      },
    ],
    [auditor.tokenFile, { issuer: 'dev-people', subject: 'auditor', groups: [AUDITORS] }],
  ];
  const write = async () => {
    for (const [file, request] of requests) writePrivate(file, `${await issuers.issue(request)}\n`);
    return Date.now();
  };
  let writtenAt = await write();
  const look = async () => {
    if (Date.now() - writtenAt >= RENEW_AFTER_MS) writtenAt = await write();
  };
  const timer = setInterval(() => void look().catch(onError), LOOK_EVERY_MS);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

interface Grant {
  readonly id: string;
  readonly tenant: string;
  readonly member: { readonly principal: string } | { readonly group: string };
  readonly role: string;
}

const grants = (
  tenant: string,
  member: Grant['member'],
  roles: Readonly<Record<string, string>>,
): readonly Grant[] =>
  Object.entries(roles).map(([id, role]) => ({
    id: `development-${id}`,
    tenant,
    member,
    role: `roles/${role}`,
  }));

function signingIn(group: string): Grant['member'] {
  return { group: `${SIGN_IN_ISSUER}/${group}` };
}

/** In all tenants; rootAdmin also says who may do what in each. */
const TO_ADMIN = grants(
  'system',
  { principal: PRINCIPALS.admin },
  { root: 'rootAdmin', keys: 'keyAdmin' },
);
const TO_AUDITORS = grants('system', { group: `dev-people/${AUDITORS}` }, { auditor: 'auditor' });
/** Those who sign in, by their groups. */
const TO_PEOPLE = [
  ...grants('system', signingIn('administrators'), { 'people-root': 'rootAdmin' }),
  ...grants('system', signingIn('administrators'), { 'people-keys': 'keyAdmin' }),
  ...grants('system', signingIn('auditors'), { 'people-auditor': 'auditor' }),
  ...grants(TENANT, signingIn('operators'), { 'people-operator': 'keyAdmin' }),
];
const TO_SERVICE = grants(
  TENANT,
  { principal: 'jwt:dev-services/service' },
  { encrypter: 'encrypter', decrypter: 'decrypter', issuer: 'dataKeyIssuer' },
);

/** Whether the administrator has what the roles say that he has by {@link appointAdministrator}. */
export async function isAdministrator(admin: KeywardClient): Promise<boolean> {
  const wanted = ['tenants.create', 'roleBindings.createForAllTenants', 'keys.create'];
  const { permissions } = await admin.testPermissions({
    resource: 'tenants/system',
    permissions: wanted,
  });
  return permissions.length === wanted.length;
}

/** Gives the administrator his roles, by whoever may only do that. */
export async function appointAdministrator(first: KeywardClient): Promise<void> {
  for (const grant of TO_ADMIN) await give(first, grant);
}

/** Gives the service, the auditors and the people theirs, in a tenant `demo` that is there. */
export async function grantRoles(admin: KeywardClient): Promise<void> {
  for (const grant of [...TO_SERVICE, ...TO_AUDITORS, ...TO_PEOPLE]) await give(admin, grant);
}

async function give(by: KeywardClient, { id, tenant, member, role }: Grant): Promise<void> {
  const roleBinding = {
    ...member,
    role,
    allTenants: tenant === 'system',
    description: 'Made by npm start.',
  };
  await unlessExists(() =>
    by.createRoleBinding({ parent: `tenants/${tenant}`, roleBindingId: id, roleBinding }),
  );
}

/** Whether it was done; false when the thing exists already. */
export async function unlessExists(create: () => Promise<unknown>): Promise<boolean> {
  try {
    await create();
    return true;
  } catch (error) {
    if (error instanceof KeywardError && error.reason === 'RESOURCE_EXISTS') return false;
    throw error;
  }
}
