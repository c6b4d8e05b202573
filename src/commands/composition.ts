/**
 * Composes a replica of the service from its parts.
 *
 * - This is the only place where settings become parts of the server.
 * - Parts that need each other meet here: caches and the feed that clears them, the keyring and
 *   what wakes its reconciler.
 * - `serve.ts` starts and stops the parts.
 */
import { readFileSync } from 'node:fs';
import { Access } from '../access/access.ts';
import { AccessAdministration } from '../access/administration.ts';
import { Explanation } from '../access/explanation.ts';
import { Identity } from '../access/identity.ts';
import { Policies } from '../access/policies.ts';
import type { Alerting } from '../alerts/alerting.ts';
import { AnomalyWatch } from '../anomalies/watch.ts';
import { ApprovedOperations } from '../approvals/doing.ts';
import { Passkeys } from '../approvals/passkeys.ts';
import { PendingOperations, type PendingOperationsParts } from '../approvals/pending.ts';
import { PendingSeals } from '../approvals/pending-seals.ts';
import { RuleBook } from '../approvals/rule-book.ts';
import { RuleChanges } from '../approvals/rule-changes.ts';
import { type KeptCheckpoint, openKeptCheckpoint } from '../audit/kept-checkpoint.ts';
import { AuditLog } from '../audit/log.ts';
import { ContextMasks } from '../audit/masks.ts';
import { Sequencer } from '../audit/sequencer.ts';
import { TokenCheckpoint } from '../audit/token-checkpoint.ts';
import { WitnessRounds } from '../audit/witness-rounds.ts';
import { parseWitnesses, type Witness } from '../audit/witnesses.ts';
import { AuditWriter } from '../audit/writer.ts';
import { WriterIdentities } from '../audit/writer-identities.ts';
import { ApprovalGate } from '../calls/approvals.ts';
import { recordRefusal } from '../calls/audit.ts';
import { Budgets } from '../calls/budgets.ts';
import { CanaryWatch } from '../calls/canaries.ts';
import { CallConditions } from '../calls/conditions.ts';
import { CallOutcomes } from '../calls/outcomes.ts';
import { Replays } from '../calls/replays.ts';
import { StepUp } from '../calls/step-up.ts';
import { type Configuration, ConfigurationError, type ServerConfiguration } from '../config.ts';
import { ApprovedCalls } from '../faces/approved/approved-calls.ts';
import { METHOD_NAMES, SENSITIVE_METHODS, STREAM_PATHS } from '../faces/contract/rpcs.ts';
import { HealthListener } from '../faces/grpc/health.ts';
import { GrpcServer, type GrpcServerOptions } from '../faces/grpc/server.ts';
import { HttpServer, type HttpServerOptions } from '../faces/http/server.ts';
import { SIGN_OFF_PATH } from '../faces/http/sign-off-page.ts';
import { healthPages } from '../faces/operators/health-pages.ts';
import { OperatorsListener } from '../faces/operators/listener.ts';
import { Admission } from '../faces/transport/admission.ts';
import { type ConnectionLimits, Connections } from '../faces/transport/connections.ts';
import { HsmAgents } from '../hsm/agents.ts';
import { createTokenKey, identifyToken, keepCheckpoint } from '../hsm/token-commands.ts';
import type { KeyId, TenantId } from '../ids.ts';
import { Canaries } from '../keyring/canaries/canaries.ts';
import { ServingTokens } from '../keyring/hsm-token/serving-tokens.ts';
import { TokenKeySeals } from '../keyring/hsm-token/token-key-seals.ts';
import { TokenObjects } from '../keyring/hsm-token/token-objects.ts';
import { createKeyring, type Keyring } from '../keyring/keyring.ts';
import { CacheAge } from '../keyring/keys/cache-age.ts';
import { KeyCache } from '../keyring/keys/key-cache.ts';
import { KeyStates } from '../keyring/keys/key-states.ts';
import { TenantSeals } from '../keyring/keys/tenant-seals.ts';
import { UsageRecorder } from '../keyring/keys/usage.ts';
import { Notices } from '../keyring/lifecycle/notices.ts';
import { REWRAP_SIZES } from '../keyring/pace.ts';
import { Reconciler } from '../keyring/reconciler.ts';
import { TenantQuotas } from '../keyring/tenants/quotas.ts';
import { measureCalls } from '../measures/calls.ts';
import { measureAlerts, measureBuild, measureServers } from '../measures/process.ts';
import {
  type MeasuredParts,
  measureAgentCalls,
  measureAuditGroups,
  measureReplica,
} from '../measures/replica.ts';
import { certificatesIn } from '../pem.ts';
import type { Membership } from '../servers/membership.ts';
import type { AlertSignals } from '../signals/alerts.ts';
import type { Logger } from '../signals/log.ts';
import type { Metrics } from '../signals/metrics/metrics.ts';
import { Readiness } from '../status/readiness.ts';
import { ServiceStatus } from '../status/service-status.ts';
import { type Change, ChangeFeed } from '../store/changes.ts';
import { type EnvironmentRecord, readEnvironment, requireMode } from '../store/environment.ts';
import type { Store } from '../store/store.ts';
import { servingAgents } from './agents-opening.ts';
import { composeAlerting } from './alerting.ts';
import { openStore, requireRecorded, SEALED_RECORDS } from './opening.ts';
import { RELEASE } from './release.ts';
import { REPLICA } from './replica.ts';
import { SelfWatch } from './self-watch.ts';

