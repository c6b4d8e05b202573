/**
 * Liveness and readiness as pages: for probes by HTTP, and for people, with the reasons.
 *
 * Liveness is that the process answers at all: restarting it brings back neither database nor HSM.
 */
import type { Readiness } from '../../status/readiness.ts';
import type { Page, PageMaker } from './listener.ts';

/** Returns the pages, by their paths. */
export function healthPages(
  readiness: Pick<Readiness, 'conditions'>,
): Readonly<Record<string, PageMaker>> {
  return {
    '/livez': () => json(200, { live: true }),
    '/readyz': () => {
      const { conditions } = readiness;
      const ready = conditions.every(({ problem }) => problem === undefined);
      const named = conditions.map(({ name, problem = 'ok' }) => [name, problem]);
      return json(ready ? 200 : 503, { ready, conditions: Object.fromEntries(named) });
    },
  };
}

function json(status: number, value: object): Page {
  return { status, type: 'application/json', body: `${JSON.stringify(value, null, 2)}\n` };
}
