/**
 * The server's settings: environment variables in, one typed and frozen object out.
 *
 * {@link SETTINGS} is the only list of them; docs/settings.md is written from it, by its groups.
 * Every mistake is reported at once, with its variable's name, before anything is opened;
 * `setting-kinds.ts` has what can be wrong with a value. Key and PIN files that others may read are
 * refused.
 */
import { readFileSync } from 'node:fs';
import { validate as isCronExpression } from 'node-cron';
import { z } from 'zod';
import { MAX_NAME_BYTES, PRINCIPALS } from './access/certificates.ts';
import { requirePair } from './pem.ts';
import {
  authoritiesFile,
  certificatesFile,
  databaseUrl,
  denyListFile,
  file,
  flag,
  integer,
  issuersFile,
  listen,
  names,
  privateKeyFile,
  processCount,
  receiversFile,
  relyingPartyId,
  secretFile,
  signOffUrl,
  socketPath,
  tokenSelector,
  variableNames,
  wholeNumber,
  witnessesFile,
} from './setting-kinds.ts';

/** One setting. */
interface Setting<T> {
  readonly schema: z.ZodType<T>;
  /** What it stands for when absent, in words; absent means that it must be given. */
  readonly fallback?: string;
  readonly description: string;
  /**
   * Whether it may be given by a file as well, which `<name>_FILE` names, so that it is in no
   * environment.
   */
  readonly orFile?: boolean;
}

const setting = <T>(schema: z.ZodType<T>, description: string, fallback?: string): Setting<T> => ({
  schema,
  description,
  ...(fallback === undefined ? {} : { fallback }),
});

/** A quota, Infinity for none. */
const quota = (fallback: number, description: string) =>
  setting(
    integer(0, Number.MAX_SAFE_INTEGER, fallback).transform(
      (limit) => limit || Number.POSITIVE_INFINITY,
    ),
    description,
    String(fallback),
  );

/** Settings under the heading that docs/settings.md has for them. */
function grouped<Rows extends Readonly<Record<string, Setting<unknown>>>>(
  group: string,
  rows: Rows,
): { readonly [Name in keyof Rows]: Rows[Name] & { readonly group: string } } {
  const entries = Object.entries(rows).map(([name, row]) => [name, { ...row, group }]);
  return Object.fromEntries(entries);
}

const OPERATION = grouped('Operation', {
  KEYWARD_MODE: setting(
    z
      .enum(['production', 'development'], 'must be production or development')
      .default('production'),
    'the mode that `token init` recorded in the database. `development` turns reflection on, ' +
      'and accepts rotation periods from 10 seconds and tokens marked as for development; ' +
      'nothing else differs',
    '`production`',
  ),
  KEYWARD_HEALTH_LISTEN: setting(
    listen.optional(),
    'address and port for health only, in plaintext: for probes without a certificate, and ' +
      '`keyward-server health`',
    'none',
  ),
  KEYWARD_METRICS_LISTEN: setting(
    listen.optional(),
    'address and port for operators’ programs, in plaintext: metrics (docs/metrics.md), and ' +
      '`/livez` and `/readyz` (docs/deployment.md#running-it). Keep it from callers: what it tells ' +
      'is not secret, and not theirs to know; the development environment sets one',
    'none, and nothing is measured',
  ),
  KEYWARD_METRICS_TENANTS: setting(
    integer(0, 10_000, 100),
    'how many tenants have their calls counted apart; those of the others are counted together',
    '100',
  ),
  KEYWARD_SERVERS: setting(
    processCount,
    'server processes behind the same ports, under a supervisor, each with its own agents, ' +
      'connections to the database and limits (docs/deployment.md#several-server-processes); ' +
      '`auto` for one for each core that may be used',
    '1, and no supervisor',
  ),
  KEYWARD_SERVER_TIMEOUT_MS: setting(
    integer(1_000, 600_000, 10_000),
    'of several server processes: for how long one may give no sign of life before it is killed ' +
      'and replaced',
    '10000',
  ),
  KEYWARD_DRAIN_MS: setting(
    integer(0, 600_000, 10_000),
    'how long calls under way may take to end after SIGTERM, or after a failure that ends the ' +
      'process',
    '10000',
  ),
  KEYWARD_REFLECTION: setting(
    flag.optional(),
    'gRPC reflection',
    '`true` in development, else `false`',
  ),
  KEYWARD_LOG_LEVEL: setting(
    z
      .enum(['debug', 'info', 'warn', 'error'], 'must be debug, info, warn or error')
      .default('info'),
    'the lowest level to log',
    '`info`',
  ),
});

