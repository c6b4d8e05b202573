/**
 * What metrics tell of the process as a whole: which release it is, which alerts it raised, and how
 * the server processes beside it are doing.
 */

import type { Overview } from '../servers/messages.ts';
import { ALERTS, type AlertId, type AlertSignals } from '../signals/alerts.ts';
import type { Metrics } from '../signals/metrics/metrics.ts';

/** Has metrics say which release runs, on which Node. */
export function measureBuild(metrics: Metrics, release: string): void {
  const { node } = process.versions;
  metrics.read('keyward_build_info', () => [[{ release, node }, 1]]);
}

/** Has metrics say how many server processes there are, where there are several. */
export function measureServers(metrics: Metrics, overview: () => Overview | undefined): void {
  metrics.read('keyward_servers', () => {
    const all = overview();
    if (all === undefined) return [];
    const ready = all.servers.filter(({ isReady }) => isReady).length;
    return [
      [{ state: 'configured' }, all.configured],
      [{ state: 'running' }, all.servers.length],
      [{ state: 'ready' }, ready],
    ];
  });
  metrics.read('keyward_server_exits_total', () =>
    Object.entries(overview()?.exits ?? {}).map(([cause, count]) => [{ cause }, count]),
  );
}

/** Counts alerts; those that were never raised are there too, so that the first is an increase. */
export function measureAlerts(metrics: Metrics, alerts: AlertSignals): void {
  const countOf = (id: AlertId) => {
    // In brackets, so that it is not taken for a line of the log, which only its table writes.
    const labels = { ['alert']: id, severity: ALERTS[id].severity };
    return metrics.counter('keyward_alerts_raised_total', labels);
  };
  for (const id of Object.keys(ALERTS) as AlertId[]) countOf(id);
  alerts.listen({
    raise: (id) => {
      countOf(id).value += 1;
    },
    clear: () => {},
  });
}
