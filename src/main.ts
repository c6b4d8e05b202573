#!/usr/bin/env node
/**
 * The composition root: `keyward-server serve`, `health`, `migrate`, `token init`, `token check`, `token status`,
 * `token destroy-key`, `token record`, `token shred`, `token seal-states`, `token migrate`, `audit resume`, `audit drop`.
 *
 * Reads the configuration, makes the parts, connects them, and ends them in the right order. Decides nothing else.
 */
import { readFileSync } from 'node:fs';
import { hostname, userInfo } from 'node:os';
import { Command, InvalidArgumentError } from 'commander';
import { Access } from './access/access.ts';
import { AccessAdministration } from './access/administration.ts';
import { Identity } from './access/identity.ts';
import { Policies } from './access/policies.ts';
import { POLICIES } from './access/stale-policies.ts';
import { type KeptCheckpoint, openKeptCheckpoint } from './audit/kept-checkpoint.ts';
import { AuditLog } from './audit/log.ts';
import { ContextMasks } from './audit/masks.ts';
import { type AuditOperation, dropExported, resumeLog } from './audit/operation.ts';
import { Sequencer } from './audit/sequencer.ts';
import { TokenCheckpoint } from './audit/token-checkpoint.ts';
import { WitnessRounds } from './audit/witness-rounds.ts';
import { parseWitnesses, type Witness } from './audit/witnesses.ts';
import { AuditWriter } from './audit/writer.ts';
import { monotonicNow } from './call.ts';
import { type Configuration, ConfigurationError, read, readConfiguration } from './config.ts';
import { HsmAgents, TokenRefused } from './hsm/agents.ts';
import type { ServeSettings, TokenSettings } from './hsm/protocol.ts';
import {
  checkToken,
  createTokenKey,
  destroyTokenKeys,
  identifyToken,
  initializeToken,
  inspectToken,
  keepCheckpoint,
  readKeptCheckpoint,
  withRecordAgent,
} from './hsm/token-commands.ts';
import type { TokenObject, TokenProfile } from './hsm/token-profile.ts';
import type { KeyId, SealKeyId } from './ids.ts';
import { KeyCache } from './keyring/key-cache.ts';
import { KeyStates } from './keyring/key-states.ts';
import { createKeyring } from './keyring/keyring.ts';
import { SYSTEM_TENANT } from './keyring/names.ts';
import { TenantQuotas } from './keyring/quotas.ts';
import { Reconciler } from './keyring/reconciler.ts';
import { KEY_STATES } from './keyring/reseal.ts';
import { REWRAP_SIZES } from './keyring/rewrap.ts';
import { sealStates } from './keyring/seal-states.ts';
import { ServingTokens } from './keyring/serving-tokens.ts';
import {
  type DestroyedKeys,
  type DestructionParts,
  destroyTokenKey,
  recordTokenKey,
  shredTokenKeys,
} from './keyring/token-destruction.ts';
import { migrateToken, previewMigration } from './keyring/token-migration.ts';
import { TokenObjects, tokenObjectsOf } from './keyring/token-objects.ts';
import { objectionsTo, readTokenStatus } from './keyring/token-status.ts';
import { tokenStatusText, tokensText } from './keyring/token-status-text.ts';
import { UsageRecorder } from './keyring/usage.ts';
import { askHealth, HealthListener } from './rpc/health.ts';
import { GrpcServer, type ServerLimits } from './rpc/server.ts';
import { tokenStatusMessage } from './rpc/token-messages.ts';
import { ChangeFeed } from './store/changes.ts';
import {
  type EnvironmentRecord,
  readEnvironment,
  readEnvironmentAsOwner,
  readModeAsOwner,
  recordToken,
  requireMode,
} from './store/environment.ts';
import { startHousekeeping } from './store/housekeeping.ts';
import { migrate } from './store/migrate.ts';
import { withOwnerConnection } from './store/owner.ts';
import { Store } from './store/store.ts';
import { countMoved } from './store/tokens.ts';
import { createLog, type Logger } from './telemetry/log.ts';

const RELEASE = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
/** Who runs a command, in audit entries. */
const OPERATOR = `operator ${userInfo().username}`;
/** All that is sealed besides key versions. */
const SEALED_RECORDS = [KEY_STATES, POLICIES] as const;
const READINESS_MS = 100;
/** Every key version is counted. */
const COUNT_MS = 60_000;
const MINUTE_MS = 60_000;
const SHORTEST_PERIOD_SECONDS = { development: 10, production: 86_400 } as const;

