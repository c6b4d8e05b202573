/**
 * Liveness and readiness as pages: for probes by HTTP, and for people, with the reasons.
 *
 * - Liveness is that the process answers at all: restarting it brings back neither database nor
 *   HSM.
 * - Of several server processes, one that is ready is enough. The page has the worst of each
 *   condition, and how the others are doing.
 */
import type { ServerReport } from '../../servers/messages.ts';
import type { Readiness } from '../../status/readiness.ts';
import type { Page, PageMaker } from './listener.ts';

/**
 * Returns the pages, by their paths. `others` has the server processes beside this one, where there
 * are several.
 */
export function healthPages(
  readiness: Pick<Readiness, 'conditions'>,
  others?: () => readonly ServerReport[],
): Readonly<Record<string, PageMaker>> {
  return {
    '/livez': () => json(200, { live: true }),
    '/readyz': () => {
      const { conditions } = readiness;
      const isReady = conditions.every(({ problem }) => problem === undefined);
      const beside = others?.() ?? [];
      const ready = isReady || beside.some((other) => other.isReady);
      const named = conditions.map(({ name, problem }) => {
        const [elsewhere] = beside.flatMap(({ problems }) => problems[name] ?? []);
        return [name, problem ?? elsewhere ?? 'ok'];
      });
      const servers = beside.map(({ number: server, pid, ...state }) => ({
        server,
        pid,
        ...state,
      }));
      return json(ready ? 200 : 503, {
        ...{ ready, conditions: Object.fromEntries(named) },
        ...(others !== undefined && { otherServers: servers }),
      });
    },
  };
}

function json(status: number, value: object): Page {
  return { status, type: 'application/json', body: `${JSON.stringify(value, null, 2)}\n` };
}