const MINUTE_MS = 60_000;
/** After its deadline a call is closed in a moment; so is a connection, after its last call. */
const LINGER_MS = 2_000;
const SHORTEST_PERIOD_SECONDS = { development: 10, production: 86_400 } as const;

/** What there is before anything is opened. */
type Below = Pick<Ground, 'log' | 'alerts' | 'metrics' | 'membership'>;

/** What all other parts stand on. */
interface Ground {
  readonly configuration: ServerConfiguration;
  readonly log: Logger;
  /** What hears what came of each call listens here. */
  readonly outcomes: CallOutcomes;
  readonly metrics: Metrics;
  readonly alerts: AlertSignals;
  /** Undefined where this is the only server process. */
  readonly membership: Membership | undefined;
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
  readonly tenantSeals: TenantSeals;
  readonly cache: KeyCache;
  readonly policies: Policies;
  readonly rules: RuleBook;
  readonly canaries: Canaries;
  readonly tokenKeySeals: TokenKeySeals;
  readonly tokenObjects: TokenObjects;
  readonly feed: ChangeFeed;
  readonly cacheAge: CacheAge;
  readonly readiness: Readiness;
  /** Has this replica forget what has changed. */
  readonly onChange: (change: Change) => void;
}

/** What proves entries to be this replica's, lengthens the audit log, and has it witnessed. */
interface AuditWork {
  readonly writer: AuditWriter;
  readonly identities: WriterIdentities;
  readonly sequencer: Sequencer;
  readonly witnessRounds: WitnessRounds;
}

/** Holds the parts of a replica that start and end. */
export interface Replica
  extends Pick<Ground, 'identity' | 'store' | 'environment' | 'tokens' | 'alerts' | 'membership'>,
    Pick<Memory, 'tenantSeals' | 'tokenObjects' | 'feed' | 'cacheAge' | 'canaries' | 'readiness'>,
    AuditWork {
  readonly usage: UsageRecorder;
  /** Undefined where callers are not watched. */
  readonly anomalies: AnomalyWatch | undefined;
  readonly reconciler: Reconciler;
  readonly server: GrpcServer;
  /** Undefined where HTTP is not served. */
  readonly http: HttpServer | undefined;
  readonly approvedCalls: ApprovedCalls;
  readonly health: HealthListener;
  readonly selfWatch: SelfWatch;
  readonly notices: Notices;
  /** Undefined where operators’ programs are served nothing. */
  readonly operators: OperatorsListener | undefined;
  readonly alerting: Alerting;
}

/**
 * Opens the database, and composes the parts that use it. `onMisplaced` is called, in words for
 * operators, when the configured token is no longer the current one. Throws {@link
 * ConfigurationError}, and Errors in words for the operator.
 */