const NETWORK = grouped('Network and TLS', {
  KEYWARD_LISTEN: setting(
    listen.default('127.0.0.1:7443'),
    'address and port to serve gRPC on',
    '`127.0.0.1:7443`',
  ),
  KEYWARD_HTTP_LISTEN: setting(
    listen.optional(),
    'address and port to serve HTTP with JSON on (docs/http.md); the development environment ' +
      'sets one',
    'none',
  ),
  KEYWARD_TLS_CERT_FILE: setting(certificatesFile, 'PEM: the server’s certificate and its chain'),
  KEYWARD_TLS_KEY_FILE: setting(
    privateKeyFile,
    'PEM: the certificate’s private key, readable only by its owner',
  ),
  KEYWARD_TLS_CLIENT_CA_FILE: setting(
    authoritiesFile,
    'PEM: the CAs whose client certificates are accepted',
  ),
  KEYWARD_HANDSHAKE_MS: setting(
    integer(100, 120_000, 5_000),
    'the longest that a TLS handshake may take, from the start of the connection, and again ' +
      'until HTTP/2 begins',
    '5000',
  ),
  KEYWARD_KEEPALIVE_MS: setting(
    integer(1_000, 86_400_000, 10_000),
    'how long a client may be silent before the server sends a PING; after the same time ' +
      'without an answer it closes the connection',
    '10000',
  ),
  KEYWARD_IDLE_MS: setting(
    integer(100, 86_400_000, 600_000),
    'how long a connection may be without a call before it is closed',
    '600000',
  ),
  KEYWARD_CONNECTION_AGE_MS: setting(
    integer(1_000, 604_800_000, 3_600_000),
    'the age at which a connection is closed in order, a tenth more or less; clients reconnect',
    '3600000',
  ),
});

const CALLERS = grouped('Callers', {
  KEYWARD_CERTIFICATE_PRINCIPAL: setting(
    z.enum(PRINCIPALS, `must be one of ${PRINCIPALS.join(', ')}`).default('spiffe-then-subject'),
    'the name that identifies a client certificate: only `spiffe`, `subject` or `dns`, or ' +
      '`spiffe-then-subject`',
    '`spiffe-then-subject`',
  ),
  KEYWARD_CERTIFICATE_DENY_FILE: setting(
    denyListFile.optional(),
    'client certificates to refuse although they verify (docs/access.md)',
    'none',
  ),
  KEYWARD_ISSUERS_FILE: setting(
    issuersFile.optional(),
    'JSON: the issuers whose tokens are accepted (docs/access.md); with it, callers need no ' +
      'certificate',
    'none',
  ),
  KEYWARD_RELYING_PARTY_ID: setting(
    relyingPartyId.optional(),
    'the domain that people’s passkeys are for: that of the page on which they sign, or one above ' +
      'it (docs/people.md#passkeys). Passkeys of another domain are good for nothing',
    'none, and there are no passkeys',
  ),
  KEYWARD_SIGN_OFF_URL: setting(
    signOffUrl.optional(),
    'where people’s browsers find the sign-off page (docs/people.md#signing-off), if it is not at ' +
      'the relying party’s domain and the port of `KEYWARD_HTTP_LISTEN`: behind a proxy, say. Its ' +
      'host is the relying party’s domain or one below it',
    '`https://`, `KEYWARD_RELYING_PARTY_ID`, the port of `KEYWARD_HTTP_LISTEN`, `/sign-off`; none ' +
      'without these',
  ),
  KEYWARD_PASSKEYS_DEVICE_BOUND: setting(
    flag.default(false),
    'whether only passkeys are registered that their authenticator never copies to another device',
    '`false`',
  ),
  KEYWARD_PASSKEY_ATTESTATION_ROOTS_FILE: setting(
    authoritiesFile.optional(),
    'PEM: root certificates of makers of authenticators; with it, only passkeys are registered ' +
      'whose attestation verifies under one of them',
    'none, and no attestation is asked for',
  ),
  KEYWARD_FIRST_ADMINISTRATOR: setting(
    z
      .string()
      .max(MAX_NAME_BYTES)
      .refine((name) => name.trim() === name, 'must be a caller’s name')
      .optional(),
    'the name of a caller that may create role bindings without having one, and nothing else; ' +
      'reported at every start',
    'none',
  ),
  KEYWARD_ANOMALIES: setting(
    flag.default(false),
    'whether an alert is raised where a caller does what is unusual for them (docs/anomalies.md)',
    '`false`',
  ),
  KEYWARD_APPROVAL_SECONDS: setting(
    integer(1, 604_800, 86_400),
    'how long a call that others have to approve waits for that, in seconds',
    '86400',
  ),
  KEYWARD_POLICY_CACHE: setting(
    integer(2, 1_000_000, 10_000),
    'tenants whose role bindings each server keeps in memory',
    '10000',
  ),
  KEYWARD_CACHE_MAX_AGE_MS: setting(
    integer(1_000, 30_000, 30_000),
    'how long a change of a tenant, a key or a role binding takes at most until every server ' +
      'obeys it where something keeps the database from announcing it',
    '30000',
  ),
});

