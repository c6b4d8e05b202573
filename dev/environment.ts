/**
 * The development environment: everything that the server needs and a machine doesn't have, kept in
 * `.keyward/`.
 *
 * Owns the layout of that folder, which only its owner can read, and which settings the server gets
 * from it. What exists is used again, so data lasts from start to start. Knows nothing of the
 * server but its variables' names.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createSoftHsmToken, tokenVariables } from '../softhsm/token.ts';
import {
  type CertificateRequest,
  type Credentials,
  createCertificateAuthority,
  restoreCertificateAuthority,
} from './certificates.ts';
import { readIfThere, writePrivate } from './files.ts';
import {
  type CredentialFiles,
  type Identities,
  identitiesOf,
  PRINCIPALS,
  writeProfiles,
} from './identities.ts';
import { type Issuers, openIssuers } from './issuers.ts';
import { createRoles, type Postgres, startPostgres } from './postgres.ts';
import { RELYING_PARTY } from './second-person.ts';

const AUTHORITY = 'Keyward development CA';
const TOKEN_LABEL = 'keyward-development';
const DATABASE = 'keyward';
const DAY_MS = 86_400_000;
/** Certificates are made anew when they have less than this left. */
const RENEW_LEAF_DAYS = 30;
/** What the authority issues is valid for a year and must not outlast it. */
const RENEW_AUTHORITY_DAYS = 400;

/** The paths of everything in `.keyward/`. */
export function environmentPaths(root: string) {
  const directory = join(root, '.keyward');
  const inside = (...names: string[]) => join(directory, ...names);
  return {
    directory,
    token: inside('token'),
    postgres: inside('postgres'),
    certificates: inside('certificates'),
    /** The server's settings, for `node --env-file`. */
    environmentFile: inside('environment'),
    /** The issuers of tokens: their key, and what the server reads. */
    issuers: inside('issuers'),
    /** The OpenID provider: its keys, and who has signed in. */
    provider: inside('provider'),
    /** Tokens of those who have one. */
    tokens: { service: inside('tokens', 'service.jwt'), auditor: inside('tokens', 'auditor.jwt') },
    /** Where the server is and who there is, for the command. */
    profilesFile: inside('profiles.json'),
    serverLog: inside('server.log'),
    startLock: inside('start.lock'),
    /** What a start left running; see start.ts. */
    startState: inside('start.json'),
    /** A ciphertext of an earlier start. */
    demonstration: inside('demonstration.json'),
    /** Who approves in the demonstration, with the key of a passkey. */
    approver: inside('approver.json'),
  } as const;
}

/** Where the server listens on 127.0.0.1. */
export interface Ports {
  readonly port: number;
  /** For HTTP, if it is to. */
  readonly httpPort?: number;
  /** For operators’ programs, if they are to be served. */
  readonly metricsPort?: number;
}

/** An environment that is open: its database, if it is ours, runs. */
export interface DevelopmentEnvironment {
  readonly issuers: Issuers;
  /** Nothing when the user gave a database. */
  readonly postgres: Postgres | undefined;
  /** The server's settings, but for where it listens. */
  readonly variables: Readonly<Record<string, string>>;
  /** Has the server and its callers meet there, and writes that down. */
  at(ports: Ports): PlacedEnvironment;
}

/** An environment whose server has ports. */
export interface PlacedEnvironment {
  /** The server's settings. */
  readonly variables: Readonly<Record<string, string>>;
  /** Everybody, with absolute paths. */
  readonly identities: Identities;
}

export interface EnvironmentOptions {
  /** The clone's folder. */
  readonly root: string;
  /**
   * The variables that the command was started with: DATABASE_URL there takes the place of our
   * PostgreSQL.
   */
  readonly given: Readonly<Record<string, string | undefined>>;
  readonly onDatabaseExit: (detail: string) => void;
  /** `iss` of the provider at which people sign in, if they can. */
  readonly signIn?: string;
}

/** Makes or finds everything, and starts the database. */
export async function openDevelopmentEnvironment(
  options: EnvironmentOptions,
): Promise<DevelopmentEnvironment> {
  const paths = environmentPaths(options.root);
  mkdirSync(paths.directory, { recursive: true, mode: 0o700 });
  const databaseGiven = givenDatabase(options.given);
  const [token, postgres] = await Promise.all([
    createSoftHsmToken({ directory: paths.token, label: TOKEN_LABEL }),
    databaseGiven === undefined ? openDatabase(paths.postgres, options.onDatabaseExit) : undefined,
  ]);
  const certificates = openCertificates(paths.certificates);
  const issuers = openIssuers(paths.issuers, options.signIn);
  const variables = {
    KEYWARD_MODE: 'development',
    KEYWARD_TLS_CERT_FILE: certificates.server.cert,
    KEYWARD_TLS_KEY_FILE: certificates.server.key,
    KEYWARD_TLS_CLIENT_CA_FILE: certificates.ca.cert,
    KEYWARD_ISSUERS_FILE: issuers.file,
    KEYWARD_RELYING_PARTY_ID: RELYING_PARTY,
    ...tokenVariables(token),
    ...databaseGiven,
    ...(postgres && {
      DATABASE_URL: postgres.serviceUrl(DATABASE),
      MIGRATION_DATABASE_URL: postgres.ownerUrl(DATABASE),
    }),
  };
  const at = ({ port, httpPort, metricsPort }: Ports): PlacedEnvironment => {
    const address = `127.0.0.1:${port}`;
    const placed = {
      ...variables,
      KEYWARD_LISTEN: address,
      ...(httpPort !== undefined && { KEYWARD_HTTP_LISTEN: `127.0.0.1:${httpPort}` }),
      ...(metricsPort !== undefined && { KEYWARD_METRICS_LISTEN: `127.0.0.1:${metricsPort}` }),
    };
    writePrivate(paths.environmentFile, toEnvironmentFile(placed));
    const identities = identitiesOf(address, { certificates, tokens: paths.tokens });
    writeProfiles(paths.directory, paths.profilesFile, identities, options.signIn);
    return { variables: placed, identities };
  };
  return { issuers, postgres, variables, at };
}