/** The settings that say how a token is opened. */
const TOKEN_SETTINGS = [
  'KEYWARD_HSM_MODULE',
  'KEYWARD_HSM_MODULE_PARAMETERS',
  'KEYWARD_HSM_TOKEN',
  'KEYWARD_HSM_PIN_FILE',
  'KEYWARD_HSM_WAIVERS',
  'KEYWARD_HSM_ENVIRONMENT',
] as const;

/** What it takes to change the token. */
const OWNER_TOKEN_SETTINGS = [
  'KEYWARD_MODE',
  'MIGRATION_DATABASE_URL',
  'KEYWARD_DATABASE_CA_FILE',
  ...TOKEN_SETTINGS,
] as const;

/** The settings that say how the token is opened that key versions move to. */
const NEXT_TOKEN_SETTINGS = [
  'KEYWARD_NEXT_HSM_MODULE',
  'KEYWARD_NEXT_HSM_MODULE_PARAMETERS',
  'KEYWARD_NEXT_HSM_TOKEN',
  'KEYWARD_NEXT_HSM_PIN_FILE',
  'KEYWARD_NEXT_HSM_WAIVERS',
] as const;

/** What it takes to look at the token. */
const REPORT_SETTINGS = [
  'DATABASE_URL',
  'KEYWARD_DATABASE_CA_FILE',
  'KEYWARD_DATABASE_POOL',
  'KEYWARD_HSM_KEY_CACHE',
  ...TOKEN_SETTINGS,
] as const;

const program = new Command('keyward-server')
  .description('Keyward: key management and encryption in front of a PKCS#11 HSM')
  .version(RELEASE);
program.command('serve').description('serve gRPC until SIGTERM').action(serve);
program
  .command('health')
  .description('ask the server of this container or machine, at KEYWARD_HEALTH_LISTEN, whether it serves')
  .action(reportHealth);
program.command('migrate').description('bring the database’s schema to this release').action(migrateDatabase);
const token = program.command('token').description('the HSM token, by an operator with the PIN file at hand');
token
  .command('init')
  .description(
    'probe the token, create the environment’s objects in it, record both; doing it again changes nothing',
  )
  .action(initToken);
token
  .command('check')
  .description('log in once, also after a wrong PIN, and report what the token’s objects are')
  .action(reportToken);
token
  .command('status')
  .description('show the token, every object with every attribute, and how much is under each root key')
  .option('--json', 'as the message TokenStatus of the contract, for programs')
  .action(showToken);
token
  .command('destroy-key')
  .alias('destroy-root')
  .description('destroy a root or seal key that was replaced, once nothing is under it and no agent holds it')
  .argument('<uuid>', 'as `token status` and `keyward hsm keys` show it')
  .action((uuid: string) => destroyInToken((parts) => destroyTokenKey(parts, uuid)));
token
  .command('record')
  .description(
    'record a root or seal key that the token has and the database does not know: it is never used',
  )
  .argument('<uuid>', 'as `token status` shows it')
  .action(recordInDatabase);
token
  .command('shred')
  .description('destroy all root keys of a tenant that was shredded; run it on every copy of the token')
  .argument('<tenant>', 'the last part of its name')
  .action((tenant: string) => destroyInToken((parts) => shredTokenKeys(parts, tenant)));
token
  .command('seal-states')
  .description(
    'seal how keys stand that were made before states were sealed; what is sealed is left as it is',
  )
  .option('--dry-run', 'say how many keys there are, in which states; change nothing')
  .action(sealUnsealedStates);
token
  .command('migrate')
  .description(
    'bring all key versions to the token of KEYWARD_NEXT_HSM_*, while services run; run again, it goes on',
  )
  .option('--dry-run', 'look at both tokens and say what there is to do; change nothing')
  .option('--leave-behind', 'move although some key versions do not verify, and leave those where they are')
  .action(moveToNextToken);
const audit = program.command('audit').description('the audit log, by its database’s owner');
audit
  .command('resume')
  .description(
    'have the log go on, as another one, although a checkpoint is kept of more than the database has now',
  )
  .action(resumeAuditLog);
audit
  .command('drop')
  .description('drop entries that are old and exported, some 1,000,000 at a time; their hashes stay')
  .requiredOption('--export <folder>', 'an export of the log, verified by `keyward audit verify`')
  .requiredOption('--older-than-days <days>', 'only entries older than that', positiveInteger)
  .action(dropAuditEntries);