export async function compose(
  configuration: ServerConfiguration,
  { log, alerts, metrics, membership }: Below,
  onMisplaced: (why: string) => void,
): Promise<Replica> {
  const ground = await openGround(configuration, { log, alerts, metrics, membership }, onMisplaced);
  const { store } = ground;
  const wake = () => reconciler.wake();
  const memory = composeMemory(ground, wake);
  const usage = new UsageRecorder(store);
  const keyring = composeKeyring(ground, memory, usage, wake);
  const reconciler: Reconciler = new Reconciler({ store, keyring, log, alerts });
  const auditWork = composeAuditWork(ground, memory);
  const budgets = new Budgets({
    maxCalls: configuration.KEYWARD_MAX_CALLS,
    maxRequestBytes: configuration.KEYWARD_MAX_REQUEST_BYTES,
  });
  const connections = new Connections(transportLimits(configuration), ground.identity, log);
  const alerting = composeAlerting({ ...ground, ...memory });
  const below = { memory, keyring, alerting, auditWork, budgets, connections };
  const faces = composeFaces(ground, below);
  const measured = { ...memory, ...auditWork, budgets, connections, reconciler };
  const operators = isMeasured(configuration) ? composeOperators(ground, measured) : undefined;
  const health = new HealthListener(log);
  const parts = { usage, operators, reconciler, health, alerting };
  return { ...ground, ...memory, ...parts, ...composeWatching(ground), ...auditWork, ...faces };
}

/** Opens what all other parts stand on. */
async function openGround(
  configuration: ServerConfiguration,
  { log, alerts, metrics, membership }: Below,
  onMisplaced: (why: string) => void,
): Promise<Ground> {
  const identity = openIdentity(configuration, log);
  const witnesses = readWitnesses(configuration);
  const store = await openStore(configuration, (err) =>
    log.warn({ err }, 'an idle database connection failed'),
  );
  const environment = await readEnvironment(store);
  requireRecorded(environment);
  requireMode(environment.mode, configuration.KEYWARD_MODE);
  const opened = {
    ...{ configuration, log, alerts, metrics, membership, outcomes: new CallOutcomes(log) },
    ...{ identity, witnesses, store, environment },
  };
  return { ...opened, tokens: await prepareTokens(opened, onMisplaced) };
}

/** Composes what only looks, at calls and at the replica's surroundings, and raises alerts. */
function composeWatching({
  configuration,
  log,
  alerts,
  outcomes,
  store,
  membership,
}: Ground): Pick<Replica, 'anomalies' | 'selfWatch' | 'notices'> {
  const conditions = new CallConditions({ alerts, sensitive: SENSITIVE_METHODS });
  outcomes.listen((outcome) => conditions.note(outcome));
  const anomalies = configuration.KEYWARD_ANOMALIES
    ? new AnomalyWatch({ store, alerts, log })
    : undefined;
  if (anomalies !== undefined) outcomes.listen(anomalies.note);
  const { KEYWARD_TLS_CERT_FILE, KEYWARD_TLS_CLIENT_CA_FILE } = configuration;
  const files = { KEYWARD_TLS_CERT_FILE, KEYWARD_TLS_CLIENT_CA_FILE };
  // Of several server processes, which have one clock and the same files, one looks at these.
  const isFirst = membership === undefined || membership.number === 1;
  const surroundings = isFirst ? { replica: REPLICA, files } : undefined;
  const selfWatch = new SelfWatch({ store, alerts, surroundings });
  return { anomalies, selfWatch, notices: new Notices({ store, alerts, log }) };
}

/** Whether anything is counted: not where nothing can be asked for it. */
function isMeasured({ KEYWARD_METRICS_LISTEN }: Configuration): boolean {
  return KEYWARD_METRICS_LISTEN !== undefined;
}

