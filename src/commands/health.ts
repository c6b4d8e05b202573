/**
 * Checks whether the server of this container or machine serves, without an identity.
 */
import { ConfigurationError, read } from '../config.ts';
import { askHealth } from '../faces/grpc/health.ts';

/**
 * Prints the health status. Throws Error, with the answer or the cause, unless the server serves.
 */
export async function reportHealth(): Promise<void> {
  const { KEYWARD_HEALTH_LISTEN: address } = read(['KEYWARD_HEALTH_LISTEN'], process.env);
  if (address === undefined)
    throw new ConfigurationError(
      'cannot check health: KEYWARD_HEALTH_LISTEN is not set, so the server has no health listener',
    );
  const status = await askHealth(address);
  if (status !== 'SERVING') throw new Error(status);
  process.stdout.write(`${status}\n`);
}
