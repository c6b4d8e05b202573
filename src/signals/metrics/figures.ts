/**
 * Figures of several processes as those of one: what the text of metrics is made of where several
 * server processes serve behind one port.
 *
 * - Counters and histograms are summed, with those of processes that have ended, so that a sum
 *   never falls: Prometheus would take that for a start from 0.
 * - Gauges are combined as their row in `table.ts` says, and those that prom-client measures of a
 *   process as prom-client says.
 */

/** How values of several processes become one; `omit` has none. */
export type Aggregator = 'sum' | 'max' | 'min' | 'average' | 'first' | 'omit';

/** One value of a metric, as prom-client has it. */
export interface Value {
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
  readonly metricName?: string | undefined;
  readonly exemplar?: Exemplar | undefined;
}

/** An example of what was counted in a bucket. */
export interface Exemplar {
  readonly labelSet: Readonly<Record<string, string>>;
  readonly value: number;
  readonly timestamp: number;
}

/** One metric of one process, with all its values. */
export interface Figure {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly aggregator: Aggregator;
  readonly values: readonly Value[];
}

/** Returns the figures of all processes as one process would have them. */
export function mergeFigures(processes: readonly (readonly Figure[])[]): readonly Figure[] {
  const byName = Map.groupBy(processes.flat(), ({ name }) => name);
  return [...byName.values()].flatMap((figures) => {
    const [first] = figures;
    if (first === undefined || first.aggregator === 'omit') return [];
    const values = mergeValues(
      figures.flatMap((figure) => figure.values),
      first.aggregator,
    );
    return [{ ...first, values }];
  });
}

/** Returns what is left of the figures of a process that has ended: what only grows. */
export function lastingFigures(figures: readonly Figure[]): readonly Figure[] {
  return figures.filter(({ type }) => type === 'counter' || type === 'histogram');
}

function mergeValues(values: readonly Value[], aggregator: Aggregator): Value[] {
  const bySeries = Map.groupBy(values, ({ labels, metricName }) =>
    JSON.stringify([metricName, ...Object.entries(labels).sort()]),
  );
  return [...bySeries.values()].flatMap((same) => {
    const [first] = same;
    if (first === undefined) return [];
    const exemplar = same.map((each) => each.exemplar).find((each) => each !== undefined);
    return [{ ...first, value: combine(same, aggregator), exemplar }];
  });
}

function combine(values: readonly Value[], aggregator: Aggregator): number {
  const numbers = values.map(({ value }) => value);
  if (aggregator === 'first') return numbers[0] ?? 0;
  if (aggregator === 'max') return Math.max(...numbers);
  if (aggregator === 'min') return Math.min(...numbers);
  const sum = numbers.reduce((a, b) => a + b, 0);
  return aggregator === 'average' ? sum / numbers.length : sum;
}