const DATABASE = grouped('Database', {
  DATABASE_URL: {
    ...setting(
      databaseUrl,
      'PostgreSQL 15 or later, as the role `keyward_service`; several servers as ' +
        '`one:5432,other:5432`, of which the one that accepts writes is used; or ' +
        '`DATABASE_URL_FILE`, a file with the URL',
    ),
    orFile: true,
  },
  KEYWARD_DATABASE_CA_FILE: setting(
    authoritiesFile.optional(),
    'PEM: the CA that the database’s certificate is verified against',
    'the public CAs that Node brings along, not the operating system’s',
  ),
  KEYWARD_DATABASE_POOL: setting(
    integer(1, 1000, 10),
    'database connections that calls share',
    '10',
  ),
  KEYWARD_DATABASE_WAIT_MS: setting(
    integer(10, 60_000, 300),
    'how long a call waits for a database connection while all are in use; then it is refused as ' +
      'DATABASE_POOL_EXHAUSTED',
    '300',
  ),
  KEYWARD_MAX_STALENESS_MS: setting(
    integer(1_000, 10_000, 1_500),
    'for how long a server that cannot read the database still answers from memory, and so the ' +
      'longest that a revocation is not obeyed where the database is cut off; then its answer is ' +
      'REPLICA_STALE',
    '1500',
  ),
  KEYWARD_KEY_CACHE: setting(
    integer(1, 1_000_000, 10_000),
    'keys that each server keeps in memory',
    '10000',
  ),
});

const HSM = grouped('HSM', {
  KEYWARD_HSM_MODULE: setting(file, 'the PKCS#11 module’s library'),
  KEYWARD_HSM_MODULE_PARAMETERS: setting(
    z.string().optional(),
    'the module’s initialisation string, if it needs one (NSS)',
    'none',
  ),
  KEYWARD_HSM_TOKEN: setting(
    tokenSelector,
    'the token’s label, or a `pkcs11:` URI that matches one token',
  ),
  KEYWARD_HSM_PIN_FILE: setting(
    secretFile,
    'file with the token’s user PIN; only the agents read it',
  ),
  KEYWARD_HSM_AGENTS: setting(
    integer(1, 64, 1),
    'agent processes, each with a session of its own',
    '1',
  ),
  KEYWARD_HSM_CALL_TIMEOUT_MS: setting(
    integer(100, 600_000, 5_000),
    'the longest that an agent may work on one call before it is replaced',
    '5000',
  ),
  KEYWARD_HSM_START_TIMEOUT_MS: setting(
    integer(100, 600_000, 10_000),
    'the longest that an agent may take to start before it is replaced; twice as long after each ' +
      'that was, until one starts. Another one is started beside it after ' +
      'KEYWARD_HSM_CALL_TIMEOUT_MS',
    '10000',
  ),
  KEYWARD_HSM_QUEUE_CALLS: setting(
    integer(1, 100_000, 4_096),
    'calls that may wait for the agents at once',
    '4096',
  ),
  KEYWARD_HSM_QUEUE_BYTES: setting(
    integer(1_048_576, 1_073_741_824, 67_108_864),
    'bytes of calls that may wait for the agents at once',
    '67108864',
  ),
  KEYWARD_HSM_KEY_CACHE: setting(
    integer(1, 1_000_000, 10_000),
    'key versions that each agent keeps unwrapped, as session objects',
    '10000',
  ),
  KEYWARD_HSM_ENVIRONMENT: setting(
    variableNames,
    'names of variables to pass to the agents, separated by commas',
    'none',
  ),
  KEYWARD_AGENT_RULE: setting(
    file.optional(),
    'the rule that the agents hold (docs/people.md#the-agents-rule): whose approval they want ' +
      'before they seal what grants power, or make a key in the token',
    'none',
  ),
  KEYWARD_HSM_WAIVERS: setting(
    names,
    'attributes that this token cannot enforce and that you accept to do without, separated by ' +
      'commas',
    'none',
  ),
});

