/**
 * Composes what delivers alerts.
 */
import { Alerting, type AlertingParts } from '../alerts/alerting.ts';
import { type Configuration, ConfigurationError } from '../config.ts';
import type { EnvironmentRecord } from '../store/environment.ts';
import { REPLICA } from './replica.ts';

/** What a replica has for it. */
interface Ground extends Pick<AlertingParts, 'store' | 'states' | 'alerts' | 'log'> {
  readonly configuration: Configuration;
  readonly environment: EnvironmentRecord;
  readonly tokens: Pick<AlertingParts, 'agents'>;
}

/** Throws {@link ConfigurationError} for a file of receivers that cannot be used. */
export function composeAlerting({
  configuration,
  environment,
  tokens,
  ...parts
}: Ground): Alerting {
  const { systemTenantId, environmentId } = environment;
  const receiversFile = configuration.KEYWARD_ALERTS_FILE;
  const { agents } = tokens;
  try {
    return new Alerting({
      ...parts,
      agents,
      systemTenantId,
      environmentId,
      replica: REPLICA,
      receiversFile,
    });
  } catch (cause) {
    throw new ConfigurationError(`KEYWARD_ALERTS_FILE: ${(cause as Error).message}`, { cause });
  }
}
