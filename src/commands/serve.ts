/**
 * Runs a replica, from its settings to its last answer.
 *
 * - It owns the list of parts that start and stop, sets readiness, and logs what every start must
 *   show.
 * - What must still be reported (the use of keys, the end of this replica) is reported after the
 *   last call is answered, and before database and token are closed.
 * - `composition.ts` makes the parts; `ending.ts` decides when the process ends, and with which
 *   exit status.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { recordFirstAdministrator } from '../audit/first-administrator.ts';
import { monotonicNow } from '../call.ts';
import { type Configuration, readConfiguration } from '../config.ts';
import { KeywardError } from '../errors.ts';
import { TokenRefused } from '../hsm/agent-pool.ts';
import { SYSTEM_TENANT } from '../names.ts';
import type { Membership } from '../servers/membership.ts';
import { AlertSignals } from '../signals/alerts.ts';
import { createLog, type Logger } from '../signals/log.ts';
import { Metrics } from '../signals/metrics/metrics.ts';
import { startHousekeeping } from '../store/housekeeping.ts';
import { findTenant } from '../store/tenants/tenants.ts';
import { compose, type Replica } from './composition.ts';
import { Ending, LETTING_GO_MS } from './ending.ts';
import { Lifecycle, type Part } from './lifecycle.ts';
import { RELEASE } from './release.ts';
import { REPLICA } from './replica.ts';
import { replicaConditions } from './replica-conditions.ts';
import { watchedSchema } from './schema-watch.ts';
import { reportSettings, reportWaivers } from './settings-conditions.ts';

const READINESS_MS = 100;
const VERIFY_MS = 5_000;
const NO_SYSTEM =
  'cannot serve: what is stored of the tenant system failed verification; after an upgrade run ' +
  '`keyward-server token seal-states`';

/**
 * Starts a replica. Returns once the token is open or refused; then the process runs until a
 * signal, or until its supervisor ends it. Throws what `compose` throws.
 */
export async function serve(membership: Membership | undefined): Promise<void> {
  const configuration = readConfiguration(process.env);
  // V8 asks for it at each collection; left to itself it lets a small heap grow fourfold.
  setFlagsFromString(`--heap-growing-percent=${configuration.KEYWARD_HEAP_GROWTH}`);
  const metrics = new Metrics(membership && (() => membership.allFigures()));
  const linesLost = metrics.counter('keyward_log_lines_lost_total', {});
  const onLost = (lines: number) => {
    linesLost.value += lines;
    alerts.raise('log-lines-lost', REPLICA, { lines });
  };
  const processName = membership && `server ${membership.number}`;
  const log = createLog(configuration.KEYWARD_LOG_LEVEL, RELEASE, onLost, processName);
  const alerts = new AlertSignals(log);
  const ending = new Ending(log, alerts);
  let reload = () => {};
  const reloadAll = () => {
    log.info(
      'reading the TLS files, the deny list, the issuers and the receivers of alerts again: SIGHUP',
    );
    reload();
  };
  // By itself it would end the process; a terminal that is closed sends it, too.
  process.on('SIGHUP', reloadAll);
  membership?.follow({
    end: (why) => ending.join(why),
    reload: reloadAll,
    raise: (id, subject, fields) => alerts.raise(id, subject, fields),
    figures: () => metrics.figures(),
  });
  const replica = await compose(configuration, { log, alerts, metrics, membership }, (why) =>
    ending.begin(why, 1),
  );
  reload = () => {
    for (const part of [replica.identity, replica.server, replica.http, replica.alerting])
      part?.reload();
  };
  const schema = watchedSchema(replica.store, (why) => {
    log.fatal(why);
    ending.begin(why, 1);
  });
  const lifecycle = new Lifecycle([...partsOf(replica, configuration, log), schema]);
  ending.prepare({
    inOrder: () => lifecycle.stop(),
    limitMs: configuration.KEYWARD_DRAIN_MS + LETTING_GO_MS,
  });
  try {
    await lifecycle.start();
    membership?.started();
  } catch (error) {
    const why =
      error instanceof TokenRefused
        ? 'cannot use the HSM token'
        : error instanceof KeywardError && error.reason === 'TENANT_CORRUPT'
          ? NO_SYSTEM
          : undefined;
    if (why === undefined) throw error;
    log.fatal({ err: error }, why);
    ending.begin(why, 1);
  }
}