/** Has the parts measured, and returns the listener that tells of it. */
function composeOperators(
  ground: Ground,
  parts: Omit<MeasuredParts, keyof Ground>,
): OperatorsListener {
  const { configuration, log, alerts, metrics, membership, outcomes } = ground;
  const tenants = configuration.KEYWARD_METRICS_TENANTS;
  outcomes.listen(measureCalls({ metrics, methods: METHOD_NAMES, streams: STREAM_PATHS, tenants }));
  measureAlerts(metrics, alerts);
  measureReplica(metrics, { ...ground, ...parts });
  measureBuild(metrics, RELEASE);
  if (membership !== undefined) measureServers(metrics, () => membership.overview);
  metrics.measureProcess();
  const text = async (accept: string) => ({ status: 200, ...(await metrics.text(accept)) });
  const others = membership && (() => membership.others);
  return new OperatorsListener(log, { '/metrics': text, ...healthPages(parts.readiness, others) });
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
    throw new ConfigurationError(`KEYWARD_ISSUERS_FILE: ${(cause as Error).message}`, { cause });
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
  { configuration, log, alerts, metrics, store, environment }: Omit<Ground, 'tokens'>,
  onMisplaced: (why: string) => void,
): Promise<ServingTokens> {
  const onCall = isMeasured(configuration) && { onCall: measureAgentCalls(metrics) };
  return ServingTokens.prepare({
    store,
    environment,
    ...servingAgents(configuration),
    keyCacheSize: configuration.KEYWARD_HSM_KEY_CACHE,
    heedsKeptCheckpoint: configuration.KEYWARD_AUDIT_TOKEN_CHECKPOINT_MINUTES !== undefined,
    openPool: (starter, settings, reread) =>
      new HsmAgents({
        starter,
        settings,
        reread,
        count: configuration.KEYWARD_HSM_AGENTS,
        callTimeoutMs: configuration.KEYWARD_HSM_CALL_TIMEOUT_MS,
        startTimeoutMs: configuration.KEYWARD_HSM_START_TIMEOUT_MS,
        maxCalls: configuration.KEYWARD_HSM_QUEUE_CALLS,
        maxBytes: configuration.KEYWARD_HSM_QUEUE_BYTES,
        ...onCall,
        log,
        alerts,
      }),
    identify: identifyToken,
    createKey: createTokenKey,
    keepCheckpoint,
    onMisplaced,
    log,
  });
}

