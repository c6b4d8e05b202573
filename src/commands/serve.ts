/**
 * `serve`: a replica's life, from its settings to its last answer.
 *
 * Owns in which order parts start and end, when it says that it is ready, and what is said at every
 * start. Invariant: what still has to be told (the use of keys, that it ends) is told after the
 * last call was answered and before database and token are let go. What the parts are is
 * `composition.ts`; what ends it, and with which exit status, `ending.ts`.
 */
import { type Configuration, readConfiguration } from '../config.ts';
import { HealthListener } from '../faces/grpc/health.ts';
import { startHousekeeping } from '../store/housekeeping.ts';
import { createLog, type Logger } from '../telemetry/log.ts';
import { compose, type Replica } from './composition.ts';
import { Ending } from './ending.ts';
import { RELEASE } from './opening.ts';

const READINESS_MS = 100;
/**
 * After a failure that was not foreseen, letting go of what the replica stands on may take so long.
 */
const LETTING_GO_MS = 10_000;

/**
 * Returns once the token is open, or refused; then the process lives until a signal. Throws what
 * `compose` throws.
 */
export async function serve(): Promise<void> {
  const configuration = readConfiguration(process.env);
  const log = createLog(configuration.KEYWARD_LOG_LEVEL, RELEASE);
  const ending = new Ending(log);
  const replica = await compose(configuration, log, (why) => ending.begin(why, 1));
  const { store, environment, tokens, feed, server } = replica;
  const { agents } = tokens;
  sayWhoIsFirst(configuration, log);
  feed.start();
  const stopHousekeeping = startHousekeeping(store, (err) =>
    log.warn({ err }, 'housekeeping failed and will be tried again'),
  );
  const health = new HealthListener(log);
  if (configuration.KEYWARD_HEALTH_LISTEN !== undefined)
    await health.listen(configuration.KEYWARD_HEALTH_LISTEN);
  const port = await server.listen();
  log.info(
    { port, environmentId: environment.environmentId, mode: configuration.KEYWARD_MODE },
    'listening',
  );
  const setReady = (ready: boolean) => {
    server.setReady(ready);
    health.setReady(ready);
  };
  const readiness = setInterval(() => setReady(agents.ready && feed.isFresh()), READINESS_MS);
  ending.prepare({
    inOrder: async () => {
      clearInterval(readiness);
      setReady(false);
      await server.drain(configuration.KEYWARD_DRAIN_MS);
      stopHousekeeping();
      await stop(replica, log);
      health.stop();
    },
    limitMs: configuration.KEYWARD_DRAIN_MS + LETTING_GO_MS,
  });
  try {
    await start(replica, configuration, log);
  } catch (error) {
    log.fatal({ err: error }, 'cannot use the HSM token');
    ending.begin('cannot use the HSM token', 1);
  }
}

/** Opens the token, then begins all that a replica does by itself. Throws TokenRefused. */
async function start(replica: Replica, configuration: Configuration, log: Logger): Promise<void> {
  const { tokens, tokenObjects, reconciler, sequencer, witnessRounds, usage } = replica;
  const { findings, ...report } = await tokens.start();
  log.info(report, 'the HSM token is open');
  tokenObjects.start((err) => log.warn({ err }, 'cannot report this replica'));
  reconciler.start(
    configuration.KEYWARD_MAINTENANCE_TICKS,
    configuration.KEYWARD_MAINTENANCE_JITTER_MS,
  );
  sequencer.start();
  witnessRounds.start();
  usage.start(configuration.KEYWARD_USAGE_REPORT_MS, (err) =>
    log.warn({ err }, 'cannot report the use of keys; trying again'),
  );
  // What the operator waived is said at every start, so that it isn't forgotten.
  for (const finding of findings)
    log.warn(finding, 'the token cannot enforce an attribute, which is waived');
}

/** Ends all that {@link start} began, then what it stood on. */
async function stop(replica: Replica, log: Logger): Promise<void> {
  const {
    identity,
    reconciler,
    witnessRounds,
    sequencer,
    tokenObjects,
    usage,
    feed,
    tokens,
    store,
  } = replica;
  identity.stop();
  await reconciler.stop();
  await witnessRounds.stop();
  await sequencer.stop();
  await tokenObjects
    .stop()
    .catch((err: unknown) => log.warn({ err }, 'cannot report that this replica ends'));
  await usage
    .stop()
    .catch((err: unknown) => log.warn({ err }, 'cannot report the last use of keys'));
  await feed.stop();
  await tokens.agents.stop();
  await store.close();
}

/** Said at every start while it stands, so that it isn't forgotten. */
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