const NEXT_HSM = grouped('The next HSM token', {
  KEYWARD_NEXT_HSM_MODULE: setting(
    file.optional(),
    'while key versions move to another token (docs/migration.md): that token’s PKCS#11 module',
    'none',
  ),
  KEYWARD_NEXT_HSM_MODULE_PARAMETERS: setting(
    z.string().optional(),
    'its initialisation string, if it needs one',
    'none',
  ),
  KEYWARD_NEXT_HSM_TOKEN: setting(
    tokenSelector.optional(),
    'its label, or a `pkcs11:` URI',
    'none',
  ),
  KEYWARD_NEXT_HSM_PIN_FILE: setting(secretFile.optional(), 'file with its user PIN', 'none'),
  KEYWARD_NEXT_HSM_WAIVERS: setting(
    names,
    'attributes that it cannot enforce and that you accept to do without, separated by commas',
    'none',
  ),
});

const AGENT_HOSTS = grouped('Agents of another user', {
  KEYWARD_AGENT_HOST: setting(
    socketPath.optional(),
    'the socket of the agent host, which starts the agents as another user than the server’s ' +
      '(docs/deployment.md#agents-of-another-user). Then it has `KEYWARD_HSM_MODULE`, ' +
      '`KEYWARD_HSM_MODULE_PARAMETERS`, `KEYWARD_HSM_TOKEN`, `KEYWARD_HSM_PIN_FILE`, ' +
      '`KEYWARD_HSM_WAIVERS`, `KEYWARD_HSM_ENVIRONMENT` and `KEYWARD_AGENT_RULE`, and the server ' +
      'must not',
    'none: the server starts its agents itself',
  ),
  KEYWARD_NEXT_AGENT_HOST: setting(
    socketPath.optional(),
    'while key versions move to another token: the socket of that token’s agent host, in the place ' +
      'of `KEYWARD_NEXT_HSM_*`',
    'none',
  ),
});