/** Returns the parts of a replica, each after those that it stands on. */
function partsOf(replica: Replica, configuration: Configuration, log: Logger): readonly Part[] {
  const { store, identity, feed, cacheAge, canaries, tokens, tokenObjects } = replica;
  const { alerts, alerting } = replica;
  const { reconciler, identities, sequencer, witnessRounds, usage } = replica;
  const { selfWatch, notices } = replica;
  const { KEYWARD_MAINTENANCE_TICKS: ticks, KEYWARD_MAINTENANCE_JITTER_MS: jitterMs } =
    configuration;
  return [
    { name: 'the database', stop: () => store.close() },
    { name: 'identity', stop: () => identity.stop() },
    { name: 'alerts', start: () => alerting.start(), stop: () => alerting.stop() },
    {
      name: 'the alerts about settings',
      start: () => reportSettings(configuration, alerts),
    },
    { name: 'the feed of changes', start: () => feed.start(), stop: () => feed.stop() },
    { name: 'the age of caches', start: () => cacheAge.start(), stop: () => cacheAge.stop() },
    housekeeping(replica, log),
    { name: 'the watch of itself', start: () => selfWatch.start(), stop: () => selfWatch.stop() },
    ...operatorsListeners(replica, configuration, log),
    ...(replica.membership === undefined ? listeners(replica, configuration, log) : []),
    {
      name: 'the HSM agents',
      start: () => openToken(replica, log),
      stop: () => tokens.agents.stop(),
    },
    replicaConditions({ agents: tokens.agents, feed, store, alerts }),
    verifiedSystem(replica, log),
    { name: 'the canaries', start: () => canaries.start(), stop: () => canaries.stop() },
    {
      name: 'the streams of the audit log',
      start: () => identities.start(),
      stop: () => identities.stop(),
    },
    {
      name: 'the reports of this replica',
      start: () => tokenObjects.start((err) => log.warn({ err }, 'cannot report this replica')),
      stop: () =>
        tokenObjects
          .stop()
          .catch((err: unknown) => log.warn({ err }, 'cannot report that this replica ends')),
    },
    {
      name: 'the reports of use',
      start: () =>
        usage.start(configuration.KEYWARD_USAGE_REPORT_MS, (err) =>
          log.warn({ err }, 'cannot report the use of keys; trying again'),
        ),
      stop: () =>
        usage
          .stop()
          .catch((err: unknown) => log.warn({ err }, 'cannot report the last use of keys')),
    },
    {
      name: 'the watch over callers',
      start: () => replica.anomalies?.start(),
      stop: () => replica.anomalies?.stop(),
    },
    {
      name: 'the sequencer of the audit log',
      start: () => sequencer.start(),
      stop: () => sequencer.stop(),
    },
    {
      name: 'the rounds of the witnesses',
      start: () => witnessRounds.start(),
      stop: () => witnessRounds.stop(),
    },
    {
      name: 'the reconciler',
      start: () => reconciler.start(ticks, jitterMs),
      stop: () => reconciler.stop(),
    },
    {
      name: 'the calls that were approved',
      start: () => replica.approvedCalls.start(),
      stop: () => replica.approvedCalls.stop(),
    },
    { name: 'notices', start: () => notices.start(), stop: () => notices.stop() },
    namedFirst(replica, configuration, log),
    // Of several processes one that takes connections serves.
    ...(replica.membership === undefined ? [] : listeners(replica, configuration, log)),
    serving(replica, configuration, log),
  ];
}

function housekeeping({ store }: Replica, log: Logger): Part {
  let stop = () => {};
  return {
    name: 'housekeeping',
    start: () => {
      stop = startHousekeeping(store, (err) =>
        log.warn({ err }, 'housekeeping failed and will be tried again'),
      );
    },
    stop: () => stop(),
  };
}

/** Returns the listeners that answer before the token is open, and say that nothing is served. */
function operatorsListeners(
  { health, operators }: Replica,
  { KEYWARD_HEALTH_LISTEN: address, KEYWARD_METRICS_LISTEN }: Configuration,
  log: Logger,
): readonly Part[] {
  return [
    {
      name: 'the listener for health',
      start: async () => {
        if (address !== undefined)
          await bound('KEYWARD_HEALTH_LISTEN', address, health.listen(address));
      },
      stop: () => health.stop(),
    },
    {
      name: 'the listener for operators',
      start: async () => {
        if (operators === undefined || KEYWARD_METRICS_LISTEN === undefined) return;
        const listening = operators.listen(KEYWARD_METRICS_LISTEN);
        const port = await bound('KEYWARD_METRICS_LISTEN', KEYWARD_METRICS_LISTEN, listening);
        log.info({ port }, 'listening for operators');
      },
      stop: () => operators?.stop(),
    },
  ];
}

/**
 * Returns the listeners for callers. What has come in by them has been answered before anything
 * that it stands on stops.
 */
function listeners(
  { server, http, environment }: Replica,
  configuration: Configuration,
  log: Logger,
): readonly Part[] {
  const { KEYWARD_LISTEN, KEYWARD_HTTP_LISTEN } = configuration;
  const { KEYWARD_DRAIN_MS, KEYWARD_MODE: mode } = configuration;
  return [
    {
      name: 'the gRPC listener',
      start: async () => {
        const port = await bound('KEYWARD_LISTEN', KEYWARD_LISTEN, server.listen());
        log.info({ port, environmentId: environment.environmentId, mode }, 'listening');
      },
      stop: () => server.drain(KEYWARD_DRAIN_MS),
    },
    {
      name: 'the HTTP listener',
      start: async () => {
        if (http === undefined) return;
        const port = await bound('KEYWARD_HTTP_LISTEN', KEYWARD_HTTP_LISTEN, http.listen());
        log.info({ port }, 'listening for HTTP');
      },
      stop: () => http?.drain(KEYWARD_DRAIN_MS),
    },
  ];
}

