/**
 * Composes a replica of the service from its parts.
 *
 * - This is the only place where settings become parts of the server.
 * - Parts that need each other meet here: caches and the feed that clears them, the keyring and
 *   what wakes its reconciler.
 * - `serve.ts` starts and stops the parts.
 */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { Access } from '../access/access.ts';
import { AccessAdministration } from '../access/administration.ts';
import { Identity } from '../access/identity.ts';
import { Policies } from '../access/policies.ts';
import { type KeptCheckpoint, openKeptCheckpoint } from '../audit/kept-checkpoint.ts';
import { AuditLog } from '../audit/log.ts';
import { ContextMasks } from '../audit/masks.ts';
import { Sequencer } from '../audit/sequencer.ts';
import { TokenCheckpoint } from '../audit/token-checkpoint.ts';
import { WitnessRounds } from '../audit/witness-rounds.ts';
import { parseWitnesses, type Witness } from '../audit/witnesses.ts';
import { AuditWriter } from '../audit/writer.ts';
import { recordRefusal } from '../calls/audit.ts';
import { Budgets } from '../calls/budgets.ts';
import { type Configuration, ConfigurationError } from '../config.ts';
import { STREAM_PATHS } from '../faces/contract/rpcs.ts';
import { HealthListener } from '../faces/grpc/health.ts';
import { GrpcServer, type GrpcServerOptions } from '../faces/grpc/server.ts';
import { HttpServer, type HttpServerOptions } from '../faces/http/server.ts';
import { Admission } from '../faces/transport/admission.ts';
import { type ConnectionLimits, Connections } from '../faces/transport/connections.ts';
import { HsmAgents } from '../hsm/agents.ts';
import { createTokenKey, identifyToken, keepCheckpoint } from '../hsm/token-commands.ts';
import type { KeyId } from '../ids.ts';
import { ServingTokens } from '../keyring/hsm-token/serving-tokens.ts';
import { TokenObjects } from '../keyring/hsm-token/token-objects.ts';
import { createKeyring, type Keyring } from '../keyring/keyring.ts';
import { KeyCache } from '../keyring/keys/key-cache.ts';
import { KeyStates } from '../keyring/keys/key-states.ts';
import { UsageRecorder } from '../keyring/keys/usage.ts';
import { REWRAP_SIZES } from '../keyring/pace.ts';
import { Reconciler } from '../keyring/reconciler.ts';
import { TenantQuotas } from '../keyring/tenants/quotas.ts';
import { SYSTEM_TENANT } from '../names.ts';
import type { Logger } from '../signals/log.ts';
import { ChangeFeed } from '../store/changes.ts';
import { type EnvironmentRecord, readEnvironment, requireMode } from '../store/environment.ts';
import type { Store } from '../store/store.ts';
import {
  agentEnvironment,
  nextTokenSettings,
  openStore,
  requireRecorded,
  SEALED_RECORDS,
  tokenSettings,
} from './opening.ts';

const MINUTE_MS = 60_000;
/** After its deadline a call is closed in a moment; so is a connection, after its last call. */
const LINGER_MS = 2_000;
const SHORTEST_PERIOD_SECONDS = { development: 10, production: 86_400 } as const;

/** What all other parts stand on. */
interface Ground {
  readonly configuration: Configuration;
  readonly log: Logger;
  readonly identity: Identity;
  readonly witnesses: readonly Witness[];
  readonly store: Store;
  /** As read at the start. */
  readonly environment: EnvironmentRecord;
  readonly tokens: ServingTokens;
}

/**
 * What the replica knows from the database and the token, and the feed that has it forget what has
 * changed.
 */
interface Memory {
  readonly states: KeyStates;
  readonly cache: KeyCache;
  readonly policies: Policies;
  readonly tokenObjects: TokenObjects;
  readonly feed: ChangeFeed;
}

/** What lengthens the audit log, and has it witnessed. */
interface AuditWork {
  readonly sequencer: Sequencer;
  readonly witnessRounds: WitnessRounds;
}

/** Holds the parts of a replica that start and end. */
export interface Replica
  extends Pick<Ground, 'identity' | 'store' | 'environment' | 'tokens'>,
    Pick<Memory, 'tokenObjects' | 'feed'>,
    AuditWork {
  readonly usage: UsageRecorder;
  readonly reconciler: Reconciler;
  readonly server: GrpcServer;
  /** Undefined where HTTP is not served. */
  readonly http: HttpServer | undefined;
  readonly health: HealthListener;
}

/**
 * Opens the database, and composes the parts that use it. `onMisplaced` is called, in words for
 * operators, when the configured token is no longer the current one. Throws {@link
 * ConfigurationError}, and Errors in words for the operator.
 */