try {
  await program.parseAsync();
} catch (error) {
  const lines = error instanceof Error ? error.message.split('\n') : [String(error)];
  for (const line of lines) process.stderr.write(`keyward-server: ${line}\n`);
  if (
    !(error instanceof ConfigurationError || error instanceof TokenRefused) &&
    process.env['KEYWARD_DEBUG']
  ) {
    process.stderr.write(`${error instanceof Error ? error.stack : ''}\n`);
  }
  process.exit(1);
}

async function serve(): Promise<void> {
  const configuration = readConfiguration(process.env);
  const log = createLog(configuration.KEYWARD_LOG_LEVEL, RELEASE);
  const identity = openIdentity(configuration, log);
  const witnesses = readWitnesses(configuration);
  const store = await openStore(configuration, (err) =>
    log.warn({ err }, 'an idle database connection broke'),
  );
  const environment = await readEnvironment(store);
  requireRecorded(environment);
  requireMode(environment.mode, configuration.KEYWARD_MODE);
  const variables = agentEnvironment(configuration);
  const tokens = await ServingTokens.prepare({
    store,
    environment,
    configured: tokenSettings(configuration),
    next: nextTokenSettings(configuration),
    keyCacheSize: configuration.KEYWARD_HSM_KEY_CACHE,
    heedsKeptCheckpoint: configuration.KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES !== undefined,
    openPool: (settings, reread) =>
      new HsmAgents({
        settings,
        reread,
        count: configuration.KEYWARD_HSM_AGENTS,
        callTimeoutMs: configuration.KEYWARD_HSM_CALL_TIMEOUT_MS,
        maxCalls: configuration.KEYWARD_HSM_QUEUE_CALLS,
        maxBytes: configuration.KEYWARD_HSM_QUEUE_BYTES,
        environment: variables,
        log,
      }),
    identify: (settings) => identifyToken(settings, variables),
    createKey: (settings) => createTokenKey(settings, variables),
    keepCheckpoint: (settings) => keepCheckpoint(settings, variables),
    onMisplaced: (why) => end(why, 1),
    log,
  });
  const { agents } = tokens;
  const isFresh = () => feed.isFresh();
  const states = new KeyStates({ store, agents, log });
  const cache: KeyCache = new KeyCache(store, states, configuration.KEYWARD_KEY_CACHE, isFresh);
  const limit = configuration.KEYWARD_POLICY_CACHE;
  const policies: Policies = new Policies({ store, agents, isFresh, limit, log });
  const feed = new ChangeFeed(store, {
    onChange: ({ kind, tenantId, subjectId }) => {
      if (kind === 'access') policies.forget(tenantId);
      else if (kind === 'tenant') cache.forgetTenants();
      else if (kind === 'versions' || kind === 'shredded') cache.clear();
      else if (kind !== 'token') cache.forget(tenantId, subjectId as KeyId);
      if (kind === 'destroyed') void agents.forget(subjectId as KeyId);
      if (kind === 'shredded') void agents.forget();
      if (kind === 'token' || kind === 'shredded') refreshTokenObjects();
    },
    onReset: () => {
      cache.clear();
      policies.clear();
      void agents.forget();
      refreshTokenObjects();
    },
    onError: (err) => log.warn({ err }, 'changes can not be read'),
  });
  const { systemTenantId } = environment;
  const tokenObjects = new TokenObjects({ store, tokens, records: environment.tokenObjects, systemTenantId });
  const refreshTokenObjects = () =>
    void tokenObjects
      .refresh()
      // A new one may have waited for this replica alone.
      .then(() => reconciler.wake())
      .catch((err: unknown) => log.warn({ err }, 'token objects can not be looked for now'));
  const usage = new UsageRecorder(store);
  const quotas = new TenantQuotas({
    defaults: {
      callsPerSecond: configuration.KEYWARD_TENANT_CALLS_PER_SECOND,
      keys: configuration.KEYWARD_TENANT_KEYS,
      storedDataKeys: configuration.KEYWARD_TENANT_DATA_KEYS,
    },
    cache,
    replicas: () => tokenObjects.replicas,
    limit: configuration.KEYWARD_KEY_CACHE,
  });
  const keyring = createKeyring({
    store,
    agents,
    cache,
    states,
    usage,
    quotas,
    tokenObjects,
    makeTokenKey: (key) => tokens.makeTokenKey(key),
    systemTenantId,
    shortestRotationPeriodSeconds: SHORTEST_PERIOD_SECONDS[configuration.KEYWARD_MODE],
    sealedRecords: SEALED_RECORDS,
    rewrap: {
      share: configuration.KEYWARD_REWRAP_SHARE / 100,
      // So that agents and database have something to do while a worker waits for the other: 11,000 a second became 14,000.
      workers: 2 * configuration.KEYWARD_HSM_AGENTS + 1,
      sizes: REWRAP_SIZES,
    },
    wake: () => reconciler.wake(),
  });
  const tenantOf = (name: string) => cache.tenant(name);
  const firstAdministrator = configuration.KEYWARD_FIRST_ADMINISTRATOR;
  const access = new Access({ policies, tenantOf, firstAdministrator });
  const accessAdministration = new AccessAdministration({
    store,
    agents,
    policies,
    system: { tenantId: systemTenantId, name: SYSTEM_TENANT },
    tenantOf,
    currentSealKey: () => tokenObjects.currentSealKey(),
  });
  const reconciler: Reconciler = new Reconciler({ store, keyring, log });
  const { environmentId } = environment;
  const sequencer = new Sequencer({
    store,
    agents,
    environmentId,
    checkpointPeriodMs: configuration.KEYWARD_AUDIT_CHECKPOINT_MS,
    kept: openKeptCheckpoints(configuration, tokens, log),
    log,
  });
  const witnessRounds = new WitnessRounds({
    store,
    witnesses,
    periodMs: configuration.KEYWARD_AUDIT_WITNESS_MS,
    isSequencing: () => sequencer.holdsLease,
    log,
  });
  const tenantIdOf = async (tenant: string) => (await cache.tenant(tenant)).tenantId;
  const masks = new ContextMasks({ agents, tenantIdOf });
  const auditLog = new AuditLog({ store, tenantIdOf, witnesses });
  const server = new GrpcServer({
    services: { ...keyring, access, accessAdministration, auditLog, masks, environmentId },
    recording: { writer: new AuditWriter(store), masks, replica: `${hostname()}/${process.pid}` },
    identity,
    log,
    limits: serverLimits(configuration),
    listen: configuration.KEYWARD_LISTEN,
    tls: {
      certFile: configuration.KEYWARD_TLS_CERT_FILE,
      keyFile: configuration.KEYWARD_TLS_KEY_FILE,
      clientCaFile: configuration.KEYWARD_TLS_CLIENT_CA_FILE,
    },
    reflection: configuration.KEYWARD_REFLECTION ?? configuration.KEYWARD_MODE === 'development',
  });

  // Said at every start while it stands, so that it isn't forgotten.
  if (firstAdministrator !== undefined)
    log.warn(
      { firstAdministrator },
      'KEYWARD_FIRST_ADMINISTRATOR may create role bindings; unset it once others may',
    );
  feed.start();
  const stopHousekeeping = startHousekeeping(store, (err) => log.warn({ err }, 'housekeeping failed'));
  const health = new HealthListener();
  if (configuration.KEYWARD_HEALTH_LISTEN !== undefined)
    await health.listen(configuration.KEYWARD_HEALTH_LISTEN);
  const port = await server.listen();
  log.info({ port, environmentId: environment.environmentId, mode: configuration.KEYWARD_MODE }, 'listening');
  const setReady = (ready: boolean) => {
    server.setReady(ready);
    health.setReady(ready);
  };
  const readiness = setInterval(() => setReady(agents.ready && feed.isFresh()), READINESS_MS);
  const end = endOnce(log, async () => {
    clearInterval(readiness);
    setReady(false);
    await server.drain(configuration.KEYWARD_DRAIN_MS);
    identity.stop();
    await reconciler.stop();
    await witnessRounds.stop();
    await sequencer.stop();
    stopHousekeeping();
    await tokenObjects
      .stop()
      .catch((err: unknown) => log.warn({ err }, 'nobody can be told that this replica ends'));
    await usage.stop().catch((err: unknown) => log.warn({ err }, 'the last use of keys can not be reported'));
    await feed.stop();
    await agents.stop();
    await store.close();
    health.stop();
  });
  process.on('SIGTERM', () => end('SIGTERM', 0));
  process.on('SIGINT', () => end('SIGINT', 0));
  try {
    const { findings, ...report } = await tokens.start();
    log.info(report, 'the HSM token is open');
    tokenObjects.start((err) => log.warn({ err }, 'nobody can be told that this replica runs'));
    reconciler.start(configuration.KEYWARD_MAINTENANCE_TICKS, configuration.KEYWARD_MAINTENANCE_JITTER_MS);
    sequencer.start();
    witnessRounds.start();
    usage.start(configuration.KEYWARD_USAGE_REPORT_MS, (err) =>
      log.warn({ err }, 'the use of keys can not be reported now'),
    );
    // What the operator waived is said at every start, so that it isn't forgotten.
    for (const finding of findings)
      log.warn(finding, 'the token can not enforce an attribute, and this is waived');
  } catch (error) {
    log.fatal({ err: error }, 'the HSM token is refused');
    end('the HSM token is refused', 1);
  }
}