/** Returns the port. Throws Error, in words for the operator, where an address cannot be had. */
async function bound(
  setting: string,
  address: string | undefined,
  port: Promise<number>,
): Promise<number> {
  try {
    return await port;
  } catch (cause) {
    throw new Error(`cannot listen at ${setting}, ${address}: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** Opens the token. Throws TokenRefused. */
async function openToken({ tokens, alerts }: Replica, log: Logger): Promise<void> {
  const { findings, ...report } = await tokens.start();
  log.info(report, 'the HSM token is open');
  // What the operator waived is said at every start, so that it isn't forgotten.
  reportWaivers(findings, alerts);
}

/**
 * Holds back all that follows until the tenant `system` has verified, by whose UUID everything was
 * composed: what is done for the whole service goes by it. Throws TENANT_CORRUPT.
 */
function verifiedSystem({ store, tenantSeals, environment }: Replica, log: Logger): Part {
  const stopping = new AbortController();
  const verify = async () => {
    const deadline = monotonicNow() + VERIFY_MS;
    const readAfter = tenantSeals.now();
    const stored = await findTenant(store, { deadline }, environment.systemTenantId);
    if (stored === undefined) throw new KeywardError('TENANT_CORRUPT');
    const { name } = await tenantSeals.verifyOne(stored, { readAfter, deadline });
    // A sealed tenant that was taken for it by its row's name.
    if (name !== SYSTEM_TENANT) throw new KeywardError('TENANT_CORRUPT');
  };
  return {
    name: 'the tenant system',
    start: () =>
      untilDone(verify, stopping.signal, (err) => {
        if (err instanceof KeywardError && err.reason === 'TENANT_CORRUPT') throw err;
        log.warn({ err }, 'cannot verify the tenant system yet; trying again');
      }),
    stop: () => stopping.abort(),
  };
}

/** Tries until it succeeds or `signal` ends it; `onError` may throw what ends it as well. */
async function untilDone(
  attempt: () => Promise<void>,
  signal: AbortSignal,
  onError: (error: unknown) => void,
): Promise<void> {
  while (!signal.aborted) {
    try {
      return await attempt();
    } catch (error) {
      onError(error);
    }
    await delay(READINESS_MS, undefined, { signal }).catch(() => {});
  }
}

/** Says, for as long as everything runs, whether the replica can do its work. */
function serving(
  { health, server, http, readiness, store, membership }: Replica,
  { KEYWARD_DRAIN_MS }: Configuration,
  log: Logger,
): Part {
  const tell = () => {
    const { isReady, conditions } = readiness;
    const problems = conditions.flatMap(({ name, problem }) => (problem ? [[name, problem]] : []));
    // Callers hear of this process, by whose connection they call; probes, of the whole service.
    server.setReady(isReady);
    health.setReady(isReady || (membership?.others.some((other) => other.isReady) ?? false));
    membership?.report({ isReady, problems: Object.fromEntries(problems) });
  };
  let cannotRecord = false;
  // What a call needs: a key, what it may be used for, and an entry that says so.
  const look = () => {
    const { appendFailure: err } = store;
    const isNews = cannotRecord !== (err !== undefined);
    cannotRecord = err !== undefined;
    if (isNews && cannotRecord) log.warn({ err }, 'cannot record calls in the audit log');
    tell();
  };
  let timer: NodeJS.Timeout | undefined;
  return {
    name: 'serving',
    start: () => {
      readiness.started();
      timer = setInterval(look, READINESS_MS);
    },
    stop: async () => {
      readiness.stops();
      tell();
      // Together: they share what callers may have, and the time.
      await Promise.all([server.drain(KEYWARD_DRAIN_MS), http?.drain(KEYWARD_DRAIN_MS)]);
      clearInterval(timer);
    },
  };
}

/**
 * Names the first administrator in the log and in the audit log, at every start while the setting
 * stands, and lets nobody in before the entry is durable.
 */
function namedFirst(
  { writer }: Replica,
  { KEYWARD_FIRST_ADMINISTRATOR: firstAdministrator }: Configuration,
  log: Logger,
): Part {
  const stopping = new AbortController();
  return {
    name: 'the entry of the first administrator',
    start: async () => {
      if (firstAdministrator === undefined) return;
      log.warn(
        { firstAdministrator },
        'KEYWARD_FIRST_ADMINISTRATOR may create role bindings; unset it once others may',
      );
      await untilDone(
        () => recordFirstAdministrator(writer, REPLICA, firstAdministrator),
        stopping.signal,
        (err) => log.warn({ err }, 'cannot record the first administrator yet; trying again'),
      );
    },
    stop: () => stopping.abort(),
  };
}