function composeMemory(
  { configuration, log, alerts, store, environment, tokens }: Ground,
  wake: () => void,
): Memory {
  const { agents } = tokens;
  const { systemTenantId } = environment;
  const { KEYWARD_KEY_CACHE, KEYWARD_POLICY_CACHE } = configuration;
  const isFresh = () => feed.isFresh();
  const tokenKeySeals = new TokenKeySeals({ agents, alerts });
  const describe = () => ({
    name: REPLICA,
    release: RELEASE,
    agents: configuration.KEYWARD_HSM_AGENTS,
    agentsReady: tokens.pools.find(({ isCurrent }) => isCurrent)?.agents.figures.ready ?? 0,
    problems: readiness.conditions.flatMap(({ problem }) => problem ?? []),
  });
  const tokenObjects = new TokenObjects({
    ...{ store, tokens, seals: tokenKeySeals, describe, systemTenantId },
  });
  const states = new KeyStates({ store, agents, sealKeys: tokenObjects, alerts });
  const tenantSeals = new TenantSeals({ store, agents, sealKeys: tokenObjects, alerts });
  const cache = new KeyCache({
    ...{ store, states, tenantSeals, limit: KEYWARD_KEY_CACHE, isFresh },
    // Agents keep keys of epochs for no longer than this replica keeps how their key stands.
    onForget: (ofId) => agents.forgetEpochs(ofId),
  });
  const policies = new Policies({ store, agents, isFresh, limit: KEYWARD_POLICY_CACHE, alerts });
  const rules = new RuleBook({
    ...{ store, agents, isFresh, limit: KEYWARD_POLICY_CACHE, alerts },
    tenantOf: (name) => cache.tenant(name),
  });
  const canaries = new Canaries({
    ...{ store, agents, cache, systemTenantId, log, alerts },
    maxStalenessMs: configuration.KEYWARD_MAX_STALENESS_MS,
  });
  const refreshTokenObjects = () =>
    void tokenObjects
      .onChange()
      // A new one may have waited for this replica alone.
      .then(wake)
      .catch((err: unknown) => log.warn({ err }, 'cannot look for token objects'));
  const onChange = ({ kind, tenantId, subjectId }: Change) => {
    if (kind === 'access') policies.forget(tenantId);
    else if (kind === 'approvalRules') rules.forget(tenantId);
    else if (kind === 'canaries') canaries.forget();
    else if (kind === 'tenant') cache.forgetTenant(subjectId as TenantId);
    else if (kind === 'shredded') cache.forgetAllOf(subjectId as TenantId);
    else if (kind === 'versions' && tenantId !== systemTenantId) cache.forgetAllOf(tenantId);
    else if (kind === 'versions') cache.clear();
    else if (kind !== 'token') cache.forget(tenantId, subjectId as KeyId);
    if (kind === 'destroyed') void agents.forget(subjectId as KeyId);
    if (kind === 'shredded') void agents.forget(subjectId as TenantId);
    if (kind === 'token' || kind === 'shredded') refreshTokenObjects();
  };
  const maxAgeMs = configuration.KEYWARD_CACHE_MAX_AGE_MS;
  const caches = [policies, rules, cache, canaries];
  const cacheAge = new CacheAge({ store, caches, onChange, isFresh, maxAgeMs, log, alerts });
  const feed: ChangeFeed = new ChangeFeed(store, configuration.KEYWARD_MAX_STALENESS_MS, {
    onChange: (change) => {
      cacheAge.told(change);
      onChange(change);
    },
    onReset: () => {
      cacheAge.toldAll();
      cache.clear();
      policies.clear();
      rules.clear();
      canaries.forget();
      void agents.forget();
      refreshTokenObjects();
    },
    onError: (err) => log.warn({ err }, 'cannot read changes'),
  });
  const readiness: Readiness = new Readiness({ agents, feed, store });
  const kept = { states, tenantSeals, cache, policies, rules, canaries };
  return { ...kept, tokenKeySeals, tokenObjects, feed, cacheAge, readiness, onChange };
}