const LIMITS = grouped('Limits', {
  KEYWARD_DEADLINE_MS: setting(
    integer(100, 600_000, 10_000),
    'the longest that a call may take, even if its own deadline is later or missing',
    '10000',
  ),
  KEYWARD_MAX_CALLS: setting(
    integer(1, 100_000, 2_048),
    'calls under way at once that use keys, of which one caller gets no more than it leaves to ' +
      'others; more are refused as SERVER_BUSY. Health, audit and administration have an eighth ' +
      'as many in addition',
    '2048',
  ),
  KEYWARD_MAX_REQUEST_BYTES: setting(
    integer(1_048_576, 1_073_741_824, 67_108_864),
    'bytes of requests under way at once, complete or not, and of their answers, of which one ' +
      'caller gets no more than it leaves to others; more are refused as SERVER_BUSY ' +
      '(docs/sizing.md)',
    '67108864',
  ),
  KEYWARD_MAX_MESSAGE_BYTES: setting(
    integer(262_144, 67_108_864, 4_194_304),
    'the largest request of any method; most methods take less',
    '4194304',
  ),
  KEYWARD_HEAP_GROWTH: setting(
    integer(20, 300, 100),
    'by how many percent the server’s heap may grow after a full garbage collection before the ' +
      'next one: less takes less memory and more CPU (docs/sizing.md)',
    '100',
  ),
  KEYWARD_MAX_HEADER_BYTES: setting(
    integer(4_096, 1_048_576, 16_384),
    'bytes of headers of one call, as HTTP/2 counts them (RFC 9113, 6.5.2)',
    '16384',
  ),
  KEYWARD_MAX_HEADERS: setting(integer(16, 1_000, 64), 'headers of one call', '64'),
  KEYWARD_MAX_CONNECTIONS: setting(
    integer(1, 100_000, 2_000),
    'connections at once; no caller can hold more than it leaves to others, and ' +
      'unauthenticated ones are dropped first',
    '2000',
  ),
  KEYWARD_MAX_STREAMS: setting(
    integer(1, 10_000, 256),
    'calls at once on one connection; further ones wait at the client',
    '256',
  ),
  KEYWARD_MAX_RESETS_PER_SECOND: setting(
    integer(1, 100_000, 100),
    'calls that an unauthenticated connection may reset each second, and ten times as many at ' +
      'once, before it is ended; a caller may reset 8 times as many that had not begun, and 32 ' +
      'times as many that had',
    '100',
  ),
  KEYWARD_MAX_PINGS: setting(
    integer(2, 100_000, 100),
    'HTTP/2 PINGs and SETTINGS while nothing is served, one forgiven each second, before a ' +
      'connection is ended',
    '100',
  ),
});

const QUOTAS = grouped('Quotas', {
  KEYWARD_TENANT_CALLS_PER_SECOND: quota(
    0,
    'calls per second for a tenant without a quota of its own, on all replicas together; each ' +
      'item of a batch counts (docs/quotas.md); 0 for no limit',
  ),
  KEYWARD_TENANT_KEYS: quota(
    1_000_000,
    'keys for a tenant without a quota of its own, not counting destroyed ones; 0 for no limit',
  ),
  KEYWARD_TENANT_DATA_KEYS: quota(
    100_000_000,
    'stored data keys for a tenant without a quota of its own; 0 for no limit',
  ),
});

const MAINTENANCE = grouped('Maintenance', {
  KEYWARD_MAINTENANCE_TICKS: setting(
    z
      .string()
      .default('*/5 * * * * *')
      .refine((expression) => isCronExpression(expression), 'must be a cron expression'),
    'when this replica looks for due rotations, re-wraps and destructions: a cron expression ' +
      'that begins with seconds',
    '`*/5 * * * * *`',
  ),
  KEYWARD_MAINTENANCE_JITTER_MS: setting(
    integer(0, 600_000, 2_000),
    'the largest random delay after that, so that replicas do not all look at once',
    '2000',
  ),
  KEYWARD_REWRAP_SHARE: setting(
    integer(1, 100, 25),
    'percent of the time that this replica works on re-wrap jobs while there are any; at 100, on ' +
      'two ranges for each agent at once, and one more',
    '25',
  ),
  KEYWARD_USAGE_REPORT_MS: setting(
    integer(100, 60_000, 20_000),
    'the longest time between this replica’s reports of how key versions were used',
    '20000',
  ),
});

const AUDIT = grouped('Audit', {
  KEYWARD_AUDIT_WAIT_MS: setting(
    integer(100, 60_000, 440),
    'how long a call waits for its audit entry while the database writes none; then it is refused ' +
      'as AUDIT_UNAVAILABLE',
    '440',
  ),
  KEYWARD_AUDIT_CHECKPOINT_MS: setting(
    integer(250, 86_400_000, 1_000),
    'the time between signed checkpoints of the audit log, while it has new entries',
    '1000',
  ),
  KEYWARD_AUDIT_KEPT_CHECKPOINT: setting(
    z
      .url('must be a file:, http: or https: URL')
      .refine((url) => /^(file|https?):/.test(url), 'must be a file:, http: or https: URL')
      .optional(),
    'where the audit log’s last checkpoint is also kept, so that the service notices an older, ' +
      'restored database: `file:///path`, or a URL that takes PUT and GET',
    'none',
  ),
  KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: setting(
    wholeNumber(1, 10_080).optional(),
    'keep the audit log’s last checkpoint in the HSM token too, written at most once in this ' +
      'many minutes (docs/audit.md#running-it)',
    'not kept there',
  ),
  KEYWARD_AUDIT_WITNESSES_FILE: setting(
    witnessesFile.optional(),
    'verifier keys (C2SP) of witnesses, one per line, whose cosignatures of checkpoints are ' +
      'kept; a witness with a URL after its key is asked for them (docs/audit.md#running-it)',
    'none',
  ),
  KEYWARD_AUDIT_WITNESS_MS: setting(
    integer(100, 86_400_000, 60_000),
    'the shortest time between submissions of the last checkpoint to witnesses with a URL, ' +
      'while the log has new entries',
    '60000',
  ),
});