/**
 * The two connection strings that the user gave, or nothing; one without the other is a mistake.
 */
function givenDatabase(given: EnvironmentOptions['given']): Record<string, string> | undefined {
  const { DATABASE_URL: service, MIGRATION_DATABASE_URL: owner } = given;
  if (service === undefined && owner === undefined) return undefined;
  if (service === undefined || owner === undefined) {
    const missing = service === undefined ? 'DATABASE_URL' : 'MIGRATION_DATABASE_URL';
    throw new Error(
      `cannot use your own database: ${missing} is not set; set both DATABASE_URL ` +
        '(the role keyward_service) and MIGRATION_DATABASE_URL (the role keyward_owner)',
    );
  }
  return { DATABASE_URL: service, MIGRATION_DATABASE_URL: owner };
}

async function openDatabase(
  directory: string,
  onUnexpectedExit: (detail: string) => void,
): Promise<Postgres> {
  const postgres = await startPostgres({ directory, onUnexpectedExit });
  await createRoles(postgres, DATABASE);
  return postgres;
}

/** Whom the authority certifies. */
const CERTIFIED = {
  server: { subject: 'localhost', usage: 'server', dns: ['localhost'], ips: ['127.0.0.1', '::1'] },
  client: { subject: 'developer', usage: 'client', uris: [PRINCIPALS.admin] },
  service: { subject: 'service', usage: 'client', uris: [PRINCIPALS.service] },
  firstAdministrator: {
    subject: 'first administrator',
    usage: 'client',
    uris: [PRINCIPALS.firstAdministrator],
  },
} as const satisfies Record<string, CertificateRequest>;

/** Finds the certificates, making those that are missing or about to expire. */
export function openCertificates(
  directory: string,
): Record<'ca' | keyof typeof CERTIFIED, CredentialFiles> {
  const files = (name: string) => ({
    cert: join(directory, `${name}.pem`),
    key: join(directory, `${name}-key.pem`),
  });
  const ca = files('ca');
  const kept = readCredentials(ca, RENEW_AUTHORITY_DAYS);
  const authority =
    kept === undefined
      ? createCertificateAuthority(AUTHORITY)
      : restoreCertificateAuthority(AUTHORITY, kept);
  if (kept === undefined) writeCredentials(ca, authority);
  const certified = (name: keyof typeof CERTIFIED, own: CredentialFiles) => {
    if (kept === undefined || readCredentials(own, RENEW_LEAF_DAYS) === undefined)
      writeCredentials(own, authority.issue(CERTIFIED[name]));
    return own;
  };
  return {
    ca,
    server: certified('server', files('server')),
    client: certified('client', files('client')),
    service: certified('service', files('service')),
    firstAdministrator: certified('firstAdministrator', files('first-administrator')),
  };
}

/**
 * Nothing when a file is missing, they don't belong together, or the certificate has less than
 * `days` left.
 */
function readCredentials(files: CredentialFiles, days: number): Credentials | undefined {
  const [certPem, keyPem] = [readIfThere(files.cert), readIfThere(files.key)];
  if (certPem === undefined || keyPem === undefined) return undefined;
  const certificate = new X509Certificate(certPem);
  const left = certificate.validToDate.getTime() - Date.now();
  return left > days * DAY_MS && certificate.checkPrivateKey(createPrivateKey(keyPem))
    ? { certPem, keyPem }
    : undefined;
}

function writeCredentials(files: CredentialFiles, credentials: Credentials): void {
  writePrivate(files.key, credentials.keyPem);
  writePrivate(files.cert, credentials.certPem);
}

function toEnvironmentFile(variables: Readonly<Record<string, string>>): string {
  const lines = Object.entries(variables).map(
    ([name, value]) => `${name}=${JSON.stringify(value)}`,
  );
  return [
    "# The development server's settings, written at every start. For example:",
    '# node --env-file=.keyward/environment src/main.ts token init',
    ...lines,
    '',
  ].join('\n');
}