function composeKeyring(
  { configuration, alerts, store, environment, tokens }: Ground,
  { cache, states, tenantSeals, canaries, tokenKeySeals, tokenObjects }: Memory,
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
    tenantSeals,
    canaries,
    usage,
    quotas,
    tokenKeySeals,
    tokenObjects,
    makeTokenKey: (key, warrant) => tokens.makeTokenKey(key, warrant),
    alerts,
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

function composeAuditWork(ground: Ground, { cache }: Memory): AuditWork {
  const { configuration, log, alerts, metrics, store, environment, tokens, witnesses } = ground;
  const { systemTenantId } = environment;
  const logOf = (tenant: string) => {
    const tenantId = cache.tenantIdOf(tenant);
    return typeof tenantId === 'string' ? tenantId : tenantId.catch(() => systemTenantId);
  };
  const sequencer = new Sequencer({
    store,
    agents: tokens.agents,
    environmentId: environment.environmentId,
    systemTenantId,
    checkpointPeriodMs: configuration.KEYWARD_AUDIT_CHECKPOINT_MS,
    kept: openKeptCheckpoints(ground),
    log,
    alerts,
  });
  const witnessRounds = new WitnessRounds({
    store,
    witnesses,
    periodMs: configuration.KEYWARD_AUDIT_WITNESS_MS,
    isSequencing: () => sequencer.holdsLease,
    log,
    alerts,
  });
  const identities = new WriterIdentities({ store, agents: tokens.agents, log, alerts });
  const waitMs = configuration.KEYWARD_AUDIT_WAIT_MS;
  const onGroup = isMeasured(configuration) && { onGroup: measureAuditGroups(metrics) };
  const writer = new AuditWriter({ store, waitMs, logOf, ...onGroup });
  return { writer, identities, sequencer, witnessRounds };
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

/** What faces stand on, besides the ground. */
interface BelowFaces {
  readonly memory: Memory;
  readonly keyring: Keyring;
  readonly alerting: Alerting;
  readonly auditWork: AuditWork;
  readonly budgets: Budgets;
  readonly connections: Connections;
}

function composeFaces(
  ground: Ground,
  { memory, keyring, alerting, auditWork, budgets, connections }: BelowFaces,
): Pick<Replica, 'server' | 'http' | 'approvedCalls'> {
  const { writer } = auditWork;
  const { configuration, log, alerts, identity, witnesses, store, environment, tokens } = ground;
  const tenantIdOf = async (tenant: string) => (await memory.cache.tenant(tenant)).tenantId;
  const masks = new ContextMasks({ agents: tokens.agents, tenantIdOf });
  const recording = {
    writer,
    masks,
    replica: REPLICA,
    systemTenantId: environment.systemTenantId,
  };
  const limits = transportLimits(configuration);
  const access = composeAccess(ground, memory);
  const wake = () => approvedCalls.wake();
  const passkeys = composePasskeys(ground, memory);
  const signOffUrl = () => signOffUrlOf(configuration, http?.port);
  const below = { ...access, passkeys };
  const { pendingOperations, approved } = composePending(ground, memory, below, {
    wake,
    signOffUrl,
  });
  const { rules } = memory;
  const shared = {
    services: {
      ...keyring,
      ...access,
      passkeys,
      pendingOperations,
      alerting,
      auditLog: new AuditLog({ store, tenantIdOf, witnesses }),
      serviceStatus: composeStatus(ground, memory, keyring),
      masks,
      environmentId: environment.environmentId,
      signOffUrl,
    },
    recording,
    replays: new Replays({ store, agents: tokens.agents, onChange: memory.onChange, alerts }),
    admission: new Admission({
      deadlineMs: configuration.KEYWARD_DEADLINE_MS,
      budgets,
      streams: STREAM_PATHS,
      identity,
      // A path that is no method is the caller's text.
      recordRefusal: (error, call) => {
        const method = METHOD_NAMES.has(call.method) ? call.method : 'unknown';
        return recordRefusal(recording, error, { ...call, method });
      },
    }),
    outcomes: ground.outcomes,
    canaryWatch: new CanaryWatch({
      ...{ writer, alerts, log },
      canaries: memory.canaries,
      changes: keyring.canaryChanges,
    }),
    stepUp: new StepUp({ rules: memory.rules }),
    approvalGate: new ApprovalGate({
      ...{ rules, approved, agents: tokens.agents },
      pending: pendingOperations,
    }),
    connections,
    log,
    limits,
    tls: {
      certFile: configuration.KEYWARD_TLS_CERT_FILE,
      keyFile: configuration.KEYWARD_TLS_KEY_FILE,
      clientCaFile: configuration.KEYWARD_TLS_CLIENT_CA_FILE,
    },
  };
  const { services, replays, outcomes, canaryWatch, stepUp, approvalGate } = shared;
  const serving = {
    ...{ services, recording, replays, outcomes, canaryWatch, stepUp, approvalGate, log },
    // None of its calls is a stream.
    stopping: new AbortController().signal,
  };
  const approvedCalls: ApprovedCalls = new ApprovedCalls({ serving, approved, log });
  const reflection =
    configuration.KEYWARD_REFLECTION ?? configuration.KEYWARD_MODE === 'development';
  const hasSignOff = configuration.KEYWARD_RELYING_PARTY_ID !== undefined;
  const http: HttpServer | undefined =
    configuration.KEYWARD_HTTP_LISTEN === undefined
      ? undefined
      : new HttpServer({ ...shared, listen: configuration.KEYWARD_HTTP_LISTEN, hasSignOff });
  return {
    server: new GrpcServer({ ...shared, listen: configuration.KEYWARD_LISTEN, reflection }),
    http,
    approvedCalls,
  };
}

/** Returns where people's browsers find the sign-off page; empty where they do not. */
function signOffUrlOf(
  { KEYWARD_SIGN_OFF_URL: given, KEYWARD_RELYING_PARTY_ID: domain }: Configuration,
  httpPort: number | undefined,
): string {
  if (given !== undefined) return given;
  if (domain === undefined || httpPort === undefined) return '';
  return new URL(SIGN_OFF_PATH, `https://${domain}:${httpPort}`).href;
}

/** Composes what has calls wait for approval, and what does them then; `wake` has it done. */
function composePending(
  { configuration, store, tokens, environment, alerts }: Ground,
  { states, tenantSeals, rules, cache }: Memory,
  { access, passkeys }: Pick<GrpcServerOptions['services'], 'access' | 'passkeys'>,
  { wake, signOffUrl }: Pick<PendingOperationsParts, 'wake' | 'signOffUrl'>,
): { readonly pendingOperations: PendingOperations; readonly approved: ApprovedOperations } {
  const { environmentId } = environment;
  const seals = new PendingSeals({ store, agents: tokens.agents, states, alerts });
  const pendingOperations = new PendingOperations({
    ...{ store, seals, rules, passkeys, environmentId, signOffUrl, wake, alerts },
    tenantOf: (name) => cache.tenant(name),
    expiryMs: configuration.KEYWARD_APPROVAL_SECONDS * 1_000,
  });
  const approved = new ApprovedOperations({
    ...{ store, seals, rules, access, environmentId, tenantSeals, agents: tokens.agents },
    tenantById: (tenantId) => cache.tenantById(tenantId),
  });
  return { pendingOperations, approved };
}

function composeStatus(
  { store, witnesses, environment }: Ground,
  { readiness }: Memory,
  { tokenStatus, maintenance }: Keyring,
): ServiceStatus {
  return new ServiceStatus({
    ...{ store, tokenStatus, maintenance, readiness, witnesses },
    ...{ replica: REPLICA, release: RELEASE },
    environmentId: environment.environmentId,
    systemTenantId: environment.systemTenantId,
  });
}

function composeAccess(
  { configuration, identity, store, tokens }: Ground,
  { cache, policies, rules, canaries, tenantSeals, tokenObjects }: Memory,
): Pick<
  GrpcServerOptions['services'],
  'access' | 'accessAdministration' | 'explanation' | 'ruleChanges'
> {
  const tenantOf = (name: string) => cache.tenant(name);
  const currentSealKey = () => tokenObjects.currentSealKey();
  const firstAdministrator = configuration.KEYWARD_FIRST_ADMINISTRATOR;
  const suspends = (caller: string, tenant: string) => canaries.suspends(caller, tenant);
  const access = new Access({ policies, tenantOf, firstAdministrator, suspends });
  const limitsTenants = (issuer: string) => identity.limitsTenants(issuer);
  const explanation = new Explanation({ access, policies, tenantOf, limitsTenants });
  const accessAdministration = new AccessAdministration({
    store,
    agents: tokens.agents,
    policies,
    tenantOf,
    tenantById: async (tenantId) => {
      const tenant = await cache.tenantById(tenantId);
      return tenant.state === 'SHREDDED' ? undefined : tenant;
    },
    currentSealKey,
  });
  const { agents } = tokens;
  const ruleChanges = new RuleChanges({
    ...{ store, agents, rules, currentSealKey, tenantSeals },
    arePasskeysConfigured: configuration.KEYWARD_RELYING_PARTY_ID !== undefined,
    forgetTenant: (tenantId) => cache.forgetTenant(tenantId),
  });
  return { access, accessAdministration, explanation, ruleChanges };
}

function composePasskeys(
  { configuration, store, environment, tokens, alerts }: Ground,
  { states }: Memory,
): Passkeys {
  const rootsFile = configuration.KEYWARD_PASSKEY_ATTESTATION_ROOTS_FILE;
  return new Passkeys({
    ...{ store, agents: tokens.agents, states, alerts },
    systemTenantId: environment.systemTenantId,
    environmentId: environment.environmentId,
    settings: {
      relyingPartyId: configuration.KEYWARD_RELYING_PARTY_ID,
      isDeviceBoundOnly: configuration.KEYWARD_PASSKEYS_DEVICE_BOUND,
      attestationRoots:
        rootsFile === undefined
          ? undefined
          : certificatesIn(readFileSync(rootsFile, 'utf8'), rootsFile),
    },
  });
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