const ALERTS = grouped('Alerts', {
  KEYWARD_ALERTS_FILE: setting(
    receiversFile.optional(),
    'JSON: the receivers to which alerts are delivered (docs/operations.md); read again when it ' +
      'changes',
    'none',
  ),
});

/** Every setting of the server. */
export const SETTINGS = {
  ...NETWORK,
  ...CALLERS,
  ...HSM,
  ...NEXT_HSM,
  ...AGENT_HOSTS,
  ...DATABASE,
  ...LIMITS,
  ...QUOTAS,
  ...MAINTENANCE,
  ...AUDIT,
  ...ALERTS,
  ...OPERATION,
} as const;

/** What `migrate` and the `token` commands that change something need in addition. */
export const OWNER_SETTINGS = grouped('The database’s owner', {
  MIGRATION_DATABASE_URL: {
    ...setting(
      databaseUrl,
      'the same database, as the role that owns its schema, for `migrate` and for the `token` ' +
        'and `audit` commands that change something; or `MIGRATION_DATABASE_URL_FILE`',
    ),
    orFile: true,
  },
});

/** What `agents` needs besides `KEYWARD_HSM_*`. */
export const AGENT_HOST_SETTINGS = grouped('The agent host', {
  KEYWARD_AGENT_HOST_LISTEN: setting(
    socketPath,
    'for `keyward-server agents`: the socket to listen at, which the server’s `KEYWARD_AGENT_HOST` ' +
      'names. Who may open it, its folder and its group decide: it gets the mode 0660, and the ' +
      'folder must be one that only its owner can change',
  ),
  KEYWARD_AGENT_HOST_AGENTS: setting(
    integer(1, 1_024, 64),
    'for `keyward-server agents`: how many agents there may be at once, of all servers together',
    '64',
  ),
});

/** What opens a token, and is not for a server whose agents a host starts. */
export const TOKEN_SETTINGS = [
  'KEYWARD_HSM_MODULE',
  'KEYWARD_HSM_MODULE_PARAMETERS',
  'KEYWARD_HSM_TOKEN',
  'KEYWARD_HSM_PIN_FILE',
  'KEYWARD_HSM_WAIVERS',
  'KEYWARD_HSM_ENVIRONMENT',
  'KEYWARD_AGENT_RULE',
] as const;
/** The same of the token to which key versions move. */
export const NEXT_TOKEN_SETTINGS = [
  'KEYWARD_NEXT_HSM_MODULE',
  'KEYWARD_NEXT_HSM_MODULE_PARAMETERS',
  'KEYWARD_NEXT_HSM_TOKEN',
  'KEYWARD_NEXT_HSM_PIN_FILE',
  'KEYWARD_NEXT_HSM_WAIVERS',
] as const;

type Settings = typeof SETTINGS & typeof OWNER_SETTINGS & typeof AGENT_HOST_SETTINGS;
type OpensToken = (typeof TOKEN_SETTINGS)[number] | (typeof NEXT_TOKEN_SETTINGS)[number];
/** The named settings, read; by default all of the server’s but those that open a token. */
export type Configuration<
  Name extends keyof Settings = Exclude<keyof typeof SETTINGS, OpensToken>,
> = {
  readonly [N in Name]: Settings[N] extends Setting<infer T> ? T : never;
};

/** Settings that are not valid: every mistake, a line each. */
export class ConfigurationError extends Error {
  override readonly name = 'ConfigurationError';
}

