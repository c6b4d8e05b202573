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
import { type Configuration, readConfiguration } from '../config.ts';
import { TokenRefused } from '../hsm/agent-pool.ts';
import { createLog, type Logger } from '../signals/log.ts';
import { startHousekeeping } from '../store/housekeeping.ts';
import { compose, type Replica } from './composition.ts';
import { Ending } from './ending.ts';
import { Lifecycle, type Part } from './lifecycle.ts';
import { RELEASE } from './opening.ts';

const READINESS_MS = 100;
/** The longest that closing database and token may take after an unexpected failure. */
const LETTING_GO_MS = 10_000;

/**
 * Starts a replica. Returns once the token is open or refused; then the process runs until a
 * signal. Throws what `compose` throws.
 */
export async function serve(): Promise<void> {
  const configuration = readConfiguration(process.env);
  const log = createLog(configuration.KEYWARD_LOG_LEVEL, RELEASE);
  const ending = new Ending(log);
  const replica = await compose(configuration, log, (why) => ending.begin(why, 1));
  sayWhoIsFirst(configuration, log);
  const lifecycle = new Lifecycle(partsOf(replica, configuration, log));
  ending.prepare({
    inOrder: () => lifecycle.stop(),
    limitMs: configuration.KEYWARD_DRAIN_MS + LETTING_GO_MS,
  });
  try {
    await lifecycle.start();
  } catch (error) {
    if (!(error instanceof TokenRefused)) throw error;
    log.fatal({ err: error }, 'cannot use the HSM token');
    ending.begin('cannot use the HSM token', 1);
  }
}

/** Returns the parts of a replica, each after those that it stands on. */
function partsOf(replica: Replica, configuration: Configuration, log: Logger): readonly Part[] {
  const { store, identity, feed, tokens, tokenObjects } = replica;
  const { reconciler, sequencer, witnessRounds, usage } = replica;
  const { KEYWARD_MAINTENANCE_TICKS: ticks, KEYWARD_MAINTENANCE_JITTER_MS: jitterMs } =
    configuration;
  return [
    { name: 'the database', stop: () => store.close() },
    { name: 'identity', stop: () => identity.stop() },
    { name: 'the feed of changes', start: () => feed.start(), stop: () => feed.stop() },
    housekeeping(replica, log),
    ...listeners(replica, configuration, log),
    {
      name: 'the HSM agents',
      start: () => openToken(replica, log),
      stop: () => tokens.agents.stop(),
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
    serving(replica, configuration),
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

/**
 * Returns the listeners. They answer before the token is open, and say that they do not serve; what
 * has come in by them has been answered before anything that it stands on stops.
 */
function listeners(
  { health, server, http, environment }: Replica,
  configuration: Configuration,
  log: Logger,
): readonly Part[] {
  const { KEYWARD_HEALTH_LISTEN, KEYWARD_DRAIN_MS, KEYWARD_MODE: mode } = configuration;
  return [
    {
      name: 'the listener for health',
      start: async () => {
        if (KEYWARD_HEALTH_LISTEN !== undefined) await health.listen(KEYWARD_HEALTH_LISTEN);
      },
      stop: () => health.stop(),
    },
    {
      name: 'the gRPC listener',
      start: async () => {
        const port = await server.listen();
        log.info({ port, environmentId: environment.environmentId, mode }, 'listening');
      },
      stop: () => server.drain(KEYWARD_DRAIN_MS),
    },
    {
      name: 'the HTTP listener',
      start: async () => {
        const port = await http?.listen();
        if (port !== undefined) log.info({ port }, 'listening for HTTP');
      },
      stop: () => http?.drain(KEYWARD_DRAIN_MS),
    },
  ];
}

/** Opens the token. Throws TokenRefused. */
async function openToken({ tokens }: Replica, log: Logger): Promise<void> {
  const { findings, ...report } = await tokens.start();
  log.info(report, 'the HSM token is open');
  // What the operator waived is said at every start, so that it isn't forgotten.
  for (const finding of findings)
    log.warn(finding, 'the token cannot enforce an attribute, which is waived');
}

/** Says, for as long as everything runs, whether the replica can do its work. */
function serving(
  { health, server, http, tokens, feed }: Replica,
  { KEYWARD_DRAIN_MS }: Configuration,
): Part {
  const setReady = (ready: boolean) => {
    server.setReady(ready);
    health.setReady(ready);
  };
  let timer: NodeJS.Timeout | undefined;
  return {
    name: 'serving',
    start: () => {
      timer = setInterval(() => setReady(tokens.agents.ready && feed.isFresh()), READINESS_MS);
    },
    stop: async () => {
      clearInterval(timer);
      setReady(false);
      // Together: they share what callers may have, and the time.
      await Promise.all([server.drain(KEYWARD_DRAIN_MS), http?.drain(KEYWARD_DRAIN_MS)]);
    },
  };
}

/** Warns of the first administrator at every start while the setting stands. */
function sayWhoIsFirst(
  { KEYWARD_FIRST_ADMINISTRATOR: firstAdministrator }: Configuration,
  log: Logger,
): void {
  if (firstAdministrator !== undefined)
    log.warn(
      { firstAdministrator },
      'KEYWARD_FIRST_ADMINISTRATOR may create role bindings; unset it once others may',
    );
}