export async function compose(
  configuration: Configuration,
  log: Logger,
  onMisplaced: (why: string) => void,
): Promise<Replica> {
  const identity = openIdentity(configuration, log);
  const witnesses = readWitnesses(configuration);
  const store = await openStore(configuration, (err) =>
    log.warn({ err }, 'an idle database connection failed'),
  );
  const environment = await readEnvironment(store);
  requireRecorded(environment);
  requireMode(environment.mode, configuration.KEYWARD_MODE);
  const opened = { configuration, log, identity, witnesses, store, environment };
  const ground: Ground = { ...opened, tokens: await prepareTokens(opened, onMisplaced) };
  const wake = () => reconciler.wake();
  const memory = composeMemory(ground, wake);
  const usage = new UsageRecorder(store);
  const keyring = composeKeyring(ground, memory, usage, wake);
  const reconciler: Reconciler = new Reconciler({ store, keyring, log });
  const auditWork = composeAuditWork(ground);
  const faces = composeFaces(ground, memory, keyring);
  const health = new HealthListener(log);
  return { ...ground, ...memory, usage, reconciler, ...auditWork, ...faces, health };
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

function readWitnesses({ KEYWARD_AUDIT_WITNESSES_FILE: file }: Configuration): Witness[] {
  try {
    return file === undefined ? [] : parseWitnesses(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new ConfigurationError(`KEYWARD_AUDIT_WITNESSES_FILE: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function prepareTokens(
  { configuration, log, store, environment }: Omit<Ground, 'tokens'>,
  onMisplaced: (why: string) => void,
): Promise<ServingTokens> {
  const variables = agentEnvironment(configuration);
  return ServingTokens.prepare({
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
    onMisplaced,
    log,
  });
}

function composeMemory(
  { configuration, log, store, environment, tokens }: Ground,
  wake: () => void,
): Memory {
  const { agents } = tokens;
  const { systemTenantId, tokenObjects: records } = environment;
  const { KEYWARD_KEY_CACHE: keys, KEYWARD_POLICY_CACHE: limit } = configuration;
  const isFresh = () => feed.isFresh();
  const states = new KeyStates({ store, agents, log });
  const cache = new KeyCache(store, states, keys, isFresh);
  const policies = new Policies({ store, agents, isFresh, limit, log });
  const tokenObjects = new TokenObjects({ store, tokens, records, systemTenantId });
  const refreshTokenObjects = () =>
    void tokenObjects
      .refresh()
      // A new one may have waited for this replica alone.
      .then(wake)
      .catch((err: unknown) => log.warn({ err }, 'cannot look for token objects'));
  const feed: ChangeFeed = new ChangeFeed(store, {
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
    onError: (err) => log.warn({ err }, 'cannot read changes'),
  });
  return { states, cache, policies, tokenObjects, feed };
}

function composeKeyring(
  { configuration, store, environment, tokens }: Ground,
  { cache, states, tokenObjects }: Memory,
  usage: UsageRecorder,
  wake: () => void,
): Keyring {
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
  return createKeyring({
    store,
    agents: tokens.agents,
    cache,
    states,
    usage,
    quotas,
    tokenObjects,
    makeTokenKey: (key) => tokens.makeTokenKey(key),
    systemTenantId: environment.systemTenantId,
    shortestRotationPeriodSeconds: SHORTEST_PERIOD_SECONDS[configuration.KEYWARD_MODE],
    sealedRecords: SEALED_RECORDS,
    rewrap: {
      share: configuration.KEYWARD_REWRAP_SHARE / 100,
      // So that agents and database have something to do while a worker waits for the other: 11,000
      // a second became 14,000.
      workers: 2 * configuration.KEYWARD_HSM_AGENTS + 1,
      sizes: REWRAP_SIZES,
    },
    wake,
  });
}

function composeAuditWork(ground: Ground): AuditWork {
  const { configuration, log, store, environment, tokens, witnesses } = ground;
  const sequencer = new Sequencer({
    store,
    agents: tokens.agents,
    environmentId: environment.environmentId,
    checkpointPeriodMs: configuration.KEYWARD_AUDIT_CHECKPOINT_MS,
    kept: openKeptCheckpoints(ground),
    log,
  });
  const witnessRounds = new WitnessRounds({
    store,
    witnesses,
    periodMs: configuration.KEYWARD_AUDIT_WITNESS_MS,
    isSequencing: () => sequencer.holdsLease,
    log,
  });
  return { sequencer, witnessRounds };
}

function openKeptCheckpoints({ configuration, log, tokens }: Ground): KeptCheckpoint[] {
  const { KEYWARD_AUDIT_KEPT_CHECKPOINT: url, KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES: minutes } =
    configuration;
  const outside = url === undefined ? [] : [openKeptCheckpoint(url)];
  if (minutes === undefined) return outside;
  const keep = (note: string) => tokens.keepCheckpoint(note);
  const parts = { agents: tokens.agents, keep, periodMs: minutes * MINUTE_MS, log };
  return [...outside, new TokenCheckpoint(parts)];
}

function composeFaces(
  ground: Ground,
  memory: Memory,
  keyring: Keyring,
): Pick<Replica, 'server' | 'http'> {
  const { configuration, log, identity, witnesses, store, environment, tokens } = ground;
  const tenantIdOf = async (tenant: string) => (await memory.cache.tenant(tenant)).tenantId;
  const masks = new ContextMasks({ agents: tokens.agents, tenantIdOf });
  const recording = {
    writer: new AuditWriter(store),
    masks,
    replica: `${hostname()}/${process.pid}`,
  };
  const limits = transportLimits(configuration);
  const shared = {
    services: {
      ...keyring,
      ...composeAccess(ground, memory),
      auditLog: new AuditLog({ store, tenantIdOf, witnesses }),
      masks,
      environmentId: environment.environmentId,
    },
    recording,
    admission: new Admission({
      deadlineMs: configuration.KEYWARD_DEADLINE_MS,
      budgets: new Budgets({
        maxCalls: configuration.KEYWARD_MAX_CALLS,
        maxRequestBytes: configuration.KEYWARD_MAX_REQUEST_BYTES,
      }),
      streams: STREAM_PATHS,
      identity,
      recordRefusal: (error, call) => recordRefusal(recording, error, call),
    }),
    connections: new Connections(limits, identity, log),
    log,
    limits,
    tls: {
      certFile: configuration.KEYWARD_TLS_CERT_FILE,
      keyFile: configuration.KEYWARD_TLS_KEY_FILE,
      clientCaFile: configuration.KEYWARD_TLS_CLIENT_CA_FILE,
    },
  };
  const reflection =
    configuration.KEYWARD_REFLECTION ?? configuration.KEYWARD_MODE === 'development';
  return {
    server: new GrpcServer({ ...shared, listen: configuration.KEYWARD_LISTEN, reflection }),
    http:
      configuration.KEYWARD_HTTP_LISTEN === undefined
        ? undefined
        : new HttpServer({ ...shared, listen: configuration.KEYWARD_HTTP_LISTEN }),
  };
}

function composeAccess(
  { configuration, store, environment, tokens }: Ground,
  { cache, policies, tokenObjects }: Memory,
): Pick<GrpcServerOptions['services'], 'access' | 'accessAdministration'> {
  const tenantOf = (name: string) => cache.tenant(name);
  const firstAdministrator = configuration.KEYWARD_FIRST_ADMINISTRATOR;
  const accessAdministration = new AccessAdministration({
    store,
    agents: tokens.agents,
    policies,
    system: { tenantId: environment.systemTenantId, name: SYSTEM_TENANT },
    tenantOf,
    currentSealKey: () => tokenObjects.currentSealKey(),
  });
  return { access: new Access({ policies, tenantOf, firstAdministrator }), accessAdministration };
}

/** Returns every limit of connections, and of what comes by them before there is a call. */
function transportLimits(
  configuration: Configuration,
): GrpcServerOptions['limits'] & HttpServerOptions['limits'] & ConnectionLimits {
  return {
    deadlineMs: configuration.KEYWARD_DEADLINE_MS,
    maxMessageBytes: configuration.KEYWARD_MAX_MESSAGE_BYTES,
    maxHeaderBytes: configuration.KEYWARD_MAX_HEADER_BYTES,
    maxHeaders: configuration.KEYWARD_MAX_HEADERS,
    maxStreams: configuration.KEYWARD_MAX_STREAMS,
    maxResetsPerSecond: configuration.KEYWARD_MAX_RESETS_PER_SECOND,
    maxPings: configuration.KEYWARD_MAX_PINGS,
    maxConnections: configuration.KEYWARD_MAX_CONNECTIONS,
    handshakeMs: configuration.KEYWARD_HANDSHAKE_MS,
    idleMs: configuration.KEYWARD_IDLE_MS,
    keepaliveMs: configuration.KEYWARD_KEEPALIVE_MS,
    ageMs: configuration.KEYWARD_CONNECTION_AGE_MS,
    lingerMs: configuration.KEYWARD_DEADLINE_MS + LINGER_MS,
  };
}