type Absent<Name extends OpensToken> = { readonly [N in Name]?: undefined };
type Current = (typeof TOKEN_SETTINGS)[number];
type Next = (typeof NEXT_TOKEN_SETTINGS)[number];
interface Hosts<Host, NextHost> {
  readonly KEYWARD_AGENT_HOST: Host;
  readonly KEYWARD_NEXT_AGENT_HOST: NextHost;
}
/** What the server runs with: without what opens a token where a host of agents does that. */
export type ServerConfiguration = Configuration &
  (
    | (Configuration<Current | Next> & Hosts<undefined, undefined>)
    | (Configuration<Current> & Absent<Next> & Hosts<undefined, string>)
    | (Absent<Current | Next> & Hosts<string, string | undefined>)
  );

/** The settings that the server runs with. Throws {@link ConfigurationError}. */
export function readConfiguration(environment: NodeJS.ProcessEnv): ServerConfiguration {
  const all = Object.keys(SETTINGS) as (keyof typeof SETTINGS)[];
  const { KEYWARD_AGENT_HOST: host, KEYWARD_NEXT_AGENT_HOST: nextHost } = environment;
  const hosts: readonly string[] = [
    ...(host ? TOKEN_SETTINGS : []),
    ...(host || nextHost ? NEXT_TOKEN_SETTINGS : []),
  ];
  const mistakes = hosts
    .filter((name) => environment[name])
    .map((name) => `${name} must not be set where a host starts the agents: set it there instead`);
  const wanted = all.filter((name) => !hosts.includes(name));
  const settings = readInto(mistakes, wanted, environment) as unknown as ServerConfiguration;
  const pemOf = (path: string) => ({ path, pem: readFileSync(path, 'utf8') });
  try {
    requirePair(pemOf(settings.KEYWARD_TLS_CERT_FILE), pemOf(settings.KEYWARD_TLS_KEY_FILE));
  } catch (cause) {
    throw new ConfigurationError(
      `KEYWARD_TLS_KEY_FILE must name the key of KEYWARD_TLS_CERT_FILE: ${(cause as Error).message}`,
      { cause },
    );
  }
  return settings;
}

/** Some settings, for a command that needs only those. Throws {@link ConfigurationError}. */
export function read<Name extends keyof Settings>(
  wanted: readonly Name[],
  environment: NodeJS.ProcessEnv,
): Configuration<Name> {
  const opensToken = TOKEN_SETTINGS.some((name) => (wanted as readonly string[]).includes(name));
  const mistakes =
    opensToken && environment['KEYWARD_AGENT_HOST']
      ? [
          'KEYWARD_AGENT_HOST must not be set for a command that opens the token itself: run it as ' +
            'the agents’ user, with the settings of the agent host',
        ]
      : [];
  return readInto(mistakes, wanted, environment);
}

/** Throws {@link ConfigurationError} with these mistakes too, if there are any. */
function readInto<Name extends keyof Settings>(
  mistakes: string[],
  wanted: readonly Name[],
  environment: NodeJS.ProcessEnv,
): Configuration<Name> {
  const all: Readonly<Record<string, Setting<unknown>>> = {
    ...SETTINGS,
    ...OWNER_SETTINGS,
    ...AGENT_HOST_SETTINGS,
  };
  const values: Record<string, unknown> = {};
  for (const name of wanted) {
    const { schema, fallback, orFile } = all[name] as Setting<unknown>;
    const direct = environment[name] || undefined;
    const path = orFile ? environment[`${name}_FILE`] || undefined : undefined;
    const inFile = path === undefined ? undefined : secretFile.safeParse(path);
    if (inFile !== undefined && (direct !== undefined || !inFile.success)) {
      const why = inFile.success
        ? `and ${name} are both set: give one`
        : inFile.error.issues[0]?.message;
      mistakes.push(`${name}_FILE ${why}`);
      continue;
    }
    const given = inFile?.success ? readFileSync(inFile.data, 'utf8').trim() : direct;
    const result = schema.safeParse(given);
    if (result.success) values[name] = result.data;
    else if (given === undefined && fallback === undefined)
      mistakes.push(`${name} is not set: ${all[name]?.description}`);
    else mistakes.push(`${name} ${result.error.issues[0]?.message}`);
  }
  if (mistakes.length > 0) throw new ConfigurationError(mistakes.join('\n'));
  return Object.freeze(values) as Configuration<Name>;
}