function openIdentity(configuration: Configuration, log: Logger): Identity {
  const settings = {
    certificatePrincipal: configuration.KEYWARD_CERTIFICATE_PRINCIPAL,
    certificateDenyFile: configuration.KEYWARD_CERTIFICATE_DENY_FILE,
    acceptsDevelopment: configuration.KEYWARD_MODE === 'development',
    issuersFile: configuration.KEYWARD_ISSUERS_FILE,
  };
  try {
    return new Identity(settings, log);
  } catch (cause) {
    throw new ConfigurationError((cause as Error).message, { cause });
  }
}

function openKeptCheckpoints(
  configuration: Configuration,
  tokens: ServingTokens,
  log: Logger,
): KeptCheckpoint[] {
  const { KEYWARD_AUDIT_KEPT_CHECKPOINT: url, KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: minutes } =
    configuration;
  const outside = url === undefined ? [] : [openKeptCheckpoint(url)];
  if (minutes === undefined) return outside;
  const keep = (note: string) => tokens.keepCheckpoint(note);
  const parts = { agents: tokens.agents, keep, periodMs: minutes * MINUTE_MS, log };
  return [...outside, new TokenCheckpoint(parts)];
}

function readWitnesses({ KEYWARD_AUDIT_WITNESSES_FILE: file }: Configuration): Witness[] {
  try {
    return file === undefined ? [] : parseWitnesses(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new ConfigurationError(`KEYWARD_AUDIT_WITNESSES_FILE: ${(cause as Error).message}`, { cause });
  }
}

function serverLimits(configuration: Configuration): ServerLimits {
  return {
    deadlineMs: configuration.KEYWARD_DEADLINE_MS,
    maxCalls: configuration.KEYWARD_MAX_CALLS,
    maxRequestBytes: configuration.KEYWARD_MAX_REQUEST_BYTES,
    maxMessageBytes: configuration.KEYWARD_MAX_MESSAGE_BYTES,
    maxHeaderBytes: configuration.KEYWARD_MAX_HEADER_BYTES,
    maxHeaders: configuration.KEYWARD_MAX_HEADERS,
    maxStreams: configuration.KEYWARD_MAX_STREAMS,
    maxResetsPerSecond: configuration.KEYWARD_MAX_RESETS_PER_SECOND,
    maxPings: configuration.KEYWARD_MAX_PINGS,
    maxConnections: configuration.KEYWARD_MAX_CONNECTIONS,
    handshakeMs: configuration.KEYWARD_HANDSHAKE_MS,
    idleMs: configuration.KEYWARD_IDLE_MS,
    ageMs: configuration.KEYWARD_CONNECTION_AGE_MS,
  };
}

/** A function that ends the process in order the first time, and at once the second. */
function endOnce(log: Logger, inOrder: () => Promise<void>): (why: string, exitCode: number) => void {
  let ending = false;
  return (why, exitCode) => {
    if (ending) process.exit(1);
    ending = true;
    log.info({ why }, 'ending');
    inOrder().then(
      () => process.exit(exitCode),
      (err: unknown) => {
        log.fatal({ err }, 'the end was not in order');
        process.exit(1);
      },
    );
  };
}

async function reportHealth(): Promise<void> {
  const { KEYWARD_HEALTH_LISTEN: address } = read(['KEYWARD_HEALTH_LISTEN'], process.env);
  if (address === undefined)
    throw new ConfigurationError('KEYWARD_HEALTH_LISTEN is not set, so the server has no such listener');
  const status = await askHealth(address);
  if (status !== 'SERVING') throw new Error(status);
  process.stdout.write(`${status}\n`);
}

async function migrateDatabase(): Promise<void> {
  const settings = read(['KEYWARD_MODE', 'MIGRATION_DATABASE_URL', 'KEYWARD_DATABASE_CA_FILE'], process.env);
  const { KEYWARD_MODE: mode } = settings;
  await withOwnerConnection(
    settings.MIGRATION_DATABASE_URL,
    settings.KEYWARD_DATABASE_CA_FILE,
    async (owner) => requireMode(await readModeAsOwner(owner), mode, mode),
  );
  const applied = await migrate({
    url: settings.MIGRATION_DATABASE_URL,
    ...caFile(settings),
    log: (message) => process.stderr.write(`${message}\n`),
  });
  process.stdout.write(
    applied.length === 0 ? 'the schema is up to date\n' : `applied ${applied.join(', ')}\n`,
  );
}

async function initToken(): Promise<void> {
  const settings = read(OWNER_TOKEN_SETTINGS, process.env);
  await withOwnerConnection(
    settings.MIGRATION_DATABASE_URL,
    settings.KEYWARD_DATABASE_CA_FILE,
    async (owner) => {
      const environment = await readEnvironmentAsOwner(owner);
      const { KEYWARD_MODE: mode } = settings;
      requireMode(environment.mode, mode, mode);
      const made = await initializeToken(
        {
          ...tokenSettings(settings),
          environmentId: environment.environmentId,
          recorded: tokenObjectsOf(environment.tokenObjects),
        },
        agentEnvironment(settings),
      );
      const outcome = await recordToken(owner, mode, made);
      process.stdout.write(
        `the token ${outcome === 'recorded' ? 'is initialised' : 'was initialised before'}\n`,
      );
      for (const { role, objectId } of made.objects) process.stdout.write(`  ${role} ${objectId}\n`);
    },
  );
}

async function reportToken(): Promise<void> {
  const settings = read(REPORT_SETTINGS, process.env);
  const store = await openStore(settings, () => {});
  try {
    const { findings, ...report } = await checkToken(
      serveSettings(settings, await readEnvironment(store)),
      agentEnvironment(settings),
    );
    process.stdout.write(`${report.token} (serial ${report.serialNumber}), ${report.module}\n`);
    for (const { role, objectId, attribute, state } of findings) {
      process.stdout.write(`  ${role} ${objectId} ${attribute}: ${state}, waived\n`);
    }
    process.stdout.write('every other required attribute of every object is enforced\n');
  } finally {
    await store.close();
  }
}

/** The token as an operator's own agent sees it, and the settings that it was found by. */
async function lookAtToken() {
  const settings = read(REPORT_SETTINGS, process.env);
  const store = await openStore(settings, () => {});
  try {
    const environment = await readEnvironment(store);
    const serving = serveSettings(settings, environment);
    const status = await readTokenStatus(store, (objects) =>
      inspectToken({ ...serving, objects }, agentEnvironment(settings)),
    );
    const moved = await countMoved(store, { deadline: monotonicNow() + COUNT_MS });
    return { settings, status, tokens: tokensText(environment.tokens, moved) };
  } finally {
    await store.close();
  }
}

async function showToken({ json = false }: { readonly json?: boolean }): Promise<void> {
  const { status, tokens } = await lookAtToken();
  process.stdout.write(
    json ? `${JSON.stringify(tokenStatusMessage(status), null, 2)}\n` : tokens + tokenStatusText(status),
  );
  const objections = objectionsTo(status);
  if (objections.length > 0)
    throw new Error(['a service does not start on this token:', ...objections].join('\n'));
}

async function recordInDatabase(uuid: string): Promise<void> {
  const { MIGRATION_DATABASE_URL: url, KEYWARD_MODE: mode } = read(
    ['KEYWARD_MODE', 'MIGRATION_DATABASE_URL'],
    process.env,
  );
  const { settings, status } = await lookAtToken();
  await withOwnerConnection(url, settings.KEYWARD_DATABASE_CA_FILE, async (owner) => {
    requireMode((await readEnvironmentAsOwner(owner)).mode, mode);
    await recordTokenKey({ owner, caller: OPERATOR }, status, uuid);
  });
  process.stdout.write(`${uuid} is recorded, and is never used\n`);
}

async function destroyInToken(work: (parts: DestructionParts) => Promise<DestroyedKeys>): Promise<void> {
  const settings = read(OWNER_TOKEN_SETTINGS, process.env);
  const { MIGRATION_DATABASE_URL: url, KEYWARD_DATABASE_CA_FILE: caFilePath } = settings;
  await withOwnerConnection(url, caFilePath, async (owner) => {
    const { environmentId, mode } = await readEnvironmentAsOwner(owner);
    requireMode(mode, settings.KEYWARD_MODE);
    const destroy = (objects: readonly TokenObject[]) =>
      destroyTokenKeys({ ...tokenSettings(settings), environmentId, objects }, agentEnvironment(settings));
    const { objects, inToken } = await work({ owner, destroy, caller: OPERATOR });
    for (const { role, objectId } of objects) process.stdout.write(`${role} ${objectId} is destroyed\n`);
    process.stdout.write(
      `${inToken} of ${objects.length} were in this token; copies of the token may have them still\n`,
    );
  });
}

async function sealUnsealedStates({ dryRun = false }: { readonly dryRun?: boolean }): Promise<void> {
  const settings = read(OWNER_TOKEN_SETTINGS, process.env);
  const { MIGRATION_DATABASE_URL: url, KEYWARD_DATABASE_CA_FILE: caFilePath } = settings;
  await withOwnerConnection(url, caFilePath, async (owner) => {
    const environment = await readEnvironmentAsOwner(owner);
    requireMode(environment.mode, settings.KEYWARD_MODE);
    requireRecorded(environment);
    const { environmentId, tokenProfile, tokenObjects } = environment;
    const current = tokenObjects.find(({ role, state }) => role === 'seal' && state === 'CURRENT');
    if (current === undefined) throw new Error('no seal key is recorded as current');
    const sealKeyId = current.objectId as unknown as SealKeyId;
    await withRecordAgent(
      {
        ...tokenSettings(settings),
        environmentId,
        profile: tokenProfile as TokenProfile,
        objects: tokenObjectsOf(tokenObjects),
      },
      agentEnvironment(settings),
      (agent) =>
        sealStates({
          owner,
          caller: OPERATOR,
          sealKeyId,
          agent,
          dryRun,
          say: (line) => process.stdout.write(`${line}\n`),
        }),
    );
  });
}

async function resumeAuditLog(): Promise<void> {
  const { KEYWARD_AUDIT_KEPT_CHECKPOINT: url, KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: minutes } = read(
    ['KEYWARD_AUDIT_KEPT_CHECKPOINT', 'KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES'],
    process.env,
  );
  if (url === undefined && minutes === undefined)
    throw new ConfigurationError(
      'neither KEYWARD_AUDIT_KEPT_CHECKPOINT nor KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES is set',
    );
  const contradiction = await onAuditLog((operation, environment) =>
    resumeLog(operation, [
      ...(url === undefined ? [] : [openKeptCheckpoint(url)]),
      ...(minutes === undefined ? [] : [{ read: () => readCheckpointInToken(environment) }]),
    ]),
  );
  process.stdout.write(`the log goes on as another one; ${contradiction}\n`);
}

function readCheckpointInToken(environment: EnvironmentRecord): Promise<string | undefined> {
  const settings = read([...TOKEN_SETTINGS, 'KEYWARD_HSM_KEY_CACHE'], process.env);
  return readKeptCheckpoint(serveSettings(settings, environment), agentEnvironment(settings));
}

async function dropAuditEntries(options: {
  readonly export: string;
  readonly olderThanDays: number;
}): Promise<void> {
  const { export: folder, olderThanDays } = options;
  const dropped = await onAuditLog((operation) => dropExported(operation, { folder, olderThanDays }));
  process.stdout.write(
    dropped === undefined
      ? 'nothing is old and exported as a whole\n'
      : `entries ${dropped.firstLeafIndex} up to ${dropped.end} are dropped\n`,
  );
}

function onAuditLog<T>(
  work: (operation: AuditOperation, environment: EnvironmentRecord) => Promise<T>,
): Promise<T> {
  const settings = read(['MIGRATION_DATABASE_URL', 'KEYWARD_DATABASE_CA_FILE'], process.env);
  const { MIGRATION_DATABASE_URL: url, KEYWARD_DATABASE_CA_FILE: caFilePath } = settings;
  return withOwnerConnection(url, caFilePath, async (owner) => {
    const environment = await readEnvironmentAsOwner(owner);
    const { environmentId, systemTenantId } = environment;
    return work({ owner, environmentId, systemTenantId, caller: OPERATOR }, environment);
  });
}

function positiveInteger(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new InvalidArgumentError('must be a whole number, 1 or more');
  return Number(text);
}

async function moveToNextToken({
  dryRun = false,
  leaveBehind = false,
}: {
  readonly dryRun?: boolean;
  readonly leaveBehind?: boolean;
}): Promise<void> {
  const settings = read([...OWNER_TOKEN_SETTINGS, ...NEXT_TOKEN_SETTINGS], process.env);
  const next = nextTokenSettings(settings);
  if (next === undefined) throw new ConfigurationError('KEYWARD_NEXT_HSM_* name no token to move to');
  const { MIGRATION_DATABASE_URL: url, KEYWARD_DATABASE_CA_FILE: caFilePath } = settings;
  await withOwnerConnection(url, caFilePath, async (owner) => {
    requireMode((await readEnvironmentAsOwner(owner)).mode, settings.KEYWARD_MODE);
    await (dryRun ? previewMigration : migrateToken)({
      owner,
      caller: OPERATOR,
      current: tokenSettings(settings),
      next,
      environment: agentEnvironment(settings),
      leaveBehind,
      sealedRecords: SEALED_RECORDS,
      say: (line) => process.stdout.write(`${line}\n`),
    });
  });
}

function openStore(
  settings: Configuration<'DATABASE_URL' | 'KEYWARD_DATABASE_CA_FILE' | 'KEYWARD_DATABASE_POOL'>,
  onError: (error: Error) => void,
): Promise<Store> {
  return Store.open({
    url: settings.DATABASE_URL,
    ...caFile(settings),
    poolSize: settings.KEYWARD_DATABASE_POOL,
    release: RELEASE,
    onError,
  });
}

function caFile(settings: Configuration<'KEYWARD_DATABASE_CA_FILE'>): { readonly caFile?: string } {
  return settings.KEYWARD_DATABASE_CA_FILE === undefined ? {} : { caFile: settings.KEYWARD_DATABASE_CA_FILE };
}

function tokenSettings(settings: Configuration<(typeof TOKEN_SETTINGS)[number]>): TokenSettings {
  const parameters = settings.KEYWARD_HSM_MODULE_PARAMETERS;
  return {
    module: settings.KEYWARD_HSM_MODULE,
    ...(parameters === undefined ? {} : { moduleParameters: parameters }),
    token: settings.KEYWARD_HSM_TOKEN,
    pinFile: settings.KEYWARD_HSM_PIN_FILE,
    waivers: settings.KEYWARD_HSM_WAIVERS,
  };
}

/** Undefined where none is set. Throws {@link ConfigurationError} where only some of it is. */
function nextTokenSettings(
  settings: Configuration<(typeof NEXT_TOKEN_SETTINGS)[number]>,
): TokenSettings | undefined {
  const parameters = settings.KEYWARD_NEXT_HSM_MODULE_PARAMETERS;
  const module = settings.KEYWARD_NEXT_HSM_MODULE;
  const token = settings.KEYWARD_NEXT_HSM_TOKEN;
  const pinFile = settings.KEYWARD_NEXT_HSM_PIN_FILE;
  if (module === undefined && token === undefined && pinFile === undefined) return undefined;
  if (module === undefined || token === undefined || pinFile === undefined)
    throw new ConfigurationError(
      'KEYWARD_NEXT_HSM_MODULE, KEYWARD_NEXT_HSM_TOKEN and KEYWARD_NEXT_HSM_PIN_FILE go together',
    );
  return {
    module,
    ...(parameters === undefined ? {} : { moduleParameters: parameters }),
    token,
    pinFile,
    waivers: settings.KEYWARD_NEXT_HSM_WAIVERS,
  };
}

function requireRecorded({ tokenProfile }: EnvironmentRecord): void {
  if (tokenProfile !== null) return;
  throw new ConfigurationError('no token is recorded in the database: run `keyward-server token init` first');
}

function serveSettings(
  settings: Configuration<(typeof TOKEN_SETTINGS)[number] | 'KEYWARD_HSM_KEY_CACHE'>,
  environment: EnvironmentRecord,
): Omit<ServeSettings, 'despiteFailedTry'> {
  const { environmentId, tokenProfile } = environment;
  requireRecorded(environment);
  return {
    ...tokenSettings(settings),
    environmentId,
    profile: tokenProfile as TokenProfile,
    objects: tokenObjectsOf(environment.tokenObjects),
    keyCacheSize: settings.KEYWARD_HSM_KEY_CACHE,
  };
}

/** The agents' whole environment: what the operator names, and nothing else of this process's. */
function agentEnvironment(settings: Configuration<'KEYWARD_HSM_ENVIRONMENT'>): Record<string, string> {
  const named = settings.KEYWARD_HSM_ENVIRONMENT.map((name) => [name, process.env[name]] as const);
  return Object.fromEntries(
    named.filter((entry): entry is readonly [string, string] => entry[1] !== undefined),
  );
}
